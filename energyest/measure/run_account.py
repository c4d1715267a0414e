"""The cost of a run so far: readings and marks in, epoch rows and totals out.

It has no thread, clock or file: the recorder feeds it and holds its lock.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from energyest.integration import MAX_GAP_S
from energyest.measure.checkpoint import RunCheckpoint
from energyest.measure.ledger import Event, Ledger, Mark, OpenRows, Usage, sum_of_parts
from energyest.measure.meter import PowerIntegral, meter_of, report_disagreements
from energyest.measure.sampling.sampler import Round
from energyest.measure.sensors.base import Device, Reading
from energyest.records.epoch_table import AMENDS, EpochTable
from energyest.records.storage import encode_epoch, epoch_lines

# A device's counter and integrated power are compared in runs longer than this.
_DISAGREEMENT_AFTER_S = 30.0


class RunAccount:
    """The accounts of one run.

    A mark is booked once every device has been read after it; until then the row that it ends is
    provisional, and assumes that the last power continues.

    Args:
        devices: the devices to measure.
        origin_s: the instant that counts as 0 in the rows.
        interval_s: seconds between rounds.
        unread: devices that cannot be read: with one of them, the total is unknown.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        origin_s: float,
        interval_s: float,
        unread: Iterable[str] = (),
    ) -> None:
        self.max_gap_s = max(MAX_GAP_S, 3 * interval_s)
        #: When the last round of readings began.
        self.round_s = origin_s
        self._origin_s = self._now_s = origin_s
        # The last round in which counters were not read because nothing was lost by it.
        self._calm_s = -math.inf
        self._unread = frozenset(unread)
        self._meters = {d.device: meter_of(d, self.max_gap_s) for d in devices}
        self._integrals = {name: PowerIntegral(m.patience_s) for name, m in self._meters.items()}
        # The usage at an instant and the integrals of power then: from there on, power alone gives
        # the usage until readings are accounted for.
        self._anchor = Usage(origin_s, (math.nan,) * len(devices), (0.0,) * len(devices))
        self._integrals_J: tuple[float, ...] = (math.nan,) * len(devices)
        # The rows of unbooked marks by power alone, and how often marks were booked.
        self._ahead: OpenRows | None = None
        self._bookings = 0
        self._ledger = Ledger(devices, origin_s)
        self._pending: list[Mark] = []
        self._epochs = EpochTable()
        # Not written yet: epochs of an earlier part; rows, and additions to a row.
        self._earlier_lines: list[Iterable[str]] = []
        self._news: list[dict[str, float]] = []
        self._tentative: dict[str, float] | None = None
        self._earlier: Mapping[str, float] = {}

    # ------------------------------------------------------------------ in

    def set_devices(self, devices: Sequence[Device], unread: Iterable[str]) -> None:
        """Change the devices from now on; arguments as for the constructor."""
        before, names = list(self._meters), [d.device for d in devices]
        self._bookings += 1
        self._unread = frozenset(unread)
        new_meters = {d.device: meter_of(d, self.max_gap_s) for d in devices}
        new_integrals = {n: PowerIntegral(meter.patience_s) for n, meter in new_meters.items()}
        self._meters = {n: self._meters.get(n, new) for n, new in new_meters.items()}
        self._integrals = {n: self._integrals.get(n, new) for n, new in new_integrals.items()}
        places = [before.index(name) if name in before else None for name in names]
        self._ledger.set_devices(devices, places)
        self._know_now()

    def continue_from(self, earlier: RunCheckpoint) -> None:
        """Put the epochs and energy of an earlier part before this one, which has no epochs yet."""
        columns = earlier.past_columns()
        self._epochs.add_columns(columns)
        self._earlier_lines = [epoch_lines(columns)]
        self._bookings += 1
        self._ledger.continue_from(earlier.next_epoch, earlier.open_row)
        self._earlier = earlier.total

    @property
    def earlier_total(self) -> Mapping[str, float]:
        """The total cost of the earlier part."""
        return self._earlier

    def drop_carried(self) -> None:
        """Restart the epoch that an earlier part had begun: its share then counts in no epoch."""
        self._bookings += 1
        self._ledger.carried = {}

    def see(self, readings: Sequence[Reading]) -> None:
        """Note power as soon as it is read; called in the sampler's thread, without the lock."""
        for reading in readings:
            if reading.device in self._integrals:
                self._integrals[reading.device].add(reading)

    def add_round(self, taken: Round) -> None:
        """Take in a round of readings, which `see` has seen."""
        for reading in taken.readings:
            meter = self._meters.get(reading.device)
            if meter is not None:  # else the device no longer belongs to the run
                meter.add(reading, taken.counters_s.get(reading.device, math.nan))
        self.round_s = taken.began_s
        if taken.is_calm:
            self._calm_s = taken.began_s

    def settle(self, *, is_whole: bool) -> None:
        """Book the marks that the rounds so far made final; whole rounds include counters."""
        self.book(self.round_s)
        oldest_s = self._pending[0].time_s if self._pending else self.round_s
        for meter in self._meters.values():
            meter.forget(oldest_s)
        if is_whole:
            self._know_now()
        self._look_ahead()  # here, so that the end of an epoch has less to do

    @property
    def in_doubt_until_s(self) -> float:
        """Until when counters are to be read in each round, because power contradicted one."""
        return max((m.in_doubt_until_s for m in self._meters.values()), default=-math.inf)

    def post(self, mark: Mark) -> float:
        """Take in a mark, in one step; return its time, which is not before the last mark's."""
        if self._pending and mark.time_s < self._pending[-1].time_s:
            # A signal handler left the last mark after this one was made.
            mark = mark._replace(time_s=self._pending[-1].time_s)
        self._pending.append(mark)
        return mark.time_s

    def take_lines(self) -> list[Iterable[str]]:
        """New lines for the file of epochs, which are encoded when they are written."""
        earlier, self._earlier_lines = self._earlier_lines, []
        news, self._news = self._news, []
        return [*earlier, *(map(encode_epoch, [entry]) for entry in news)]

    def post_metrics(self, time_s: float, values: Mapping[str, float]) -> bool:
        """Add columns to the last row in one step if it is not final; else return False."""
        is_open = any(mark.event is Event.EPOCH_END for mark in self._pending)
        if is_open:
            self.post(Mark(time_s, Event.METRICS, dict(values)))
        return is_open

    def book(self, until_s: float, *, wait: bool = True) -> None:
        """Book the marks up to an instant, as far as every device has been read since.

        Args:
            until_s: the instant.
            wait: False if nothing is read at all.
        """
        self._bookings += 1
        if until_s < math.inf:
            self._now_s = until_s
        longest_s = max((m.patience_s for m in self._meters.values()), default=self.max_gap_s)
        ready = 0
        for mark in self._pending:  # metrics need no reading, and are written with their row
            if mark.event is not Event.METRICS:
                late = not wait or until_s - mark.time_s > longest_s
                if mark.time_s > until_s or not (late or self.all_read_since(mark.time_s)):
                    break
            ready += 1
        booked, self._pending = self._pending[:ready], self._pending[ready:]
        for mark, usage in self._usages(booked):
            if mark.event is Event.METRICS:
                self.amend(mark.values)
                continue
            if self._tentative is not None:
                if mark.interrupted:
                    self._ledger.interrupted = self._tentative
                else:
                    self._keep(self._tentative)
                self._tentative = None
            row = self._ledger.post(mark, usage)
            if row is not None and mark.tentative:
                self._tentative = row
            elif row is not None:
                self._keep(row)

    # ------------------------------------------------------------------ out

    @property
    def state(self) -> tuple[int, int]:
        """A value that changes whenever an epoch's row is added or becomes final."""
        ends = sum(mark.event is Event.EPOCH_END for mark in self._pending)
        return len(self._epochs), ends + (self._tentative is not None)

    @property
    def has_pending(self) -> bool:
        """Whether there are unbooked marks."""
        return bool(self._pending)

    def last_row(self) -> dict[str, float]:
        """The row of the last completed epoch; from power alone if it is not final."""
        rows = self._rows_by_power()
        return dict(rows[-1]) if rows else self._epochs.last()

    def columns(self, *, at_once: bool = False) -> dict[str, np.ndarray[Any, Any]]:
        """All rows as columns, the provisional ones last.

        Args:
            at_once: compute provisional rows from power alone, as `last_row` does.
        """
        rows = self._rows_by_power() if at_once else self._unresolved_rows()
        return self._epochs.columns(rows)

    def total_J(self, at_s: float | None = None) -> float:
        """Joules from the start of the run to about now, from power alone.

        Args:
            at_s: the instant; None for the last mark, whose energy is known.
        """
        if at_s is None:
            ledger = self._ledger_after(self._usages(self._pending))
        else:
            ledger = self._look_ahead().ledger.copy()
            for mark, usage in self._usages_by_power([Mark(at_s, Event.METRICS)]):
                ledger.post(mark, usage)
        return self._totals(ledger)["energy_J"]

    def rows_from(self, first: int) -> tuple[list[dict[str, float]], int]:
        """The rows from `first` on, the provisional ones last, and the number of final rows."""
        final = len(self._epochs)
        provisional = [dict(row) for row in self._rows_by_power()[max(0, first - final) :]]
        return self._epochs.rows_from(first) + provisional, final

    def all_read_since(self, time_s: float) -> bool:
        """Whether every device has been read since; one that has failed for long is ignored."""
        for name, meter in self._meters.items():
            if name in self._unread:
                continue
            # Do not wait for a counter that has failed for long: power is used instead.
            read_s = max(meter.read_until_s, self._calm_s)
            has_failed = self.round_s - read_s > meter.patience_s
            known_s = meter.heard_s if has_failed else meter.read_until_s
            failing_s = self.round_s - max(meter.heard_s, self._origin_s)
            if known_s < time_s and failing_s <= meter.patience_s:
                return False
        return True

    def never_read(self) -> list[str]:
        """The devices that should be read but never were."""
        return [
            name
            for name, meter in self._meters.items()
            if name not in self._unread and meter.read_until_s == -math.inf
        ]

    def closing_meta(self, devices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The entries of the trace's meta that are known when the run has ended.

        Args:
            devices: the entries of the devices so far, in order.
        """
        if self._ledger.run_usage().time_s > _DISAGREEMENT_AFTER_S:
            report_disagreements(self._meters, self._integrals, self.round_s)
        return self._summary(self._ledger, devices)

    def meta_so_far(
        self, at_s: float, devices: Sequence[Mapping[str, Any]], *, at_once: bool = False
    ) -> dict[str, Any]:
        """Like `closing_meta`, as if the run were cut off now; `at_once` uses power alone."""
        marks = [*self._pending, Mark(at_s, Event.RUN_END, interrupted=True)]
        usages = self._usages_by_power(marks) if at_once else self._usages(marks)
        return self._summary(self._ledger_after(usages), devices)

    # ------------------------------------------------------------------ inside

    def _keep(self, row: dict[str, float]) -> None:
        self._epochs.append(row)
        self._news.append(row)

    def amend(self, values: Mapping[str, float]) -> None:
        """Add columns to the last row, which is final."""
        self._bookings += 1
        if self._tentative is not None:
            self._tentative |= values
        elif len(self._epochs):
            self._epochs.amend(values)
            if not self._news:
                self._news.append({AMENDS: len(self._epochs) - 1})
            self._news[-1].update(values)

    def _unresolved_rows(self) -> list[dict[str, float]]:
        """Rows that are not final, assuming that the last power continues up to their end."""
        ahead = OpenRows(self._ledger.copy(), self._tentative, self._bookings)
        pending = tuple(self._pending)
        ahead.post(self._usages(pending))
        return ahead.rows

    def _rows_by_power(self) -> list[dict[str, float]]:
        """Rows that are not final, from power alone."""
        return self._look_ahead().rows

    def _look_ahead(self) -> OpenRows:
        """The rows of unbooked marks, from power alone; results for earlier marks are kept."""
        ahead, self._ahead = self._ahead, None  # so that a signal handler does not use it meanwhile
        if ahead is None or ahead.bookings != self._bookings:
            ahead = OpenRows(self._ledger.copy(), self._tentative, self._bookings)
        ahead.post(self._usages_by_power(self._pending[ahead.marks :]))
        self._ahead = ahead
        return ahead

    def _totals(self, ledger: Ledger) -> dict[str, float]:
        usage = ledger.run_usage()
        total = {**ledger.components(usage), "duration_s": usage.time_s}
        if not self._earlier:
            return total
        whole = {name: sum_of_parts(name, total, self._earlier) for name in total}
        # If the energy of a part is unknown, the total is unknown.
        whole["energy_J"] = total["energy_J"] + self._earlier.get("energy_J", math.nan)
        return whole

    def _ledger_after(self, usages: Iterable[tuple[Mark, Usage]]) -> Ledger:
        """A copy of the ledger with further marks booked."""
        ledger = self._ledger.copy()
        for mark, usage in usages:
            ledger.post(mark, usage)
        return ledger

    def _usages(self, marks: Sequence[Mark]) -> Iterator[tuple[Mark, Usage]]:
        """The usage up to each mark."""
        at_s = [mark.time_s for mark in marks]
        return zip(marks, self._usages_at(at_s) if at_s else (), strict=True)

    def _usages_at(self, at_s: list[float]) -> list[Usage]:
        now_s = max(self.round_s, self._now_s, at_s[-1])
        values = [meter.values_at(at_s, now_s) for meter in self._meters.values()]
        # Transpose: from the values of each device to the values at each instant.
        energies_J = zip(*(energy_J.tolist() for energy_J, _ in values), strict=True)
        covered_s = zip(*(covered_s.tolist() for _, covered_s in values), strict=True)
        if not values:
            return [Usage(time_s, (), ()) for time_s in at_s]
        return [Usage(*of) for of in zip(at_s, energies_J, covered_s, strict=True)]

    def _know_now(self) -> None:
        """Restart the estimate from power alone at the current accounts."""
        self._integrals_J = tuple(i.energy_at_J(self.round_s) for i in self._integrals.values())
        (self._anchor,) = self._usages_at([self.round_s])

    def _usages_by_power(self, marks: Sequence[Mark]) -> Iterator[tuple[Mark, Usage]]:
        """Like `_usages`, but from the integrals of power: approximate, and faster."""
        known, before_J = self._anchor, self._integrals_J
        is_broken = any(i.unbroken_since_s > known.time_s for i in self._integrals.values())
        if is_broken or any(map(math.isnan, before_J)):  # power was not read throughout
            yield from self._usages(marks)
            return
        for mark in marks:
            since_s = mark.time_s - known.time_s
            now_J = [i.energy_at_J(mark.time_s) for i in self._integrals.values()]
            energy_J = tuple(map(operator.add, known.energy_J, map(operator.sub, now_J, before_J)))
            covered_s = tuple([before_s + since_s for before_s in known.covered_s])
            yield mark, Usage(mark.time_s, energy_J, covered_s)

    def _summary(self, ledger: Ledger, devices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        usage = ledger.run_usage()
        total = self._totals(ledger)
        meta: dict[str, Any] = {
            "duration_s": total.pop("duration_s"),
            "total_J": _known(total.pop("energy_J")),
            "components": {name: _known(value) for name, value in total.items()},
            "devices": [
                {**entry, **self._device_entry(str(entry["device"]), usage, i)}
                for i, entry in enumerate(devices)
            ],
        }
        cut = ledger.interrupted or ledger.carried
        if cut:
            meta["interrupted_epoch"] = {name: _known(value) for name, value in cut.items()}
        return meta

    def _device_entry(self, name: str, usage: Usage, index: int) -> dict[str, Any]:
        meter, missing_s = self._meters[name], usage.time_s - usage.covered_s[index]
        entry: dict[str, Any] = {
            "energy_J": _known(usage.by_device()[index]),
            "missing_s": max(0.0, round(missing_s, 6)),
            "failed_readings": meter.failed_readings,
            "utilization": _known(meter.utilization),
        }
        if self._integrals[name].energy_J > 0:
            entry["power_integral_J"] = self._integrals[name].energy_J
        return entry


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
