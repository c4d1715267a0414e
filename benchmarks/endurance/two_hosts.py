"""Train on two simulated hosts, and check the traces of their four processes.

A host has a network, host name and disk of its own (Linux namespaces), and is joined to the other
by a virtual cable; `torchrun` starts two processes on each, which train with DDP over gloo. Each
process measures a simulated GPU of constant power; CPU and memory are the machine's, measured once
per host. The training is then repeated twice: once the second host is cut off mid-run, once its
processes are killed.

Needs Linux, and root or the right to make user namespaces; the namespaces end with the script.
Exits with 1 if a check fails, with 2 where namespaces cannot be made.

    python -m benchmarks.endurance.two_hosts
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

import energyest
from energyest import EnergyTrace, load_trace

ROOT = Path(__file__).resolve().parents[2]
WATTS = (100.0, 30.0, 50.0, 20.0)  # of simulation/ranks.py
NAMES, ADDRESSES = ("host-a", "host-b"), ("10.77.0.1", "10.77.0.2")
EPOCHS = 6
# After this time without the others, gloo gives up; and this script, which then assumes a hang.
TIMEOUT_S, LIMIT_S = 15, 200


class Host:
    """A host, which exists as long as a process sleeps in its namespaces."""

    def __init__(self, number: int, folder: Path) -> None:
        self.name, self.disk = NAMES[number], folder / NAMES[number]
        self.disk.mkdir()
        self.sleeper = subprocess.Popen(
            ["unshare", "--net", "--uts", "--mount", "sleep", "infinity"], stderr=subprocess.PIPE
        )
        self.network = self._network(self.sleeper.pid)
        while self.network == self._network(os.getpid()):
            if self.sleeper.poll() is not None:
                raise PermissionError("unshare cannot make namespaces")
            time.sleep(0.01)
            self.network = self._network(self.sleeper.pid)
        time.sleep(0.1)  # its mounts come after its network

    def command(self, *words: str) -> list[str]:
        """The command line that runs a command on this host."""
        return ["nsenter", "-t", str(self.sleeper.pid), "--net", "--uts", "--mount", *words]

    def run(self, *words: str) -> None:
        subprocess.run(self.command(*words), check=True)

    def kill(self) -> None:
        """Kill the processes on this host, but not the host."""
        for path in Path("/proc").iterdir():
            own = path.name.isdigit() and int(path.name) != self.sleeper.pid
            if own and self._network(int(path.name)) == self.network:
                os.kill(int(path.name), signal.SIGKILL)

    def end(self) -> None:
        self.kill()
        self.sleeper.kill()
        self.sleeper.wait()

    @staticmethod
    def _network(pid: int) -> str | None:
        try:
            return os.readlink(f"/proc/{pid}/ns/net")
        except OSError:  # it has ended
            return None


class Hosts:
    """Two hosts with a cable between them; neither sees the other's disk."""

    def __init__(self, folder: Path) -> None:
        self.both: list[Host] = []
        self.disk = folder / "disk"
        self.disk.mkdir()
        self.folder = folder

    def __enter__(self) -> Hosts:
        try:
            self.both = [Host(number, self.folder) for number in (0, 1)]
            first, second = self.both
            other_end = ["peer", "name", "veth0", "netns", str(second.sleeper.pid)]
            first.run("ip", "link", "add", "veth0", "type", "veth", *other_end)
            for host, address in zip(self.both, ADDRESSES, strict=True):
                host.run("hostname", host.name)
                host.run("ip", "link", "set", "lo", "up")
                host.run("ip", "address", "add", f"{address}/24", "dev", "veth0")
                host.run("ip", "link", "set", "veth0", "up")
                host.run("mount", "--bind", str(host.disk), str(self.disk))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.both:
            host.end()

    def start(self, name: str, *options: str) -> list[subprocess.Popen[str]]:
        """Start a training on both hosts, in a folder of this name on their disks."""
        processes = []
        for number, host in enumerate(self.both):
            (host.disk / name).mkdir()
            launch = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "2"]
            meet = ["--node-rank", str(number), "--master-addr", ADDRESSES[0]]
            script = ["--master-port", "29500", "-m", "simulation.ranks", str(self.disk / name)]
            options = (*options, "devices=2", "nodes=2", f"timeout_s={TIMEOUT_S}")
            processes.append(
                subprocess.Popen(
                    host.command(
                        *("env", "-C", str(self.disk / name), f"PYTHONPATH={ROOT}"),
                        *("GLOO_SOCKET_IFNAME=veth0", "OMP_NUM_THREADS=1"),
                        *(sys.executable, *launch, *meet, *script, *options),
                    ),
                    stdout=open(host.disk / f"{name}.log", "w"),  # noqa: SIM115
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        return processes

    def log(self, name: str, number: int) -> str:
        """The output of a host's processes."""
        return (self.both[number].disk / f"{name}.log").read_text()


class Checks:
    """Prints each check, and remembers whether one failed."""

    failed = False

    def __call__(self, what: str, holds: bool, found: object = "") -> None:
        self.failed |= not holds
        print(f"{'ok    ' if holds else 'FAILED'}  {what}{f': {found}' if found != '' else ''}")


def wait(processes: Sequence[subprocess.Popen[str]]) -> float:
    """Wait for processes to end; return the seconds that took, or infinity if one did not end."""
    began_s = time.monotonic()
    for process in processes:
        try:
            process.wait(max(1.0, began_s + LIMIT_S - time.monotonic()))
        except subprocess.TimeoutExpired:
            return float("inf")
    return time.monotonic() - began_s


def own_parts(hosts: Hosts, name: str) -> list[EnergyTrace]:
    """The trace that each rank wrote on its own host's disk."""
    a, b = (host.disk / name / "energy" for host in hosts.both)
    return [load_trace(a, ranks=[0]), *map(load_trace, (a / "rank1", b / "rank2", b / "rank3"))]


def check_parts(check: Checks, parts: Sequence[EnergyTrace]) -> None:
    """Compare each rank's GPU energy with its power, and check which ranks count the machine."""
    errors = [
        float(np.abs(part.column("gpu_energy_J") / (watts * part.column("duration_s")) - 1).max())
        for part, watts in zip(parts, WATTS, strict=True)
    ]
    # Not Python's max, which may ignore a NaN.
    worst = float(np.max(errors))
    check("GPU energy of each rank against the truth, within 0.1 %", worst < 1e-3, f"{worst:.1e}")
    kinds = [sorted(device["kind"] for device in part.devices) for part in parts]
    machine = ["cpu", "gpu", "ram"]
    check("one process of each host counts it", kinds == [machine, ["gpu"]] * 2, kinds)


def seen(log: str) -> dict[str, Any]:
    line = next(line for line in log.splitlines() if "SEEN " in line)
    found: dict[str, Any] = json.loads(line.partition("SEEN ")[2])
    return found


def check_whole_run(hosts: Hosts, check: Checks) -> None:
    print(f"\nA training of {EPOCHS} epochs:\n")
    processes = hosts.start("whole", f"epochs={EPOCHS}")
    took_s = wait(processes)
    check("it ends", [p.returncode for p in processes] == [0, 0], f"{took_s:.0f} s")
    parts = own_parts(hosts, "whole")
    check_parts(check, parts)
    a, b = (host.disk / "whole" / "energy" for host in hosts.both)
    trace = load_trace(a)
    summed_J = sum(part.column("energy_J") for part in parts)
    check("rank 0's folder covers all ranks", trace.meta["missing_ranks"] == [] and len(trace) == 6)
    check("energy of each epoch is the sum", np.allclose(trace.column("energy_J"), summed_J))
    total_J = sum(part.total_J for part in parts)
    check("total is the sum of the four", np.isclose(trace.total_J, total_J), f"{total_J:.2f} J")
    machines = [device["rank"] for device in trace.devices if device["kind"] == "cpu"]
    check("processors are counted by ranks 0 and 2", machines == [0, 2])
    names = [rank["host"] for rank in trace.meta["ranks"]]
    check("hosts", names == ["host-a", "host-a", "host-b", "host-b"], ", ".join(names))
    live = seen(hosts.log("whole", 0))
    check("live total is that on disk", np.isclose(live["total_J"], trace.total_J))
    projected = np.isclose(live["projection_J"], trace.column("energy_J").sum())
    check("live projection, at the end, is of all ranks", projected)
    second = load_trace(b, ranks=[2, 3])
    check(
        "the second host's folder loads by itself",
        np.allclose(second.column("energy_J"), sum(p.column("energy_J") for p in parts[2:]))
        and np.isnan(load_trace(b).column("energy_J")).all(),
    )
    waits_s = np.array(live["wait_s"][:EPOCHS])
    at_once = sum(bool(np.isfinite(shown[-1])) for shown in live["epochs"])
    print(
        f"        rank 0 waits for the others {1e3 * np.median(waits_s):.1f} ms an epoch (median; "
        f"longest {1e3 * waits_s.max():.1f} ms) of {trace.column('duration_s').mean():.2f} s; "
        f"{at_once} of {EPOCHS} epochs were whole when they ended"
    )


def check_broken_run(hosts: Hosts, check: Checks, name: str, what: str) -> None:
    print(f"\n{what}:\n")
    processes = hosts.start(name, "epochs=1000")
    began_s = time.monotonic()
    while "RANK 0 ended epoch 3" not in hosts.log(name, 0) and time.monotonic() - began_s < LIMIT_S:
        time.sleep(0.05)
    if name == "cut":
        hosts.both[1].run("ip", "link", "set", "veth0", "down")
    else:
        hosts.both[1].kill()
    took_s = wait(processes)
    ended = all(process.returncode not in (0, None) for process in processes)
    check("it ends with an error of its own", ended, f"after {took_s:.0f} s")
    check("which is not the monitor's", "energyest:" not in hosts.log(name, 0))
    parts = own_parts(hosts, name)
    check_parts(check, parts)
    rows = [len(part) for part in parts]
    check("each rank's folder loads", min(rows) >= 3, f"epochs {rows}")
    trace = load_trace(hosts.both[0].disk / name / "energy")
    known = np.isfinite(trace.column("energy_J"))
    both = int(known.sum())
    summed_J = sum(part.column("energy_J")[:both] for part in parts)
    check(
        "rank 0's folder holds the sum of epochs that all ended, and NaN after them",
        both >= 3 and known[:both].all() and np.allclose(trace.column("energy_J")[:both], summed_J),
        f"{both} known of {len(trace)}",
    )
    if name == "cut":
        hosts.both[1].run("ip", "link", "set", "veth0", "up")


def main() -> int:
    if os.geteuid() != 0:
        # What cannot be done as a user may be done as the root of a user namespace.
        unshare = ["unshare", "--map-root-user", "--mount"]
        try:
            subprocess.run([*unshare, "true"], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = f"two hosts need root, or the right to make user namespaces: {error}"
            print(reason, file=sys.stderr)
            return 2
        return subprocess.run([*unshare, sys.executable, *sys.argv], check=False).returncode
    print(f"# two_hosts, {datetime.now(timezone.utc):%Y-%m-%d}\n")
    print(
        f"energyest {energyest.__version__}, torch {torch.__version__}, Lightning {pl.__version__},"
        f" Python {platform.python_version()}, Linux {platform.release()}"
    )
    check = Checks()
    with tempfile.TemporaryDirectory() as folder:
        try:
            with Hosts(Path(folder)) as hosts:
                check_whole_run(hosts, check)
                check_broken_run(hosts, check, "cut", "The second host's network goes down")
                check_broken_run(hosts, check, "killed", "The second host's processes are killed")
        except (PermissionError, FileNotFoundError, subprocess.CalledProcessError) as error:
            print(f"cannot make two hosts here: {error}", file=sys.stderr)
            return 2
    return int(check.failed)


if __name__ == "__main__":
    sys.exit(main())
