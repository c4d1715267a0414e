"""What a trace's meta says of a Lightning training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.parameter import is_lazy

from energyest.callbacks.first import precision_of

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer


# A table of runs wants names and numbers, not whole configurations.
_MOST_HPARAMS = 100
_MOST_CHARACTERS = 200


def facts_of(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """The model, and how it is trained, as far as that is known when `fit` begins."""
    return {
        "model": _describe_model(module),
        "precision": precision_of(str(trainer.precision)),
        "lightning_precision": str(trainer.precision),
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "hparams": _hyperparameters(module),
    }


def _describe_model(model: torch.nn.Module) -> dict[str, Any]:
    parameters = [p for p in model.parameters() if not is_lazy(p)]
    return {
        "name": type(model).__name__,
        "parameters": sum(p.numel() for p in parameters),
        "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
    }


def _hyperparameters(module: LightningModule) -> dict[str, Any]:
    """What `save_hyperparameters` has kept, as far as it is plain; runs are told apart by it."""
    try:
        hparams: Any = module.hparams
        plain = {str(name): value for name, value in dict(hparams).items() if _is_plain(value)}
    except Exception:  # a user's own property: the training must not end over it
        return {}
    return dict(list(plain.items())[:_MOST_HPARAMS])


def _is_plain(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= _MOST_CHARACTERS
    return isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))
