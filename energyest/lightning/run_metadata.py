"""What a trace's meta says of a Lightning training."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from energyest.adapters.facts import describe_model
from energyest.adapters.hyperparameters import plain_hyperparameters
from energyest.lightning.early_stopping import early_stopping_of
from energyest.tracking.first_projection import precision_of

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer


def facts_of(
    trainer: Trainer, module: LightningModule, hparams: Collection[str] = ()
) -> dict[str, Any]:
    """The model, and how it is trained, as far as that is known when `fit` begins.

    Args:
        trainer: that trains it.
        module: the model.
        hparams: hyperparameters that the user wants to have in any case.
    """
    return {
        "model": describe_model(module),
        "precision": precision_of(str(trainer.precision)),
        "lightning_precision": str(trainer.precision),
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "hparams": plain_hyperparameters(lambda: module.hparams, hparams),
        **early_stopping_of(trainer),
    }
