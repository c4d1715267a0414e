"""The slowdown of data-parallel trainings by energyest, in blocks that all ranks share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.checks import Checks
from benchmarks.overhead.children import Children
from benchmarks.overhead.intervals import paired
from benchmarks.ranks.launch import Machine, run_ranks
from benchmarks.ranks.sections import START_S, results

BLOCK_S = 0.25
# Of `benchmarks.overhead.work`: one that the GPU limits, and one that the CPU limits.
KINDS = ("ResNet-50", "launch-bound MLP")
_STATES = ("with", "without")


def rank_blocks(folder: Path, ranks: int, kind: str, pairs: int, block_s: float) -> dict[str, Any]:
    """A training with and without `track` in turn, on one of several ranks."""
    import torch.distributed as dist

    from benchmarks.overhead.slowdown import with_tool
    from benchmarks.overhead.tools import TOOLS
    from benchmarks.overhead.work import TRAININGS
    from benchmarks.ranks.group import join, leave

    (group,) = join([ranks])
    training = TRAININGS[kind](group.wrap)
    got = with_tool(training, TOOLS["energyest"](), folder, pairs, block_s, group.agree)
    got["rank"] = dist.get_rank()
    group.meet()  # rank 0 holds the store by which the others still share their rows
    leave()
    return got


def check_slowdown(
    check: Checks, children: Children, machine: Machine, folder: Path, *, seconds: float
) -> None:
    """Print the slowdown of each training, from the mean of the ranks in each block."""
    for kind in KINDS:
        pairs = max(8, round(seconds / 2 / (2 * BLOCK_S)))
        answers = run_ranks(
            children,
            rank_blocks,
            machine.environments(machine.ranks),
            timeout_s=START_S + 4 * seconds,
            folder=folder / kind,
            ranks=machine.ranks,
            kind=kind,
            pairs=pairs,
            block_s=BLOCK_S,
        )
        here = " (a U-Net in its place)" if machine.is_simulated and kind == "ResNet-50" else ""
        said = results(check, kind + here, answers)
        if not said:
            continue
        step_s = {name: np.mean([one[name] for one in said], axis=0) for name in _STATES}
        share = {
            name: 100 * float(np.mean([one["share"][name] for one in said])) for name in _STATES
        }
        check.note(
            f"slower by {paired(step_s['with'], step_s['without'])}; "
            f"a step takes {1e3 * float(np.median(step_s['without'])):.2f} ms"
        )
        check.note(
            f"its threads used {share['with']:.2f} % of a core on each rank in blocks with it, "
            f"{share['without']:.2f} % in those without"
        )
