"""What energyest itself costs, and how accurate its epochs are, next to its peers, on one GPU.

The peers are Zeus, CodeCarbon and carbontracker, with their defaults as far as one machine without
a network allows (`benchmarks/overhead/tools.py` lists the settings). A peer that is not installed
is left out. In each part every tool runs in a process of its own, one after another:

- a: share of a core, of a process that sleeps while another one keeps the GPU busy: within one long
  epoch, and with an epoch every 2 s. The same without a tool is subtracted.
- b: time in the training's thread for the end of an epoch and the start of the next; the same
  for `on_train_epoch_end` of `EnergyMonitor` with a logger, and for all of its hooks in an epoch;
  epochs of three steps with and without it.
- c: slowdown of four trainings, from short blocks with and without in turn.
- d: energy of epochs of 0.5, 2 and 8 s against the counter, read by a process of its own.
- f: `on_train_epoch_end` on each of two ranks; it needs two GPUs, or `--gloo` (on the CPU).
- g: the cost of a reader of the GPU's power for the launch-bound training, as a thread and as a
  process.
- h: slowdown of the same four trainings, from their progress around each round of readings.

The cost of the first batch is measured by `benchmarks.endurance.gpu_first_batch`.

Intervals are 90 % bootstrap intervals, over pairs, of the mean of the middle 80 % of the pairs'
log-ratios; in part h, of the mean over rounds. Exits with 1 if a goal is missed or a measurement of
energyest failed, with 2 without a GPU.

    python -m benchmarks.evidence.overhead [--parts a,b] [--minutes M] [--tools energyest,zeus]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.goal import Goal
from benchmarks.common.head import gpu_name, print_head
from benchmarks.overhead.children import ChildError, Children, scratch
from benchmarks.overhead.intervals import paired
from benchmarks.overhead.tools import TOOLS

# Minutes that each part takes on an H200 with all tools.
MINUTES = {"a": 4.5, "b": 5.5, "c": 8.5, "d": 9.3, "f": 1.0, "g": 2.3, "h": 5.5}
EPOCH_S = 0.2
BLOCK_S = 0.25


@dataclass
class Bench:
    """Runs the measurements, prints their tables, and collects the goals.

    Attributes:
        children: runs them in child processes.
        scale: their duration, as a multiple of the usual one.
        tools: names of the tools that are wanted and installed.
        ranks_on_cpu: whether the ranks of part f run on the CPU.
        goals: the goals evaluated so far.
        failed: measurements of energyest that failed.
    """

    children: Children
    scale: float
    tools: list[str]
    ranks_on_cpu: bool
    goals: list[Goal] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def of(self, usual: float, least: int) -> int:
        """A number, or a number of seconds, at this scale."""
        return max(least, round(usual * self.scale))

    def try_(self, label: str, function: Callable[..., Any], /, *arguments: Any, s: float) -> Any:
        """The result of a function in a child, which takes about `s` seconds; None if it fails."""
        try:
            return self.children.run(function, *arguments, timeout_s=2 * s + 120)
        except ChildError as error:
            self._fail(label, error)
            return None

    def _fail(self, label: str, error: Exception) -> None:
        say(f"{label}: failed: {error}")
        if "energyest" in label or "EnergyMonitor" in label:
            self.failed.append(label)

    def goal(self, name: str, value: float, most: float, unit: str) -> None:
        """Collect a goal: the value should be at most `most`."""
        goal = Goal(name, f"{most:g} {unit}", f"{value:.3g} {unit}", value <= most)
        self.goals.append(goal)
        say(str(goal))

    # -------------------------------------------------------------- parts

    def shares(self) -> None:
        from benchmarks.overhead.share import loaded, shares_of_a_core

        say("## a: share of a core, GPU loaded by another process")
        say(f"{'tool':<30}{'one epoch':>12}{'every 2 s':>12}   (% of a core, 'nothing' subtracted)")
        nothing = {"quiet": 0.0, "epochs": 0.0}
        with self.children.beside(loaded):
            for name in ["nothing", *self.tools]:
                # One that reads every 15 s needs two of its rounds.
                quiet_s = self.of(30 if name == "codecarbon" else 16, 3)
                epochs_s = self.of(12, 4)
                label = TOOLS[name].label
                got = self.try_(
                    label, shares_of_a_core, name, quiet_s, epochs_s, s=quiet_s + epochs_s
                )
                if got is None:
                    continue
                if name == "nothing":
                    nothing = got
                    cells = [f"({100 * got[kind]:.3f})" for kind in ("quiet", "epochs")]
                else:
                    percents = {kind: 100 * (got[kind] - nothing[kind]) for kind in got}
                    cells = [
                        f"{percents[kind]:.3f}" if kind in got else "-"
                        for kind in ("quiet", "epochs")
                    ]
                say(f"{label:<30}{cells[0]:>12}{cells[1]:>12}")
                if name == "energyest":
                    self.goal("share of a core", percents["quiet"], 0.3, "%")

    def edges(self) -> None:
        from benchmarks.overhead.share import edge_times, loaded

        say("## b: at an epoch's edge, in the training's thread, GPU loaded by another process")
        say(f"{'tool':<30}{'median':>10}{'p99':>10}{'most':>10}   ms")
        count = self.of(200, 20)
        with self.children.beside(loaded):
            for name in ["nothing", *self.tools]:
                label = TOOLS[name].label
                if not TOOLS[name].has_edges:
                    say(f"{label:<30}{'-':>10}{'-':>10}{'-':>10}   it is not told of epochs")
                    continue
                took_ms = self.try_(label, edge_times, name, count, s=0.15 * count)
                if took_ms is None:
                    continue
                median, p99, most = np.quantile(took_ms, (0.5, 0.99, 1.0))
                say(f"{label:<30}{median:>10.3f}{p99:>10.3f}{most:>10.3f}   {count} edges")
                if name == "energyest":
                    self.goal("edge, median", median, 0.3, "ms")
                    self.goal("edge, p99", p99, 1.0, "ms")
        if "energyest" in self.tools:
            self._hooks()
            self._short_epochs()

    def _hooks(self) -> None:
        from benchmarks.overhead.lightning_hooks import hook_times

        say("\nEnergyMonitor in Lightning, epochs of 0.2 s: on_train_epoch_end, and all hooks")
        epochs = self.of(100, 10)
        medians = []
        for logger, needs in (("csv", ""), ("tensorboard", "tensorboard")):
            if needs and not _is_there(needs):
                say(f"{logger:<30}not installed")
                continue
            got = self.try_(
                f"EnergyMonitor, {logger}", hook_times, logger, epochs, EPOCH_S, s=EPOCH_S * epochs
            )
            if got is not None:
                medians.append(float(np.median(got["end_ms"])))
                say(f"{logger:<30}{_of_hooks(got)}, epochs of {got['epoch_s']:.3f} s")
        if medians:
            self.goal("on_train_epoch_end, median, slower logger", max(medians), 1.0, "ms")

    def _short_epochs(self) -> None:
        from benchmarks.overhead.lightning_hooks import short_epochs

        pairs = self.of(24, 4)
        got = self.try_("EnergyMonitor, three steps", short_epochs, pairs, 24, s=4.0 * pairs)
        if got is None:
            return
        without_ms = 1e3 * float(np.median(got["without"]))
        ratio = paired(got["with"], got["without"])
        say(f"\nepochs of three steps, {without_ms:.1f} ms without EnergyMonitor: {ratio}")
        self.goal("epochs of three steps longer by", ratio.percent, 5.0, "%")

    def slowdowns(self) -> None:
        from benchmarks.overhead.slowdown import tool_in_turn

        say(f"## c: slowdown by a run that goes on, {BLOCK_S:g} s with and without it in turn")
        mlp, *others = ("launch-bound MLP", "ResNet-50", "transformer", "loader-bound CNN")
        cases = [(name, "energyest") for name in (mlp, *others)]
        cases += [(mlp, "zeus"), (mlp, "codecarbon-1s")]
        for training, name in cases:
            if name not in self.tools:
                continue
            label = f"{training}, {TOOLS[name].label}"
            pairs = self.of(200 if name == "energyest" else 60, 5)
            got = self.try_(label, tool_in_turn, training, name, pairs, BLOCK_S, s=pairs)
            if got is None:
                continue
            ratio = paired(got["with"], got["without"])
            step_ms = 1e3 * float(np.median(got["without"]))
            say(f"{label}: {ratio}; a step takes {step_ms:.2f} ms")
            if name == "energyest":
                share = {kind: f"{100 * value:.2f} %" for kind, value in got["share"].items()}
                say(
                    f"    its threads ({', '.join(got['threads'])}) used {share['with']} of a core "
                    f"in blocks with it, {share['without']} in those without"
                )
                self.goal(f"slowdown, upper end, {training}", ratio.upper, 0.5, "%")

    def energies(self) -> None:
        from benchmarks.overhead.epoch_energy import PLAN, epoch_energies

        say("## d: energy of an epoch against the counter: mean error (bias), epochs, in %")
        plan = [(length_s, self.of(count, 2)) for length_s, count in PLAN]
        say(f"{'tool':<30}" + "".join(f"{f'{length_s:g} s':>22}" for length_s, _ in plan))
        most = {0.5: 2.0, 2.0: 0.7, 8.0: 0.3}
        for name in self.tools:
            if name not in ("energyest", "zeus", "codecarbon-task", "carbontracker"):
                continue
            label = TOOLS[name].label
            seconds = 10 + sum(length_s * count for length_s, count in plan)
            got = self.try_(label, epoch_energies, name, plan, s=seconds)
            if got is None:
                continue
            planned_s = np.array(got["planned_s"])
            off = 100 * (np.array(got["said_J"]) / np.array(got["true_J"]) - 1)
            cells, errors = [], {}
            for length_s, _ in plan:
                of_length = off[planned_s == length_s]
                errors[length_s] = float(np.abs(of_length).mean())
                cells.append(f"{errors[length_s]:.2f} ({of_length.mean():+.2f}), {len(of_length)}")
            say(
                f"{label:<30}" + "".join(f"{cell:>22}" for cell in cells) + f"   counter read "
                f"{got['reads_per_s']:.0f} times a second, changed {got['changes_per_s']:.1f} times"
            )
            if name == "energyest":
                for length_s, _ in plan:
                    goal = f"energy of an epoch of {length_s:g} s, mean error"
                    self.goal(goal, errors[length_s], most[length_s], "%")

    def ranks(self) -> None:
        say("## f: EnergyMonitor on two ranks, epochs of 0.2 s")
        if not self.ranks_on_cpu and _gpus() < 2:
            say("left out: it needs two GPUs")
            return
        from benchmarks.overhead.lightning_hooks import rank_times

        epochs = self.of(60, 8)
        port = str(29500 + os.getpid() % 1000)
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0"}
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if self.ranks_on_cpu else {}
        with tempfile.TemporaryDirectory() as folder:
            calls = [
                (
                    (epochs, EPOCH_S, folder),
                    {},
                    {**common, **hidden, "LOCAL_RANK": str(rank)},
                )
                for rank in range(2)
            ]
            try:
                got = self.children.run_together(rank_times, calls, timeout_s=120 + epochs)
            except ChildError as error:
                self._fail("EnergyMonitor on two ranks", error)
                return
        for one in got:
            say(f"rank {one['rank']:<25}{_of_hooks(one)}")
        median = max(float(np.median(one["end_ms"])) for one in got)
        self.goal("on_train_epoch_end, median, slower rank", median, 1.5, "ms")

    def readers(self) -> None:
        from benchmarks.overhead.slowdown import readers_in_turn

        say(f"## g: a reader of power beside the launch-bound training, blocks of {BLOCK_S:g} s")
        rounds = self.of(100, 5)
        got = self.try_("readers of power", readers_in_turn, rounds, BLOCK_S, s=1.5 * rounds)
        if got is None:
            return
        readings = got.pop("readings")
        for name, step_s in got.items():
            if name != "nothing":
                ratio = paired(step_s, got["nothing"])
                say(f"{name:<20}{ratio}; {readings[name] / rounds:.1f} readings in a block")

    def beside_rounds(self) -> None:
        from benchmarks.overhead.rounds import slowdown, steps_and_rounds

        say("## h: slowdown of trainings around each round of readings and writing")
        seconds = self.of(60, 6)
        for training in ("launch-bound MLP", "ResNet-50", "transformer", "loader-bound CNN"):
            got = self.try_(training, steps_and_rounds, training, seconds, s=seconds + 20)
            if got is None:
                continue
            held = slowdown(got)
            say(
                f"{training}: {held['percent']:+.3f} % ({held['lower']:+.3f} to "
                f"{held['upper']:+.3f}): {held['rounds_per_s']:.1f} rounds a second, each of which "
                f"held it up by {held['delay_ms']:.3f} ms; {held['compared']} were compared; a "
                f"step takes {held['step_ms']:.2f} ms"
            )
            goal = f"slowdown by rounds, upper end, {training}"
            self.goal(goal, held["upper"], 0.5, "%")


def _of_hooks(got: dict[str, Any]) -> str:
    end, everything = (np.quantile(got[key], (0.5, 0.99)) for key in ("end_ms", "all_ms"))
    return (
        f"median {end[0]:.2f} ms, p99 {end[1]:.2f}; all hooks {everything[0]:.2f}, "
        f"p99 {everything[1]:.2f}; {len(got['end_ms'])} epochs"
    )


def _is_there(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def say(text: str) -> None:
    print(text, flush=True)


PARTS: dict[str, Callable[[Bench], None]] = {
    "a": Bench.shares,
    "b": Bench.edges,
    "c": Bench.slowdowns,
    "d": Bench.energies,
    "f": Bench.ranks,
    "g": Bench.readers,
    "h": Bench.beside_rounds,
}


def simulate(folder: Path) -> None:
    """Make this process's children find simulated GPUs: to try the script, not to measure."""
    from simulation.fake_nvml import build, environment

    # CodeCarbon assumes an NVIDIA GPU if it can run this.
    command = folder / "nvidia-smi"
    command.write_text("#!/bin/sh\n", encoding="ascii")
    command.chmod(0o755)
    os.environ.update(environment(build(folder)))
    os.environ["PATH"] = os.pathsep.join([str(folder), os.environ.get("PATH", "")])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS), help="letters, as above")
    parser.add_argument("--minutes", type=float, help="of all parts together, about")
    parser.add_argument("--tools", default=",".join(TOOLS), help=f"of {', '.join(TOOLS)}")
    parser.add_argument("--gloo", action="store_true", help="part f with two processes on the CPU")
    parser.add_argument("--raw", type=Path, help="a file for all single figures, as lines of JSON")
    parser.add_argument(
        "--simulated",
        action="store_true",
        help="without a GPU, with a simulated driver: to try the script; the figures mean nothing",
    )
    options = parser.parse_args()
    parts, wanted = options.parts.split(","), options.tools.split(",")
    if set(parts) - set(PARTS) or set(wanted) - set(TOOLS):
        parser.error(f"parts are of {','.join(PARTS)}, tools of {','.join(TOOLS)}")
    if not options.simulated and _gpus() == 0:
        print("overhead: torch sees no NVIDIA GPU; --simulated tries the script", file=sys.stderr)
        return 2
    usual = sum(MINUTES[part] for part in parts)
    with scratch() as folder:
        if options.simulated:
            simulate(Path(folder))
        print_head(
            __file__,
            *("torch", "pytorch-lightning", "zeus", "codecarbon", "carbontracker"),
            device="none, a simulated driver" if options.simulated else gpu_name(),
        )
        tools = [name for name in wanted if name != "nothing" and TOOLS[name].is_installed()]
        for name in set(wanted) - {*tools, "nothing"}:
            say(f"{TOOLS[name].label}: not installed")
        children = Children(Path(folder), options.raw)
        bench = Bench(
            children,
            options.minutes / usual if options.minutes else 1.0,
            tools,
            options.gloo or options.simulated,
        )
        children.probe()
        for part in parts:
            began_s = time.monotonic()
            try:
                PARTS[part](bench)
            except Exception as error:  # the other parts go on
                bench._fail(f"energyest, part {part}", error)
            say(f"(part {part}: {time.monotonic() - began_s:.0f} s)\n")
    for label in bench.failed:
        say(f"FAILED {label}")
    missed = any(not goal.met for goal in bench.goals) and not options.simulated
    return int(missed or bool(bench.failed))


if __name__ == "__main__":
    sys.exit(main())
