"""What a trace's meta says of a Lightning training."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.parameter import is_lazy

from energyest.lightning.early_stopping import early_stopping_of
from energyest.lightning.hyperparameters import plain_hyperparameters
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
        "model": _describe_model(module),
        "precision": precision_of(str(trainer.precision)),
        "lightning_precision": str(trainer.precision),
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "hparams": plain_hyperparameters(lambda: module.hparams, hparams),
        **early_stopping_of(trainer),
    }


def _describe_model(model: torch.nn.Module) -> dict[str, Any]:
    parameters = [p for p in model.parameters() if not is_lazy(p)]
    return {
        "name": type(model).__name__,
        "parameters": sum(p.numel() for p in parameters),
        "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
    }
