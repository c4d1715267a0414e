"""Trainings on all GPUs of a machine: energies, edges, failures, and PRE's scaling.

- ranks: DDP and FSDP, over all GPUs and over two groups of them as two nodes. Energies of each rank
  and of all against NVML's counters (1 %), the live total against the trace on disk, and the time
  of `on_train_epoch_end` on each rank (median 1.5 ms).
- slowdown: DDP of a ResNet-50 and of a launch-bound MLP, in short blocks with and without the
  sampling in turn, the same blocks on all ranks. Nothing is judged.
- kill: SIGKILL of the last rank in mid-epoch. The energy of its GPU on disk against the counter
  (1.2 s of its power), the traces of the others, and the whole.
- resume: a training on all GPUs, continued from a checkpoint on half of them.
- scaling: a ResNet-50, a launch-bound MLP and a GPT of 355 million parameters on 1, 2, 4 and 8
  GPUs: time and energy of a step by NVML's counters, beside `estimate_pre(devices=...)` (mean error
  of the energy on several GPUs: 15 %).

With `--gloo RANKS`, everything runs on the CPU with tiny models, and each rank has a simulated GPU
of constant power. This checks the records and shows times; PRE is not judged there, nor is the time
of an edge if there are more ranks than cores.

Exits with 1 if a check or goal fails, with 2 without two GPUs.

    python -m benchmarks.collect.many_gpus [--parts ranks,kill] [--minutes M] [--gloo RANKS]
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common.checks import Checks
from benchmarks.common.head import gpu_name, print_head
from benchmarks.overhead.children import Children, scratch
from benchmarks.ranks.blocks import KINDS, check_slowdown
from benchmarks.ranks.launch import Machine
from benchmarks.ranks.scaling import COUNTS, MODELS, check_scaling
from benchmarks.ranks.sections import check_kill, check_resume, check_training

# Seconds that a group of processes takes to start and to end, and those that a model takes to be
# built and to warm up.
GROUP_S, MODEL_S = 14.0, 6.0
# Seconds until the first process has found that CUDA works.
FIRST_S = 15.0
# Seconds of each training, and of all blocks, as they are without `--minutes`.
TRAINING_S, BLOCKS_S, WINDOW_S = 10.0, 40.0, 16.0
# The GPU that PRE is asked for where there is none.
GPU = "H200"


@dataclass
class Bench:
    """What the parts share.

    Attributes:
        check: prints and remembers.
        children: starts processes.
        machine: the GPUs.
        folder: folder for all traces.
        gpu: the GPU's name, for PRE.
        scale: the time of what is measured, as a multiple of the usual one.
    """

    check: Checks
    children: Children
    machine: Machine
    folder: Path
    gpu: str
    scale: float

    def ranks(self) -> None:
        for strategy in ("ddp", "fsdp"):
            for nodes in (1, 2):
                check_training(
                    self.check,
                    self.children,
                    self.machine,
                    self.folder / f"{strategy}-{nodes}",
                    strategy=strategy,
                    nodes=nodes,
                    seconds=TRAINING_S * self.scale,
                )

    def slowdown(self) -> None:
        folder = self.folder / "slowdown"
        seconds = BLOCKS_S * self.scale
        check_slowdown(self.check, self.children, self.machine, folder, seconds=seconds)

    def kill(self) -> None:
        check_kill(self.check, self.children, self.machine, self.folder / "kill")

    def resume(self) -> None:
        check_resume(self.check, self.children, self.machine, self.folder / "resume")

    def scaling(self) -> None:
        window_s = WINDOW_S * self.scale
        check_scaling(self.check, self.children, self.machine, self.gpu, window_s=window_s)


PARTS: dict[str, Callable[[Bench], None]] = {
    "ranks": Bench.ranks,
    "slowdown": Bench.slowdown,
    "kill": Bench.kill,
    "resume": Bench.resume,
    "scaling": Bench.scaling,
}


def scale_of(minutes: float | None, parts: list[str], gpus: int) -> float:
    """How much longer or shorter than usual to measure, so that all takes about this time."""
    if minutes is None:
        return 1.0
    trainings = len(MODELS) * sum(count <= gpus for count in COUNTS)
    fixed_s = {
        "ranks": 4 * GROUP_S,
        "slowdown": len(KINDS) * (GROUP_S + MODEL_S),
        "kill": GROUP_S + 15,
        "resume": 2 * GROUP_S + 12,
        "scaling": GROUP_S + trainings * MODEL_S,
    }
    scaled_s = {
        "ranks": 4 * TRAINING_S,
        "slowdown": BLOCKS_S,
        "scaling": trainings * WINDOW_S,
    }
    left_s = 60 * minutes - FIRST_S - sum(fixed_s[part] for part in parts)
    return max(0.1, left_s / max(1.0, sum(scaled_s.get(part, 0.0) for part in parts)))


def main() -> int:
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--minutes", type=float, help="of all parts together, about")
    parser.add_argument("--gloo", type=int, metavar="RANKS", help="ranks on the CPU, without GPUs")
    parser.add_argument("--raw", type=Path, help="a file for all single figures, as lines of JSON")
    options = parser.parse_args()
    parts = options.parts.split(",")
    if set(parts) - set(PARTS):
        parser.error(f"parts are of {', '.join(PARTS)}")
    if options.gloo is not None and options.gloo < 2:
        parser.error("--gloo needs two ranks or more")
    import torch

    gpus = 0 if options.gloo else torch.cuda.device_count()
    if not options.gloo and gpus < 2:
        seen = "one NVIDIA GPU" if gpus else "no NVIDIA GPU"
        print(
            f"many_gpus: torch sees {seen}, and at least two are needed; --gloo 8 runs on the CPU",
            file=sys.stderr,
        )
        return 2
    packages = ("torch", "pytorch-lightning", "torchvision", "transformers")
    print_head(__file__, *packages, device=None if options.gloo else gpu_name())
    machine = Machine(options.gloo or gpus, bool(options.gloo))
    check = Checks()
    began_s = time.monotonic()
    with scratch() as folder:
        # Lightning is imported once for all processes; importing it touches no GPU.
        preload = ("torch", "numpy", "pytorch_lightning")
        children = Children(Path(folder) / "children", options.raw, preload)
        if not machine.is_simulated:
            children.probe()
        bench = Bench(
            check,
            children,
            machine,
            Path(folder),
            GPU if machine.is_simulated else torch.cuda.get_device_name(),
            scale_of(options.minutes, parts, machine.ranks),
        )
        for part in parts:
            print(f"## {part}", flush=True)
            part_s = time.monotonic()
            try:
                PARTS[part](bench)
            except Exception as error:  # the other parts go on
                check(f"{part}: {type(error).__name__}: {error}", False)
                traceback.print_exc(file=sys.stdout)
            print(f"({part}: {time.monotonic() - part_s:.0f} s)\n", flush=True)
    print(f"in all {time.monotonic() - began_s:.0f} s: {'FAILED' if check.failed else 'all hold'}")
    return int(check.failed)


if __name__ == "__main__":
    sys.exit(main())
