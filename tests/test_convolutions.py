"""Convolutions in detail: the memory layout of each, and kernels for their biases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from energyest import describe_workload
from energyest.errors import WorkloadError
from energyest.estimators.pre.physics.arithmetic import MOST_SHARE, at_most
from energyest.estimators.pre.physics.convolutions import (
    bytes_of_bias,
    is_channels_last,
    is_native,
)
from energyest.estimators.pre.physics.operation_table import OperationTable
from energyest.estimators.pre.physics.roofline import operation_times
from energyest.profiling.execution import layout_of_images
from energyest.records.workload import Operation, Workload
from tests.support.roofline_runs import GUESS, H100
from tests.support.roofline_runs import workload as workload_of

LAST, PLAIN = torch.channels_last, torch.contiguous_format
ON_IMAGES = ("convolution", "batch_norm", "pool2d")


class FromTokens(nn.Module):
    """A block as of ConvNeXt, whose normalisation has the channels in the last dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 32, 4, stride=4), nn.LayerNorm(32)
        self.depthwise = nn.Conv2d(32, 32, 7, padding=3, groups=32)
        self.head = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.norm(self.stem(images).permute(0, 2, 3, 1))
        images = self.depthwise(tokens.permute(0, 3, 1, 2))
        return self.head(images.mean((2, 3)))


class Shuffled(nn.Module):
    """Channels are shuffled as in ShuffleNet, which makes images contiguous again."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.second, self.pool = nn.Conv2d(16, 16, 1), nn.MaxPool2d(2)

    def forward(self, images: Tensor) -> Tensor:
        made = self.first(images).unflatten(1, (2, 8)).transpose(1, 2).flatten(1, 2)
        return self.pool(self.second(self.norm(made.contiguous()))).mean((2, 3))


def images(size: int = 8, side: int = 32) -> Tensor:
    return torch.empty(size, 3, side, side, device="meta")


def described(make: Callable[[], nn.Module], batch: Tensor, form: torch.memory_format) -> Workload:
    with torch.device("meta"):
        model = make().to(memory_format=form)
    labels = torch.empty(len(batch), dtype=torch.long, device="meta")
    return describe_workload(model, (batch.to(memory_format=form), labels), precision="bf16")


def layouts(workload: Workload) -> dict[tuple[str, bool], set[str]]:
    """The layouts of operations on images, by name and whether they are grouped."""
    found: dict[tuple[str, bool], set[str]] = {}
    for o in workload.operations:
        if any(part in o.name for part in ON_IMAGES):
            is_grouped = o.groups > 1 and "convolution" in o.name
            found.setdefault((o.name, is_grouped), set()).add(o.layout)
    return found


def test_images_made_from_tokens_are_channels_last() -> None:
    found = layouts(described(FromTokens, images(), torch.contiguous_format))
    assert found == {
        ("convolution", False): {""},
        ("convolution", True): {"channels_last"},
        ("convolution_backward", False): {""},
        ("convolution_backward", True): {"channels_last"},
    }
    assert set().union(*layouts(described(FromTokens, images(), LAST)).values()) == {""}


def test_what_is_rearranged_is_contiguous_until_weights_are_channels_last() -> None:
    """As on a GPU, where a convolution is channels-last if its weights are."""
    found = layouts(described(Shuffled, images(), LAST))
    assert found["native_batch_norm", False] == {"contiguous"}
    assert found["native_batch_norm_backward", False] == {"contiguous"}
    assert found["convolution", False] == found["convolution_backward", False] == {""}
    assert found["max_pool2d_with_indices", False] == {""}
    assert found["max_pool2d_with_indices_backward", False] == {""}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("size", [2, 512])
def test_a_layout_does_not_depend_on_what_a_cpu_would_do(size: int, precision: str) -> None:
    """From some size on, torch's convolutions on a CPU return contiguous images."""
    layers = [nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU()]
    model = nn.Sequential(*layers, nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    labels = torch.empty(size, dtype=torch.long, device="meta")
    for weights, batch in (
        (LAST, images(size, 64)),
        (torch.contiguous_format, images(size, 64).to(memory_format=LAST)),
    ):
        found = describe_workload(
            model.to(memory_format=weights), (batch, labels), precision=precision
        )
        assert found.layout == "channels_last"
        assert set().union(*layouts(found).values()) == {""}


def test_who_takes_the_gradient_of_the_output_first() -> None:
    last, other = (torch.empty(2, 4, 8, 8).to(memory_format=form) for form in (LAST, PLAIN))
    name = "native_batch_norm_backward"
    assert layout_of_images(name, [other, last]) == "channels_last"
    assert layout_of_images(name, [last, other], is_gradient_first=False) == "channels_last"
    assert layout_of_images("convolution_backward", [last, other, other]) == "contiguous"
    assert layout_of_images("convolution_backward", [other, other, last]) == "channels_last"
    assert layout_of_images("add", [last]) == layout_of_images("max_pool2d", []) == ""


def test_the_operations_layout_precedes_that_of_the_workload() -> None:
    contiguous = described(FromTokens, images(), torch.contiguous_format)
    last = described(FromTokens, images(), LAST)
    filters = [
        [o for o in workload.operations if o.name == "convolution" and o.groups > 1]
        for workload in (contiguous, last)
    ]
    assert is_channels_last(filters[0][0], contiguous)
    assert not is_native(filters[0][0], contiguous)
    inside, outside, plain = (
        operation_times(OperationTable([(replace(w, operations=tuple(o)), H100)]), GUESS)
        for w, o in (
            (contiguous, filters[0]),
            (last, filters[1]),
            (contiguous, filters[1]),
        )
    )
    assert inside == pytest.approx(outside)
    assert inside != pytest.approx(plain, rel=0.1)
    # A user who asks what the other layout would change gets an answer.
    assert is_channels_last(contiguous.operations[0], replace(contiguous, layout="channels_last"))


def test_earlier_files_have_no_layouts_and_wrong_ones_are_refused() -> None:
    workload = described(FromTokens, images(), torch.contiguous_format)
    content = workload.to_dict()
    assert Workload.from_dict(content) == workload
    del content["operations"]["layout"]
    assert {o.layout for o in Workload.from_dict(content).operations} == {""}
    operations = tuple(replace(o, layout="nhwc") for o in workload.operations)
    with pytest.raises(WorkloadError, match=r"layout='nhwc' must be one of contiguous, channels_"):
        replace(workload, operations=operations)


# ------------------------------------------------------------------ biases of convolutions


def test_biases_are_seen_in_both_passes() -> None:
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, bias=False), nn.Flatten()]
    model = nn.Sequential(*layers)
    batch = (torch.empty(4, 3, 16, 16), torch.zeros(4, dtype=torch.long))
    found = describe_workload(model, batch)
    assert biases(found) == {("forward", 3): True, ("forward", 8): False} | {
        ("backward", 3): True,
        ("backward", 8): False,
    }
    layers[0].requires_grad_(False)
    layers[2].bias = nn.Parameter(torch.zeros(8), requires_grad=False)
    frozen = biases(describe_workload(model, batch))
    assert frozen == {("forward", 3): True, ("forward", 8): True, ("backward", 8): False}


def biases(workload: Workload) -> dict[tuple[str, int], bool]:
    """By phase and channels of the input."""
    found = [o for o in workload.operations if "convolution" in o.name]
    return {(o.phase, o.depth // 9): o.bias for o in found}


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_bias_costs_two_more_passes_over_the_output(layout: str, precision: str) -> None:
    flops = 2.0 * 10**6 * 64 * 576
    convolution = Operation("forward", "convolution", 1, flops, 4e8, 10**6, 64, 576, bias=True)
    # Of the input and of the weights: two products, and one sum.
    gradient = replace(convolution, phase="backward", name="convolution_backward", flops=2 * flops)
    output = 10**6 * 64 * (4 if precision == "fp32" else 2)
    for operation, passes, share in (
        (convolution, 2, GUESS["bandwidth_other"]),
        (gradient, 1, GUESS["bandwidth_sum"]),
    ):
        of_half = 0.9 if precision != "fp32" else 1.0
        step = replace(workload_of(operation), precision=precision, layout=layout)
        plain = replace(step, operations=(replace(operation, bias=False),))
        with_bias, without = (
            operation_times(OperationTable([(w, H100)]), GUESS)[0] for w in (step, plain)
        )
        reached = at_most(np.array(of_half * share), MOST_SHARE) * H100.bandwidth_bytes_per_s
        assert with_bias - without == pytest.approx(passes * output / reached, rel=0.06)


def test_who_adds_a_bias_without_a_kernel_of_its_own() -> None:
    """torch's own depthwise kernel does, and compiled code."""
    one = Operation("forward", "convolution", 1, 2e9, 4e8, 10**6, 1, 9, groups=64, bias=True)
    step = workload_of(one)
    assert bytes_of_bias(one, step) == 0
    assert bytes_of_bias(one, replace(step, layout="channels_last")) == 2 * 10**6 * 64 * 4
    assert bytes_of_bias(one, replace(step, layout="channels_last", compiled=True)) == 0
    gradient = replace(one, phase="backward", name="convolution_backward")
    assert bytes_of_bias(gradient, step) == 10**6 * 64 * 4
