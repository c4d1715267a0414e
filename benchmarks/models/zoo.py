"""Models to measure, by the names of `benchmarks.models.settings`."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.models.library_models import CLASSES, LIBRARY_MODELS, SEES, Library
from benchmarks.models.random_convolutions import RandomConvolutions
from benchmarks.models.settings import VOCABULARY, Setting
from benchmarks.models.small_models import SMALL_MODELS, small_batch


def build(setting: Setting) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The model, on the default device, and a random batch of inputs and targets, on the CPU.

    Raises:
        ValueError: the name is unknown.
    """
    model, batch = _built(setting)
    if setting.half_weights:
        model = model.to(torch.bfloat16)
        batch = tuple(t.to(torch.bfloat16) if t.is_floating_point() else t for t in batch)
    return model, batch


def _built(setting: Setting) -> tuple[nn.Module, tuple[Tensor, ...]]:
    family, _, name = setting.model.partition("/")
    batch, size = setting.batch_size, setting.size
    labels = torch.randint(CLASSES, (batch,), device="cpu")
    if family in ("torchvision", "timm"):
        make = _vision if family == "torchvision" else _timm
        images, kept = torch.rand(batch, 3, size, size, device="cpu"), torch.contiguous_format
        if setting.layout == "nhwc":
            kept = torch.channels_last
        return make(name).to(memory_format=kept), (images.to(memory_format=kept), labels)
    match = re.fullmatch(r"(\w+)-d(\d+)-l(\d+)", name)
    if match is None:
        raise ValueError(f"{setting.model}: unknown model")
    kind, width, layers = match[1], int(match[2]), int(match[3])
    if family == "transformers":
        tokens = torch.randint(30522, (batch, size), device="cpu")
        if kind in LIBRARY_MODELS:
            sees = kind in SEES
            inputs = torch.rand(batch, 3, size, size, device="cpu") if sees else tokens
            return Library(kind, width, layers), (inputs, labels if sees else tokens)
        return _HuggingFace(kind, width, layers), (tokens, labels % 2)
    if kind == "convolutions":
        model: nn.Module = RandomConvolutions(width, layers, batch)
        inputs = torch.rand(batch, layers, device="cpu"), labels % layers
    else:
        model = (_OWN | SMALL_MODELS)[kind](width, layers)
        inputs = _own_batch(kind, width, batch, size)
    if setting.layout == "nhwc":
        model = model.to(memory_format=torch.channels_last)
        if inputs[0].ndim == 4:
            inputs = (inputs[0].to(memory_format=torch.channels_last), inputs[1])
    return model, inputs


def _own_batch(kind: str, width: int, batch: int, size: int) -> tuple[Tensor, Tensor]:
    labels = torch.randint(CLASSES, (batch,), device="cpu")
    if kind in SMALL_MODELS:
        return small_batch(kind, batch, size), labels
    tokens = torch.randint(VOCABULARY, (batch, size), device="cpu")
    if kind == "mlp":
        return torch.rand(batch, width, device="cpu"), labels
    if kind == "unet":
        targets = torch.randint(10, (batch, size, size), device="cpu")
        return torch.rand(batch, 3, size, size, device="cpu"), targets
    if kind == "conv1d":
        return torch.rand(batch, 8, size, device="cpu"), labels
    return tokens, tokens if kind == "gpt" else labels


def loss_of(output: Any, target: Tensor) -> Tensor:
    """Cross-entropy over the classes of images, sequences, tokens or pixels."""
    if hasattr(output, "logits"):
        output = output.logits
    if output.ndim == 3:  # tokens: (batch, length, classes)
        return cross_entropy(output.flatten(0, 1), target.flatten())
    return cross_entropy(output, target)


def optimizer_of(name: str, model: nn.Module) -> torch.optim.Optimizer:
    """A torch optimizer by its name in a setting."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizers = torch.optim
    if name == "sgd_momentum":
        return optimizers.SGD(parameters, lr=1e-4, momentum=0.9)
    kinds = {
        "sgd": optimizers.SGD,
        "adam": optimizers.Adam,
        "adamw": optimizers.AdamW,
        "adadelta": optimizers.Adadelta,
        "rmsprop": optimizers.RMSprop,
    }
    return kinds[name](parameters, lr=1e-4)


# ------------------------------------------------------------------ models


def _vision(name: str) -> nn.Module:
    if importlib.util.find_spec("torchvision") is None:
        raise ValueError("torchvision is not installed")
    from torchvision import models

    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": False}
    return models.get_model(name, num_classes=CLASSES, **options)


class _HuggingFace(nn.Module):
    """A network from transformers with random weights and a head of two classes."""

    def __init__(self, kind: str, width: int, layers: int) -> None:
        super().__init__()
        import transformers as hf

        heads = width // 64
        if kind == "bert":
            config = hf.BertConfig(
                hidden_size=width,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                intermediate_size=4 * width,
            )
            self.net = hf.BertForSequenceClassification(config)
        elif kind == "distilbert":
            config = hf.DistilBertConfig(
                dim=width, n_layers=layers, n_heads=heads, hidden_dim=4 * width
            )
            self.net = hf.DistilBertForSequenceClassification(config)
        else:
            config = hf.GPT2Config(
                n_embd=width,
                n_layer=layers,
                n_head=heads,
                vocab_size=30522,
                pad_token_id=0,
                bos_token_id=0,
                eos_token_id=0,
            )
            self.net = hf.GPT2ForSequenceClassification(config)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.net(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits


def _timm(name: str) -> nn.Module:
    if importlib.util.find_spec("timm") is None:
        raise ValueError("timm is not installed")
    import timm

    model: nn.Module = timm.create_model(name, num_classes=CLASSES)
    return model


class Encoder(nn.Module):
    """A transformer that classifies sequences."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        layer = nn.TransformerEncoderLayer(width, width // 64, 4 * width, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, layers)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layers(self.embedding(tokens)).mean(1))


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // 64
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class Decoder(nn.Module):
    """A causal transformer that predicts each next token."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.blocks = nn.Sequential(*(_Block(width) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embedding(tokens))))


class Recurrent(nn.Module):
    """An LSTM or GRU that classifies sequences."""

    def __init__(self, kind: str, width: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        make = nn.LSTM if kind == "lstm" else nn.GRU
        self.layers = make(width, width, layers, batch_first=True)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layers(self.embedding(tokens))[0][:, -1])


def mlp(width: int, layers: int) -> nn.Module:
    """Layers of one width."""
    hidden = [part for _ in range(layers) for part in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(width, CLASSES))


def conv1d(width: int, layers: int) -> nn.Module:
    """A network for signals of 8 channels."""
    parts: list[nn.Module] = [nn.Conv1d(8, width, 7, padding=3)]
    for index in range(layers):
        parts += [nn.BatchNorm1d(width), nn.ReLU(), nn.Conv1d(width, width, 5, padding=2)]
        if index % 2:
            parts.append(nn.MaxPool1d(2))
    return nn.Sequential(*parts, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(width, CLASSES))


class UNet(nn.Module):
    """A network that segments images into 10 classes."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(layers + 1)]
        self.down = nn.ModuleList(
            _twice(a, b) for a, b in zip([3, *widths[:-1]], widths, strict=True)
        )
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairwise(widths))
        self.merge = nn.ModuleList(_twice(2 * a, a) for a in widths[:-1])
        self.head = nn.Conv2d(width, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        skipped = []
        for index, block in enumerate(self.down):
            x = block(x if index == 0 else nn.functional.max_pool2d(x, 2))
            skipped.append(x)
        skipped.pop()
        for up, merge in zip(reversed(self.up), reversed(self.merge), strict=True):
            x = merge(torch.cat([up(x), skipped.pop()], 1))
        return self.head(x)


def _twice(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


_OWN: dict[str, Callable[[int, int], nn.Module]] = {
    "encoder": Encoder,
    "gpt": Decoder,
    "lstm": partial(Recurrent, "lstm"),
    "gru": partial(Recurrent, "gru"),
    "mlp": mlp,
    "unet": UNet,
    "conv1d": conv1d,
}
