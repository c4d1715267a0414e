"""A loop that goes on from its checkpoint, with the trace of the epochs before it.

python examples/resume.py
"""

from pathlib import Path

import torch
from torch import nn

from energyest import track

CHECKPOINT = Path("runs/checkpoint.pt")


def train(epochs, stop_after):
    """Train to `epochs`, from the checkpoint if there is one; `stop_after` cuts the job off."""
    model = nn.Linear(64, 10)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with track("runs/resume") as run:
        if CHECKPOINT.exists():
            state = torch.load(CHECKPOINT)
            model.load_state_dict(state["model"])
            run.load_state_dict(state["energy"])
        for epoch in run.epochs(epochs):
            for _ in range(200):
                optimizer.zero_grad()
                model(torch.randn(256, 64)).square().mean().backward()
                optimizer.step()
            state = {"model": model.state_dict(), "energy": run.state_dict()}
            torch.save(state, CHECKPOINT)
            if epoch == stop_after:
                raise KeyboardInterrupt
    return run


CHECKPOINT.parent.mkdir(exist_ok=True)
try:
    train(epochs=6, stop_after=2)
except KeyboardInterrupt:
    print("stopped after epoch 2")
run = train(epochs=6, stop_after=None)
columns = ["epoch", "start_s", "duration_s", "energy_J"]
print(run.trace.epochs[columns].round(3).to_string(index=False))
print(f"the first part had {run.trace.meta['earlier_rows']} epochs; now there are {len(run.trace)}")
run.trace.plot().savefig("resume.svg")
