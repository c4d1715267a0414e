"""What the snippets of the documentation take for granted: models, data, loops, traces, logs.

A page names them: `<!-- given: model = lightning_model, datamodule -->`. Those that end in `_file`
or `_folder` are put into the working directory, under the name that the page uses.
"""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tests.support.markdown import ROOT

CHOICES = "examples/data/choices.tar.gz"
# One epoch of 20 s of a GPU at 300 W, and its first, which is cold.
_LOG_SECONDS, _EPOCHS, _COLD_S, _EPOCH_S = 66, (26.0, 46.0, 66.0), 26, 20


def lightning_model() -> Any:
    """A `LightningModule`, with a validation."""
    import pytorch_lightning as pl
    import torch

    class Classifier(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(8, 2)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return torch.nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", self.training_step(batch, batch_idx))

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    return Classifier()


def datamodule() -> Any:
    """Its data: four batches of training, and four of validation."""
    import pytorch_lightning as pl
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    class Data(pl.LightningDataModule):
        def train_dataloader(self) -> Any:
            torch.manual_seed(0)
            data = TensorDataset(torch.randn(32, 8), torch.randint(2, (32,)))
            return DataLoader(data, batch_size=8)

        val_dataloader = train_dataloader

    return Data()


def text_model() -> Any:
    """A small model of transformers."""
    from tests.support.huggingface import encoder

    return encoder()


def texts() -> Any:
    """Its data."""
    from tests.support.huggingface import samples

    return samples()


def network() -> Any:
    """A convolutional network."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    )


def larger_network() -> Any:
    """A wider one."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)
    )


def batch() -> Any:
    """A batch of images for either, with their classes."""
    import torch

    return torch.randn(4, 3, 32, 32), torch.randint(10, (4,))


def step() -> Callable[..., None]:
    """A training step, an epoch of training, or anything else that takes a moment."""
    return lambda *_: None


def score() -> Callable[..., float]:
    """A validation, which returns a metric."""
    return lambda *_: 0.9


def finished_trace() -> Any:
    """Of 12 epochs on an H200."""
    from energyest import load_trace

    return load_trace(_choices() / "resnet18-h200-0/energy")


def trace_folder(name: str) -> None:
    """The same as a folder."""
    _link(name, _choices() / "resnet18-h200-0/energy")


def runs_folder(name: str) -> None:
    """72 finished runs: six networks, on two GPUs, six times each."""
    for run in _choices().iterdir():
        _link(f"{name}/{run.name}", run)


def nvidia_smi_file(name: str) -> None:
    """A log of one GPU, a reading a second: a cold epoch of 26 s, and two of 20 s."""
    lines = ["timestamp, index, power.draw [W], utilization.gpu [%]"]
    for second in range(_LOG_SECONDS + 1):
        time = f"2026/11/23 10:{second // 60:02}:{second % 60:02}.000"
        lines.append(f"{time}, 0, {250 if second < _COLD_S else 300}.00 W, 90 %")
    _write(name, lines)


def carbon_file(name: str) -> None:
    """A carbon intensity for each hour of the week from the start of the finished trace on."""
    began = datetime.fromisoformat(finished_trace().meta["start_time"])
    first = began.replace(minute=0, second=0)
    hours = (first + timedelta(hours=hour) for hour in range(7 * 24))
    rows = [f"{hour.isoformat()},{300 + 10 * abs(hour.hour - 12)}" for hour in hours]
    _write(name, ["time,g_per_kWh", *rows])


def epoch_ends_file(name: str) -> None:
    """When the epochs of that log ended, in seconds since its first reading."""
    _write(name, [str(end) for end in _EPOCHS])


def codecarbon_file(name: str) -> None:
    """Of CodeCarbon 3.3.2, a tracker for each epoch."""
    _write(name, (ROOT / "tests/data/logs/codecarbon_3.3.2_trackers.csv").read_text().splitlines())


def script_file(name: str) -> None:
    """A program that prints its epochs."""
    _write(name, ["for epoch in range(1, 4):", "    print(f'Epoch {epoch}/3', flush=True)"])


def checkpoint_file(name: str) -> None:
    """A checkpoint of a Lightning training, with its trace."""
    import pytorch_lightning as pl

    from energyest import EnergyMonitor

    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(max_epochs=2, callbacks=[EnergyMonitor(quiet=True)], **quiet)
    trainer.fit(lightning_model(), datamodule())
    trainer.save_checkpoint(name)


def _write(name: str, lines: list[str]) -> None:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _link(name: str, source: Path) -> None:
    """The files of a folder, which nobody changes, under another name."""
    shutil.copytree(source, name, copy_function=os.link)


def _choices() -> Path:
    return unpacked.folder()


class _Unpacked:
    """The runs of `examples/data`, unpacked once, where the tests say."""

    where: Path | None = None

    def folder(self) -> Path:
        assert self.where is not None
        if not (self.where / "choices").exists():
            with tarfile.open(ROOT / CHOICES) as archive:
                archive.extractall(self.where, filter="data")
        return self.where / "choices"


unpacked = _Unpacked()
