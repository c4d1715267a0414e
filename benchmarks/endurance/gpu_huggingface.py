"""Check `EnergyCallback` on a real NVIDIA GPU, with Hugging Face's own Trainer.

A small GPT-2 is trained in bf16 for some epochs, with evaluation after each, with and without the
callback in turn. Printed:

- the trace's GPU total against NVML's energy counter, which this script reads itself right after
  the callback has begun and right before it ends (must agree within 1 %);
- the sum of the epochs against that total (within 1 %);
- whether every logged loss is the same with and without the callback;
- whether steps, FLOPs and evaluations are in every epoch, and whether there was a projection;
- how much longer its epochs took, after the first, in which the callback watches steps.

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
from statistics import median
from typing import Any

# One GPU: on several, the Trainer copies the model to all of them in one process (DataParallel),
# in threads that nobody watches for FLOPs. To be set before torch looks for GPUs.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")

import torch

try:
    from transformers import PrinterCallback, TrainerCallback
except ImportError:
    print("gpu_huggingface: needs transformers with accelerate")
    sys.exit(2)

from benchmarks.common.gpu_counter import GpuCounter, off, uuid_of_current_gpu
from benchmarks.common.head import gpu_name, print_head

LENGTH, VOCABULARY, BATCH, STEPS = 256, 8192, 32, 40


def texts(number: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(VOCABULARY, (number, LENGTH), generator=generator)
    return [{"input_ids": row, "labels": row} for row in tokens]


class Counted(TrainerCallback):
    """The counter at the beginning and the end of a training, and the durations of its epochs.

    Two of them share the work: the one after the energy callback sees the beginning, and the one
    before it sees the end, so that the callback measures hardly more than they do.
    """

    def __init__(self, counter: GpuCounter) -> None:
        self._counter = counter
        self.energy_J = 0.0
        self.epochs_s: list[float] = []
        self._began_s = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        now_s = time.monotonic()
        self.energy_J = -self._counter.renewed().at(now_s)

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        torch.cuda.synchronize()
        self._began_s = time.monotonic()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        torch.cuda.synchronize()
        self.epochs_s.append(time.monotonic() - self._began_s)

    def ending(self) -> TrainerCallback:
        """The one that sees the end."""
        outer = self

        class Ending(TrainerCallback):
            def on_train_end(self, *_: Any, **__: Any) -> None:
                torch.cuda.synchronize()
                now_s = time.monotonic()
                outer.energy_J += outer._counter.renewed().at(now_s)

        return Ending()


class Training:
    """One training: its losses, the durations of its epochs, and its energy by the counter."""

    def __init__(self, epochs: int, counter: GpuCounter, callback: Any | None) -> None:
        from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

        set_seed(0)
        config = GPT2Config(
            vocab_size=VOCABULARY,
            n_positions=LENGTH,
            n_embd=512,
            n_layer=8,
            n_head=8,
            bos_token_id=0,
            eos_token_id=0,
        )
        counted = Counted(counter)
        own = [] if callback is None else [callback]
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
                callbacks=[counted.ending(), *own, counted],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        self.energy_J, self.epochs_s = counted.energy_J, counted.epochs_s
        self.losses = [
            row[name]
            for row in trainer.state.log_history
            for name in ("loss", "eval_loss")
            if name in row
        ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    if not torch.cuda.is_available() or importlib.util.find_spec("accelerate") is None:
        print("gpu_huggingface: needs an NVIDIA GPU and transformers with accelerate")
        return 2
    from energyest import EnergyCallback

    counter = GpuCounter(uuid_of_current_gpu())
    print_head(__file__, "torch", "transformers", "accelerate", device=gpu_name())
    Training(1, counter, None)  # kernels are chosen, caches filled
    met, slower = True, []
    for _ in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as folder:
            callback = EnergyCallback(f"{folder}/energy", components=["gpu"])
            watched = Training(arguments.epochs, counter, callback)
            trace = callback.trace
        bare = Training(arguments.epochs, counter, None)
        epochs = trace.epochs
        total_J, epochs_J = trace.total_J, float(epochs["energy_J"].sum(skipna=False))
        slower.append(off(median(watched.epochs_s[1:]), median(bare.epochs_s[1:])))
        print(epochs[["duration_s", "energy_J", "validation_energy_J", "steps", "flops"]].round(4))
        same = watched.losses == bare.losses
        has_all = bool(
            (epochs["steps"] == STEPS).all()
            and (epochs["validation_energy_J"] > 0).all()
            and (epochs["flops"] > 0).all()
            and trace.meta.get("first_projection")
        )
        print(
            f"total {total_J:.1f} J, {off(total_J, watched.energy_J):+.2f} % off the counter; "
            f"epochs {epochs_J:.1f} J; losses are {'the same' if same else 'NOT the same'}; "
            f"rows are {'whole' if has_all else 'NOT whole'}; epochs take {slower[-1]:+.1f} %",
            flush=True,
        )
        met &= same and has_all
        met &= abs(off(total_J, watched.energy_J)) < 1 and abs(off(epochs_J, total_J)) < 1
    print("met" if met else "MISSED")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
