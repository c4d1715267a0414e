"""Turn the energy of time windows, as read from a tool's log, into an `EnergyTrace`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from energyest.arrays import FloatArray, check_increasing
from energyest.errors import TraceError
from energyest.readers.clock import Clock
from energyest.readers.ends import ends_on
from energyest.readers.readings import facts_of, finished
from energyest.records.devices import Device
from energyest.records.from_logs.epochs import log_of_epochs
from energyest.records.trace import EnergyTrace

if TYPE_CHECKING:
    import pandas as pd

# If a larger share of an epoch lies between windows, it was not measured.
_MOST_MISSING = 0.01


@dataclass(frozen=True)
class Windows:
    """The energy of consecutive time windows; each is an epoch, unless epoch ends are given.

    Attributes:
        path: the log.
        tool: the tool that wrote it.
        energy_J: shape (n,), joules of all devices measured.
        duration_s: shape (n,), seconds; None if not in the log.
        columns: further columns of shape (n,), such as `gpu_energy_J`.
        line: shape (n,), the line of each window in the log.
        end_s: shape (n,), when each window ended, in seconds on `clock`; None if not in the log.
        clock: the clock of `end_s`.
        devices: the devices measured.
        outside_J: energy that the log shows outside of the windows, such as after the last.
        notes: what the reader had to decide, with the line.
        facts: what the reader read.
    """

    path: Path
    tool: str
    energy_J: FloatArray
    duration_s: FloatArray | None
    columns: Mapping[str, FloatArray]
    line: Sequence[int]
    end_s: FloatArray | None = None
    clock: Clock | None = None
    devices: Sequence[Device] = ()
    outside_J: float = 0.0
    notes: Sequence[str] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def frame(self) -> pd.DataFrame:
        """The windows as a table, for a function that the user passed."""
        import pandas as pd  # noqa: PLC0415

        columns: dict[str, Any] = {"energy_J": self.energy_J, **self.columns}
        if self.duration_s is not None:
            columns["duration_s"] = self.duration_s
        if self.end_s is not None:
            columns["end_s"] = self.end_s
        frame: pd.DataFrame = pd.DataFrame(columns)
        return frame


def trace_of_windows(
    windows: Windows, *, epoch_end_s: Any = None, epoch_marks: str | None = None
) -> EnergyTrace:
    """Make the trace of a log of energy: its windows are the epochs, or are cut at given ends.

    Raises:
        TraceError: a value is impossible (the message names its line), or ends are given although
            the log has no times.

    Warns:
        UserWarning: as for `EnergyTrace.from_epochs`; the trace's notes repeat the warnings.
    """
    for name, values in {"energy": windows.energy_J, "duration": windows.duration_s}.items():
        if values is None:
            continue
        wrong = np.flatnonzero((values < 0) | np.isinf(values))
        if len(wrong):
            where = windows.line[int(wrong[0])]
            raise TraceError(
                f"{windows.path}, line {where}: {name} is {values[wrong[0]]:g}, but must not be "
                "negative or infinite"
            )
    meta: dict[str, Any] = facts_of(windows.tool, windows.path, windows.clock, windows.facts)
    if windows.devices:
        meta["devices"] = list(windows.devices)
    notes = list(windows.notes)
    energy_J, duration_s, columns = windows.energy_J, windows.duration_s, dict(windows.columns)
    if epoch_end_s is not None or epoch_marks is not None:
        energy_J, duration_s, columns = _cut(windows, epoch_end_s, epoch_marks)
        notes.append(
            "the log's own windows are cut at the ends given, as if power were constant in each"
        )
    elif windows.outside_J > 0 and np.isfinite(energy_J).all():
        meta["total_J"] = float(energy_J.sum()) + windows.outside_J
    try:
        log = log_of_epochs(energy_J, duration_s, meta, columns)
    except TraceError as error:
        raise TraceError(f"{windows.path}: {error}") from error
    return finished(windows.path, log.epochs, log.power, log.meta, [*notes, *log.doubts])


def _cut(
    windows: Windows, epoch_end_s: Any, epoch_marks: str | None
) -> tuple[FloatArray, FloatArray, dict[str, FloatArray]]:
    """Energy, duration and columns of the epochs between the given ends."""
    if windows.end_s is None or windows.duration_s is None or windows.clock is None:
        raise TraceError(
            f"{windows.path}: its rows are epochs without times, so epoch_end_s= cannot cut them: "
            "leave it out"
        )
    starts_s, ends_s = windows.end_s - windows.duration_s, windows.end_s
    clock, first_s = windows.clock, float(starts_s[0])
    if clock.kind == "seconds":
        given_s = ends_on(clock, epoch_end_s, epoch_marks, [], windows.frame)
    else:  # seconds count from the start of the first window, not from its end
        clock = clock._replace(zero_s=clock.zero_s + first_s)
        given_s = first_s + ends_on(clock, epoch_end_s, epoch_marks, [], windows.frame)
    edges = np.append(first_s, given_s)
    check_increasing(edges, "epoch_end_s (with the first start before it)", strictly=True)
    if edges[-1] > ends_s[-1] + 1.0:
        raise TraceError(
            f"{windows.path}: epoch_end_s ends at {edges[-1]:g} s, after the log's end"
        )
    knots_s = np.stack([starts_s, ends_s], axis=1).ravel()
    # Rows with times in whole seconds may seem to overlap by less than a second.
    knots_s = np.maximum.accumulate(knots_s)

    def between(values: FloatArray) -> FloatArray:
        # Unknown values count as missing below, and must not affect what comes after them.
        steps = np.stack([np.zeros(len(values)), np.nan_to_num(values)], axis=1).ravel()
        return np.diff(np.interp(edges, knots_s, np.cumsum(steps)))

    duration_s = np.diff(edges)
    known_s = between(np.where(np.isnan(windows.energy_J), 0.0, windows.duration_s))
    is_known = known_s >= (1 - _MOST_MISSING) * duration_s - 1.0
    columns = {
        name: np.where(is_known, between(values), np.nan)
        for name, values in windows.columns.items()
        if name.endswith("_energy_J")
    }
    return np.where(is_known, between(windows.energy_J), np.nan), duration_s, columns
