"""The panel of the energy of each epoch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from energyest.arrays import FloatArray
from energyest.estimators.step.planned_changes import PlannedChange, planned_changes
from energyest.estimators.step.regimes import find_regimes
from energyest.plots.axes import count_axis, name_axis
from energyest.plots.style import BLACK, BLUE, GREY, ORANGE, VERMILION, legend_beside, wrapped
from energyest.plots.thinning import MOST_ROWS, thin
from energyest.records.meta import read_count
from energyest.records.trace import EnergyTrace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# A panel is at least so many epochs wide: a single bar should not fill the picture.
LEAST_EPOCHS = 8
# Of more planned changes, the legend names the first.
_MOST_NAMED = 3


def draw_epochs(axes: Axes, trace: EnergyTrace) -> None:
    """Draw the energy of each epoch, the stable levels, and the planned changes."""
    energy_J = trace.column("energy_J")
    validation_J = np.nan_to_num(trace.column("validation_energy_J"))
    draw = _draw_bars if len(trace) <= MOST_ROWS else _draw_means
    draw(axes, energy_J, validation_J)
    _mark_unmeasured(axes, energy_J, trace.unit)
    for regime in find_regimes(trace):
        ends = [regime.start - 0.5, regime.stop - 0.5]
        axes.plot(ends, [regime.mean_J] * 2, color=BLACK, lw=1.6, label="stable level")
    changes = [c for c in planned_changes(trace, None) if 0 < c.epoch < len(trace)]
    draw_planned(axes, changes, shift=-0.5)
    axes.set_xlim(-0.6, max(len(trace), LEAST_EPOCHS) - 0.4)
    axes.set_ylim(0, None if np.nanmax(energy_J, initial=0) > 0 else 1)
    name_axis(axes.yaxis, "energy_J")
    count_axis(axes.xaxis)
    steps = read_count(trace.meta, "interval_steps")
    of = f" of {steps} steps" if steps else ""
    axes.set(xlabel=trace.unit, title=f"Energy of each {trace.unit}{of}")
    legend_beside(axes)


def draw_planned(axes: Axes, changes: Iterable[PlannedChange], *, shift: float) -> None:
    """Mark where changes are planned, with a line at each and one entry in the legend.

    Args:
        axes: the panel.
        changes: those inside of it.
        shift: where the edge before an epoch lies in the panel, from the epoch's position.
    """
    changes = list(changes)
    for change in changes:
        axes.axvline(change.epoch + shift, color=VERMILION, ls=":", lw=1.6)
    if changes:
        named = [f"{change.reason or 'change'} ({change.epoch:g})" for change in changes]
        more = f"; {len(named) - _MOST_NAMED} more" if len(named) > _MOST_NAMED else ""
        text = f"planned: {'; '.join(named[:_MOST_NAMED])}{more}"
        axes.plot([], [], color=VERMILION, ls=":", lw=1.6, label=wrapped(text))


def _draw_bars(axes: Axes, energy_J: FloatArray, validation_J: FloatArray) -> None:
    position = np.arange(len(energy_J))
    axes.bar(position, energy_J - validation_J, color=BLUE, label="training")
    validated = validation_J > 0
    if validated.any():
        axes.bar(
            position[validated],
            validation_J[validated],
            bottom=(energy_J - validation_J)[validated],
            color=ORANGE,
            hatch="//",
            label="validation",
        )


def _draw_means(axes: Axes, energy_J: FloatArray, validation_J: FloatArray) -> None:
    """The same of many rows: means, and how far the rows lie apart."""
    position = np.arange(len(energy_J), dtype=np.float64) - 0.5
    whole, training = thin(position, energy_J), thin(position, energy_J - validation_J)
    edges = np.append(position[whole.first], len(energy_J) - 0.5)
    axes.stairs(training.mean, edges, fill=True, color=BLUE, label="training, mean")
    if (validation_J > 0).any():
        axes.stairs(
            whole.mean,
            edges,
            baseline=training.mean,
            fill=True,
            facecolor=ORANGE,
            hatch="//",
            label="validation, mean",
        )
    axes.stairs(
        whole.high,
        edges,
        baseline=whole.low,
        fill=True,
        color=BLACK,
        alpha=0.4,
        label=f"lowest to highest of {math.ceil(len(energy_J) / MOST_ROWS)}",
    )


def _mark_unmeasured(axes: Axes, energy_J: FloatArray, unit: str) -> None:
    """Hatch the epochs that were not measured, from the bottom to the top."""
    unknown = np.isnan(energy_J)
    if not unknown.any():
        return
    position = np.arange(len(unknown) + 1, dtype=np.float64) - 0.5
    if len(unknown) > MOST_ROWS:
        thinned = thin(position[:-1], np.where(unknown, np.nan, 0.0))
        unknown, position = np.isnan(thinned.mean), np.append(position[thinned.first], position[-1])
    edges = np.flatnonzero(np.diff(np.concatenate([[False], unknown, [False]])))
    for begin, end in zip(position[edges[::2]], position[edges[1::2]], strict=True):
        axes.axvspan(
            begin, end, facecolor="none", edgecolor=GREY, hatch="xx", lw=0, zorder=0.5,
            label=f"{unit}s not measured",
        )  # fmt: skip
