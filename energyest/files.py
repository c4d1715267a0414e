"""Files of numbers and text, as JSON: reading one runs no code."""

from __future__ import annotations

import json
import math
import os
from importlib import resources
from pathlib import Path, PurePath
from typing import Any, NoReturn

from energyest.errors import EstimateError

AnyPath = str | PurePath
# Larger files are not read: a model takes well under a megabyte.
MOST_BYTES = 64 * 2**20


def write_json(path: AnyPath, content: Any) -> None:
    """Write a file as a whole: whoever reads it meanwhile sees the old one.

    Raises:
        OSError: it cannot be written.
    """
    target = Path(path)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        draft.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def read_json(path: AnyPath) -> Any:
    """What a JSON file holds.

    Raises:
        EstimateError: it holds no JSON, numbers that are not finite, or too much.
        FileNotFoundError: there is no such file.
    """
    file = Path(path)
    if file.stat().st_size > MOST_BYTES:
        raise EstimateError(f"{file} is larger than {MOST_BYTES} bytes: it is not read")
    try:
        return json.loads(
            file.read_text(encoding="utf-8"),
            parse_constant=_refuse,
            parse_float=_finite,
            parse_int=_small,
        )
    except (ValueError, RecursionError) as error:
        raise EstimateError(f"{file} holds no JSON: {error}") from error


def packaged_json(name: str) -> Any:
    """What a JSON file of the package's own data holds."""
    return json.loads((resources.files("energyest") / "data" / name).read_text(encoding="utf-8"))


def check_kind(content: Any, kind: str, newest: int, name: str) -> None:
    """Refuse what is no stored model of this kind, or one of another format.

    Args:
        content: what a file holds.
        kind: what its entry "kind" has to be after "energyest ", such as "PRE model".
        newest: what its entry "format" has to be.
        name: of the file.

    Raises:
        EstimateError: it is none.
    """
    if not isinstance(content, dict) or content.get("kind") != f"energyest {kind}":
        raise EstimateError(f"{name} holds no {kind}")
    if content.get("format") != newest:
        raise EstimateError(
            f"{name} has format {content.get('format')!r}; this version reads {newest}"
        )


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant[:40]} is no number")


def _finite(text: str) -> float:
    """A float; 1e999 is none."""
    value = float(text)
    if not math.isfinite(value):
        _refuse(text)
    return value


def _small(text: str) -> int:
    """An integer that fits into a float."""
    _finite(text)
    return int(text)
