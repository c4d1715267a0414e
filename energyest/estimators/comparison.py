"""`EstimatorComparison`: how far off every estimator was, over many finished runs."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from energyest.errors import EstimateError
from energyest.estimate import format_energy

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    *("run", "model", "gpu", "epochs", "observed", "method", "measured_J"),
    *("energy_J", "lower_J", "upper_J", "duration_s", "error_J", "error_pct", "note"),
)


@dataclass(frozen=True, eq=False, repr=False)
class EstimatorComparison:
    """Estimates of many finished runs beside what was measured of them.

    Attributes:
        runs: one row a run and method, with the columns `run, model, gpu, epochs, observed, method,
            measured_J, energy_J, lower_J, upper_J, duration_s, error_J, error_pct, note`; `epochs`
            is how many were estimated, `observed` how many of them the estimators saw. Where a
            method refused, its numbers are NaN and `note` says why.
        confidence: probability that the intervals are meant to hold the measured energy.
    """

    runs: pd.DataFrame
    confidence: float

    @property
    def summary(self) -> pd.DataFrame:
        """One row a method, as a new DataFrame.

        Each method over the runs that it answered. One that refuses hard runs looks the better for
        it: see `refused`, and hold methods against each other by `shared()`. NaN where there is no
        run to take a figure from.

        - `runs`: how many runs it answered; `refused`: how many it did not;
        - `RMSE_J`: root of the mean squared error, in joules: large runs decide;
        - `MAPE_pct`: mean of the absolute errors in % of the measured energy;
        - `median_pct`: their median;
        - `bias_pct`: mean of the errors in %, positive where the method says too much;
        - `R2`: coefficient of determination, 1 - sum of squared errors / sum of squares around the
          mean of the measured energies; NaN unless there are two runs of different energy;
        - `held`: share of the intervals that hold the measured energy; NaN without intervals.
        """
        import pandas as pd  # noqa: PLC0415  (keeps `import energyest` fast)

        of_methods = self.runs.groupby("method", sort=False)
        rows = {str(method): _scores(rows) for method, rows in of_methods}
        table: pd.DataFrame = pd.DataFrame(list(rows.values()), index=list(rows))
        table.index.name = "method"
        return table

    def shared(self, *methods: str) -> EstimatorComparison:
        """The same over the runs that all of these methods answered: a fair comparison of them.

        Args:
            *methods: by default all that answered any run.

        Raises:
            EstimateError: a method is not part of the comparison, or no run was answered by all.
        """
        answered = self.runs[self.runs["energy_J"].notna()]
        known = list(dict.fromkeys(self.runs["method"]))
        unknown = [name for name in methods if name not in known]
        if unknown:
            raise EstimateError(
                f"{unknown[0]!r} is no method of this comparison; it has {', '.join(known)}"
            )
        chosen = methods or tuple(dict.fromkeys(answered["method"]))
        counts = answered[answered["method"].isin(chosen)].groupby("run")["method"].nunique()
        common = counts.index[counts == len(chosen)]
        if common.empty:
            raise EstimateError(
                f"no run was answered by all of {', '.join(chosen) or 'the methods'}: name fewer"
            )
        kept = self.runs["run"].isin(common) & self.runs["method"].isin(chosen)
        return EstimatorComparison(self.runs[kept].reset_index(drop=True), self.confidence)

    def __str__(self) -> str:
        parts = self._parts()
        return "\n\n".join(p if isinstance(p, str) else p.to_string() for p in parts)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        parts = self._parts()
        return "".join(
            f"<p style='white-space:pre-line'>{html.escape(p)}</p>"
            if isinstance(p, str)
            else p.to_html()
            for p in parts
        )

    def _parts(self) -> list[str | pd.DataFrame]:
        """The summary, and where methods differ in what they answered, that of the shared runs."""
        summary = self.summary
        first, last = int(self.runs["observed"].min()), int(self.runs["observed"].max())
        seen = _count(last, "epoch") if first == last else f"{first} to {last} epochs"
        parts: list[str | pd.DataFrame] = [
            f"{_count(self.runs['run'].nunique(), 'run')}, estimated after {seen}, intervals of "
            f"{100 * self.confidence:.6g} %:",
            _readable(summary),
        ]
        parts += self._refusals()
        if ((summary["runs"] > 0) & (summary["refused"] > 0)).any():
            try:
                shared = self.shared()
            except EstimateError as error:
                return [*parts, str(error)]
            count = _count(shared.runs["run"].nunique(), "run")
            parts += [f"The same over {count} that all of these answered:"]
            parts += [_readable(shared.summary)]
        return parts

    def _refusals(self) -> list[str]:
        """Why methods refused runs: the commonest reason of each."""
        refused = self.runs[self.runs["energy_J"].isna()]
        lines = [
            f"{method} refused {len(notes)}: {notes.mode().iloc[0]}"
            for method, notes in refused.groupby("method", sort=False)["note"]
        ]
        return ["\n".join(lines)] if lines else []


def _scores(rows: pd.DataFrame) -> dict[str, float]:
    """The summary's row of one method."""
    answered = rows[rows["energy_J"].notna()]
    measured_J, error_J = answered["measured_J"], answered["error_J"]
    off_pct = answered["error_pct"].abs()
    with_interval = answered[answered["lower_J"].notna() & answered["upper_J"].notna()]
    held = with_interval["measured_J"].between(with_interval["lower_J"], with_interval["upper_J"])
    return {
        "runs": len(answered),
        "refused": len(rows) - len(answered),
        "RMSE_J": math.sqrt((error_J**2).mean()),
        "MAPE_pct": float(off_pct.mean()),
        "median_pct": float(off_pct.median()),
        "bias_pct": float(answered["error_pct"].mean()),
        "R2": _r2(measured_J.to_numpy(), error_J.to_numpy()),
        "held": float(held.mean()) if len(held) else math.nan,
    }


def _r2(measured: np.ndarray[Any, Any], error: np.ndarray[Any, Any]) -> float:
    if len(np.unique(measured)) < 2:
        return math.nan  # there is no difference to explain
    return float(1 - np.sum(error**2) / np.sum((measured - measured.mean()) ** 2))


def _readable(summary: pd.DataFrame) -> pd.DataFrame:
    """The summary as text, with units."""
    formats = {
        "RMSE_J": ("RMSE", format_energy),
        "MAPE_pct": ("MAPE (%)", "{:.2f}".format),
        "median_pct": ("median (%)", "{:.2f}".format),
        "bias_pct": ("bias (%)", "{:+.2f}".format),
        "R2": ("R²", "{:.3f}".format),
        "held": ("held (%)", lambda share: f"{100 * share:.0f}"),
    }
    table: pd.DataFrame = summary[["runs", "refused"]].copy()
    for name, (title, text) in formats.items():
        table[title] = [text(value) if math.isfinite(value) else "-" for value in summary[name]]
    return table


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
