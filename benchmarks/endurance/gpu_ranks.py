"""Check `EnergyMonitor` on real GPUs when trainings fail or run in several processes.

- ranks: DDP with a process on every GPU. On a machine with one GPU, two processes share it (gloo)
  and it must be counted once. Compares the energies of each rank and of all ranks with NVML's
  counters (1 %), and rank 0's live trace with the one on disk; shows how long the monitor's end of
  an epoch takes. `benchmarks.collect.many_gpus` has more about several GPUs.
- fsdp: the same through FSDP, stopped after a checkpoint and resumed from it.
- visible: CUDA_VISIBLE_DEVICES names the GPU by an abbreviated UUID.
- kill: SIGKILL in mid-epoch; the trace on disk against the counter at the kill (1.2 s of power).
- oom: more memory than the GPU has; the training ends with torch's error, the trace loads.
- resume, with `--checkpoint FILE`: the file is written if it does not exist; otherwise a training
  continues from it, on this machine or another, with its epochs and their energy.

Exits with 1 if a check fails, with 2 without a GPU.

    python -m benchmarks.endurance.gpu_ranks [--checkpoint FILE] [--only NAME ...]
"""

from __future__ import annotations

import argparse
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch

import energyest
from benchmarks.common.checks import Checks
from benchmarks.common.gpu_counter import off
from benchmarks.common.head import gpu_name, print_head
from benchmarks.overhead.children import Children, one_gpu, scratch
from benchmarks.ranks.launch import Answer, Machine, run_ranks, start_ranks
from benchmarks.ranks.sections import (
    START_S,
    check_edges,
    check_energies,
    check_lost,
    gpu_J,
    kill_in_epoch,
    results,
)
from benchmarks.ranks.training import train
from energyest import load_trace

EPOCHS = 5
# Of a training of one process: twice as many as on each of two.
STEPS = 60


class Bench:
    """Trains in processes of their own, and judges their traces."""

    def __init__(self, children: Children) -> None:
        self.check, self.children = Checks(), children

    def train(self, folder: Path, *, visible: str | None = None, **options: Any) -> Answer:
        """Train alone on one GPU."""
        environment = one_gpu() if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
        (answer,) = run_ranks(
            self.children,
            train,
            [environment],
            timeout_s=START_S + 60,
            folder=folder,
            **{"epochs": EPOCHS, "steps": STEPS, **options},
        )
        return answer

    def ranks(self, folder: Path) -> None:
        gpus = torch.cuda.device_count()
        is_shared = gpus == 1
        machine = Machine(max(2, gpus), False)
        # Two "nodes" of one process each that share the GPU, or a process for each GPU.
        environments = machine.environments(machine.ranks, 2 if is_shared else 1)
        where: dict[str, Any] = {"devices": machine.ranks, "strategy": "ddp"}
        if is_shared:
            environments = [{**one, **one_gpu()} for one in environments]
            where = {"devices": 1, "nodes": 2, "strategy": "gloo"}
        answers = run_ranks(
            self.children,
            train,
            environments,
            timeout_s=START_S + 60,
            folder=folder,
            epochs=12,
            **where,
        )
        said = results(self.check, f"{where['strategy']} on {gpus} GPU(s)", answers)
        if said:
            check_energies(self.check, folder, said, is_shared=is_shared)
            check_edges(self.check, said, is_judged=False)

    def fsdp(self, folder: Path) -> None:
        answer = self.train(folder, strategy="fsdp", save=True, epochs=3)
        said = results(self.check, "FSDP", [answer])
        if not said:
            return
        check_energies(self.check, folder, said)
        answer = self.train(
            folder,
            strategy="fsdp",
            save=True,
            epochs=4,
            count_flops=True,
            resume=min(folder.glob("*.ckpt")),
        )
        for one in results(self.check, "FSDP, resumed", [answer]):
            self.check(f"epochs {one['epochs']}", one["epochs"] == [0, 1, 2, 3])
            self.check.note(f"FLOPs {one['flops']}, notes {one['notes']}")

    def visible(self, folder: Path) -> None:
        uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
        answer = self.train(folder, visible=uuid[:12], epochs=3)
        for one in results(self.check, f"CUDA_VISIBLE_DEVICES={uuid[:12]}", [answer]):
            trace = load_trace(folder / "energy")
            (gpu,) = [d for d in trace.devices if d["kind"] == "gpu"]
            difference = off(gpu_J(trace), one["counter_J"])
            found = f"measured {gpu['uuid'][:12]}, {difference:+.2f} % off"
            self.check(found, gpu["uuid"] == uuid)

    def kill(self, folder: Path) -> None:
        (child,) = start_ranks(
            self.children, train, [one_gpu()], folder=folder, epochs=50, steps=STEPS
        )
        try:
            now = kill_in_epoch(self.check, child)
        finally:
            child.end()
        if now is not None:
            check_lost(self.check, load_trace(folder / "energy"), **now)

    def oom(self, folder: Path) -> None:
        answer = self.train(folder, oom=True)
        own = "OutOfMemoryError" in answer.error.partition("; it said")[0]
        self.check("out of memory: torch's own error at the end", own)
        trace = load_trace(folder / "energy")
        self.check(f"{len(trace)} epochs, status {trace.meta['status']!r}", len(trace) == 2)

    def resume(self, folder: Path, checkpoint: Path) -> None:
        if not checkpoint.exists():
            answer = self.train(folder, save=True)
            if not results(self.check, "a training to go on from", [answer]):
                return
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            max(folder.glob("*.ckpt")).rename(checkpoint)
            trace = load_trace(folder / "energy")
            self.check.note(f"{trace}: {checkpoint.stat().st_size} bytes written")
            return
        answer = self.train(folder, resume=checkpoint, epochs=EPOCHS + 5)
        said = results(self.check, "resumed", [answer])
        if not said:
            return
        check, trace = self.check, load_trace(folder / "energy")
        check(f"epochs {said[0]['epochs']}", said[0]["epochs"] == list(range(EPOCHS + 5)))
        for part in trace.meta["earlier_parts"]:
            check.note(f"before: {part['gpus']}, {part['rows']} epochs, {part['total_J']:.0f} J")
        check.note(f"now: {[d['name'] for d in trace.devices if d['kind'] == 'gpu']}")
        epochs_J = trace.column("energy_J")
        check.note(f"J: {[round(e) for e in epochs_J]}; in all {trace.total_J:.0f} J")
        check.note(f"{trace.meta.get('planned_changes')}")
        whole = energyest.estimate_step(trace.head(EPOCHS + 4))
        difference = off(whole.energy_J, float(epochs_J.sum()))
        text = f"projected after {EPOCHS + 4} epochs: {whole}; {difference:+.1f} % off"
        check(text, abs(difference) < 5)


CHECKS = {
    "ranks": Bench.ranks,
    "fsdp": Bench.fsdp,
    "visible": Bench.visible,
    "kill": Bench.kill,
    "oom": Bench.oom,
}


def main() -> int:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--only", nargs="+", default=list(CHECKS), choices=[*CHECKS, "resume"])
    options = parser.parse_args()
    if "resume" in options.only and options.checkpoint is None:
        parser.error("resume needs --checkpoint")
    if not torch.cuda.is_available():
        print("gpu_ranks: torch sees no NVIDIA GPU", file=sys.stderr)
        return 2
    print_head(__file__, "torch", "pytorch-lightning", device=gpu_name())
    with scratch() as folder:
        children = Children(
            Path(folder) / "children", preload=("torch", "numpy", "pytorch_lightning")
        )
        children.probe()
        bench = Bench(children)
        for name in options.only:
            try:
                if name in CHECKS:
                    CHECKS[name](bench, Path(folder) / name)
            except Exception as error:  # the other checks go on
                bench.check(f"{name}: {type(error).__name__}: {error}", False)
                traceback.print_exc(file=sys.stdout)
        if options.checkpoint is not None:
            bench.resume(Path(folder) / "resume", options.checkpoint.resolve())
    return int(bench.check.failed)


if __name__ == "__main__":
    sys.exit(main())
