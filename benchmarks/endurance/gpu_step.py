"""How accurate the live projection is while Lightning trains real networks on a GPU.

1. A language model trained for one epoch, in intervals of steps: the errors of the projection
   during the run, the total against the GPU's own counter, and the time cost of the intervals.
2. A backbone that `BackboneFinetuning` unfreezes: the projection before and after.
3. An unannounced change: the warning.
4. `max_time`: the projection of a training that ends by time.

Exits with 2 without an NVIDIA GPU or torchvision.

    python -m benchmarks.endurance.gpu_step
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BackboneFinetuning
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.collect.scenarios import LanguageModel
from benchmarks.common.head import gpu_name, print_head
from energyest import EnergyMonitor

VOCABULARY = 8192


class Batches(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """`length` batches, taken in turn from a few in pinned memory."""

    def __init__(self, batches: list[tuple[Tensor, Tensor]], length: int) -> None:
        self.batches, self.length = [[p.pin_memory() for p in b] for b in batches], length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> list[Tensor]:
        return self.batches[index % len(self.batches)]


def loader(batches: list[tuple[Tensor, Tensor]], length: int) -> Any:
    return torch.utils.data.DataLoader(Batches(batches, length), batch_size=None)


class Task(pl.LightningModule):
    """A network and its loss; parameters frozen at first join the optimizer later."""

    def __init__(self, network: nn.Module, head: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone, self.head = network, head or nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.backbone(inputs))

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        return cross_entropy(self(batch[0]).flatten(0, -2), batch[1].flatten())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=1e-4)


def text(batch: int = 16, length: int = 512) -> list[tuple[Tensor, Tensor]]:
    return [
        (torch.randint(VOCABULARY, (batch, length)), torch.randint(VOCABULARY, (batch, length)))
        for _ in range(4)
    ]


def images(batch: int = 64, size: int = 224) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(batch, 3, size, size), torch.randint(1000, (batch,))) for _ in range(4)]


def language_model() -> Task:
    return Task(LanguageModel("transformer", tiny=False))


def resnet() -> Task:
    from torchvision.models import resnet50

    network = resnet50()
    network.fc = nn.Identity()  # type: ignore[assignment]
    return Task(network, nn.Linear(2048, 1000))


def trainer(*callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        callbacks=list(callbacks),
        accelerator="gpu",
        devices=1,
        precision="bf16-mixed",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


class Projections(pl.Callback):
    """Keeps each projection of a monitor, by the number of rows on which it is based."""

    def __init__(self, monitor: EnergyMonitor) -> None:
        self.monitor, self.seen = monitor, {}

    def look(self, *_: Any) -> None:
        self.seen[len(self.monitor.trace)] = self.monitor.projection

    on_train_epoch_start = look


class EachInterval(Projections):
    """Looks at every batch."""

    on_train_batch_start = Projections.look


def table(monitor: EnergyMonitor, seen: dict[int, Any], rows: list[int]) -> None:
    total_J = float(monitor.trace.column("energy_J").sum())
    print(f"{monitor.trace}; energy of the rows {total_J:.0f} J")
    print(f"{'rows':>6} {'projected (J)':>14} {'error (%)':>10} {'interval (%)':>18} holds")
    for row in rows:
        estimate = seen.get(row)
        if estimate is None:
            print(f"{row:>6} {'not stable':>14}")
            continue
        off = 100 * (estimate.energy_J / total_J - 1)
        low, high = (100 * (x / total_J - 1) for x in (estimate.lower_J, estimate.upper_J))
        interval = f"{low:>+8.2f} to {high:>+6.2f}"
        print(f"{row:>6} {estimate.energy_J:>14.0f} {off:>+10.2f} {interval} {low <= 0 <= high}")


def counter_J() -> float:
    import pynvml

    pynvml.nvmlInit()
    uuid = str(torch.cuda.get_device_properties(0).uuid).removeprefix("GPU-")
    handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3


def one_epoch_by_intervals() -> None:
    print("\n## One epoch of a language model, every_n_steps=50\n")
    monitor = EnergyMonitor(components=["gpu"], every_n_steps=50)
    projections = EachInterval(monitor)
    before_J = counter_J()
    trainer(projections, monitor, max_epochs=1).fit(language_model(), loader(text(), 1225))
    time.sleep(0.3)  # the counter is renewed every 0.1 s
    after_J = counter_J()
    table(monitor, projections.seen, [3, 4, 6, 8, 12, 16, 20, 24])
    rows = monitor.trace.epochs
    print(f"steps of the rows: {sorted(set(rows['steps'].astype(int)))}")
    print(f"counter around fit: {after_J - before_J:.0f} J; trace's total {monitor.total_J:.0f} J")
    last, usual = rows["mean_power_W"].iloc[-2], rows["mean_power_W"].iloc[3:-2].median()
    print(f"mean power of the last full row against the others: {100 * (last / usual - 1):+.2f} %")


def cost_of_intervals() -> None:
    print("\n## What intervals cost: the same steps without a monitor, in turns\n")
    ratios = []
    for _ in range(4):
        took_s = []
        for callbacks in ([], [EnergyMonitor(components=["gpu"], every_n_steps=50)]):
            clock = StepClock()
            trainer(*callbacks, clock, max_steps=400, max_epochs=-1).fit(
                language_model(), loader(text(), 400)
            )
            took_s.append(clock.seconds)
        ratios.append(100 * (took_s[1] / took_s[0] - 1))
    error = statistics.stdev(ratios) / len(ratios) ** 0.5
    print(
        f"350 warm steps in {took_s[0]:.2f} s; slowdown in 4 interleaved pairs: median "
        f"{statistics.median(ratios):+.2f} %, mean {statistics.mean(ratios):+.2f} ± {error:.2f} %"
    )


class StepClock(pl.Callback):
    """Seconds from the 50th step to the end, including the GPU's queue."""

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
        if index == 50:
            torch.cuda.synchronize()
            self.began_s = time.perf_counter()

    def on_train_end(self, trainer: Any, module: Any) -> None:
        torch.cuda.synchronize()
        self.seconds = time.perf_counter() - self.began_s


def unfreezing() -> None:
    print("\n## BackboneFinetuning unfreezes a ResNet-50 at epoch 8 of 24\n")
    monitor = EnergyMonitor(components=["gpu"])
    projections = Projections(monitor)
    finetuning = BackboneFinetuning(unfreeze_backbone_at_epoch=8, verbose=False)
    trainer(projections, finetuning, monitor, max_epochs=24).fit(resnet(), loader(images(), 40))
    print(f"planned: {monitor.trace.meta['planned_changes']}")
    energy_J = monitor.trace.column("energy_J")
    flops = monitor.trace.column("flops")
    print(
        f"energy per epoch {energy_J[12:].mean() / energy_J[3:8].mean():.2f} times as high after "
        f"it, FLOPs {flops[9] / flops[7]:.2f} times"
    )
    table(monitor, projections.seen, [3, 5, 7, 8, 9, 10, 11, 14, 20])


def unannounced() -> None:
    print("\n## A resolution that doubles, unannounced, at epoch 8 of 16\n")

    class Resizing(Task):
        def training_step(self, batch: list[Tensor], index: int) -> Tensor:
            if self.current_epoch < 8:
                batch = [nn.functional.interpolate(batch[0], scale_factor=0.5), batch[1]]
            return super().training_step(batch, index)

    task = resnet()
    monitor = EnergyMonitor(components=["gpu"])
    projections = Projections(monitor)
    heard: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("energyest").addHandler(handler)
    trainer(projections, monitor, max_epochs=16).fit(
        Resizing(task.backbone, task.head), loader(images(), 30)
    )
    logging.getLogger("energyest").removeHandler(handler)
    table(monitor, projections.seen, [5, 7, 8, 9, 10, 11, 12, 14])
    print("warnings:", *heard, sep="\n  ")


def by_the_clock() -> None:
    print("\n## max_time of 20 s, intervals of 50 steps\n")
    monitor = EnergyMonitor(components=["gpu"], every_n_steps=50)
    projections = EachInterval(monitor)
    trainer(projections, monitor, max_epochs=-1, max_time=timedelta(seconds=20)).fit(
        language_model(), loader(text(), 10_000)
    )
    table(monitor, projections.seen, [3, 5, 8, 10])


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    if not torch.cuda.is_available() or importlib.util.find_spec("torchvision") is None:
        print("gpu_step: needs an NVIDIA GPU that torch sees, and torchvision", file=sys.stderr)
        sys.exit(2)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    print_head(__file__, "torch", "torchvision", "pytorch-lightning", device=gpu_name())
    parts: list[Callable[[], None]] = [one_epoch_by_intervals, cost_of_intervals, unfreezing]
    for part in (*parts, unannounced, by_the_clock):
        part()


if __name__ == "__main__":
    main()
