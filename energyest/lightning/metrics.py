"""Metrics of a Trainer: reads what a training logs, and logs the monitor's values."""

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

# What the progress bar shows, under a name short enough for 80 columns.
_TOTAL, _PROJECTED = "energy/total_J", "energy/projected_J"
_SHOWN = "energy"
# An attribute that marks tensors that a monitor puts into `callback_metrics`.
_MARK = "_is_of_energyest"


class EnergyLog:
    """Logs the monitor's values without `LightningModule.log`.

    `LightningModule.log` would raise an error if the training logs the same name. The values appear
    in the Trainer's `callback_metrics` at once. They are sent to the loggers when the next batch or
    epoch begins, because only then is it known which names the training itself has logged. Those
    names are not overwritten.
    """

    def __init__(self) -> None:
        # The monitor's values in `callback_metrics`, by name; and those shown last.
        self._own: dict[str, torch.Tensor] = {}
        self._shown: dict[str, float] = {}
        self._in_bar: dict[str, float] = {}
        self._names = LogNames()
        # Values not yet sent to the loggers, with their step and epoch.
        self._waiting: list[tuple[Mapping[str, float], int, int]] = []

    @staticmethod
    def is_own(value: object) -> bool:
        """Whether a value in `callback_metrics` comes from this or another monitor."""
        return getattr(value, _MARK, False) is True

    def put(self, trainer: Trainer, values: Mapping[str, float]) -> None:
        """Log values under names that begin with `energy/`."""
        self._show(trainer, values)
        # The last optimizer step, numbered as the Trainer does for its loggers.
        step = max(0, trainer.fit_loop.epoch_loop._batches_that_stepped - 1)
        self._waiting.append((values, step, trainer.current_epoch))

    @property
    def is_waiting(self) -> bool:
        """Whether values have not yet been sent to the loggers."""
        return bool(self._waiting)

    @never_raises  # guarded separately: a failing logger must not prevent the next row
    def flush(self, trainer: Trainer, *, is_last: bool = False) -> None:
        """Send waiting values to the loggers.

        Args:
            trainer: the Trainer with the loggers.
            is_last: whether the loggers must save now, because nothing may be logged afterwards.
        """
        waiting, self._waiting = self._waiting, []
        for values, step, epoch in waiting:
            named = self._show(trainer, values)
            trainer._logger_connector._logged_metrics.update(
                {name: self._own[name] for name in named}
            )
            for logger in trainer.loggers:
                logger.log_metrics({**named, "epoch": epoch}, step=step)
                if is_last:  # otherwise they save when the training logs next
                    logger.save()

    def _show(self, trainer: Trainer, values: Mapping[str, float]) -> dict[str, float]:
        """Put values into the Trainer's metrics; return them under the names used there."""
        # Not the public `callback_metrics`, which would compute the training's metrics first.
        connector: Any = trainer._logger_connector
        there = connector._callback_metrics
        self._names.take(_names_in_use(trainer))
        names = {wanted: self._free_name(wanted, there) for wanted in values}
        named = {name: values[wanted] for wanted, name in names.items() if name is not None}
        is_there = all(there.get(name) is self._own.get(name) for name in named)
        if is_there and named == self._shown:  # before they are sent, they have been shown
            return named
        self._shown = named
        # One tensor for all: each new tensor gives other threads a chance to run.
        tensors = torch.tensor([*named.values()]).unbind()
        for name, tensor in zip(named, tensors, strict=True):
            setattr(tensor, _MARK, True)
            self._own[name] = tensor
        there.update({name: self._own[name] for name in named})
        self._show_in_bar(connector, values)
        return named

    def _show_in_bar(self, connector: Any, values: Mapping[str, float]) -> None:
        """Show energy used / projected in the progress bar, as `12.3Wh/45.6Wh` (shown verbatim)."""
        bar = connector._progress_bar_metrics
        if not isinstance(bar.get(_SHOWN, ""), str):  # the training's own
            return
        # Not every row has a projection.
        self._in_bar |= {name: values[name] for name in (_TOTAL, _PROJECTED) if name in values}
        if _TOTAL in values:
            bar[_SHOWN] = "/".join(map(format_Wh, self._in_bar.values()))

    def _free_name(self, wanted: str, there: Mapping[str, object]) -> str | None:
        """A name that the training does not use; None if all are in use."""
        both = self._names.candidates(wanted)
        self._names.take(n for n in both if n in there and there[n] is not self._own.get(n))
        return self._names.free(wanted, is_news=not self.is_own(there.get(wanted)))


class FreshMetrics:
    """Finds the metrics that a training has logged since the last call."""

    def __init__(self) -> None:
        self._seen: dict[str, Any] = {}
        self._left_out: set[str] = set()

    def forget(self, trainer: Trainer) -> None:
        """Treat the Trainer's present metrics as seen."""
        self._seen = dict(trainer.callback_metrics)

    @never_raises  # guarded separately: a failing metric must not cost an epoch its row
    def _take(self, trainer: Trainer) -> dict[str, float]:
        # Computing metrics may involve all processes, but others may not take part. With several
        # processes, read only metrics that are already computed.
        alone = trainer.world_size == 1
        now = trainer.callback_metrics if alone else trainer._logger_connector._callback_metrics
        before, self._seen = self._seen, dict(now)
        fresh = {}
        for name, value in self._seen.items():
            is_ours = EnergyLog.is_own(value)
            if is_ours or not _is_scalar(value) or _is_same(value, before.get(name)):
                continue
            if name in EPOCH_COLUMNS:
                self._leave_out(name, "has the name of a column of the trace")
                continue
            try:
                fresh[name] = float(value)
            except Exception as error:  # one failing metric must not cost the others
                let_handlers_raise(error)
                self._leave_out(name, f"is not a number ({type(error).__name__})")
        return fresh

    def _leave_out(self, name: str, why: str) -> None:
        if name not in self._left_out:
            self._left_out.add(name)
            log.warning("energyest: metric %r is left out of the trace: it %s", name, why)

    def take(self, trainer: Trainer) -> dict[str, float]:
        """The metrics logged since the last call, without those named like a column.

        Lightning keeps values that were not logged again, such as those of a validation five
        epochs ago; they are left out.
        """
        return self._take(trainer) or {}


def _names_in_use(trainer: Trainer) -> set[str]:
    """Names that the training has logged, even if they appear only at the end of the epoch.

    If Lightning stores them elsewhere, they are known once they are in `callback_metrics`.
    """
    loop: Any = trainer.fit_loop.epoch_loop
    both = (getattr(part, "_results", None) or {} for part in (loop, loop.val_loop))
    return {metric.meta.name for results in both for metric in results.values()}


def _is_scalar(value: Any) -> bool:
    return not isinstance(value, torch.Tensor) or value.numel() == 1


def _is_same(value: Any, other: Any) -> bool:
    """Whether a metric was not logged again: within an epoch, views of one tensor are returned.

    The caller keeps `other` alive, so its memory cannot have been reused by a new tensor.
    """
    if isinstance(value, torch.Tensor) and isinstance(other, torch.Tensor):
        return value.data_ptr() == other.data_ptr()
    return value is other
