"""Pictures, with matplotlib (extra `plot`), which nothing else imports.

Every function returns a matplotlib figure that belongs to no window: save it with `.savefig`, or
let a notebook show it.
"""

from energyest.plots.advice import plot_advice
from energyest.plots.comparison import plot_comparison
from energyest.plots.effects import plot_groups, plot_interaction
from energyest.plots.front import plot_front, plot_savings
from energyest.plots.match import plot_match
from energyest.plots.training.estimate import plot_estimate
from energyest.plots.training.trace import plot_trace

__all__ = [
    "plot_advice",
    "plot_comparison",
    "plot_estimate",
    "plot_front",
    "plot_groups",
    "plot_interaction",
    "plot_match",
    "plot_savings",
    "plot_trace",
]
