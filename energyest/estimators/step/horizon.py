"""The length of the whole training: in epochs, steps or seconds, or as the monitor recorded."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from energyest.checks import check_count, check_positive
from energyest.errors import EstimateError
from energyest.estimators.arguments import check_epochs, whole
from energyest.records.meta import read_positive
from energyest.records.trace import EnergyTrace


@dataclass(frozen=True)
class Horizon:
    """The end of a training: `epochs` or `end_s`, whichever comes first.

    Attributes:
        epochs: number of epochs; infinite if only a time limit ends the training.
        end_s: time limit in seconds from the start; infinite if there is none.
        duration_s: duration in seconds, if the caller knows it in addition to the epochs.
    """

    epochs: float = math.inf
    end_s: float = math.inf
    duration_s: float | None = None

    def is_reached(self, trace: EnergyTrace) -> bool:
        """Whether the trace holds the whole training."""
        return trace.epochs_done >= self.epochs or measured_s(trace) >= self.end_s


def find_horizon(
    trace: EnergyTrace, epochs: float | None, steps: int | None, duration_s: float | None
) -> Horizon:
    """The end of the training from the arguments or, without any, from the trace's meta.

    Raises:
        EstimateError: the end lies before the last measured epoch, is given twice, or is unknown.
    """
    if epochs is not None and steps is not None:
        raise EstimateError("epochs and steps both set the length of the training: pass only one")
    if duration_s is not None:
        duration_s = check_duration(trace, duration_s)
    if epochs is not None:
        return Horizon(check_epochs(trace, epochs), duration_s=duration_s)
    if steps is not None:
        return Horizon(_epochs_of(trace, steps), duration_s=duration_s)
    if duration_s is not None:
        return Horizon(end_s=duration_s)
    planned = read_positive(trace.meta, "planned_epochs")
    end_s = read_positive(trace.meta, "planned_duration_s")
    horizon = Horizon(
        # A training may last longer than planned.
        epochs=math.inf if planned is None else whole(float(_planned_length(trace, planned))),
        end_s=math.inf if end_s is None else max(end_s, measured_s(trace)),
    )
    if horizon == Horizon():
        raise EstimateError(
            "the trace does not say how long the training is: pass epochs, steps or duration_s"
        )
    return horizon


def tells_length(trace: EnergyTrace) -> bool:
    """Whether the trace holds the planned length of the training."""
    planned = ("planned_epochs", "planned_duration_s")
    return any(read_positive(trace.meta, name) for name in planned)


def check_duration(trace: EnergyTrace, duration_s: float) -> float:
    """Return a duration; raise an error if it is shorter than the measured time."""
    seconds = check_positive(duration_s, "duration_s", EstimateError)
    if seconds < measured_s(trace) * (1 - 1e-9):
        raise EstimateError(
            f"duration_s={duration_s:g} is shorter than the {measured_s(trace):g} s already "
            "measured"
        )
    return seconds


def measured_s(trace: EnergyTrace) -> float:
    """Total duration of the epochs so far, in seconds."""
    return float(np.nansum(trace.column("duration_s")))


def _planned_length(trace: EnergyTrace, planned: float) -> float:
    """The planned number of epochs or, once the trace has as many rows, of those measured."""
    if len(trace) < math.ceil(planned):
        return planned
    done = trace.epochs_done
    # Without steps, only the plan says that the last epoch was cut short.
    return min(done, planned) if len(trace) == math.ceil(planned) else done


def _epochs_of(trace: EnergyTrace, steps: int) -> float:
    number = check_count(steps, "steps", EstimateError)
    of_epochs = trace.column("steps")
    if not len(of_epochs) or not (of_epochs > 0).all() or not np.isfinite(of_epochs).all():
        raise EstimateError(
            f"steps={number}: the trace does not hold the steps of its epochs; pass epochs instead"
        )
    done = float(of_epochs.sum())
    if number < done:
        raise EstimateError(f"steps={number} is less than the {done:g} steps measured")
    return whole(trace.epochs_done + (number - done) / float(np.median(of_epochs)))
