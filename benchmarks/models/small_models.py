"""Small networks whose steps last a few milliseconds, as people train on tables, graphs and texts.

The CPU decides how long their steps last.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from benchmarks.models.library_models import CLASSES

# Columns of the recommender: categories, and numbers of known range.
CATEGORIES, NUMBERS = 20, 13
ENTRIES = 10_000  # of each embedding table
FEATURES = 64  # of a node of a graph, or of a row of a table
EDGES_OF_NODE = 8
WORDS = 8192
SIDE = 32  # of the images of `LeNet`


class LeNet(nn.Module):
    """Convolutions and pooling for tiny images, then dense layers."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        inputs = 3
        for index in range(layers):
            outputs = width * 2**index
            parts += [nn.Conv2d(inputs, outputs, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
            inputs = outputs
        self.features = nn.Sequential(*parts, nn.Flatten())
        self.head = nn.Sequential(
            nn.Linear(inputs * (SIDE >> layers) ** 2, 120),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(120, CLASSES),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


class _ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm1d(width),
            nn.Linear(width, 2 * width),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(2 * width, width),
            nn.Dropout(0.1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class TabularResNet(nn.Module):
    """Residual dense layers for rows of a table (Gorishniy et al., arXiv 2106.11959)."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        blocks = (_ResidualBlock(width) for _ in range(layers))
        self.layers = nn.Sequential(nn.Linear(FEATURES, width), *blocks)
        self.head = nn.Sequential(nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, CLASSES))

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(self.layers(rows))


class Recommender(nn.Module):
    """Embeddings of categories and their products, in pairs (Naumov et al., arXiv 1906.00091)."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(ENTRIES, width) for _ in range(CATEGORIES))
        self.bottom = nn.Sequential(nn.Linear(NUMBERS, width), nn.ReLU(), nn.Linear(width, width))
        self.register_buffer("pairs", torch.triu_indices(CATEGORIES + 1, CATEGORIES + 1, 1))
        sizes = [self.pairs.shape[1] + width, *[4 * width] * layers]
        hidden = [part for pair in pairwise(sizes) for part in (nn.Linear(*pair), nn.ReLU())]
        self.top = nn.Sequential(*hidden, nn.Linear(sizes[-1], CLASSES))

    def forward(self, columns: Tensor) -> Tensor:
        dense = self.bottom(columns[:, :NUMBERS])
        indices = columns[:, NUMBERS:].long()
        found = [table(indices[:, i]) for i, table in enumerate(self.tables)]
        vectors = torch.stack([dense, *found], 1)
        products = vectors @ vectors.transpose(1, 2)
        return self.top(torch.cat([dense, products[:, self.pairs[0], self.pairs[1]]], 1))


class GraphNetwork(nn.Module):
    """Sums over the neighbours of each node of a random graph (Kipf, Welling, arXiv 1609.02907)."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        sizes = [FEATURES, *[width] * layers]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, nodes: Tensor) -> Tensor:
        # Every node has edges from the nodes at fixed distances: a graph without a file.
        number = nodes.shape[0]
        targets = torch.arange(number, device=nodes.device).repeat(EDGES_OF_NODE)
        steps = torch.arange(1, EDGES_OF_NODE + 1, device=nodes.device).repeat_interleave(number)
        sources = (targets + 97 * steps) % number
        for layer in self.layers:
            nodes = layer(nodes)
            summed = torch.zeros_like(nodes).index_add(0, targets, nodes[sources])
            nodes = torch.relu(summed / EDGES_OF_NODE)
        return self.head(nodes)


class TextCnn(nn.Module):
    """Convolutions of several lengths over words (Kim, arXiv 1408.5882)."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, width)
        self.convolutions = nn.ModuleList(nn.Conv1d(width, 100, 2 + i) for i in range(layers))
        self.head = nn.Sequential(nn.Dropout(), nn.Linear(100 * layers, CLASSES))

    def forward(self, tokens: Tensor) -> Tensor:
        words = self.embedding(tokens).transpose(1, 2)
        found = [torch.relu(layer(words)).amax(2) for layer in self.convolutions]
        return self.head(torch.cat(found, 1))


SMALL_MODELS = {
    "lenet": LeNet,
    "tabular": TabularResNet,
    "recommender": Recommender,
    "graph": GraphNetwork,
    "textcnn": TextCnn,
}


def small_batch(kind: str, batch: int, size: int) -> Tensor:
    """A random batch of inputs for one of `SMALL_MODELS`; `size` as in `Setting`."""
    if kind == "lenet":
        return torch.rand(batch, 3, SIDE, SIDE, device="cpu")
    if kind == "textcnn":
        return torch.randint(WORDS, (batch, size), device="cpu")
    if kind == "recommender":
        categories = torch.randint(ENTRIES, (batch, CATEGORIES), device="cpu")
        return torch.cat([torch.rand(batch, NUMBERS, device="cpu"), categories], 1)
    return torch.rand(batch, FEATURES, device="cpu")
