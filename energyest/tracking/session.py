"""`Run`: a training under measurement. The core that the callbacks translate hooks into."""

from __future__ import annotations

import logging
import math
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from energyest.distributed.rank_exchange import RankExchange
from energyest.distributed.store_connection import Store
from energyest.errors import TraceError
from energyest.estimate import Estimate
from energyest.measure.checkpoint import RunCheckpoint
from energyest.measure.recorder import Recorder
from energyest.measure.sensors import Detection
from energyest.records.trace import EPOCH_COLUMNS, EnergyTrace
from energyest.tracking.checks import check_count
from energyest.tracking.guard import never_raises
from energyest.tracking.live_projection import Plan, Projector
from energyest.tracking.sync import RANKS_LAST_S, RANKS_S, for_ranks_s, wait_for_gpu
from energyest.tracking.versions import versions

if TYPE_CHECKING:
    from energyest.profiling.flops import FlopCount

log = logging.getLogger("energyest")

# Columns that a training may set itself; the others are measured.
_SETTABLE = ("steps", "samples", "flops")


class Run:
    """A training run under measurement; made by `track()`, a context manager."""

    def __init__(
        self,
        sensors: Detection,
        *,
        folder: Path | None,
        interval_s: float,
        confidence: float,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        self._flops: FlopCount | None = None
        self._values: dict[str, float] = {}
        self._in_epoch = False
        self._any_epoch = False
        self._ended_epochs = 0
        self._ended = False
        self._earlier = RunCheckpoint()
        # What a turn of the loop is; steps of an interval.
        self._turns_are_epochs = False
        self._interval_steps: int | None = None
        self._warned: set[str] = set()
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
        self._confidence = confidence
        self._projector = Projector(self._whole, confidence)
        self._plan = Plan()

    def __enter__(self) -> Run:
        try:
            self.start()
        except BaseException:  # Ctrl-C: without an end of the with, nobody else would stop it
            self.stop("interrupted at the start")
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop("finished" if kind is None else f"interrupted by {kind.__name__}")

    # ------------------------------------------------------------------ the loop

    @never_raises
    def start(self) -> None:
        """Begin to measure."""
        self._recorder.start()

    @never_raises
    def stop(self, status: str = "finished") -> None:
        """End the run. An epoch that has begun is recorded as interrupted, not as an epoch."""
        try:
            if status == "finished":  # else the GPU may be what hangs
                wait_for_gpu()
        finally:
            self._recorder.stop(status, self._values if self._in_epoch else {})
            self._in_epoch = False
            self._ended = True
            if isinstance(self._whole, RankExchange):
                wait_s = RANKS_LAST_S if status == "finished" else 0.0
                self._whole.share(self._progress, wait_s, is_last=True)

    def epochs(self, epochs: int) -> Iterator[int]:
        """Iterate over 0 to `epochs` - 1, each turn of the loop being an epoch.

        What happens between two turns counts as the later epoch's. `break` ends the epoch; an
        exception interrupts it. After `load_state_dict` it goes on with the epoch after the one in
        which the checkpoint was made.
        """
        check_count(epochs, "epochs")
        first = self._earlier.next_epoch
        self._earlier.check_unit(None)
        self.planned_epochs = len(self._earlier) + max(0, epochs - first)
        self._turns_are_epochs = True
        self.begin_anew()  # an epoch that an exception had cut off
        for epoch in range(first, epochs):
            self.start_epoch(epoch, continues=epoch > first)
            try:
                yield epoch
            except GeneratorExit:
                self._leave()
                raise
            self.end_epoch()

    def steps(self, steps: int, *, every_n_steps: int) -> Iterator[int]:
        """Iterate over 0 to `steps` - 1, each turn of the loop being a training step.

        Every so many steps are an interval, which takes the place of an epoch: in `trace.epochs`,
        for `log` and `validation`, and at `break` or an exception. The last may be shorter; a step
        in which the loop is left counts. After `load_state_dict` it goes on with the step after the
        one in which the checkpoint was made.

        Raises:
            ConfigurationError: an earlier part of the run had intervals of another length.
        """
        check_count(steps, "steps")
        check_count(every_n_steps, "every_n_steps")
        self._earlier.check_unit(every_n_steps)
        earlier, self._interval_steps = self._earlier, every_n_steps
        done = earlier.open_steps
        first = earlier.steps + done
        self.planned_epochs = len(earlier) + (done + max(0, steps - first)) / every_n_steps
        self.describe(interval_steps=every_n_steps)
        for step in range(first, steps):
            if not self._in_epoch:
                self.start_epoch(continues=step > first)
            done += 1
            self._values["steps"] = done
            try:
                yield step
            except GeneratorExit:
                self._leave()
                raise
            if done == every_n_steps or step + 1 == steps:
                self.end_epoch()
                done = 0

    @never_raises
    def start_epoch(self, epoch: int | None = None, *, continues: bool = False) -> None:
        """An epoch begins: now, or with `continues` where the one before ended."""
        if self._has_ended():
            return
        wait_for_gpu()
        self._values = {}
        self._in_epoch = self._any_epoch = True
        self._recorder.start_epoch(epoch, continues=continues)

    def end_epoch(self, /, **values: Any) -> dict[str, float]:
        """An epoch ends.

        Args:
            **values: metrics, and if you like `steps`, `samples` and `flops` of the epoch.

        Returns:
            The epoch's row; empty if there was no epoch to end.
        """
        return self._end_epoch(values) or {}

    @never_raises
    def _end_epoch(self, values: dict[str, Any], *, tentative: bool = False) -> dict[str, float]:
        if not self._in_epoch:
            self._warn_once("end_epoch", "end_epoch() without start_epoch() is ignored")
            return {}
        wait_for_gpu()
        self.log(**values)
        if self._flops is not None and "flops" not in self._values:
            samples = self._values.get("samples", math.nan)
            self._values["flops"] = self._flops.training_flops(samples)
        self._in_epoch = False
        row = self._recorder.end_epoch(self._values, tentative=tentative)
        self._ended_epochs += 1
        if isinstance(self._whole, RankExchange):
            self._whole.share(self._progress, for_ranks_s(row))
            row = self._whole.last_row()
        return row

    def _leave(self) -> None:
        """Left by `break` or by an exception: which of them, the end of the run will show."""
        if self._in_epoch:
            self._end_epoch({}, tentative=True)

    @contextmanager
    def validation(self) -> Iterator[None]:
        """What runs inside is validation; it is part of the epoch, and shown apart."""
        self.start_validation()
        try:
            yield
        finally:
            self.end_validation()

    @never_raises
    def start_validation(self) -> None:
        """Validation begins inside an epoch."""
        wait_for_gpu()
        self._recorder.start_validation()

    @never_raises
    def end_validation(self) -> None:
        """Validation ends."""
        wait_for_gpu()
        self._recorder.end_validation()

    @contextmanager
    def pause(self) -> Iterator[None]:
        """What runs inside is no training: it counts neither in the epoch nor in the total."""
        wait_for_gpu()
        self._recorder.pause()
        try:
            yield
        finally:
            self._recorder.resume()

    # ------------------------------------------------------------------ facts

    @never_raises
    def log(self, /, **values: Any) -> None:
        """Set columns of the epoch that is running, or add to the one that has just ended."""
        numbers = {}
        for name, value in values.items():
            if name in EPOCH_COLUMNS and name not in _SETTABLE:
                self._warn_once(name, f"the column {name!r} is measured and cannot be logged")
                continue
            try:
                numbers[name] = float(value)
            except (TypeError, ValueError):
                self._warn_once(name, f"the value of {name!r} is no number and is left out")
        if self._in_epoch:
            self._values |= numbers
        elif numbers and not self._has_ended():
            if self._any_epoch:
                self._recorder.add_metrics(numbers)
            else:
                self._warn_once(
                    "early", f"{', '.join(numbers)} logged before the first epoch is lost"
                )

    @never_raises
    def describe(self, /, **meta: Any) -> None:
        """Add facts on the run to the trace's meta; plain JSON values."""
        self._recorder.annotate(**meta)
        if "planned_changes" in meta:
            self._projector.forget()

    @never_raises
    def count_flops(self, model: Any, batch: Any) -> FlopCount:
        """Count the FLOPs of a model, a `torch.nn.Module`, once; fills the column `flops`.

        Args:
            model: the model; it is left alone.
            batch: a training batch, or the input of the model's forward.
        """
        # Here, because torch and fvcore are slow to import, and other loops do without.
        from energyest.profiling.flops import count_forward_flops  # noqa: PLC0415

        with self.pause():
            count = count_forward_flops(model, batch)
        self.describe(
            forward_flops_per_sample=count.per_sample,
            flops_note=count.note or "2 per multiply-add",
            training_to_forward_flops=count.training_to_forward,
            flops_uncounted=dict(count.uncounted),
        )
        if count.per_sample is None:
            log.warning("energyest: FLOPs are not recorded: %s", count.note)
        else:
            self._flops = count
        return count

    @property
    def training_to_forward(self) -> float | None:
        """FLOPs of forward and backward ÷ FLOPs of forward; None if not counted. Can be set."""
        if self._flops is None or not self._flops.is_training_counted:
            return None
        return self._flops.training_to_forward

    @training_to_forward.setter
    def training_to_forward(self, ratio: float) -> None:
        if self._flops is not None and self._flops.is_training_counted:
            self._flops = replace(self._flops, training_to_forward=ratio)

    @never_raises
    def expect(self, estimate: Estimate) -> None:
        """Begin `projection` with an estimate from before the run, such as `estimate_pre` gives.

        It has to be of all that is measured; as epochs come in, they take its place.
        """
        self._projector.expect(estimate)

    # ------------------------------------------------------------------ parts and processes

    def join(self, store: Store, *, rank: int, world_size: int) -> None:
        """This process is one of several; at rank 0, the results are those of all from now on.

        Args:
            store: key-value store that they share.
            rank: of this process.
            world_size: number of processes.
        """
        run_id = self.run_id
        self._whole = RankExchange(
            self._recorder, store, rank=rank, world_size=world_size, run_id=run_id
        )
        self._projector = Projector(self._whole, self._confidence)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to hold for the run to go on from it: plain numbers and text.

        With `join`, every rank has to call this, and rank 0's is that of all.
        """
        if isinstance(self._whole, RankExchange):
            self._whole.share(self._progress, RANKS_S)
        earlier = RunCheckpoint.of(self._whole.trace(readings=False, so_far=True))
        if self._in_epoch:
            earlier = earlier.with_values(self._values)
            is_full = self._interval_steps and self._values.get("steps") == self._interval_steps
            if self._turns_are_epochs or is_full:
                earlier = earlier.with_open_row_ended()
        return earlier.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; before the first epoch. With `join`, at rank 0 alone.

        The epochs of the earlier part come first in the trace, at negative times; what they cost
        is in the total, and what lies between the checkpoint and this run in neither.

        Raises:
            TraceError: `state` is not what `state_dict` gave, or the run has epochs already.
        """
        self.continue_from(RunCheckpoint.from_state_dict(state))

    def continue_from(self, earlier: RunCheckpoint) -> None:
        """As `load_state_dict`, with a state that was read."""
        if self._any_epoch or self._earlier != RunCheckpoint():
            raise TraceError("a run can go on from one checkpoint, before its first epoch")
        self._recorder.continue_from(earlier)
        self._earlier = earlier
        self.describe(**earlier.meta)

    def begin_anew(self) -> None:
        """The epoch that the checkpoint was made in is trained from its beginning again."""
        self._recorder.drop_carried()

    # ------------------------------------------------------------------ results

    @property
    def trace(self) -> EnergyTrace:
        """What was measured so far."""
        return self._whole.trace()

    @property
    def projection(self) -> Estimate | None:
        """Estimate of the whole run from all epochs so far, by `estimate_step`.

        None while the length of the run is unknown or, unless an estimate from before the run was
        given to `expect`, the training is not stable.
        """
        return self._project()

    @never_raises
    def projection_if_cheap(self) -> Estimate | None:
        """As `projection`, but None where epochs are so short that making it would show."""
        return self._projector.project_if_cheap(self._plan)

    @property
    def planned_epochs(self) -> float | None:
        """Number of epochs (or intervals) of the whole run; None if unknown. Can be set.

        With a fraction where the run ends within one.
        """
        return self._plan.epochs

    @planned_epochs.setter
    def planned_epochs(self, epochs: float | None) -> None:
        self._plan = self._plan._replace(epochs=epochs)
        self.describe(planned_epochs=epochs)

    @property
    def planned_duration_s(self) -> float | None:
        """Seconds after the first epoch's start at which a time limit ends the run. Can be set."""
        return self._plan.duration_s

    @planned_duration_s.setter
    def planned_duration_s(self, duration_s: float | None) -> None:
        self._plan = self._plan._replace(duration_s=duration_s)
        self.describe(planned_duration_s=duration_s)

    @property
    def total_J(self) -> float:
        """Energy in joules since the run started, pauses left out, earlier parts included."""
        return self._whole.total_J

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
        return self._projector.project(self._plan)

    @property
    def _progress(self) -> tuple[int, int]:
        """Epochs that have ended, and steps of the one under way."""
        steps = self._values.get("steps", 0.0) if self._in_epoch else 0.0
        return self._ended_epochs, int(steps) if math.isfinite(steps) else 0

    def _has_ended(self) -> bool:
        if self._ended:
            self._warn_once("ended", "the run has ended; what follows is not recorded")
        return self._ended

    def _warn_once(self, key: str, message: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            log.warning("energyest: %s", message)
