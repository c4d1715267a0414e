"""Models to measure, by name, and random settings in which to train them.

A model's name is `family/name`: `torchvision/resnet50`, `transformers/bert-d768-l12`,
`own/gpt-d512-l8`. In the names of configurable models, d is the width and l the number of layers.
"""

from __future__ import annotations

import importlib.util
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

CLASSES, VOCABULARY = 100, 8192
IMAGE_SIZES = (32, 64, 96, 128, 160, 192, 224, 288)
# With the largest sensible batch at 224 pixels on 80 GB in single precision.
VISION = {
    "alexnet": 1024,
    "convnext_small": 128,
    "convnext_tiny": 256,
    "densenet121": 256,
    "densenet169": 128,
    "efficientnet_b0": 256,
    "efficientnet_b2": 128,
    "efficientnet_v2_s": 128,
    "googlenet": 512,
    "inception_v3": 256,
    "mnasnet0_5": 512,
    "mnasnet1_0": 512,
    "mobilenet_v2": 256,
    "mobilenet_v3_large": 512,
    "mobilenet_v3_small": 512,
    "regnet_x_1_6gf": 256,
    "regnet_y_400mf": 512,
    "regnet_y_800mf": 512,
    "regnet_y_3_2gf": 128,
    "resnet18": 512,
    "resnet34": 512,
    "resnet50": 256,
    "resnet101": 128,
    "resnet152": 128,
    "resnext50_32x4d": 128,
    "shufflenet_v2_x0_5": 1024,
    "shufflenet_v2_x1_0": 512,
    "shufflenet_v2_x2_0": 256,
    "squeezenet1_0": 512,
    "squeezenet1_1": 512,
    "swin_t": 128,
    "swin_s": 64,
    "vgg11": 256,
    "vgg16": 128,
    "vgg16_bn": 128,
    "vit_b_16": 128,
    "vit_b_32": 256,
    "wide_resnet50_2": 128,
}
SEQUENCES = ("encoder", "gpt", "lstm", "gru")
HUGGING_FACE = ("bert", "distilbert", "gpt2")
OTHERS = ("mlp", "unet", "conv1d")


@dataclass(frozen=True)
class Setting:
    """One training; `size` is the side of its images, the length of its sequences, or 0."""

    model: str
    batch_size: int
    size: int
    precision: str
    optimizer: str
    loop: str = "plain"

    @property
    def name(self) -> str:
        return "-".join(str(value) for value in asdict(self).values()).replace("/", "_")


def draw_settings(seed: int, families: str = ".*") -> Iterator[Setting]:
    """Random settings without end; models, then batch sizes, are equally likely."""
    chance = random.Random(seed)
    while True:
        kind = chance.choices(("vision", "sequence", "hf", "other"), (0.58, 0.18, 0.1, 0.14))[0]
        model, batch_size, size = _DRAW[kind](chance)
        precision = chance.choices(("fp32", "tf32", "bf16", "fp16"), (0.26, 0.28, 0.38, 0.08))[0]
        optimizers = ("sgd", "sgd_momentum", "adam", "adamw", "adadelta", "rmsprop")
        optimizer = chance.choices(optimizers, (0.2, 0.2, 0.15, 0.35, 0.05, 0.05))[0]
        loop = chance.choices(("plain", "lightning"), (0.55, 0.45))[0]
        setting = Setting(model, batch_size, size, precision, optimizer, loop)
        if re.fullmatch(families, model):
            yield setting


def _draw_vision(chance: random.Random) -> tuple[str, int, int]:
    name = chance.choice(sorted(VISION))
    size = chance.choice(IMAGE_SIZES)
    if "vit" in name or "swin" in name:
        size = 224
    least = {"inception_v3": 96, "alexnet": 64, "squeezenet1_0": 64, "squeezenet1_1": 64}
    size = max(size, least.get(name, 32))
    most = min(VISION[name] * (224 / size) ** 2, 1024)
    sizes = [b for b in (4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024) if b <= most]
    return f"torchvision/{name}", chance.choice(sizes), size


def _draw_sequence(chance: random.Random) -> tuple[str, int, int]:
    kind = chance.choice(SEQUENCES)
    width = chance.choice((128, 256, 384, 512, 768, 1024, 1280))
    layers = (
        chance.choice((1, 2, 3, 4)) if kind in ("lstm", "gru") else chance.choice((2, 4, 6, 12))
    )
    size = chance.choice((64, 100, 128, 256, 512, 1024))
    if kind in ("lstm", "gru"):
        size = min(size, 256)
    most = 6e10 / (size * width * layers * 160 + size * VOCABULARY * 12 * (kind == "gpt"))
    sizes = [b for b in (2, 4, 8, 16, 32, 64, 128, 256) if b <= most] or [2]
    return f"own/{kind}-d{width}-l{layers}", chance.choice(sizes), size


def _draw_hugging_face(chance: random.Random) -> tuple[str, int, int]:
    width, layers = chance.choice(((256, 4), (512, 6), (768, 6), (768, 12), (1024, 24)))
    size = chance.choice((64, 128, 256, 384, 512))
    most = 4e10 / (size * width * layers * 200 + size * 30522 * 12)
    sizes = [b for b in (2, 4, 8, 16, 32, 64, 128) if b <= most] or [2]
    kind = chance.choice(HUGGING_FACE)
    return f"transformers/{kind}-d{width}-l{layers}", chance.choice(sizes), size


def _draw_other(chance: random.Random) -> tuple[str, int, int]:
    kind = chance.choice(OTHERS)
    if kind == "mlp":
        width, layers = (
            chance.choice((128, 512, 1024, 2048, 4096, 8192)),
            chance.choice((2, 3, 8, 16)),
        )
        return f"own/mlp-d{width}-l{layers}", chance.choice((16, 64, 128, 256, 1024, 4096)), 0
    if kind == "unet":
        return (
            f"own/unet-d{chance.choice((16, 32, 64))}-l4",
            chance.choice((2, 4, 8, 16, 32)),
            (chance.choice((64, 128, 192, 256))),
        )
    width = chance.choice((64, 128, 256))
    return (
        f"own/conv1d-d{width}-l{chance.choice((4, 8))}",
        chance.choice((8, 32, 128)),
        (chance.choice((500, 2000, 8000))),
    )


_DRAW = {
    "vision": _draw_vision,
    "sequence": _draw_sequence,
    "hf": _draw_hugging_face,
    "other": _draw_other,
}


def build(setting: Setting) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The model, on the default device, and a random batch of inputs and targets, on the CPU.

    Raises:
        ValueError: the name is unknown.
    """
    family, _, name = setting.model.partition("/")
    batch, size = setting.batch_size, setting.size
    labels = torch.randint(CLASSES, (batch,), device="cpu")
    if family == "torchvision":
        return _vision(name), (torch.rand(batch, 3, size, size, device="cpu"), labels)
    match = re.fullmatch(r"(\w+)-d(\d+)-l(\d+)", name)
    if match is None:
        raise ValueError(f"{setting.model}: unknown model")
    kind, width, layers = match[1], int(match[2]), int(match[3])
    if family == "transformers":
        tokens = torch.randint(30522, (batch, size), device="cpu")
        return _HuggingFace(kind, width, layers), (tokens, labels % 2)
    return _OWN[kind](kind, width, layers), _own_batch(kind, width, batch, size)


def _own_batch(kind: str, width: int, batch: int, size: int) -> tuple[Tensor, Tensor]:
    labels = torch.randint(CLASSES, (batch,), device="cpu")
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


_OWN: dict[str, Callable[[str, int, int], nn.Module]] = {
    "encoder": lambda _, width, layers: Encoder(width, layers),
    "gpt": lambda _, width, layers: Decoder(width, layers),
    "lstm": Recurrent,
    "gru": Recurrent,
    "mlp": lambda _, width, layers: mlp(width, layers),
    "unet": lambda _, width, layers: UNet(width, layers),
    "conv1d": lambda _, width, layers: conv1d(width, layers),
}
