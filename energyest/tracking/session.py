"""`Session`: a measured run, as the adapters of training loops use it."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from energyest.checks import without_places
from energyest.distributed.rank_exchange import RANKS_LAST_S, RANKS_S, RankExchange
from energyest.distributed.store_connection import Store
from energyest.errors import TraceError
from energyest.estimate import Estimate
from energyest.measure.checkpoint import RunCheckpoint
from energyest.measure.recorder import Recorder
from energyest.measure.sensors import Detection
from energyest.measure.sensors.gpus import overlooked_gpus
from energyest.provenance import provenance
from energyest.records.epoch_table import MetricNames
from energyest.records.trace import EPOCH_COLUMNS, EnergyTrace
from energyest.tracking.cost.verdict import Standing
from energyest.tracking.guard import never_raises
from energyest.tracking.live_projection import Projector
from energyest.tracking.plan import Length
from energyest.tracking.progress import BatchSize, SampleCounter
from energyest.tracking.sync import Synchronizer
from energyest.versions import versions

if TYPE_CHECKING:
    from energyest.profiling.operations import FlopCount

log = logging.getLogger("energyest")

_NOTES = {"flops_note", "workload_note", "first_projection_note"}
# Columns that a training must not set itself.
_MEASURED = frozenset(EPOCH_COLUMNS) - {"steps", "samples", "flops"}


class Session:
    """Passes rows (epochs or intervals) from a training loop to the recorder, and gives results.

    Attributes:
        confidence: coverage probability of the interval of the projection.
        in_row: whether a row is under way.
        samples_in: counts the samples in a batch.

    Args:
        sensors: sensors to read.
        folder: where to write the trace; None to keep it in memory.
        interval_s: sampling interval in seconds.
        confidence: coverage probability of the interval of the projection.
        batch_size: returns the samples in a batch; by default, its structure shows them.
        meta: facts for the trace's meta.
    """

    def __init__(
        self,
        sensors: Detection,
        *,
        folder: Path | None,
        interval_s: float,
        confidence: float,
        batch_size: BatchSize | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        self.confidence = confidence
        self.in_row = False
        self._values: dict[str, float] = {}
        self._names = MetricNames(_MEASURED)
        # Rows of the earlier part of a resumed run, and how many of them this recorder holds.
        self._earlier_rows: int | None = None
        self._recorded_before = 0
        self._has_rows = False
        self._has_started = self._is_ending = self._has_ended = False
        self._watches_torch = sensors.is_by_use and not sensors.is_by_torch
        self._flops: FlopCount | None = None
        self._warned: set[str] = set()
        self.samples_in = SampleCounter(batch_size, self.note)
        self._synchronize = Synchronizer(lambda names: self.describe(synchronized=names))
        self._recorder = Recorder(
            sensors,
            folder=folder,
            interval_s=interval_s,
            meta={
                "notes": list(sensors.notes),
                "versions": versions(),
                **provenance(),
                **(meta or {}),
            },
        )
        # The source of results: all processes of the training, or this one if it is alone.
        self._whole: Recorder | RankExchange = self._recorder
        self._projector = Projector(self._whole, confidence)
        self._length = Length()

    # ------------------------------------------------------------------ the loop

    @never_raises
    def start(self) -> None:
        """Start measuring."""
        self._has_started = True
        self._recorder.start()

    @never_raises
    def stop(self, status: str = "finished") -> None:
        """End the run. An unfinished row is recorded as interrupted, not as a row.

        Further calls do nothing.
        """
        if self._has_ended:
            return
        self._is_ending = True
        try:
            self._look_for_losses()
            if status == "finished":  # otherwise the GPU may hang
                self._synchronize()
        finally:
            self._recorder.stop(status, self._values if self.in_row else {})
            self.in_row = False
            self._has_ended = True
            if isinstance(self._whole, RankExchange):
                wait_s = RANKS_LAST_S if status == "finished" else 0.0
                self._whole.gather(self._progress, wait_s, is_last=True)

    @never_raises
    def start_row(self, epoch: int | None = None, *, continues: bool = False) -> None:
        """Begin a row: now, or with `continues` at the moment the previous one ended."""
        if self._is_over():
            return
        if not self._has_rows:
            self._look_for_losses()
        if not (continues and self._has_rows):  # with `continues`, its beginning is already known
            self._synchronize()
        self._values = {}
        self._recorder.start_epoch(epoch, continues=continues)
        self.in_row = self._has_rows = True

    def end_row(
        self, values: Mapping[str, Any] | None = None, *, tentative: bool = False
    ) -> dict[str, float]:
        """End a row.

        Args:
            values: metrics, and `steps`, `samples` and `flops` of the row if known.
            tentative: whether the row counts as interrupted if the run is interrupted next.

        Returns:
            The row; empty if there was none to end.
        """
        return self._end_row(values or {}, tentative=tentative) or {}

    @never_raises
    def _end_row(self, values: Mapping[str, Any], *, tentative: bool) -> dict[str, float]:
        if not self.in_row:
            self._warn_once("end", "end of an epoch ignored: no epoch is under way")
            return {}
        self._look_for_losses()
        self._synchronize()
        if values:
            self.log(**values)
        if self._flops is not None and "flops" not in self._values:
            samples = self._values.get("samples", math.nan)
            self._values["flops"] = self._flops.training_flops(samples)
        self.in_row = False
        row = self._recorder.end_epoch(self._values, tentative=tentative)
        if isinstance(self._whole, RankExchange):
            self._whole.share(self._progress)
            row = self._whole.with_others(row)
        return row

    @never_raises
    def start_validation(self) -> None:
        """Begin validation within a row."""
        self._synchronize()
        self._recorder.start_validation()

    @never_raises
    def end_validation(self) -> None:
        """End validation."""
        self._synchronize()
        self._recorder.end_validation()

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Exclude the enclosed code from the measurement: from the row and from the total."""
        if not self._has_started or self._has_ended:  # then nothing counts anyway
            yield
            return
        self._synchronize()
        self._recorder.pause()
        try:
            yield
        finally:
            self._recorder.resume()

    # ------------------------------------------------------------------ facts

    @never_raises
    def log(self, /, **values: Any) -> None:
        """Set columns of the current row, or of the last one if none is under way."""
        numbers = self._names.numbers(values, self._warn_once)
        if self.in_row:
            self._values |= numbers
        elif numbers and not self._is_over():
            if self._ended_rows:
                self._recorder.add_metrics(numbers)
            else:
                names = ", ".join(numbers)
                self._warn_once("early", f"{names}: values logged before the first epoch are lost")

    @never_raises
    def describe(self, /, **meta: Any) -> None:
        """Add facts about the run to the trace's meta, as plain JSON values."""
        # These notes quote errors of the user's code.
        noted = {name: without_places(meta[name]) for name in _NOTES & meta.keys()}
        self._recorder.annotate(**{**meta, **noted})
        if "planned_changes" in meta:
            self._projector.forget()

    def note(self, text: str) -> None:
        """Add an unexpected finding to the trace's notes."""
        self._recorder.note([text])

    def set_flops(self, count: FlopCount) -> None:
        """Set the FLOPs per sample from now on, to fill the column `flops`."""
        self.describe(**count.as_meta())
        self._flops = None if count.per_sample is None else count

    @never_raises
    def expect(self, estimate: Estimate) -> None:
        """Start `projection` from an estimate, made before the run, of all measured components."""
        self._projector.expect(estimate)

    # ------------------------------------------------------------------ parts and processes

    def join(self, store: Store, *, rank: int, world_size: int) -> None:
        """Make this process one of several; from now on, the results at rank 0 cover all ranks.

        Args:
            store: key-value store that the processes share.
            rank: rank of this process.
            world_size: number of processes.
        """
        self._whole = RankExchange(
            self._recorder, store, rank=rank, world_size=world_size, run_id=self.run_id
        )
        self._projector = Projector(self._whole, self.confidence)

    def checkpoint(self, *, row_is_over: bool = False) -> RunCheckpoint:
        """The state of the run to resume from; after `join`, every rank has to call this.

        Args:
            row_is_over: whether the row under way has all its steps.
        """
        if isinstance(self._whole, RankExchange):
            self._whole.gather(self._progress, RANKS_S)
        known = RunCheckpoint.of(self._whole.trace(readings=False, so_far=True))
        # A signal handler may call this while a row begins or ends: the account knows which.
        # Before the first row, it may hold an unfinished row of an earlier part.
        if known.open_row and self._has_rows:
            known = known.with_values(self._values)
            if row_is_over and not self._is_ending:
                known = known.with_open_row_ended()
        return known

    def continue_from(self, earlier: RunCheckpoint, *, is_recorded: bool = True) -> None:
        """Resume from a checkpoint, before the first row.

        Args:
            earlier: the part of the run before the checkpoint.
            is_recorded: whether this process records the cost of that part. The energy of all
                ranks is counted once, at rank 0.

        Raises:
            TraceError: the run already has rows.
        """
        if self.in_row or self._ended_rows or self._earlier_rows is not None:
            raise TraceError("a run can resume from one checkpoint only, before its first epoch")
        self._earlier_rows = len(earlier)
        if is_recorded:
            self._recorder.continue_from(earlier)
            self._recorded_before = len(earlier)
            self.describe(**earlier.meta)

    def drop_carried(self) -> None:
        """Restart the row during which the checkpoint was saved."""
        self._recorder.drop_carried()

    # ------------------------------------------------------------------ results

    @property
    def rows(self) -> int:
        """Number of rows that have ended, including those of an earlier part of the run."""
        return (self._earlier_rows or 0) + self._ended_rows

    @property
    def _ended_rows(self) -> int:
        """Number of rows that have ended in this part of the run."""
        return sum(self._recorder.state) - self._recorded_before

    @property
    def trace(self) -> EnergyTrace:
        """What was measured so far."""
        self._look_at_ranks()
        return self._whole.trace()

    @property
    def projection(self) -> Estimate | None:
        """Estimate of the whole run; None if there is none yet."""
        self._look_at_ranks()
        return self._project()

    @never_raises
    def projection_if_cheap(self) -> Estimate | None:
        """As `projection`, but None if rows are so short that computing it would slow training."""
        return self._projector.project_if_cheap(self._length)

    @property
    def length(self) -> Length:
        """Planned length of the run. Can be set."""
        return self._length

    @length.setter
    def length(self, length: Length) -> None:
        # In this order: a new length triggers a projection, which is made from the meta.
        self.describe(planned_epochs=length.rows, planned_duration_s=length.duration_s)
        self._length = length

    @property
    def total_J(self) -> float:
        """Energy of the run so far in joules, without pauses, with parts before a checkpoint."""
        self._look_for_losses()
        self._look_at_ranks()
        return self._whole.total_J

    def total_after_J(self, row: Mapping[str, float]) -> float:
        """The total after a row that has just ended, as far as known without waiting for ranks."""
        if isinstance(self._whole, RankExchange):
            return self._whole.total_after_J(row)
        return self._whole.total_J

    @property
    def is_first_rank(self) -> bool:
        """Whether the results of this process cover the whole training, not one rank alone."""
        return not self._recorder.meta(("rank",)).get("rank")

    def standing(self) -> Standing:
        """The cost of the run so far, and its projection."""
        duration_s = self._recorder.meta(("duration_s",)).get("duration_s", math.nan)
        estimate = self.projection
        is_stable = self._projector.is_stable
        return Standing(self.rows, self.total_J, duration_s, estimate, is_stable)

    @property
    def run_id(self) -> str:
        """Unique identifier of the run; the same in all processes of a training."""
        return self._recorder.run_id

    @property
    def folder(self) -> Path | None:
        """Where the trace is written; None if it is only in memory."""
        return self._recorder.folder

    @never_raises
    def _project(self) -> Estimate | None:
        return self._projector.project(self._length)

    def _look_at_ranks(self) -> None:
        if isinstance(self._whole, RankExchange):
            self._whole.look()

    @property
    def _progress(self) -> tuple[int, int]:
        """Number of rows of this part that have ended, and of steps in the current row."""
        steps = self._values.get("steps", 0.0) if self.in_row else 0.0
        return self._ended_rows, int(steps) if math.isfinite(steps) else 0

    @never_raises
    def _look_for_losses(self) -> None:
        """Record causes of unmeasured energy that show only during the run."""
        if not self._has_started and not self._has_ended:
            self._recorder.note_nothing("the run was not started: use `with` or start()")
        gpus = self._recorder.gpus
        if self._watches_torch and gpus is not None and not self._has_ended:
            overlooked = overlooked_gpus(gpus)
            if overlooked.unmeasured:
                self._recorder.adopt(overlooked)

    def _is_over(self) -> bool:
        if self._has_ended:
            self._warn_once("ended", "the run has ended; nothing more is recorded")
        return self._has_ended

    def _warn_once(self, key: str, message: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            log.warning("energyest: %s", message)
