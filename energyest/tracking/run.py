"""`Run`: a measured training loop, as users of `track()` see it."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from energyest.checks import check_count, check_installed, short
from energyest.errors import ConfigurationError
from energyest.estimate import Estimate
from energyest.markup import as_html
from energyest.measure.checkpoint import RunCheckpoint
from energyest.records.trace import EnergyTrace
from energyest.settings import Settings
from energyest.tracking.cost.budget import Budget
from energyest.tracking.cost.ending import say_summary
from energyest.tracking.cost.watch import BudgetWatch, warn_if_several
from energyest.tracking.guard import never_raises
from energyest.tracking.live_projection import why_unstable
from energyest.tracking.plan import Length
from energyest.tracking.session import Session

if TYPE_CHECKING:
    from energyest.profiling.operations import FlopCount

log = logging.getLogger("energyest")
R = TypeVar("R")

# Name of the parameter and of the attribute through which a decorated function gets its run.
_NAME = "run"


class Run:
    """A measured training run; created by `track()`, usable as context manager and as decorator.

    Args:
        session: creates the session on first use: decorating a function measures nothing until
            the function is called.
        budget: what the run may cost.
        chosen: the settings, for the summary.
    """

    def __init__(self, session: Callable[[], Session], budget: Budget, chosen: Settings) -> None:
        self._make_session = session
        self._budget, self._settings = budget, chosen
        self._is_summed_up = False
        # The planned length of the run at the moment its loop was left.
        self._left: Length | None = None
        self._earlier = RunCheckpoint()
        # Whether an iteration is an epoch; steps per interval, and steps done in the current one.
        self._turns_are_epochs = False
        self._interval_steps: int | None = None
        self._steps_done = 0

    @functools.cached_property
    def _session(self) -> Session:
        return self._make_session()

    @functools.cached_property
    def _watch(self) -> BudgetWatch:
        session, budget = self._session, warn_if_several(self._budget)
        return BudgetWatch(budget, session.standing, lambda found: session.describe(budget=found))

    def __call__(self, function: Callable[..., R]) -> Callable[..., R]:
        """Decorate a function: each call is a run of its own.

        The run is passed to a parameter named `run`, unless the caller passes one. The attribute
        `run` of the function holds the run of the last call.

        Raises:
            ConfigurationError: `function` is not callable, or is a generator or asynchronous.
        """
        return _measured(function, lambda: Run(self._make_session, self._budget, self._settings))

    def __enter__(self) -> Run:
        try:
            self.start()
        except BaseException:  # Ctrl-C: __exit__ will not be called
            self.stop("interrupted at the start")
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.stop("finished" if kind is None else f"interrupted by {kind.__name__}")

    # ------------------------------------------------------------------ the loop

    def start(self) -> None:
        """Start measuring, if you do not use `with`."""
        if self._is_summed_up:
            log.warning("energyest: this run was already used; create a new one with track()")
        self._watch  # noqa: B018 - creating it writes the budget into the trace
        self._session.start()

    def stop(self, status: str = "finished") -> None:
        """End the run, if you do not use `with`. An unfinished epoch counts as interrupted.

        With status "finished", the plan ends here, too. Otherwise the run can still be projected.
        """
        if status == "finished":
            self._session.length = self._session.length.ended_after(self._rows)
        elif self._left is not None:
            self._session.length = self._left
        self._session.stop(status)
        if not self._is_summed_up:
            self._is_summed_up = True
            say_summary(self._session, self._settings)

    def epochs(self, epochs: int) -> Iterator[int]:
        """Iterate over 0 to `epochs` - 1; each iteration is an epoch.

        Energy used between two iterations counts towards the later epoch. `break` ends the epoch
        and the planned run; an exception interrupts the epoch. After `load_state_dict`, the loop
        continues with the epoch after the one in which the checkpoint was saved. If a budget with
        `on_exceed="stop"` is exceeded, the loop ends after the epoch.

        Raises:
            ConfigurationError: `epochs` is not a whole number of 1 or more, or an earlier part of
                the run had intervals.
        """
        check_count(epochs, "epochs", ConfigurationError)
        first = self._earlier.next_epoch
        self._earlier.check_unit(None)
        self.planned_epochs = self._session.rows + max(0, epochs - first)
        self._turns_are_epochs = True
        self._session.drop_carried()  # an epoch that an exception cut short
        for epoch in range(first, epochs):
            self.start_epoch(epoch, continues=epoch > first)
            try:
                yield epoch
            except GeneratorExit:
                self._leave()
                raise
            self.end_epoch()
            if self._watch.must_stop:
                return

    def steps(self, steps: int, *, every_n_steps: int) -> Iterator[int]:
        """Iterate over 0 to `steps` - 1; each iteration is a training step.

        Every `every_n_steps` steps form an interval. Intervals take the place of epochs in
        `trace.epochs`, `log` and `validation`, and at `break` or an exception. The last interval
        may be shorter; the step in which the loop is left counts. After `load_state_dict`, the loop
        continues with the step after the one in which the checkpoint was saved. If a budget with
        `on_exceed="stop"` is exceeded, the loop ends after the step.

        Raises:
            ConfigurationError: an argument is not a whole number of 1 or more, or an earlier part
                of the run had intervals of another length.
        """
        check_count(steps, "steps", ConfigurationError)
        check_count(every_n_steps, "every_n_steps", ConfigurationError)
        self._earlier.check_unit(every_n_steps)
        earlier, self._interval_steps = self._earlier, every_n_steps
        self._steps_done = earlier.open_steps
        first = earlier.steps + self._steps_done
        to_come = self._steps_done + max(0, steps - first)
        self.planned_epochs = len(earlier) + to_come / every_n_steps
        self.describe(interval_steps=every_n_steps)
        for step in range(first, steps):
            if not self._session.in_row:
                self.start_epoch(continues=step > first)
            self._steps_done += 1
            self.log(steps=self._steps_done)
            try:
                yield step
            except GeneratorExit:
                self._leave()
                raise
            is_over = self._watch.after_batch()
            if self._steps_done == every_n_steps or step + 1 == steps or is_over:
                self.end_epoch()
                self._steps_done = 0
            if self._watch.must_stop:
                return

    def start_epoch(self, epoch: int | None = None, *, continues: bool = False) -> None:
        """Begin an epoch: now, or with `continues` at the moment the previous one ended."""
        self._session.start_row(epoch, continues=continues)

    def end_epoch(self, /, **values: Any) -> dict[str, float]:
        """End an epoch.

        Args:
            **values: metrics, and optionally `steps`, `samples` and `flops` of the epoch.

        Returns:
            The epoch's row; empty if there was no epoch to end.
        """
        row = self._session.end_row(values)
        self._watch.after_epoch()
        return row

    def _leave(self) -> None:
        """The loop was left by `break` or an exception; `stop` will show which."""
        if self._session.in_row:
            self._session.end_row(tentative=True)
        self._left = self._session.length
        self._session.length = self._left.ended_after(self._rows)

    @property
    def _rows(self) -> float:
        """Rows that have ended; a row that was cut short counts in part."""
        rows, every = self._session.rows, self._interval_steps
        if every is None or self._session.in_row or not self._steps_done:
            return rows
        return rows - 1 + self._steps_done / every

    @contextmanager
    def validation(self) -> Iterator[None]:
        """Mark the enclosed code as validation: part of the epoch, reported separately as well."""
        self.start_validation()
        try:
            yield
        finally:
            self.end_validation()

    def start_validation(self) -> None:
        """Begin validation within an epoch."""
        self._session.start_validation()

    def end_validation(self) -> None:
        """End validation."""
        self._session.end_validation()

    def pause(self) -> AbstractContextManager[None]:
        """Exclude the enclosed code from the measurement: from the epoch and from the total."""
        return self._session.pause()

    # ------------------------------------------------------------------ facts

    def log(self, /, **values: Any) -> None:
        """Set columns of the current epoch, or of the last one if none is under way."""
        self._session.log(**values)

    def describe(self, /, **meta: Any) -> None:
        """Add facts about the run to the trace's meta, as plain JSON values."""
        self._session.describe(**meta)

    @never_raises
    def count_flops(self, model: Any, batch: Any) -> FlopCount:
        """Count the FLOPs of a `torch.nn.Module` once, to fill the column `flops`.

        Args:
            model: the model; it is not changed.
            batch: a training batch, or the input of the model's `forward`.
        """
        check_installed("FLOPs are not counted: count_flops", "torch", "fvcore")
        # Imported here because torch is slow to import and not every loop needs it.
        from energyest.profiling.describe import count_flops  # noqa: PLC0415

        session = self._session
        with session.pause():
            count = count_flops(model, batch, session.samples_in(batch))
        if count.per_sample is None:
            log.warning("energyest: FLOPs are not recorded: %s", count.note)
        session.set_flops(count)
        return count

    def expect(self, estimate: Estimate) -> None:
        """Start `projection` from an estimate of all measured components, such as `estimate_pre`'s.

        Measured epochs gradually replace it.
        """
        self._session.expect(estimate)

    # ------------------------------------------------------------------ checkpoints

    def state_dict(self) -> dict[str, Any]:
        """The state to store in a checkpoint so that the run can resume: plain numbers and text."""
        is_full = self._interval_steps is not None and self._steps_done == self._interval_steps
        return self._session.checkpoint(row_is_over=self._turns_are_epochs or is_full).state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a checkpoint. Call it before the first epoch.

        The epochs of the earlier part come first in the trace, at negative times, and their energy
        is in the total. Energy used between the checkpoint and this run is in neither.

        Raises:
            TraceError: `state` does not come from `state_dict`, or the run already has epochs.
        """
        earlier = RunCheckpoint.from_state_dict(state)
        self._session.continue_from(earlier)
        self._earlier = earlier

    def _repr_html_(self) -> str:
        if "_session" not in self.__dict__:  # displaying it must not start measuring
            return as_html("A run that has not started: use `with`, or call start()")
        both = (self.trace, self.projection)
        return "".join(one._repr_html_() for one in both if one is not None)

    # ------------------------------------------------------------------ results

    @property
    def trace(self) -> EnergyTrace:
        """What was measured so far."""
        return self._session.trace

    @property
    def projection(self) -> Estimate | None:
        """Estimate of the whole run from all epochs so far, by `estimate_step`.

        None while the length of the run is unknown. Also None while the training is not stable,
        unless an estimate was passed to `expect`. `projection_note` says why.
        """
        return self._session.projection

    @property
    def projection_note(self) -> str:
        """Why there is no projection from measured epochs yet; empty if there is one."""
        return why_unstable(self.trace)

    @property
    def exceeded(self) -> str:
        """Why the budget is exceeded or will be; empty if it is not, or if there is none.

        A loop may check it at every step; the budget is judged at most once a second.
        """
        self._watch.after_batch()
        return self._watch.exceeded

    @property
    def planned_epochs(self) -> float | None:
        """Planned epochs (or intervals) of the whole run, or None. Can be set, with a fraction."""
        return self._session.length.rows

    @planned_epochs.setter
    def planned_epochs(self, epochs: float | None) -> None:
        self._session.length = self._session.length._replace(rows=epochs)

    @property
    def planned_duration_s(self) -> float | None:
        """Time limit of the run, in seconds after the start of the first epoch. Can be set."""
        return self._session.length.duration_s

    @planned_duration_s.setter
    def planned_duration_s(self, duration_s: float | None) -> None:
        self._session.length = self._session.length._replace(duration_s=duration_s)

    @property
    def total_J(self) -> float:
        """Energy of the run so far in joules, without pauses, with parts before a checkpoint."""
        return self._session.total_J

    @property
    def run_id(self) -> str:
        """Unique identifier of the run."""
        return self._session.run_id

    @property
    def folder(self) -> Path | None:
        """Where the trace is written; None if it is only in memory."""
        return self._session.folder


def _measured(function: Callable[..., R], make_run: Callable[[], Run]) -> Callable[..., R]:
    """Wrap a function so that each call is measured.

    Args:
        function: a plain function, whose work is done when it returns.
        make_run: creates the run for a call.

    Raises:
        ConfigurationError: `function` is not callable, or is a generator or asynchronous.
    """
    if not callable(function):
        raise ConfigurationError(f"track() can only decorate a function, not {short(function)}")
    waits = (
        inspect.iscoroutinefunction(function)
        or inspect.isgeneratorfunction(function)
        or inspect.isasyncgenfunction(function)
    )
    if waits:
        raise ConfigurationError(
            f"{function.__qualname__} is a generator or asynchronous, so it returns before its "
            "work is done: use `with track() as run:` inside it"
        )
    parameters = inspect.signature(function).parameters
    positions = list(parameters)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> R:
        with make_run() as run:
            vars(call)[_NAME] = run
            is_left_out = _NAME in parameters and _NAME not in kwargs
            if is_left_out and positions.index(_NAME) >= len(args):
                kwargs[_NAME] = run
            return function(*args, **kwargs)

    vars(call)[_NAME] = None
    return call
