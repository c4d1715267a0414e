"""Trainings with a driver and a disk that fail at random, for minutes or hours.

A small Lightning training on the CPU runs again and again with a simulated NVML library, whose four
GPUs change their power all the time. Meanwhile readings fail, calls hang, counters stop, jump and
restart, GPUs are lost, the trace's folder is removed, the disk refuses writes, and trainings are
aborted. Throughout, the script checks that

- losses are bit for bit those of the same training without a monitor,
- the sampler's thread lives while training runs, and no thread, file or memory is left behind,
- the energy of each epoch, and of each run, is right within the accuracy of the readings; or NaN,
  but only while readings of a GPU fail or hang,
- the content on disk at the end equals the content in memory.

The tolerance is not tuned: between two readings of a GPU during which its power changed or a fault
began or ended, and at the edges of an epoch, the uncertainty is their distance × the largest power;
and on a busy machine, readings may return later by as long as the threads wait for a CPU. Exits
with 1 if anything is violated, with 2 without a C compiler.

Open files are checked from the third training on, memory after half an hour: the report says what
a short soak leaves out. The process's memory grows with its allocator and the libraries, too;
`--objects` shows the growth of Python's objects alone.

    python -m benchmarks.endurance.soak --minutes 60 --seed 1
"""

from __future__ import annotations

import argparse
import sys
import tracemalloc
from pathlib import Path

from simulation.fake_nvml import compiler_available
from simulation.soak import soak


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a folder for traces that violate something")
    parser.add_argument("--objects", action="store_true", help="trace the memory of objects")
    arguments = parser.parse_args()
    if not compiler_available():
        print("the simulated NVML needs Linux and a C compiler (cc, gcc, clang)", file=sys.stderr)
        return 2
    if arguments.objects:
        tracemalloc.start()
    return int(bool(soak(arguments.minutes, arguments.seed, arguments.keep).violations))


if __name__ == "__main__":
    sys.exit(main())
