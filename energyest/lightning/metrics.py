"""Metrics out of a Trainer and into it: what a training logs, and what the monitor logs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from energyest.records.trace import EPOCH_COLUMNS
from energyest.tracking.guard import never_raises

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer

log = logging.getLogger("energyest")

# What the progress bar shows.
_SHOWN = "energy/projected_J"
# What the monitor logs itself.
_OURS = frozenset(
    f"energy/{name}"
    for name in (
        *("epoch_J", "interval_J", "total_J", "mean_power_W"),
        *("projected_J", "projected_lower_J", "projected_upper_J"),
    )
)


class FreshMetrics:
    """Finds the metrics that were logged since it looked last."""

    def __init__(self) -> None:
        self._seen: dict[str, Any] = {}
        self._left_out: set[str] = set()

    def forget(self, trainer: Trainer) -> None:
        """What the Trainer has now counts as seen."""
        self._seen = dict(trainer.callback_metrics)

    @never_raises  # by itself: a metric that cannot be computed must not cost an epoch its row
    def _take(self, trainer: Trainer) -> dict[str, float]:
        before, self._seen = self._seen, dict(trainer.callback_metrics)
        fresh = {}
        for name, value in self._seen.items():
            if name in _OURS or not _is_scalar(value) or _is_same(value, before.get(name)):
                continue
            if name in EPOCH_COLUMNS:
                self._leave_out(name, "is the name of a column of the trace")
                continue
            try:
                fresh[name] = float(value)
            except Exception as error:  # one that cannot be computed does not cost the others
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


def log_epoch(trainer: Trainer, pl_module: LightningModule, values: Mapping[str, float]) -> None:
    """Log values of an epoch, at its end."""
    for name, value in values.items():
        pl_module.log(
            name,
            value,
            prog_bar=name == _SHOWN,
            logger=bool(trainer.loggers),
            on_step=False,
            on_epoch=True,
            batch_size=1,
            # Nothing is exchanged for a value of rank 0 alone; else Lightning would advise it.
            rank_zero_only=True,
            sync_dist=True,
        )


def log_interval(trainer: Trainer, values: Mapping[str, float]) -> None:
    """Log values of an interval of batches, anywhere in an epoch.

    Past `pl_module.log`: that would handle the values again at every batch to come, and keep from
    the loggers those that `log_every_n_steps` does not hit.
    """
    # The optimizer step that was made last, as the Trainer itself numbers it for the loggers.
    step = max(0, trainer.fit_loop.epoch_loop._batches_that_stepped - 1)
    for logger in trainer.loggers:
        logger.log_metrics(dict(values), step=step)
    trainer.callback_metrics.update({name: torch.tensor(v) for name, v in values.items()})
    if _SHOWN in values:
        trainer.progress_bar_metrics[_SHOWN] = values[_SHOWN]


def _is_scalar(value: Any) -> bool:
    return not isinstance(value, torch.Tensor) or value.numel() == 1


def _is_same(value: Any, other: Any) -> bool:
    """Whether a metric was not logged again: within an epoch, views of one tensor are handed out.

    The other is kept, so that its place in memory cannot have been taken by a new one.
    """
    if isinstance(value, torch.Tensor) and isinstance(other, torch.Tensor):
        return value.data_ptr() == other.data_ptr()
    return value is other
