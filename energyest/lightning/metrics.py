"""Metrics out of a Trainer and into it: what a training logs, and what the monitor logs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from energyest.adapters.log_names import LogNames
from energyest.display import format_Wh
from energyest.measure.signals import let_handlers_raise
from energyest.records.trace import EPOCH_COLUMNS
from energyest.tracking.guard import never_raises

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

log = logging.getLogger("energyest")

# What the progress bar shows, by a name that leaves room in 80 columns.
_TOTAL, _PROJECTED = "energy/total_J", "energy/projected_J"
_SHOWN = "energy"
# An attribute of the tensors that a monitor puts into `callback_metrics`.
_MARK = "_is_of_energyest"


class EnergyLog:
    """Logs the monitor's values, past `LightningModule.log`.

    That raises an error where a training logs something of the same name. In the Trainer's
    `callback_metrics`, the values are at once; to the loggers they go when the next batch or epoch
    begins, for only then is it known what the training has logged itself. A name that it uses is
    left to it.
    """

    def __init__(self) -> None:
        # What was put into `callback_metrics`, by name.
        self._own: dict[str, torch.Tensor] = {}
        self._in_bar: dict[str, float] = {}
        self._names = LogNames()
        # What waits for the loggers, with the number of the step and of the epoch.
        self._waiting: list[tuple[Mapping[str, float], int, int]] = []

    @staticmethod
    def is_own(value: object) -> bool:
        """Whether a value in `callback_metrics` is this monitor's, or another's beside it."""
        return getattr(value, _MARK, False) is True

    def put(self, trainer: Trainer, values: Mapping[str, float]) -> None:
        """Log values, by names that begin with `energy/`."""
        self._show(trainer, values)
        # The optimizer step that was made last, as the Trainer itself numbers it for the loggers.
        step = max(0, trainer.fit_loop.epoch_loop._batches_that_stepped - 1)
        self._waiting.append((values, step, trainer.current_epoch))

    @property
    def is_waiting(self) -> bool:
        """Whether something is to go to the loggers."""
        return bool(self._waiting)

    @never_raises  # by itself: a logger that fails must not cost the next row its beginning
    def flush(self, trainer: Trainer, *, is_last: bool = False) -> None:
        """Bring to the loggers what waits.

        Args:
            trainer: has the loggers.
            is_last: nobody may log after this: they are to save what they have.
        """
        waiting, self._waiting = self._waiting, []
        for values, step, epoch in waiting:
            named = self._show(trainer, values)
            trainer._logger_connector._logged_metrics.update(
                {name: self._own[name] for name in named}
            )
            for logger in trainer.loggers:
                logger.log_metrics({**named, "epoch": epoch}, step=step)
                if is_last:  # else they do so when the training logs something
                    logger.save()

    def _show(self, trainer: Trainer, values: Mapping[str, float]) -> dict[str, float]:
        """Put values into the Trainer's metrics; returns them by the names that they have there."""
        # Behind the public `callback_metrics`, which would compute the training's metrics first.
        connector: Any = trainer._logger_connector
        there = connector._callback_metrics
        self._names.take(_names_in_use(trainer))
        names = {wanted: self._free_name(wanted, there) for wanted in values}
        named = {name: values[wanted] for wanted, name in names.items() if name is not None}
        # One tensor for all: with each that is made, other threads may take their turn.
        tensors = torch.tensor([*named.values()]).unbind()
        for name, tensor in zip(named, tensors, strict=True):
            setattr(tensor, _MARK, True)
            self._own[name] = tensor
        there.update({name: self._own[name] for name in named})
        self._show_in_bar(connector, values)
        return named

    def _show_in_bar(self, connector: Any, values: Mapping[str, float]) -> None:
        """What was used, and of how much, as `12.3Wh/45.6Wh`: the bar shows text as it stands."""
        bar = connector._progress_bar_metrics
        if not isinstance(bar.get(_SHOWN, ""), str):  # the training's own
            return
        # Not every row brings a projection.
        self._in_bar |= {name: values[name] for name in (_TOTAL, _PROJECTED) if name in values}
        if _TOTAL in values:
            bar[_SHOWN] = "/".join(map(format_Wh, self._in_bar.values()))

    def _free_name(self, wanted: str, there: Mapping[str, object]) -> str | None:
        """A name that the training does not use; None if there is none."""
        both = self._names.candidates(wanted)
        self._names.take(n for n in both if n in there and there[n] is not self._own.get(n))
        return self._names.free(wanted, is_news=not self.is_own(there.get(wanted)))


class FreshMetrics:
    """Finds the metrics that a training has logged since it looked last."""

    def __init__(self) -> None:
        self._seen: dict[str, Any] = {}
        self._left_out: set[str] = set()

    def forget(self, trainer: Trainer) -> None:
        """What the Trainer has now counts as seen."""
        self._seen = dict(trainer.callback_metrics)

    @never_raises  # by itself: a metric that cannot be computed must not cost an epoch its row
    def _take(self, trainer: Trainer) -> dict[str, float]:
        # Processes work out their metrics together, and the others may not come: then, those alone
        # that are worked out.
        alone = trainer.world_size == 1
        now = trainer.callback_metrics if alone else trainer._logger_connector._callback_metrics
        before, self._seen = self._seen, dict(now)
        fresh = {}
        for name, value in self._seen.items():
            is_ours = EnergyLog.is_own(value)
            if is_ours or not _is_scalar(value) or _is_same(value, before.get(name)):
                continue
            if name in EPOCH_COLUMNS:
                self._leave_out(name, "is the name of a column of the trace")
                continue
            try:
                fresh[name] = float(value)
            except Exception as error:  # one that cannot be computed does not cost the others
                let_handlers_raise(error)
                self._leave_out(name, f"is no number ({type(error).__name__})")
        return fresh

    def _leave_out(self, name: str, why: str) -> None:
        if name not in self._left_out:
            self._left_out.add(name)
            log.warning("energyest: the metric %r %s: it is left out of the trace", name, why)

    def take(self, trainer: Trainer) -> dict[str, float]:
        """The metrics logged since the last call, those named like a column left out.

        Lightning keeps the value of a metric that was not logged again, such as one of a
        validation five epochs ago.
        """
        return self._take(trainer) or {}


def _names_in_use(trainer: Trainer) -> set[str]:
    """What the training's steps and hooks have logged, though it may show at the epoch's end only.

    Where Lightning keeps them otherwise, they are known once they are in `callback_metrics`.
    """
    loop: Any = trainer.fit_loop.epoch_loop
    both = (getattr(part, "_results", None) or {} for part in (loop, loop.val_loop))
    return {metric.meta.name for results in both for metric in results.values()}


def _is_scalar(value: Any) -> bool:
    return not isinstance(value, torch.Tensor) or value.numel() == 1


def _is_same(value: Any, other: Any) -> bool:
    """Whether a metric was not logged again: within an epoch, views of one tensor are handed out.

    The other is kept, so that its place in memory cannot have been taken by a new one.
    """
    if isinstance(value, torch.Tensor) and isinstance(other, torch.Tensor):
        return value.data_ptr() == other.data_ptr()
    return value is other
