"""Real Hugging Face models under the monitor (extra `transformers`)."""

from __future__ import annotations

import pytest
import torch

from energyest.profiling.describe import count_flops

transformers = pytest.importorskip("transformers")


def test_flops_of_a_bert_batch() -> None:
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
    )
    model = transformers.BertForSequenceClassification(config)
    batch = {
        "input_ids": torch.ones(4, 16, dtype=torch.long),
        "attention_mask": torch.ones(4, 16, dtype=torch.long),
        "labels": torch.zeros(4, dtype=torch.long),
    }
    count = count_flops(model, batch)
    # Per layer and token: four projections of 32 × 32, two of 32 × 64, attention over 16 tokens.
    per_token = 2 * 2 * (4 * 32 * 32 + 2 * 32 * 64 + 2 * 16 * 32)
    assert count.per_sample == pytest.approx(16 * per_token, rel=0.1), count.note
