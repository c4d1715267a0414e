"""The errors of every estimator on real trainings.

Each training is projected from its first epochs and compared with its measured energy:

1. the evaluation of the paper (arXiv 2307.05520) on its own runs, next to the figures of an
   independent implementation, from which none may differ by more than 2 %;
2. STEP with its defaults, next to simpler methods, for each data set, by number of epochs observed;
3. STEP around a change of level: before it, declared and undeclared, and after it;
4. the interval: how often it holds the truth, and how wide it is; by scenario, and for every
   family of runs next to other intervals (see `step_families`).

Exits with 1 if a figure differs or misses its goal, with 2 if data are missing.

    python -m benchmarks.evidence.step_accuracy
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pandas as pd

from benchmarks.common.head import print_head
from benchmarks.common.real_trainings import (
    Delrey2023Run,
    LongRun,
    delrey2023,
    long_runs,
    of_hopper,
)
from benchmarks.common.run_families import families
from benchmarks.evidence.step_families import judged as judged_families
from benchmarks.evidence.step_families import show as show_families
from energyest import EnergyTrace, Estimate, NotStableError, estimate_step
from energyest.estimators import (
    estimate_first_epoch,
    estimate_flops,
    estimate_green_algorithms,
    estimate_mlco2,
)
from energyest.estimators.step.forecast import Forecaster
from energyest.gpus import find_gpu

PAPER = {"start": 10, "window": 5}
OBSERVED = (3, 5, 8, 12, 15, 20, 25)
AFTER_CHANGE = (1, 2, 3, 5, 8, 12)
# Epochs into a level from which the interval is judged.
SETTLED = 5
CALM = ("hopper plain", "hopper validation")


# ---------------------------------------------------------------------- the paper's evaluation

Method = Callable[[Delrey2023Run], Estimate]


def duration_s(run: Delrey2023Run) -> float:
    return float(run.trace.column("duration_s").sum())


def flops(run: Delrey2023Run) -> Estimate:
    """Three times the GFLOPs of a forward pass, as reported by the authors, per image seen."""
    gpu = find_gpu(run.row["gpu model"])
    assert gpu is not None
    total = 3 * run.row["GFLOPs"] * 1e9 * run.row["total seen images"]
    return estimate_flops(
        run.trace, run.epochs, flops=total, peak_flops_per_s=gpu.peak_flops_per_s["fp32"]
    )


# Name, estimator, RMSE in kJ and MAPE in % of the independent implementation (None: no figure).
METHODS: list[tuple[str, Method, float | None, float | None]] = [
    (
        "STEP, energy form (start 10, window 5)",
        lambda run: estimate_step(run.trace.head(15), run.epochs, **PAPER),
        7.89,
        0.57,
    ),
    (
        "STEP, power form, duration known",
        lambda run: estimate_step(
            run.trace.head(15), run.epochs, form="power", duration_s=duration_s(run), **PAPER
        ),
        16.7,
        1.94,
    ),
    (
        "STEP, power form, duration projected",
        lambda run: estimate_step(run.trace.head(15), run.epochs, form="power", **PAPER),
        None,
        None,
    ),
    ("first epoch", lambda run: estimate_first_epoch(run.trace.head(1), run.epochs), 231, None),
    (
        "Green Algorithms, duration known",
        lambda run: estimate_green_algorithms(
            run.trace, run.epochs, ram_GB=run.ram_GB, duration_s=duration_s(run)
        ),
        149,
        None,
    ),
    (
        "MLCO2, duration known",
        lambda run: estimate_mlco2(run.trace, run.epochs, duration_s=duration_s(run)),
        339,
        None,
    ),
    ("FLOPs at 33 % of the fp32 peak", flops, None, None),
]


def paper_table(runs: list[Delrey2023Run]) -> tuple[pd.DataFrame, bool]:
    rows, agree = {}, True
    true_J = np.array([run.trace.column("energy_J").sum() for run in runs])
    for name, method, known_kJ, known_pct in METHODS:
        off_J = np.array([method(run).energy_J for run in runs]) - true_J
        relative = 100 * np.abs(off_J) / true_J
        rmse_kJ, mape = float(np.sqrt(np.mean(off_J**2))) / 1e3, float(relative.mean())
        rows[name] = {
            "RMSE (kJ)": rmse_kJ,
            "reference (kJ)": known_kJ,
            "MAPE (%)": mape,
            "reference (%)": known_pct,
            "median (%)": float(np.median(relative)),
        }
        for reached, known in ((rmse_kJ, known_kJ), (mape, known_pct)):
            agree &= known is None or abs(reached / known - 1) <= 0.02
    return pd.DataFrame.from_dict(rows, orient="index"), agree


# ---------------------------------------------------------------------- simpler methods


def step(run: LongRun, observed: int, **options: object) -> tuple[Estimate, bool]:
    """The projection, and whether STEP accepts it; a refusal carries its best guess."""
    try:
        return estimate_step(run.trace.head(observed), run.epochs, **options), True
    except NotStableError as refusal:
        guess = refusal.estimate
    assert guess is not None
    return guess, False


def scaled(run: LongRun, observed: int, level_J: float) -> float:
    return float(run.energy_J[:observed].sum() + (run.epochs - observed) * level_J)


def by_ruptures(run: LongRun, observed: int) -> float:
    """Mean since the last change that PELT finds in the logarithms, as in ruptures' examples."""
    import ruptures

    seen_J = run.energy_J[:observed]
    logs = np.log(seen_J / seen_J.max())
    noise = max(1.4826 * np.median(np.abs(np.diff(logs))) / np.sqrt(2), 0.015)
    search = ruptures.KernelCPD(kernel="linear", min_size=1).fit(logs)
    ends = [0, *search.predict(pen=3 * np.log(observed) * noise**2)]
    return scaled(run, observed, seen_J[ends[-2] :].mean())


def since_likeliest(run: LongRun, observed: int) -> float:
    """Mean since the level's most probable start, instead of the mean over all starts."""
    start = Forecaster(run.trace.head(observed)).start
    return scaled(run, observed, run.energy_J[start:observed].mean())


SIMPLE: dict[str, Callable[[LongRun, int], float]] = {
    "automatic": lambda run, n: step(run, n)[0].energy_J,
    "paper": lambda run, n: step(run, n, **PAPER)[0].energy_J if n >= 15 else np.nan,
    "first epoch": lambda run, n: float(run.energy_J[0]) * run.epochs,
    "mean of all": lambda run, n: scaled(run, n, run.energy_J[:n].mean()),
    "mean since the likeliest start": since_likeliest,
    "mean of the last five": lambda run, n: scaled(run, n, run.energy_J[:n][-5:].mean()),
}
if find_spec("ruptures"):
    SIMPLE["mean since ruptures' last change"] = by_ruptures


def error(run: LongRun, energy_J: float) -> float:
    """Relative error in %."""
    return 100 * (energy_J / run.total_J - 1)


def methods_table(runs: list[LongRun]) -> pd.DataFrame:
    """MAPE in % for each data set, method and number of epochs observed."""
    rows = {}
    for group in dict.fromkeys(run.group for run in runs):
        members = [run for run in runs if run.group == group]
        for name, method in SIMPLE.items():
            rows[f"{group} ({len(members)})", name] = {
                n: float(np.mean([abs(error(run, method(run, n))) for run in members]))
                for n in OBSERVED
            }
        rows[f"{group} ({len(members)})", "automatic refuses, of 100"] = {
            n: 100 * float(np.mean([not step(run, n)[1] for run in members])) for n in OBSERVED
        }
    return pd.DataFrame.from_dict(rows, orient="index")


# ---------------------------------------------------------------------- changes of level


def ratio_errors(runs: list[LongRun]) -> str:
    """Errors of the energy of an epoch after a change, if predicted from FLOPs."""
    off: dict[str, list[float]] = {"without": [], "with": []}
    for run in runs:
        if run.flops_ratio is not None and run.changes_at is not None:
            before = run.trace.head(run.changes_at)
            true = run.energy_J[run.changes_at :].mean() / np.median(
                run.energy_J[2 : run.changes_at]
            )
            for name, load in (("without", None), ("with", Forecaster(before).load)):
                off[name].append(abs(np.log(run.planned[0].effect(load).energy / true)))
    text = (
        f"{name} the power limit {np.quantile(errors, 0.9):.2f}" for name, errors in off.items()
    )
    return f"The log of nine of ten guesses of the new level is off by less than: {', '.join(text)}"


def change_table(runs: list[LongRun]) -> pd.DataFrame:
    """Error in % before a planned change, undeclared and declared, and a few epochs after it."""
    rows = {}
    for run in runs:
        if run.changes_at is None or run.group == "delrey2023":
            continue
        before = run.changes_at - 2
        declared, _ = step(run, before, planned=run.planned)
        old_J = np.median(run.energy_J[2 : run.changes_at])
        new_J = np.median(run.energy_J[run.changes_at + 1 :])
        # The same trace without its GPU's power limit.
        plain = replace(run, trace=EnergyTrace(run.trace.epoch_columns))
        rows[run.run_id] = {
            "FLOPs": run.flops_ratio,
            "energy": new_J / old_J,
            "not declared": error(run, step(run, before)[0].energy_J),
            "by FLOPs": error(run, step(plain, before, planned=run.planned)[0].energy_J),
            "and load": error(run, declared.energy_J),
            "held": declared.lower_J is not None
            and declared.lower_J <= run.total_J <= declared.upper_J,
            **{
                f"+{k}": error(run, step(run, run.changes_at + k)[0].energy_J) for k in AFTER_CHANGE
            },
        }
    return pd.DataFrame.from_dict(rows, orient="index")


# ---------------------------------------------------------------------- the interval


def judged(run: LongRun) -> pd.DataFrame:
    """Each projection that STEP accepts: whether its interval holds, and its half-width in %."""
    rows = []
    for observed in range(3, run.epochs):
        estimate, stable = step(run, observed)
        if stable:
            assert estimate.lower_J is not None
            assert estimate.upper_J is not None
            since = observed - (run.changes_at or 0)
            rows.append(
                {
                    "observed": observed,
                    "before": since < 0,
                    "settled": (observed if since < 0 else since) >= SETTLED,
                    "held": estimate.lower_J <= run.total_J <= estimate.upper_J,
                    "half": 50 * (estimate.upper_J - estimate.lower_J) / run.total_J,
                }
            )
    return pd.DataFrame(rows)


def interval_table(runs: list[LongRun]) -> pd.DataFrame:
    """Coverage, with equal weight per run, and the median half-width, in %."""
    rows = {}
    tables = {run.run_id: judged(run) for run in runs}
    sets = dict.fromkeys(run.group.split()[0] for run in runs)
    groups = [*dict.fromkeys(run.group for run in runs), *(f"ALL {name}" for name in sets)]
    for group in [*groups, "ALL"]:
        members = [
            tables[run.run_id]
            for run in runs
            if group in (run.group, f"ALL {run.group.split()[0]}", "ALL")
        ]
        settled = [table[table["settled"] & ~table["before"]] for table in members]
        ahead = [table[table["settled"] & table["before"]] for table in members]
        late = pd.concat([table[table["observed"] >= 15] for table in settled])
        rows[group] = {
            "runs": len(members),
            "held": 100 * float(np.mean([t["held"].mean() for t in settled if len(t)])),
            "half-width": float(np.median([t["half"].median() for t in settled if len(t)])),
            "half-width after 15": float(late["half"].median()),
            "held if a change follows": 100
            * float(np.mean([t["held"].mean() for t in ahead if len(t)] or [np.nan])),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


# ---------------------------------------------------------------------- the aims


def aims(methods: pd.DataFrame, changes: pd.DataFrame, held: pd.DataFrame) -> pd.DataFrame:
    """The goals of this benchmark, and whether they are met."""

    def automatic(group: str, observed: int) -> float:
        rows = methods[
            [name[0].startswith(group) and name[1] == "automatic" for name in methods.index]
        ]
        return float(rows[observed].mean())

    public = changes[[name.startswith("step-") for name in changes.index]]
    rows: list[tuple[str, float, float, float]] = [
        (f"delrey2023, MAPE after {n} epochs", automatic("delrey2023", n), 0, aim)
        for n, aim in ((15, 0.50), (20, 0.36), (25, 0.30))
    ]
    for reading in ("counter", "power"):
        calm = [run for run in of_hopper(reading) if run.group in CALM]
        mape = float(np.mean([abs(error(run, SIMPLE["automatic"](run, 8))) for run in calm]))
        rows.append((f"hopper plain and validation, by {reading}, MAPE after 8", mape, 0, 1.5))
    for data, part in (("hopper", public), ("own", changes.drop(public.index))):
        if len(part):
            rows += [
                (f"{data}, error 3 epochs after a change", part["+3"].abs().mean(), 0, 5),
                (f"{data}, error before a declared change", part["and load"].abs().mean(), 0, 15),
            ]
    for group in held.index:
        if group.startswith("ALL"):
            rows += [
                (f"{group}, coverage of the 90 % interval", held["held"][group], 86, 94),
                (f"{group}, half-width after 15", held["half-width after 15"][group], 0, 3),
            ]
    table = pd.DataFrame(rows, columns=["figure (%)", "reached", "least", "most"])
    inside = (table["reached"] >= table["least"]) & (table["reached"] <= table["most"])
    return table.assign(verdict=np.where(inside, "reached", "MISSED")).set_index("figure (%)")


def show(title: str, table: pd.DataFrame) -> None:
    print(f"{title}\n")
    print(table.to_string(float_format="%.2f", na_rep="-"), end="\n\n")


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    runs, paper_runs = long_runs(), list(delrey2023())
    print_head(__file__, "numpy")
    table, agree = paper_table(paper_runs)
    show(f"The paper's evaluation, {len(paper_runs)} trainings of delrey2023:", table)
    verdict = "agrees within 2 %" if agree else "DIFFERS by more than 2 %"
    print(f"Every figure with a reference {verdict}.\n")
    methods = methods_table(runs)
    show("MAPE in % after so many epochs (a refusal counts with its best guess):", methods)
    changes = change_table(runs)
    show(
        "Error in %, 2 epochs before a change (not declared; declared with its ratio of FLOPs, "
        "without and with the GPU's power limit; does the interval hold) and k epochs after it:",
        changes,
    )
    print(ratio_errors(runs), end="\n\n")
    held = interval_table(runs)
    show(f"The 90 % interval, {SETTLED} or more epochs into a level, in %:", held)
    reached = aims(methods, changes, held)
    show("Aims:", reached)
    meets_goals = show_families(judged_families(families()))
    sys.exit(0 if agree and meets_goals and (reached["verdict"] == "reached").all() else 1)


if __name__ == "__main__":
    main()
