"""Check `EnergyMonitor` on a real NVIDIA GPU: energy against the counter, losses, and slowdown.

A ResNet-50 and a small launch-bound network train with and without the monitor. Printed for each:

- the trace's GPU total against NVML's energy counter, which this script itself reads right after
  the monitor starts and right before it stops (must agree within 1 %; FLOPs are not counted here,
  because the trace leaves out that pause and the counter does not);
- the sum of the epochs against that total (within 0.5 %);
- whether the loss of every step is the same, bit for bit, with and without the monitor;
- the slowdown from interleaved repetitions (with, without, without, with, ...).

Exits with 1 if one of the first three fails, with 2 without a GPU.

    python -m benchmarks.endurance.gpu_check [--quick] [--only energy | bits]
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

# Must be set before CUDA starts: with it, cuBLAS is deterministic.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import numpy as np
import pynvml
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from benchmarks.common.head import gpu_name, print_head
from energyest import EnergyMonitor, EnergyTrace


class Classifier(pl.LightningModule):
    """Trains any network on labelled samples and keeps the loss of every step on the GPU."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.losses: list[Tensor] = []

    def forward(self, inputs: Tensor) -> Tensor:
        return self.network(inputs)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        inputs, labels = batch
        loss = cross_entropy(self(inputs), labels)
        self.losses.append(loss.detach())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


class Batches(torch.utils.data.Dataset):
    """A few batches in pinned memory, over and over."""

    def __init__(self, shape: tuple[int, ...], classes: int, steps: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.batches = [
            (
                torch.randn(shape, generator=generator).pin_memory(),
                torch.randint(classes, shape[:1], generator=generator).pin_memory(),
            )
            for _ in range(4)
        ]
        self.steps = steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.batches[index % len(self.batches)]


class Counter(pl.Callback):
    """A callback that reads NVML's energy counter and the clock."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.start_J = self.end_J = 0.0

    def read_J(self) -> float:
        torch.cuda.synchronize()
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(self.handle) / 1e3


class CounterStart(Counter):
    """Placed after the monitor: reads when the monitor has started."""

    def on_fit_start(self, *_: Any) -> None:
        self.start_J = self.read_J()


class CounterEnd(Counter):
    """Placed before the monitor: reads when the monitor is about to stop."""

    def on_fit_end(self, *_: Any) -> None:
        self.end_J = self.read_J()


class EpochTimes(pl.Callback):
    """Wall-clock seconds of every epoch."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_epoch_end(self, *_: Any) -> None:
        torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


@dataclass(frozen=True)
class Case:
    """A network, its input and how long an epoch is."""

    name: str
    network: Callable[[], nn.Module]
    shape: tuple[int, ...]
    classes: int
    steps: int
    epochs_long: int
    epochs_short: int
    pairs: int


@dataclass
class Outcome:
    """The results of one training."""

    losses: np.ndarray
    epoch_s: np.ndarray
    wall_s: float
    counter_J: float = 0.0
    trace: EnergyTrace = field(default_factory=lambda: EnergyTrace({}))


def resnet50() -> nn.Module:
    try:
        from torchvision.models import resnet50 as build
    except ImportError:
        stop("torchvision is not installed: pip install torchvision")
    return build(num_classes=1000)


def small_network() -> nn.Module:
    """Forty narrow layers: the GPU mostly waits for launches."""
    layers: list[nn.Module] = []
    for _ in range(40):
        layers += [nn.Linear(64, 64), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(64, 10))


def train(
    case: Case, epochs: int, *, monitored: bool, handle: Any, count_flops: bool = True
) -> Outcome:
    pl.seed_everything(0, verbose=False)
    model = Classifier(case.network())
    data = DataLoader(Batches(case.shape, case.classes, case.steps), batch_size=None)
    start, end, times = CounterStart(handle), CounterEnd(handle), EpochTimes()
    with tempfile.TemporaryDirectory() as folder:
        monitor = EnergyMonitor(os.path.join(folder, "energy"), count_flops=count_flops)
        callbacks: list[pl.Callback] = [end, monitor, start, times]
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="gpu",
            devices=1,
            callbacks=callbacks if monitored else [times],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        began = time.perf_counter()
        trainer.fit(model, data)
        wall_s = time.perf_counter() - began
    losses = torch.stack(model.losses).cpu().numpy()
    outcome = Outcome(losses, np.diff(times.ends), wall_s)
    if monitored:
        outcome.counter_J, outcome.trace = end.end_J - start.start_J, monitor.trace
    return outcome


def check(case: Case, handle: Any, only: str | None) -> bool:
    print(f"\n## {case.name}: batch {case.shape}, {case.steps} steps an epoch\n")
    train(case, 2, monitored=False, handle=handle)  # warm up: kernels, clocks, allocator
    passed = True
    if only != "bits":
        passed &= check_energy(case, handle)
    if only != "energy":
        passed &= check_bits(case, handle)
    return passed


def check_energy(case: Case, handle: Any) -> bool:
    long = train(case, case.epochs_long, monitored=True, handle=handle, count_flops=False)
    trace = long.trace
    total_J = trace.meta["components"]["gpu_energy_J"]
    epochs_J = float(trace.column("gpu_energy_J").sum())
    against_counter = 100 * (total_J / long.counter_J - 1)
    against_total = 100 * (epochs_J / total_J - 1)
    gpu = next(d for d in trace.devices if d["kind"] == "gpu")
    integral = 100 * (gpu["power_integral_J"] / gpu["energy_J"] - 1)
    print(
        f"{len(trace)} epochs in {trace.meta['duration_s']:.1f} s, {gpu['method']}, "
        f"{gpu['failed_readings']} failed readings, {gpu['missing_s']} s missing"
    )
    print(f"counter's own difference   {long.counter_J:12.1f} J")
    print(f"trace's total              {total_J:12.1f} J  {against_counter:+.3f} %  (within 1 %)")
    print(f"sum of the epochs          {epochs_J:12.1f} J  {against_total:+.3f} %  (within 0.5 %)")
    print(f"integral of power instead  {gpu['power_integral_J']:12.1f} J  {integral:+.3f} %")
    warm_J = trace.column("gpu_energy_J")[1:]
    print(
        f"energy of a warm epoch     {warm_J.mean():12.1f} J, spread "
        f"{100 * warm_J.std() / warm_J.mean():.2f} %"
    )
    return bool(abs(against_counter) <= 1 and abs(against_total) <= 0.5)


def check_bits(case: Case, handle: Any) -> bool:
    plain, watched = [], []
    for i in range(case.pairs):
        order = (True, False) if i % 2 == 0 else (False, True)
        for monitored in order:
            outcome = train(case, case.epochs_short, monitored=monitored, handle=handle)
            (watched if monitored else plain).append(outcome)
    first = plain[0].losses
    runs = plain + watched
    identical = all(np.array_equal(first, o.losses) for o in runs) and np.isfinite(first).all()
    ratios = np.array(
        [np.median(w.epoch_s) / np.median(p.epoch_s) for w, p in zip(watched, plain, strict=True)]
    )
    error = ratios.std(ddof=1) / np.sqrt(len(ratios)) if len(ratios) > 1 else np.nan
    walls = [w.wall_s - p.wall_s for w, p in zip(watched, plain, strict=True)]
    epoch_s = np.median(np.concatenate([o.epoch_s for o in plain]))
    print(f"loss of {len(first)} steps in {len(runs)} runs identical bit for bit: {identical}")
    print(
        f"slowdown of a warm epoch ({epoch_s:.3f} s), {case.pairs} interleaved pairs: "
        f"median {100 * (np.median(ratios) - 1):+.2f} %, "
        f"mean {100 * (ratios.mean() - 1):+.2f} ± {100 * error:.2f} % (standard error)"
    )
    print(f"once for a run (start, FLOPs, stop): median {np.median(walls):+.2f} s")
    return bool(identical)


def stop(reason: str) -> Any:
    print(f"gpu_check: {reason}", file=sys.stderr)
    sys.exit(2)


def main() -> None:
    parser = argparse.ArgumentParser(description="Check EnergyMonitor on an NVIDIA GPU.")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="fewer epochs, to try the script; energy outside of epochs then weighs more",
    )
    parser.add_argument("--only", choices=["energy", "bits"])
    given = parser.parse_args()
    if not torch.cuda.is_available():
        stop("torch sees no NVIDIA GPU; this check needs one")
    warnings.filterwarnings("ignore")
    for name in ("pytorch_lightning", "lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    pynvml.nvmlInit()
    uuid = str(torch.cuda.get_device_properties(0).uuid)
    handle = pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")
    print_head(__file__, "torch", "torchvision", "pytorch-lightning", device=gpu_name())
    scale = 4 if given.quick else 1
    cases = [
        Case("ResNet-50", resnet50, (64, 3, 224, 224), 1000, 60, 20 // scale, 5, 5 // scale),
        Case(
            "small launch-bound network",
            small_network,
            (32, 64),
            10,
            40,
            40 // scale,
            6,
            10 // scale,
        ),
    ]
    passed = [check(case, handle, given.only) for case in cases]
    print(f"\n{'passed' if all(passed) else 'FAILED'}")
    sys.exit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()
