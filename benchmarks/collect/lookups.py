"""Train recommenders with tables of millions of entries, and write the cost of a step.

With sparse gradients, a step touches the entries of its batch only; otherwise, it updates whole
tables. Each training lasts two seconds after a cold one. Prints the lines of
`benchmarks/data/lookups.csv`; exits with 2 without a GPU.

    python -m benchmarks.collect.lookups > lookups.csv
"""

from __future__ import annotations

import argparse
import csv
import gc
import sys
import warnings
from dataclasses import asdict, dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from benchmarks.models.trainings import Steps
from energyest import track

# Of each sample, in each table of the bags.
LOOKUPS = 20
_EPOCHS = 3


@dataclass(frozen=True)
class Case:
    """A training; `tables` is 0 for the factors of a matrix."""

    tables: int
    entries: int
    width: int
    batch_size: int
    optimizer: str
    sparse: bool

    def __str__(self) -> str:
        kind = f"{self.tables} bags" if self.tables else "factors"
        gradients = "sparse" if self.sparse else "dense"
        sizes = f"{self.entries / 1e6:g} M x {self.width}, {self.batch_size}"
        return f"{kind}, {sizes}, {self.optimizer}, {gradients}"


CASES = tuple(
    Case(tables, entries, 64, batch_size, optimizer, sparse)
    for tables, entries, batch_size in (
        (4, 2_000_000, 4096),
        (16, 250_000, 1024),
        (0, 4_000_000, 8192),
    )
    for optimizer in ("sgd", "adam")
    for sparse in (False, True)
)


class Bags(nn.Module):
    """Sums of entries of several tables, then dense layers."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.tables = nn.ModuleList(
            nn.EmbeddingBag(case.entries, case.width, sparse=case.sparse, mode="sum")
            for _ in range(case.tables)
        )
        self.head = nn.Sequential(
            nn.Linear(case.tables * case.width, 256), nn.ReLU(), nn.Linear(256, 1)
        )

    def forward(self, indices: Tensor) -> Tensor:
        found = [
            table(column) for table, column in zip(self.tables, indices.unbind(1), strict=True)
        ]
        return self.head(torch.cat(found, 1)).squeeze(1)


class Factors(nn.Module):
    """Factors of a matrix of ratings."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.users, self.items = (
            nn.Embedding(case.entries, case.width, sparse=case.sparse) for _ in range(2)
        )

    def forward(self, indices: Tensor) -> Tensor:
        return (self.users(indices[:, 0]) * self.items(indices[:, 1])).sum(1)


def build(case: Case) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    shape = (case.tables, LOOKUPS) if case.tables else (2,)
    indices = torch.randint(case.entries, (case.batch_size, *shape), device="cpu")
    model = Bags(case) if case.tables else Factors(case)
    return model, (indices, torch.rand(case.batch_size, device="cpu"))


def optimizers_of(case: Case, model: nn.Module) -> list[torch.optim.Optimizer]:
    """For sparse gradients, torch has a variant of Adam, `SparseAdam`."""
    if case.optimizer == "sgd":
        return [torch.optim.SGD(model.parameters(), lr=1e-3)]
    if not case.sparse:
        return [torch.optim.Adam(model.parameters())]
    tables = [p for m in model.modules() if hasattr(m, "sparse") for p in m.parameters()]
    others = [p for p in model.parameters() if all(p is not table for table in tables)]
    found: list[torch.optim.Optimizer] = [torch.optim.SparseAdam(tables)]
    return [*found, torch.optim.Adam(others)] if others else found


def measured(case: Case) -> tuple[float, float]:
    """Seconds and joules of a step."""
    device = torch.device("cuda")
    with device:
        model, batch = build(case)
    optimizers = optimizers_of(case, model)
    steps = Steps(tuple(t.pin_memory() for t in batch), device)
    with track() as run:
        for _ in run.epochs(_EPOCHS):
            for indices, target in steps:
                found = model(indices.to(device, non_blocking=True))
                loss = mse_loss(found, target.to(device, non_blocking=True))
                for optimizer in optimizers:
                    optimizer.zero_grad()
                loss.backward()
                for optimizer in optimizers:
                    optimizer.step()
    epochs, count = run.trace.epochs.iloc[1:], sum(steps.counts[1:])  # the first one is cold
    return float(epochs["duration_s"].sum()) / count, float(epochs["gpu_energy_J"].sum()) / count


def main() -> int:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    if not torch.cuda.is_available():
        print("lookups: torch sees no NVIDIA GPU; nothing was measured", file=sys.stderr)
        return 2
    warnings.simplefilter("ignore")
    out = csv.writer(sys.stdout)
    out.writerow([*(field.name for field in fields(Case)), "step_s", "energy_J"])
    for case in CASES:
        step_s, energy_J = measured(case)
        out.writerow([*asdict(case).values(), f"{step_s:.4g}", f"{energy_J:.4g}"])
        gc.collect()
        torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main())
