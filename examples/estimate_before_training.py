"""PRE: what a training will cost, before it runs, on a GPU that need not be here.

python examples/estimate_before_training.py
"""

import torch
from torch import nn

from energyest import describe_workload, estimate_pre

model = nn.Sequential(
    nn.Conv2d(3, 64, 3, padding=1),
    nn.ReLU(),
    nn.Conv2d(64, 128, 3, stride=2, padding=1),
    nn.ReLU(),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(128, 10),
)
batch = torch.zeros(256, 3, 32, 32), torch.zeros(256, dtype=torch.long)

workload = describe_workload(model, batch, precision="bf16", optimizer="adamw")
estimate = estimate_pre(
    workload, "H100", epochs=90, train_samples=50_000, validation_samples=10_000
)
print(estimate)
print(f"{1000 * estimate.co2e_kg('DE'):.1f} g CO2e in Germany")
for assumption in estimate.assumptions:
    print(f"- {assumption}")
