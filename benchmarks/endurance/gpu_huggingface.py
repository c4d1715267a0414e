"""Check `EnergyCallback` on a real NVIDIA GPU, with Hugging Face's own Trainer.

A small GPT-2 is trained in bf16 for some epochs, with evaluation after each, with and without the
callback in turn. Printed:

- the trace's GPU total against NVML's energy counter, which this script reads itself before and
  after the training (must agree within 2 %: this begins a little earlier and ends a little later);
- the sum of the epochs against that total (within 1 %);
- whether every logged loss is the same with and without the callback;
- whether steps, FLOPs and evaluations are in every epoch, and whether there was a projection;
- how much longer the training took.

Exits with 1 if one of these, except the last, fails; with 2 without a GPU or transformers.

    python -m benchmarks.endurance.gpu_huggingface [--epochs 5] [--repeats 2]
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
import time
from typing import Any

# One GPU: on several, the Trainer copies the model to all of them in one process (DataParallel),
# in threads that nobody watches for FLOPs. To be set before torch looks for GPUs.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")

import numpy as np
import pynvml
import torch

from benchmarks.common.head import print_head

LENGTH, VOCABULARY, BATCH, STEPS = 256, 8192, 32, 40


def texts(number: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(VOCABULARY, (number, LENGTH), generator=generator)
    return [{"input_ids": row, "labels": row} for row in tokens]


class Training:
    """One training: its losses, duration, and energy by the counter."""

    def __init__(self, epochs: int, callback: Any | None) -> None:
        from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

        set_seed(0)
        config = GPT2Config(
            vocab_size=VOCABULARY, n_positions=LENGTH, n_embd=512, n_layer=8, n_head=8
        )
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                folder,
                num_train_epochs=epochs,
                per_device_train_batch_size=BATCH,
                per_device_eval_batch_size=BATCH,
                bf16=True,
                eval_strategy="epoch",
                logging_steps=5,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
            )
            trainer = Trainer(
                GPT2LMHeadModel(config),
                arguments,
                train_dataset=texts(BATCH * STEPS),
                eval_dataset=texts(BATCH * 4),
                callbacks=[] if callback is None else [callback],
            )
            before_J, began_s = counter_J(), time.perf_counter()
            trainer.train()
            torch.cuda.synchronize()
            self.duration_s = time.perf_counter() - began_s
            self.counter_J = counter_J() - before_J
            self.losses = [
                row[name]
                for row in trainer.state.log_history
                for name in ("loss", "eval_loss")
                if name in row
            ]


def counter_J() -> float:
    """NVML's counter, right after an update."""
    uuid = torch.cuda.get_device_properties(0).uuid
    handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    first = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    while True:
        now = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        if now != first:
            return float(now) / 1e3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    if not torch.cuda.is_available() or importlib.util.find_spec("transformers") is None:
        print("gpu_huggingface: needs an NVIDIA GPU and transformers with accelerate")
        return 2
    from energyest import EnergyCallback

    pynvml.nvmlInit()
    print_head(__file__, "torch", "transformers", "accelerate")
    Training(1, None)  # kernels are chosen, caches filled
    met, slower = True, []
    for _ in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as folder:
            callback = EnergyCallback(f"{folder}/energy", components=["gpu"])
            watched, bare = Training(arguments.epochs, callback), Training(arguments.epochs, None)
            trace = callback.trace
            epochs = trace.epochs
            total_J, epochs_J = trace.total_J, float(epochs["energy_J"].sum(skipna=False))
        slower.append(100 * (watched.duration_s / bare.duration_s - 1))
        print(epochs[["duration_s", "energy_J", "validation_energy_J", "steps", "flops"]].round(4))
        same = watched.losses == bare.losses
        has_all = bool(
            (epochs["steps"] == STEPS).all()
            and (epochs["validation_energy_J"] > 0).all()
            and (epochs["flops"] > 0).all()
            and trace.meta.get("first_projection")
        )
        print(
            f"total {total_J:.1f} J, counter {watched.counter_J:.1f} J, epochs {epochs_J:.1f} J; "
            f"losses are {'the same' if same else 'NOT the same'}; "
            f"rows are {'whole' if has_all else 'NOT whole'}; {slower[-1]:+.1f} % of time",
            flush=True,
        )
        met &= same and has_all
        met &= abs(total_J / watched.counter_J - 1) < 0.02 and abs(epochs_J / total_J - 1) < 0.01
    print(f"time with the callback: {np.mean(slower):+.1f} % in the mean")
    print("met" if met else "MISSED")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
