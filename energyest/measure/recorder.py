"""Sensors and marks to an `EnergyTrace`, which is on disk while it grows."""

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
from energyest.measure.sampler import Clock, Round, Sampler
from energyest.measure.sensors.base import Reading, Sensor
from energyest.measure.sensors.detection import Detection
from energyest.measure.signals import SharedLock, uninterrupted
from energyest.measure.writer import TraceWriter
from energyest.patience import PATIENCE_S
from energyest.records.trace import EnergyTrace

log = logging.getLogger("energyest")

# Rounds are accounted for, and the disk is brought up to date, at the first one after so long.
_FLUSH_S = 0.85
# How long the start waits for a sensor that fails at first.
_FIRST_READING_S = 0.5
# How long the sampler waits for the account, which a thread interrupted by a signal may hold.
_ACCOUNT_IN_USE_S = 0.05
# How long the end of a run waits for the last readings, and then for the disk.
_END_S = 2.0


class Recorder(WithDevices):
    """Measures a run from `start` to `stop` and accounts for its epochs.

    The thread of the training only leaves marks; reading, accounting and writing are done by the
    sampler's thread. A row is final once every device was read after its end; until then `trace`
    holds it with the last power taken to continue.

    A signal handler may come at any moment, and ask for anything: whatever this thread changes, it
    changes in one step, or in another thread (`uninterrupted`).

    Args:
        sensors: what to read; the sampler closes them at the end. What a `Detection` says beside
            them counts too: without a device that it lacks, no energy is known.
        folder: where to write the trace while it grows; None to keep it in memory.
        interval_s: seconds between readings.
        meta: facts for the trace's meta.
        clock: monotonic clock in seconds.

    Raises:
        ConfigurationError: the interval is not positive, or `check_device_names` refuses a name.
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
        self._stopped = self._closed = False  # nothing more is measured; the totals are known
        self._end_s = math.nan
        # Rounds that came while the account was in use.
        self._rounds: deque[Round] = deque()
        self._at_exit = watch(self)
        found.when_late(self.adopt)

    # ------------------------------------------------------------------ the training's side

    def start(self) -> None:
        """Begin to measure; returns once every sensor was read, or soon if one cannot be."""
        if self._has_started or self._stopped:
            return
        self._has_started = self._is_sampling = True
        give_up_s = self._clock() + _FIRST_READING_S
        failure = None if self._writer is None else self._writer.start()
        try:
            self._sampler.start(PATIENCE_S)
            if failure is not None:
                log.warning("energyest: the trace is not written before the run ends: %s", failure)
        except (RuntimeError, MemoryError) as error:  # the process can have no more threads
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
        """End the run: last reading, totals, files closed. Further calls do nothing.

        Args:
            status: `finished`, or what interrupted the run.
            values: columns of the epoch that this cuts off, if there is one.
            timeout_s: how long to wait for a sensor that hangs, and then for a disk.
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
        """An epoch begins: now, or with `continues` where the one before it ended."""
        values = {} if epoch is None else {"epoch": float(epoch)}
        self._mark(Event.EPOCH_START, values, continues=continues)

    def end_epoch(
        self, values: Mapping[str, float] | None = None, *, tentative: bool = False
    ) -> dict[str, float]:
        """An epoch ends; returns its row, which the next readings will make more exact.

        Args:
            values: further columns, such as `steps`, `samples`, `flops` and metrics.
            tentative: if the next thing to happen is that the run is interrupted, then the epoch
                was interrupted too.
        """
        self._mark(Event.EPOCH_END, values, tentative=tentative)
        with self._lock:
            return self._account.last_row()

    def continue_from(self, earlier: RunCheckpoint) -> None:
        """Go on where an earlier part of the run was; before the first epoch of this one.

        Its epochs come first, at negative times; its energy counts in the total.
        """

        def go_on() -> None:
            with self._lock:
                self._account.continue_from(earlier)
                self._note_earlier(earlier.total, earlier.open_row, earlier_rows=len(earlier))

        uninterrupted(go_on, lock=self._lock)

    def drop_carried(self) -> None:
        """The epoch that the earlier part had begun begins anew."""

        def drop() -> None:
            with self._lock:
                self._account.drop_carried()
                self._note_earlier(self._account.earlier_total, {})

        uninterrupted(drop, lock=self._lock)

    def _note_earlier(
        self, total: Mapping[str, float], carried: Mapping[str, float], **more: int
    ) -> None:
        """What a trace of a killed run adds up from."""
        noted: dict[str, Any] = dict(more)
        for name, of in (("earlier_total_J", total), ("carried_J", carried)):
            energy_J = of.get("energy_J", math.nan)
            noted[name] = energy_J if math.isfinite(energy_J) else None
        self._meta.set(noted)

    def start_validation(self) -> None:
        """Validation begins in an epoch."""
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
        """What tells this run from others."""
        return str(self._meta.facts["run_id"])

    @property
    def folder(self) -> Path | None:
        """Where the trace is written; None if it is in memory only."""
        return None if self._writer is None else self._writer.folder

    @property
    def state(self) -> tuple[int, int]:
        """Changes whenever a row of an epoch is added or becomes final."""
        with self._lock:
            return self._account.state

    @property
    def total_J(self) -> float:
        """Energy from the start of the run to now, without pauses; NaN if a part is missing."""
        with self._lock:
            return self._account.total_J(None if self._stopped else self._clock())

    def rows_from(self, first: int) -> tuple[list[dict[str, float]], int]:
        """The rows from one of them on, and how many of all are final."""
        with self._lock:
            return self._account.rows_from(first)

    def trace(self, *, readings: bool = True, so_far: bool = False) -> EnergyTrace:
        """The trace up to now.

        Args:
            readings: False to leave its power table empty; rows that are not final are then told by
                power, at once, unless the totals are asked for.
            so_far: of a run under way, put the totals into its meta, as if it were cut off now.
        """
        with self._lock:
            columns = self._account.columns(at_once=not (readings or so_far))
            power = self._readings.columns() if readings else {}
            meta = self._current_meta(so_far=so_far)
        return EnergyTrace(columns, power, meta)

    def meta(self, names: Collection[str]) -> dict[str, Any]:
        """Some of that of `trace`; totals are those so far, as power tells them, at once."""
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
        if not flags.get("continues"):  # else the edge is that of the epoch before
            self._sampler.expect_edge()
        if (hangs or not self._is_sampling) and os.getpid() == self._pid:
            uninterrupted(lambda: self._book_without_readings(now_s), lock=self._lock)
        return now_s

    def _book_without_readings(self, now_s: float) -> None:
        with self._lock:
            self._account.book(now_s, wait=self._is_sampling)
            self._hand_over(latest_s=now_s)

    def _on_round(self, taken: Round) -> None:
        """In the sampler's thread: note a round of readings, and account for them now and then."""
        self._account.see(taken.readings)
        self._rounds.append(taken)
        # What waits may be final once all was read, and is given up where reading fails for long.
        is_telling = taken.is_whole or taken.has_failed
        is_awaited = is_telling and (self._account.has_pending or not self._is_measuring)
        is_due = is_awaited or taken.began_s - self._settled_s >= _FLUSH_S
        if is_due and self._lock.acquire(timeout=_ACCOUNT_IN_USE_S):
            try:
                self._take_rounds()
            finally:
                self._lock.release()

    def _take_rounds(self) -> None:
        """Account for the rounds that wait, with the lock held."""
        rows: list[Reading] = []
        is_whole = False
        while self._rounds:
            taken = self._rounds.popleft()
            is_whole = is_whole or taken.is_whole
            if self._stopped and not self._account.has_pending:
                continue  # a round that hung until after the end
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
        """Leave to the writer what is new, with the lock held.

        Args:
            readings: rows of readings.
            latest_s: the instant of which the newest totals are to be written; None not to.
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
        """In the writer's thread: all that is final, with nothing of it left to be written."""
        assert self._writer is not None
        with self._lock:
            self._hand_over()
            self._writer.forget()
            final, _ = self._account.state
            epochs = {name: values[:final] for name, values in self._account.columns().items()}
            return EnergyTrace(epochs, self._readings.columns(), self._meta.copy())
