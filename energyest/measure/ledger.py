"""Turn marks (an epoch begins, validation ends, ...) and meter values into epoch rows.

It has no clock, thread or file: the recorder feeds it, and feeds a copy to see an unfinished epoch.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum, auto
from types import MappingProxyType
from typing import NamedTuple

from energyest.measure.sensors.base import Device
from energyest.records.devices import KINDS, energy_column, summed_columns

# Rounding of times; a gap is longer.
_TOLERANCE_S = 1e-6
# Rounding of energies in long runs.
_TOLERANCE_J = 1e-3


# Columns of what an epoch spends, as opposed to its times and metrics.
_SPENT = (
    "duration_s",
    "validation_s",
    "validation_energy_J",
    "energy_J",
    *map(energy_column, KINDS),
)


def with_carried(row: Mapping[str, float], carried: Mapping[str, float]) -> dict[str, float]:
    """Complete the row of an epoch that began in an earlier part of the run, before a resume.

    If one of the two parts lacks a kind of device (NaN), only the other part counts.
    """
    if not carried:
        return dict(row)
    # This keeps metrics that were logged only in the earlier part.
    whole = {**carried, **row, "start_s": row["start_s"] - carried["duration_s"]}
    for name in _SPENT:
        whole[name] = sum_of_parts(name, row, carried)
    # If the energy of a part is unknown, the sum is unknown too.
    if math.isnan(row["energy_J"]) or math.isnan(carried["energy_J"]):
        whole["energy_J"] = math.nan
    duration_s = whole["duration_s"]
    whole["mean_power_W"] = whole["energy_J"] / duration_s if duration_s > 0 else math.nan
    return whole


def sum_of_parts(name: str, *parts: Mapping[str, float]) -> float:
    """Sum a quantity over parts of a run.

    A part that lacks the quantity (NaN) adds nothing, unless the energy of that part is unknown:
    then the quantity may be what was not measured, and the sum is NaN.
    """
    values = [part.get(name, math.nan) for part in parts]
    missing = [math.isnan(value) for value in values]
    unknown = [math.isnan(part.get("energy_J", math.nan)) for part in parts]
    if all(missing) or any(map(operator.and_, missing, unknown)):
        return math.nan
    return math.fsum(value for value in values if not math.isnan(value))


class Event(Enum):
    """The kind of a mark."""

    RUN_START = auto()
    EPOCH_START = auto()
    EPOCH_END = auto()
    VALIDATION_START = auto()
    VALIDATION_END = auto()
    PAUSE_START = auto()
    PAUSE_END = auto()
    METRICS = auto()
    RUN_END = auto()


class Mark(NamedTuple):
    """An event of the training, at an instant of the sampler's clock.

    Attributes:
        time_s: time of the event.
        event: kind of the event.
        values: columns for the row that this mark ends or amends.
        continues: for the start of an epoch: it begins where the previous one ended, whatever was
            done in between.
        tentative: for the end of an epoch: it is void if an interruption comes next.
        interrupted: for the end of the run: it is an interruption.
    """

    time_s: float
    event: Event
    values: Mapping[str, float] = MappingProxyType({})
    continues: bool = False
    tentative: bool = False
    interrupted: bool = False


class Usage(NamedTuple):
    """What the devices drew up to an instant or, as a difference of two usages, between instants.

    Plain numbers, because for a few devices they are faster than arrays.

    Attributes:
        time_s: instant, or seconds between two.
        energy_J: joules of each device.
        covered_s: seconds in which each device was measured.
    """

    time_s: float
    energy_J: tuple[float, ...]
    covered_s: tuple[float, ...]

    def less(self, other: Usage) -> Usage:
        """The usage from another instant to this one."""
        return Usage(
            self.time_s - other.time_s,
            tuple(map(operator.sub, self.energy_J, other.energy_J)),
            tuple(map(operator.sub, self.covered_s, other.covered_s)),
        )

    def plus(self, other: Usage) -> Usage:
        """The sum of both."""
        return Usage(
            self.time_s + other.time_s,
            tuple(map(operator.add, self.energy_J, other.energy_J)),
            tuple(map(operator.add, self.covered_s, other.covered_s)),
        )

    def of_devices(self, places: Sequence[int | None]) -> Usage:
        """The usage for another list of devices.

        Args:
            places: the old index of each device; None for one that is new.
        """
        energy_J, covered_s = (
            tuple(0.0 if place is None else values[place] for place in places)
            for values in (self.energy_J, self.covered_s)
        )
        return Usage(self.time_s, energy_J, covered_s)

    def by_device(self) -> list[float]:
        """Joules of each device; NaN for a device that was not measured throughout.

        They are also NaN if more time is covered than has passed: a counter that could not be read
        for long shows the energy afterwards, but not to which epochs it belongs.
        """
        # A counter that corrects itself can take back energy booked earlier.
        return [
            joules
            if abs(covered_s - self.time_s) <= _TOLERANCE_S and joules >= -_TOLERANCE_J
            else math.nan
            for joules, covered_s in zip(self.energy_J, self.covered_s, strict=True)
        ]


class Ledger:
    """Keeps the accounts of a run.

    Args:
        devices: the devices, in the order of the usages.
        origin_s: the instant that counts as 0 in the rows.
    """

    def __init__(self, devices: Sequence[Device], origin_s: float) -> None:
        self._sums = _sums(devices)
        self._origin_s = origin_s
        self._nothing = Usage(0.0, (0.0,) * len(devices), (0.0,) * len(devices))
        self._run_start: Usage | None = None
        self._now = self._nothing
        self._epoch_start: Usage | None = None
        self._epoch_end: Usage | None = None
        self._validation_start: Usage | None = None
        self._validation = self._nothing
        self._pause_start: Usage | None = None
        self._pauses = 0
        self._pause = self._nothing
        self._pause_of_run = self._nothing
        self._epoch = 0.0
        #: The row of the epoch that the end of the run cut off.
        self.interrupted: dict[str, float] | None = None
        #: What an earlier part of the run spent on the first epoch of this part.
        self.carried: Mapping[str, float] = {}

    def continue_from(self, epoch: int, carried: Mapping[str, float]) -> None:
        """Continue with an epoch on which an earlier part of the run already spent `carried`."""
        self._epoch = float(epoch)
        self.carried = carried

    def set_devices(self, devices: Sequence[Device], places: Sequence[int | None]) -> None:
        """Continue with other devices; while a device was absent, its energy is unknown.

        Args:
            devices: the devices, in the order of the usages to come.
            places: the old index of each device; None for one that is new.
        """
        self._sums = _sums(devices)
        for name, value in vars(self).items():
            if isinstance(value, Usage):
                setattr(self, name, value.of_devices(places))

    def copy(self) -> Ledger:
        """An independent ledger in the same state."""
        other = Ledger.__new__(Ledger)
        vars(other).update(vars(self))  # attributes are replaced, never changed in place
        return other

    def post(self, mark: Mark, usage: Usage) -> dict[str, float] | None:
        """Book a mark with the usage up to it; return the row of the epoch that it ends, if any."""
        self._now = usage
        row = None
        match mark.event:
            case Event.RUN_START:
                self._run_start = usage
            case Event.EPOCH_START:
                self._start_epoch(mark, usage)
            case Event.EPOCH_END if self._epoch_start is not None:
                self._close_parts(usage)
                row = self._row(mark.values)
                self._epoch_start, self._epoch_end = None, usage
                self._reset_parts()
            case Event.VALIDATION_START if self._validation_start is None:
                self._validation_start = usage
            case Event.VALIDATION_END if self._validation_start is not None:
                self._validation = self._validation.plus(usage.less(self._validation_start))
                self._validation_start = None
            case Event.PAUSE_START:
                # A pause within a pause is one pause.
                self._pauses += 1
                if self._pauses == 1:
                    self._pause_start = usage
            case Event.PAUSE_END if self._pauses:
                self._pauses -= 1
                if not self._pauses:
                    self._book_pause(usage)
            case Event.RUN_END:
                self._close_parts(usage)
                if self._epoch_start is not None:
                    self.interrupted = self._row(mark.values)
                    self._epoch_start = None
        return row

    def run_usage(self) -> Usage:
        """Usage from the run's start to the last mark, without pauses; NaN before the start."""
        if self._run_start is None:
            return self._nothing._replace(energy_J=(math.nan,) * len(self._nothing.energy_J))
        until = self._now if self._pause_start is None else self._pause_start
        return until.less(self._run_start).less(self._pause_of_run)

    def components(self, usage: Usage) -> dict[str, float]:
        """Joules in all, and of each kind of device (NaN for a kind that was not measured).

        A joule that several devices have measured, such as a GPU and the node around it, counts
        once; see `energyest.records.devices`.
        """
        by_device = usage.by_device()
        return {
            column: sum([by_device[place] for place in places]) if places else math.nan
            for column, places in self._sums.items()
        }

    def _start_epoch(self, mark: Mark, usage: Usage) -> None:
        if mark.continues and self._epoch_end is not None:
            self._epoch_start = self._epoch_end
        else:
            self._epoch_start = usage
            self._reset_parts()
            if self._validation_start is not None:
                self._validation_start = usage  # the part before belongs to no epoch
        self._epoch = mark.values.get("epoch", self._epoch)

    def _row(self, values: Mapping[str, float]) -> dict[str, float]:
        assert self._epoch_start is not None
        spent = self._now.less(self._epoch_start)
        if self._pause is not self._nothing:
            spent = spent.less(self._pause)
        energy = self.components(spent)
        validation_J = 0.0
        if self._validation is not self._nothing:
            validation_J = self.components(self._validation)["energy_J"]
        row = {
            "epoch": self._epoch,
            "start_s": self._epoch_start.time_s - self._origin_s,
            "end_s": self._now.time_s - self._origin_s,
            "duration_s": spent.time_s,
            **energy,
            "validation_energy_J": validation_J if self._sums["energy_J"] else math.nan,
            "validation_s": self._validation.time_s,
            "mean_power_W": energy["energy_J"] / spent.time_s if spent.time_s > 0 else math.nan,
        }
        self._epoch += 1
        carried, self.carried = self.carried, {}
        return {**with_carried(row, carried), **values}

    def _close_parts(self, usage: Usage) -> None:
        """End what is still open when an epoch or the run ends."""
        if self._validation_start is not None:
            self._validation = self._validation.plus(usage.less(self._validation_start))
            self._validation_start = None
        if self._pause_start is not None:
            self._book_pause(usage)
            self._pauses = 0

    def _book_pause(self, usage: Usage) -> None:
        assert self._pause_start is not None
        pause = usage.less(self._pause_start)
        self._pause = self._pause.plus(pause)
        self._pause_of_run = self._pause_of_run.plus(pause)
        if self._validation_start is not None:
            # The pause is within a validation: subtract it there as well.
            self._validation_start = self._validation_start.plus(pause)
        self._pause_start = None

    def _reset_parts(self) -> None:
        self._validation = self._nothing
        self._pause = self._nothing


def _sums(devices: Sequence[Device]) -> dict[str, tuple[int, ...]]:
    return summed_columns([device.as_meta() for device in devices])


class OpenRows:
    """Rows that are not final.

    Attributes:
        rows: the rows so far.
        ledger: the ledger of these rows.
        bookings: how often marks had been booked when this object was made.
        marks: number of marks posted here.

    Args:
        ledger: a copy of the ledger in its final state so far.
        tentative: the first of the rows, if an interruption can still undo it.
        bookings: as above.
    """

    def __init__(
        self, ledger: Ledger, tentative: Mapping[str, float] | None, bookings: int
    ) -> None:
        self.rows = [] if tentative is None else [dict(tentative)]
        self.bookings = bookings
        self.marks = 0
        self.ledger = ledger

    def post(self, usages: Iterable[tuple[Mark, Usage]]) -> None:
        """Post further marks."""
        for mark, usage in usages:
            self.marks += 1
            row = self.ledger.post(mark, usage)
            if row is not None:
                self.rows.append(row)
            if mark.event is Event.METRICS and self.rows:
                self.rows[-1] |= mark.values
