"""Train a small language model with Hugging Face's Trainer under `EnergyCallback`, offline.

The model learns to count: its texts are sequences of consecutive numbers.

    python examples/huggingface.py [--epochs 5] [--texts 512] [--folder energyest-huggingface]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from energyest import EnergyCallback, EnergyTrace
from energyest.display import format_energy

NUMBERS, LENGTH = 50, 24


class PrintProjection(TrainerCallback):
    """Prints the projected energy at the beginning of each epoch."""

    def __init__(self, callback: EnergyCallback) -> None:
        self.callback = callback

    def on_epoch_begin(self, args: object, state: object, control: object, **_: object) -> None:
        """Print the projection, once there is one."""
        if self.callback.projection is not None:
            print(f"After {len(self.callback.trace)} epochs: {self.callback.projection}")


def texts(number: int) -> list[dict[str, torch.Tensor]]:
    """Samples in the Trainer's format: `input_ids` and `labels` of shape (LENGTH,)."""
    starts = torch.randint(NUMBERS, (number,), generator=torch.Generator().manual_seed(0))
    counted = [(start + torch.arange(LENGTH)) % NUMBERS for start in starts]
    return [{"input_ids": text, "labels": text} for text in counted]


def main(arguments: Sequence[str] | None = None) -> EnergyTrace:
    """Train the model, print a report, and return the trace."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--folder", type=Path, default=Path("energyest-huggingface"))
    given = parser.parse_args(arguments)

    config = GPT2Config(vocab_size=NUMBERS, n_positions=LENGTH, n_embd=64, n_layer=2, n_head=4)
    callback = EnergyCallback()
    trainer = Trainer(
        GPT2LMHeadModel(config),
        TrainingArguments(
            str(given.folder),
            num_train_epochs=given.epochs,
            per_device_train_batch_size=16,
            learning_rate=1e-3,
            eval_strategy="epoch",
            logging_strategy="epoch",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        ),
        train_dataset=texts(given.texts),
        eval_dataset=texts(64),
        callbacks=[callback, PrintProjection(callback)],
    )
    trainer.train()

    trace = callback.trace
    columns = ["epoch", "duration_s", "energy_J", "validation_energy_J", "flops", "eval_loss"]
    print(trace.epochs[columns].to_string(index=False))
    print(f"{format_energy(trace.total_J)} in all; the trace is in {callback.folder}")
    return trace


if __name__ == "__main__":
    main()
