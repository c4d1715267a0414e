"""How well STEP's interval holds on every family of runs, compared with other intervals.

Each run is projected after 6, 10, 15 and 25 epochs of its last level. For each family: how many of
the 90 % intervals hold the total, their half-width, their score (width plus, for each miss, 20
times its distance), the error of the projection, and how many were refused. Of the projections
made before a run had shown any event, although events were still to come, coverage is given apart:
nothing in such a run says that they will come. Compared with STEP are
the peers' methods, which have no interval (the first epoch, or the mean, times the number of
epochs), and two simple valid ones: a block bootstrap of the epochs, and conformal prediction with
the errors of the mean in all other families.

Exits with 1 if a goal is missed, with 2 if data are missing.

    python -m benchmarks.evidence.step_families
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from benchmarks.common.goal import Goal
from benchmarks.common.head import print_head
from benchmarks.common.real_trainings import LongRun
from benchmarks.common.run_families import families
from energyest import NotStableError, estimate_step

OBSERVED = (6, 10, 15, 25)
CONFIDENCE = 0.9
# A family with only two runs says little.
FEW = 3
BLOCK, DRAWS = 3, 500
# An event is an epoch that differs by more than this share from the usual epoch so far; events
# matter if together they change the total by more than the second share.
EVENT, MATTERS = 0.1, 0.01


class Answer(NamedTuple):
    """A projection and its interval, in joules; NaN without one."""

    energy_J: float
    lower_J: float = np.nan
    upper_J: float = np.nan


# A method's answer for a run after a number of epochs; None if it refuses.
Method = Callable[[LongRun, int], Answer | None]


def step(confidence: float) -> Method:
    """STEP as packaged."""

    def answer(run: LongRun, observed: int) -> Answer | None:
        try:
            found = estimate_step(
                run.trace.head(observed), run.epochs, planned=[], confidence=confidence
            )
        except NotStableError:
            return None
        assert found.lower_J is not None
        assert found.upper_J is not None
        return Answer(found.energy_J, found.lower_J, found.upper_J)

    return answer


def first_epoch(run: LongRun, observed: int) -> Answer:
    return Answer(run.epochs * float(run.energy_J[run.changes_at or 0]))


def mean(run: LongRun, observed: int) -> Answer:
    """Projects with the mean of all epochs except the first, cold one."""
    seen = run.energy_J[:observed]
    rest = run.epochs - observed
    return Answer(float(seen.sum() + rest * seen[(run.changes_at or 0) + 1 :].mean()))


def bootstrap(run: LongRun, observed: int) -> Answer:
    """Draws future epochs in blocks from the epochs so far, except the first."""
    chance = np.random.default_rng(0)
    seen = run.energy_J[(run.changes_at or 0) + 1 : observed]
    rest = run.epochs - observed
    blocks = -(-rest // BLOCK)
    starts = chance.integers(0, len(seen) - BLOCK + 1, (DRAWS, blocks))
    drawn = seen[starts[..., None] + np.arange(BLOCK)].reshape(DRAWS, -1)[:, :rest].sum(axis=1)
    done = run.energy_J[:observed].sum()
    lower, upper = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Answer(float(done + np.median(drawn)), float(done + lower), float(done + upper))


def comes_unseen(run: LongRun, observed: int) -> bool:
    """Whether a run has shown no event yet, and events that matter are still to come."""
    seen = run.energy_J[(run.changes_at or 0) + 1 : observed]
    usual = float(np.median(seen))
    off = run.energy_J[observed:] - usual
    events = off[np.abs(off) > EVENT * usual]
    is_calm = bool((np.abs(seen - usual) <= EVENT * usual).all())
    return is_calm and abs(float(events.sum())) > MATTERS * run.total_J


def rows_of(family: str, runs: list[LongRun], name: str, method: Method) -> list[dict[str, object]]:
    """One row per projection of a family, relative to the total."""
    rows: list[dict[str, object]] = []
    for run in runs:
        for since in OBSERVED:
            # An epoch in which a planned change comes belongs to neither level.
            observed = since + (0 if run.changes_at is None else run.changes_at + 1)
            if observed >= run.epochs - 1:
                continue
            row: dict[str, object] = {"family": family, "method": name, "after": since}
            row["unseen"] = comes_unseen(run, observed)
            answer = method(run, observed)
            if answer is None:
                rows.append({**row, "refused": 1.0})
                continue
            lower = max(answer.lower_J, float(run.energy_J[:observed].sum()))
            width, total = answer.upper_J - lower, run.total_J
            miss = max(lower - total, 0.0, total - answer.upper_J)
            rows.append(
                {
                    **row,
                    "refused": 0.0,
                    "held": float(miss == 0.0) if np.isfinite(width) else np.nan,
                    "above": float(total > answer.upper_J),
                    "half": width / 2 / total,
                    "score": (width + 2 / (1 - CONFIDENCE) * miss) / total,
                    "error": abs(answer.energy_J / total - 1),
                    "off": answer.energy_J / total - 1,
                }
            )
    return rows


def with_conformal(table: pd.DataFrame) -> pd.DataFrame:
    """Intervals around the mean, with the width given by its errors in all other families."""
    means = table[table["method"] == "mean"]
    parts = []
    for (family, after), rows in means.groupby(["family", "after"]):
        others = means[(means["family"] != family) & (means["after"] == after)]
        half = float(np.quantile(others["error"], CONFIDENCE))
        factor = 1 + rows["off"]  # the projection, in shares of the total
        miss = np.maximum(rows["error"] - half * factor, 0.0)
        parts.append(
            rows.assign(
                method="conformal",
                held=(miss == 0).astype(float),
                half=half * factor,
                score=2 * half * factor + 2 / (1 - CONFIDENCE) * miss,
            )
        )
    return pd.concat([table, *parts])


def judged(found: dict[str, list[LongRun]]) -> pd.DataFrame:
    """All projections by all methods."""
    methods: dict[str, Method] = {
        "STEP": step(CONFIDENCE),
        "STEP, 50 %": step(0.5),
        "STEP, 99 %": step(0.99),
        "first epoch": first_epoch,
        "mean": mean,
        "bootstrap": bootstrap,
    }
    return with_conformal(
        pd.DataFrame(
            row
            for family, runs in found.items()
            for name, method in methods.items()
            for row in rows_of(family, runs, name, method)
        )
    )


def of_families(table: pd.DataFrame, method: str, by: list[str]) -> pd.DataFrame:
    """Figures of a method in %, the half-width as a median."""
    groups = table[table["method"] == method].groupby(by, sort=False)
    means = groups[["held", "above", "score", "error", "refused"]].mean()
    result = 100 * means.assign(half=groups["half"].median())
    return result[["held", "above", "half", "score", "error", "refused"]]


def by_what_was_seen(table: pd.DataFrame) -> pd.DataFrame:
    """STEP's coverage in % before the first event of a run, and otherwise."""
    judged = table[(table["method"] == "STEP") & table["held"].notna()]
    groups = judged.groupby(["family", "unseen"], sort=False)["held"].agg(["size", "mean"])
    parts = {
        name: groups.xs(unseen, level="unseen")
        for name, unseen in (("before the first event", True), ("otherwise", False))
    }
    shown = pd.concat(
        {n: part.assign(mean=100 * part["mean"]) for n, part in parts.items()}, axis=1
    )
    return shown.rename(columns={"size": "projections", "mean": "held"})


def goals(table: pd.DataFrame) -> list[Goal]:
    """The goals of the interval, over the families with more than two runs."""
    by_after = of_families(table, "STEP", ["family", "after"])
    of_each = by_after.groupby("family").mean()
    projections = table[table["method"] == "STEP"].groupby("family").size()
    known = projections.index[projections > len(OBSERVED) * FEW]
    of_each = of_each.loc[[f for f in of_each.index if f in known]]
    simple = min(
        of_families(table, name, ["family", "after"]).groupby("family")["score"].mean().mean()
        for name in ("bootstrap", "conformal")
    )
    at_15 = by_after.xs(15, level="after")["error"]
    held_at = {
        share: of_families(table, name, ["family"]).loc[of_each.index, "held"].mean()
        for share, name in ((50, "STEP, 50 %"), (99, "STEP, 99 %"))
    }
    worst = of_each["held"].idxmin()
    found = [
        ("coverage of 90 %, mean over families", of_each["held"].mean(), 88.0, 93.0),
        (f"coverage of 90 %, worst family ({worst})", of_each["held"].min(), 80.0, 100.0),
        ("coverage of 50 %, mean over families", held_at[50], 45.0, 55.0),
        ("coverage of 99 %, mean over families", held_at[99], 97.0, 100.0),
        ("half-width, delrey2023", of_each.loc["delrey2023", "half"], 0.0, 1.2),
        ("half-width, mean over families", of_each["half"].mean(), 0.0, 4.0),
        ("error after 15 epochs, delrey2023", at_15["delrey2023"], 0.0, 0.46),
        ("error after 15 epochs, mean over families", at_15.mean(), 0.0, 1.7),
        ("refused, worst family", of_each["refused"].max(), 0.0, 5.0),
        (
            "score, mean over families, beside the better simple way",
            of_each["score"].mean(),
            0.0,
            simple,
        ),
    ]
    return [
        Goal(name, f"{least:.4g} to {most:.4g} %", f"{value:.2f} %", bool(least <= value <= most))
        for name, value, least, most in found
    ]


def show(table: pd.DataFrame) -> bool:
    """Print all tables; return whether every goal is met."""
    print("STEP's 90 % interval by family and epochs of the last level, in %:\n")
    print(of_families(table, "STEP", ["family", "after"]).to_string(float_format="%.2f"))
    print("\nBefore a run's first event, and otherwise; coverage in %:\n")
    print(by_what_was_seen(table).to_string(float_format="%.0f", na_rep=""))
    print("\nThe mean over 6, 10, 15 and 25 epochs, beside other ways:\n")
    names = ["STEP", "bootstrap", "conformal", "mean", "first epoch"]
    columns = {
        name: of_families(table, name, ["family", "after"]).groupby("family", sort=False).mean()
        for name in names
    }
    for figure in ("held", "half", "score", "error"):
        print(f"{figure}:")
        shown = pd.DataFrame({name: columns[name][figure] for name in names}).dropna(
            axis="columns", how="all"
        )
        shown.loc["mean over families"] = shown.mean()
        print(shown.to_string(float_format="%.2f"), end="\n\n")
    reached = goals(table)
    print("\n".join(map(str, reached)))
    return all(goal.met for goal in reached)


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    found = families()
    print_head(__file__, "numpy", "scipy")
    sys.exit(0 if show(judged(found)) else 1)


if __name__ == "__main__":
    main()
