"""Work for the GPU: another process's load, epochs of mixed work, and trainings."""

from __future__ import annotations

import importlib.util
import multiprocessing as mp
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from benchmarks.models.settings import Setting
from benchmarks.models.zoo import build, loss_of, optimizer_of

Step = Callable[[], None]
# Makes the model of a process one of several, such as `DistributedDataParallel`.
Wrap = Callable[[nn.Module], nn.Module]


def device() -> torch.device:
    """The GPU; without one, the CPU with one thread, to try a script."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    torch.set_num_threads(1)
    return torch.device("cpu")


def wait_for_gpu() -> None:
    """Synchronise the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


# ------------------------------------------------------------------ load


class Products:
    """Products of square matrices of several sizes, with known durations."""

    def __init__(self) -> None:
        place = device()
        self.sizes = (1024, 2048, 4096, 8192) if place.type == "cuda" else (64, 96, 128)
        kind = torch.bfloat16 if place.type == "cuda" else torch.float32
        self._factors = {n: torch.randn(n, n, device=place, dtype=kind) for n in self.sizes}
        self._seconds = {n: self._timed(n) for n in self.sizes}

    def run(self, size: int, seconds: float) -> None:
        """Keep the GPU busy for about this time, and wait for it."""
        factor = self._factors[size]
        for _ in range(max(1, round(seconds / self._seconds[size]))):
            torch.mm(factor, factor)
        wait_for_gpu()

    def _timed(self, size: int) -> float:
        took = 0.0
        for count in (3, 20):  # the first time to warm up
            began_s = time.perf_counter()
            for _ in range(count):
                torch.mm(self._factors[size], self._factors[size])
            wait_for_gpu()
            took = (time.perf_counter() - began_s) / count
        return took


def load(is_ready: Any, stop: Any) -> None:
    """Multiply matrices until told to end, or until the parent is gone."""
    products = Products()
    parent = mp.parent_process()
    is_ready.set()
    while not stop.is_set() and (parent is None or parent.is_alive()):
        if device().type == "cuda":
            products.run(products.sizes[-1], 0.1)
        else:
            products.run(products.sizes[-1], 0.001)
            time.sleep(0.1)


class MixedWork:
    """Epochs whose power varies within and between them, the same for every tool."""

    def __init__(self) -> None:
        self._products = Products()

    def epoch(self, seed: str, length_s: float) -> None:
        """Run bursts of products of one size with pauses, then something like a validation.

        Args:
            seed: determines the work, and by how much, up to a tenth, the duration differs.
            length_s: approximate duration in seconds.
        """
        chance = random.Random(seed)
        length_s *= chance.uniform(0.9, 1.1)
        began_s = time.perf_counter()
        # The character of this epoch, so that epochs differ, too.
        sizes = chance.choices(self._products.sizes, k=2)
        pauses_s = chance.choice(((0.0,), (0.0, 0.01), (0.01, 0.03, 0.06)))
        while (spent_s := time.perf_counter() - began_s) < length_s:
            validates = spent_s > 0.8 * length_s
            size = self._products.sizes[0] if validates else chance.choice(sizes)
            busy_s = chance.uniform(0.02, 0.12)
            self._products.run(size, min(busy_s, length_s - spent_s))
            pause_s = 0.02 if validates else chance.choice(pauses_s)
            time.sleep(max(0.0, min(pause_s, began_s + length_s - time.perf_counter())))


# ------------------------------------------------------------------ trainings


@dataclass(frozen=True)
class Training:
    """A training of plain torch.

    Attributes:
        step: runs one step without waiting for the GPU.
        unit: number of steps that belong together; a block has a multiple of it.
        close: ends processes that it has started.
    """

    step: Step
    unit: int = 1
    close: Callable[[], None] = lambda: None


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, for a training of one process."""
    return model


def resident(setting: Setting, wrap: Wrap = unwrapped) -> Training:
    """A training on one batch in GPU memory.

    Args:
        setting: the model, its batch and how it is trained.
        wrap: called with the model on its device.
    """
    torch.manual_seed(0)
    place = device()
    with place:
        model, batch = build(setting)
    inputs, target = (part.to(place) for part in batch)
    return Training(_step(wrap(model), lambda: (inputs, target), setting))


def _step(model: nn.Module, batch: Callable[[], tuple[Tensor, Tensor]], setting: Setting) -> Step:
    optimizer = optimizer_of(setting.optimizer, model)
    is_mixed = setting.precision == "bf16"
    kind = device().type

    def step() -> None:
        inputs, target = batch()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(kind, torch.bfloat16, enabled=is_mixed):
            loss = loss_of(model(inputs), target)
        loss.backward()
        optimizer.step()

    return step


class _Pictures(IterableDataset):  # type: ignore[type-arg]
    """Endless batches that cost CPU time: noise is rotated, cropped and scaled."""

    def __init__(self, batch: int, side: int) -> None:
        self.batch, self.side = batch, side

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        torch.set_num_threads(1)
        generator = torch.Generator().manual_seed(torch.initial_seed() % 2**31)
        larger = 3 * self.side
        while True:
            raw = torch.rand(self.batch, 3, larger, larger, generator=generator)
            raw = nn.functional.avg_pool2d(raw.flip(-1), 5, 1, 2)
            raw = nn.functional.interpolate(raw, self.side, mode="bilinear", antialias=True)
            yield (raw - raw.mean()) / raw.std(), torch.arange(self.batch) % 10


def loader_bound(workers: int = 4) -> Training:
    """A small CNN that waits for its loader, whose workers compute."""
    torch.manual_seed(0)
    place = device()
    on_gpu = place.type == "cuda"
    batch, side, workers = (64, 64, workers) if on_gpu else (4, 16, 2)
    loader = DataLoader(
        _Pictures(batch, side),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=2,
        pin_memory=on_gpu,
        multiprocessing_context="fork",
    )
    parts: list[nn.Module] = []
    for i, o in ((3, 32), (32, 64), (64, 128)):
        parts += [nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2)]
    model = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))
    batches = iter(loader)

    def batch_on_gpu() -> tuple[Tensor, Tensor]:
        inputs, target = next(batches)
        return inputs.to(place, non_blocking=True), target.to(place, non_blocking=True)

    setting = Setting("own/cnn", batch, side, "bf16" if on_gpu else "fp32", "sgd_momentum")
    step = _step(model.to(place), batch_on_gpu, setting)
    return Training(step, unit=workers, close=batches._shutdown_workers)


def launch_bound(wrap: Wrap = unwrapped) -> Training:
    """Sixteen narrow layers: the GPU waits for the CPU."""
    return resident(Setting("own/mlp-d128-l16", 64, 0, "fp32", "adamw"), wrap)


def residual(wrap: Wrap = unwrapped) -> Training:
    """ResNet-50 or, without torchvision, a U-Net, which has as many convolutions."""
    if device().type == "cpu":
        return resident(Setting("own/unet-d16-l4", 2, 32, "fp32", "sgd_momentum"), wrap)
    if importlib.util.find_spec("torchvision") is None:
        print("torchvision is not installed: a U-Net in place of ResNet-50", flush=True)
        return resident(Setting("own/unet-d64-l4", 16, 128, "bf16", "sgd_momentum"), wrap)
    return resident(Setting("torchvision/resnet50", 64, 224, "bf16", "sgd_momentum"), wrap)


def transformer(wrap: Wrap = unwrapped) -> Training:
    """A decoder of 8 layers, 512 wide."""
    if device().type == "cpu":
        return resident(Setting("own/gpt-d64-l2", 2, 32, "fp32", "adamw"), wrap)
    return resident(Setting("own/gpt-d512-l8", 32, 256, "bf16", "adamw"), wrap)


TRAININGS: dict[str, Callable[..., Training]] = {
    "launch-bound MLP": launch_bound,
    "ResNet-50": residual,
    "transformer": transformer,
    "loader-bound CNN": loader_bound,
}
