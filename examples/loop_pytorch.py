"""`track()` around a PyTorch loop, which is left by `break` when accuracy stops improving.

python examples/loop_pytorch.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

from energyest import track

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
digits, targets = load_digits(return_X_y=True)
images = torch.tensor(digits, dtype=torch.float32, device=device) / 16
labels = torch.tensor(targets, device=device)
model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10)).to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

best = 0.0
with track("runs/pytorch") as run:
    for epoch in run.epochs(20):
        for batch in torch.randperm(1500).split(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
        with run.validation(), torch.no_grad():
            accuracy = (model(images[1500:]).argmax(1) == labels[1500:]).float().mean().item()
        run.log(samples=1500, val_acc=accuracy)
        if epoch > 3 and accuracy <= best:
            break  # the run then counts as ended as planned
        best = max(best, accuracy)

print(run.trace)
print(run.projection)
