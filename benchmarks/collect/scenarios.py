"""Train networks in eight scenarios on an NVIDIA GPU; write the energy of every epoch as CSV.

The inputs are synthetic and in pinned memory; losses, gradients and optimizer steps are real. Each
setting is one training in one scenario: plain, validation after each or every fifth epoch, a
backbone that is unfrozen, inputs or batches that grow, slow inputs, checkpoints. Epoch 0 is eight
cold steps; their time determines the number of steps of each later epoch.

After every run, its epochs are added to `epochs.csv` and its facts to `runs.csv`; an empty field is
unknown or does not apply. A run already in the files is not repeated. Exits with 2 without a GPU.

    python -m benchmarks.collect.scenarios --out FOLDER [--runs NAME ...] [--budget-s 540]
    python -m benchmarks.collect.scenarios --out FOLDER --device cpu --tiny --epochs 8 --epoch-s 0.1
"""

from __future__ import annotations

import argparse
import copy
import gc
import importlib.util
import math
import re
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from energyest import track
from energyest.profiling.operations import OperationLog

CLASSES, VOCABULARY = 1000, 8192
COLD_STEPS, UNTIMED_STEPS = 8, 3
CHANGES = {"unfreeze": 1 / 3, "resize": 1 / 2, "batch_ramp": 1 / 4}  # after this share of a run
COLUMNS = ["epoch", "start_s", "end_s", "duration_s", "gpu_energy_J"]
COLUMNS += ["validation_energy_J", "validation_s", "steps", "samples"]


@dataclass(frozen=True)
class Setting:
    """One training; `size` is the side of its images or the length of its sequences."""

    scenario: str
    model: str
    batch_size: int
    size: int
    precision: str
    optimizer: str
    seed: int
    validation: float = 0.0  # its steps divided by the training steps

    @property
    def name(self) -> str:
        return f"{self.scenario}-{self.model.split('/')[1]}-{self.precision}"

    @property
    def is_text(self) -> bool:
        return self.model in ("own/transformer", "own/lstm")

    def changed(self) -> Setting:
        if self.scenario == "batch_ramp":
            return replace(self, batch_size=2 * self.batch_size)
        return replace(self, size=2 * self.size) if self.scenario == "resize" else self


# The first ten cover all scenarios. No two have convolutions of the same shapes, because cuDNN
# remembers for the whole process which algorithm was fastest.
SETTINGS = (
    Setting("plain", "torchvision/resnet50", 128, 224, "bf16", "sgd", 1),
    Setting("validation", "own/transformer", 16, 512, "tf32", "adamw", 2, 0.2),
    Setting("unfreeze", "torchvision/convnext_small", 64, 224, "bf16", "adamw", 3),
    Setting("resize", "torchvision/resnet18", 128, 112, "bf16", "sgd", 4),
    Setting("input_bound", "torchvision/mobilenet_v3_small", 64, 192, "tf32", "sgd", 5),
    Setting("checkpoint_5", "torchvision/vit_b_16", 64, 224, "bf16", "adamw", 6),
    Setting("batch_ramp", "own/lstm", 64, 128, "fp32", "adamw", 7),
    Setting("validation_5", "torchvision/swin_t", 64, 224, "bf16", "adamw", 8, 0.2),
    Setting("plain", "own/convnet", 32, 32, "fp32", "sgd", 9),
    Setting("resize", "torchvision/resnext50_32x4d", 48, 112, "bf16", "sgd", 10),
    Setting("plain", "torchvision/convnext_tiny", 80, 224, "tf32", "adamw", 11),
    Setting("unfreeze", "torchvision/vit_b_16", 48, 224, "tf32", "adamw", 12),
    Setting("validation", "torchvision/regnet_y_1_6gf", 96, 224, "bf16", "sgd", 13, 0.25),
    Setting("plain", "torchvision/mobilenet_v3_large", 128, 224, "tf32", "sgd", 14),
    Setting("validation_5", "own/lstm", 32, 256, "tf32", "adamw", 15, 0.25),
    Setting("batch_ramp", "torchvision/resnet50", 48, 224, "tf32", "sgd", 16),
    Setting("plain", "torchvision/vit_b_16", 96, 224, "bf16", "adamw", 17),
    Setting("input_bound", "own/convnet", 256, 64, "bf16", "adamw", 18),
    Setting("resize", "own/transformer", 16, 256, "bf16", "adamw", 19),
    Setting("plain", "own/transformer", 12, 512, "fp32", "adamw", 20),
    Setting("checkpoint_5", "own/transformer", 24, 384, "tf32", "adamw", 21),
    Setting("unfreeze", "torchvision/resnet101", 40, 224, "tf32", "sgd", 22),
    Setting("plain", "torchvision/efficientnet_b0", 112, 224, "bf16", "sgd", 23),
    Setting("validation", "torchvision/densenet121", 56, 224, "fp32", "sgd", 24, 0.15),
    Setting("resize", "torchvision/efficientnet_v2_s", 32, 128, "tf32", "adamw", 25),
    Setting("unfreeze", "own/convnet", 512, 48, "tf32", "sgd", 26),
    Setting("plain", "own/lstm", 64, 384, "fp32", "sgd", 27),
    Setting("validation_5", "torchvision/resnet34", 160, 224, "bf16", "sgd", 28, 0.15),
)


class LanguageModel(nn.Module):
    """A causal transformer of 8 layers or an LSTM of 2, 512 wide."""

    def __init__(self, architecture: str, *, tiny: bool) -> None:
        super().__init__()
        width = 32 if tiny else 512
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.body: nn.Module = nn.LSTM(width, width, num_layers=2, batch_first=True)
        if architecture == "transformer":
            layer = nn.TransformerEncoderLayer(width, 8, 4 * width, batch_first=True)
            self.body = nn.TransformerEncoder(layer, 2 if tiny else 8, enable_nested_tensor=False)
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.tokens(tokens)
        if isinstance(self.body, nn.LSTM):
            return self.head(self.body(hidden)[0])
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1], tokens.device)
        return self.head(self.body(hidden, mask=mask, is_causal=True))


def convnet() -> nn.Module:
    """Twenty narrow layers: with small batches, the GPU mostly waits for launches."""
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, padding=1)]
    for _ in range(20):
        layers += [nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES))


def build(setting: Setting, *, tiny: bool) -> nn.Module:
    source, architecture = setting.model.split("/")
    if source == "torchvision":
        from torchvision.models import get_model

        options = {"image_size": setting.size} if architecture.startswith("vit") else {}
        return get_model(architecture, weights=None, num_classes=CLASSES, **options)
    return convnet() if architecture == "convnet" else LanguageModel(architecture, tiny=tiny)


def freeze(model: nn.Module, frozen: bool) -> None:
    """Freeze all but the last layer (its weight and bias), or nothing."""
    for parameter in list(model.parameters())[:-2]:
        parameter.requires_grad_(not frozen)


def make_batch(setting: Setting, device: str) -> list[Tensor]:
    """Inputs and labels: in pinned memory for a GPU, on meta tensors to count FLOPs."""
    where = "meta" if device == "meta" else "cpu"
    shape = (setting.batch_size, setting.size)
    batch = [torch.randint(VOCABULARY, shape, device=where) for _ in range(2)]
    if not setting.is_text:
        images = torch.randn(setting.batch_size, 3, setting.size, setting.size, device=where)
        batch = [images, torch.randint(CLASSES, shape[:1], device=where)]
    return [part.pin_memory() for part in batch] if device == "cuda" else batch


def loss_of(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(model(inputs).flatten(0, -2), labels.flatten())


def training_flops(model: nn.Module, setting: Setting) -> float:
    """FLOPs of forward and backward for one sample, counted on a copy; NaN on failure."""
    try:
        batch = make_batch(replace(setting, batch_size=1), "meta")
        with OperationLog() as log:
            loss_of(copy.deepcopy(model).to("meta"), *batch).backward()
    except Exception as error:
        print(f"{setting.name}: FLOPs are not counted: {error!r}")
        return math.nan
    return float(sum(log.flops.values()))


class Training:
    """A network with its optimizer, its batches and its planned change."""

    def __init__(self, setting: Setting, device: str, *, tiny: bool) -> None:
        torch.manual_seed(setting.seed)
        self.random = np.random.default_rng(setting.seed)
        self.setting, self.device = setting, device
        self.model = model = build(setting, tiny=tiny)
        self.facts: dict[str, float] = {"parameters": sum(p.numel() for p in model.parameters())}
        for when, phase in (("after", setting.changed()), ("before", setting)):
            freeze(model, setting.scenario == "unfreeze" and when == "before")
            trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
            self.facts[f"trainable_parameters_{when}"] = trained
            self.facts[f"training_flops_per_sample_{when}"] = training_flops(model, phase)
        phases = dict.fromkeys([setting, setting.changed()])
        self.planned = [[make_batch(phase, device) for _ in range(4)] for phase in phases]
        # Frozen parameters have no gradient, so the optimizer skips them.
        parameters = model.to(device).parameters()
        if setting.optimizer == "sgd":
            self.optimizer: Any = torch.optim.SGD(parameters, lr=0.01, momentum=0.9)
        else:
            self.optimizer = torch.optim.AdamW(parameters, lr=3e-4)

    def train(self, steps: int) -> None:
        self.model.train()
        for step in range(steps):
            self.loss = self.forward(step)
            self.loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        if self.device == "cuda":
            torch.cuda.synchronize()

    def forward(self, step: int) -> Tensor:
        inputs, labels = self.planned[0][step % 4]
        if self.setting.scenario == "input_bound":
            # Like a slow loader, in this thread: make, normalise and flip the images.
            images = self.random.standard_normal(inputs.shape, dtype=np.float32)
            images = (images - images.mean(axis=(2, 3), keepdims=True)) / images.std()
            inputs.copy_(torch.from_numpy(np.ascontiguousarray(images[..., ::-1])))
        batch = [part.to(self.device, non_blocking=True) for part in (inputs, labels)]
        with torch.autocast(self.device, torch.bfloat16, self.setting.precision == "bf16"):
            return loss_of(self.model, *batch)


def collect(setting: Setting, args: argparse.Namespace) -> tuple[pd.DataFrame, dict[str, Any]]:
    """One training: its epochs and its facts."""
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = setting.precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = setting.precision == "tf32"
    sources: dict[str, Any] = {"components": ["cpu"]}
    if args.device == "cuda":
        uuid = str(torch.cuda.get_device_properties(0).uuid).removeprefix("GPU-")
        sources = {"components": ["gpu"], "gpus": [f"GPU-{uuid}"]}
    if args.tiny:
        setting = replace(setting, batch_size=4, size=16 if setting.is_text else 64)
    training, scenario = Training(setting, args.device, tiny=args.tiny), setting.scenario
    changes_at = int(args.epochs * CHANGES[scenario]) if scenario in CHANGES else None
    steps = 0
    with tempfile.TemporaryDirectory() as folder, track(**sources) as run:
        for epoch in run.epochs(args.epochs):
            if epoch == changes_at:
                training.planned = training.planned[-1:]
                freeze(training.model, False)
            if epoch == 0:
                training.train(UNTIMED_STEPS)
                began = time.perf_counter()
                training.train(COLD_STEPS - UNTIMED_STEPS)
                step_s = (time.perf_counter() - began) / (COLD_STEPS - UNTIMED_STEPS)
                steps = max(4, round(args.epoch_s / step_s))
                done = max(steps, COLD_STEPS) if args.full_first_epoch else COLD_STEPS
                training.train(done - COLD_STEPS)
            else:
                done = steps // 2 if scenario == "batch_ramp" and epoch >= changes_at else steps
                training.train(done)
            fifth = (epoch + 1) % 5 == 0
            if scenario == "validation" or (scenario == "validation_5" and fifth):
                with run.validation(), torch.no_grad():
                    training.model.eval()
                    for step in range(max(1, round(setting.validation * done))):
                        training.forward(step)
            if scenario == "checkpoint_5" and fifth:
                states = training.model.state_dict(), training.optimizer.state_dict()
                torch.save(states, Path(folder) / "last.pt")
            run.log(steps=done, samples=done * len(training.planned[0][0][0]))
    epochs, devices = run.trace.epochs, run.trace.devices
    if not epochs["energy_J"].notna().any():
        raise RuntimeError(f"no energy was measured: {run.trace.meta.get('notes')}")
    seconds, joules = epochs["duration_s"].sum(), epochs["energy_J"].sum()
    print(f"{setting.name}: {steps} steps an epoch, {seconds:.1f} s, {joules:.0f} J,", end=" ")
    print(f"last loss {training.loss.item():.3f}", flush=True)
    same = ("name", "scenario", "model", "batch_size", "precision", "optimizer")
    return epochs[COLUMNS].astype({"steps": int, "samples": int}), {
        **{name: getattr(setting, name) for name in same},
        "image_size": None if setting.is_text else setting.size,
        "seq_len": setting.size if setting.is_text else None,
        **training.facts,
        "changes_at": changes_at,
        "epochs": len(epochs),
        "steps": steps,
        "power_limit_W": devices[0].get("power_limit_W"),
        "driver": devices[0].get("driver_version"),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def main() -> None:
    began = time.monotonic()
    numbered = {setting.name: (number, setting) for number, setting in enumerate(SETTINGS, 1)}
    parser = argparse.ArgumentParser(description="Collect the energy of real trainings.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the CSV files")
    parser.add_argument("--runs", nargs="+", choices=numbered, metavar="NAME", default=numbered)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--epoch-s", type=float, default=1.0, help="seconds of an epoch, about")
    parser.add_argument("--budget-s", type=float, default=540, help="seconds for all of the runs")
    parser.add_argument(
        "--full-first-epoch", action="store_true", help="make epoch 0 as long as the others"
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small inputs, to try the script")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.exit(2, "scenarios: torch sees no NVIDIA GPU (--device cpu --tiny for a try)\n")
    if args.device == "cuda" and importlib.util.find_spec("torchvision") is None:
        parser.exit(2, "scenarios: torchvision is not installed: pip install torchvision\n")
    gpu = torch.cuda.get_device_name(0) if args.device == "cuda" else "cpu"
    short = next(iter(re.findall(r"[a-z]*\d+", gpu.lower())), gpu)
    args.out.mkdir(parents=True, exist_ok=True)
    runs, longest_s = args.out / "runs.csv", 0.0
    made = set(pd.read_csv(runs)["run_id"]) if runs.exists() else set()
    for number, setting in [numbered[name] for name in dict.fromkeys(args.runs)]:
        run_id = f"own-{short}-{number:03d}-{setting.scenario}"
        if run_id in made:
            continue
        run_began = time.monotonic()
        if run_began - began + longest_s > args.budget_s:
            print(f"out of time before {setting.name}")
            break
        try:
            epochs, row = collect(setting, args)
            row = {"run_id": run_id, "gpu": gpu} | row
            epochs.insert(0, "run_id", run_id)
            for path, rows in ((args.out / "epochs.csv", epochs), (runs, pd.DataFrame([row]))):
                rows.to_csv(path, mode="a", header=not path.exists(), index=False)
        except Exception as error:
            print(f"{setting.name}: skipped: {error!r}", flush=True)
        gc.collect()
        torch.backends.cudnn.benchmark = False
        torch.cuda.empty_cache()  # does nothing without a GPU
        longest_s = max(longest_s, time.monotonic() - run_began)


if __name__ == "__main__":
    main()
