"""`Monitor`: the settings, the results, the beginning and the end of every adapter's monitor."""

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
from energyest.tracking.live_projection import projection_of
from energyest.tracking.plan import TrainingPlan
from energyest.tracking.progress import BatchSize
from energyest.tracking.session import Session
from energyest.tracking.track import find_sensors
from energyest.tracking.training import Metrics, Training


class Monitor:
    """Measures a training. An adapter adds the hooks of its framework's trainer.

    Args:
        folder: where to write the trace; None for the adapter's default.
        components: what to measure.
        every_n_steps: batches in an interval; None for whole epochs.
        count_flops: watch what the first steps compute.
        workload: what a step does, if it was described before.
        sensors: sensors to use instead of those of this machine.
        interval_s: seconds between readings.
        confidence: probability for the interval of the projection.
        hparams: names of hyperparameters that are to be in the trace, whatever they hold.
        batch_size: tells how many samples are in a batch.
        budget_kWh: energy that the training may use.
        budget_kg: CO2e that it may emit.
        budget_hours: how long it may take.
        on_exceed: "warn", or "stop" to end the training.
        carbon_intensity: of the electricity.
        pue: power usage effectiveness of the data centre, for CO2e alone.
        quiet: leave out the summary at the end.

    Raises:
        ConfigurationError: an argument is out of its range.
        EstimateError: the country of the carbon intensity is not known, or the number cannot be.
    """

    # By which users know it, whatever a class below it is called.
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
        # What the newest training has cost, also after its end; and how it goes, until then.
        self._session: Session | None = None
        self._training: Training | None = None
        self._watch_of_budget: BudgetWatch | None = None
        self._has_begun = False
        self._resumes_at: Position | None = None
        self._left_by_child = SharedPath()

    # ------------------------------------------------------------------ results

    @property
    def trace(self) -> EnergyTrace:
        """What was measured so far, of the newest training; also while it runs.

        Of a training in spawned processes, it is read from its folder each time.

        Raises:
            TraceError: that folder cannot be read.
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
        """Newest estimate of the whole training; None if nothing is known yet.

        On one GPU that PRE knows, it is PRE's at the first batch, to which STEP succeeds as epochs
        come in; else it is STEP's, from the training's third epoch or so on. With several ranks,
        rank 0's is of them all.
        """
        self._notice_end()
        path = self._left_by_child.read()
        if path is not None:
            return projection_of(load_trace(path))
        return None if self._session is None else self._session.projection

    @property
    def total_J(self) -> float:
        """Joules since the training began, before a checkpoint and on all ranks; NaN before it."""
        self._notice_end()
        if self._left_by_child.read() is not None:
            return self.trace.total_J
        return math.nan if self._session is None else self._session.total_J

    @property
    def folder(self) -> Path | None:
        """Where the trace is written; None before the training or if it is in memory only."""
        path = self._left_by_child.read()
        return path if path is not None or self._session is None else self._session.folder

    @property
    def exceeded(self) -> str:
        """Why the budget is exceeded, or will be; empty if it is not, and on all other ranks."""
        return "" if self._watch_of_budget is None else self._watch_of_budget.exceeded

    # ------------------------------------------------------------------ for the adapters

    def _begin(
        self, module: nn.Module, device: torch.device, folder: Path | None, place: Place
    ) -> Session:
        """Make the session of a training, which does not measure yet.

        Args:
            module: what is trained.
            device: where this process has its inputs.
            folder: where to write the trace; None to keep it in memory.
            place: which of the training's monitors this is.
        """

        def make(folder: Path | None, meta: Mapping[str, Any]) -> Session:
            gpus = trained_on(module, device)
            # Processors and memory are the machine's: one process on it counts them.
            kinds = [k for k in self._components if k == "gpu" or place.local_rank == 0]
            return Session(
                find_sensors(gpus, kinds, self._sensors, others=unreadable(device)),
                folder=folder,
                interval_s=self._interval_s,
                confidence=self._confidence,
                batch_size=self._batch_size,
                meta=meta,
            )

        self._session = session = begin(make, folder, place, self._name)
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
        """Begin to measure, and go on where a checkpoint was made if one was loaded.

        Args:
            session: of this process.
            plan: what the trainer knows.
            take_metrics: what was logged since it was called last.
            log_values: logs what is to be logged of a row.
            is_first_rank: whether this process records what all ranks had measured before.
        """
        # Before the start: if Ctrl-C comes during it, the end must come too.
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
        """Go on where the checkpoint was made, if one was loaded."""
        position = self._resumes_at
        if self._training is not None and position is not None:
            self._training.continue_from(position, is_first_rank=is_first_rank)
            self._resumes_at = None

    def _notice_end(self) -> None:
        """Where a trainer does not tell that an exception has ended a training: look."""

    def _stop(self, status: str) -> None:
        """End the run, if there is one that has not ended.

        Args:
            status: "finished", or what has broken the training off.
        """
        training, self._training = self._training, None
        if training is not None:
            training.interrupt(status)
            self._say_summary()
        elif self._session is not None:  # broken off before there was one, or over
            self._session.stop(status)

    def _finish(self) -> None:
        """The training has come to its end."""
        training, self._training = self._training, None
        if training is not None:
            training.finish()
            self._say_summary()

    def _say_summary(self) -> None:
        session = self._session
        if session is not None and session.is_first_rank:
            say_summary(session, self._settings)

    def _watch_budget(self, agree: Agree | None, *, is_first_rank: bool) -> None:
        """Watch the budget, if there is one, of a training that begins.

        Also where its session has failed: the other ranks would wait for one that does not.

        Args:
            agree: brings what rank 0 has found to all ranks; None for a process that is alone.
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
        """Whether the training is to end for its budget; all ranks have to ask at the same time.

        Args:
            epoch_ends: whether an epoch has just ended, and not a batch.
        """
        watch = self._watch_of_budget
        if watch is None:
            return False
        return watch.after_epoch() if epoch_ends else watch.after_batch()

    def __getstate__(self) -> dict[str, Any]:
        # They hold threads and open files, which cannot go to another process.
        own = {"_session": None, "_training": None, "_has_begun": False, "_resumes_at": None}
        own["_watch_of_budget"] = None
        return {**vars(self), **own}
