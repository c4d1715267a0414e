"""`plot_estimate`: what a training will cost, and how sure that is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from energyest.display import format_both, format_energy
from energyest.errors import EstimateError
from energyest.estimate import Estimate
from energyest.plots.axes import name_axis
from energyest.plots.style import BLACK, BLUE, SKY, legend_beside, new_figure, plain_text, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@plain_text
def plot_estimate(estimate: Estimate) -> Figure:
    """A bar as long as the estimated energy, with what was measured of it, and the interval.

    Args:
        estimate: from any estimator.

    Returns:
        A matplotlib figure; `.savefig("estimate.png")` writes it.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        EstimateError: it is no estimate.

    Examples:
        >>> from energyest import Estimate
        >>> from energyest.plots import plot_estimate
        >>> figure = plot_estimate(Estimate(7.2e6, lower_J=6.9e6, upper_J=7.6e6, confidence=0.9))
        >>> len(figure.axes)
        1
    """
    if not isinstance(estimate, Estimate):
        raise EstimateError(f"estimate is a {type(estimate).__name__}: it must be an Estimate")
    figure = new_figure(8, 2.2)
    axes = figure.subplots()
    total_J, measured_J = estimate.energy_J, estimate.measured_J or 0.0
    if measured_J > 0:
        label = f"measured: {format_energy(measured_J)}"
        axes.barh(0, measured_J, height=0.5, color=BLUE, label=label)
    if total_J > measured_J:
        label = f"estimated: {format_energy(total_J - measured_J)}"
        axes.barh(
            0, total_J - measured_J, left=measured_J, height=0.5, color=SKY, hatch="//",
            label=label,
        )  # fmt: skip
    if estimate.lower_J is not None and estimate.upper_J is not None:
        spread = [[total_J - estimate.lower_J], [estimate.upper_J - total_J]]
        ends = f"{format_energy(estimate.lower_J)} to {format_energy(estimate.upper_J)}"
        label = wrapped(f"{100 * (estimate.confidence or 0):.4g} % interval: {ends}")
        axes.errorbar(total_J, 0, xerr=spread, color=BLACK, capsize=6, fmt="none", label=label)
    axes.set(yticks=[], ylim=(-0.5, 0.5))
    axes.set_xlim(left=0)
    name_axis(axes.xaxis, "energy_J")
    of = ""
    if estimate.epochs is not None:
        of = f" for {estimate.epochs:.6g} {estimate.unit}{'s' * (estimate.epochs != 1)}"
    axes.set_title(f"{format_both(total_J)}{of}")
    legend_beside(axes)
    return figure
