"""`Session`: a run under measurement, as the adapters of training loops use it."""

from __future__ import annotations

import logging
import math
import platform
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
# Columns that a training may not set itself.
_MEASURED = frozenset(EPOCH_COLUMNS) - {"steps", "samples", "flops"}


class Session:
    """Rows (epochs or intervals) of a training, from its loop to the recorder, and what they tell.

    Attributes:
        confidence: probability for the interval of the projection.
        in_row: whether a row is under way.
        samples_in: how many samples are in a batch.

    Args:
        sensors: what is measured.
        folder: where to write the trace; None to keep it in memory.
        interval_s: seconds between readings.
        confidence: probability for the interval of the projection.
        batch_size: tells how many samples are in a batch; by default, its build shows it.
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
        # Rows of an earlier part of the run, if it has one, and those that have ended since.
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
                "host": platform.node(),
                **(meta or {}),
            },
        )
        # The run as all processes of the training make it; without others, as this one does.
        self._whole: Recorder | RankExchange = self._recorder
        self._projector = Projector(self._whole, confidence)
        self._length = Length()

    # ------------------------------------------------------------------ the loop

    @never_raises
    def start(self) -> None:
        """Begin to measure."""
        self._has_started = True
        self._recorder.start()

    @never_raises
    def stop(self, status: str = "finished") -> None:
        """End the run. A row that has begun is recorded as interrupted, not as a row.

        Further calls do nothing.
        """
        if self._has_ended:
            return
        self._is_ending = True
        try:
            self._look_for_losses()
            if status == "finished":  # else the GPU may be what hangs
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
        """A row begins: now, or with `continues` where the one before ended."""
        if self._is_over():
            return
        if not self._has_rows:
            self._look_for_losses()
        if not (continues and self._has_rows):  # else it is known when it begins
            self._synchronize()
        self._values = {}
        self._recorder.start_epoch(epoch, continues=continues)
        self.in_row = self._has_rows = True

    def end_row(
        self, values: Mapping[str, Any] | None = None, *, tentative: bool = False
    ) -> dict[str, float]:
        """A row ends.

        Args:
            values: metrics, and as far as known `steps`, `samples` and `flops` of the row.
            tentative: if the run is interrupted next, then so was the row.

        Returns:
            The row; empty if there was none to end.
        """
        return self._end_row(values or {}, tentative=tentative) or {}

    @never_raises
    def _end_row(self, values: Mapping[str, Any], *, tentative: bool) -> dict[str, float]:
        if not self.in_row:
            self._warn_once("end", "the end of an epoch that did not begin is ignored")
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
        """Validation begins inside a row."""
        self._synchronize()
        self._recorder.start_validation()

    @never_raises
    def end_validation(self) -> None:
        """Validation ends."""
        self._synchronize()
        self._recorder.end_validation()

    @contextmanager
    def pause(self) -> Iterator[None]:
        """What runs inside is no training: it counts neither in the row nor in the total."""
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
        """Set columns of the row that is running, or add to the one that has just ended."""
        numbers = self._names.numbers(values, self._warn_once)
        if self.in_row:
            self._values |= numbers
        elif numbers and not self._is_over():
            if self._ended_rows:
                self._recorder.add_metrics(numbers)
            else:
                names = ", ".join(numbers)
                self._warn_once("early", f"{names} logged before the first epoch is lost")

    @never_raises
    def describe(self, /, **meta: Any) -> None:
        """Add facts on the run to the trace's meta; plain JSON values."""
        # They quote errors of the user's code.
        noted = {name: without_places(meta[name]) for name in _NOTES & meta.keys()}
        self._recorder.annotate(**{**meta, **noted})
        if "planned_changes" in meta:
            self._projector.forget()

    def note(self, text: str) -> None:
        """Add to the trace's notes what is not as one would expect."""
        self._recorder.note([text])

    def set_flops(self, count: FlopCount) -> None:
        """From now on, a sample costs so many FLOPs; fills the column `flops`."""
        self.describe(**count.as_meta())
        self._flops = None if count.per_sample is None else count

    @never_raises
    def expect(self, estimate: Estimate) -> None:
        """Begin `projection` with an estimate of all that is measured, from before the run."""
        self._projector.expect(estimate)

    # ------------------------------------------------------------------ parts and processes

    def join(self, store: Store, *, rank: int, world_size: int) -> None:
        """This process is one of several; at rank 0, the results are those of all from now on.

        Args:
            store: key-value store that they share.
            rank: of this process.
            world_size: number of processes.
        """
        self._whole = RankExchange(
            self._recorder, store, rank=rank, world_size=world_size, run_id=self.run_id
        )
        self._projector = Projector(self._whole, self.confidence)

    def checkpoint(self, *, row_is_over: bool = False) -> RunCheckpoint:
        """What the run has cost so far, to go on from; after `join`, every rank has to call this.

        Args:
            row_is_over: whether the row under way has all its steps.
        """
        if isinstance(self._whole, RankExchange):
            self._whole.gather(self._progress, RANKS_S)
        known = RunCheckpoint.of(self._whole.trace(readings=False, so_far=True))
        # A signal handler may ask while a row begins or ends: the account knows which it is.
        # Before the first row, it may hold what an earlier part has left of it.
        if known.open_row and self._has_rows:
            known = known.with_values(self._values)
            if row_is_over and not self._is_ending:
                known = known.with_open_row_ended()
        return known

    def continue_from(self, earlier: RunCheckpoint, *, is_recorded: bool = True) -> None:
        """Go on from a checkpoint, before the first row.

        Args:
            earlier: the part of the run before it.
            is_recorded: whether this process records what that part has cost. What all ranks have
                measured is counted once, at rank 0.

        Raises:
            TraceError: the run has rows already.
        """
        if self.in_row or self._ended_rows or self._earlier_rows is not None:
            raise TraceError("a run can go on from one checkpoint, before its first epoch")
        self._earlier_rows = len(earlier)
        if is_recorded:
            self._recorder.continue_from(earlier)
            self._recorded_before = len(earlier)
            self.describe(**earlier.meta)

    def drop_carried(self) -> None:
        """The row that the checkpoint was made in is trained from its beginning again."""
        self._recorder.drop_carried()

    # ------------------------------------------------------------------ results

    @property
    def rows(self) -> int:
        """How many rows have ended, those of an earlier part of the run included."""
        return (self._earlier_rows or 0) + self._ended_rows

    @property
    def _ended_rows(self) -> int:
        """Those of this part."""
        return sum(self._recorder.state) - self._recorded_before

    @property
    def trace(self) -> EnergyTrace:
        """What was measured so far."""
        self._look_at_ranks()
        return self._whole.trace()

    @property
    def projection(self) -> Estimate | None:
        """Estimate of the whole run; None if nothing can be said yet."""
        self._look_at_ranks()
        return self._project()

    @never_raises
    def projection_if_cheap(self) -> Estimate | None:
        """As `projection`, but None where rows are so short that making it would show."""
        return self._projector.project_if_cheap(self._length)

    @property
    def length(self) -> Length:
        """How long the run is to be. Can be set."""
        return self._length

    @length.setter
    def length(self, length: Length) -> None:
        # In this order: a projection is asked for by the length, and made from what is described.
        self.describe(planned_epochs=length.rows, planned_duration_s=length.duration_s)
        self._length = length

    @property
    def total_J(self) -> float:
        """Energy in joules since the run started, pauses left out, earlier parts included."""
        self._look_for_losses()
        self._look_at_ranks()
        return self._whole.total_J

    def total_after_J(self, row: Mapping[str, float]) -> float:
        """The total when a row has just ended, as far as it is known without waiting for it."""
        if isinstance(self._whole, RankExchange):
            return self._whole.total_after_J(row)
        return self._whole.total_J

    @property
    def is_first_rank(self) -> bool:
        """Whether its results are those of the whole training, and not of one rank alone."""
        return not self._recorder.meta(("rank",)).get("rank")

    def standing(self) -> Standing:
        """What the run has cost so far, and is projected to."""
        duration_s = self._recorder.meta(("duration_s",)).get("duration_s", math.nan)
        estimate = self.projection
        is_stable = self._projector.is_stable
        return Standing(self.rows, self.total_J, duration_s, estimate, is_stable)

    @property
    def run_id(self) -> str:
        """What tells this run from others; the same in all processes of a training."""
        return self._recorder.run_id

    @property
    def folder(self) -> Path | None:
        """Where the trace is written; None if it is in memory only."""
        return self._recorder.folder

    @never_raises
    def _project(self) -> Estimate | None:
        return self._projector.project(self._length)

    def _look_at_ranks(self) -> None:
        if isinstance(self._whole, RankExchange):
            self._whole.look()

    @property
    def _progress(self) -> tuple[int, int]:
        """Rows of this part that have ended, and steps of the one under way."""
        steps = self._values.get("steps", 0.0) if self.in_row else 0.0
        return self._ended_rows, int(steps) if math.isfinite(steps) else 0

    @never_raises
    def _look_for_losses(self) -> None:
        """What leaves the energy unknown and shows only while the run goes on."""
        if not self._has_started and not self._has_ended:
            self._recorder.note_nothing("the run was not started, by `with` or by start()")
        gpus = self._recorder.gpus
        if self._watches_torch and gpus is not None and not self._has_ended:
            overlooked = overlooked_gpus(gpus)
            if overlooked.unmeasured:
                self._recorder.adopt(overlooked)

    def _is_over(self) -> bool:
        if self._has_ended:
            self._warn_once("ended", "the run has ended; what follows is not recorded")
        return self._has_ended

    def _warn_once(self, key: str, message: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            log.warning("energyest: %s", message)
