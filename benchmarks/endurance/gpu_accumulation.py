"""How much does it save to accumulate gradients, measured and by `estimate_pre`.

Several networks are trained with one step of the optimizer for each batch, and for every fourth
one, in turn. The ratio of the two is what `accumulate` changes; the processor and the networks are
the same. Exits with 1 if the ratios of energies are more than `--most` per cent off in the mean,
with 2 without a GPU.

    python -m benchmarks.endurance.gpu_accumulation
"""

from __future__ import annotations

import argparse
import gc
import sys
import warnings
from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.common.goal import Goal
from benchmarks.common.head import gpu_name, print_head
from benchmarks.models.settings import Setting
from benchmarks.models.trainings import Steps, loss_of_batch
from benchmarks.models.zoo import build, loss_of, optimizer_of
from energyest import describe_workload, estimate_pre, track

EVERY = 4
# Epochs of either kind, in turn, after a cold one.
ROUNDS = 3
SETTINGS = (
    Setting("torchvision/resnet50", 64, 224, "bf16", "sgd_momentum", layout="nhwc"),
    Setting("torchvision/mobilenet_v2", 16, 224, "bf16", "adamw"),
    Setting("torchvision/vit_b_16", 16, 224, "bf16", "adamw"),
    Setting("transformers/bert-d768-l12", 8, 128, "fp16", "adamw"),
    Setting("own/gpt-d1024-l12", 2, 512, "bf16", "adamw"),
    Setting("own/mlp-d4096-l8", 64, 0, "tf32", "adamw"),
)
_EPOCHS = 1000


class Training:
    """A network that is trained on one batch again and again."""

    def __init__(self, setting: Setting, device: torch.device) -> None:
        self.setting = setting
        with device:
            self.model, batch = build(setting)
        if device.type == "cuda":
            batch = tuple(t.pin_memory() for t in batch)
        self.optimizer = optimizer_of(setting.optimizer, self.model)
        self.scaler = torch.amp.GradScaler(device.type, enabled=setting.precision == "fp16")
        self.steps = Steps(batch, device)

    def epoch(self, every: int) -> int:
        """Train for about a second; return the number of batches."""
        for index, batch in enumerate(self.steps, 1):
            loss = loss_of_batch(self.model, batch, self.steps.device, self.setting)
            self.scaler.scale(loss / every).backward()
            if index % every == 0:
                self.scaler.step(self.optimizer)
                self.scaler.update()
                self.optimizer.zero_grad()
        return self.steps.counts[-1]


def measured(setting: Setting) -> dict[int, tuple[float, float]]:
    """Seconds and joules of a batch, for each number of batches of an optimizer's step."""
    training = Training(setting, torch.device("cuda"))
    kinds = (1, EVERY) * ROUNDS
    counts = []
    with track() as run:
        training.epoch(1)  # the fast first steps of a cold GPU
        for every, _ in zip(kinds, run.epochs(len(kinds)), strict=True):
            counts.append(training.epoch(every))
    epochs = run.trace.epochs
    seconds = epochs["duration_s"].to_numpy(float)
    joules = epochs["gpu_energy_J"].to_numpy(float)
    found = {}
    for every in (1, EVERY):
        chosen = np.array(kinds) == every
        batches = float(np.array(counts)[chosen].sum())
        found[every] = float(seconds[chosen].sum()) / batches, float(joules[chosen].sum()) / batches
    return found


def predicted(setting: Setting, gpu: str) -> dict[int, tuple[float, float]]:
    """The same by `estimate_pre`."""
    model, batch = build(setting)
    workload = describe_workload(
        model, batch, precision=setting.precision, optimizer=setting.optimizer, loss=loss_of
    )
    found = {}
    for every in (1, EVERY):
        samples = EVERY * workload.batch_size
        estimate = estimate_pre(
            workload, gpu, epochs=_EPOCHS, train_samples=samples, accumulate=every
        )
        batches = EVERY * _EPOCHS
        found[every] = estimate.duration_s / batches, estimate.energy_J / batches
    return found


def report(settings: tuple[Setting, ...]) -> Iterator[tuple[float, float]]:
    """Print a line for each setting; yield the errors of the ratios of time and energy in %."""
    gpu = torch.cuda.get_device_name()
    print(f"{'':36}{'a batch':>18}{f'{EVERY} batches ÷ 1':>18}{'PRE':>16}")
    print(f"{'':36}{'ms':>9}{'J':>9}{'time':>9}{'energy':>9}{'time':>8}{'energy':>8}")
    for setting in settings:
        truth, guess = measured(setting), predicted(setting, gpu)
        (time, energy), (time_said, energy_said) = (
            [found[EVERY][i] / found[1][i] for i in (0, 1)] for found in (truth, guess)
        )
        seconds, joules = truth[1]
        name = f"{setting.model}, {setting.batch_size}, {setting.precision}"
        print(
            f"{name:36}{1e3 * seconds:9.2f}{joules:9.3f}{time:9.3f}{energy:9.3f}"
            f"{time_said:8.3f}{energy_said:8.3f}",
            flush=True,
        )
        yield 100 * abs(time_said / time - 1), 100 * abs(energy_said / energy - 1)
        gc.collect()
        torch.cuda.empty_cache()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--most", type=float, default=10.0, help="mean error of the ratios in per cent"
    )
    most = parser.parse_args().most
    if not torch.cuda.is_available():
        print("gpu_accumulation: torch sees no NVIDIA GPU; nothing was measured")
        return 2
    warnings.simplefilter("ignore")
    print_head(__file__, "torch", "torchvision", "transformers", device=gpu_name())
    off = np.array(list(report(SETTINGS)))
    mean, worst = off.mean(axis=0), off.max(axis=0)
    goal = Goal(
        "ratio of energies with and without accumulation, mean error",
        f"{most:g} %",
        f"{mean[1]:.1f} %, worst {worst[1]:.1f} %; time {mean[0]:.1f} %, worst {worst[0]:.1f} %",
        bool(mean[1] <= most),
    )
    print()
    print(goal)
    return 0 if goal.met else 1


if __name__ == "__main__":
    sys.exit(main())
