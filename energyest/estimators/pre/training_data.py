"""Training data of a PRE model: finished trainings, from traces or from a table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from energyest.checks import check_positive, is_number
from energyest.errors import EstimateError, WorkloadError
from energyest.estimators.pre.physics.operation_fit import TimedOperations
from energyest.gpus import Gpu, resolve_gpu
from energyest.records.devices import gpus_of, name_of
from energyest.records.meta import read_count, read_object, read_text
from energyest.records.trace import EnergyTrace
from energyest.records.workload import Operation, Workload

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("workload", "gpu", "step_s", "power_W")


@dataclass(frozen=True)
class TrainedRun:
    """The measured cost of a step of a finished training.

    Attributes:
        workload: the workload.
        gpu: the GPU.
        step_s: mean duration of a training step in seconds; NaN if only operations were timed.
        power_W: mean power of the GPU; NaN if it was not measured: such a run is only used to learn
            the duration of steps.
        model: name of the model; runs with the same name form a group.
        host: name of the machine, whose CPU is equally fast in all its runs; empty if unknown.
        operations_s: operations of a step, or single ones if no step was measured, each with the
            GPU's time for one of them in seconds, as from a profiler; empty if there are none.

    Raises:
        EstimateError: a number is not positive and finite (the power may be NaN, and the step if
            operations were timed).
    """

    workload: Workload
    gpu: Gpu
    step_s: float
    power_W: float
    model: str
    host: str = ""
    operations_s: tuple[tuple[Operation, float], ...] = ()

    def __post_init__(self) -> None:
        may_lack = {"power_W": True, "step_s": bool(self.operations_s)}
        for name, may_be_nan in may_lack.items():
            value = getattr(self, name)
            if not (may_be_nan and is_number(value) and math.isnan(value)):
                value = check_positive(value, name, EstimateError)
            object.__setattr__(self, name, float(value))
        for index, (_, seconds) in enumerate(self.operations_s):
            check_positive(seconds, f"operations_s[{index}]", EstimateError)

    @property
    def pair(self) -> tuple[Workload, Gpu]:
        """The input of a prediction."""
        return self.workload, self.gpu

    @property
    def has_step(self) -> bool:
        """Whether a step was measured, and not operations alone."""
        return not math.isnan(self.step_s)

    @property
    def timed(self) -> TimedOperations:
        """Its timed operations."""
        return TimedOperations(self.workload, self.gpu, self.operations_s, self.step_s)

    @property
    def has_power(self) -> bool:
        """Whether power and duration of its steps were measured."""
        return not math.isnan(self.energy_J)

    @property
    def energy_J(self) -> float:
        """Energy of a step in joules; NaN if its power was not measured."""
        return self.step_s * self.power_W


def runs_of(data: pd.DataFrame | Sequence[EnergyTrace] | Sequence[TrainedRun]) -> list[TrainedRun]:
    """Training data from traces recorded by `EnergyMonitor`, or from a table.

    Args:
        data: traces; or a table with the columns `workload` (a `Workload` or the result of its
            `to_dict`), `gpu` (a name or a `Gpu`), `step_s`, `power_W`, and optionally `model` and
            `host` (name of the machine).

    Raises:
        EstimateError: a column is missing; a value is invalid; or a trace holds no workload, no GPU
            or no epoch to learn from. The message names the row.
    """
    if hasattr(data, "to_dict") and hasattr(data, "columns"):
        missing = [name for name in COLUMNS if name not in data.columns]
        if missing:
            raise EstimateError(f"the table lacks the columns {', '.join(missing)}")
        found = [_row(i, row) for i, row in enumerate(data.to_dict("records"))]
    elif isinstance(data, Iterable):
        found = [r if isinstance(r, TrainedRun) else _of_trace(i, r) for i, r in enumerate(data)]
    else:
        raise EstimateError(
            f"data is a {type(data).__name__}: it must be a table or a list of traces"
        )
    if not found:
        raise EstimateError("data is empty: there is no run to learn from")
    return found


def _row(index: int, row: Mapping[Any, Any]) -> TrainedRun:
    model, host = row.get("model"), row.get("host")
    try:
        workload = row["workload"]
        if not isinstance(workload, Workload):
            workload = Workload.from_dict(workload)
        return TrainedRun(
            workload,
            resolve_gpu(row["gpu"]),
            row["step_s"],
            row["power_W"],
            model if isinstance(model, str) and model else workload.model,
            host if isinstance(host, str) else "",
        )
    except (EstimateError, WorkloadError) as error:
        raise EstimateError(f"row {index}: {error}") from error


def _of_trace(index: int, trace: object) -> TrainedRun:
    if not isinstance(trace, EnergyTrace):
        raise EstimateError(f"run {index} is a {type(trace).__name__}: it must be an EnergyTrace")
    return trained_run(trace, f"run {index}")[0]


def trained_run(trace: EnergyTrace, name: str) -> tuple[TrainedRun, int]:
    """The mean step in a trace's epochs except the first, and the number of these steps.

    Args:
        trace: trace of a training that `EnergyMonitor` or `track` recorded.
        name: name of the trace, for messages.

    Raises:
        EstimateError: it holds no workload, not exactly one known GPU, or no usable epoch.
    """
    stored = read_object(trace.meta, "workload")
    if not stored:
        raise EstimateError(
            f"{name} holds no workload: EnergyMonitor records one if it counts FLOPs"
        )
    gpus = gpus_of(trace.devices)
    if len(gpus) != 1:
        raise EstimateError(f"{name} was measured on {len(gpus)} GPUs: it must be one")
    steps = trace.column("steps")
    seconds = trace.column("duration_s") - np.nan_to_num(trace.column("validation_s"))
    # Validation is recorded for all devices together: assume the GPU's share in the whole epoch.
    with np.errstate(divide="ignore", invalid="ignore"):
        validation = np.nan_to_num(trace.column("validation_energy_J") / trace.column("energy_J"))
    joules = trace.column("gpu_energy_J") * (1 - validation)
    usable = np.isfinite(steps * seconds * joules) & (steps > 0) & (seconds > 0) & (joules > 0)
    # Epochs from before a checkpoint may have been trained on another GPU.
    usable[: read_count(trace.meta, "earlier_rows") or 0] = False
    if usable.sum() > 1:
        usable[np.flatnonzero(usable)[0]] = False  # the first epoch is cold
    if not usable.any():
        raise EstimateError(f"{name} holds no epoch with steps, duration and GPU energy")
    total_s = float(seconds[usable].sum())
    try:
        workload, gpu = Workload.from_dict(stored), resolve_gpu(name_of(gpus[0]))
    except (EstimateError, WorkloadError) as error:
        raise EstimateError(f"{name}: {error}") from error
    count = float(steps[usable].sum())
    run = TrainedRun(
        workload,
        gpu,
        total_s / count,
        float(joules[usable].sum()) / total_s,
        workload.model,
        read_text(trace.meta, "host") or "",
    )
    return run, round(count)
