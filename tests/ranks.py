"""Trains on two CPU processes; run by test_ranks.py: `python -m tests.ranks FOLDER [option ...]`.

Prints, from rank 0, a line of JSON with what the monitor showed while the training ran.

Options: `strategy=ddp_spawn`, `monitor=no`, `monitor=rank0`, `fail` (rank 1 raises), `kill=1` (that
rank kills itself in epoch 2), `devices=1` (under torchrun: processes of each node), `nodes=2`.
"""

from __future__ import annotations

import collections
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed
from torch.utils.data import DataLoader, TensorDataset

from energyest import EnergyMonitor
from energyest.measure.sensors import Device, Reading

OPTIONS = dict(argument.partition("=")[::2] for argument in sys.argv[2:])
# What each rank's GPU draws.
WATTS = (100.0, 30.0)
COLLECTIVES = ("all_reduce", "broadcast", "broadcast_object_list", "all_gather", "barrier")


class Gpu:
    """A GPU of the rank's own, of constant power."""

    def __init__(self, rank: int) -> None:
        self.device = Device(
            "gpu:0", "gpu", "simulated", "measured", "constant", details={"uuid": f"GPU-{rank}"}
        )
        self.watts = WATTS[rank]

    def read(self, time_s: float) -> Reading:
        return Reading(time_s, "gpu:0", self.watts, self.watts * time_s)

    def close(self) -> None:
        pass


class Monitor(EnergyMonitor):
    """Measures a simulated GPU of each rank beside the machine's processors and memory."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        from energyest.measure.sensors import detect

        kinds = ("cpu", "ram") if trainer.local_rank == 0 else ()
        self._sensors = [Gpu(trainer.global_rank), *detect(components=kinds)]
        super().on_fit_start(trainer, pl_module)


class Net(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss = self.layer(batch[0]).square().mean()
        self.log("loss", loss, sync_dist=True, on_epoch=True, on_step=False)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


class Watch(pl.Callback):
    """Counts collective calls, fails or kills on demand, and prints what rank 0 saw."""

    def __init__(self, monitor: EnergyMonitor | None) -> None:
        self.monitor = monitor
        self.calls: collections.Counter[str] = collections.Counter()
        self.epochs: list[Any] = []
        self.weights: list[float] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for name in COLLECTIVES:
            setattr(torch.distributed, name, self.counted(name, getattr(torch.distributed, name)))

    def counted(self, name: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += 1
            return function(*args, **kwargs)

        return call

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 2 and trainer.global_rank == 1:
            if "fail" in OPTIONS:
                raise ValueError("rank 1 fails")
        if trainer.current_epoch == 2 and OPTIONS.get("kill") == str(trainer.global_rank):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.monitor is not None:
            self.epochs.append(list(self.monitor.trace.column("gpu_energy_J")))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.weights = [w for p in pl_module.parameters() for w in p.detach().flatten().tolist()]

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if trainer.global_rank == 0:
            seen = {"calls": self.calls, "epochs": self.epochs, "weights": self.weights}
            if self.monitor is not None:
                seen["total_J"] = self.monitor.total_J
                projection = self.monitor.projection
                seen["projection_J"] = None if projection is None else projection.energy_J
            print("SEEN " + json.dumps(seen), flush=True)


def main(folder: Path) -> None:
    torch.manual_seed(0)
    monitor = None if OPTIONS.get("monitor") == "no" else Monitor()
    trainer = pl.Trainer(
        max_epochs=4,
        accelerator="cpu",
        devices=int(OPTIONS.get("devices", 2)),
        num_nodes=int(OPTIONS.get("nodes", 1)),
        strategy=OPTIONS.get("strategy", "ddp"),
        logger=False,
        default_root_dir=folder,
        callbacks=[*([] if monitor is None else [monitor]), Watch(monitor)],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    data = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
    trainer.fit(Net(), DataLoader(TensorDataset(data), batch_size=4))
    if OPTIONS.get("strategy") == "ddp_spawn":
        assert monitor is not None
        print("PARENT " + json.dumps({"epochs": len(monitor.trace), "total_J": monitor.total_J}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
