"""Advice for a user who names several GPUs where one is expected."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence, Set
from typing import Any

from energyest.checks import short
from energyest.gpus.gpu import Gpu
from energyest.gpus.table import find_gpu

_TIMES = "[x×*]"
# "8x A100", "8 A100", "x8 A100", "(8x) A100".
_BEFORE = rf"\(?{_TIMES}?\s*(?P<count>\d+)(?:\s*{_TIMES}\)?\s*|\s+)(?P<name>.+)"
# "A100 x8", "A100x8", "A100 8x", "A100 (8x)".
_AFTER = rf"(?P<name>.+?)(?:\s*\(?{_TIMES}\s*(?P<count>\d+)\)?|[\s(]+(?P<other>\d+)\s*{_TIMES}\)?)"
_BETWEEN = r"\s*(?:[,;+&]|\band\b)\s*"


def advice_on_several(gpu: Any) -> str:
    """Say what to pass instead of a list of GPUs, or of a name with a count.

    Args:
        gpu: "8x A100", "A100 x8", "A100, A100", ["A100", "A100"], or anything else.

    Returns:
        A sentence; empty if `gpu` is neither, or names a GPU that the table lacks.
    """
    if isinstance(gpu, str):
        parts: list[Any] = re.split(_BETWEEN, gpu.strip(), flags=re.IGNORECASE)
    elif isinstance(gpu, Sequence | Set):
        parts = list(gpu)
    else:
        return ""
    counts: Counter[str] = Counter()
    typed: dict[str, str] = {}
    for part in parts:
        product, name, count = _counted(part)
        if not (product and count):
            return ""
        counts[product] += count
        typed.setdefault(product, name)
    if not counts:
        return ""
    total = counts.total()
    what = f"{short(gpu)} names {total} GPU{'s' if total > 1 else ''}"
    if len(counts) > 1:
        return f"{what} of different kinds: estimate one kind at a time, or compare a list of them"
    devices = f" and devices={total}" if total > 1 else ""
    return f'{what}: give gpu="{next(iter(typed.values()))}"{devices}'


def _counted(part: Any) -> tuple[str, str, int]:
    """A product, its name as typed, and its count; empty if the product is unknown."""
    if isinstance(part, Gpu):
        return part.name, part.name, 1
    if not isinstance(part, str):
        return "", "", 0
    whole = find_gpu(part)
    if whole is not None:
        return whole.name, part.strip(), 1
    plain = re.sub(r"\s+GPUs?\b", "", part.strip(), flags=re.IGNORECASE)
    for pattern in (_BEFORE, _AFTER):
        match = re.fullmatch(pattern, plain, re.IGNORECASE)
        if match is None:
            continue
        said = match.groupdict()
        for name in (said["name"], said["name"].removesuffix("s")):
            known = find_gpu(name)
            if known is not None:
                return known.name, name, int(said["count"] or said["other"])
    return "", "", 0
