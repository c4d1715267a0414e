"""Train six networks of very different sizes several times, and keep their traces.

A Lightning Trainer with `EnergyMonitor()` trains each network on handwritten digits (scikit-learn's
`load_digits`, which needs no download). 180 of the 1,797 images are for training, the others for
validation; all runs use the same stratified split. With so few training images there are real
differences in accuracy, and with so many for validation these are measured precisely. The split is
part of the task: two runs of a network differ in initial weights, order of the images, random
shifts, and machine. No two runs have the same seed: give each machine its own `--seed`.

The images are on the GPU and are enlarged there, so that the loader costs next to nothing.
Repetitions are blocks: each network once, in random order, so that a machine that warms up does not
favour one of them. Before the first block each network trains for one discarded epoch, so that
everything a process loads once is loaded. `cudnn.benchmark` stays off: otherwise the first run of a
network would pass on its findings to the others.

Every run writes its trace to `FOLDER/<model>-<gpu>-<repetition>/energy`. The meta lacks the host
name and the GPU's bus address, and the GPU's UUID is replaced by the first six hexadecimal digits
of its SHA-256; everything else is as written by `EnergyMonitor`. `meta["hparams"]["architecture"]`
names the network. A run that exists is not repeated. Exits with 2 without a GPU.

    python -m benchmarks.collect.choices --out FOLDER --seed 1 [--repetitions 6] [--budget-s 500]
    python -m benchmarks.collect.choices --out FOLDER --device cpu --tiny --repetitions 1
    python -m benchmarks.collect.choices --out FOLDER --show
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import importlib.util
import logging
import random
import re
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import affine_grid, cross_entropy, grid_sample

from energyest import EnergyMonitor, EnergyTrace
from energyest.tradeoff.collect import collect_runs

MODELS = ("small_cnn", "shufflenet_v2_x0_5", "mobilenet_v2", "resnet18", "resnet50", "vgg11_bn")
TRAIN_IMAGES, SPLIT_SEED, VALIDATION_BATCH_SIZE = 180, 0, 256
# Images are 8 pixels wide: how far they are shifted, and how strong the noise is (white is 1).
SHIFT_PIXELS, NOISE = 1.0, 0.1


@dataclass(frozen=True)
class Size:
    """Amount of training: `steps` batches per epoch, images of `image_size` pixels a side."""

    epochs: int = 12
    steps: int = 32
    batch_size: int = 256
    image_size: int = 64


TINY = Size(epochs=2, steps=2, batch_size=8, image_size=32)


def small_cnn(num_classes: int) -> nn.Module:
    """Three convolutions."""
    layers: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, num_classes)
    )


def build(architecture: str) -> nn.Module:
    if architecture == "small_cnn":
        return small_cnn(num_classes=10)
    import torchvision

    return torchvision.models.get_model(architecture, weights=None, num_classes=10)


class Classifier(pl.LightningModule):
    """A network for digits, trained on slightly shifted and noisy images."""

    def __init__(
        self, architecture: str, image_size: int, seed: int, learning_rate: float = 1e-3
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = build(architecture)

    def on_after_batch_transfer(self, batch: list[Tensor], _: int) -> list[Tensor]:
        images, labels = batch
        moves = torch.eye(2, 3, device=images.device).repeat(len(images), 1, 1)
        if self.trainer.training:
            images = images + NOISE * torch.randn_like(images)
            # The grid is 2 wide for the 8 pixels.
            moves[:, :, 2].uniform_(-SHIFT_PIXELS / 4, SHIFT_PIXELS / 4)
        size = self.hparams["image_size"]
        grid = affine_grid(moves, [len(images), 1, size, size], align_corners=False)
        enlarged = grid_sample(images, grid, align_corners=False)
        return [enlarged.expand(-1, 3, -1, -1).contiguous(), labels]

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        return cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        images, labels = batch
        scores = self(images)
        accuracy = (scores.argmax(1) == labels).float().mean()
        metrics = {"val_loss": cross_entropy(scores, labels), "val_acc": accuracy}
        self.log_dict(metrics, batch_size=len(labels))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams["learning_rate"])
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=self.hparams["learning_rate"],
            total_steps=int(self.trainer.estimated_stepping_batches),
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Batches:
    """Batches of tensors on the device: `steps` of them, or each image once.

    With `steps`, the images come in random order, again and again.
    """

    def __init__(
        self, data: tuple[Tensor, Tensor], batch_size: int, steps: int | None = None, seed: int = 0
    ) -> None:
        self.data, self.batch_size, self.steps = data, batch_size, steps
        self.random = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return self.steps or -(-len(self.data[0]) // self.batch_size)

    def __iter__(self) -> Iterator[list[Tensor]]:
        count = len(self.data[0])
        order = torch.arange(count)
        if self.steps is not None:
            rounds = -(-self.steps * self.batch_size // count)
            orders = [torch.randperm(count, generator=self.random) for _ in range(rounds)]
            order = torch.cat(orders)[: self.steps * self.batch_size]
        for chosen in order.to(self.data[0].device).split(self.batch_size):
            yield [part[chosen] for part in self.data]


def load_data(device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Images and labels for training, and for validation, on the device."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    parts = train_test_split(
        images, labels, train_size=TRAIN_IMAGES, stratify=labels, random_state=SPLIT_SEED
    )
    train_images, other_images, train_labels, other_labels = (
        torch.as_tensor(part, device=device) for part in parts
    )
    return [(train_images, train_labels), (other_images, other_labels)]


def train(
    architecture: str, size: Size, seed: int, data: list[tuple[Tensor, Tensor]], epochs: int
) -> EnergyTrace:
    """One run; its trace."""
    pl.seed_everything(seed, verbose=False)
    module = Classifier(architecture, size.image_size, seed)
    with tempfile.TemporaryDirectory() as scratch:
        monitor = EnergyMonitor()
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="gpu" if data[0][0].is_cuda else "cpu",
            devices=1,
            callbacks=[monitor],
            default_root_dir=scratch,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(
            module,
            Batches(data[0], size.batch_size, size.steps, seed),
            Batches(data[1], VALIDATION_BATCH_SIZE),
        )
        trace = monitor.trace
    return EnergyTrace(trace.epoch_columns, trace.power_columns, without_identities(trace.meta))


def without_identities(meta: dict[str, Any]) -> dict[str, Any]:
    """A trace's meta without identifiers of the machine; GPUs keep a short label."""
    devices = []
    for device in meta["devices"]:
        kept = {name: value for name, value in device.items() if name != "pci_bus_id"}
        if "uuid" in kept:
            kept["uuid"] = hashlib.sha256(str(kept["uuid"]).encode()).hexdigest()[:6]
        devices.append(kept)
    return {**{name: meta[name] for name in meta if name != "host"}, "devices": devices}


def collect(args: argparse.Namespace) -> None:
    began = time.monotonic()
    size, device = TINY if args.tiny else Size(), torch.device(args.device)
    gpu = torch.cuda.get_device_name(0) if args.device == "cuda" else "cpu"
    gpu = next(iter(re.findall(r"[a-z]+\d+\w*", gpu.lower())), gpu)
    data = load_data(device)
    for architecture in MODELS:
        train(architecture, size, 0, data, epochs=1)
    print(f"warm after {time.monotonic() - began:.0f} s", flush=True)
    orders, longest_s = random.Random(args.seed), 0.0
    for repetition in range(args.repetitions):
        block_began = time.monotonic()
        if block_began - began + longest_s > args.budget_s:
            print(f"out of time before repetition {repetition}")
            break
        for place, architecture in enumerate(orders.sample(MODELS, len(MODELS))):
            folder = args.out / f"{architecture}-{gpu}-{repetition}" / "energy"
            if folder.exists():
                continue
            seed = 1000 * args.seed + len(MODELS) * repetition + place
            trace = train(architecture, size, seed, data, epochs=size.epochs)
            trace.save(folder)
            epoch = trace.epochs.iloc[-1]
            print(
                f"{folder.parent.name}: {trace.total_J:.0f} J, {trace.meta['duration_s']:.1f} s, "
                f"{epoch['duration_s']:.2f} s an epoch, val_acc {epoch['val_acc']:.4f}",
                flush=True,
            )
            gc.collect()
            torch.cuda.empty_cache()  # does nothing without a GPU
        longest_s = max(longest_s, time.monotonic() - block_began)


def table(folder: Path) -> pd.DataFrame:
    """A row for each GPU and network, from all runs in the folder: medians and two ranges."""
    groups = collect_runs(folder, model="architecture").groupby(["gpu", "model"], dropna=False)
    shown = groups[["energy_J", "gpu_energy_J", "duration_s", "mean_power_W", "utilization"]]
    table = shown.median()
    table.insert(0, "runs", groups.size())
    for name in ("energy_J", "val_acc"):
        for how in ("min", "median", "max"):
            table[f"{name} {how}"] = groups[name].agg(how)
    table["flops_per_sample"] = groups["flops_per_sample"].median()
    return table.drop(columns="energy_J").sort_values(["gpu", "flops_per_sample"])


def main() -> None:
    parser = argparse.ArgumentParser(description="Collect traces of networks to choose among.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the traces")
    parser.add_argument("--seed", type=int, default=1, help="a different one on each machine")
    parser.add_argument("--repetitions", type=int, default=6)
    parser.add_argument("--budget-s", type=float, default=500, help="seconds for all of the runs")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="few small images, to try the script")
    parser.add_argument("--show", action="store_true", help="only print the table of the traces")
    args = parser.parse_args()
    if not args.show:
        if args.device == "cuda" and not torch.cuda.is_available():
            parser.exit(2, "choices: torch sees no NVIDIA GPU (try --device cpu --tiny)\n")
        if importlib.util.find_spec("torchvision") is None:
            parser.exit(2, "choices: torchvision is missing: pip install torchvision\n")
        for name in ("pytorch_lightning", "lightning"):
            logging.getLogger(name).setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        collect(args)
    with pd.option_context("display.width", 250, "display.max_columns", None):
        print(table(args.out).to_string(float_format=lambda value: f"{value:.4g}"))


if __name__ == "__main__":
    main()
