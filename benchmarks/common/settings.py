"""Settings to train in, drawn at random: a model, a batch, a precision, an optimizer, a layout.

A model's name is `family/name`: `torchvision/resnet50`, `transformers/bert-d768-l12`,
`own/gpt-d512-l8`, `timm/convnextv2_tiny`. In the names of configurable models, d is the width and l
the number of layers.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

VOCABULARY = 8192
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


# With the largest sensible batch at 224 pixels in half precision.
TIMM = {
    "convnextv2_tiny": 256,
    "deit3_small_patch16_224": 512,
    "efficientnet_b1": 256,
    "ghostnet_100": 512,
    "gernet_m": 512,
    "lcnet_100": 1024,
    "mixnet_s": 256,
    "mobilevit_s": 256,
    "poolformer_s12": 256,
    "regnetz_b16": 256,
    "repvgg_a2": 512,
    "resnet50d": 256,
    "rexnet_100": 256,
    "seresnet50": 256,
    "tinynet_a": 512,
    "tnt_s_patch16_224": 128,
    "twins_svt_small": 256,
    "volo_d1_224": 128,
}
# The same for architectures that `draw_varied` adds, at their usual size.
VARIED = {
    "beit_base_patch16_224": (128, 224),
    "caformer_s18": (128, 224),
    "cait_xxs24_224": (128, 224),
    "coat_lite_mini": (256, 224),
    "coatnet_0_rw_224": (128, 224),
    "convmixer_768_32": (64, 224),
    "crossvit_15_240": (128, 240),
    "cs3darknet_m": (256, 256),
    "cspresnet50": (256, 224),
    "darknet53": (128, 256),
    "davit_tiny": (128, 224),
    "dla60": (256, 224),
    "dpn68": (256, 224),
    "eca_nfnet_l0": (128, 224),
    "ecaresnet50t": (256, 224),
    "edgenext_small": (256, 256),
    "efficientformer_l1": (256, 224),
    "efficientnetv2_rw_t": (256, 224),
    "ese_vovnet39b": (256, 224),
    "eva02_tiny_patch14_224": (256, 224),
    "fastvit_t12": (256, 256),
    "fbnetc_100": (512, 224),
    "focalnet_tiny_srf": (128, 224),
    "gmixer_24_224": (256, 224),
    "hardcorenas_c": (512, 224),
    "hrnet_w18": (128, 224),
    "inception_next_tiny": (128, 224),
    "inception_v4": (128, 299),
    "levit_256": (512, 224),
    "maxvit_tiny_rw_224": (64, 224),
    "mixer_b16_224": (256, 224),
    "mobilenetv4_conv_medium": (512, 224),
    "mobileone_s1": (256, 224),
    "mvitv2_tiny": (128, 224),
    "nest_tiny": (128, 224),
    "nf_resnet50": (256, 224),
    "pit_s_224": (256, 224),
    "pvt_v2_b1": (256, 224),
    "repvit_m1": (512, 224),
    "res2net50_26w_4s": (128, 224),
    "resmlp_24_224": (256, 224),
    "resnest50d": (128, 224),
    "resnet26d": (512, 224),
    "resnetaa50": (256, 224),
    "selecsls42b": (512, 224),
    "semnasnet_100": (512, 224),
    "skresnet34": (256, 224),
    "swinv2_tiny_window8_256": (128, 256),
    "tf_efficientnetv2_b0": (512, 224),
    "tiny_vit_11m_224": (256, 224),
    "visformer_small": (256, 224),
    "vit_small_patch16_224": (512, 224),
    "xception41": (128, 299),
    "xcit_tiny_12_p16_224": (256, 224),
}
# Architectures on which no fit may ever learn: predictions are judged by them.
UNSEEN = {
    "convnextv2_nano": (256, 224),
    "cspdarknet53": (128, 256),
    "deit_tiny_patch16_224": (512, 224),
    "dla102": (128, 224),
    "eca_resnet33ts": (256, 256),
    "efficientnet_b3": (128, 288),
    "efficientvit_b1": (256, 224),
    "ghostnetv2_100": (256, 224),
    "hgnetv2_b2": (256, 224),
    "inception_resnet_v2": (64, 299),
    "legacy_seresnext50_32x4d": (128, 224),
    "mobilenetv3_large_100": (512, 224),
    "mobilevitv2_100": (128, 256),
    "poolformerv2_s12": (128, 224),
    "regnety_032": (128, 224),
    "resnetv2_50": (256, 224),
    "sequencer2d_s": (128, 224),
    "vit_base_patch32_224": (256, 224),
    "vovnet39a": (256, 224),
    "wide_resnet101_2": (128, 224),
}
UNSEEN_LIBRARY = ("deit", "mistral", "mpnet")
# What people train most: usual networks of torchvision, at 224 pixels.
COMMON = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2"),
    *("resnext50_32x4d", "vgg16_bn", "densenet121", "mobilenet_v2", "mobilenet_v3_large"),
    *("efficientnet_b0", "regnet_y_3_2gf", "convnext_tiny", "vit_b_16", "swin_t", "inception_v3"),
)
LIBRARY = ("bert", "gpt2", "llama", "mixtral", "t5", "vit")
VARIED_LIBRARY = (
    *("albert", "bart", "bloom", "deberta_v2", "dinov2", "electra", "gemma2", "gpt_neox"),
    *("opt", "qwen2", "roberta"),
)


@dataclass(frozen=True)
class Setting:
    """One training; `size` is the side of its images, the length of its sequences, or 0.

    `layout` is "nchw" or "nhwc" (`torch.channels_last`); `compiled` says whether the model is
    compiled by `torch.compile`.
    """

    model: str
    batch_size: int
    size: int
    precision: str
    optimizer: str
    loop: str = "plain"
    layout: str = "nchw"
    compiled: bool = False

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


def draw_compiled(seed: int, families: str = ".*") -> Iterator[Setting]:
    """The settings of `draw_thin`, compiled."""
    return draw_thin(seed, families, compiled=True)


#: The ways to draw, by name.
DRAWS = {
    "all": draw_settings,
    "thin": draw_thin,
    "compiled": draw_compiled,
    "varied": draw_varied,
    "common": draw_common,
    "unseen": draw_unseen,
}


def _varied(name: str, chance: random.Random) -> Setting:
    family, _, kind = name.partition("/")
    if family == "timm":
        most, size = (VARIED | UNSEEN)[kind]
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
