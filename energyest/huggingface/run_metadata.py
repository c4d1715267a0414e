"""Facts about a training by Hugging Face's Trainer for the trace's meta."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

from energyest.adapters.facts import describe_model
from energyest.adapters.hyperparameters import plain_hyperparameters
from energyest.huggingface.early_stopping import early_stopping_of
from energyest.huggingface.trainer_plan import precision_word, word
from energyest.tracking.first_projection import precision_of

if TYPE_CHECKING:
    from transformers import Trainer

# Arguments that distinguish runs even at their defaults.
_ALWAYS = (
    "learning_rate",
    "lr_scheduler_type",
    "max_steps",
    "num_train_epochs",
    "optim",
    "per_device_train_batch_size",
    "seed",
    "weight_decay",
)


def facts_of(trainer: Trainer, hparams: Collection[str] = ()) -> dict[str, Any]:
    """The model and training settings, as known when training begins.

    Args:
        trainer: the Trainer.
        hparams: names of arguments to record in any case.
    """
    return {
        "model": describe_model(trainer.model),
        "precision": precision_of(precision_word(trainer)),
        "accumulate_grad_batches": trainer.args.gradient_accumulation_steps,
        "hparams": plain_hyperparameters(lambda: _chosen(trainer.args, hparams), hparams),
        **early_stopping_of(trainer),
    }


def _chosen(args: Any, asked: Collection[str]) -> Mapping[str, Any]:
    """The arguments that were set, and a few that always matter, out of more than a hundred."""
    chosen = {}
    for field in fields(args):
        value = getattr(args, field.name, None)
        default = field.default
        if default is MISSING and field.default_factory is not MISSING:
            default = field.default_factory()
        if field.name in _ALWAYS or field.name in asked or word(value) != word(default):
            chosen[field.name] = getattr(value, "value", value)
    return chosen
