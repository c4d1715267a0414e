"""Small trainings by Hugging Face's Trainer, of real models that are made from configurations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import IterableDataset

from energyest import EnergyCallback
from tests.support.sensors import Constant

VOCABULARY, LENGTH, BATCH = 50, 12, 4


def encoder() -> Any:
    """A classifier of sequences."""
    import transformers

    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(config)


def causal_lm() -> Any:
    """A model that continues a text."""
    import transformers

    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=16, n_layer=1, n_head=2, n_positions=32
    )
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(config)


def seq2seq() -> Any:
    """A model that answers a text by another."""
    import transformers

    config = transformers.T5Config(
        vocab_size=VOCABULARY,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        decoder_start_token_id=0,
    )
    torch.manual_seed(0)
    return transformers.T5ForConditionalGeneration(config)


def samples(number: int = 16, *, labels: str = "class") -> list[dict[str, Any]]:
    """Texts; their labels are a class, the text itself, or a shorter text."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for i in range(number):
        text = torch.randint(1, VOCABULARY, (LENGTH,), generator=generator)
        label = {"class": i % 2, "text": text, "answer": text[: LENGTH // 2]}[labels]
        found.append({"input_ids": text, "labels": label})
    return found


class Stream(IterableDataset[Any]):
    """An endless or limited number of texts."""

    def __init__(self, number: int | None = None) -> None:
        self.number = number

    def __iter__(self) -> Iterator[Any]:
        if self.number is not None:
            yield from samples(self.number)
        while self.number is None:
            yield from samples()


def callback_of(folder: Path | None = None, *sensors: Constant, **options: Any) -> EnergyCallback:
    """A callback of devices whose power is known; short trainings need short intervals."""
    return EnergyCallback(folder, sensors=sensors or (Constant(300.0),), interval_s=0.01, **options)


def arguments(folder: Path, **options: Any) -> dict[str, Any]:
    """Of a quiet training on the processor; those given go before them."""
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": BATCH,
        "per_device_eval_batch_size": BATCH,
        "num_train_epochs": 2,
        "logging_strategy": "epoch",
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": [],
        **options,
    }


def make_trainer(
    model: Any, folder: Path, *callbacks: Any, kind: Any = None, **options: Any
) -> Any:
    """A Trainer, by default on eight texts of training and as many of evaluation.

    Args:
        model: what to train.
        folder: for its output.
        callbacks: of the Trainer.
        kind: a class below Trainer.
        options: its `train_dataset`, `eval_dataset`, `compute_metrics` and training arguments.
    """
    import transformers

    names = ("train_dataset", "eval_dataset", "compute_metrics", "optimizers")
    own = {name: options.pop(name) for name in names if name in options}
    is_seq2seq = kind is not None and issubclass(kind, transformers.Seq2SeqTrainer)
    arguments_of = (
        transformers.Seq2SeqTrainingArguments if is_seq2seq else transformers.TrainingArguments
    )
    trainer = (kind or transformers.Trainer)(
        model,
        arguments_of(**arguments(folder, **options)),
        callbacks=list(callbacks),
        **{"train_dataset": samples(), "eval_dataset": samples(8), **own},
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer
