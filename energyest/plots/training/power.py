"""The panel of power over time, a line for each device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from energyest.arrays import FloatArray
from energyest.display import time_unit_for
from energyest.integration import GAP_TIMES, MAX_GAP_S
from energyest.plots.axes import name_axis
from energyest.plots.style import legend_beside, series_style, wrapped
from energyest.plots.thinning import MOST_ROWS, thin
from energyest.records.devices import rows_of_devices
from energyest.records.trace import EnergyTrace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Markers on a line: enough to tell it from others, few enough to see the line.
_MARKERS = 9


def draw_power(axes: Axes, trace: EnergyTrace) -> None:
    """Draw the power of all devices; they differ in colour and marker."""
    columns = trace.power_columns
    known = np.isfinite(columns["time_s"])
    longest_s = float(np.ptp(columns["time_s"][known])) if known.any() else 0.0
    size_s, unit = time_unit_for(longest_s)
    devices = rows_of_devices(columns["device"])
    for place, (device, rows) in enumerate(devices.items()):
        time_s, power_W = _line(columns["time_s"][rows], columns["power_W"][rows])
        colour, marker, _ = series_style(place)
        axes.plot(time_s / size_s, power_W, lw=1, color=colour)
        # Above all lines, and each device's elsewhere, so that none hides another's.
        every = max(1, len(time_s) // _MARKERS)
        marked = slice(place * every // len(devices), None, every)
        axes.plot(
            time_s[marked] / size_s, power_W[marked], ls="", color=colour, marker=marker, ms=6,
            mec="white", mew=0.6, zorder=3, label=wrapped(device),
        )  # fmt: skip
    axes.set(title="Power", xlabel=f"time ({unit})")
    axes.set_ylim(bottom=0)
    name_axis(axes.yaxis, "power_W")
    legend_beside(axes)


def _line(time_s: FloatArray, power_W: FloatArray) -> tuple[FloatArray, FloatArray]:
    """What is drawn of a device's readings: NaN where there is none for too long."""
    steps_s = np.diff(time_s)
    if len(steps_s):
        gaps = np.flatnonzero(steps_s > max(MAX_GAP_S, GAP_TIMES * float(np.median(steps_s))))
        time_s = np.insert(time_s, gaps + 1, time_s[gaps] + steps_s[gaps] / 2)
        power_W = np.insert(power_W, gaps + 1, np.nan)
    if len(time_s) <= MOST_ROWS:
        return time_s, power_W
    thinned = thin(time_s, power_W)
    both = np.stack([thinned.low, thinned.high], axis=1)
    return time_s[thinned.first].repeat(2), both.ravel()
