"""BERT that marks where in a text of 384 tokens an answer starts and ends (SQuAD)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from energyest.profiling.describe import describe_workload
from energyest.records.workload import Workload

TOKENS = 384


class BertAnswers(nn.Module):
    """A network from transformers with random weights.

    Args:
        is_large: BERT large instead of base.
        settings: further ones of `transformers.BertConfig`.
    """

    def __init__(self, *, is_large: bool = False, **settings: Any) -> None:
        super().__init__()
        from transformers import BertConfig, BertForQuestionAnswering

        large = {
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
        }
        config = BertConfig(**(large if is_large else {}), **settings)
        self.net = BertForQuestionAnswering(config)

    def forward(self, tokens: Tensor) -> Tensor:
        output = self.net(input_ids=tokens, attention_mask=torch.ones_like(tokens))
        return torch.stack([output.start_logits, output.end_logits], 1)


def described(network: nn.Module, batch_size: int, optimizer: str, **settings: Any) -> Workload:
    """The workload of a step on texts without padding."""
    with torch.device("meta"):
        tokens = torch.empty(batch_size, TOKENS, dtype=torch.long)
        ends = torch.empty(batch_size, 2, dtype=torch.long)
    return describe_workload(
        network, (tokens, ends), optimizer=optimizer, loss=_loss_of_answers, **settings
    )


def _loss_of_answers(output: Tensor, target: Tensor) -> Tensor:
    return cross_entropy(output.flatten(0, 1).float(), target.flatten())
