"""`plot_trace`: power over time, energy of each epoch, and the cumulative energy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from energyest.checks import check_count
from energyest.errors import EstimateError, TraceError
from energyest.estimators.arguments import check_epochs, check_trace
from energyest.plots.style import new_figure, plain_text
from energyest.plots.training.epochs import draw_epochs
from energyest.plots.training.power import draw_power
from energyest.plots.training.projection import draw_projection, project
from energyest.records.trace import EnergyTrace

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@plain_text
def plot_trace(
    trace: EnergyTrace, *, epochs: float | None = None, observed: int | None = None
) -> Figure:
    """Power over time, energy per epoch, and the cumulative energy with its projection.

    - Power: a line for each device. It is broken where power was not read.
    - Energy of each epoch: training and validation; horizontal lines are the stable levels, and
      dotted vertical lines the changes that were planned. An epoch that was not measured is hatched
      and has no bar.
    - Cumulative energy: the projection is the dashed line, its interval the band around it. Both
      bend where a change is planned. A finished run is projected only where `observed` is given.

    Of a long trace, neighbouring epochs are drawn together: their mean, their lowest and their
    highest. Power is then a line through the lowest and the highest of neighbouring readings.

    Args:
        trace: a finished or running training.
        epochs: number of epochs of the whole training; by default what the monitor recorded as
            planned, or as many as the trace has.
        observed: project from the first `observed` epochs; by default from all.

    Returns:
        A matplotlib figure; `.savefig("energy.png")` writes it.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        TraceError: the trace holds no epoch.
        EstimateError: `epochs` is less than the number of measured epochs, or `observed` less
            than 1.

    Examples:
        >>> from energyest import EnergyTrace
        >>> from energyest.plots import plot_trace
        >>> trace = EnergyTrace.from_epochs([5100, 4020, 4010, 4030, 4020], duration_s=[24] * 5)
        >>> figure = plot_trace(trace, epochs=10)
        >>> len(figure.axes)
        2
    """
    check_trace(trace)
    if not len(trace):
        raise TraceError("the trace holds no epoch to plot")
    if epochs is not None:
        epochs = check_epochs(trace, epochs)
    observed = check_count(len(trace) if observed is None else observed, "observed", EstimateError)
    projection = project(trace, epochs, min(observed, len(trace)))
    has_power = bool(np.isfinite(trace.power_columns["power_W"]).any())
    figure = new_figure(9, 8.4 if has_power else 5.8)
    panels = figure.subplots(3 if has_power else 2, 1)
    if has_power:
        draw_power(panels[0], trace)
    draw_epochs(panels[-2], trace)
    draw_projection(panels[-1], trace, projection)
    return figure
