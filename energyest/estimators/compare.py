"""Every estimator on one training, or on many finished ones, beside what was measured."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, overload

from energyest.errors import EstimateError
from energyest.estimators.checks import (
    check_confidence,
    check_count,
    check_positive,
    check_trace,
    positive_or_none,
)
from energyest.estimators.comparison import COLUMNS, EstimatorComparison
from energyest.estimators.methods import Given, Planned, measured, table_of
from energyest.estimators.step.horizon import find_horizon
from energyest.records.run_labels import gpu_names, model_name
from energyest.records.trace import EnergyTrace

if TYPE_CHECKING:
    import pandas as pd

# What the paper's setting of STEP needs to have seen.
_PAPER_EPOCHS = 15
# Of runs that cannot be compared, so many are named.
_MOST_NAMES = 5


@overload
def compare_estimators(
    trace: EnergyTrace,
    epochs: float | None = None,
    *,
    steps: int | None = None,
    observed: int | None = None,
    confidence: float = 0.9,
    duration_s: float | Literal["measured"] | None = None,
    planned: Planned | None = None,
    tdp_W: float | None = None,
    utilization: float | None = None,
    ram_GB: float | None = None,
) -> pd.DataFrame: ...


@overload
def compare_estimators(
    trace: Sequence[EnergyTrace] | Mapping[str, EnergyTrace],
    epochs: float | None = None,
    *,
    observed: int | None = None,
    model: str | None = None,
    confidence: float = 0.9,
    duration_s: Literal["measured"] | None = None,
    planned: Planned | None = None,
    tdp_W: float | None = None,
    utilization: float | None = None,
    ram_GB: float | None = None,
) -> EstimatorComparison: ...


def compare_estimators(
    trace: EnergyTrace | Sequence[EnergyTrace] | Mapping[str, EnergyTrace],
    epochs: float | None = None,
    *,
    steps: int | None = None,
    observed: int | None = None,
    model: str | None = None,
    confidence: float = 0.9,
    duration_s: float | Literal["measured"] | None = None,
    planned: Planned | None = None,
    tdp_W: float | None = None,
    utilization: float | None = None,
    ram_GB: float | None = None,
) -> pd.DataFrame | EstimatorComparison:
    """Estimate the same training, or each of many finished ones, with every estimator.

    What is estimated, and what it is held against, is the energy of the epochs, of all devices
    that the trace counts. Estimators see the observed epochs alone. PRE needs none of them, but it
    is of the GPU alone: where a trace counts processors and memory too, their mean power in the
    observed epochs is added, so that all methods are held against one figure.

    Args:
        trace: the epochs measured so far, or those of a finished run; or many finished runs, as a
            mapping from their names, or as a list, whose names are their `run_id` or else their
            place in it.
        epochs: number of epochs of the whole training. By default what the monitor recorded as
            planned; of each of many runs, all that it has.
        steps: of one training, instead of `epochs`: see `estimate_step`.
        observed: let the estimators see the first `observed` epochs alone; of a finished run this
            shows how far off each would have been. Of many runs by default 15, which is what the
            paper's setting of STEP needs, and of a run of fewer than 30 epochs half of them.
        model: of many, the hyperparameter that names the model, as in `collect_runs`.
        confidence: probability for the intervals of STEP and PRE.
        duration_s: duration of the whole training in seconds where it is known; `"measured"` for
            that of each finished run, as the paper has it, though no one knows it in advance.
        planned: changes known ahead, for STEP; by default those that the monitor recorded.
        tdp_W: see `estimate_mlco2`; of many runs, the same for all.
        utilization: see `estimate_green_algorithms`; likewise.
        ram_GB: see `estimate_green_algorithms`; likewise.

    Returns:
        Of one training, one row a method, with `energy_J, lower_J, upper_J, duration_s, note`;
        where the trace holds all `epochs` epochs also `error_J` and `error_pct` against their
        measured energy. A method that cannot be applied has NaN, and `note` says why.

        Of many, an `EstimatorComparison`, with these rows of all runs and a summary of the errors.

    Raises:
        EstimateError: more epochs were measured than `epochs` and `observed` does not cut them, or
            an argument is out of its range. Of many runs also: there is none, two have one name,
            one has nothing to be held against (its energy, or duration, was not measured in all
            `epochs`), or nothing left to be estimated after `observed` epochs; they are named.
    """
    given = Given(
        confidence=check_confidence(confidence),
        duration_s=duration_s,
        planned=[*planned] if isinstance(planned, Iterator) else planned,
        tdp_W=None if tdp_W is None else check_positive(tdp_W, "tdp_W"),
        utilization=utilization,
        ram_GB=ram_GB,
    )
    if observed is not None:
        observed = check_count(observed, "observed", least=0)
    if not isinstance(trace, Mapping | Sequence) or isinstance(trace, str):
        check_trace(trace)
        seen = trace if observed is None else trace.head(observed)
        number = find_horizon(seen, epochs, steps, None).epochs
        if math.isinf(number):
            raise EstimateError("the training is planned in time, not in epochs: give epochs")
        return table_of(trace, seen, number, given)
    if steps is not None:
        raise EstimateError("steps is for one training: of many, give epochs, or leave it out")
    if duration_s not in (None, "measured"):
        raise EstimateError(
            f"duration_s={duration_s!r} is for one training: of many it is None or 'measured'"
        )
    return _compare_runs(_named(trace), epochs, observed, model, given)


# ---------------------------------------------------------------------- many trainings


def _named(
    traces: Sequence[EnergyTrace] | Mapping[str, EnergyTrace],
) -> dict[str, EnergyTrace]:
    """The runs by their names."""
    if isinstance(traces, Mapping):
        pairs = list(traces.items())
    else:
        pairs = [(_name(index, trace), trace) for index, trace in enumerate(traces)]
    if not pairs:
        raise EstimateError("there is no run to compare estimators on")
    for name, trace in pairs:
        if not isinstance(name, str):
            raise EstimateError(f"the name of a run is {name!r}: it must be text")
        if not isinstance(trace, EnergyTrace):
            raise EstimateError(
                f"run {name!r} is a {type(trace).__name__}: it must be an EnergyTrace"
            )
    twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    _refuse(twice, "more than one run has this name: give a mapping from names to traces")
    return dict(pairs)


def _name(index: int, trace: object) -> str:
    name = trace.meta.get("run_id") if isinstance(trace, EnergyTrace) else None
    return name if isinstance(name, str) and name else str(index)


def _compare_runs(
    runs: Mapping[str, EnergyTrace],
    epochs: float | None,
    observed: int | None,
    model: str | None,
    given: Given,
) -> EstimatorComparison:
    import pandas as pd  # noqa: PLC0415  (keeps `import energyest` fast)

    if epochs is not None:
        check_positive(epochs, "epochs")
    lengths = {name: _length(t) if epochs is None else epochs for name, t in runs.items()}
    seen = {name: _observed(n) if observed is None else observed for name, n in lengths.items()}
    _refuse(
        [n for n, t in runs.items() if not 0 < measured(t, lengths[n], "energy_J") < math.inf],
        "the energy of all epochs was not measured, so there is nothing to hold estimates against: "
        "leave the run out, or compare on fewer epochs",
    )
    _refuse(
        [name for name in runs if seen[name] >= lengths[name]],
        "no epoch is left to be estimated after those observed: observe fewer, or leave the run "
        "out",
    )
    if given.duration_s is not None:
        _refuse(
            [n for n, t in runs.items() if not measured(t, lengths[n], "duration_s") > 0],
            "duration_s='measured' needs the durations of all epochs",
        )
    tables = []
    for name, trace in runs.items():
        table = table_of(trace, trace.head(seen[name]), lengths[name], given).reset_index()
        facts = {
            "run": name,
            "model": model_name(trace, model),
            "gpu": gpu_names(trace),
            "epochs": float(lengths[name]),
            "observed": seen[name],
            "measured_J": measured(trace, lengths[name], "energy_J"),
        }
        tables.append(table.assign(**facts))
    table = pd.concat(tables, ignore_index=True)[list(COLUMNS)]
    return EstimatorComparison(table, given.confidence)


def _length(trace: EnergyTrace) -> float:
    """All epochs of a finished run; of a last one that its end broke off, the part."""
    planned = positive_or_none(trace.meta.get("planned_epochs"))
    return planned if planned is not None and math.ceil(planned) == len(trace) else len(trace)


def _observed(epochs: float) -> int:
    return min(_PAPER_EPOCHS, math.ceil(epochs) // 2)


def _refuse(names: list[str], why: str) -> None:
    """Raise an error that names the runs, if there are any."""
    if names:
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        which = ", ".join(repr(name) for name in names[:_MOST_NAMES])
        raise EstimateError(f"run {which}{more}: {why}")
