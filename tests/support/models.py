"""Models with which describing and counting have a hard time, and what must not change in them."""

from __future__ import annotations

import random
import threading
from typing import Any

import numpy as np
import pytorch_lightning
import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """Self-attention through torch's fused function, which fvcore has no rule for."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(16, 48)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        return nn.functional.scaled_dot_product_attention(query, key, value)


class Net(nn.Module):
    """One layer of 2 * 8 * 4 FLOPs, and a place for whatever a test wants to happen."""

    LAYER_FLOPS = 64

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Raises(Net):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("no forward today")


class Locked(Net):
    """A lock cannot be copied, only shared."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class Lazy(Net):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LazyLinear(4)


class Sneaky(Net):
    """Its forward calls, past the copy, layers of the very model."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8, affine=False)
        self.normalise = lambda x: self.norm(x) + 0
        self.project = lambda x: self.layer(x) + 0

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.normalise(x))


class Noisy(nn.Module):
    """Everything that a forward pass can change: statistics, generators, attributes, hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        self.frozen = nn.Linear(8, 4).requires_grad_(False).eval()
        self.calls = 0
        self.net[0].register_forward_hook(lambda *_: setattr(self, "calls", self.calls + 1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x = x + random.random() + np.random.rand() + torch.rand(1)  # noqa: NPY002
        return self.frozen(self.net(x))


def state_of(model: nn.Module) -> dict[str, Any]:
    return {
        "values": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "training": [module.training for module in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grads": [p.grad for p in model.parameters()],
        "identities": [id(p) for p in [*model.parameters(), *model.buffers()]],
        "hooks": [
            len(hooks)
            for module in model.modules()
            for name, hooks in vars(module).items()
            if name.endswith("_hooks")
        ],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "calls": getattr(model, "calls", 0),
        "generators": (
            torch.get_rng_state(),
            random.getstate(),
            np.random.get_state(legacy=False),  # noqa: NPY002
        ),
    }


def assert_same(before: Any, after: Any) -> None:
    """Equality that also looks into tensors."""
    assert type(before) is type(after)
    if isinstance(before, Tensor):
        assert torch.equal(before, after)
    elif isinstance(before, np.ndarray):
        assert np.array_equal(before, after)
    elif isinstance(before, dict):
        assert before.keys() == after.keys()
        for name in before:
            assert_same(before[name], after[name])
    elif isinstance(before, list | tuple):
        assert len(before) == len(after)
        for one, other in zip(before, after, strict=True):
            assert_same(one, other)
    else:
        assert before == after


class StepOnly(pytorch_lightning.LightningModule):
    """Has no forward: the training step calls its layers itself, and logs."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(8, 3), nn.Linear(3, 8)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> dict[str, Tensor]:
        inputs, _ = batch
        loss = (self.decoder(self.encoder(inputs)) - inputs).square().mean()
        self.log("loss", loss)
        return {"loss": loss}
