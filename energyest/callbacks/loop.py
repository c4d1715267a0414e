"""`track()`: energy of any training loop. The core that the callbacks translate hooks into."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from numbers import Integral, Real
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from energyest.callbacks.projection import Plan, Projector
from energyest.callbacks.shield import shielded
from energyest.callbacks.versions import versions
from energyest.errors import ConfigurationError
from energyest.estimators.estimate import Estimate
from energyest.measure.recorder import Recorder
from energyest.measure.sensors import Detection, Kind, Sensor, check_components, detect
from energyest.trace import EPOCH_COLUMNS, EnergyTrace

if TYPE_CHECKING:
    from energyest.measure.flops import FlopCount

log = logging.getLogger("energyest")

# Columns that a training may set itself; the others are measured.
_SETTABLE = ("steps", "samples", "flops")


def track(
    folder: str | Path | None = None,
    *,
    epochs: int | None = None,
    gpus: Sequence[int | str] | None = None,
    components: Sequence[Kind] = ("gpu", "cpu", "ram"),
    sensors: Sequence[Sensor] | None = None,
    interval_s: float = 0.1,
    confidence: float = 0.9,
) -> Run:
    """Measure any training loop.

        with track("runs/energy") as run:
            for epoch in run.epochs(100):
                train_one_epoch()
                with run.validation():
                    accuracy = validate()
                run.log(val_acc=accuracy)
                print(run.projection)

    or, where the loop is not yours to write, `run.start_epoch()` and `run.end_epoch(val_acc=0.9)`.
    A training without epochs: `for step in run.steps(10_000, every_n_steps=200)`.

    Args:
        folder: where to write the trace while it grows; None to keep it in memory. If the folder
            holds a trace already, a free name next to it is taken.
        epochs: number of epochs planned, for `run.projection`; `run.epochs(n)` sets it as well.
        gpus: indices or UUIDs of the GPUs to measure; by default those which
            `CUDA_VISIBLE_DEVICES` leaves to this process.
        components: what to measure: GPUs, the machine's processors, its memory.
        sensors: sensors to use instead of what `detect()` finds.
        interval_s: seconds between readings; GPUs renew theirs every 0.1 s.
        confidence: probability for the interval of `run.projection`.

    Raises:
        ConfigurationError: an argument is out of its range. Nothing is raised once the run goes.
    """
    if epochs is not None:
        check_count(epochs, "epochs")
    check_settings(confidence, interval_s, components)
    if sensors is not None:
        found = Detection(tuple(sensors))
    else:
        found = detect(gpus, components=components)
        if gpus and not any(sensor.device.kind == "gpu" for sensor in found):
            # Asked for and not there: the CPU's share alone would pass for the whole.
            for note in found.notes:
                log.warning("energyest: %s", note)
    return Run(
        found,
        folder=None if folder is None else Path(folder),
        epochs=epochs,
        interval_s=interval_s,
        confidence=confidence,
    )


class Run:
    """A training run under measurement; made by `track()`, a context manager."""

    def __init__(
        self,
        sensors: Detection,
        *,
        folder: Path | None,
        epochs: int | None,
        interval_s: float,
        confidence: float,
    ) -> None:
        self._flops: FlopCount | None = None
        self._values: dict[str, float] = {}
        self._in_epoch = False
        self._any_epoch = False
        self._ended = False
        self._warned: set[str] = set()
        self._recorder = Recorder(
            sensors,
            folder=folder,
            interval_s=interval_s,
            meta={"notes": list(sensors.notes), "versions": versions()},
        )
        self._projector = Projector(self._recorder, confidence)
        self._plan = Plan()
        if epochs is not None:
            self.planned_epochs = epochs

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

    @shielded
    def start(self) -> None:
        """Begin to measure."""
        self._recorder.start()

    @shielded
    def stop(self, status: str = "finished") -> None:
        """End the run. An epoch that has begun is recorded as interrupted, not as an epoch."""
        try:
            if status == "finished":  # else the GPU may be what hangs
                _wait_for_gpu()
        finally:
            self._recorder.stop(status, self._values if self._in_epoch else {})
            self._in_epoch = False
            self._ended = True

    def epochs(self, epochs: int) -> Iterator[int]:
        """Iterate over 0 to `epochs` - 1, each turn of the loop being an epoch.

        What happens between two turns counts as the later epoch's. `break` ends the epoch; an
        exception interrupts it.
        """
        check_count(epochs, "epochs")
        self.planned_epochs = epochs
        for epoch in range(epochs):
            self.start_epoch(epoch, continues=epoch > 0)
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
        in which the loop is left counts.
        """
        check_count(steps, "steps")
        check_count(every_n_steps, "every_n_steps")
        self.planned_epochs = steps / every_n_steps
        self.describe(interval_steps=every_n_steps)
        for step in range(steps):
            done = step % every_n_steps
            if done == 0:
                self.start_epoch(step // every_n_steps, continues=step > 0)
            try:
                yield step
            except GeneratorExit:
                self._leave(steps=done + 1)
                raise
            self._values["steps"] = done + 1
            if done + 1 == every_n_steps or step + 1 == steps:
                self.end_epoch()

    @shielded
    def start_epoch(self, epoch: int | None = None, *, continues: bool = False) -> None:
        """An epoch begins: now, or with `continues` where the one before ended."""
        if self._has_ended():
            return
        _wait_for_gpu()
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

    @shielded
    def _end_epoch(self, values: dict[str, Any], *, tentative: bool = False) -> dict[str, float]:
        if not self._in_epoch:
            self._warn_once("end_epoch", "end_epoch() without start_epoch() is ignored")
            return {}
        _wait_for_gpu()
        self.log(**values)
        if self._flops is not None and "flops" not in self._values:
            samples = self._values.get("samples", math.nan)
            self._values["flops"] = self._flops.training_flops(samples)
        self._in_epoch = False
        return self._recorder.end_epoch(self._values, tentative=tentative)

    def _leave(self, **values: Any) -> None:
        """Left by `break` or by an exception: which of them, the end of the run will show."""
        if self._in_epoch:
            self._end_epoch(values, tentative=True)

    @contextmanager
    def validation(self) -> Iterator[None]:
        """What runs inside is validation; it is part of the epoch, and shown apart."""
        self.start_validation()
        try:
            yield
        finally:
            self.end_validation()

    @shielded
    def start_validation(self) -> None:
        """Validation begins inside an epoch."""
        _wait_for_gpu()
        self._recorder.start_validation()

    @shielded
    def end_validation(self) -> None:
        """Validation ends."""
        _wait_for_gpu()
        self._recorder.end_validation()

    @contextmanager
    def pause(self) -> Iterator[None]:
        """What runs inside is no training: it counts neither in the epoch nor in the total."""
        _wait_for_gpu()
        self._recorder.pause()
        try:
            yield
        finally:
            self._recorder.resume()

    # ------------------------------------------------------------------ facts

    @shielded
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

    @shielded
    def describe(self, **meta: Any) -> None:
        """Add facts on the run to the trace's meta; plain JSON values."""
        self._recorder.annotate(**meta)
        if "planned_changes" in meta:
            self._projector.forget()

    @shielded
    def count_flops(self, model: Any, batch: Any) -> FlopCount:
        """Count the FLOPs of a model, a `torch.nn.Module`, once; fills the column `flops`.

        Args:
            model: the model; it is left alone.
            batch: a training batch, or the input of the model's forward.
        """
        # Here, because torch and fvcore are slow to import, and other loops do without.
        from energyest.measure.flops import count_forward_flops  # noqa: PLC0415

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

    @shielded
    def expect(self, estimate: Estimate) -> None:
        """Begin `projection` with an estimate from before the run, such as `estimate_pre` gives.

        It has to be of all that is measured; as epochs come in, they take its place.
        """
        self._projector.expect(estimate)

    # ------------------------------------------------------------------ results

    @property
    def trace(self) -> EnergyTrace:
        """What was measured so far."""
        return self._recorder.trace()

    @property
    def projection(self) -> Estimate | None:
        """Estimate of the whole run from all epochs so far, by `estimate_step`.

        None while the length of the run is unknown or, unless an estimate from before the run was
        given to `expect`, the training is not stable.
        """
        return self._project()

    @shielded
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
        """Energy in joules since the run started, pauses left out."""
        return self._recorder.total_J

    @property
    def folder(self) -> Path | None:
        """Where the trace is written; None if it is in memory only."""
        return self._recorder.folder

    @shielded
    def _project(self) -> Estimate | None:
        return self._projector.project(self._plan)

    def _has_ended(self) -> bool:
        if self._ended:
            self._warn_once("ended", "the run has ended; what follows is not recorded")
        return self._ended

    def _warn_once(self, key: str, message: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            log.warning("energyest: %s", message)


def check_settings(confidence: float, interval_s: float, components: Sequence[str]) -> None:
    """Refuse settings that cannot work, before a training begins."""
    check_components(components)
    if not (isinstance(interval_s, Real) and math.isfinite(interval_s) and interval_s > 0):
        raise ConfigurationError(f"interval_s={interval_s!r} must be positive")
    if not (isinstance(confidence, Real) and 0 < confidence < 1):
        raise ConfigurationError(f"confidence={confidence!r} must lie between 0 and 1")


def check_count(value: int, name: str) -> None:
    """Refuse what is not a whole number of 1 or more."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ConfigurationError(f"{name}={value!r} must be a whole number of 1 or more")


def _wait_for_gpu() -> None:
    """Let the GPU finish what was queued, so that an epoch's energy is its own.

    Nothing happens where torch or its CUDA part is not in use.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        # An error of the training's own kernels: the training will meet it itself.
        log.debug("energyest: synchronize: %s", error)
