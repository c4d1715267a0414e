"""What a trace's meta says of a Lightning training."""

from __future__ import annotations

import math
import re
from argparse import Namespace
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.parameter import is_lazy

from energyest.measure.signals import let_handlers_raise
from energyest.tracking.first_projection import precision_of

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer


# A table of runs wants names and numbers, not whole configurations.
_MOST, _MOST_VISITED, _MOST_DEPTH = 100, 10_000, 5
_MOST_CHARACTERS = 200
# Traces are passed on. "max_tokens" is a number, and no secret.
_SECRET = re.compile(r"key$|token$|passw|secret|credential", re.IGNORECASE)


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
    """What `save_hyperparameters` has kept, as far as it is plain; runs are told apart by it.

    What lies within mappings has the names of all around it, as in `optimizer.lr`. Texts whose name
    says that they are secret are left out.
    """
    try:
        hparams: Any = module.hparams
        every = islice(_flat(hparams, "", 0), _MOST_VISITED)
        return dict(islice(((name, value) for name, value in every if _tells(name, value)), _MOST))
    except Exception as error:  # a user's own property: the training must not end over it
        let_handlers_raise(error)
        return {}


def _flat(values: Mapping[Any, Any], prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Namespace):
            value = vars(value)  # noqa: PLW2901
        if isinstance(value, Mapping):
            if depth < _MOST_DEPTH:
                yield from _flat(value, f"{name}.", depth + 1)
        else:
            yield name, value.item() if isinstance(value, np.generic) else value


def _tells(name: str, value: object) -> bool:
    """Whether this is a number or short text that may be written down."""
    if len(name) > _MOST_CHARACTERS:
        return False
    if isinstance(value, str):
        return len(value) <= _MOST_CHARACTERS and not _SECRET.search(name)
    if isinstance(value, int):
        return abs(value) < 2**63  # as tables hold them; a truth value is one, too
    return isinstance(value, float) and math.isfinite(value)
