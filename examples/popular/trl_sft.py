"""Supervised fine-tuning by TRL: one callback more.

A small GPT-2, made from a configuration, learns to count; nothing is downloaded.
Lines that end in `# +` are all that measuring adds.

python examples/popular/trl_sft.py [--epochs 2] [--output out-trl]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from energyest import EnergyCallback  # +

NUMBERS, LENGTH = 50, 16


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Of words that are numbers."""
    words = {"<pad>": 0, "<eos>": 1, **{str(i): i + 2 for i in range(NUMBERS)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def make_texts(number: int) -> Dataset:
    """Texts that count upwards."""
    starts = [i % (NUMBERS - LENGTH) for i in range(number)]
    texts = [" ".join(str(start + i) for i in range(LENGTH - 1)) for start in starts]
    return Dataset.from_dict({"text": texts})


def main(arguments: Sequence[str] | None = None) -> None:
    """Fine-tune."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("out-trl"))
    options = parser.parse_args(arguments)

    config = GPT2Config(
        vocab_size=NUMBERS + 2,
        n_positions=32,
        n_embd=32,
        n_layer=2,
        n_head=2,
        bos_token_id=1,
        eos_token_id=1,
    )
    energy = EnergyCallback(options.output / "energy")  # +
    trainer = SFTTrainer(
        GPT2LMHeadModel(config),
        args=SFTConfig(
            str(options.output),
            num_train_epochs=options.epochs,
            per_device_train_batch_size=8,
            learning_rate=1e-2,
            max_length=LENGTH,
            eval_strategy="epoch",
            logging_strategy="epoch",
            save_strategy="no",
            report_to=[],
            bf16=False,
        ),
        train_dataset=make_texts(64),
        eval_dataset=make_texts(16),
        processing_class=make_tokenizer(),
        callbacks=[energy],  # +
    )
    trainer.train()


if __name__ == "__main__":
    main()
