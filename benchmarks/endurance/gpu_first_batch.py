"""What watching the first steps costs on a real NVIDIA GPU in time and memory.

A ResNet-50, a GPT of 100 million parameters, a pair of adversarial networks and a compiled network
each train for a few steps, with and without the monitor in turn. Printed for each:

- how much later the first and the second batch end than without (median of the pairs);
- how much higher the peak of the GPU's memory is;
- whether the loss of every step is the same, bit for bit, if it is reproducible at all;
- the FLOPs of a step, and the count by torch's own counter, if that works.

Exits with 1 if the first batch ends more than 0.2 s later, memory rises by more than 100 MB, or
losses differ; with 2 without a GPU.

    python -m benchmarks.endurance.gpu_first_batch [--pairs N]
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# Must be set before CUDA starts: with it, cuBLAS is deterministic.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common.goal import Goal
from benchmarks.common.head import gpu_name, print_head
from energyest import EnergyMonitor

STEPS = 6
MOST_LATER_S, MOST_MORE_MB = 0.2, 100.0


class Training(pl.LightningModule):
    """A network and the loss of its output."""

    def __init__(self, network: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.loss = network, loss
        self.losses: list[Tensor] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = self.loss(self.network(batch[0]), batch[1])
        self.losses.append(loss.detach())
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.network.parameters(), lr=1e-4)


class Adversaries(pl.LightningModule):
    """A generator and a critic of images, optimised in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(
            *(layer for width in (128, 512, 256) for layer in _up(width)),
            nn.ConvTranspose2d(64, 3, 4, 2, 1),
            nn.Tanh(),
        )
        self.critic = nn.Sequential(
            nn.Conv2d(3, 64, 4, 2, 1),
            *(layer for width in (64, 128, 256) for layer in _down(width)),
            nn.Flatten(),
            nn.Linear(512, 1),  # of images of 16 × 16, halved four times
        )
        self.losses: list[Tensor] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        for_generator, for_critic = self.optimizers()
        noise = torch.randn(len(batch[0]), 128, 1, 1, device=self.device)
        made = self.generator(noise)
        real = functional.interpolate(batch[0], size=made.shape[-2:])
        loss = self.critic(made.detach()).mean() - self.critic(real).mean()
        for_critic.zero_grad()
        self.manual_backward(loss)
        for_critic.step()
        other = -self.critic(made).mean()
        for_generator.zero_grad()
        self.manual_backward(other)
        for_generator.step()
        self.losses.append(loss.detach())

    def configure_optimizers(self) -> Any:
        make = torch.optim.AdamW
        return [make(self.generator.parameters(), 1e-4), make(self.critic.parameters(), 1e-4)]


def _up(width: int) -> list[nn.Module]:
    out = {128: 512, 512: 256, 256: 64}[width]
    return [nn.ConvTranspose2d(width, out, 4, 2, 1), nn.BatchNorm2d(out), nn.ReLU()]


def _down(width: int) -> list[nn.Module]:
    return [nn.Conv2d(width, 2 * width, 4, 2, 1), nn.LeakyReLU(0.2)]


class Gpt(nn.Module):
    """A decoder of 12 layers, 768 wide."""

    def __init__(self, words: int = 32_000, width: int = 768, layers: int = 12) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        layer = nn.TransformerEncoderLayer(
            width, 12, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, words, bias=False)
        self.head.weight = self.words.weight

    def forward(self, ids: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1], device=ids.device)
        # Plain attention is reproducible from run to run; fused attention is not.
        with sdpa_kernel(SDPBackend.MATH):
            output: Tensor = self.head(self.body(self.words(ids), mask=mask, is_causal=True))
        return output


def token_loss(output: Tensor, ids: Tensor) -> Tensor:
    return functional.cross_entropy(output[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def resnet50() -> nn.Module:
    try:
        from torchvision.models import resnet50 as build
    except ImportError:
        print("torchvision is not installed: pip install torchvision", file=sys.stderr)
        sys.exit(2)
    return build(num_classes=1000)


@dataclass(frozen=True)
class Case:
    """A training, and whether its steps can be watched."""

    name: str
    make: Callable[[], pl.LightningModule]
    batch: Callable[[], tuple[Tensor, Tensor]]
    precision: str = "bf16-mixed"
    is_watched: bool = True


def images() -> tuple[Tensor, Tensor]:
    return torch.randn(64, 3, 224, 224), torch.randint(1000, (64,))


def tokens() -> tuple[Tensor, Tensor]:
    ids = torch.randint(32_000, (8, 1024))
    return ids, ids


CASES = (
    Case("ResNet-50", lambda: Training(resnet50(), functional.cross_entropy), images),
    Case("GPT, 109 million parameters", lambda: Training(Gpt(), token_loss), tokens),
    Case("generator and critic", Adversaries, images, "32-true"),
    Case(
        "compiled ResNet-50",
        lambda: Training(torch.compile(resnet50()), functional.cross_entropy),
        images,
        is_watched=False,
    ),
)


class Times(pl.Callback):
    """Seconds from the start of the first epoch to the end of each batch."""

    def __init__(self) -> None:
        self.began_s, self.ends_s = 0.0, []

    def on_train_epoch_start(self, *_: Any) -> None:
        torch.cuda.synchronize()
        self.began_s = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        torch.cuda.synchronize()
        self.ends_s.append(time.perf_counter() - self.began_s)


def trainer_of(case: Case, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    """A Trainer of one epoch that prints and stores nothing."""
    return pl.Trainer(
        max_epochs=1,
        accelerator="gpu",
        devices=1,
        precision=case.precision,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def train(case: Case, *, monitored: bool) -> tuple[list[float], float, Tensor, dict[str, Any]]:
    """Times of the batches, peak of memory in bytes, losses, and the trace's meta."""
    pl.seed_everything(0, verbose=False)
    torch._dynamo.reset()
    model = case.make()
    data = DataLoader([case.batch()] * STEPS, batch_size=None)
    times = Times()
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder:
        monitor = EnergyMonitor(os.path.join(folder, "energy"))
        trainer = trainer_of(case, *([monitor] if monitored else []), times)
        trainer.fit(model, data)
        peak = torch.cuda.max_memory_allocated()
        return times.ends_s, peak, torch.stack(model.losses).cpu(), monitor.trace.meta


def by_torch(case: Case) -> float:
    """FLOPs of a step as torch's own counter sees them, in a training of its own."""

    class Count(pl.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            self.mode = FlopCounterMode(display=False)
            self.mode.__enter__()

        def on_train_batch_end(self, *_: Any) -> None:
            self.mode.__exit__(None, None, None)

    count, model = Count(), case.make()
    trainer = trainer_of(case, count, limit_train_batches=1)
    trainer.fit(model, DataLoader([case.batch()], batch_size=None))
    return float(count.mode.get_total_flops())


def check(case: Case, pairs: int) -> list[Goal]:
    print(f"\n## {case.name}, {case.precision}\n", flush=True)
    train(case, monitored=False)  # kernels, clocks, allocator
    train(case, monitored=True)  # modules are imported, NVML is started
    first, second, more = [], [], []
    same, repeats, meta, losses = True, True, {}, None
    for i in range(pairs):
        runs = {kind: train(case, monitored=kind) for kind in ((False, True), (True, False))[i % 2]}
        plain, watched = runs[False], runs[True]
        first.append(watched[0][0] - plain[0][0])
        second.append((watched[0][1] - watched[0][0]) - (plain[0][1] - plain[0][0]))
        more.append((watched[1] - plain[1]) / 1e6)
        same &= torch.equal(plain[2], watched[2])
        repeats &= losses is None or torch.equal(plain[2], losses)
        losses = plain[2]
        meta = watched[3]
    print(
        f"first batch without: {plain[0][0]:.3f} s, a later one {plain[0][-1] - plain[0][-2]:.3f} s"
    )
    print(f"second batch later by {np.median(second):+.3f} s")
    forward = meta["forward_flops_per_sample"]
    if forward is None:
        print(f"FLOPs: {meta['flops_note']}")
    else:
        samples = meta["batch_size"]
        step = forward * samples * meta["training_to_forward_flops"]
        print(f"FLOPs of a step: {step:.5g}; by torch's counter {by_torch(case):.5g}")
        print(f"uncounted: {meta['flops_uncounted']}; {meta.get('workload_note') or 'described'}")
    later = float(np.median(first))
    goals = [
        Goal("first batch", f"{MOST_LATER_S} s later", f"{later:+.3f} s", later <= MOST_LATER_S),
        Goal(
            "memory",
            f"{MOST_MORE_MB:.0f} MB more",
            f"{max(more):+.1f} MB",
            max(more) <= MOST_MORE_MB,
        ),
        Goal(
            "losses",
            "bit for bit",
            "the same" if same else "differ" if repeats else "differ from run to run without it",
            same or not repeats,
        ),
        Goal(
            "watched",
            "yes" if case.is_watched else "no",
            "yes" if forward else "no",
            bool(forward) == case.is_watched,
        ),
    ]
    for goal in goals:
        print(goal, flush=True)
    return goals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--pairs", type=int, default=4, help="trainings with and without, in turn")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("this benchmark needs an NVIDIA GPU", file=sys.stderr)
        sys.exit(2)
    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_float32_matmul_precision("high")
    print_head(__file__, "torch", "pytorch-lightning", "fvcore", device=gpu_name())
    goals = [goal for case in CASES for goal in check(case, options.pairs)]
    sys.exit(0 if all(goal.met for goal in goals) else 1)


if __name__ == "__main__":
    main()
