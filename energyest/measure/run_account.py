"""What a run has cost so far: readings and marks in, rows of epochs and totals out.

No thread, clock or file: the recorder feeds it and holds its lock.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from energyest.measure.checkpoint import RunCheckpoint
from energyest.measure.ledger import Event, Ledger, Mark, Usage, sum_of_parts
from energyest.measure.meter import Meter, PowerIntegral
from energyest.measure.sensors.base import Device, Reading
from energyest.records.epoch_table import EpochTable
from energyest.records.storage import encode_amendment, encode_epoch

log = logging.getLogger("energyest")

# Readings of power further apart than this leave a gap in the trace.
MAX_GAP_S = 5.0
# Those of a model need not be closer: its power is a mean since the last one.
_MAX_MODELLED_GAP_S = 60.0
# Beyond this share, counter and integrated power of a device contradict each other.
_DISAGREEMENT = 0.05
_DISAGREEMENT_AFTER_S = 30.0


class RunAccount:
    """The accounts of one run.

    A mark is booked once every device was read after it; until then the rows that it ends are
    provisional, with the last power taken to continue.

    Args:
        devices: what is to be measured.
        origin_s: the instant that counts as 0 in the rows.
        interval_s: seconds between rounds.
        unread: those that cannot be read: with one of them, nothing is known of the whole.
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
        #: Lines for the file of epochs that are not written yet.
        self.lines: list[str] = []
        self._origin_s = self._now_s = origin_s
        self._unread = frozenset(unread)
        self._meters = {d.device: _meter(d, self.max_gap_s) for d in devices}
        self._integrals = {d.device: PowerIntegral(self.max_gap_s) for d in devices}
        self._ledger = Ledger([d.kind for d in devices], origin_s)
        self._pending: list[Mark] = []
        self._epochs = EpochTable()
        self._tentative: dict[str, float] | None = None
        self._earlier: Mapping[str, float] = {}

    # ------------------------------------------------------------------ in

    def set_devices(self, devices: Sequence[Device], unread: Iterable[str]) -> None:
        """From now on, these are the devices; the arguments are those of the constructor."""
        before, names = list(self._meters), [d.device for d in devices]
        self._unread = frozenset(unread)
        new_meters = {d.device: _meter(d, self.max_gap_s) for d in devices}
        new_integrals = {name: PowerIntegral(self.max_gap_s) for name in names}
        self._meters = {n: self._meters.get(n, new) for n, new in new_meters.items()}
        self._integrals = {n: self._integrals.get(n, new) for n, new in new_integrals.items()}
        places = [before.index(name) if name in before else None for name in names]
        self._ledger.set_devices([d.kind for d in devices], places)

    def continue_from(self, earlier: RunCheckpoint) -> None:
        """Put the epochs and the energy of an earlier part before this one, which has none yet."""
        for row in earlier.rows():
            self._keep(row)
        self._ledger.continue_from(earlier.next_epoch, earlier.open_row)
        self._earlier = earlier.total

    @property
    def earlier_total(self) -> Mapping[str, float]:
        """What the earlier part had cost in all."""
        return self._earlier

    def drop_carried(self) -> None:
        """The epoch that an earlier part had begun begins anew: that part counts in no epoch."""
        self._ledger.carried = {}

    def add_round(self, began_s: float, readings: Sequence[Reading]) -> None:
        """Take in a round of readings, and book what it makes final."""
        for reading in readings:
            if reading.device not in self._meters:
                continue  # of a device that is no longer one
            self._meters[reading.device].add(reading)
            self._integrals[reading.device].add(reading)
        self.round_s = began_s
        self.book(began_s)
        oldest_s = self._pending[0].time_s if self._pending else began_s
        for meter in self._meters.values():
            meter.forget(oldest_s)

    def post(self, mark: Mark) -> float:
        """Take in a mark, in one step; returns its time, which is not before the last one's."""
        if self._pending and mark.time_s < self._pending[-1].time_s:
            # A signal handler has left that one since this was made.
            mark = replace(mark, time_s=self._pending[-1].time_s)
        self._pending.append(mark)
        return mark.time_s

    def add_metrics(self, time_s: float, values: Mapping[str, float]) -> None:
        """Add to the row that ended last, at once if it is final."""
        if any(mark.event is Event.EPOCH_END for mark in self._pending):
            self.post(Mark(time_s, Event.METRICS, dict(values)))
        else:
            self._amend(values)

    def book(self, until_s: float, *, wait: bool = True) -> None:
        """Book the marks up to an instant, as far as every device was read since.

        Args:
            until_s: the instant.
            wait: False where nothing is read at all.
        """
        if until_s < math.inf:
            self._now_s = until_s
        ready = 0
        for mark in self._pending:
            late = not wait or until_s - mark.time_s > self.max_gap_s
            if mark.time_s > until_s or not (late or self.all_read_since(mark.time_s)):
                break
            ready += 1
        booked, self._pending = self._pending[:ready], self._pending[ready:]
        for mark, usage in self._usages(booked):
            if mark.event is Event.METRICS:
                self._amend(mark.values)
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
        """Changes whenever a row of an epoch is added or becomes final."""
        ends = sum(mark.event is Event.EPOCH_END for mark in self._pending)
        return len(self._epochs), ends + (self._tentative is not None)

    @property
    def has_pending(self) -> bool:
        """Whether there are marks that are not booked."""
        return bool(self._pending)

    def last_row(self) -> dict[str, float]:
        """The row of the epoch that ended last, be it provisional."""
        rows = self._unresolved_rows()
        return rows[-1] if rows else self._epochs.last()

    def columns(self) -> dict[str, np.ndarray[Any, Any]]:
        """All rows as columns, the provisional ones last."""
        return self._epochs.columns(self._unresolved_rows())

    def total_J(self, at_s: float | None = None) -> float:
        """Joules from the start of the run to an instant, by default to the last mark."""
        ledger = self._ledger_at(None if at_s is None else Mark(at_s, Event.METRICS))
        return self._totals(ledger)["energy_J"]

    def rows_from(self, first: int) -> tuple[list[dict[str, float]], int]:
        """The rows from one of them on, the provisional ones last, and how many are final."""
        return self._epochs.rows_from(first) + self._unresolved_rows(), len(self._epochs)

    def all_read_since(self, time_s: float) -> bool:
        """Whether every device was read since; one that fails for long is not waited for."""
        for name, meter in self._meters.items():
            if name in self._unread:
                continue
            failing_s = self.round_s - max(meter.read_until_s, self._origin_s)
            if meter.read_until_s < time_s and failing_s <= self.max_gap_s:
                return False
        return True

    def never_read(self) -> list[str]:
        """The devices that should be read, and of which nothing was so far."""
        return [
            name
            for name, meter in self._meters.items()
            if name not in self._unread and meter.read_until_s == -math.inf
        ]

    def closing_meta(self, devices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What goes into the trace's meta when the run has ended.

        Args:
            devices: the entries of the devices so far, in their order.
        """
        if self._ledger.run_usage().time_s > _DISAGREEMENT_AFTER_S:
            self._report_disagreements()
        return self._summary(self._ledger, devices)

    def meta_so_far(self, at_s: float, devices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """As `closing_meta`, as if the run were cut off at an instant."""
        return self._summary(self._ledger_at(Mark(at_s, Event.RUN_END, interrupted=True)), devices)

    # ------------------------------------------------------------------ inside

    def _keep(self, row: dict[str, float]) -> None:
        self._epochs.append(row)
        self.lines.append(encode_epoch(row))

    def _amend(self, values: Mapping[str, float]) -> None:
        """Add to the row that ended last."""
        if self._tentative is not None:
            self._tentative |= values
        elif len(self._epochs):
            self._epochs.amend(values)
            self.lines.append(encode_amendment(len(self._epochs) - 1, values))

    def _unresolved_rows(self) -> list[dict[str, float]]:
        """Rows that are not final, with the last power taken to continue up to their end."""
        ledger = self._ledger.copy()
        rows = [] if self._tentative is None else [dict(self._tentative)]
        for mark, usage in self._usages(tuple(self._pending)):
            row = ledger.post(mark, usage)
            if row is not None:
                rows.append(row)
            if mark.event is Event.METRICS and rows:
                rows[-1] |= mark.values
        return rows

    def _totals(self, ledger: Ledger) -> dict[str, float]:
        usage = ledger.run_usage()
        total = {**ledger.components(usage), "duration_s": usage.time_s}
        if not self._earlier:
            return total
        whole = {name: sum_of_parts(name, total, self._earlier) for name in total}
        # Here, what is not known of a part is not known of the whole.
        whole["energy_J"] = total["energy_J"] + self._earlier.get("energy_J", math.nan)
        return whole

    def _ledger_at(self, last: Mark | None) -> Ledger:
        """A copy of the ledger in which the pending marks and one more are booked."""
        ledger = self._ledger.copy()
        for mark, usage in self._usages([*self._pending, *([] if last is None else [last])]):
            ledger.post(mark, usage)
        return ledger

    def _usages(self, marks: Sequence[Mark]) -> Iterator[tuple[Mark, Usage]]:
        """The usage up to each mark."""
        if not marks:
            return
        at_s = [mark.time_s for mark in marks]
        now_s = max(self.round_s, self._now_s, at_s[-1])
        values = [meter.values_at(at_s, now_s) for meter in self._meters.values()]
        for i, mark in enumerate(marks):
            energy_J = np.array([energy[i] for energy, _ in values])
            covered_s = np.array([covered[i] for _, covered in values])
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
        covered_s = float(usage.covered_s[index])
        entry: dict[str, Any] = {
            "energy_J": _known(float(usage.by_device()[index])),
            "missing_s": max(0.0, round(usage.time_s - covered_s, 6)),
            "failed_readings": self._meters[name].failed_readings,
        }
        if self._integrals[name].energy_J > 0:
            entry["power_integral_J"] = self._integrals[name].energy_J
        return entry

    def _report_disagreements(self) -> None:
        for name, meter in self._meters.items():
            counter_J = meter.value_at(self.round_s).energy_J
            integral_J = self._integrals[name].energy_J
            if counter_J > 0 and integral_J > 0:
                difference = integral_J / counter_J - 1
                if abs(difference) > _DISAGREEMENT:
                    log.warning(
                        "energyest: over the run, %s integrated from its power differs from its "
                        "energy counter by %+.1f %%; the trace follows the counter",
                        name,
                        100 * difference,
                    )


def _meter(device: Device, max_gap_s: float) -> Meter:
    gap_s = max(max_gap_s, _MAX_MODELLED_GAP_S) if device.source == "modelled" else max_gap_s
    return Meter(gap_s, max_power_W=device.most_power_W)


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
