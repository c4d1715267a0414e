"""`EnergyCallback` in Hugging Face's Trainer; nothing is downloaded.

The model learns to count: its texts are sequences of consecutive numbers.

python examples/huggingface.py
"""

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from energyest import EnergyCallback

NUMBERS, LENGTH = 50, 24


def texts(number):
    """Samples in the Trainer's format: `input_ids` and `labels` of shape (LENGTH,)."""
    starts = torch.randint(NUMBERS, (number,))
    counted = [(start + torch.arange(LENGTH)) % NUMBERS for start in starts]
    return [{"input_ids": text, "labels": text} for text in counted]


callback = EnergyCallback()
size = {"n_embd": 64, "n_layer": 2, "n_head": 4, "bos_token_id": 0, "eos_token_id": 0}
trainer = Trainer(
    GPT2LMHeadModel(GPT2Config(vocab_size=NUMBERS, n_positions=LENGTH, **size)),
    TrainingArguments(
        "runs/huggingface",
        num_train_epochs=5,
        learning_rate=1e-3,
        eval_strategy="epoch",
        logging_strategy="epoch",
        save_strategy="no",
        report_to=[],  # or "tensorboard", "wandb", ...: the energy goes there, too
        disable_tqdm=True,
    ),
    train_dataset=texts(64),
    eval_dataset=texts(16),
    callbacks=[callback],
)
trainer.train()

columns = ["epoch", "duration_s", "energy_J", "validation_energy_J", "flops", "eval_loss"]
print(callback.trace.epochs[columns].round(3).to_string(index=False))
print(callback.projection)
