"""What Lightning's `EarlyStopping` callbacks watch."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

from energyest.checks import finite_or_none
from energyest.display import in_a_line
from energyest.measure.signals import let_handlers_raise

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

# Both namespaces define the class; one that was not imported has no callbacks.
_HOMES = (
    "pytorch_lightning.callbacks.early_stopping",
    "lightning.pytorch.callbacks.early_stopping",
)

log = logging.getLogger("energyest")


def early_stopping_of(trainer: Trainer) -> dict[str, Any]:
    """What of the trace's meta concerns stopping early; empty where nothing does.

    Call it after the callbacks were set up and have loaded their states, as from `on_fit_start` on.

    Args:
        trainer: its callbacks are looked at.
    """
    if getattr(trainer, "fast_dev_run", False):  # then they do nothing
        return {}
    kinds = tuple(sys.modules[name].EarlyStopping for name in _HOMES if name in sys.modules)
    found: list[dict[str, Any]] = []
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, kinds):
            try:
                found.append(_entry(callback))
            except Exception as error:  # a user's own class below it may hold anything
                let_handlers_raise(error)
                log.warning(
                    "energyest: when %s stops is not known (%s)",
                    type(callback).__name__,
                    in_a_line(error),
                )
    if not found:
        return {}
    return {"early_stopping": found, "min_epochs": trainer.min_epochs or 0}


def _entry(callback: Any) -> dict[str, Any]:
    """As `estimators.early_stopping.rule.StoppingRule.of` reads it."""
    # The callback has turned the sign of what it was given where less is better.
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
    if best is not None:  # from a checkpoint, or a `fit` before this one
        entry |= {"best": best, "waited": int(callback.wait_count)}
    return entry
