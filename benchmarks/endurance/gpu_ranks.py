"""Check `EnergyMonitor` on real GPUs when trainings fail or run in several processes.

- ranks: DDP with a process on every GPU. On a machine with one GPU, two processes share it (gloo)
  and it must be counted once. Compares the energies of each rank and of all ranks with NVML's
  counters (1 %), and rank 0's live trace with the one on disk; shows how long its epochs wait for
  other ranks.
- fsdp: the same through FSDP, stopped after a checkpoint and resumed from it.
- visible: CUDA_VISIBLE_DEVICES names the GPU by an abbreviated UUID.
- kill: SIGKILL in mid-epoch; the trace on disk against the counter at the kill (1 s of power).
- oom: more memory than the GPU has; the training ends with torch's error, the trace loads.
- resume, with `--checkpoint FILE`: the file is written if it does not exist; otherwise a training
  continues from it, on this machine or another, with its epochs and their energy.

Exits with 1 if a check fails, with 2 without a GPU.

    python -m benchmarks.endurance.gpu_ranks [--checkpoint FILE] [--only NAME ...]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import pynvml
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import energyest
from benchmarks.common.head import gpu_name, print_head
from energyest import EnergyMonitor, load_trace

EPOCHS, BATCH, SIDE = 5, 64, 96
SAMPLES = 60 * BATCH


class Net(pl.LightningModule):
    """A few convolutions and, on demand, an allocation that is too large."""

    def __init__(self, oom: bool = False) -> None:
        super().__init__()
        self.oom = oom
        layers: list[nn.Module] = []
        for i, o in ((3, 64), (64, 128), (128, 256), (256, 256)):
            layers += [nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU()]
        self.network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(256, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.network(inputs))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        if self.oom and self.current_epoch == 2:
            torch.empty(2**40, device=self.device)
        return cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # Momentum, since Lightning cannot load an FSDP optimizer that has no state.
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


def counter_J() -> float:
    """NVML's counter of this process's GPU."""
    uuid = torch.cuda.get_device_properties(torch.cuda.current_device()).uuid
    handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    torch.cuda.synchronize()
    return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3


class Start(pl.Callback):
    """Placed after the monitor: reads the counter once the monitor has started."""

    def __init__(self) -> None:
        self.start_J = 0.0

    def on_fit_start(self, *_: Any) -> None:
        self.start_J = counter_J()
        say(start_J=self.start_J)


class End(pl.Callback):
    """Placed before the monitor: reads the counter when the monitor is about to stop."""

    def __init__(self) -> None:
        self.end_J = 0.0

    def on_fit_end(self, *_: Any) -> None:
        self.end_J = counter_J()


class Waits(pl.Callback):
    """Placed before and after the monitor: times its hook at the end of an epoch."""

    def __init__(self) -> None:
        self.began_s = 0.0
        self.took_s: list[float] = []

    def before(self) -> pl.Callback:
        outer = self

        class Before(pl.Callback):
            def on_train_epoch_end(self, *_: Any) -> None:
                outer.began_s = time.perf_counter()

        return Before()

    def on_train_epoch_end(self, *_: Any) -> None:
        self.took_s.append(time.perf_counter() - self.began_s)


def say(**facts: Any) -> None:
    """Print a line for the process that started this one."""
    print("FACTS " + json.dumps(facts), flush=True)


# ---------------------------------------------------------------------- a training


def worker(options: argparse.Namespace) -> None:
    pynvml.nvmlInit()
    torch.manual_seed(0)
    # Only the GPU: two "nodes" on one machine would both count its processors. FLOPs are not
    # counted, because the trace leaves out that pause and NVML's counter does not.
    monitor = EnergyMonitor(components=("gpu",), count_flops=options.count_flops)
    start, end, waits = Start(), End(), Waits()
    callbacks: list[Any] = [end, waits.before(), monitor, start, waits]
    if options.save:
        callbacks.append(pl.callbacks.ModelCheckpoint(options.folder, save_top_k=-1))
    strategy: Any = options.strategy
    if strategy == "gloo":
        strategy = pl.strategies.DDPStrategy(process_group_backend="gloo")
    trainer = pl.Trainer(
        max_epochs=options.epochs,
        accelerator="gpu",
        devices=options.devices,
        num_nodes=options.nodes,
        strategy=strategy,
        callbacks=callbacks,
        logger=False,
        default_root_dir=options.folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=options.save,
    )
    data = TensorDataset(torch.randn(SAMPLES, 3, SIDE, SIDE), torch.randint(10, (SAMPLES,)))
    loader = DataLoader(data, BATCH, num_workers=2, multiprocessing_context="fork")
    trainer.fit(Net(options.oom), loader, ckpt_path=options.resume)
    trace = monitor.trace
    say(
        rank=trainer.global_rank,
        counter_J=end.end_J - start.start_J,
        live_J=monitor.total_J,
        gpu_epochs_J=list(trace.column("gpu_energy_J")),
        epochs=list(trace.column("epoch")),
        epoch_s=list(trace.column("duration_s")),
        wait_ms=[1000 * s for s in waits.took_s],
        flops=list(trace.column("flops")),
        notes=[trace.meta.get("flops_note"), trace.meta.get("workload_note")],
    )


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.endurance.gpu_ranks", "--worker", *arguments]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def facts(process: subprocess.Popen[str], timeout_s: float = 150) -> tuple[list[Any], str, int]:
    """The facts printed by a process, its standard error, and its exit status."""
    out, errors = process.communicate(timeout=timeout_s)
    said = [json.loads(ln[6:]) for ln in out.splitlines() if ln.startswith("FACTS ")]
    return said, errors, process.returncode


# ---------------------------------------------------------------------- the checks


class Checks:
    """Prints figures and remembers those that fail."""

    def __init__(self) -> None:
        self.failed = False

    def __call__(self, text: str, holds: bool) -> None:
        self.failed |= not holds
        print(f"{'ok    ' if holds else 'FAILED'} {text}", flush=True)


def gpu_J(folder: Path, ranks: list[int] | None = None) -> float:
    trace = load_trace(folder, ranks=ranks)
    return float(trace.meta["components"]["gpu_energy_J"])


def off(value: float, truth: float) -> float:
    return 100 * (value / truth - 1)


def check_ranks(check: Checks, folder: Path) -> None:
    gpus = torch.cuda.device_count()
    shared = gpus == 1
    ranks = 2 if shared else gpus
    port = str(29500 + os.getpid() % 1000)
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    # Two "nodes" of one process each that share the GPU, or a process for each GPU.
    where = ["--devices=1", "--nodes=2", "--strategy=gloo"]
    if not shared:
        where = [f"--devices={gpus}", "--nodes=1", "--strategy=ddp"]
    processes = [
        start(
            f"--folder={folder}",
            *where,
            NODE_RANK=str(rank if shared else 0),
            LOCAL_RANK=str(0 if shared else rank),
            **common,
        )
        for rank in range(ranks)
    ]
    results = [facts(process) for process in processes]
    for rank, (_, errors, status) in enumerate(results):
        check(f"rank {rank} ends with {status}", status == 0)
        if status:
            print(errors[-3000:])
    said = {s["rank"]: s for facts_, _, _ in results for s in facts_ if "rank" in s}
    if len(said) < ranks:
        return
    for rank, one in said.items():
        mine = gpu_J(folder / "energy", [rank])
        difference = off(mine, one["counter_J"])
        check(f"rank {rank}: {mine:.0f} J, counter {difference:+.2f} % off", abs(difference) < 1)
    counted = [said[0]["counter_J"]] if shared else [one["counter_J"] for one in said.values()]
    whole = load_trace(folder / "energy")
    total = gpu_J(folder / "energy")
    check(
        f"all {ranks} ranks on {gpus} GPU(s): {total:.0f} J, {off(total, sum(counted)):+.2f} % off",
        abs(off(total, sum(counted))) < 1,
    )
    live, disk = said[0]["live_J"], whole.total_J
    check(f"rank 0's live total {live:.1f} J, on disk {disk:.1f} J", abs(off(live, disk)) < 0.01)
    check("every epoch is known", bool((whole.column("energy_J") > 0).all()))
    print(
        f"       epochs of {[round(s, 2) for s in said[0]['epoch_s']]} s; the monitor's end of an"
    )
    print(f"       epoch took rank 0 {[round(ms, 1) for ms in said[0]['wait_ms']]} ms")
    print(f"       and rank 1 {[round(ms, 1) for ms in said[1]['wait_ms']]} ms")


def check_fsdp(check: Checks, folder: Path) -> None:
    common = [f"--folder={folder}", "--strategy=fsdp", "--save"]
    said, errors, status = facts(start(*common, "--epochs=3"))
    check(f"FSDP ends with {status}", status == 0)
    if status:
        print(errors[-3000:])
        return
    difference = off(gpu_J(folder / "energy"), said[-1]["counter_J"])
    check(f"FSDP: energy {difference:+.2f} % off the counter", abs(difference) < 1)
    checkpoint = sorted(folder.glob("*.ckpt"))[0]
    arguments = [*common, "--epochs=4", "--count-flops", f"--resume={checkpoint}"]
    said, errors, status = facts(start(*arguments))
    check(f"FSDP, resumed, ends with {status}", status == 0)
    if status:
        print(errors[-3000:])
        return
    check(f"epochs {said[-1]['epochs']}", said[-1]["epochs"] == [0, 1, 2, 3])
    print(f"       FLOPs {said[-1]['flops']}, notes {said[-1]['notes']}")


def check_visible(check: Checks, folder: Path) -> None:
    uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
    said, errors, status = facts(
        start(f"--folder={folder}", "--epochs=3", CUDA_VISIBLE_DEVICES=uuid[:12])
    )
    check(f"CUDA_VISIBLE_DEVICES={uuid[:12]} ends with {status}", status == 0)
    if status:
        print(errors[-3000:])
        return
    (gpu,) = [d for d in load_trace(folder / "energy").devices if d["kind"] == "gpu"]
    difference = off(gpu_J(folder / "energy"), said[-1]["counter_J"])
    check(f"measured {gpu['uuid'][:12]}, {difference:+.2f} % off", gpu["uuid"] == uuid)


def check_kill(check: Checks, folder: Path) -> None:
    process = start(f"--folder={folder}", "--epochs=50")
    assert process.stdout is not None
    begun = None
    for line in process.stdout:
        if line.startswith("FACTS "):
            begun = json.loads(line[6:])["start_J"]
            break
    check("the training to be killed has begun", begun is not None)
    time.sleep(12.5)
    pynvml.nvmlInit()
    uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
    handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    now_J = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
    power_W = pynvml.nvmlDeviceGetPowerUsage(handle) / 1e3
    process.send_signal(signal.SIGKILL)
    process.wait()
    trace = load_trace(folder / "energy")
    measured = float(trace.meta["components"]["gpu_energy_J"])
    lost_s = (now_J - begun - measured) / power_W
    check(
        f"killed with {len(trace)} epochs: {measured:.0f} J of the GPU on disk, "
        f"{lost_s:.2f} s of its power lost",
        -0.2 < lost_s < 1.2,
    )
    cut = trace.meta.get("interrupted_epoch", {}).get("gpu_energy_J", 0.0)
    rows = float(trace.column("gpu_energy_J").sum()) + cut
    check(f"in epochs, ended and under way: {rows:.0f} J", rows <= measured + 1)


def check_oom(check: Checks, folder: Path) -> None:
    _, errors, status = facts(start(f"--folder={folder}", "--oom"))
    own = "OutOfMemoryError" in errors.splitlines()[-1] if errors.splitlines() else False
    check(f"out of memory: exit status {status}, torch's own error at the end", status == 1 and own)
    trace = load_trace(folder / "energy")
    check(f"{len(trace)} epochs, status {trace.meta['status']!r}", len(trace) == 2)


def check_resume(check: Checks, folder: Path, checkpoint: Path) -> None:
    if not checkpoint.exists():
        _, errors, status = facts(start(f"--folder={folder}", "--save"))
        check(f"a training to go on from ends with {status}", status == 0)
        if status:
            print(errors[-3000:])
            return
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        sorted(folder.glob("*.ckpt"))[-1].rename(checkpoint)
        print(f"       {load_trace(folder / 'energy')}: {checkpoint.stat().st_size} bytes written")
        return
    arguments = [f"--folder={folder}", f"--resume={checkpoint}", f"--epochs={EPOCHS + 5}"]
    said, errors, status = facts(start(*arguments))
    check(f"resumed, it ends with {status}", status == 0)
    if status:
        print(errors[-3000:])
        return
    trace = load_trace(folder / "energy")
    check(f"epochs {said[-1]['epochs']}", said[-1]["epochs"] == list(range(EPOCHS + 5)))
    for part in trace.meta["earlier_parts"]:
        print(f"       before: {part['gpus']}, {part['rows']} epochs, {part['total_J']:.0f} J")
    print(f"       now: {[d['name'] for d in trace.devices if d['kind'] == 'gpu']}")
    print(f"       J: {[round(e) for e in trace.column('energy_J')]}; in all {trace.total_J:.0f} J")
    print(f"       {trace.meta.get('planned_changes')}")
    whole = energyest.estimate_step(trace.head(EPOCHS + 4))
    truth = float(trace.column("energy_J").sum())
    check(
        f"projected after {EPOCHS + 4} epochs: {whole}; {off(whole.energy_J, truth):+.1f} % off",
        abs(off(whole.energy_J, truth)) < 5,
    )


CHECKS = {
    "ranks": check_ranks,
    "fsdp": check_fsdp,
    "visible": check_visible,
    "kill": check_kill,
    "oom": check_oom,
}


def main() -> int:
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--only", nargs="+", default=list(CHECKS), choices=[*CHECKS, "resume"])
    parser.add_argument("--worker", action="store_true")
    parser.add_argument("--folder")
    parser.add_argument("--strategy", default="auto")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--oom", action="store_true")
    parser.add_argument("--count-flops", action="store_true")
    parser.add_argument("--resume")
    options = parser.parse_args()
    if options.worker:
        worker(options)
        return 0
    if "resume" in options.only and options.checkpoint is None:
        parser.error("resume needs --checkpoint")
    if not torch.cuda.is_available():
        print("gpu_ranks: torch sees no NVIDIA GPU", file=sys.stderr)
        return 2
    print_head(__file__, "torch", "pytorch-lightning", device=gpu_name())
    check = Checks()
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only:
            if name in CHECKS:
                CHECKS[name](check, Path(folder) / name)
        if options.checkpoint is not None:
            check_resume(check, Path(folder) / "resume", options.checkpoint)
    return int(check.failed)


if __name__ == "__main__":
    sys.exit(main())
