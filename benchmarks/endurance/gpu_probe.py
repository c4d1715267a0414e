"""How well PRE and a probe predict the cost of trainings on this machine's GPU.

First a Lightning training of six short epochs: `monitor.projection` at its first batch and after
each epoch, and its total. Then, for nine models of `models.zoo`: the result of `estimate_pre`
without a probe, the measurement of a probe, and the cost of a training of several seconds under
`track`.

Failures are printed, and the rest continues. No model is started after `--seconds`. Exits with 1 if
something failed or was left out, and with 2 without a GPU.

    python -m benchmarks.endurance.gpu_probe --seconds 100
"""

from __future__ import annotations

import argparse
import gc
import logging
import tempfile
import time
import traceback
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.collect.sweep import measure
from benchmarks.common.head import gpu_name, print_head
from benchmarks.models.settings import Setting
from benchmarks.models.trainings import lightning_module
from benchmarks.models.zoo import build, loss_of
from energyest import EnergyMonitor
from energyest.estimators.pre.estimate import estimate_pre
from energyest.profiling.probes.gpu_probe import probe
from energyest.records.probe import Probe

SETTINGS = (
    Setting("torchvision/resnet50", 64, 224, "bf16", "sgd_momentum"),
    Setting("torchvision/resnet18", 128, 64, "tf32", "sgd"),
    Setting("torchvision/mobilenet_v3_small", 64, 160, "fp32", "rmsprop"),
    Setting("transformers/bert-d512-l6", 16, 128, "bf16", "adamw"),
    Setting("own/gpt-d512-l6", 16, 256, "bf16", "adamw"),
    Setting("own/lstm-d512-l2", 64, 128, "fp32", "adam"),
    Setting("own/mlp-d2048-l8", 256, 0, "fp32", "adam"),
    Setting("own/unet-d32-l4", 8, 128, "fp16", "adamw"),
    Setting("own/conv1d-d128-l4", 32, 2000, "tf32", "rmsprop"),
)
# Epochs of 0.9 s after a cold one of 0.6 s.
TRUTH_EPOCHS = 4
EPOCHS, EPOCH_BATCHES, BATCH_SIZE = 6, 120, 64

# Without a buffer, so that the output is visible even if the process is killed later.
say = partial(print, flush=True)


def probed(setting: Setting) -> tuple[Probe, float]:
    """The probe of a setting, and the seconds that it took."""
    exact = setting.precision == "fp32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = not exact
    model, batch = build(setting)
    held_bytes = _held_bytes()
    began_s = time.monotonic()
    found = probe(
        model,
        batch,
        precision=setting.precision,
        optimizer=setting.optimizer,
        loss=loss_of,
    )
    spent_s = time.monotonic() - began_s
    left_bytes = _held_bytes() - held_bytes
    if left_bytes > 0:
        say(f"  the probe left {left_bytes} bytes on the GPU")
    return found, spent_s


def _held_bytes() -> int:
    """GPU memory taken by tensors, without the workspaces that cuBLAS keeps."""
    clear = getattr(torch._C, "_cuda_clearCublasWorkspaces", None)
    if clear is not None:
        torch.cuda.synchronize()
        clear()
    return int(torch.cuda.memory_allocated())


def truth(setting: Setting) -> tuple[float, float]:
    """Measured seconds and watts of a step, in a training of several seconds."""
    with tempfile.TemporaryDirectory() as scratch:
        facts, _ = measure(setting, torch.device("cuda"), Path(scratch), epochs=TRUTH_EPOCHS)
    return facts["duration_s"] / facts["steps"], facts["gpu_energy_J"] / facts["duration_s"]


def compare(seconds: float) -> bool:
    """Print a line for each setting and the errors of all; return whether all were done."""
    say(
        f"{'setting':52s} {'measured':>25s}   {'PRE: time, power, energy':>29s}   "
        f"{'probe: time, power, energy':>29s}   PRE holds  probe holds  probe took"
    )
    off: dict[str, list[list[float]]] = {"PRE": [], "probe": []}
    began_s, complete = time.monotonic(), True
    for setting in SETTINGS:
        if time.monotonic() - began_s > seconds:
            say(f"{setting.name:52s} left out: no time")
            complete = False
            continue
        try:
            rows, line = _compared(setting)
        except Exception as error:
            say(f"{setting.name:52s} left out: {type(error).__name__}: {error}")
            if not isinstance(error, ImportError | ValueError):
                traceback.print_exc()
            complete = False
        else:
            say(line)
            for name, row in rows.items():
                off[name].append(row)
        _free()
    for name, values in off.items():
        if values:
            time_off, power_off, energy_off = 100 * np.array(values).T
            say(
                f"{name}: energy off by {np.abs(energy_off).mean():.1f} % in the mean, "
                f"{np.median(np.abs(energy_off)):.1f} % in the median; with its sign, in the mean: "
                f"time {time_off.mean():+.1f} %, power {power_off.mean():+.1f} %"
            )
    return complete


def _compared(setting: Setting) -> tuple[dict[str, list[float]], str]:
    """Relative errors of time, power and energy by PRE and by the probe, and a line to print."""
    found, spent_s = probed(setting)
    _free()
    step_s, power_W = truth(setting)
    steps = 1000
    asked: dict[str, Any] = {"epochs": 1, "train_samples": steps * setting.batch_size}
    estimates = {
        "PRE": estimate_pre(found.workload, found.gpu, **asked),
        "probe": estimate_pre(found.workload, probe=found, **asked),
    }
    rows, parts, held = {}, [], []
    for name, estimate in estimates.items():
        guess_s = (estimate.duration_s or 0.0) / steps
        guess_J = estimate.energy_J / steps
        ratios = [guess_s / step_s, guess_J / guess_s / power_W, guess_J / (step_s * power_W)]
        rows[name] = [ratio - 1 for ratio in ratios]
        parts.append(" ".join(f"{100 * value:+7.1f} %" for value in rows[name]))
        lower_J, upper_J = estimate.lower_J or 0.0, estimate.upper_J or 0.0
        held.append("yes" if lower_J <= steps * step_s * power_W <= upper_J else "no")
    line = (
        f"{setting.name:52s} {1e3 * step_s:8.3f} ms {power_W:4.0f} W {step_s * power_W:6.3f} J"
        f"   {parts[0]}   {parts[1]}   {held[0]:>9s}  {held[1]:>11s}  {spent_s:8.1f} s"
    )
    return rows, line


def _free() -> None:
    gc.collect()
    torch.cuda.empty_cache()


class Repeated(Dataset[Any]):
    """The same batch over and over, in pinned memory."""

    def __init__(self, batch: tuple[Tensor, ...]) -> None:
        self.batch = tuple(tensor.pin_memory() for tensor in batch)

    def __len__(self) -> int:
        return EPOCH_BATCHES

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        if index >= len(self):
            raise IndexError(index)
        return self.batch


def live() -> None:
    """Print the projections of a Lightning training while it runs."""
    import pytorch_lightning as pl

    monitor = EnergyMonitor(tempfile.mkdtemp())

    class Look(pl.Callback):
        batch_seen = False

        def on_train_batch_end(self, *_: Any) -> None:
            if not self.batch_seen:
                self.batch_seen = True
                say(f"first batch    {monitor.projection}")

        def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            say(f"epoch {trainer.current_epoch}        {monitor.projection}")

    setting = Setting("own/unet-d32-l4", BATCH_SIZE, 128, "bf16", "adamw", "lightning")
    model, batch = build(setting)
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="gpu",
        devices=1,
        precision="bf16-mixed",
        callbacks=[monitor, Look()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(Repeated(batch), batch_size=None)
    trainer.fit(lightning_module(model, setting), loader)
    trace = monitor.trace
    total_J = float(trace.column("energy_J").sum())
    gpu_J = float(trace.column("gpu_energy_J").sum())
    say(f"all epochs     {total_J:.0f} J, of which the GPU {gpu_J:.0f} J")
    say(f"epochs, in J   {' '.join(f'{value:.0f}' for value in trace.column('energy_J'))}")
    for name in ("workload_note", "first_projection_note", "first_projection", "precision"):
        say(f"{name}: {trace.meta.get(name)}")


def main() -> int:
    """Run both parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=100, help="time for the models")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        say("gpu_probe: torch sees no NVIDIA GPU; nothing was measured")
        return 2
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    began_s = time.monotonic()
    print_head(__file__, "torch", "pytorch-lightning", device=gpu_name())
    complete = True
    try:
        live()
    except Exception:
        traceback.print_exc()
        complete = False
    _free()
    complete = compare(arguments.seconds) and complete
    say(f"{time.monotonic() - began_s:.0f} s")
    return 0 if complete else 1


if __name__ == "__main__":
    raise SystemExit(main())
