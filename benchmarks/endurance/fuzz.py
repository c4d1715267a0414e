"""Malicious files for every loader in the package: is each accepted or refused properly?

Half of the inputs are made by hypothesis; the others are real files that were damaged: truncated,
bits flipped, lines swapped, fields deleted, repeated or replaced by extreme values. Accepted inputs
are then used: projected, compared, printed, queried. Each loader runs in a process of its own,
whose peak memory is printed, including imports.

Exits with 1 at the first error that is not one of the package's own; the message names the folder
in which the input was saved.

    python -m benchmarks.endurance.fuzz --inputs 10000
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timezone

import hypothesis
import numpy as np
import pandas as pd

import energyest
from simulation.fuzzing import ForeignError, Outcome, fuzz
from simulation.hostile_files import loaders


def run(name: str, inputs: int, chance: int) -> tuple[Outcome | str, float]:
    """Fuzz a loader; return its outcome, or what is wrong, and the peak memory in MB."""
    loader = next(loader for loader in loaders() if loader.name == name)
    try:
        outcome: Outcome | str = fuzz(loader, inputs, chance=chance)
    except ForeignError as error:
        outcome = str(error)
    return outcome, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000, help="of each loader")
    parser.add_argument("--only", default="", help="loaders whose names hold this text")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="loaders at a time")
    options = parser.parse_args()
    print(
        f"{datetime.now(timezone.utc):%Y-%m-%d}, energyest {energyest.__version__}, Python "
        f"{platform.python_version()}, numpy {np.__version__}, pandas {pd.__version__}, hypothesis "
        f"{hypothesis.__version__}, {os.cpu_count()} CPUs, seed {options.seed}\n"
    )
    print("| loader | inputs | accepted | refused | slowest, ms of CPU | peak memory, MB |")
    print("|---|---|---|---|---|---|", flush=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, context, max_tasks_per_child=1) as pool:
        names = [loader.name for loader in loaders() if options.only in loader.name]
        arguments = ([options.inputs] * len(names), [options.seed] * len(names))
        outcomes = pool.map(run, names, *arguments)
        for name, (outcome, memory_MB) in zip(names, outcomes, strict=True):
            if isinstance(outcome, str):
                print(f"{name}: {outcome}", file=sys.stderr)
                pool.shutdown(cancel_futures=True)
                return 1
            refused = ", ".join(f"{number} {kind}" for kind, number in outcome.refused.items())
            print(
                f"| {name} | {outcome.inputs} | {outcome.accepted} | {refused} | "
                f"{1e3 * outcome.slowest_s:.0f} | {memory_MB:.0f} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
