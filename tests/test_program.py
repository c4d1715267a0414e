"""`energyest run`: real programs under measurement."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from energyest import load_trace
from energyest.tracking.live_projection import projection_of
from simulation.fake_nvml import environment
from tests.support.threads import is_within

RUN = [sys.executable, "-m", "energyest", "run", "--components", "cpu,ram"]
# A program that says when it is ready, and then each signal that it gets.
LISTENER = """
import signal, sys, time
def note(number, frame):
    print("got", signal.Signals(number).name, flush=True)
for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGWINCH", "SIGCONT"):
    signal.signal(getattr(signal, name), note)
signal.signal(signal.SIGUSR2, lambda *_: sys.exit(5))
print("ready", flush=True)
while True:
    time.sleep(0.01)
"""


def run(program: str | Sequence[str], folder: Path, *options: str, **more: object):
    command = [sys.executable, "-c", program] if isinstance(program, str) else list(program)
    arguments = [*RUN, "--folder", str(folder), *options, "--", *command]
    return subprocess.run(arguments, capture_output=True, check=False, **more)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "energy"


# ---------------------------------------------------------------------- what passes through


def test_output_and_input_pass_unchanged(folder: Path) -> None:
    program = """
import os, sys
data = sys.stdin.buffer.read()
sys.stdout.buffer.write(data); sys.stdout.flush()
os.write(2, b"\\xff\\x00err\\r")
print(sys.stdout.isatty(), sys.stderr.isatty(), end="")
"""
    data = bytes(range(256)) * 2000
    done = run(program, folder, "--quiet", input=data)
    assert done.stdout == data + b"False False"
    assert done.stderr == b"\xff\x00err\r"
    assert done.returncode == 0


def test_output_comes_as_it_is_written(folder: Path) -> None:
    program = "import time\nprint('first', end='')\ntime.sleep(60)"
    process = subprocess.Popen(
        [*RUN, "--folder", str(folder), "--", sys.executable, "-c", program],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.read(5) == b"first"
    assert process.poll() is None
    process.terminate()
    process.wait()
    process.stdout.close()


def test_order_is_kept_where_both_streams_go_to_one_place(folder: Path) -> None:
    program = "import os\nfor i in range(300): os.write(1 + i % 2, b'%d ' % i)"
    command = [*RUN, "--folder", str(folder), "--quiet", "--", sys.executable, "-c", program]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True)
    assert [int(n) for n in done.stdout.split()] == list(range(300))


@pytest.mark.parametrize("status", [0, 3, 255])
def test_the_exit_status_is_the_programs(folder: Path, status: int) -> None:
    done = run(f"raise SystemExit({status})", folder)
    assert done.returncode == status
    meta = load_trace(folder).meta
    assert meta["status"] == (f"interrupted by exit status {status}" if status else "finished")


def test_the_end_by_a_signal_is_the_programs(folder: Path) -> None:
    done = run("import os; os.kill(os.getpid(), 9)", folder)
    assert done.returncode == -signal.SIGKILL
    assert load_trace(folder).meta["status"] == "interrupted by SIGKILL"
    assert b" J in " in done.stderr


def test_no_such_program_and_none_that_can_run(folder: Path, tmp_path: Path) -> None:
    done = run(["no-such-program"], folder)
    assert done.returncode == 127
    assert b"no-such-program: No such file" in done.stderr
    text = tmp_path / "text"
    text.write_text("no program")
    done = run([str(text)], folder)
    assert done.returncode == 126
    assert b"Permission denied" in done.stderr
    assert not folder.exists()
    assert subprocess.run(RUN, capture_output=True, check=False).returncode == 2


def test_a_reader_that_leaves_is_met_by_the_program(folder: Path) -> None:
    program = "import sys\nwhile True: print('line')"
    command = [*RUN, "--folder", str(folder), "--quiet", "--", sys.executable, "-c", program]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    process.stdout.read(100)
    process.stdout.close()
    assert process.wait(60) != 0


def test_a_program_may_close_its_output(folder: Path) -> None:
    program = "import os, time\nos.close(1); os.close(2); time.sleep(0.3); os._exit(4)"
    assert run(program, folder, "--quiet").returncode == 4
    assert load_trace(folder).meta["duration_s"] >= 0.3


def test_what_fails_of_measuring_costs_the_program_nothing(tmp_path: Path) -> None:
    done = run("print('trained')", tmp_path / "energy", "--components", "tpu")
    assert done.stdout == b"trained\n"
    assert done.returncode == 0
    assert b"not measured, but the program runs: ConfigurationError" in done.stderr


def test_grandchildren_are_waited_for_as_long_as_they_write(folder: Path) -> None:
    program = """
import subprocess, sys
code = "import time\\nfor i in range(5): time.sleep(0.2); print(i, flush=True)"
subprocess.Popen([sys.executable, "-c", code])
"""
    assert run(program, folder, "--quiet").stdout.split() == [b"0", b"1", b"2", b"3", b"4"]


def test_what_is_left_behind_does_not_keep_us(folder: Path) -> None:
    program = "import subprocess; p = subprocess.Popen(['sleep', '60']); print(p.pid)"
    began_s = time.monotonic()
    done = run(program, folder)
    assert time.monotonic() - began_s < 50
    os.kill(int(done.stdout), signal.SIGKILL)
    assert b"a process that the program left behind" in done.stderr
    assert done.returncode == 0


# ---------------------------------------------------------------------- signals


def child_of(pid: int) -> int:
    (child,) = psutil.Process(pid).children()
    return child.pid


def state(pid: int) -> str:
    """The state of a process in /proc; T if it is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


class Listener:
    """`energyest run` with the listener, and its output."""

    def __init__(self, process: subprocess.Popen[bytes], output: int) -> None:
        self.process = process
        self.output = output
        self.said = b""

    def hears(self, text: bytes, *, times: int = 1, timeout_s: float = 60) -> bool:
        until_s = time.monotonic() + timeout_s
        while self.said.count(text) < times and time.monotonic() < until_s:
            if select.select([self.output], [], [], 0.05)[0]:
                with contextlib.suppress(OSError):
                    self.said += os.read(self.output, 65536)
        return self.said.count(text) >= times


@pytest.fixture
def piped(folder: Path) -> Iterator[Listener]:
    process = subprocess.Popen(
        [*RUN, "--folder", str(folder), "--", sys.executable, "-c", LISTENER],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    yield Listener(process, process.stdout.fileno())
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def test_each_signal_reaches_the_program_once(piped: Listener) -> None:
    assert piped.hears(b"ready")
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1"):
        piped.process.send_signal(getattr(signal, name))
        assert piped.hears(b"got " + name.encode())
    assert not piped.hears(b"never", timeout_s=0.3)
    assert piped.said.count(b"got") == 4
    piped.process.send_signal(signal.SIGUSR2)
    assert piped.process.wait(60) == 5


def test_a_program_that_ignores_sigterm_goes_on_under_measurement(
    piped: Listener, folder: Path
) -> None:
    assert piped.hears(b"ready")
    for number in (1, 2):
        piped.process.send_signal(signal.SIGTERM)
        # The kernel keeps one signal of a kind and, of several, passes the lowest number first.
        assert piped.hears(b"got SIGTERM", times=number)
    assert piped.process.poll() is None
    assert load_trace(folder).meta["status"] == "running"
    piped.process.send_signal(signal.SIGUSR2)
    piped.process.wait(60)
    assert load_trace(folder).meta["status"] == "interrupted by exit status 5"


def test_sigterm_ends_both_and_leaves_a_trace(folder: Path) -> None:
    process = subprocess.Popen(
        [*RUN, "--folder", str(folder), "--", "sh", "-c", "echo ready; exec sleep 60"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM
    assert b"trace in" in said
    assert load_trace(folder).meta["status"] == "interrupted by SIGTERM"


@pytest.fixture
def in_terminal(folder: Path) -> Iterator[Listener]:
    """The same in a terminal of its own, as if a user sat there."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    program = LISTENER.replace(
        'print("ready"',
        "import os; print(sys.stdout.isatty(), os.get_terminal_size(1).columns, sep=',')\n"
        'print("ready"',
    )
    command = [*RUN, "--folder", str(folder), "--", sys.executable, "-c", program]
    process = subprocess.Popen(
        command,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
    )
    os.close(slave)
    yield Listener(process, master)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    os.close(master)


def test_keys_reach_the_program_once(in_terminal: Listener, folder: Path) -> None:
    assert in_terminal.hears(b"ready\r\n")  # whole: the terminal shows a key as ^C where it comes
    assert b"True,80" in in_terminal.said
    os.write(in_terminal.output, b"\x03")
    assert in_terminal.hears(b"got SIGINT")
    assert not in_terminal.hears(b"never", timeout_s=0.3)
    assert in_terminal.said.count(b"got SIGINT") == 1
    assert in_terminal.said.count(b"ready\r\n") == 1  # line ends are made once
    assert in_terminal.process.poll() is None
    in_terminal.process.send_signal(signal.SIGUSR2)
    assert in_terminal.hears(b"trace in")
    assert in_terminal.process.wait(60) == 5


def test_a_window_that_changes(in_terminal: Listener) -> None:
    assert in_terminal.hears(b"ready")
    fcntl.ioctl(in_terminal.output, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    assert in_terminal.hears(b"got SIGWINCH")
    assert not in_terminal.hears(b"never", timeout_s=0.3)
    assert in_terminal.said.count(b"got SIGWINCH") == 1


def test_stopped_and_continued(piped: Listener, folder: Path) -> None:
    assert piped.hears(b"ready")
    child = child_of(piped.process.pid)
    # A session of its own is an orphan to the kernel, which stops none by a key's signal.
    os.kill(child, signal.SIGSTOP)
    assert is_within(lambda: state(child) == "T")
    piped.process.send_signal(signal.SIGCONT)
    assert piped.hears(b"got SIGCONT")
    piped.process.send_signal(signal.SIGCONT)  # it runs: nothing is to be said
    assert not piped.hears(b"never", timeout_s=0.3)
    assert piped.said.count(b"got SIGCONT") == 1


def test_what_is_stopped_costs_nothing(folder: Path) -> None:
    """As by Ctrl-Z in a shell with job control, whose jobs are no orphans."""
    command = [*RUN, "--folder", str(folder), "--", sys.executable, "-c", LISTENER]
    shell = subprocess.Popen(
        ["bash", "-c", f"set -m; {shlex.join(command)} & echo $!; wait $!; sleep 60"],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert shell.stdout is not None
    ours = int(shell.stdout.readline())
    try:
        assert shell.stdout.readline() == b"ready\n"
        child = child_of(ours)
        os.kill(ours, signal.SIGTSTP)
        assert is_within(lambda: state(ours) == state(child) == "T")
        stopped_s = time.monotonic()
        time.sleep(2.0)
        stop_s = time.monotonic() - stopped_s
        os.kill(ours, signal.SIGCONT)
        assert shell.stdout.readline() == b"got SIGCONT\n"
        os.kill(ours, signal.SIGUSR2)
        assert is_within(lambda: load_trace(folder).meta["status"] != "running")
        trace = load_trace(folder)
        assert trace.meta["duration_s"] > 0
        whole_s = trace.meta["interrupted_epoch"]["end_s"]
        assert whole_s - trace.meta["interrupted_epoch"]["duration_s"] >= stop_s
    finally:
        for pid in (ours, shell.pid):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        shell.wait()
        shell.stdout.close()


# ---------------------------------------------------------------------- epochs


def epochs_of(program: str, folder: Path, *options: str) -> list[float]:
    done = run(program, folder, *options)
    assert done.returncode == 0, done.stderr
    return list(load_trace(folder).column("epoch"))


def test_epochs_are_rows(folder: Path) -> None:
    program = """
import time
time.sleep(0.3)
for epoch in range(1, 5):
    print(f"Epoch {epoch}/4")
    time.sleep(0.2)
    print(f"1/1 - loss: {1 / epoch}")
"""
    done = run(program, folder, "--verbose")
    trace = load_trace(folder)
    assert list(trace.column("epoch")) == [0, 1, 2, 3]
    assert (trace.column("duration_s") >= 0.15).all()
    assert trace.column("start_s")[0] >= 0.25  # what came before is no epoch
    assert (trace.column("energy_J") > 0).all()
    assert trace.total_J > trace.column("energy_J").sum()
    assert trace.meta["planned_epochs"] == 4
    assert b"4 epochs; trace in" in done.stderr
    assert done.stderr.count(b"energyest: epoch ") == 4


def test_a_program_broken_off_is_projected(folder: Path) -> None:
    program = """
import time
for epoch in range(1, 100):
    print(f"Epoch {epoch}/100")
    time.sleep(0.2)
    if epoch == 9:
        raise SystemExit(1)
"""
    done = run(program, folder)
    trace = load_trace(folder)
    assert len(trace) == 8
    assert trace.meta["interrupted_epoch"]["epoch"] == 8
    assert trace.meta["planned_epochs"] == 100
    # On a busy machine, epochs may be too uneven; then nothing is said.
    is_stable = projection_of(trace) is not None
    assert (b"to its planned end it would have been" in done.stderr) == is_stable
    assert (b"for 100 epochs" in done.stderr) == is_stable


def test_a_program_that_stops_early_is_not_projected(folder: Path) -> None:
    program = "import time\nfor e in range(1, 6): print(f'Epoch {e}/100'); time.sleep(0.05)"
    assert b"planned end" not in run(program, folder).stderr
    assert load_trace(folder).meta["planned_epochs"] == 5


def test_without_an_epoch_there_is_one_row(folder: Path) -> None:
    done = run("import time; time.sleep(0.3); print('trained')", folder)
    trace = load_trace(folder)
    assert len(trace) == 1
    assert trace.column("duration_s")[0] >= 0.3
    assert b"no epoch recognised" in done.stderr
    assert "epochs: none was recognised" in " ".join(trace.meta["notes"])


def test_a_pattern_of_ones_own(folder: Path) -> None:
    # The line ends its epoch: the program ends once its last one is on disk, or fails.
    program = f"""
import pathlib, time
for epoch in range(3):
    time.sleep(0.1)
    print(f"done with round {{epoch}} of 3", flush=True)
rows, until_s = pathlib.Path({str(folder / "epochs.jsonl")!r}), time.monotonic() + 60
while rows.read_text().count("\\n") < 3:
    assert time.monotonic() < until_s
    time.sleep(0.01)
"""
    pattern = r"round (?P<epoch>\d+) of (?P<epochs>\d+)"
    assert epochs_of(program, folder, "--epoch-pattern", pattern) == [0, 1, 2]
    for wrong in ("(", "no group"):
        done = run("print('runs')", folder, "--epoch-pattern", wrong)
        assert done.returncode == 2
        assert b"epoch pattern" in done.stderr
        assert not done.stdout


# ---------------------------------------------------------------------- several copies


@pytest.mark.parametrize("name", ["SLURM_LOCALID", "LOCAL_RANK"])
def test_only_the_first_copy_on_a_machine_measures(folder: Path, name: str) -> None:
    program = "import os; print(os.getpid()); raise SystemExit(3)"
    for rank, measures in (("1", False), ("0", True)):
        done = run(program, folder, env={**os.environ, name: rank})
        assert done.returncode == 3
        assert done.stdout.strip().isdigit()
        assert folder.exists() is measures
        assert bool(done.stderr) is measures


def test_the_gpus_are_those_that_the_program_sees(folder: Path, nvml_library: Path) -> None:
    env = {**environment(nvml_library), "CUDA_VISIBLE_DEVICES": "1"}
    done = run("import time; time.sleep(0.5)", folder, "--components", "gpu", env=env)
    assert done.returncode == 0
    trace = load_trace(folder)
    assert [device["device"] for device in trace.devices] == ["gpu:1"]
    assert trace.total_J > 0
