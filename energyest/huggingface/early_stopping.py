"""The settings of Hugging Face's `EarlyStoppingCallback`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from energyest.checks import finite_or_none

if TYPE_CHECKING:
    from transformers import Trainer


def early_stopping_of(trainer: Trainer) -> dict[str, Any]:
    """The entries on early stopping for the trace's meta; empty without early stopping.

    With a threshold, the rule differs from Lightning's in one respect: the best value also moves
    with improvements smaller than the threshold.

    Args:
        trainer: the Trainer, with its callbacks, arguments and state.
    """
    from transformers import EarlyStoppingCallback  # noqa: PLC0415  (which is optional)

    args = trainer.args
    metric = args.metric_for_best_model
    found = [c for c in trainer.callback_handler.callbacks if isinstance(c, EarlyStoppingCallback)]
    if not found or not metric:
        return {}
    entries = []
    for callback in found:
        # In the form that `estimators.early_stopping.rule.StoppingRule.of` reads.
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
