"""Fit PRE's packaged model to the sweep and to single convolutions, and write it.

Published throughputs, in the data next to the checkout, determine the parameters that differ
between generations of GPUs: the shares of their peaks that they reach. They affect nothing else in
the model. Exits with 2 if they are missing.

    python -m benchmarks.collect.pre_model
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import energyest
from benchmarks.common.published import as_run, throughputs
from benchmarks.common.sweep_table import convolutions, runs
from energyest.estimators.pre.model import PreModel

TARGET = Path(energyest.__file__).parent / "data" / "pre_model.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=TARGET, help="write it elsewhere")
    out = parser.parse_args().out
    learnt, elsewhere = runs(), [as_run(figure) for figure in throughputs()]
    began_s = time.perf_counter()
    single = convolutions()
    model = PreModel(start=None).fit([*learnt, *single, *elsewhere])
    model.save(out)
    print(
        f"{len(learnt)} trainings of {len({run.model for run in learnt})} architectures on "
        f"{', '.join(model.fitted_.gpus)}, {sum(len(run.operations_s) for run in single)} "
        f"convolutions, and {len(elsewhere)} published throughputs; "
        f"{time.perf_counter() - began_s:.0f} s; {out.stat().st_size / 1e3:.0f} kB"
    )
    print(
        f"hosts: { ({name: round(value, 2) for name, value in model.fitted_.core.hosts.items()}) }"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
