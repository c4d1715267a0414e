"""How accurate PRE from a table is on the authors' runs, for known and for unknown settings.

The 150 public runs of the first study (the paper, arXiv 2307.05520, has 1225), predicted by the
published regressors and by two more, all through `TableModel`:

1. Random 70/30 splits, as in the paper: 5-fold cross-validation of the training part, and the test
   part, next to the paper's figures. Both sides of a split hold repetitions of the same settings,
   so the mean of each setting is shown too: the best that any method could reach.
2. Each GPU left out in turn, and each architecture.

Exits with 1 if a goal is missed, with 2 if data are missing.

    python -m benchmarks.evidence.pre_delrey               # as published: 100 random draws
    python -m benchmarks.evidence.pre_delrey --draws 1000  # takes ten times as long
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd

from benchmarks.common.data_folder import require
from benchmarks.common.goal import Goal
from benchmarks.common.head import print_head
from benchmarks.common.real_trainings import DELREY_TABLE, delrey2023_table
from energyest.estimators.cross_validation import CrossValidation
from energyest.estimators.regression.table_model import Regressor, TableModel, Target

# Kernel ridge deviates by 0.6 points between splits, so the mean of six is off by 0.25.
SPLITS = 6
TEST_SHARE = 0.3
POWER, ENERGY = "mean_power_W", "epoch_energy_J"
LEFT_OUT: tuple[Regressor, ...] = ("kernel_ridge", "gaussian_process", "power_share")
GROUPS = {"gpu": "one GPU left out", "model": "one architecture left out"}

# CUDA cores and memory in GB, as in the paper. The power limit is taken from the run: its RTX 3070
# had 240 W; the paper's table says 220 W.
GPUS = {
    "RTX 3090": (10496, 24),
    "RTX 3070": (5888, 8),
    "GTX 750 Ti": (640, 2),
}
# The machine's memory in GB, which the table lacks: 16 for the cloud and 32 for the second machine,
# as in `real_trainings`. That of the third machine is unknown and set to that of the other local
# machine. With one value per machine, the feature only identifies the machine.
RAM_GB = {"Cloud": 16, "Local ML Engineer/Gamer": 32, "Local Normal User": 32}
IMAGE_SIZE = 128

# The paper's figures by 5-fold cross-validation of the training part: R² and MAPE in %.
PUBLISHED: dict[tuple[str, str], tuple[float, float]] = {
    (POWER, "linear"): (0.823, 11.4),
    (POWER, "ridge"): (0.825, 11.3),
    (POWER, "kernel_ridge"): (0.988, 2.0),
    (POWER, "svr"): (0.966, 3.1),
    (ENERGY, "kernel_ridge"): (0.965, 6.0),
}
# Goals in %: for a random split, and for a GPU or an architecture left out.
ASKED, ASKED_LEFT_OUT = 2.0, 25.0
ASKED_COVERAGE = (0.85, 0.95)


@dataclass(frozen=True)
class Job:
    """A model to fit to the training part of a random split, or to cross-validate."""

    regressor: Regressor
    target: Target
    draws: int
    split: int | None = None
    groups: str | None = None


def read_runs() -> pd.DataFrame:
    """The 150 finished runs (S. del Rey, GAISSA-UPC/seaa2023_ect, CC BY 4.0) for `TableModel`."""
    runs = delrey2023_table()
    gpus = np.array([GPUS[name] for name in runs["gpu"]], dtype=np.float64)
    return pd.DataFrame(
        {
            "model": runs["model"],
            "gpu": runs["gpu"],
            "batch_size": runs["batch_size"],
            "image_height": IMAGE_SIZE,
            "image_width": IMAGE_SIZE,
            "ram_GB": runs["environment"].map(RAM_GB),
            "training_samples": runs["training_samples"],
            "validation_samples": runs["validation_samples"],
            "GFLOPs": runs["flops_per_sample"] / 1e9,
            "cuda_cores": gpus[:, 0],
            "gpu_memory_GB": gpus[:, 1],
            "gpu_power_limit_W": runs["power_limit_W"],
            POWER: runs["mean_power_W"],
            ENERGY: runs["energy_J"] / runs["epochs"],
        }
    )


def split_of(table: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Runs for fitting, and runs for testing."""
    order = np.random.default_rng(seed).permutation(len(table))
    held_out = round(TEST_SHARE * len(table))
    return table.iloc[np.sort(order[held_out:])], table.iloc[np.sort(order[:held_out])]


def mape(measured: pd.Series, predicted: np.ndarray) -> float:
    return float(100 * np.mean(np.abs(predicted / measured - 1)))


def mean_of_setting(table: pd.DataFrame, target: str) -> list[float]:
    """Errors in % on the test parts if each setting's mean in the training part is predicted.

    No function of the ten features can do much better, because all runs of a setting share them.
    """
    found = []
    for seed in range(SPLITS):
        train, test = split_of(table, seed)
        means = train.groupby(["gpu", "model"])[target].mean()
        known = means[pd.MultiIndex.from_frame(test[["gpu", "model"]])]
        found.append(mape(test[target], known.to_numpy()))
    return found


def random_jobs(draws: int) -> Iterator[Job]:
    for regressor in ("linear", "ridge", "kernel_ridge", "svr", "gaussian_process", "power_share"):
        splits = range(SPLITS if regressor in LEFT_OUT else 3)  # the others are for comparison
        yield from (Job(regressor, POWER, draws, split) for split in splits)
    for regressor in ("kernel_ridge", "gaussian_process"):
        yield from (Job(regressor, ENERGY, draws, split) for split in range(3))


def done(job: Job) -> tuple[float, dict[str, float]] | CrossValidation:
    """Error in % on the test part and the model's own folds; or the whole cross-validation."""
    table = read_runs()
    model = TableModel(job.regressor, job.target, draws=job.draws)
    if job.split is None:
        return model.cross_validate(table, job.groups)
    train, test = split_of(table, job.split)
    error = mape(test[job.target], model.fit(train).predict(test))
    return error, model.cv_scores_


def show_random(table: pd.DataFrame, found: dict[Job, tuple[float, dict[str, float]]]) -> None:
    rows = {}
    for target in (POWER, ENERGY):
        for regressor in dict.fromkeys(job.regressor for job in found if job.target == target):
            parts = [
                found[job] for job in found if (job.regressor, job.target) == (regressor, target)
            ]
            folds = pd.DataFrame([own for _, own in parts]).mean()
            paper = PUBLISHED.get((target, regressor), (np.nan, np.nan))
            errors = [error for error, _ in parts]
            rows[target, regressor] = {
                "test MAPE": np.mean(errors),
                "±": np.std(errors, ddof=1),
                "CV MAPE": 100 * folds.get("mape", np.nan),
                "paper MAPE": paper[1],
                "CV R2": folds.get("r2", np.nan),
                "paper R2": paper[0],
            }
        floor = mean_of_setting(table, target)
        rows[target, "(mean of setting)"] = {
            "test MAPE": np.mean(floor),
            "±": np.std(floor, ddof=1),
        }
    print("\nRandom 70/30 splits, errors in %; ± is the deviation between splits:\n")
    print(pd.DataFrame.from_dict(rows, orient="index").to_string(float_format="%.3g", na_rep="-"))


def show_left_out(found: dict[Job, CrossValidation]) -> None:
    for groups, title in GROUPS.items():
        rows = {}
        for job, validated in found.items():
            if job.groups == groups:
                errors = 100 * validated.errors()
                held = validated.coverage
                rows[job.regressor] = {
                    "mean": errors.mean(),
                    "median": np.median(errors),
                    "coverage": np.nan if held is None else 100 * held,
                    **pd.Series(errors).groupby(validated.table[groups]).mean(),
                }
        print(f"\nMean power, {title}, errors in %:\n")
        print(
            pd.DataFrame.from_dict(rows, orient="index").to_string(float_format="%.3g", na_rep="-")
        )


def report(draws: int = 100) -> list[Goal]:
    """Print the tables; return the goals."""
    table = read_runs()
    jobs = [
        *(
            Job(regressor, POWER, draws, groups=groups)
            for groups in GROUPS
            for regressor in LEFT_OUT
        ),
        *random_jobs(draws),
    ]
    with ProcessPoolExecutor(min(os.cpu_count() or 1, len(jobs))) as pool:
        outcomes = dict(zip(jobs, pool.map(done, jobs), strict=True))
    random = {job: out for job, out in outcomes.items() if isinstance(out, tuple)}
    left_out = {job: out for job, out in outcomes.items() if isinstance(out, CrossValidation)}
    settings = len(table.groupby(["gpu", "model"]))
    print(f"\ndelrey2023: {len(table)} runs of {settings} settings, {draws} draws")
    show_random(table, random)
    show_left_out(left_out)
    return goals(table, random, left_out)


def goals(
    table: pd.DataFrame,
    random: dict[Job, tuple[float, dict[str, float]]],
    left_out: dict[Job, CrossValidation],
) -> list[Goal]:
    found = []
    floor = np.mean(mean_of_setting(table, POWER))
    for regressor, name in (
        ("kernel_ridge", "kernel ridge as published"),
        ("gaussian_process", "Gaussian process"),
    ):
        wanted = (regressor, POWER)
        errors = [out[0] for job, out in random.items() if (job.regressor, job.target) == wanted]
        error = np.mean(errors)
        reached = f"{error:.1f} %; the mean of each setting is {floor:.1f} % off"
        if error > ASKED:
            reached += "; so few settings need an alpha that the published search seldom draws"
        found.append(
            Goal(
                f"delrey2023, random split, mean power, {name}",
                f"{ASKED} %",
                reached,
                bool(error <= ASKED),
            )
        )
    for groups, title in GROUPS.items():
        published, share = (
            next(v for j, v in left_out.items() if (j.regressor, j.groups) == (regressor, groups))
            for regressor in ("kernel_ridge", "power_share")
        )
        error = 100 * share.errors().mean()
        found.append(
            Goal(
                f"delrey2023, {title}, mean power, power_share",
                f"{ASKED_LEFT_OUT:.0f} %",
                f"{error:.1f} %; kernel ridge {100 * published.errors().mean():.0f} %",
                bool(error <= ASKED_LEFT_OUT),
            )
        )
        low, high = ASKED_COVERAGE
        held = share.coverage
        assert held is not None
        found.append(
            Goal(
                f"delrey2023, {title}, coverage of 90 % intervals",
                f"{100 * low:.0f} to {100 * high:.0f} %",
                f"{100 * held:.0f} %",
                low <= held <= high,
            )
        )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="PRE from a table, on the authors' public runs")
    parser.add_argument("--draws", type=int, default=100, help="settings tried (published: 100)")
    arguments = parser.parse_args()
    require(*DELREY_TABLE)
    began_s = time.perf_counter()
    print_head(__file__, "scikit-learn", "numpy")
    found = report(arguments.draws)
    print(f"\n{time.perf_counter() - began_s:.0f} s\n")
    print(*found, sep="\n")
    return 0 if all(goal.met for goal in found) else 1


if __name__ == "__main__":
    sys.exit(main())
