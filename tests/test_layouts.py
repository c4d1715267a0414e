"""Memory layouts: of a workload, and of operations on images that differ from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from energyest import describe_workload
from energyest.errors import WorkloadError
from energyest.estimators.pre.physics.convolutions import is_channels_last, is_native
from energyest.estimators.pre.physics.operation_table import OperationTable
from energyest.estimators.pre.physics.roofline import operation_times
from energyest.records.workload import Workload
from tests.support.roofline_runs import GUESS, H100

LAST = torch.channels_last
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
