"""`FlopWatch`: observes the first steps of a training to count the FLOPs of all steps."""

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

# Steps may differ, for example if two networks are trained in turn. Watch at most `_MOST_STEPS`,
# until the FLOPs of two successive steps differ by no more than the share `_SAME`.
_MOST_STEPS = 8
_SAME = 0.01
_HOW_TO = "pass workload=describe_workload(model, batch) to record them"


class FlopWatch:
    """Observes the first steps of a training, and the first batch of each validation loader.

    No extra step is run: it observes the operations that the training's own steps dispatch. Steps
    are not watched if watching could change them.

    Args:
        session: session that receives the counts.
        is_on: whether to watch any steps.
        workload: description of a step, made before the training; then no step is watched.
    """

    def __init__(self, session: Session, *, is_on: bool, workload: Workload | None = None) -> None:
        self._session = session
        self._is_on = is_on and workload is None
        self._workload = workload
        self._watch: StepWatch | None = None
        # The first step that was watched, and the parameters that were trainable in it.
        self._first: WatchedStep | None = None
        self._trainable: frozenset[str] | None = None
        self._watched = 0
        self._flops: list[tuple[float, float, int | None]] = []  # forward, all, samples
        self._count: FlopCount | None = None
        # Counts for other sets of trainable parameters.
        self._counts: dict[frozenset[str], FlopCount] = {}
        self._validation: dict[Hashable, float] = {}
        self._validation_flops = 0.0

    # ------------------------------------------------------------------ training

    def begin_step(self, module: nn.Module) -> None:
        """Begin a step; watch it if it is one of the first."""
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
        """Note that forward and backward pass of the current step are done."""
        if self._watch is not None:
            self._watch.before_optimizer_step()

    def end_step(self, samples: int | None) -> WatchedStep | None:
        """End a step; return what was observed, or None if it was not watched.

        Args:
            samples: samples in its batch; None if unknown.
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
        """Stop watching the current step, if any; return what was observed of it."""
        watch, self._watch = self._watch, None
        return None if watch is None else watch.end()

    def change(self, before: frozenset[str], after: frozenset[str]) -> None:
        """Note a change of the trainable parameters; watch again if the new set is unknown."""
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
            after: names of trainable parameters.
            before: likewise.
        """
        first, now = self._first, self._trainable
        if first is None or first.gradients is None or now is None:
            return None
        backward_flops = first.gradients.backward_flops
        expected = backward_flops(now)
        if abs(expected - first.backward_flops) > first.flops / 2:
            return None  # it computes more than the gradients of its forward pass
        # Other observed FLOPs, such as those of recomputed layers, stay the same.
        costs = [first.flops + backward_flops(names) - expected for names in (after, before)]
        return costs[0] / costs[1] if min(costs) > 0 else None

    def row_flops(self, samples: float, steps: float) -> float:
        """FLOPs of a row of the trace: of its training steps and its validation.

        Args:
            samples: training samples in the row; NaN if unknown.
            steps: training steps in the row.
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
        """Begin a validation batch; watch the first one of each loader."""
        self.leave()
        if self._is_on and self._count is not None and loader not in self._validation:
            self._watch = StepWatch(module, describes=False)
            self._watch.begin()

    def end_validation_batch(self, samples: int | None, loader: Hashable) -> None:
        """End a validation batch.

        Args:
            samples: samples in the batch; None if unknown.
            loader: the loader it comes from.
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
        """Whether the last two steps had the same FLOPs per sample."""
        if len(self._flops) < 2:
            return False
        costs = [flops / (samples or 1) for _, flops, samples in self._flops[-2:]]
        return math.isclose(*costs, rel_tol=_SAME)

    def _mean(self, step: WatchedStep) -> FlopCount:
        """The mean count of all steps watched so far."""
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
