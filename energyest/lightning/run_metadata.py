"""Facts about a Lightning training for the trace's meta."""

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
    """The model and training settings, as known when `fit` begins.

    Args:
        trainer: the Trainer.
        module: the model.
        hparams: names of hyperparameters to record in any case.
    """
    return {
        "model": describe_model(module),
        "precision": precision_of(str(trainer.precision)),
        "lightning_precision": str(trainer.precision),
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "hparams": plain_hyperparameters(lambda: module.hparams, hparams),
        **early_stopping_of(trainer),
    }
