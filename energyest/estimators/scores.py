"""`score_estimators`: errors of all estimators over many finished runs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from energyest.checks import check_confidence, check_count, check_positive, positive_or_none
from energyest.display import format_energy
from energyest.errors import EstimateError
from energyest.estimators.compare import PAPER_EPOCHS, Planned, compare_estimators, measured_sum
from energyest.markup import joined, of_frame, paragraph
from energyest.records.run_labels import gpu_names, model_name
from energyest.records.trace import EnergyTrace

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = (
    *("run", "model", "gpu", "epochs", "observed", "method", "measured_J"),
    *("energy_J", "energy_lower_J", "energy_upper_J", "duration_s", "error_J", "error", "note"),
)
# Messages name at most this many runs.
_MOST_NAMES = 5


def score_estimators(
    traces: Sequence[EnergyTrace] | Mapping[str, EnergyTrace],
    epochs: float | None = None,
    *,
    observed: int | None = None,
    model: str | None = None,
    confidence: float = 0.9,
    measured_duration: bool = False,
    planned: Planned | None = None,
    tdp_W: float | None = None,
    utilization: float | None = None,
    ram_GB: float | None = None,
) -> EstimatorScores:
    """Estimate each of many finished runs with every estimator and score the errors.

    Each run is estimated as in `compare_estimators`.

    Args:
        traces: a mapping from names of runs to traces, or a list of traces; runs in a list are
            named by their `run_id` or else by their position.
        epochs: number of epochs of each whole training; by default all epochs of the trace.
        observed: number of epochs that the estimators see; by default 15, which the paper's setting
            of STEP needs, or half of the epochs for runs of fewer than 30.
        model: the hyperparameter that names the model, as in `collect_runs`.
        confidence: coverage probability of the intervals of STEP and PRE.
        measured_duration: see `compare_estimators`. This and the arguments below apply to all runs.
        planned: planned changes, for STEP; by default those that the monitor recorded.
        tdp_W: see `estimate_mlco2`.
        utilization: see `estimate_green_algorithms`.
        ram_GB: see `estimate_green_algorithms`.

    Returns:
        The estimates of all runs, and a summary of their errors.

    Raises:
        EstimateError: there is no run; an argument is invalid; two runs have the same name; or a
            run cannot be scored, because its energy (or duration) was not measured in all `epochs`
            or because no epoch is left after the `observed` ones. The message names the runs.

    Examples:
        >>> from energyest import EnergyTrace
        >>> from energyest.estimators import score_estimators
        >>> runs = [EnergyTrace.from_epochs([5100] + [J] * 19) for J in (4020, 4030, 4050)]
        >>> score_estimators(runs, observed=5).summary['runs']
        method
        STEP                                3
        STEP, power form                    0
        STEP, paper (start 10, window 5)    0
        STEP, paper, power form             0
        PRE                                 0
        first epoch                         3
        Green Algorithms                    0
        MLCO2                               0
        FLOPs                               0
        Name: runs, dtype: int64
    """
    import pandas as pd  # noqa: PLC0415  (keeps `import energyest` fast)

    known: dict[str, Any] = {
        "confidence": check_confidence(confidence, EstimateError),
        "measured_duration": measured_duration,
        "planned": [*planned] if isinstance(planned, Iterator) else planned,
        "tdp_W": tdp_W,
        "utilization": utilization,
        "ram_GB": ram_GB,
    }
    if observed is not None:
        observed = check_count(observed, "observed", EstimateError, least=0)
    if epochs is not None:
        check_positive(epochs, "epochs", EstimateError)
    runs = _named(traces)
    lengths = {name: _length(t) if epochs is None else epochs for name, t in runs.items()}
    seen = {name: _observed(n) if observed is None else observed for name, n in lengths.items()}
    total_J = {name: measured_sum(t, lengths[name], "energy_J") for name, t in runs.items()}
    _refuse(
        [name for name, energy_J in total_J.items() if not 0 < energy_J < math.inf],
        "the energy was not measured in all epochs, so there is nothing to compare estimates with: "
        "leave the run out, or score fewer epochs",
    )
    _refuse(
        [name for name in runs if seen[name] >= lengths[name]],
        "no epoch is left to estimate after the observed ones: observe fewer, or leave the run out",
    )
    if measured_duration:
        _refuse(
            [n for n, t in runs.items() if not measured_sum(t, lengths[n], "duration_s") > 0],
            "measured_duration=True needs the durations of all epochs",
        )
    tables = []
    for name, trace in runs.items():
        table = compare_estimators(trace, lengths[name], observed=seen[name], **known).reset_index()
        facts = {
            "run": name,
            "model": model_name(trace, model),
            "gpu": gpu_names(trace),
            "epochs": float(lengths[name]),
            "observed": seen[name],
            "measured_J": total_J[name],
        }
        tables.append(table.assign(**facts))
    return EstimatorScores(pd.concat(tables, ignore_index=True)[list(_COLUMNS)], confidence)


@dataclass(frozen=True, eq=False, repr=False)
class EstimatorScores:
    """Estimates of many finished runs, next to the measurements.

    Attributes:
        runs: one row per run and method, with the columns `run, model, gpu, epochs, observed,
            method, measured_J, energy_J, energy_lower_J, energy_upper_J, duration_s, error_J,
            error, note`. `epochs` is the number of epochs estimated, `observed` the number that the
            estimators saw, and `error` a share of the measured energy. If a method refused a run,
            its numbers are NaN and `note` says why.
        confidence: nominal coverage probability of the intervals.
    """

    runs: pd.DataFrame
    confidence: float

    @property
    def summary(self) -> pd.DataFrame:
        """One row per method, as a new DataFrame.

        Each method is scored over the runs that it answered. A method that refuses difficult runs
        therefore looks better: see `refused`, and use `shared()` to compare methods. Figures
        without any run are NaN.

        - `runs`: number of runs that it answered; `refused`: number of runs that it did not;
        - `RMSE_J`: root mean squared error, in joules; dominated by large runs;
        - `MAPE`: mean of the absolute errors as a share of the measured energy (1 is 100 %);
        - `median_error`: median of these absolute errors;
        - `bias`: mean of the relative errors, positive if the method overestimates;
        - `R2`: coefficient of determination, 1 - sum of squared errors / sum of squares around the
          mean of the measured energies; NaN unless there are two runs of different energy;
        - `coverage`: share of the intervals that cover the measured energy; NaN without intervals.
        """
        import pandas as pd  # noqa: PLC0415  (keeps `import energyest` fast)

        of_methods = self.runs.groupby("method", sort=False)
        rows = {str(method): _scores(rows) for method, rows in of_methods}
        table: pd.DataFrame = pd.DataFrame(list(rows.values()), index=list(rows))
        table.index.name = "method"
        return table

    def shared(self, *methods: str) -> EstimatorScores:
        """The scores over the runs that all of these methods answered, for a fair comparison.

        Args:
            *methods: names of methods; by default all that answered any run.

        Raises:
            EstimateError: a method is unknown, or no run was answered by all methods.
        """
        answered = self.runs[self.runs["energy_J"].notna()]
        known = list(dict.fromkeys(self.runs["method"]))
        unknown = [name for name in methods if name not in known]
        if unknown:
            raise EstimateError(
                f"{unknown[0]!r} is not a method of these scores; they have {', '.join(known)}"
            )
        chosen = methods or tuple(dict.fromkeys(answered["method"]))
        counts = answered[answered["method"].isin(chosen)].groupby("run")["method"].nunique()
        common = counts.index[counts == len(chosen)]
        if common.empty:
            raise EstimateError(
                f"no run was answered by all of {', '.join(chosen) or 'the methods'}: name fewer"
            )
        kept = self.runs["run"].isin(common) & self.runs["method"].isin(chosen)
        return EstimatorScores(self.runs[kept].reset_index(drop=True), self.confidence)

    def __str__(self) -> str:
        parts = self._parts()
        return "\n\n".join(p if isinstance(p, str) else p.to_string() for p in parts)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        parts = self._parts()
        return str(joined(paragraph(p) if isinstance(p, str) else of_frame(p) for p in parts))

    def _parts(self) -> list[str | pd.DataFrame]:
        """The summary and, if methods answered different runs, the summary of the shared runs."""
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
            parts += [f"Scores over the {count} that all of these methods answered:"]
            parts += [_readable(shared.summary)]
        return parts

    def _refusals(self) -> list[str]:
        """The most frequent reason of each method for refusing runs."""
        refused = self.runs[self.runs["energy_J"].isna()]
        lines = [
            f"{method} refused {len(notes)}: {notes.mode().iloc[0]}"
            for method, notes in refused.groupby("method", sort=False)["note"]
        ]
        return ["\n".join(lines)] if lines else []


def _scores(rows: pd.DataFrame) -> dict[str, float]:
    """The summary's row of one method."""
    answered = rows[rows["energy_J"].notna()]
    measured_J, error_J, error = (answered[name] for name in ("measured_J", "error_J", "error"))
    with_interval = answered[
        answered["energy_lower_J"].notna() & answered["energy_upper_J"].notna()
    ]
    lower_J, upper_J = with_interval["energy_lower_J"], with_interval["energy_upper_J"]
    covers = with_interval["measured_J"].between(lower_J, upper_J)
    return {
        "runs": len(answered),
        "refused": len(rows) - len(answered),
        "RMSE_J": math.sqrt((error_J**2).mean()),
        "MAPE": float(error.abs().mean()),
        "median_error": float(error.abs().median()),
        "bias": float(error.mean()),
        "R2": _r2(measured_J.to_numpy(), error_J.to_numpy()),
        "coverage": float(covers.mean()) if len(covers) else math.nan,
    }


def _r2(measured: np.ndarray[Any, Any], error: np.ndarray[Any, Any]) -> float:
    if len(np.unique(measured)) < 2:
        return math.nan  # there is no variance to explain
    return float(1 - np.sum(error**2) / np.sum((measured - measured.mean()) ** 2))


def _readable(summary: pd.DataFrame) -> pd.DataFrame:
    """The summary as text, with units."""
    formats: dict[str, tuple[str, Callable[[float], str]]] = {
        "RMSE_J": ("RMSE", format_energy),
        "MAPE": ("MAPE (%)", lambda share: f"{100 * share:.2f}"),
        "median_error": ("median (%)", lambda share: f"{100 * share:.2f}"),
        "bias": ("bias (%)", lambda share: f"{100 * share:+.2f}"),
        "R2": ("R²", "{:.3f}".format),
        "coverage": ("coverage (%)", lambda share: f"{100 * share:.0f}"),
    }
    table: pd.DataFrame = summary[["runs", "refused"]].copy()
    for name, (title, text) in formats.items():
        table[title] = [text(value) if math.isfinite(value) else "-" for value in summary[name]]
    return table


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _named(
    traces: Sequence[EnergyTrace] | Mapping[str, EnergyTrace],
) -> dict[str, EnergyTrace]:
    """The runs by name."""
    if not isinstance(traces, Mapping | Sequence) or isinstance(traces, str):
        raise EstimateError(
            f"traces is a {type(traces).__name__}: it must be a list of traces, or a mapping from "
            "names to traces"
        )
    if isinstance(traces, Mapping):
        pairs = list(traces.items())
    else:
        pairs = [(_name(index, trace), trace) for index, trace in enumerate(traces)]
    if not pairs:
        raise EstimateError("there is no run to score estimators on")
    for name, trace in pairs:
        if not isinstance(name, str):
            raise EstimateError(f"the name of a run is {name!r}: it must be text")
        if not isinstance(trace, EnergyTrace):
            raise EstimateError(
                f"run {name!r} is a {type(trace).__name__}: it must be an EnergyTrace"
            )
    twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    _refuse(twice, "several runs have this name: pass a mapping from names to traces")
    return dict(pairs)


def _name(index: int, trace: object) -> str:
    name = trace.meta.get("run_id") if isinstance(trace, EnergyTrace) else None
    return name if isinstance(name, str) and name else str(index)


def _length(trace: EnergyTrace) -> float:
    """The number of epochs of a finished run, with a fraction if it ended within an epoch."""
    planned = positive_or_none(trace.meta.get("planned_epochs"))
    return planned if planned is not None and math.ceil(planned) == len(trace) else len(trace)


def _observed(epochs: float) -> int:
    return min(PAPER_EPOCHS, math.ceil(epochs) // 2)


def _refuse(names: list[str], why: str) -> None:
    """Raise an error that names the given runs, if there are any."""
    if names:
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        which = ", ".join(repr(name) for name in names[:_MOST_NAMES])
        raise EstimateError(f"run {which}{more}: {why}")
