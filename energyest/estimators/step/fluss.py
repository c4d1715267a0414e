"""The paper's search for the stable epoch: FLUSS segmentation of the matrix profile of power."""

from __future__ import annotations

import numpy as np

from energyest.errors import EstimateError, MissingDependencyError
from energyest.records.trace import EnergyTrace

# The settings of del Rey et al., arXiv 2307.05520: readings per window, subsequence length of the
# corrected arc curve, number of regimes, and exclusion factor at both ends.
WINDOW = 10
SUBSEQUENCE = 10
REGIMES = 2
EXCLUSION = 3


def fluss_epoch(trace: EnergyTrace) -> int:
    """The epoch in which the power regime changes, by FLUSS on the matrix profile.

    The readings of the first device (a GPU if there is one) are resampled to one per second, the
    rate of the paper. The method needs the whole series and always finds a change, but never in
    the first or last 30 s.

    Raises:
        EstimateError: the trace holds too few readings, or epochs without times.
        MissingDependencyError: stumpy is not installed.
    """
    columns = trace.power_columns
    names = sorted(dict.fromkeys(columns["device"]), key=lambda n: not str(n).startswith("gpu"))
    ends_s = trace.column("end_s")
    if not names or not len(ends_s) or not np.isfinite(ends_s).all():
        raise EstimateError("method='fluss' needs power readings and epochs with times")
    rows = (columns["device"] == names[0]) & np.isfinite(columns["power_W"])
    time_s, power_W = columns["time_s"][rows], columns["power_W"][rows]
    seconds = np.arange(time_s[0], time_s[-1], 1.0) if len(time_s) else np.array([])
    # In a shorter series, the excluded ends meet, and nothing is left to search.
    shortest = 2 * EXCLUSION * SUBSEQUENCE + WINDOW
    if len(seconds) < shortest:
        raise EstimateError(
            f"method='fluss' needs {shortest} s of readings; the trace holds {len(seconds)}"
        )
    try:
        import stumpy  # noqa: PLC0415  (an extra that compiles for half a minute)
    except ImportError as error:
        raise MissingDependencyError("method='fluss' needs stumpy: pip install stumpy") from error
    profile = stumpy.stump(np.interp(seconds, time_s, power_W), m=WINDOW)
    _, changes = stumpy.fluss(
        profile[:, 1], L=SUBSEQUENCE, n_regimes=REGIMES, excl_factor=EXCLUSION
    )
    changed_s = seconds[int(changes[0])]
    return int(min(np.searchsorted(ends_s, changed_s, side="right"), len(ends_s) - 1))
