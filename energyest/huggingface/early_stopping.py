"""What Hugging Face's `EarlyStoppingCallback` watches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from energyest.checks import finite_or_none

if TYPE_CHECKING:
    from transformers import Trainer


def early_stopping_of(trainer: Trainer) -> dict[str, Any]:
    """What of the trace's meta concerns stopping early; empty where nothing does.

    With a threshold, it is Lightning's rule but for this: the best value moves with improvements
    that are smaller than the threshold, too.

    Args:
        trainer: its callbacks, arguments and state are looked at.
    """
    from transformers import EarlyStoppingCallback  # noqa: PLC0415  (which is optional)

    args = trainer.args
    metric = args.metric_for_best_model
    found = [c for c in trainer.callback_handler.callbacks if isinstance(c, EarlyStoppingCallback)]
    if not found or not metric:
        return {}
    entries = []
    for callback in found:
        # As `estimators.early_stopping.rule.StoppingRule.of` reads it.
        entry: dict[str, Any] = {
            "monitor": metric if metric.startswith("eval_") else f"eval_{metric}",
            "mode": "max" if args.greater_is_better else "min",
            "patience": int(callback.early_stopping_patience),
            "min_delta": finite_or_none(callback.early_stopping_threshold) or 0.0,
            "stopping_threshold": None,
            "divergence_threshold": None,
            "check_finite": False,
            "on_train_epoch_end": False,
        }
        best = finite_or_none(trainer.state.best_metric)
        if best is not None:  # from a checkpoint
            entry |= {"best": best, "waited": int(callback.early_stopping_patience_counter)}
        entries.append(entry)
    return {"early_stopping": entries, "min_epochs": 0}
