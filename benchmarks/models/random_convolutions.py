"""A network of random convolutions side by side, to time convolutions of many sizes."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor, nn

CHANNELS = (
    *(16, 24, 32, 40, 48, 64, 80, 96, 112, 128, 160, 192, 240, 256, 320, 384),
    *(512, 640, 768, 1024, 1536, 2048),
)
WIDTHS_OF_GROUPS = (2, 4, 8, 16, 24, 32, 48, 64, 128, 256)
SIDES = (7, 8, 14, 16, 20, 28, 32, 40, 56, 64, 80, 112)
# Numbers in an input or output, and FLOPs of a forward pass, at most.
MOST_NUMBERS, MOST_FLOPS = 5e7, 2.5e11


@dataclass(frozen=True)
class Convolution:
    """Sizes of a convolution of square images by square filters; lengths in positions."""

    inputs: int
    outputs: int
    size: int
    stride: int
    groups: int
    side: int

    def fits(self, batch: int) -> bool:
        """Whether it is of a size that occurs in practice."""
        positions = batch * self.side**2
        flops = 2 * positions / self.stride**2 * self.outputs * self.inputs / self.groups
        numbers = positions * max(self.inputs, self.outputs / self.stride**2)
        return numbers <= MOST_NUMBERS and flops * self.size**2 <= MOST_FLOPS


def draw_convolution(chance: random.Random) -> Convolution:
    """Sizes such as networks have: nearly half are grouped or depthwise."""
    kind = chance.choices(("plain", "grouped", "depthwise"), (0.55, 0.3, 0.15))[0]
    side, stride = chance.choice(SIDES), chance.choices((1, 2), (0.8, 0.2))[0]
    inputs = chance.choice(CHANNELS)
    outputs = inputs if chance.random() < 0.4 else chance.choice(CHANNELS)
    if kind == "plain":
        size = chance.choices((1, 3, 5, 7), (0.42, 0.46, 0.08, 0.04))[0]
        return Convolution(inputs, outputs, size, stride, 1, side)
    if kind == "depthwise":
        size = chance.choices((3, 5, 7), (0.6, 0.25, 0.15))[0]
        more = chance.choices((1, 2), (0.9, 0.1))[0]
        return Convolution(inputs, more * inputs, size, stride, inputs, side)
    size = chance.choices((1, 3, 5), (0.15, 0.75, 0.1))[0]
    width, groups = chance.choice(WIDTHS_OF_GROUPS), chance.choice((2, 3, 4, 8, 16, 32, 64))
    more = chance.choices((1, 2), (0.8, 0.2))[0]
    return Convolution(width * groups, more * width * groups, size, stride, groups, side)


class RandomConvolutions(nn.Module):
    """Convolutions side by side, each of an input of its own, which is learnt as well.

    So the gradients of inputs are computed, as in the middle of a network.

    Args:
        seed: of the random sizes.
        number: of convolutions.
        batch: images in a batch.
    """

    def __init__(self, seed: int, number: int, batch: int) -> None:
        super().__init__()
        chance = random.Random(seed)
        sizes: list[Convolution] = []
        while len(sizes) < number:
            one = draw_convolution(chance)
            if one.fits(batch):
                sizes.append(one)
        self.images = nn.ParameterList(
            nn.Parameter(torch.rand(batch, c.inputs, c.side, c.side)) for c in sizes
        )
        self.convolutions = nn.ModuleList(
            nn.Conv2d(
                *(c.inputs, c.outputs, c.size, c.stride, c.size // 2),
                groups=c.groups,
                bias=False,
            )
            for c in sizes
        )

    def forward(self, offsets: Tensor) -> Tensor:
        """A number per image and convolution, of shape (batch, number)."""
        results = []
        for convolution, images in zip(self.convolutions, self.images, strict=True):
            # Its gradient has the layout of the output, so that nothing is rearranged.
            results.append(torch.linalg.vector_norm(convolution(images), dim=(1, 2, 3)))
        return torch.stack(results, 1) + offsets
