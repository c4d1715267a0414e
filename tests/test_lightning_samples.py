"""How many samples a training has seen, of batches of any build."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import pytorch_lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from energyest import EnergyMonitor, track
from energyest.errors import ConfigurationError
from tests.support.sensors import Constant
from tests.support.trainers import (
    BATCH,
    NETS,
    both_namespaces,
    lightning_warns,
    loader,
    make_trainer,
    monitor_of,
    warnings_of,
)

pytestmark = lightning_warns


def net_of(pl: ModuleType) -> Any:
    """Trains on whatever comes."""

    class Net(NETS[pl]):  # type: ignore[misc]
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.net(torch.ones(4, 8)).sum()

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            pass

    return Net()


def train(pl: ModuleType, folder: Path, train_loader: Any, *rest: Any, **options: Any) -> Any:
    monitor = monitor_of(folder / "energy", count_flops=False, **options)
    trainer = make_trainer(pl, folder, monitor, max_epochs=2)
    trainer.fit(net_of(pl), train_loader, *rest)
    return monitor


@both_namespaces
@pytest.mark.parametrize(
    ("mode", "samples"), [("min_size", 2 * 16), ("max_size", 16 + 32), ("max_size_cycle", 64)]
)
@pytest.mark.parametrize("named", [True, False])
def test_several_loaders(
    pl: ModuleType, named: bool, mode: str, samples: int, tmp_path: Path
) -> None:
    from importlib import import_module

    combined = import_module(f"{pl.__name__}.utilities").CombinedLoader
    loaders: Any = {"labelled": loader(16), "unlabelled": loader(32)}
    both = combined(loaders if named else list(loaders.values()), mode)
    monitor = train(pl, tmp_path, both)
    assert list(monitor.trace.column("samples")) == [samples] * 2
    assert monitor.trace.meta["batch_size"] == 2 * BATCH


def test_loaders_of_validation_one_after_the_other(tmp_path: Path) -> None:
    monitor = train(pytorch_lightning, tmp_path, loader(16), [loader(8), loader(24)])
    assert monitor.trace.meta["validation_samples"] == 32


def unknown(samples: list[Any]) -> Any:
    return {"anchors": torch.zeros(len(samples), 8), "negatives": torch.zeros(7 * len(samples), 8)}


@both_namespaces
def test_what_cannot_be_known_is_nan_and_noted(
    pl: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    odd = DataLoader(range(16), batch_size=4, collate_fn=unknown)  # type: ignore[arg-type]
    monitor = train(pl, tmp_path, odd, odd)
    trace = monitor.trace
    assert np.isnan(trace.column("samples")).all()
    assert list(trace.column("steps")) == [4, 4]
    assert trace.meta["batch_size"] is None
    assert trace.meta["train_samples"] is None
    assert trace.meta["validation_samples"] is None
    assert len([note for note in trace.meta["notes"] if note.startswith("samples: ")]) == 1
    assert not warnings_of(caplog)


def test_one_batch_that_is_unknown_makes_its_row_so(tmp_path: Path) -> None:
    def collate(samples: list[int]) -> Any:
        known = torch.zeros(len(samples), 8)
        return unknown(samples) if 5 in samples else known

    odd = DataLoader(range(16), batch_size=4, collate_fn=collate)  # type: ignore[arg-type]
    monitor = train(pytorch_lightning, tmp_path, odd, every_n_steps=2)
    assert list(monitor.trace.column("samples")) == pytest.approx([np.nan, 8] * 2, nan_ok=True)


@both_namespaces
def test_the_user_knows_better(pl: ModuleType, tmp_path: Path) -> None:
    odd = DataLoader(range(16), batch_size=4, collate_fn=unknown)  # type: ignore[arg-type]
    monitor = train(pl, tmp_path, odd, batch_size=lambda batch: len(batch["anchors"]))
    assert list(monitor.trace.column("samples")) == [16, 16]
    assert monitor.trace.meta["batch_size"] == 4
    assert monitor.trace.meta["train_samples"] == 16


@pytest.mark.parametrize("answer", ["raises", 2.5, None, -1, "4"])
def test_a_function_that_fails(
    answer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def batch_size(batch: Any) -> Any:
        return batch[99] if answer == "raises" else answer

    monitor = train(pytorch_lightning, tmp_path, loader(16), batch_size=batch_size)
    assert np.isnan(monitor.trace.column("samples")).all()
    assert list(monitor.trace.column("steps")) == [2, 2]
    assert len(warnings_of(caplog, "could not be counted")) == 1


def test_what_is_not_a_function() -> None:
    for make in (EnergyMonitor, track):
        with pytest.raises(ConfigurationError, match="batch_size=32"):
            make(batch_size=32)  # type: ignore[arg-type]


def test_flops_of_a_loop_of_ones_own() -> None:
    model, batch = torch.nn.Linear(8, 4), {"input": torch.zeros(6, 8), "other": torch.zeros(5, 2)}
    with track(sensors=[Constant(1)], batch_size=lambda batch: 6) as run:
        count = run.count_flops(model, {"input": batch["input"]})
    assert count is not None
    assert count.per_sample == 2 * 8 * 4
