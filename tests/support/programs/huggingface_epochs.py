"""Three epochs of the Trainer of Hugging Face with evaluation: python -m ... bar|no-bar."""

import sys
import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

text = torch.arange(12) % 7
data = [{"input_ids": text, "labels": text}] * 16
config = GPT2Config(vocab_size=8, n_embd=8, n_layer=1, n_head=1, n_positions=16)
trainer = Trainer(
    GPT2LMHeadModel(config),
    TrainingArguments(
        tempfile.mkdtemp(),
        num_train_epochs=3,
        per_device_train_batch_size=4,
        eval_strategy="epoch",
        logging_strategy="epoch",
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=sys.argv[1] == "no-bar",
    ),
    train_dataset=data,
    eval_dataset=data,
)
trainer.train()
