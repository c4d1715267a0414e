"""Where the constants of STEP's interval come from, and how well they hold on runs left out.

Every training of `real_trainings.long_runs` is projected after each of its epochs, once its last
change of level is behind it. The errors of these projections are taken to be t-distributed, with a
variance that is a weighted sum of what the level shows (see `energyest.estimators.step.interval`);
the weights and the degrees of freedom are those of the greatest likelihood. To see how they hold on
runs that were not seen, groups of runs are left out in turn: a model on a GPU, and a data set. The
interval is stretched until, on data sets that were left out, it holds as often as it says.

Then: how the accuracy of the projection depends on what `energyest.estimators.step.changepoint`
expects before it has seen a run. Each of its constants is halved and doubled.

Exits with 1 if the constants in the package are not those found here, with 2 if data are missing.

    python -m benchmarks.evidence.step_calibration
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.stats import t as student_t

from benchmarks.common.head import print_head
from benchmarks.common.real_trainings import LongRun, long_runs
from energyest import EnergyTrace, NotStableError, estimate_step
from energyest.estimators.step import changepoint, interval
from energyest.estimators.step.forecast import Forecaster

Signal = Callable[[np.random.Generator, int], np.ndarray]
CONFIDENCE = 0.9
FIRST = 2  # epochs after the last change from which projections are fitted,
SETTLED = 5  # and from which they are judged
NAMES = ("uncertainty", "spread", "drift", "unseen")


def projections(run: LongRun) -> list[dict[str, float | str]]:
    """What each projection of a training rests on, and its relative error."""
    rows: list[dict[str, float | str]] = []
    first = 3 if run.changes_at is None else run.changes_at + FIRST
    for observed in range(first, run.epochs):
        history = Forecaster(run.trace.head(observed))
        if not history.level.is_stable:
            continue
        level, _ = history.level_for(run.epochs)
        remaining = run.epochs - observed
        off_J = run.energy_J[observed:].sum() - history.forecast(run.epochs).energy_J
        rows.append(
            {
                "run": run.run_id,
                "group": run.group,
                "setting": run.setting,
                "data set": run.group.split()[0],
                "observed": observed,
                "on level": observed - (run.changes_at or 0),
                "share": remaining * level.mean / run.total_J,
                "error": off_J / (remaining * level.mean),
                **dict(zip(NAMES, interval.parts_of(level, remaining), strict=True)),
            }
        )
    return rows


def weights_of(table: pd.DataFrame) -> np.ndarray:
    """Weights that give each data set the same say, and each run in it, and each projection."""
    per_run = 1 / table.groupby("run")["error"].transform("size")
    return (per_run / per_run.groupby(table["data set"]).transform("sum")).to_numpy()


def fit(table: pd.DataFrame) -> np.ndarray:
    """Weights of `NAMES` and degrees of freedom, by maximum likelihood."""
    parts, error = table[list(NAMES)].to_numpy(), table["error"].to_numpy()
    weights = weights_of(table)

    def loss(parameters: np.ndarray) -> float:
        scale = np.sqrt(parts @ np.exp(parameters[:-1]))
        density = student_t.logpdf(error / scale, 1 + np.exp(parameters[-1])) - np.log(scale)
        return -float(weights @ density) / weights.sum()

    start = np.array([-0.5, -0.5, -1.0, -9.0, 0.5])
    found = minimize(loss, start, method="Nelder-Mead", options={"maxiter": 5000, "fatol": 1e-8})
    return np.append(np.exp(found.x[:-1]), 1 + np.exp(found.x[-1]))


def judged(table: pd.DataFrame, found: np.ndarray) -> pd.DataFrame:
    """Which errors the interval holds, and how wide it is relative to the total."""
    scale = np.sqrt(table[list(NAMES)].to_numpy() @ found[:-1])
    half = student_t.ppf((1 + CONFIDENCE) / 2, found[-1]) * scale
    return table.assign(held=table["error"].abs() <= half, half=half * table["share"])


def left_out(table: pd.DataFrame, by: str, stretch: float = 1.0) -> pd.DataFrame:
    """Every row judged by constants fitted without its group."""
    parts = [
        judged(table[table[by] == group], stretched(fit(table[table[by] != group]), stretch))
        for group in table[by].unique()
    ]
    return pd.concat(parts)


def stretched(found: np.ndarray, stretch: float) -> np.ndarray:
    return np.append(found[:-1] * stretch**2, found[-1])


def needed_stretch(table: pd.DataFrame) -> float:
    """The factor by which the interval must be wider to hold as often as it says on unseen data.

    Each data set is left out in turn; all have the same weight.
    """
    unseen = left_out(table, "data set")
    needed = unseen["error"].abs() * unseen["share"] / unseen["half"]
    settled = unseen["on level"] >= SETTLED
    order = np.argsort(needed[settled])
    weights = weights_of(unseen[settled])[order]
    share = np.cumsum(weights) / weights.sum()
    return float(needed[settled].to_numpy()[order][np.searchsorted(share, CONFIDENCE)])


def coverage(table: pd.DataFrame) -> pd.DataFrame:
    """Share held in %, with equal weight for each run, and the median half-width in %."""
    old = table[table["on level"] >= SETTLED]
    runs = old.groupby(["group", "run"]).agg(held=("held", "mean"), half=("half", "median"))
    result = 100 * runs.groupby("group").agg(held=("held", "mean"), half=("half", "median"))
    late = old[old["observed"] >= 15]
    result["half after 15"] = 100 * late.groupby("group")["half"].median()
    of_sets = 100 * runs.groupby(lambda name: name[0].split()[0]).agg(
        held=("held", "mean"), half=("half", "median")
    )
    of_sets.index = [f"ALL {name}" for name in of_sets.index]
    return pd.concat([result, of_sets])


def sensitivity(runs: list[LongRun]) -> pd.DataFrame:
    """Mean absolute error in % with each prior constant halved and doubled."""
    rows = {"as packaged": mape(runs)}
    for name in ("NOISE", "NOISE_EPOCHS", "CHANGE_RATE", "SINGLE", "FAR", "NEARNESS"):
        packaged = getattr(changepoint, name)
        for factor in (0.5, 2.0):
            setattr(
                changepoint,
                name,
                min(packaged * factor, 0.9) if packaged < 1 else packaged * factor,
            )
            rows[f"{name} x {factor:g}"] = mape(runs)
        setattr(changepoint, name, packaged)
    return pd.DataFrame.from_dict(rows, orient="index")


def mape(runs: list[LongRun]) -> dict[str, float]:
    """By data set: delrey2023 after 12 to 25 epochs, others from 3 epochs into the last level."""
    off: dict[str, list[float]] = {}
    for run in runs:
        delrey = run.group == "delrey2023"
        first = (run.changes_at or 0) + 3
        for observed in (12, 15, 20, 25) if delrey else range(first, run.epochs, 3):
            seen = run.trace.head(observed)
            energy_J = (
                seen.column("energy_J").sum() + Forecaster(seen).forecast(run.epochs).energy_J
            )
            name = f"delrey2023, {observed}" if delrey else run.group.split()[0]
            off.setdefault(name, []).append(abs(100 * (energy_J / run.total_J - 1)))
    return {name: float(np.mean(errors)) for name, errors in off.items()}


def correlated(correlation: float, spread: float) -> Signal:
    def make(rng: np.random.Generator, size: int) -> np.ndarray:
        noise = rng.standard_normal(size)
        for i in range(1, size):
            noise[i] = correlation * noise[i - 1] + noise[i] * np.sqrt(1 - correlation**2)
        return np.maximum(1 + spread * noise, 0.01)

    return make


def random_walk(step: float) -> Signal:
    return lambda rng, size: np.exp(np.cumsum(step * rng.standard_normal(size)))


def ramp(slope: float) -> Signal:
    return lambda rng, size: (1 + slope * np.arange(size)) * (1 + 0.003 * rng.standard_normal(size))


SIGNALS: dict[str, Signal] = {
    "noise of 1 %": correlated(0.0, 0.01),
    "noise of 10 %": correlated(0.0, 0.10),
    "AR(1) of 0.5, 1 %": correlated(0.5, 0.01),
    "AR(1) of 0.8, 1 %": correlated(0.8, 0.01),
    "AR(1) of 0.9, 1 %": correlated(0.9, 0.01),
    "random walk of 0.2 % an epoch": random_walk(0.002),
    "ramp of 0.1 % an epoch": ramp(0.001),
}


def synthetic(draws: int = 200) -> pd.DataFrame:
    """How often the packaged 90 % interval holds on made-up signals, in %."""
    rows: dict[str, dict[str, float]] = {}
    for name, make in SIGNALS.items():
        rows[name] = {}
        for observed, epochs in ((5, 40), (15, 40), (15, 100), (30, 200)):
            held = []
            for seed in range(draws):
                energy_J = make(np.random.default_rng(seed), epochs)
                try:
                    estimate = estimate_step(EnergyTrace.from_epochs(energy_J[:observed]), epochs)
                except NotStableError:
                    continue
                assert estimate.lower_J is not None
                assert estimate.upper_J is not None
                held.append(estimate.lower_J <= energy_J.sum() <= estimate.upper_J)
            rows[name][f"{observed} of {epochs}"] = 100 * float(np.mean(held))
    return pd.DataFrame.from_dict(rows, orient="index")


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    runs = long_runs()
    table = pd.DataFrame([row for run in runs for row in projections(run)])
    print_head(__file__, "numpy", "scipy")
    print(f"{len(table)} projections of {table['run'].nunique()} trainings\n")
    stretch = needed_stretch(table)
    found = stretched(fit(table), stretch)
    packaged = np.array([*interval.WEIGHTS, interval.UNSEEN**2, interval.TAILS])
    constants = pd.DataFrame({"found": found, "packaged": packaged}, index=[*NAMES, "tails"])
    print(constants.to_string(float_format="%.4g"))
    print(f"\nstretched by {stretch:.3f}")
    columns = {
        "all": judged(table, found),
        "packaged": judged(table, packaged),
        "a model on a GPU": left_out(table, "setting", stretch),
        "a data set": left_out(table, "data set", stretch),
    }
    print(
        f"\nCoverage of the 90 % interval {SETTLED} epochs or more into a level, and half-widths, "
        "in %:\n"
    )
    shown = pd.concat({name: coverage(part) for name, part in columns.items()}, axis=1)
    print(shown.to_string(float_format="%.2f", na_rep="-"))
    print("\nMean absolute error in % with other constants of the prior:\n")
    print(sensitivity(runs).to_string(float_format="%.2f"))
    print("\nHow often the interval holds on synthetic signals, by epochs observed, in %:\n")
    print(synthetic().to_string(float_format="%.0f"))
    agree = bool(np.allclose(found, packaged, rtol=0.02))
    print(f"\nThe constants in the package {'are' if agree else 'ARE NOT'} those found here.")
    sys.exit(0 if agree else 1)


if __name__ == "__main__":
    main()
