"""Facts about the trained model for the trace's meta."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy


def describe_model(model: nn.Module) -> dict[str, Any]:
    """The class of a model and the number of its parameters, without uninitialised lazy ones."""
    parameters = [p for p in model.parameters() if not is_lazy(p)]
    return {
        "name": type(model).__name__,
        "parameters": sum(p.numel() for p in parameters),
        "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
    }
