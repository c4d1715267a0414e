"""The advisor: which of several models, on which GPU, before any of them is trained.

python examples/choose_a_gpu.py
"""

from itertools import pairwise

import torch
from torch import nn

from energyest import describe_workload, plots
from energyest.tradeoff import advise


def network(width):
    """Three convolutions, and a linear layer for ten classes."""
    channels = (3, width, 2 * width, 4 * width)
    layers = []
    for before, after in pairwise(channels):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 10))


batch = torch.zeros(256, 3, 64, 64), torch.zeros(256, dtype=torch.long)
models = {"small": network(32), "medium": network(96), "large": network(256)}
advice = advise(
    {name: describe_workload(model, batch, precision="bf16") for name, model in models.items()},
    ["H100", "A100", "L4"],
    epochs=90,
    train_samples=50_000,
    quality={"small": 0.81, "medium": 0.86, "large": 0.88},  # the accuracy that you expect
)
print(advice)
best = advice.cheapest_within(0.03)[["model", "gpu", "energy_J", "quality"]]
print(f"\nThe cheapest within three points of the best accuracy:\n{best.to_string(index=False)}")
plots.plot_advice(advice).savefig("advice.svg")
