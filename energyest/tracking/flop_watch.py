"""`FlopWatch`: watches the first steps of a training, and counts the FLOPs of all from them."""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable
from dataclasses import replace

from torch import nn

from energyest.profiling.operations import FlopCount, WatchedStep
from energyest.profiling.step_watch import StepWatch, why_unwatched
from energyest.records.workload import Workload
from energyest.tracking.session import Session
from energyest.tracking.trainable_changes import trainable_names

log = logging.getLogger("energyest")

# Steps may differ, as where two networks are trained in turn: so many are watched at most, until
# one costs what the one before it did, but for this share.
_MOST_STEPS = 8
_SAME = 0.01
_HOW_TO = "the argument workload=describe_workload(model, batch) makes them known"


class FlopWatch:
    """Watches the first steps of a training, and the first batch of each validation loader.

    Nothing is run for it: what the steps dispatch is looked at. Where that could change them, they
    are not watched.

    Args:
        session: where the counts go.
        is_on: watch at all.
        workload: what a step does, as described before the training; then none is watched.
    """

    def __init__(self, session: Session, *, is_on: bool, workload: Workload | None = None) -> None:
        self._session = session
        self._is_on = is_on and workload is None
        self._workload = workload
        self._watch: StepWatch | None = None
        # The first step that was watched, and what was trainable in it.
        self._first: WatchedStep | None = None
        self._trainable: frozenset[str] | None = None
        self._watched = 0
        self._flops: list[tuple[float, float, int | None]] = []  # forward, all, samples
        self._count: FlopCount | None = None
        # What is known of other choices of trainable parameters.
        self._counts: dict[frozenset[str], FlopCount] = {}
        self._validation: dict[Hashable, float] = {}
        self._validation_flops = 0.0

    # ------------------------------------------------------------------ training

    def begin_step(self, module: nn.Module) -> None:
        """A step begins, and is watched if it is one of the first."""
        self.leave()
        if self._workload is not None and self._count is None:
            self._set(FlopCount.of_workload(self._workload))
        if not self._is_on:
            return
        if self._trainable is None:
            reason = why_unwatched(module)
            if reason:
                self._give_up(reason)
                return
            self._trainable = trainable_names(module)
        if self._watched < _MOST_STEPS and not self._is_settled:
            self._watch = StepWatch(module, describes=self._first is None)
            self._watch.begin()

    def before_optimizer_step(self) -> None:
        """Forward and backward of the step that is watched are over."""
        if self._watch is not None:
            self._watch.before_optimizer_step()

    def end_step(self, samples: int | None) -> WatchedStep | None:
        """A step has ended; returns it if it was watched.

        Args:
            samples: in its batch; None if unknown.
        """
        step = self.leave()
        if step is None:
            return None
        self._watched += 1
        if step.problem:
            self._give_up(step.problem)
            return step
        if self._first is None:
            self._first = step
        self._flops.append((step.forward_flops, step.flops, samples))
        self._set(self._mean(step))
        return step

    def leave(self) -> WatchedStep | None:
        """Watch no more, whatever is under way; returns what was seen of it."""
        watch, self._watch = self._watch, None
        return None if watch is None else watch.end()

    def change(self, before: frozenset[str], after: frozenset[str]) -> None:
        """Other parameters are trainable from now on: watch again what is not known of them."""
        if not self._is_on or self._count is None:
            return
        self._counts[before] = self._count
        if after in self._counts:
            self._set(self._counts[after])
            return
        ratio = self.ratio(after, before)
        if ratio is not None:
            now = self._count.training_to_forward
            self._set(replace(self._count, training_to_forward=ratio * now))
        self._first, self._trainable, self._watched = None, after, 0
        self._flops.clear()

    def ratio(self, after: frozenset[str], before: frozenset[str]) -> float | None:
        """Training FLOPs where `after` is trainable ÷ those where `before` is; None if unknown.

        Args:
            after: names of parameters.
            before: likewise.
        """
        first, now = self._first, self._trainable
        if first is None or first.gradients is None or now is None:
            return None
        backward_flops = first.gradients.backward_flops
        expected = backward_flops(now)
        if abs(expected - first.backward_flops) > first.flops / 2:
            return None  # it computes something else than the gradients of its forward pass
        # What was seen beside that, such as layers that are computed twice, stays.
        costs = [first.flops + backward_flops(names) - expected for names in (after, before)]
        return costs[0] / costs[1] if min(costs) > 0 else None

    def row_flops(self, samples: float, steps: float) -> float:
        """FLOPs of a row of the trace: of its steps and of what was validated in it.

        Args:
            samples: trained on in it; NaN if unknown.
            steps: of it.
        """
        validated, self._validation_flops = self._validation_flops, 0.0
        if self._count is None:
            return math.nan
        trained = self._count.training_flops(samples)
        if math.isnan(trained):
            seen = sum(flops for _, flops, _ in self._flops)
            trained = steps * seen / len(self._flops) if seen else math.nan
        return trained + validated

    # ------------------------------------------------------------------ validation

    def begin_validation_batch(self, module: nn.Module, loader: Hashable) -> None:
        """A batch is validated next; the first of each loader is watched."""
        self.leave()
        if self._is_on and self._count is not None and loader not in self._validation:
            self._watch = StepWatch(module, describes=False)
            self._watch.begin()

    def end_validation_batch(self, samples: int | None, loader: Hashable) -> None:
        """A batch was validated.

        Args:
            samples: in it; None if unknown.
            loader: which of several loaders it comes from.
        """
        step = self.leave()
        if step is not None:
            flops = math.nan if step.problem else step.flops
            self._validation[loader] = flops / (samples or 1)
        if self._workload is not None:
            self._validation_flops += self._workload.forward_flops_per_sample * (samples or 0)
        else:
            self._validation_flops += self._validation.get(loader, math.nan) * (samples or 1)

    # ------------------------------------------------------------------ inside

    @property
    def _is_settled(self) -> bool:
        """Whether two steps in a row cost the same."""
        if len(self._flops) < 2:
            return False
        costs = [flops / (samples or 1) for _, flops, samples in self._flops[-2:]]
        return math.isclose(*costs, rel_tol=_SAME)

    def _mean(self, step: WatchedStep) -> FlopCount:
        """The count that all steps watched so far give in the mean."""
        forward = sum(flops for flops, _, _ in self._flops)
        every = sum(flops for _, flops, _ in self._flops)
        whole = replace(step, forward_flops=forward, backward_flops=every - forward)
        sizes = [samples for _, _, samples in self._flops]
        if forward and None in sizes:
            note = "the batch does not show how many samples it holds"
            return replace(whole.flop_count(1), per_sample=None, note=note)
        return whole.flop_count(sum(size or 0 for size in sizes))

    def _set(self, count: FlopCount) -> None:
        self._count = count
        self._session.set_flops(count)

    def _give_up(self, reason: str) -> None:
        self._is_on = False
        self._set(FlopCount(None, f"not counted, as {reason}: {_HOW_TO}"))
        log.warning("energyest: FLOPs are not recorded, as %s: %s", reason, _HOW_TO)
