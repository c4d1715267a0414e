"""The panel of the cumulative energy, with its projection."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from energyest.arrays import FloatArray
from energyest.display import format_both, reason_of
from energyest.errors import EstimateError
from energyest.estimate import Estimate, NotStableError
from energyest.estimators.step.estimate import estimate_step, project_path
from energyest.estimators.step.horizon import tells_length
from energyest.estimators.step.planned_changes import PlannedChange, planned_changes
from energyest.plots.axes import count_axis, name_axis
from energyest.plots.style import BLACK, BLUE, GREY, legend_beside, wrapped
from energyest.plots.thinning import thin
from energyest.plots.training.epochs import LEAST_EPOCHS, draw_planned
from energyest.records.trace import EnergyTrace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Points of the projection between now and the end, beside those where a change is planned.
_POINTS = 7


@dataclass(frozen=True)
class Projection:
    """What is drawn of a projection.

    Attributes:
        observed: number of epochs that it was made from.
        epochs: number of epochs of the whole training; NaN if it is not known.
        estimate: the projection to the end; None if there is none.
        path: projections to epochs on the way there, the end included.
        changes: the changes planned between the first and the last epoch.
        why_not: why there is no projection; empty if there is one, or nothing left to project.
    """

    observed: int
    epochs: float
    estimate: Estimate | None = None
    path: tuple[Estimate, ...] = ()
    changes: tuple[PlannedChange, ...] = ()
    why_not: str = ""


def project(trace: EnergyTrace, epochs: float | None, observed: int) -> Projection:
    """The projection from the first `observed` epochs of a trace.

    Args:
        trace: at least one epoch.
        epochs: of the whole training; None for what the monitor recorded as planned, or what the
            trace has.
        observed: from 1 to the number of epochs of the trace.
    """
    if epochs is None and (observed < len(trace) or not tells_length(trace)):
        epochs = float(trace.epochs_done)
    seen = trace.head(observed)
    done = seen.epochs_done
    if epochs is not None and epochs <= done:
        return Projection(observed, epochs, changes=_changes(trace, epochs))
    try:
        estimate = estimate_step(seen, epochs)
        end = estimate.epochs if estimate.epochs is not None else math.nan
        changes = _changes(seen, end)
        if not end > done:
            return Projection(observed, end, changes=changes)
        points = np.linspace(done, end, _POINTS)
        bends = [change.epoch for change in changes if change.epoch > done]
        path = project_path(seen, np.union1d(points, bends).tolist())
    except (NotStableError, EstimateError) as error:
        unknown = math.nan if epochs is None else epochs
        return Projection(observed, unknown, why_not=reason_of(error))
    return Projection(observed, end, estimate, tuple(path), changes)


def draw_projection(axes: Axes, trace: EnergyTrace, projection: Projection) -> None:
    """Draw what was measured, and what is projected."""
    observed = projection.observed
    _draw_measured(axes, trace.column("energy_J"), observed, trace.epochs_done)
    title = "Cumulative energy"
    if projection.why_not:
        axes.text(
            0.98, 0.06, wrapped(projection.why_not, 60), ha="right", va="bottom",
            transform=axes.transAxes,
        )  # fmt: skip
    if projection.estimate is not None:
        _draw_estimate(axes, projection)
    if projection.estimate is not None or projection.why_not:
        of = f" of {projection.epochs:.6g}" if math.isfinite(projection.epochs) else ""
        title += f", and its projection after {observed}{of} {trace.unit}s"
    draw_planned(axes, projection.changes, shift=0)
    last = max([len(trace), LEAST_EPOCHS, *(one.epochs or 0.0 for one in projection.path)])
    axes.set_xlim(0, 1.02 * last)
    axes.set_ylim(bottom=0)
    axes.set(xlabel=f"{trace.unit}s", title=title)
    name_axis(axes.yaxis, "cumulative_energy_J")
    count_axis(axes.xaxis)
    legend_beside(axes)


def _changes(trace: EnergyTrace, epochs: float) -> tuple[PlannedChange, ...]:
    return tuple(c for c in planned_changes(trace, None) if 0 < c.epoch < epochs)


def _draw_measured(axes: Axes, energy_J: FloatArray, observed: int, done: float) -> None:
    """The sum of the epochs; where one was not measured, it is not known: a dotted line.

    Args:
        axes: where to draw.
        energy_J: shape (epochs,), their energies.
        observed: number of epochs that a projection was made from.
        done: number of epochs, less than that of the energies if the last was cut short.
    """
    known = np.isfinite(energy_J)
    if not known.any():
        axes.text(
            0.5, 0.5, "the energy of no epoch was measured", ha="center", transform=axes.transAxes
        )
        axes.set_ylim(0, 1)
        return
    position = np.arange(1, len(energy_J) + 1, dtype=np.float64)
    position[-1] = done
    rows = np.flatnonzero(known)
    # As `estimate_step` has it: epochs that were not read cost what those around them do. At the
    # end of the trace they belong to what is projected.
    filled_J = np.interp(position, position[rows], energy_J[rows])
    total_J = np.cumsum(filled_J)
    total_J[rows[-1] + 1 :] = np.nan
    sum_J = np.where(known, total_J, np.nan)
    drawn = thin(position, sum_J).first  # of few rows, all
    drawn = np.union1d(drawn, [observed - 1, len(energy_J) - 1])
    size = 3 if len(drawn) > 30 else 4
    seen, later = drawn[drawn < observed], drawn[drawn >= observed]
    axes.plot(position[drawn], sum_J[drawn], color=GREY, lw=1)
    axes.plot(position[seen], sum_J[seen], "o", ms=size, color=BLACK, label="measured")
    if len(later):
        axes.plot(position[later], sum_J[later], "s", ms=size, color=GREY, label="measured later")
    if not known.all():
        axes.plot(
            position[drawn], total_J[drawn], ":", color=GREY, lw=1.2,
            label=wrapped("not measured: taken to cost what the epochs around cost"),
        )  # fmt: skip


def _draw_estimate(axes: Axes, projection: Projection) -> None:
    end, path = projection.estimate, projection.path
    assert end is not None
    position = [one.epochs or 0.0 for one in path]
    label = wrapped(f"projected (STEP): {format_both(end.energy_J)}")
    axes.plot(position, [one.energy_J for one in path], "--", color=BLUE, zorder=3, label=label)
    if end.lower_J is None or end.upper_J is None:
        return
    low = [one.energy_J if one.lower_J is None else one.lower_J for one in path]
    high = [one.energy_J if one.upper_J is None else one.upper_J for one in path]
    label = f"{100 * (end.confidence or 0):.4g} % interval"
    axes.fill_between(position, low, high, color=BLUE, alpha=0.25, lw=0, zorder=2, label=label)
    # A band may be too narrow to see; its end is not.
    spread = [[end.energy_J - end.lower_J], [end.upper_J - end.energy_J]]
    axes.errorbar(position[-1:], [end.energy_J], yerr=spread, color=BLUE, capsize=4, zorder=3)
