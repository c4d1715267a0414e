"""Sensors and marks to an `EnergyTrace`, which is on disk while it grows."""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from energyest.errors import ConfigurationError, TraceError
from energyest.measure.ledger import Event, Ledger, Mark, Usage
from energyest.measure.meter import Meter
from energyest.measure.sampler import Clock, Sampler
from energyest.measure.sensors.base import Device, Reading, Sensor
from energyest.measure.tables import EpochTable, ReadingTable
from energyest.measure.writer import TraceWriter
from energyest.storage import encode_amendment, encode_epoch, encode_meta
from energyest.trace import EnergyTrace

log = logging.getLogger("energyest")

# Readings of power further apart than this leave a gap in the trace.
MAX_GAP_S = 5.0
# An epoch's end waits for a fresh reading if that costs less than this share of the epoch.
_WAIT_SHARE = 0.002
_FLUSH_S = 1.0
# How long the start waits for a sensor that fails at first.
_FIRST_READING_S = 0.5
# Beyond this share, counter and integrated power of a device contradict each other.
_DISAGREEMENT = 0.05
_DISAGREEMENT_AFTER_S = 30.0


# What nobody but the recorder writes into the meta of a trace.
_MEASURED_META = {
    "format",
    "run_id",
    "status",
    "start_time",
    "interval_s",
    "devices",
    "duration_s",
    "total_J",
    "components",
    "interrupted_epoch",
}


class Recorder:
    """Measures a run from `start` to `stop` and accounts for its epochs.

    The thread of the training only leaves marks; reading, accounting and writing are done by the
    sampler's thread. A row is final once every device was read after its end; until then `trace`
    holds it with the last power taken to continue.

    Args:
        sensors: what to read; the sampler closes them at the end.
        folder: where to write the trace while it grows; None to keep it in memory.
        interval_s: seconds between readings.
        meta: facts for the trace's meta.
        clock: monotonic clock in seconds.

    Raises:
        ConfigurationError: the interval is not positive.
    """

    def __init__(
        self,
        sensors: Iterable[Sensor],
        *,
        folder: Path | None = None,
        interval_s: float = 0.1,
        meta: Mapping[str, Any] | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        if not (math.isfinite(interval_s) and interval_s > 0):
            raise ConfigurationError(f"interval_s={interval_s!r} must be positive")
        self._sensors = list(sensors)
        self._clock = clock
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._max_gap_s = max(MAX_GAP_S, 3 * interval_s)
        devices = [sensor.device for sensor in self._sensors]
        names = [device.device for device in devices]
        if len(set(names)) < len(names):
            raise ConfigurationError(f"sensors of one name cannot be told apart: {names}")
        self._meters = {d.device: _meter(d, self._max_gap_s) for d in devices}
        self._integrals = {d.device: Meter(self._max_gap_s, use_counter=False) for d in devices}
        self._origin_s = clock()
        self._ledger = Ledger([s.device.kind for s in self._sensors], self._origin_s)
        self._pending: list[Mark] = []
        self._epochs = EpochTable()
        self._readings = ReadingTable()
        self._tentative: dict[str, float] | None = None
        self._to_write: list[str] = []
        self._meta: dict[str, Any] = {
            "run_id": uuid.uuid4().hex,
            "status": "running",
            "start_time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "interval_s": interval_s,
            "devices": [sensor.device.as_meta() for sensor in self._sensors],
            **(meta or {}),
        }
        self._meta_changed = False
        self._epoch_start_s = self._origin_s
        self._written_s = self._origin_s
        self._round_s = self._origin_s
        self._writer = None if folder is None else TraceWriter(folder, self._meta)
        self._sampler = Sampler(self._sensors, self._on_round, interval_s=interval_s, clock=clock)
        self._stopped = False

    # ------------------------------------------------------------------ the training's side

    def start(self) -> None:
        """Begin to measure; returns once every sensor was read, or soon if one cannot be."""
        self._sampler.start()
        give_up_s = self._clock() + _FIRST_READING_S
        while not self._all_read_since(self._origin_s) and self._clock() < give_up_s:
            self._sampler.sample_now(_FIRST_READING_S)
        self._mark(Event.RUN_START)

    def stop(self, status: str = "finished", values: Mapping[str, float] | None = None) -> None:
        """End the run: last reading, totals, files closed. Further calls do nothing.

        Args:
            status: `finished`, or what interrupted the run.
            values: columns of the epoch that this cuts off, if there is one.
        """
        if self._stopped or os.getpid() != self._pid:
            return  # a forked process has a copy of this object, but it is not its run
        self._stopped = True
        in_time = False
        try:
            self._mark(Event.RUN_END, values, interrupted=status != "finished")
            in_time = self._sampler.stop()
        finally:  # also if Ctrl-C comes just now
            self._close(status)
        if not in_time:
            log.warning("energyest: a sensor hangs; the run ends without its last readings")

    def _close(self, status: str) -> None:
        with self._lock:
            self._resolve(math.inf)
            self._settle(status)
            last_rows = self._readings.flush()
        if self._writer is not None:
            for row in last_rows:
                self._writer.write_reading(row)
            self._write(flush=True)
            self._writer.close()

    def start_epoch(self, epoch: int | None = None, *, continues: bool = False) -> None:
        """An epoch begins: now, or with `continues` where the one before it ended."""
        values = {} if epoch is None else {"epoch": float(epoch)}
        self._epoch_start_s = self._mark(Event.EPOCH_START, values, continues=continues)

    def end_epoch(
        self, values: Mapping[str, float] | None = None, *, tentative: bool = False
    ) -> dict[str, float]:
        """An epoch ends; returns its row.

        Args:
            values: further columns, such as `steps`, `samples`, `flops` and metrics.
            tentative: if the next thing to happen is that the run is interrupted, then the epoch
                was interrupted too.
        """
        now_s = self._mark(Event.EPOCH_END, values, tentative=tentative)
        budget_s = _WAIT_SHARE * (now_s - self._epoch_start_s)
        if self._sampler.round_cost_s < budget_s:
            self._sampler.sample_now(timeout_s=max(budget_s, 10 * self._sampler.round_cost_s))
        with self._lock:
            rows = self._unresolved_rows()
            return rows[-1] if rows else self._epochs.last()

    def start_validation(self) -> None:
        """Validation begins inside an epoch."""
        self._mark(Event.VALIDATION_START)

    def end_validation(self) -> None:
        """Validation ends."""
        self._mark(Event.VALIDATION_END)

    def pause(self) -> None:
        """What follows is not training; it counts neither in the epoch nor in the total."""
        self._mark(Event.PAUSE_START)

    def resume(self) -> None:
        """The training goes on."""
        self._mark(Event.PAUSE_END)

    def add_metrics(self, values: Mapping[str, float]) -> None:
        """Add to the row of the epoch that ended last."""
        if not values:
            return
        with self._lock:
            if not any(mark.event is Event.EPOCH_END for mark in self._pending):
                self._amend(values)
                return
        self._mark(Event.METRICS, values)  # its row is not final: the mark waits for it

    def annotate(self, **meta: Any) -> None:
        """Add facts to the trace's meta."""
        try:
            plain = json.loads(encode_meta(meta))
        except TraceError as error:
            log.warning("energyest: %s is left out: %s", ", ".join(map(str, meta)), error)
            return
        with self._lock:
            taken = [name for name in meta if name in _MEASURED_META]
            if taken:
                log.warning("energyest: %s is set by the recorder", ", ".join(taken))
            for name, value in plain.items():
                if name not in _MEASURED_META and self._meta.get(name, ...) != value:
                    self._meta[name] = value
                    self._meta_changed = True

    # ------------------------------------------------------------------ what was measured

    @property
    def folder(self) -> Path | None:
        """Where the trace is written; None if it is in memory only."""
        return None if self._writer is None else self._writer.folder

    @property
    def state(self) -> tuple[int, int]:
        """Changes whenever a row of an epoch is added or becomes final."""
        with self._lock:
            ends = sum(mark.event is Event.EPOCH_END for mark in self._pending)
            return len(self._epochs), ends + (self._tentative is not None)

    @property
    def total_J(self) -> float:
        """Energy from the start of the run to now, without pauses; NaN if a part is missing."""
        with self._lock:
            ledger = self._ledger.copy()
            now = [] if self._stopped else [Mark(self._clock(), Event.METRICS)]
            for mark, usage in self._usages([*self._pending, *now]):
                ledger.post(mark, usage)
            return ledger.components(ledger.run_usage())["energy_J"]

    def trace(self, *, readings: bool = True) -> EnergyTrace:
        """The trace up to now; without `readings`, its power table is empty."""
        with self._lock:
            unresolved = self._unresolved_rows()
            columns = self._epochs.columns()
            power = self._readings.columns() if readings else {}
            meta = copy.deepcopy(self._meta)
        if unresolved:
            columns = _with_rows(columns, unresolved)
        return EnergyTrace(columns, power, meta)

    # ------------------------------------------------------------------ inside

    def _mark(
        self,
        event: Event,
        values: Mapping[str, float] | None = None,
        **flags: bool,
    ) -> float:
        with self._lock:
            now_s = self._clock()
            self._pending.append(Mark(now_s, event, dict(values or {}), **flags))
            # If the sampler hangs, rows are made and written from here, without readings.
            hangs = now_s - self._round_s > self._max_gap_s
            if hangs:
                self._resolve(now_s)
        if hangs and self._writer is not None and os.getpid() == self._pid:
            self._write(flush=True)
        return now_s

    def _on_round(self, began_s: float, readings: list[Reading]) -> None:
        """In the sampler's thread: account for a round of readings and write what is final."""
        completed = []
        with self._lock:
            if self._stopped and not self._pending:
                return  # a round that hung until after the end
            for reading in readings:
                self._meters[reading.device].add(reading)
                self._integrals[reading.device].add(reading)
                since_start = reading._replace(time_s=reading.time_s - self._origin_s)
                row = self._readings.add(since_start)
                if row is not None:
                    completed.append(row)
            self._round_s = began_s
            self._resolve(began_s)
            oldest_s = self._pending[0].time_s if self._pending else began_s
            for name, meter in self._meters.items():
                meter.forget(oldest_s)
                self._integrals[name].forget(oldest_s)
        if self._writer is not None:
            for row in completed:
                self._writer.write_reading(row)
            self._write(flush=began_s - self._written_s >= _FLUSH_S)

    def _write(self, *, flush: bool) -> None:
        assert self._writer is not None
        with self._writing:
            self._write_alone(self._writer, flush=flush)

    def _write_alone(self, writer: TraceWriter, *, flush: bool) -> None:
        with self._lock:
            lines, self._to_write = self._to_write, []
            meta = copy.deepcopy(self._meta) if self._meta_changed else None
            self._meta_changed = False
        for line in lines:
            writer.write_epoch_line(line)
        if meta is not None:
            writer.write_meta(meta)
        if flush:
            writer.flush()
            self._written_s = self._clock()

    def _resolve(self, until_s: float) -> None:
        """Book the marks up to an instant, as far as every device was read since."""
        ready = 0
        for mark in self._pending:
            late = until_s - mark.time_s > self._max_gap_s
            if mark.time_s > until_s or not (late or self._all_read_since(mark.time_s)):
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

    def _keep(self, row: dict[str, float]) -> None:
        self._epochs.append(row)
        if self._writer is not None:
            self._to_write.append(encode_epoch(row))

    def _amend(self, values: Mapping[str, float]) -> None:
        """Add to the row that ended last."""
        if self._tentative is not None:
            self._tentative |= values
        elif len(self._epochs):
            self._epochs.amend(values)
            if self._writer is not None:
                self._to_write.append(encode_amendment(len(self._epochs) - 1, values))

    def _unresolved_rows(self) -> list[dict[str, float]]:
        """Rows that are not final, with the last power taken to continue up to their end."""
        ledger = self._ledger.copy()
        rows = [] if self._tentative is None else [dict(self._tentative)]
        for mark, usage in self._usages(self._pending):
            row = ledger.post(mark, usage)
            if row is not None:
                rows.append(row)
            if mark.event is Event.METRICS and rows:
                rows[-1] |= mark.values
        return rows

    def _all_read_since(self, time_s: float) -> bool:
        """Whether every device was read since; one that fails for long is not waited for."""
        for meter in self._meters.values():
            failing_s = self._round_s - max(meter.read_until_s, self._origin_s)
            if meter.read_until_s < time_s and failing_s <= self._max_gap_s:
                return False
        return True

    def _usages(self, marks: Sequence[Mark]) -> Iterator[tuple[Mark, Usage]]:
        """The usage up to each mark."""
        if not marks:
            return
        at_s = [mark.time_s for mark in marks]
        values = [meter.values_at(at_s) for meter in self._meters.values()]
        for i, mark in enumerate(marks):
            energy_J = np.array([energy[i] for energy, _ in values])
            covered_s = np.array([covered[i] for _, covered in values])
            yield mark, Usage(mark.time_s, energy_J, covered_s)

    def _settle(self, status: str) -> None:
        """Write the totals of the run into its meta."""
        usage = self._ledger.run_usage()
        total = self._ledger.components(usage)
        self._meta |= {
            "status": status,
            "duration_s": usage.time_s,
            "total_J": _known(total.pop("energy_J")),
            "components": {name: _known(value) for name, value in total.items()},
        }
        if self._ledger.interrupted is not None:
            cut = self._ledger.interrupted
            self._meta["interrupted_epoch"] = {n: _known(v) for n, v in cut.items()}
        for entry, energy_J, covered_s in zip(
            self._meta["devices"], usage.by_device(), usage.covered_s, strict=True
        ):
            meter = self._meters[entry["device"]]
            entry["energy_J"] = _known(float(energy_J))
            entry["missing_s"] = max(0.0, round(usage.time_s - float(covered_s), 6))
            entry["failed_readings"] = meter.failed_readings
            self._compare_with_integral(entry, usage.time_s)
        self._meta_changed = True

    def _compare_with_integral(self, entry: dict[str, Any], duration_s: float) -> None:
        """Report a counter that its own device's power contradicts."""
        name = entry["device"]
        now_s = self._clock()
        counter_J = self._meters[name].value_at(now_s).energy_J
        integral = self._integrals[name].value_at(now_s)
        if not (counter_J > 0 and integral.energy_J > 0):
            return
        entry["power_integral_J"] = integral.energy_J
        difference = integral.energy_J / counter_J - 1
        if abs(difference) > _DISAGREEMENT and duration_s > _DISAGREEMENT_AFTER_S:
            log.warning(
                "energyest: over the run, %s integrated from its power differs from its energy "
                "counter by %+.1f %%; the trace follows the counter",
                name,
                100 * difference,
            )


def _meter(device: Device, max_gap_s: float) -> Meter:
    # A model's power is a mean since its last reading: there is nothing to miss between two.
    gap_s = max(max_gap_s, 60.0) if device.source == "modelled" else max_gap_s
    # Far above any transient: a limit is held on average over some milliseconds to seconds.
    most_W = 3 * device.power_limit_W if device.power_limit_W > 0 else math.inf
    return Meter(gap_s, max_power_W=most_W)


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _with_rows(
    columns: Mapping[str, np.ndarray[Any, Any]], rows: list[dict[str, float]]
) -> dict[str, np.ndarray[Any, Any]]:
    size = len(columns["epoch"]) if columns else 0
    names = dict.fromkeys([*columns, *(name for row in rows for name in row)])
    added = {name: [row.get(name, math.nan) for row in rows] for name in names}
    missing = np.full(size, math.nan)
    return {name: np.concatenate([columns.get(name, missing), added[name]]) for name in names}
