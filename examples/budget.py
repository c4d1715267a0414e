"""A budget that ends a training, as soon as its plan will clearly not fit.

python examples/budget.py
"""

import torch
from torch import nn

from energyest import track

model = nn.Linear(64, 10)
optimizer = torch.optim.SGD(model.parameters(), 0.1)

with track("runs/budget", budget_kWh=1e-5, on_exceed="stop") as run:
    for _ in run.epochs(1000):
        for _ in range(50):
            optimizer.zero_grad()
            model(torch.randn(256, 64)).square().mean().backward()
            optimizer.step()

print(f"planned 1000 epochs, trained {len(run.trace)}")
print(f"why: {run.exceeded}")
print(f"spent: {run.trace.total_J:.3g} J")
