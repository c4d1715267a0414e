"""A Lightning training with `EnergyMonitor`, beside the counter of the rank's own GPU.

A function of a process that knows its rank from the environment (`benchmarks.ranks.launch`).
Without a GPU, the network is tiny, ranks meet over gloo, and each has a simulated GPU of constant
power.
"""

from __future__ import annotations

import logging
import os
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Subset, TensorDataset

from benchmarks.common.gpu_counter import Counter
from benchmarks.overhead.children import tell
from benchmarks.overhead.lightning_hooks import HookTimes, Settle
from benchmarks.ranks.launch import own_counter
from energyest import EnergyMonitor

# Steps of an epoch on each rank.
STEPS = 30
# The least that a step takes without a GPU, where it would take no time.
_TINY_STEP_S = 0.02


class Net(pl.LightningModule):
    """A few convolutions and, on demand, an allocation that is too large.

    Args:
        widths: of the convolutions.
        is_sharded: whether its parts are sharded by FSDP2.
        oom: whether it allocates too much in epoch 2.
    """

    def __init__(self, widths: tuple[int, ...], *, is_sharded: bool, oom: bool) -> None:
        super().__init__()
        self.oom, self.is_sharded = oom, is_sharded
        layers: list[nn.Module] = []
        for i, o in zip((3, *widths), widths, strict=False):
            layers += [nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU()]
        self.network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(widths[-1], 10)

    def configure_model(self) -> None:
        if self.is_sharded:
            from torch.distributed.fsdp import fully_shard

            assert self.device_mesh is not None
            for part in (self.network, self.head):
                fully_shard(part, mesh=self.device_mesh["data_parallel"])

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.network(inputs))
        return outputs

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        if self.oom and self.current_epoch == 2:
            torch.empty(2**40, device=self.device)
        if self.device.type == "cpu":
            time.sleep(_TINY_STEP_S)
        return cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # Momentum, since Lightning cannot load an FSDP optimizer that has no state.
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


class Start(pl.Callback):
    """Placed after the monitor: reads the counter once the monitor has started."""

    def __init__(self) -> None:
        self.counter: Counter | None = None
        self.start_J = 0.0

    def on_fit_start(self, *_: Any) -> None:
        now_s = time.monotonic()
        self.counter = own_counter()
        # What the GPU draws, idle, until the counter is renewed belongs to the training.
        self.start_J = self.counter.renewed().at(now_s)
        tell(start_J=self.start_J, uuid=self.counter.uuid, watts=self.counter.power_W())


class End(pl.Callback):
    """Placed before the monitor: reads the counter when the monitor is about to stop."""

    def __init__(self, start: Start) -> None:
        self.start, self.end_J = start, 0.0

    def on_fit_end(self, *_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        assert self.start.counter is not None
        self.end_J = self.start.counter.renewed().energy_J


class Tell(pl.Callback):
    """Tells the parent which epoch has ended."""

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        tell(epoch=trainer.current_epoch, at_s=time.monotonic())


def train(
    folder: Path,
    *,
    strategy: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    epochs: int = 5,
    steps: int = STEPS,
    save: bool = False,
    resume: Path | None = None,
    oom: bool = False,
    count_flops: bool = False,
) -> dict[str, Any]:
    """Train on one of several ranks, or alone.

    Args:
        folder: the training's folder; the trace is in `energy` in it.
        strategy: "auto", "ddp", "gloo" (DDP over gloo) or "fsdp".
        devices: ranks of a node.
        nodes: number of nodes.
        epochs: number of epochs.
        steps: steps of an epoch on each rank.
        save: whether to save a checkpoint of each epoch.
        resume: the checkpoint to go on from.
        oom: whether to run out of memory in epoch 2.
        count_flops: whether to count FLOPs. The trace leaves out that pause, the counter does not.

    Returns:
        The rank, the counter's joules during the measurement, the monitor's live total, columns of
        its trace, and the milliseconds of its hook at the end of each epoch.
    """
    warnings.simplefilter("ignore")
    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.manual_seed(0)
    on_gpu = torch.cuda.is_available()
    world = devices * nodes
    # Only the GPU: two "nodes" on one machine would both count its processors.
    options: dict[str, Any] = {"components": ("gpu",)}
    if not on_gpu:
        from simulation.ranks import Gpu

        torch.set_num_threads(1)
        options = {"sensors": [Gpu(int(os.environ.get("RANK", "0")))]}
    monitor = EnergyMonitor(count_flops=count_flops, **options)
    times, start = HookTimes(monitor), Start()
    end = End(start)
    callbacks: list[Any] = [end, Settle(), monitor, start, Tell()]
    if save:
        callbacks.append(pl.callbacks.ModelCheckpoint(folder, save_top_k=-1))
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="gpu" if on_gpu else "cpu",
        devices=devices,
        num_nodes=nodes,
        strategy=_strategy(strategy, world),
        callbacks=callbacks,
        logger=False,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=save,
    )
    widths, batch, side = ((64, 128, 256, 256), 64, 96) if on_gpu else ((4, 8), 4, 8)
    # A few samples again and again, because those of an epoch on many GPUs take gigabytes.
    few = 4 * batch
    data = TensorDataset(torch.randn(few, 3, side, side), torch.randint(10, (few,)))
    epoch = Subset(data, [number % few for number in range(steps * batch * world)])
    workers: dict[str, Any] = {}
    if on_gpu:
        workers = {"num_workers": 2, "multiprocessing_context": "fork", "persistent_workers": True}
    net = Net(widths, is_sharded=strategy == "fsdp" and not on_gpu, oom=oom)
    trainer.fit(net, DataLoader(epoch, batch, **workers), ckpt_path=resume)
    trace = monitor.trace
    return {
        "rank": trainer.global_rank,
        "counter_J": end.end_J - start.start_J,
        "live_J": monitor.total_J,
        "gpu_epochs_J": list(trace.column("gpu_energy_J")),
        "epochs": [int(epoch) for epoch in trace.column("epoch")],
        "epoch_s": list(trace.column("duration_s")),
        "end_ms": times.ends_ms,
        "flops": [float(flops) for flops in trace.column("flops")],
        "notes": [trace.meta.get("flops_note"), trace.meta.get("workload_note")],
    }


def _strategy(name: str, world: int) -> Any:
    """Lightning's strategy. FSDP needs GPUs; on the CPU, FSDP2 goes as far as it can."""
    if name == "gloo" or (name == "ddp" and not torch.cuda.is_available()):
        return pl.strategies.DDPStrategy(process_group_backend="gloo")
    if name == "fsdp" and not torch.cuda.is_available():
        return pl.strategies.ModelParallelStrategy(
            data_parallel_size=world, tensor_parallel_size=1, process_group_backend="gloo"
        )
    return name
