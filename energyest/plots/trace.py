"""`plot_trace`: power over time, energy of each epoch, and the projection."""

from __future__ import annotations

import math
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from energyest.arrays import FloatArray
from energyest.checks import check_count
from energyest.errors import EstimateError, TraceError
from energyest.estimate import Estimate, NotStableError
from energyest.estimators.arguments import check_epochs
from energyest.estimators.step.estimate import estimate_step
from energyest.plots.axes import name_axis
from energyest.plots.style import BLACK, BLUE, GREEN, GREY, ORANGE, new_figure, plain_text
from energyest.plots.thinning import MOST_ROWS, thin
from energyest.records.trace import EnergyTrace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = {"gpu": BLUE, "cpu": ORANGE, "ram": GREEN}


@plain_text
def plot_trace(
    trace: EnergyTrace, *, epochs: float | None = None, observed: int | None = None
) -> Figure:
    """Power over time, energy per epoch, and the cumulative energy with its projection.

    Of a long trace, neighbouring epochs are drawn together: their mean, their lowest and their
    highest. Power is then a line through the lowest and the highest of neighbouring readings.

    Args:
        trace: a finished or running training.
        epochs: number of epochs of the whole training; by default as many as the trace has.
        observed: project from the first `observed` epochs; by default from all.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        TraceError: the trace holds no epoch.
        EstimateError: `epochs` is fewer than were measured, or `observed` is not 1 or more.

    Examples:
        >>> from energyest import EnergyTrace
        >>> from energyest.plots import plot_trace
        >>> trace = EnergyTrace.from_epochs([5100, 4020, 4010, 4030, 4020], duration_s=[24] * 5)
        >>> figure = plot_trace(trace, epochs=10)
        >>> len(figure.axes)
        2
    """
    if not len(trace):
        raise TraceError("the trace holds no epoch to plot")
    epochs = check_epochs(trace, len(trace) if epochs is None else epochs)
    observed = check_count(len(trace) if observed is None else observed, "observed", EstimateError)
    observed = min(observed, len(trace))
    has_power = len(trace.power_columns["time_s"]) > 0
    figure = new_figure(8, 8 if has_power else 5.5)
    axes = figure.subplots(3 if has_power else 2, 1)
    if has_power:
        _plot_power(axes[0], trace)
    _plot_epochs(axes[-2], trace)
    _plot_projection(axes[-1], trace, epochs, observed)
    return figure


def _plot_power(axes: Axes, trace: EnergyTrace) -> None:
    columns = trace.power_columns
    for device in dict.fromkeys(columns["device"]):
        rows = columns["device"] == device
        colour = _COLOURS.get(str(device).split(":")[0], BLACK)
        time_s, power_W = columns["time_s"][rows], columns["power_W"][rows]
        if len(time_s) > MOST_ROWS:
            thinned = thin(time_s, power_W)
            time_s = time_s[thinned.first].repeat(2)
            power_W = np.stack([thinned.low, thinned.high], axis=1).ravel()
        axes.plot(time_s, power_W, lw=1, color=colour, label=str(device))
    name_axis(axes.xaxis, "time_s")
    name_axis(axes.yaxis, "power_W")
    axes.set_title("Power")
    axes.set_ylim(bottom=0)
    axes.legend(loc="best", frameon=False)


def _plot_epochs(axes: Axes, trace: EnergyTrace) -> None:
    validation_J = np.nan_to_num(trace.column("validation_energy_J"))
    energy_J = trace.column("energy_J")
    draw = _draw_bars if len(trace) <= MOST_ROWS else _draw_means
    draw(axes, energy_J, validation_J)
    name_axis(axes.yaxis, "energy_J")
    axes.set(xlabel=trace.unit, title=f"Energy of each {trace.unit}")


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
        axes.legend(loc="lower right", framealpha=1)


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
    axes.legend(loc="lower right", framealpha=1)


def _plot_projection(axes: Axes, trace: EnergyTrace, epochs: float, observed: int) -> None:
    position = np.arange(1, len(trace) + 1, dtype=np.float64)
    total_J = np.nancumsum(trace.column("energy_J"))
    drawn = thin(position, total_J).first  # of few rows, all
    drawn = np.union1d(drawn, [observed - 1, len(trace) - 1])
    axes.plot(position[drawn], total_J[drawn], color=GREY, lw=1)
    seen, later = drawn[drawn < observed], drawn[drawn >= observed]
    axes.plot(position[seen], total_J[seen], "o", ms=3, color=BLACK, label="measured")
    if len(later):
        axes.plot(position[later], total_J[later], "o", ms=3, color=GREY, label="measured later")
    name_axis(axes.yaxis, "cumulative_energy_J")
    axes.set(
        xlabel=f"{trace.unit}s",
        title=f"Projection after {observed} of {epochs:g} {trace.unit}s",
    )
    try:
        estimate = estimate_step(trace.head(observed), epochs)
    except (NotStableError, EstimateError) as error:
        reason = error.reason if isinstance(error, NotStableError) else str(error)
        axes.text(0.98, 0.05, fill(reason, 60), ha="right", va="bottom", transform=axes.transAxes)
    else:
        _draw_estimate(axes, estimate, observed, float(total_J[observed - 1]))
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper left", frameon=False)


def _draw_estimate(axes: Axes, estimate: Estimate, observed: int, known_J: float) -> None:
    assert estimate.epochs is not None
    begin = [observed, estimate.epochs]
    line = [known_J, estimate.energy_J]
    axes.plot(begin, line, "--", color=BLUE, zorder=3, label="projected (STEP)")
    if estimate.lower_J is None or estimate.upper_J is None:
        return
    low, high = [known_J, estimate.lower_J], [known_J, estimate.upper_J]
    label = f"{100 * (estimate.confidence or 0):.0f} % interval"
    axes.fill_between(begin, low, high, color=BLUE, alpha=0.25, lw=0, zorder=2, label=label)
    # A band may be too narrow to see; its end is not.
    spread = [[estimate.energy_J - estimate.lower_J], [estimate.upper_J - estimate.energy_J]]
    axes.errorbar(begin[1:], line[1:], yerr=spread, color=BLUE, capsize=4, zorder=3)
