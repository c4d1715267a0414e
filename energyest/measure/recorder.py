"""Record sensors and marks into an `EnergyTrace`, which is on disk while it grows."""

from __future__ import annotations

import logging
import math
import os
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from energyest.checks import check_positive
from energyest.errors import ConfigurationError
from energyest.measure.checkpoint import RunCheckpoint
from energyest.measure.ledger import Event, Mark
from energyest.measure.process_ends import watch
from energyest.measure.reading_table import ReadingTable
from energyest.measure.run_account import RunAccount
from energyest.measure.run_devices import RunDevices, WithDevices
from energyest.measure.run_meta import RunMeta, as_stored
from energyest.measure.sampling.sampler import Clock, Round, Sampler
from energyest.measure.sensors.base import Reading, Sensor
from energyest.measure.sensors.detection import Detection
from energyest.measure.signals import SharedLock, uninterrupted
from energyest.measure.writer import TraceWriter
from energyest.patience import PATIENCE_S
from energyest.records.trace import EnergyTrace

log = logging.getLogger("energyest")

# Rounds are accounted for, and the disk is brought up to date, at the first round after this time.
_FLUSH_S = 0.85
# How long the start waits for a sensor that fails at first.
_FIRST_READING_S = 0.5
# How long the sampler waits for the account; a thread interrupted by a signal may hold it.
_ACCOUNT_IN_USE_S = 0.05
# How long the end of a run waits for the last readings, and after that for the disk.
_END_S = 2.0


class Recorder(WithDevices):
    """Measures a run from `start` to `stop` and accounts for its epochs.

    The training's thread only leaves marks; the sampler's thread reads and accounts. A row is final
    once every device has been read after its end; until then `trace` shows it under the assumption
    that the last power continues.

    A signal handler may run at any moment and call any method. What the training's thread changes,
    it therefore changes in one step, or in another thread (`uninterrupted`).

    Args:
        sensors: the sensors to read; the sampler closes them at the end. The unmeasured devices of
            a `Detection` count too: while one is missing, the energy is unknown.
        folder: where to write the trace while it grows; None to keep it in memory.
        interval_s: seconds between readings.
        meta: facts for the trace's meta.
        clock: monotonic clock in seconds.

    Raises:
        ConfigurationError: the interval is not positive, or `check_devices` refuses the devices.
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
        interval_s = check_positive(interval_s, "interval_s", ConfigurationError)
        found = sensors if isinstance(sensors, Detection) else Detection(tuple(sensors))
        self._clock = clock
        self._pid = os.getpid()
        self._lock = SharedLock()
        self._devices = RunDevices(found)
        self._origin_s = clock()
        devices, unread = self._devices.all, self._devices.unread
        self._account = RunAccount(devices, self._origin_s, interval_s, unread)
        self._readings = ReadingTable(self._origin_s)
        self._meta = RunMeta(devices, interval_s, meta or {})
        self._settled_s = self._written_s = self._origin_s
        self._writer = (
            None
            if folder is None
            else TraceWriter(
                folder, self._meta.facts, self._contents, lambda text: self.note([text])
            )
        )
        self._sampler = Sampler(list(found), self._on_round, interval_s=interval_s, clock=clock)
        self._has_started = self._is_sampling = self._is_measuring = False
        # Stopped: nothing more is measured. Closed: the totals are known.
        self._stopped = self._closed = False
        self._end_s = math.nan
        # Rounds that arrived while the account was in use.
        self._rounds: deque[Round] = deque()
        self._at_exit = watch(self)
        found.when_late(self.adopt)

    # ------------------------------------------------------------------ the training's side

    def start(self) -> None:
        """Begin to measure; return once every sensor was read, or soon after if one cannot be."""
        if self._has_started or self._stopped:
            return
        self._has_started = self._is_sampling = True
        give_up_s = self._clock() + _FIRST_READING_S
        failure = None if self._writer is None else self._writer.start()
        try:
            self._sampler.start(PATIENCE_S)
            if failure is not None:
                log.warning("energyest: the trace is not written until the run ends: %s", failure)
        except (RuntimeError, MemoryError) as error:  # the process cannot start more threads
            self._is_sampling = False
            self._lose_all(str(error))
        while self._is_sampling and self._clock() < give_up_s:
            if self._account.all_read_since(self._origin_s):
                break
            self._sampler.sample_now(_FIRST_READING_S)
        self._mark(Event.RUN_START)
        self._is_measuring = True
        self._report_unread()

    def stop(
        self,
        status: str = "finished",
        values: Mapping[str, float] | None = None,
        *,
        timeout_s: float = _END_S,
    ) -> None:
        """End the run: take the last reading, compute totals, close files; later calls do nothing.

        Args:
            status: `finished`, or what interrupted the run.
            values: columns of the epoch that this cuts off, if there is one.
            timeout_s: how long to wait for a hanging sensor, and after that for a hanging disk.
        """
        if self._stopped or os.getpid() != self._pid:
            return  # a forked process has a copy of this object, but it is not its run
        uninterrupted(
            lambda: self._stop(status, values, timeout_s), lock=self._lock, to_the_end=True
        )

    def _stop(self, status: str, values: Mapping[str, float] | None, timeout_s: float) -> None:
        with self._lock:
            if self._stopped:
                return
            self._end_s = self._mark(Event.RUN_END, values, interrupted=status != "finished")
            self._stopped = True
        self._at_exit.detach()
        in_time = False
        try:
            in_time = self._sampler.stop(timeout_s)
        finally:
            self._close(status, timeout_s)
        if not in_time:
            log.warning("energyest: a sensor hangs; the run ends without its last readings")

    def _close(self, status: str, timeout_s: float) -> None:
        with self._lock:
            self._take_rounds()
            self._account.book(math.inf)
            closing = self._account.closing_meta(self._meta.devices)
            self._meta.set({"status": status, **closing})
            self._closed = True
            self._hand_over(self._readings.flush())
        if self._writer is not None and not self._writer.close(timeout_s):
            log.warning(
                "energyest: the disk hangs; the trace at %s may lack its end", self._writer.place
            )

    def start_epoch(self, epoch: int | None = None, *, continues: bool = False) -> None:
        """Mark the start of an epoch: now or, with `continues`, where the previous one ended."""
        values = {} if epoch is None else {"epoch": float(epoch)}
        self._mark(Event.EPOCH_START, values, continues=continues)

    def end_epoch(
        self, values: Mapping[str, float] | None = None, *, tentative: bool = False
    ) -> dict[str, float]:
        """Mark the end of an epoch; return its row, which the next readings will refine.

        Args:
            values: further columns, such as `steps`, `samples`, `flops` and metrics.
            tentative: if the run is interrupted next, this epoch counts as interrupted too.
        """
        self._mark(Event.EPOCH_END, values, tentative=tentative)
        with self._lock:
            return self._account.last_row()

    def continue_from(self, earlier: RunCheckpoint) -> None:
        """Continue an earlier part of the run; to be called before the first epoch of this part.

        The earlier epochs come first, at negative times; their energy counts in the total.
        """

        def go_on() -> None:
            with self._lock:
                self._account.continue_from(earlier)
                self._note_earlier(earlier.total, earlier.open_row, earlier_rows=len(earlier))

        uninterrupted(go_on, lock=self._lock)

    def drop_carried(self) -> None:
        """Restart the epoch that the earlier part had begun."""

        def drop() -> None:
            with self._lock:
                self._account.drop_carried()
                self._note_earlier(self._account.earlier_total, {})

        uninterrupted(drop, lock=self._lock)

    def _note_earlier(
        self, total: Mapping[str, float], carried: Mapping[str, float], **more: int
    ) -> None:
        """Store what the total of a killed run's trace is computed from."""
        noted: dict[str, Any] = dict(more)
        for name, of in (("earlier_total_J", total), ("carried_J", carried)):
            energy_J = of.get("energy_J", math.nan)
            noted[name] = energy_J if math.isfinite(energy_J) else None
        self._meta.set(noted)

    def start_validation(self) -> None:
        """Mark the start of a validation within an epoch."""
        self._mark(Event.VALIDATION_START)

    def end_validation(self) -> None:
        """Mark the end of a validation."""
        self._mark(Event.VALIDATION_END)

    def pause(self) -> None:
        """Mark the start of a pause, which counts neither in the epoch nor in the total."""
        self._mark(Event.PAUSE_START)

    def resume(self) -> None:
        """Mark the end of a pause."""
        self._mark(Event.PAUSE_END)

    def add_metrics(self, values: Mapping[str, float]) -> None:
        """Add columns to the row of the last completed epoch."""

        def add() -> None:
            with self._lock:
                self._account.amend(values)

        with self._lock:
            is_added = not values or self._account.post_metrics(self._clock(), values)
        if not is_added:
            uninterrupted(add, lock=self._lock)

    def annotate(self, **meta: Any) -> None:
        """Add facts to the trace's meta."""
        if not self._meta.holds(meta):
            plain = as_stored(meta)
            with self._lock:
                self._meta.annotate(plain)

    # ------------------------------------------------------------------ what was measured

    @property
    def run_id(self) -> str:
        """The id of this run."""
        return str(self._meta.facts["run_id"])

    @property
    def folder(self) -> Path | None:
        """Where the trace is written; None if it is in memory only."""
        return None if self._writer is None else self._writer.folder

    @property
    def state(self) -> tuple[int, int]:
        """A value that changes whenever an epoch's row is added or becomes final."""
        with self._lock:
            return self._account.state

    @property
    def total_J(self) -> float:
        """Joules from the start of the run to now, without pauses; NaN if a part is missing."""
        with self._lock:
            return self._account.total_J(None if self._stopped else self._clock())

    def rows_from(self, first: int) -> tuple[list[dict[str, float]], int]:
        """The rows from `first` on, and the number of final rows."""
        with self._lock:
            return self._account.rows_from(first)

    def trace(self, *, readings: bool = True, so_far: bool = False) -> EnergyTrace:
        """The trace up to now.

        Args:
            readings: False to leave its power table empty; rows that are not final are then
                computed from power alone, at once, unless `so_far` is set.
            so_far: for a run under way, put totals into the meta as if the run were cut off now.
        """
        with self._lock:
            columns = self._account.columns(at_once=not (readings or so_far))
            power = self._readings.columns() if readings else {}
            meta = self._current_meta(so_far=so_far)
        return EnergyTrace(columns, power, meta)

    def meta(self, names: Collection[str]) -> dict[str, Any]:
        """Some entries of the trace's meta; totals are those so far, computed from power alone."""
        with self._lock:
            meta = self._current_meta(so_far=True, names=names)
        return {name: value for name, value in meta.items() if name in names}

    # ------------------------------------------------------------------ inside

    def _current_meta(
        self, *, so_far: bool, names: Collection[str] | None = None
    ) -> dict[str, Any]:
        meta = self._meta.copy(names)
        if so_far and not self._closed:
            at_s = self._end_s if self._stopped else self._clock()
            meta |= self._account.meta_so_far(at_s, self._meta.devices, at_once=names is not None)
        return meta

    def _mark(
        self,
        event: Event,
        values: Mapping[str, float] | None = None,
        **flags: bool,
    ) -> float:
        with self._lock:
            now_s = self._account.post(Mark(self._clock(), event, dict(values or {}), **flags))
            # If the sampler hangs, rows are made and written from here, without readings.
            hangs = now_s - self._account.round_s > self._account.max_gap_s
        if not flags.get("continues"):  # else the edge is the end of the previous epoch
            self._sampler.expect_edge()
        if (hangs or not self._is_sampling) and os.getpid() == self._pid:
            uninterrupted(lambda: self._book_without_readings(now_s), lock=self._lock)
        return now_s

    def _book_without_readings(self, now_s: float) -> None:
        with self._lock:
            self._account.book(now_s, wait=self._is_sampling)
            self._hand_over(latest_s=now_s)

    def _on_round(self, taken: Round) -> None:
        """In the sampler's thread: note a round of readings, and account for rounds when due."""
        self._account.see(taken.readings)
        self._rounds.append(taken)
        # Pending rows may become final once everything was read, or if reading fails for long.
        is_telling = taken.is_whole or taken.has_failed
        is_awaited = is_telling and (self._account.has_pending or not self._is_measuring)
        is_due = is_awaited or taken.began_s - self._settled_s >= _FLUSH_S
        if is_due and self._lock.acquire(timeout=_ACCOUNT_IN_USE_S):
            try:
                self._take_rounds()
            finally:
                self._lock.release()

    def _take_rounds(self) -> None:
        """Account for the waiting rounds; the lock must be held."""
        rows: list[Reading] = []
        is_whole = False
        while self._rounds:
            taken = self._rounds.popleft()
            is_whole = is_whole or taken.is_whole
            if self._stopped and not self._account.has_pending:
                continue  # a round that hung until after the end of the run
            self._account.add_round(taken)
            self._settled_s = taken.began_s
            rows += self._readings.add(taken.readings)
        self._account.settle(is_whole=is_whole)
        self._sampler.whole_until_s = self._account.in_doubt_until_s
        is_due = self._settled_s - self._written_s >= _FLUSH_S
        self._hand_over(rows, latest_s=self._settled_s if is_due else None)

    def _hand_over(
        self, readings: Sequence[Reading] = (), *, latest_s: float | None = None
    ) -> None:
        """Pass new rows to the writer; the lock must be held.

        Args:
            readings: rows of readings.
            latest_s: the instant for which to write the newest totals; None to write none.
        """
        rows = self._account.take_lines()
        if self._writer is None:
            return
        latest = None
        if latest_s is not None:
            self._written_s = latest_s
            so_far = self._account.meta_so_far(latest_s, self._meta.devices, at_once=True)
            latest = {"run_id": self.run_id, **so_far}
        self._writer.put(rows, readings, self._meta.take_change(), latest)

    def _contents(self) -> EnergyTrace:
        """In the writer's thread: all final content, after which nothing is left to be written."""
        assert self._writer is not None
        with self._lock:
            self._hand_over()
            self._writer.forget()
            final, _ = self._account.state
            epochs = {name: values[:final] for name, values in self._account.columns().items()}
            return EnergyTrace(epochs, self._readings.columns(), self._meta.copy())
