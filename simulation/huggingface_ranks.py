"""Trains by Hugging Face's Trainer on several CPU processes.

Run by tests/long/test_huggingface_ranks.py: `python -m torch.distributed.run --nproc_per_node 2 -m
simulation.huggingface_ranks FOLDER [option ...]`.

Prints, from rank 0, a line of JSON with what the callback showed and what became of the weights.

Options: `monitor=no`, `without=1` (that rank has no callback), `resume=yes` (from the newest
checkpoint), `epochs=4`, `step_s=0.05`, `budget_kWh=1e-6` (which stops it).
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
from torch import nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from energyest import EnergyCallback
from energyest.measure.sensors import detect
from simulation.ranks import Gpu, budget_of

OPTIONS: dict[str, str] = {}  # of this process
BATCHES = 8


class Net(nn.Module):
    """One layer, whose step takes as long as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        time.sleep(float(OPTIONS.get("step_s", 0.05)))
        out = self.layer(x)
        return {"loss": out.square().mean(), "logits": out}


class Watch(TrainerCallback):
    """Notes what the callback shows at each epoch's end."""

    def __init__(self, callback: EnergyCallback | None) -> None:
        self.callback = callback
        self.epochs: list[list[float]] = []

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        if self.callback is not None:
            self.epochs.append(list(self.callback.trace.column("gpu_energy_J")))


def main(folder: str, *options: str) -> None:
    OPTIONS.update(option.partition("=")[::2] for option in options)
    torch.manual_seed(0)
    arguments = TrainingArguments(
        folder,
        num_train_epochs=int(OPTIONS.get("epochs", 4)),
        per_device_train_batch_size=4,
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        use_cpu=True,
        ddp_backend="gloo",
        disable_tqdm=True,
        report_to=[],
    )
    rank = arguments.process_index
    callback = None
    if OPTIONS.get("monitor") != "no" and OPTIONS.get("without") != str(rank):
        kinds: Any = ("cpu", "ram") if rank == 0 else ()
        sensors = [Gpu(rank), *detect(components=kinds)]
        callback = EnergyCallback(sensors=sensors, **budget_of(OPTIONS))
    data = torch.randn(4 * BATCHES * 2, 4, generator=torch.Generator().manual_seed(1))
    samples = [{"x": x, "labels": 0} for x in data]
    watch = Watch(callback)
    trainer = Trainer(
        Net(),
        arguments,
        train_dataset=samples,
        eval_dataset=samples[:16],
        callbacks=[*([] if callback is None else [callback]), watch],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=OPTIONS.get("resume") == "yes" or None)
    if rank == 0:
        seen: dict[str, Any] = {
            "weights": [p.tolist() for p in trainer.model.parameters()],
            "epochs": watch.epochs,
        }
        if callback is not None:
            projection = callback.projection
            seen["total_J"] = callback.total_J
            seen["projection_J"] = None if projection is None else projection.energy_J
            seen["logged"] = sum("energy/epoch_J" in entry for entry in trainer.state.log_history)
        print("SEEN " + json.dumps(seen), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
