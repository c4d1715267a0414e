"""Attention that only a GPU's kernels compute in one operation, or that a backend is forced for."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right

from energyest.profiling.describe import describe_workload
from energyest.records.workload import Operation, Workload

HEADS, LENGTH, WIDTH = 2, 7, 8
X = torch.randn(3, LENGTH, HEADS * WIDTH)
PAIRS = 2 * 3 * HEADS * LENGTH**2  # FLOPs for each number of width


class Attends(nn.Module):
    """Attention between the positions of a sequence.

    Args:
        attend: takes queries, keys, values and a learned bias.
    """

    def __init__(self, attend: Callable[..., Tensor]) -> None:
        super().__init__()
        self.qkv, self.attend = nn.Linear(HEADS * WIDTH, 3 * HEADS * WIDTH), attend
        self.bias = nn.Parameter(torch.zeros(HEADS, LENGTH, LENGTH))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3, HEADS, WIDTH)).permute(2, 0, 3, 1, 4)
        return self.attend(query, key, value, self.bias).sin()


def described(attend: Callable[..., Any], precision: str = "fp32") -> Workload:
    return describe_workload(Attends(attend), X, precision=precision)


def attention(workload: Workload, phase: str) -> Operation:
    assert not any("softmax" in o.name for o in workload.operations)
    assert not workload.notes
    (found,) = (o for o in workload.operations if "attention" in o.name and o.phase == phase)
    return found


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_values_of_another_width(causal: bool, precision: str) -> None:
    def attend(query: Tensor, key: Tensor, value: Tensor, _: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(
            query, key, value[..., : WIDTH // 2], is_causal=causal
        )

    workload = described(attend, precision)
    part = 0.5 if causal else 1.0
    assert attention(workload, "forward").flops == part * PAIRS * (WIDTH + WIDTH // 2)
    assert attention(workload, "backward").flops == part * PAIRS * (3 * WIDTH + 2 * WIDTH // 2)
    layer = 2 * LENGTH * 3 * (HEADS * WIDTH) ** 2
    assert workload.forward_flops_per_sample == layer + PAIRS / 3 * 1.5 * WIDTH


def test_a_learned_bias_is_read_and_its_gradient_written() -> None:
    def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(query, key, value, bias)

    def plain(query: Tensor, key: Tensor, value: Tensor, _: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(query, key, value)

    with_bias, without = described(attend), described(plain)
    forward, backward = attention(with_bias, "forward"), attention(with_bias, "backward")
    assert forward.flops == attention(without, "forward").flops == 2 * PAIRS * WIDTH
    assert backward.flops == attention(without, "backward").flops == 5 * PAIRS * WIDTH
    bias = 4 * HEADS * LENGTH**2
    assert forward.bytes == attention(without, "forward").bytes + bias
    # The kernel writes a gradient for each sample.
    assert backward.bytes == attention(without, "backward").bytes + bias + 3 * bias


FORCED: dict[str, Any] = {
    "efficient": lambda: sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION),
    "cudnn": lambda: sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION]),
    "no plain products": lambda: torch.backends.cuda.sdp_kernel(enable_math=False),
}


@pytest.mark.parametrize("name", FORCED)
def test_backends_that_only_a_gpu_has(name: str) -> None:
    def attend(query: Tensor, key: Tensor, value: Tensor, _: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with FORCED[name]():
                return functional.scaled_dot_product_attention(query, key, value)

    assert attention(described(attend), "forward").flops == 2 * PAIRS * WIDTH


def test_plain_products_if_they_are_forced() -> None:
    def attend(query: Tensor, key: Tensor, value: Tensor, _: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return functional.scaled_dot_product_attention(query, key, value)

    assert not any("attention" in o.name for o in described(attend).operations)


def test_a_causal_bias() -> None:
    def attend(query: Tensor, key: Tensor, value: Tensor, _: Tensor) -> Tensor:
        mask = causal_lower_right(LENGTH, LENGTH)
        return functional.scaled_dot_product_attention(query, key, value, mask)

    for _ in range(2):
        assert attention(described(attend), "forward").flops == PAIRS * WIDTH
    assert causal_lower_right(3, 5).seq_len_kv == 5  # as before
