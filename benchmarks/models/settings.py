"""Settings to train in, drawn at random: a model, a batch, a precision, an optimizer, a layout.

A model's name is `family/name`: `torchvision/resnet50`, `transformers/bert-d768-l12`,
`own/gpt-d512-l8`, `timm/convnextv2_tiny`. In the names of configurable models, d is the width and l
the number of layers; in that of `own/convolutions`, the seed and the number of convolutions.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from benchmarks.models.architectures import (
    BLIND,
    COMMON,
    EXPERTS,
    HUGGING_FACE,
    LIBRARY,
    OTHERS,
    SEQUENCES,
    SMALL,
    SMALL_SIZES_OF_OTHERS,
    TIMM,
    UNSEEN,
    UNSEEN_LIBRARY,
    UNSEEN_SMALL,
    VARIED,
    VARIED_LIBRARY,
    VISION,
)

VOCABULARY = 8192
IMAGE_SIZES = (32, 64, 96, 128, 160, 192, 224, 288)


@dataclass(frozen=True)
class Setting:
    """One training; `size` is the side of its images, the length of its sequences, or 0.

    `layout` is "nchw" or "nhwc" (`torch.channels_last`); `compiled` says whether the model is
    compiled by `torch.compile`; `accumulate` is the number of batches per step of the optimizer;
    with `half_weights` the model itself is in bf16, without autocast.
    """

    model: str
    batch_size: int
    size: int
    precision: str
    optimizer: str
    loop: str = "plain"
    layout: str = "nchw"
    compiled: bool = False
    accumulate: int = 1
    half_weights: bool = False

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


def draw_thin(seed: int, families: str = ".*", *, compiled: bool = False) -> Iterator[Setting]:
    """Random settings that `draw_settings` seldom or never draws.

    Two-byte formats in both layouts, networks of timm and of transformers, recurrent networks in
    two-byte formats, and large batches; or, on request, compiled models.
    """
    chance = random.Random(seed)
    weights = (0.4, 0.24, 0.16, 0.1, 0.1)
    while True:
        kind = chance.choices(("vision", "timm", "library", "sequence", "other"), weights)[0]
        model, batch_size, size = (_DRAW_THIN | _DRAW)[kind](chance)
        mostly_half = (0.04, 0.12, 0.38, 0.46)
        precision = chance.choices(("fp32", "tf32", "bf16", "fp16"), mostly_half)[0]
        optimizer = chance.choices(("sgd_momentum", "adamw"), (0.6, 0.4))[0]
        setting = Setting(model, batch_size, size, precision, optimizer)
        if kind in ("vision", "timm") or "unet" in model:
            setting = replace(setting, layout=chance.choices(("nchw", "nhwc"), (0.4, 0.6))[0])
        if re.fullmatch(families, model):
            yield replace(setting, compiled=compiled)


def draw_varied(seed: int, families: str = ".*") -> Iterator[Setting]:
    """Random settings of as many architectures as possible, mostly in two-byte formats.

    Architectures of timm and transformers that the others never draw come up once in each round;
    between them are settings of `draw_thin`.
    """
    chance = random.Random(seed)
    thin = draw_thin(seed)
    while True:
        names = [f"timm/{name}" for name in VARIED]
        names += [f"transformers/{kind}" for kind in VARIED_LIBRARY]
        for name in chance.sample(names, len(names)):
            for setting in (_varied(name, chance), next(thin)):
                if re.fullmatch(families, setting.model):
                    yield setting


def draw_common(seed: int, families: str = ".*") -> Iterator[Setting]:
    """Random settings of usual networks with usual batches, in mixed precision."""
    chance = random.Random(seed)
    while True:
        for name in chance.sample(COMMON, len(COMMON)):
            batch_size = chance.choice((64, 128, 256))
            precision, layout = chance.choice(("bf16", "fp16")), chance.choice(("nhwc", "nchw"))
            optimizer = chance.choice(("sgd_momentum", "adamw"))
            size = 299 if name == "inception_v3" else 224
            model = f"torchvision/{name}"
            if re.fullmatch(families, model):
                yield Setting(model, batch_size, size, precision, optimizer, layout=layout)


def draw_unseen(seed: int, families: str = ".*") -> Iterator[Setting]:
    """Random settings of architectures that the others never draw, each twice in a round."""
    chance = random.Random(seed)
    names = [f"timm/{name}" for name in UNSEEN]
    names += [f"transformers/{kind}" for kind in UNSEEN_LIBRARY]
    while True:
        for name in chance.sample(names * 2, 2 * len(names)):
            if re.fullmatch(families, name):
                yield _varied(name, chance)


def draw_blind(seed: int, families: str = ".*") -> Iterator[Setting]:
    """Random settings of further architectures that the others never draw (`BLIND`)."""
    chance = random.Random(seed)
    names = [f"timm/{name}" for name in BLIND]
    while True:
        for name in chance.sample(names, len(names)):
            if re.fullmatch(families, name):
                yield _varied(name, chance)


def draw_compiled(seed: int, families: str = ".*") -> Iterator[Setting]:
    """The settings of `draw_thin`, compiled."""
    return draw_thin(seed, families, compiled=True)


def draw_rare(seed: int, families: str = ".*") -> Iterator[Setting]:
    """Random settings in ways of training that the others never or seldom draw.

    In turn: mixtures of experts, in autocast or with weights in half precision; recurrent networks
    in two-byte formats; batches of at most eight samples; accumulated gradients; and other networks
    with weights in half precision.
    """
    chance = random.Random(seed)
    thin = draw_thin(seed)
    for half_weights in itertools.cycle((False, True)):
        model, batch_size, size = _draw_library(chance, EXPERTS)
        half = chance.choice(("bf16", "fp16"))
        experts = Setting(model, batch_size, size, "bf16" if half_weights else half, "adamw")
        experts = replace(experts, half_weights=half_weights)
        model, batch_size, size = _draw_sequence(chance, ("lstm", "gru"))
        optimizer = chance.choice(("sgd_momentum", "adamw"))
        recurrent = Setting(model, batch_size, size, half, optimizer)
        small = next(thin)
        small = replace(small, batch_size=min(small.batch_size, chance.choice((1, 2, 4, 8))))
        accumulated = replace(next(thin), accumulate=chance.choice((2, 4, 8)))
        model, batch_size, size = _draw_library(chance, (*LIBRARY, *VARIED_LIBRARY))
        in_half = Setting(model, batch_size, size, "bf16", "adamw", half_weights=True)
        if model.startswith("transformers/t5"):  # keeps parts of itself in fp32
            in_half = replace(in_half, model=model.replace("t5", "gpt2"))
        for setting in (experts, recurrent, small, accumulated, in_half):
            if re.fullmatch(families, setting.model):
                yield setting


def draw_convolutions(seed: int, families: str = ".*") -> Iterator[Setting]:
    """Networks of random convolutions of all kinds, mostly in two-byte formats."""
    chance = random.Random(seed)
    while True:
        model = f"own/convolutions-d{chance.randrange(10**6)}-l24"
        precision = chance.choices(("fp32", "tf32", "bf16", "fp16"), (0.1, 0.2, 0.4, 0.3))[0]
        layout = chance.choice(("nchw", "nhwc"))
        setting = Setting(model, chance.choice((8, 32, 64, 128)), 0, precision, "sgd")
        if re.fullmatch(families, model):
            yield replace(setting, layout=layout)


def draw_small(
    seed: int, families: str = ".*", kinds: tuple[str, ...] = (*SMALL, *SMALL_SIZES_OF_OTHERS)
) -> Iterator[Setting]:
    """Random settings of networks whose steps last a few milliseconds, in all precisions."""
    chance = random.Random(seed)
    optimizers = ("sgd", "sgd_momentum", "adam", "adamw", "rmsprop")
    while True:
        for kind in chance.sample(kinds, len(kinds)):
            width, layers = chance.choice((64, 128, 256)), chance.choice((1, 2, 3, 5))
            size = {"lenet": 32, "unet": 64, "conv1d": 500}.get(kind, chance.choice((32, 64, 128)))
            if kind in ("lenet", "unet"):
                width, layers = width // 8, min(max(layers, 2), 3)
            model = f"own/{kind}-d{width}-l{layers}"
            batch_size = chance.choice((8, 32, 64, 256, 1024))
            if kind in SMALL_SIZES_OF_OTHERS:
                batch_size = min(batch_size, 64)
            precision = chance.choices(("fp32", "tf32", "bf16", "fp16"), (0.35, 0.15, 0.3, 0.2))[0]
            optimizer = chance.choice(optimizers)
            loop = chance.choices(("plain", "lightning"), (0.6, 0.4))[0]
            if re.fullmatch(families, model):
                yield Setting(model, batch_size, size, precision, optimizer, loop)


def draw_unseen_small(seed: int, families: str = ".*") -> Iterator[Setting]:
    """The same of architectures that the others never draw."""
    return draw_small(seed, families, UNSEEN_SMALL)


#: The ways to draw, by name.
DRAWS = {
    "all": draw_settings,
    "thin": draw_thin,
    "compiled": draw_compiled,
    "varied": draw_varied,
    "common": draw_common,
    "unseen": draw_unseen,
    "blind": draw_blind,
    "rare": draw_rare,
    "convolutions": draw_convolutions,
    "small": draw_small,
    "unseen_small": draw_unseen_small,
}


def _varied(name: str, chance: random.Random) -> Setting:
    family, _, kind = name.partition("/")
    if family == "timm":
        most, size = (VARIED | UNSEEN | BLIND)[kind]
        model, batch_size = name, most // chance.choice((1, 1, 2, 4, 16))
    else:
        model, batch_size, size = _draw_library(chance, (kind,))
    precision = chance.choices(("fp32", "tf32", "bf16", "fp16"), (0.12, 0.18, 0.4, 0.3))[0]
    optimizer = chance.choices(("sgd_momentum", "adamw"), (0.4, 0.6))[0]
    setting = Setting(model, batch_size, size, precision, optimizer)
    if family == "timm":
        setting = replace(setting, layout=chance.choices(("nchw", "nhwc"), (0.5, 0.5))[0])
    return setting


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


def _draw_sequence(
    chance: random.Random, kinds: tuple[str, ...] = SEQUENCES
) -> tuple[str, int, int]:
    kind = chance.choice(kinds)
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


def _draw_timm(chance: random.Random) -> tuple[str, int, int]:
    name = chance.choice(sorted(TIMM))
    return f"timm/{name}", TIMM[name] // chance.choice((1, 2, 4, 16)), 224


def _draw_library(chance: random.Random, kinds: tuple[str, ...] = LIBRARY) -> tuple[str, int, int]:
    kind = chance.choice(kinds)
    width, layers = chance.choice(((512, 6), (768, 12), (1024, 12), (1024, 24), (2048, 6)))
    sees = kind in ("vit", "deit", "dinov2")
    size = 224 if sees else chance.choice((128, 256, 512, 1024))
    length = 256 if sees else size
    most = 5e10 / (length * width * layers * 160 + length * 32000 * 12)
    sizes = [b for b in (2, 4, 8, 16, 32, 64, 128) if b <= most] or [2]
    return f"transformers/{kind}-d{width}-l{layers}", chance.choice(sizes[-4:]), size


_DRAW_THIN = {"timm": _draw_timm, "library": _draw_library}
_DRAW = {
    "vision": _draw_vision,
    "sequence": _draw_sequence,
    "hf": _draw_hugging_face,
    "other": _draw_other,
}
