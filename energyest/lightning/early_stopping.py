"""The settings of Lightning's `EarlyStopping` callbacks."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

from energyest.checks import finite_or_none
from energyest.display import in_a_line
from energyest.measure.signals import let_handlers_raise

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

# Both namespaces define the class; a namespace that is not imported has no callbacks.
_HOMES = (
    "pytorch_lightning.callbacks.early_stopping",
    "lightning.pytorch.callbacks.early_stopping",
)

log = logging.getLogger("energyest")


def early_stopping_of(trainer: Trainer) -> dict[str, Any]:
    """The entries on early stopping for the trace's meta; empty without early stopping.

    Call it after the callbacks are set up and have loaded their states: in `on_fit_start` or later.

    Args:
        trainer: the Trainer with the callbacks.
    """
    if getattr(trainer, "fast_dev_run", False):  # then the callbacks do nothing
        return {}
    kinds = tuple(sys.modules[name].EarlyStopping for name in _HOMES if name in sys.modules)
    found: list[dict[str, Any]] = []
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, kinds):
            try:
                found.append(_entry(callback))
            except Exception as error:  # a user's subclass may hold anything
                let_handlers_raise(error)
                log.warning(
                    "energyest: the stopping rule of %s is not known (%s)",
                    type(callback).__name__,
                    in_a_line(error),
                )
    if not found:
        return {}
    return {"early_stopping": found, "min_epochs": trainer.min_epochs or 0}


def _entry(callback: Any) -> dict[str, Any]:
    """The settings of a callback, in the form that `StoppingRule.of` reads."""
    # The callback negates min_delta if lower is better.
    sign = 1 if callback.mode == "max" else -1
    entry = {
        "monitor": str(callback.monitor),
        "mode": callback.mode,
        "patience": int(callback.patience),
        "min_delta": sign * float(callback.min_delta),
        "stopping_threshold": finite_or_none(callback.stopping_threshold),
        "divergence_threshold": finite_or_none(callback.divergence_threshold),
        "check_finite": bool(callback.check_finite),
        "on_train_epoch_end": bool(callback._check_on_train_epoch_end),
    }
    best = finite_or_none(float(callback.best_score))
    if best is not None:  # from a checkpoint, or an earlier `fit`
        entry |= {"best": best, "waited": int(callback.wait_count)}
    return entry
