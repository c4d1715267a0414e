"""How often the tests of the trade-off analysis err, on synthetic tables with known truth.

- False positives at the 5 % level without an effect: `compare_groups`, and the interaction term of
  `interaction`, with the results of the plain two-way ANOVA and the aligned rank transform on the
  same tables.
- How often 90 % intervals hold: `savings`, and the crossing found by `match_gpu`.

Needs no data. Exits with 2 without scikit-posthocs.

    python -m benchmarks.evidence.tradeoff_errors [--tables 200]
"""

from __future__ import annotations

import argparse
import sys
import warnings
from importlib.util import find_spec

import numpy as np
import pandas as pd

from benchmarks.common.head import print_head
from energyest.tradeoff import compare_groups, interaction, match_gpu, savings
from energyest.tradeoff.anova import aligned_rank_anova, two_way_anova

COUNTS = (5, 15)
# Standard deviations of the logarithm for six pairs of model and GPU.
SPREADS = {
    "alike": [0.1] * 6,
    "1, 2 and 6 by model": [0.1, 0.1, 0.2, 0.2, 0.6, 0.6],
    "one pair eightfold": [0.1] * 5 + [0.8],
}
SHAPES = {
    "normal": lambda chance, size: chance.normal(0, 1, size),
    "skewed": lambda chance, size: chance.exponential(1, size) - 1,
}


def interactions(tables: int) -> None:
    print("False alarms of the interaction in %, main effects are there, 3 models on 2 GPUs\n")
    print(f"{'logarithms':<36}{'runs':>5}{'as built':>10}{'plain':>8}{'aligned ranks':>15}")
    cells = [(f"m{i}", f"g{j}") for i in range(3) for j in range(2)]
    for shape, draw in SHAPES.items():
        for spread, deviations in SPREADS.items():
            for count in COUNTS:
                chance = np.random.default_rng(count)
                model, gpu = (np.repeat([c[k] for c in cells], count) for k in (0, 1))
                deviation = np.repeat(deviations, count)
                wrong = np.zeros(3)
                for _ in range(tables):
                    log = deviation * draw(chance, len(model))
                    log += (model == "m2") + 0.5 * (gpu == "g1")
                    log *= 0.5  # so that repetitions stay within a thirtyfold gap
                    table = pd.DataFrame({"model": model, "gpu": gpu, "energy_J": np.exp(log)})
                    found = interaction(table).effects["p_value"]["model:gpu"]
                    others = [f(log, model, gpu)["p_value"]["a:b"] for f in _OTHERS]
                    wrong += np.array([found, *others]) < 0.05
                rates = 100 * wrong / tables
                print(
                    f"{shape + ', spread ' + spread:<36}{count:>5}{rates[0]:>10.1f}{rates[1]:>8.1f}"
                    f"{rates[2]:>15.1f}",
                    flush=True,
                )


_OTHERS = (two_way_anova, aligned_rank_anova)


def groups(tables: int) -> None:
    print("\nFalse alarms of compare_groups in %, three groups of one mean and median\n")
    print(f"{'values':<36}{'runs':>5}{'as built':>10}")
    cases = {
        "normal, spread alike": (SHAPES["normal"], [1, 1, 1]),
        "normal, spread 1, 3 and 10": (SHAPES["normal"], [1, 3, 10]),
        "skewed, spread alike": (SHAPES["skewed"], [1, 1, 1]),
    }
    for name, (draw, deviations) in cases.items():
        for count in COUNTS:
            chance = np.random.default_rng(count)
            wrong = 0
            for _ in range(tables):
                values = np.repeat(deviations, count) * draw(chance, 3 * count)
                table = pd.DataFrame({"model": np.repeat(list("abc"), count), "x": values})
                wrong += compare_groups(table, "x").p_value < 0.05
            print(f"{name:<36}{count:>5}{100 * wrong / tables:>10.1f}", flush=True)


def intervals(tables: int) -> None:
    print("\nHow often 90 % intervals hold, in %\n")
    for count in COUNTS:
        chance, held = np.random.default_rng(count), 0
        for seed in range(tables):
            logs = np.array([[0.0], [-0.7]]) + 0.15 * chance.normal(size=(2, count))
            table = pd.DataFrame(
                {"model": np.repeat(["a", "b"], count), "energy_J": np.exp(logs.ravel())}
            )
            row = savings(table, quality=None, by="model", seed=seed).iloc[0]
            held += row.saving_lower <= 1 - np.exp(-0.7) <= row.saving_upper
        print(f"saving of log-normal energies, {count} runs a choice: {100 * held / tables:.1f}")
    for models in (4, 8):
        chance, held, given = np.random.default_rng(models), 0, 0
        for _ in range(tables):
            flops = np.exp(chance.uniform(np.log(0.1), np.log(20), models)) * 1e9
            ratio = 0.4 * np.log(flops / 2e9) + chance.normal(0, 0.2, models)
            table = pd.concat(
                [
                    pd.DataFrame(
                        {
                            "model": [f"m{i}" for i in range(models)],
                            "gpu": gpu,
                            "flops_per_sample": flops,
                            "energy_per_sample_J": flops / 1e9 * np.exp(own),
                            "power_limit_W": limit_W,
                        }
                    )
                    for gpu, own, limit_W in (("small", ratio / 2, 150), ("large", -ratio / 2, 700))
                ]
            )
            row = match_gpu(table).crossings.iloc[0]
            if np.isfinite(row.crossing):
                given += 1
                lower = np.nan_to_num(row.crossing_lower, nan=0.0)
                upper = np.nan_to_num(row.crossing_upper, nan=np.inf)
                held += lower <= 2e9 <= upper
        print(
            f"crossing, {models} models: {100 * held / given:.1f} of those given, which are "
            f"{100 * given / tables:.0f} of 100"
        )


def main() -> int:
    """Print the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=200)
    tables = parser.parse_args().tables
    if find_spec("scikit_posthocs") is None:
        print("tradeoff_errors: missing: pip install scikit-posthocs", file=sys.stderr)
        return 2
    print_head(__file__, "numpy", "scipy", "statsmodels")
    print(f"{tables} tables each\n")
    warnings.simplefilter("ignore")
    interactions(tables)
    groups(tables)
    intervals(tables)
    return 0


if __name__ == "__main__":
    sys.exit(main())
