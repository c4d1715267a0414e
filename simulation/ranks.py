"""Trains on several CPU processes.

Run by tests/test_ranks.py and by benchmarks/two_hosts.py: `python -m simulation.ranks FOLDER
[option ...]`, or the same under torchrun.

Prints, from rank 0, a line of JSON with what the monitor showed while the training ran.

Options: `strategy=ddp_spawn` or `strategy=model_parallel` (FSDP2, as far as the CPU can),
`monitor=no`, `without=1` (that rank has no monitor), `broken=1` (it cannot make its run), `fail=1`
(it raises when epoch 2 ends), `kill=1` (it kills itself there), `devices=2`, `nodes=2`, `epochs=4`,
`step_s=0.05`, `budget_kWh=1e-6` (which stops it), and `timeout_s=15` (of gloo).
"""

from __future__ import annotations

import collections
import json
import os
import signal
import sys
import time
from datetime import timedelta
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy
from torch.utils.data import DataLoader, TensorDataset

from energyest import EnergyMonitor
from energyest.adapters import monitor as adapters
from energyest.distributed import rank_exchange as group
from energyest.measure.sensors import Device, Reading
from simulation.busy import all_waited_s, held_up_s

OPTIONS: dict[str, str] = {}  # of this process
BATCHES = 8
# What each rank's GPU draws.
WATTS = (100.0, 30.0, 50.0, 20.0)
COLLECTIVES = (
    "all_reduce",
    "broadcast",
    "broadcast_object_list",
    "all_gather",
    "all_gather_object",
    "gather",
    "gather_object",
    "reduce",
    "reduce_scatter",
    "scatter",
    "send",
    "recv",
    "barrier",
    "monitored_barrier",
)


class Gpu:
    """A GPU of the rank's own, of constant power."""

    def __init__(self, rank: int) -> None:
        self.device = Device(
            "gpu:0", "gpu", "simulated", "measured", "constant", details={"uuid": f"GPU-{rank}"}
        )
        self.watts = WATTS[rank % len(WATTS)]

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
    """One layer, whose step takes as long as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)

    def configure_model(self) -> None:
        if OPTIONS.get("strategy") == "model_parallel":
            from torch.distributed._composable.fsdp import fully_shard

            fully_shard(self.layer, mesh=self.device_mesh["data_parallel"])

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        time.sleep(float(OPTIONS.get("step_s", 0.05)))
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
        self.seen: dict[str, list[Any]] = {"calls": [], "epochs": [], "weights": [], "wait_s": []}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for name in COLLECTIVES:
            setattr(torch.distributed, name, self.counted(name, getattr(torch.distributed, name)))
        if OPTIONS.get("broken") == str(trainer.global_rank):
            adapters.Session = None  # type: ignore[assignment,misc]
        share = group.RankExchange.share

        def timed(*args: Any, **kwargs: Any) -> None:
            self.seen["wait_s"].append(held_up_s(partial(share, *args, **kwargs)))

        group.RankExchange.share = timed  # type: ignore[method-assign]

    def counted(self, name: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += 1
            return function(*args, **kwargs)

        return call

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Here, and not where an epoch ends: metrics are reduced when they are first asked for.
        self.seen["calls"].append(dict(self.calls))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 2 and OPTIONS.get("fail") == str(trainer.global_rank):
            raise ValueError(f"rank {trainer.global_rank} fails")
        if trainer.current_epoch == 2 and OPTIONS.get("kill") == str(trainer.global_rank):
            self.wait_for_the_disk()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.monitor is not None:
            self.seen["epochs"].append(list(self.monitor.trace.column("gpu_energy_J")))
        print(f"RANK {trainer.global_rank} ended epoch {trainer.current_epoch}", flush=True)

    def wait_for_the_disk(self) -> None:
        """The epochs that have ended before this one are on it at once, unless others are busy."""
        assert self.monitor is not None
        assert self.monitor.folder is not None
        file = self.monitor.folder / "epochs.jsonl"
        give_up_s = time.monotonic() + 60
        while file.read_text().count("\n") < 2 and time.monotonic() < give_up_s:
            time.sleep(0.01)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for parameter in pl_module.parameters():
            whole = getattr(parameter, "full_tensor", lambda p=parameter: p)()
            self.seen["weights"] += whole.detach().flatten().tolist()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if trainer.global_rank == 0:
            seen: dict[str, Any] = {**self.seen, "busy_s": all_waited_s()}
            if self.monitor is not None:
                seen["total_J"] = self.monitor.total_J
                projection = self.monitor.projection
                seen["projection_J"] = None if projection is None else projection.energy_J
            print("SEEN " + json.dumps(seen), flush=True)


def budget_of(options: dict[str, str]) -> dict[str, Any]:
    """What a monitor is given so that its budget stops the training; empty without one."""
    if "budget_kWh" not in options:
        return {}
    return {"budget_kWh": float(options["budget_kWh"]), "on_exceed": "stop"}


def main(folder: str, *options: str) -> None:
    OPTIONS.update(option.partition("=")[::2] for option in options)
    torch.manual_seed(0)
    is_without = OPTIONS.get("without") == os.environ.get("LOCAL_RANK", "0")
    is_measured = not is_without and OPTIONS.get("monitor") != "no"
    monitor = Monitor(**budget_of(OPTIONS)) if is_measured else None
    strategy: Any = OPTIONS.get("strategy", "ddp")
    if "timeout_s" in OPTIONS:
        strategy = DDPStrategy(timeout=timedelta(seconds=float(OPTIONS["timeout_s"])))
    if strategy == "model_parallel":
        strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
    trainer = pl.Trainer(
        max_epochs=int(OPTIONS.get("epochs", 4)),
        accelerator="cpu",
        devices=int(OPTIONS.get("devices", 2)),
        num_nodes=int(OPTIONS.get("nodes", 1)),
        strategy=strategy,
        logger=False,
        default_root_dir=folder,
        callbacks=[*([] if monitor is None else [monitor]), Watch(monitor)],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    samples = 4 * BATCHES * trainer.world_size
    data = torch.randn(samples, 4, generator=torch.Generator().manual_seed(1))
    trainer.fit(Net(), DataLoader(TensorDataset(data), batch_size=4))
    if OPTIONS.get("strategy") == "ddp_spawn":
        assert monitor is not None
        print("PARENT " + json.dumps({"epochs": len(monitor.trace), "total_J": monitor.total_J}))


if __name__ == "__main__":
    main(*sys.argv[1:])
