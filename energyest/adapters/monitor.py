"""`Monitor`: settings, results, start and end, common to the monitors of all adapters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from energyest.adapters.processes import Place, begin
from energyest.adapters.spawn import SharedPath
from energyest.carbon import Intensity
from energyest.estimate import Estimate
from energyest.measure.sensors import Kind, Sensor
from energyest.measure.torch_gpus import trained_on, unreadable
from energyest.records.loading import load_trace
from energyest.records.trace import EnergyTrace
from energyest.records.workload import Workload
from energyest.settings import settings
from energyest.tracking import checks
from energyest.tracking.continuation import Position
from energyest.tracking.cost.budget import Budget, OnExceed
from energyest.tracking.cost.ending import say_summary
from energyest.tracking.cost.verdict import Standing
from energyest.tracking.cost.watch import Agree, BudgetWatch
from energyest.tracking.live_projection import projection_of, why_unstable
from energyest.tracking.plan import TrainingPlan
from energyest.tracking.progress import BatchSize
from energyest.tracking.session import Session
from energyest.tracking.track import find_sensors
from energyest.tracking.training import Metrics, Training


class Monitor:
    """Measures a training; subclasses add the hooks of their framework's trainer.

    Args:
        folder: where to write the trace; None for the adapter's default.
        components: what to measure.
        every_n_steps: batches per interval; None for whole epochs.
        count_flops: whether to observe the operations of the first steps.
        workload: description of a step, if it was made before.
        sensors: sensors to use instead of those of this machine.
        interval_s: sampling interval in seconds.
        confidence: coverage probability of the interval of the projection.
        hparams: names of hyperparameters to record in the trace whatever their values.
        batch_size: returns the number of samples in a batch.
        budget_kWh: energy that the training may use.
        budget_kg: CO2e that the training may emit, in kg.
        budget_hours: how long the training may take.
        on_exceed: "warn", or "stop" to end the training.
        carbon_intensity: carbon intensity of the electricity.
        pue: power usage effectiveness of the data centre, for CO2e only.
        quiet: omit the summary at the end.

    Raises:
        ConfigurationError: an argument is invalid.
        EstimateError: the country of the carbon intensity is unknown, or the number is invalid.
    """

    # The name that users know, whatever a subclass is called.
    _name = "monitor"

    def __init__(
        self,
        folder: str | Path | None,
        *,
        components: Sequence[Kind],
        every_n_steps: int | None,
        count_flops: bool,
        workload: Workload | None,
        sensors: Sequence[Sensor] | None,
        interval_s: float,
        confidence: float,
        hparams: Sequence[str],
        batch_size: BatchSize | None,
        budget_kWh: float | None,
        budget_kg: float | None,
        budget_hours: float | None,
        on_exceed: OnExceed,
        carbon_intensity: Intensity | None,
        pue: float | None,
        quiet: bool | None,
    ) -> None:
        checks.check_settings(confidence, interval_s, components, batch_size)
        self._hparams = checks.check_names("hparams", hparams)
        checks.check_folder(folder)
        self._settings = settings(
            folder=folder, carbon_intensity=carbon_intensity, pue=pue, quiet=quiet
        )
        self._folder = checks.check_folder(self._settings.folder)
        self._budget = Budget.of(
            kWh=budget_kWh,
            kg=budget_kg,
            hours=budget_hours,
            on_exceed=on_exceed,
            intensity=self._settings.carbon_intensity,
            pue=self._settings.pue,
        )
        self._components = tuple(components)
        self._every = checks.check_every_n_steps(every_n_steps)
        self._count_flops = count_flops
        self._workload = checks.check_workload(workload)
        self._sensors = sensors
        self._interval_s = interval_s
        self._confidence = confidence
        self._batch_size = batch_size
        # `_session` stays after the end of the newest training; `_training` does not.
        self._session: Session | None = None
        self._training: Training | None = None
        self._watch_of_budget: BudgetWatch | None = None
        self._has_begun = False
        self._resumes_at: Position | None = None
        self._left_by_child = SharedPath()

    # ------------------------------------------------------------------ results

    @property
    def trace(self) -> EnergyTrace:
        """The measurements of the newest training so far; available while it runs.

        For a training in spawned processes, the trace is read from its folder each time.

        Raises:
            TraceError: the folder cannot be read.
        """
        self._notice_end()
        path = self._left_by_child.read()
        if path is not None:
            return load_trace(path)
        if self._training is not None:
            return self._training.trace
        return EnergyTrace({}) if self._session is None else self._session.trace

    @property
    def projection(self) -> Estimate | None:
        """Newest estimate of the whole training; None if there is none yet.

        On one GPU that PRE knows, it starts as PRE's estimate at the first batch, which STEP
        gradually replaces as epochs are measured. Otherwise it is STEP's estimate, from about the
        third epoch on. With several ranks, the projection at rank 0 covers them all.
        """
        self._notice_end()
        path = self._left_by_child.read()
        if path is not None:
            return projection_of(load_trace(path))
        return None if self._session is None else self._session.projection

    @property
    def projection_note(self) -> str:
        """Why there is no projection from measured epochs yet; empty if there is one."""
        return why_unstable(self.trace)

    @property
    def total_J(self) -> float:
        """Joules so far, on all ranks, with parts before a checkpoint; NaN before training."""
        self._notice_end()
        if self._left_by_child.read() is not None:
            return self.trace.total_J
        return math.nan if self._session is None else self._session.total_J

    @property
    def folder(self) -> Path | None:
        """Where the trace is written; None before training, or if it is only in memory."""
        path = self._left_by_child.read()
        return path if path is not None or self._session is None else self._session.folder

    @property
    def exceeded(self) -> str:
        """Why the budget is exceeded or will be; empty if it is not, and on ranks other than 0."""
        return "" if self._watch_of_budget is None else self._watch_of_budget.exceeded

    # ------------------------------------------------------------------ for the adapters

    def _begin(
        self, module: nn.Module, device: torch.device, folder: Path | None, place: Place
    ) -> Session:
        """Create the session of a training, without starting it.

        Args:
            module: the model being trained.
            device: device of this process's inputs.
            folder: where to write the trace; None to keep it in memory.
            place: rank of this process and number of this monitor.
        """

        def make(folder: Path | None, meta: Mapping[str, Any]) -> Session:
            gpus = trained_on(module, device)
            # All processes share the machine's processors and memory: count them in one process.
            # Each has its GPUs, and the modules of these, for itself.
            own = ("gpu", "module")
            kinds = [k for k in self._components if k in own or place.local_rank == 0]
            return Session(
                find_sensors(gpus, kinds, self._sensors, others=unreadable(device)),
                folder=folder,
                interval_s=self._interval_s,
                confidence=self._confidence,
                batch_size=self._batch_size,
                meta=meta,
            )

        self._session = session = begin(make, folder, place, self._name)
        session.describe(**self._settings.basis.as_meta())
        if place.rank == 0:
            self._left_by_child.write(session.folder)
        return session

    def _start(
        self,
        session: Session,
        plan: TrainingPlan,
        take_metrics: Callable[[], Metrics],
        log_values: Callable[[Mapping[str, float]], None],
        *,
        is_first_rank: bool,
    ) -> None:
        """Start measuring; resume from a checkpoint if one was loaded.

        Args:
            session: session of this process.
            plan: what the trainer knows.
            take_metrics: returns the metrics logged since its last call.
            log_values: logs the values of a row.
            is_first_rank: whether this process records what all ranks had measured before.
        """
        # Set before start(), so that the training can be ended if Ctrl-C interrupts it.
        self._training = Training(
            session,
            plan,
            count_flops=self._count_flops,
            workload=self._workload,
            take_metrics=take_metrics,
            log_values=log_values,
        )
        self._has_begun = True
        self._continue(is_first_rank=is_first_rank)
        session.start()

    def _continue(self, *, is_first_rank: bool) -> None:
        """Resume from a checkpoint, if one was loaded."""
        position = self._resumes_at
        if self._training is not None and position is not None:
            self._training.continue_from(position, is_first_rank=is_first_rank)
            self._resumes_at = None

    def _notice_end(self) -> None:
        """Check whether an exception ended the training, if the trainer does not report it."""

    def _stop(self, status: str, *, logs: bool = False) -> None:
        """End the current run, if any.

        Args:
            status: "finished", or what interrupted the training.
            logs: whether the trainer's loggers still take values of this training.
        """
        training, self._training = self._training, None
        if training is not None:
            training.interrupt(status)
            self._say_summary()
            if logs:
                training.log_outcome(self._settings.basis)
        elif self._session is not None:  # interrupted before it started, or already over
            self._session.stop(status)

    def _finish(self) -> None:
        """Finish the training."""
        training, self._training = self._training, None
        if training is not None:
            training.finish()
            self._say_summary()
            training.log_outcome(self._settings.basis)

    def _say_summary(self) -> None:
        session = self._session
        if session is not None and session.is_first_rank:
            say_summary(session, self._settings)

    def _watch_budget(self, agree: Agree | None, *, is_first_rank: bool) -> None:
        """Watch the budget, if any, of a training that begins.

        This is needed even if the session failed: the other ranks wait for this one at each check.

        Args:
            agree: brings the result of rank 0 to all ranks; None for a single process.
            is_first_rank: whether this process decides.
        """
        self._watch_of_budget = None
        if not self._budget.limits:
            return

        def tell(found: Mapping[str, object]) -> None:
            if self._session is not None:
                self._session.describe(budget=found)

        def standing() -> Standing:
            assert self._session is not None
            return self._session.standing()

        self._watch_of_budget = BudgetWatch(
            self._budget, standing, tell, agree=agree, is_first_rank=is_first_rank
        )

    def _is_over_budget(self, *, epoch_ends: bool) -> bool:
        """Whether the budget ends the training; all ranks have to call this at the same time.

        Args:
            epoch_ends: whether an epoch, not only a batch, has just ended.
        """
        watch = self._watch_of_budget
        if watch is None:
            return False
        return watch.after_epoch() if epoch_ends else watch.after_batch()

    def __getstate__(self) -> dict[str, Any]:
        # These hold threads and open files, which cannot be sent to another process.
        own = {"_session": None, "_training": None, "_has_begun": False, "_resumes_at": None}
        own["_watch_of_budget"] = None
        return {**vars(self), **own}
