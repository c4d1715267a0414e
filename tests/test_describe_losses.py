"""The default loss of `describe_workload`: each output takes part."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from energyest.profiling.describe import count_flops, describe_workload
from energyest.records.workload import Workload

X, CLASSES = torch.randn(4, 8), torch.zeros(4, dtype=torch.long)
BODY, HEAD = 4 * 2 * 8 * 16, 4 * 2 * 16 * 3
# The first layer's input needs no gradient.
STEP = 2 * BODY + 3 * HEAD


class Body(nn.Module):
    """A body and a head, whose outputs are returned in one of several ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.body, self.head, self.how = nn.Linear(8, 16), nn.Linear(16, 3), how

    def forward(self, x: Tensor) -> Any:
        features = self.body(x)
        logits = self.head(features)
        if self.how == "loss by name":
            return {"loss": functional.cross_entropy(logits, CLASSES), "features": features}
        if self.how == "several":
            return [features, [features.sum(), logits]]
        return {
            "logits": logits,
            "features first": (features, logits),
            "detached features first": (features.detach(), logits),
            "input first": (x, logits),
            "by name": {"features": features, "logits": logits},
        }[self.how]


def losses_of(workload: Workload) -> list[str]:
    names = ("_log_softmax", "mse_loss", "binary_cross_entropy_with_logits", "sum")
    found = [o for o in workload.operations if o.phase == "forward" and o.name in names]
    return sorted(o.name for o in found for _ in range(o.count))


@pytest.mark.parametrize(
    ("how", "losses"),
    [
        ("logits", ["_log_softmax"]),
        ("features first", ["_log_softmax"] * 2 + ["sum"]),
        ("detached features first", ["_log_softmax"]),
        ("input first", ["_log_softmax"]),
        ("by name", ["_log_softmax"] * 2 + ["sum"]),
        ("loss by name", ["_log_softmax"]),
        ("several", ["_log_softmax"] * 2 + ["sum"] * 3),
    ],
)
def test_each_output_that_has_a_gradient_takes_part(how: str, losses: list[str]) -> None:
    workload = describe_workload(Body(how), (X, CLASSES))
    assert workload.flops_per_step == STEP
    assert losses_of(workload) == losses
    assert count_flops(Body(how), (X, CLASSES)).training_flops(4) == pytest.approx(STEP)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_list_of_refined_outputs(precision: str) -> None:
    class Refines(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(5))

        def forward(self, x: Tensor) -> list[Tensor]:
            found = []
            for layer in self.layers:
                x = layer(x)
                found.append(x)
            return found

    workload = describe_workload(Refines(), (X, X), precision=precision)
    assert workload.flops_per_step == (2 + 4 * 3) * 4 * 2 * 8 * 8
    assert losses_of(workload).count("mse_loss") == 5


def test_without_any_gradient_all_outputs_take_part() -> None:
    model = Body("features first").requires_grad_(False)
    assert describe_workload(model, (X, CLASSES)).flops_per_step == BODY + HEAD
