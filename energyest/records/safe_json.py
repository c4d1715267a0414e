"""Files of numbers and text, as JSON: reading one runs no code."""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path, PurePath
from typing import Any, NoReturn

from energyest.errors import EstimateError
from energyest.records.own_files import save_file

AnyPath = str | PurePath
# Larger files are not read: a model takes well under a megabyte.
MOST_BYTES = 16 * 2**20
# Lists and objects in each other: files of this package have at most 6.
DEEPEST = 32


def write_json(path: AnyPath, content: Mapping[str, Any]) -> None:
    """Write a file as a whole: whoever reads it meanwhile sees the old one.

    Args:
        path: where; a file that is there already is replaced if it is of a model too.
        content: what; its "kind" tells that this package has written it.

    Raises:
        FileExistsError: there is another file.
        OSError: it cannot be written.
    """
    save_file(path, json.dumps(content, allow_nan=False), _is_ours)


def _is_ours(path: Path) -> bool:
    """Whether a file was written by `write_json`."""
    try:
        found = parse_json(read_bytes(path, MOST_BYTES).decode("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and str(found.get("kind")).startswith("energyest ")


def read_bytes(path: Path, most_bytes: int) -> bytes:
    """What a file holds that may come from anywhere.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
        ValueError: it is no regular file, which is not even opened, since a FIFO would block for
            ever; or it is larger than `most_bytes`.
    """
    size = _size(path, most_bytes)
    with open(path, "rb") as file:
        data = file.read(size + 1)  # so much memory is taken at once
        if len(data) > size:  # it has grown
            data += file.read(most_bytes + 1 - len(data))
    if len(data) > most_bytes:
        raise _too_large(most_bytes)
    return data


def read_lines(path: Path, most_bytes: int, part_bytes: int) -> Iterator[bytes]:
    """What such a file holds, in parts of whole lines, without a last one that has no line break.

    Args:
        path: the file.
        most_bytes: a larger file is refused.
        part_bytes: a part is so large, and longer by the rest of its last line.

    Raises:
        FileNotFoundError, OSError, ValueError: as `read_bytes` does.
    """
    _size(path, most_bytes)
    read = 0
    with open(path, "rb") as file:
        while part := file.read(part_bytes):
            if not part.endswith(b"\n"):
                part += file.readline()
            read += len(part)
            if read > most_bytes:
                raise _too_large(most_bytes)
            end = part.rfind(b"\n") + 1
            if end:
                yield part[:end] if end < len(part) else part
            if end < len(part):
                return  # even if the rest of the line has come since


def _size(path: Path, most_bytes: int) -> int:
    """The size of a regular file that is not too large."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is no regular file")
    if found.st_size > most_bytes:
        raise _too_large(most_bytes)
    return found.st_size


def _too_large(most_bytes: int) -> ValueError:
    return ValueError(f"it is larger than {most_bytes} bytes")


def read_json(path: AnyPath) -> Any:
    """What a JSON file holds.

    Raises:
        EstimateError: it cannot be read, is no regular file, holds more than `MOST_BYTES`, or what
            `parse_json` refuses.
        FileNotFoundError: there is no such file.
    """
    try:
        return parse_json(read_bytes(Path(path), MOST_BYTES).decode("utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise EstimateError(f"{path} holds no JSON that can be read: {error}") from error


def parse_json(text: str) -> Any:
    """What a JSON text says; its numbers are finite, and its strings can be printed.

    Raises:
        ValueError: it is no JSON, holds a number that no float can, or lists in lists beyond
            `DEEPEST`.
    """
    try:
        content = _DECODER.decode(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if text.count("[") + text.count("{") > DEEPEST:  # else there is no need to look
        _check_depth(content)
    if "\\ud" in text or "\\uD" in text:  # may be half a character, which cannot be printed
        whole = json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")
        content = _DECODER.decode(whole.decode("utf-8"))
    return content


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
    found = content.get("format")
    if found != newest:
        older = isinstance(found, int) and found < newest
        raise EstimateError(
            f"{name} has format {found!r}; this version reads {newest}" + ": fit it again" * older
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


_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite, parse_int=_small)


def _check_depth(content: Any) -> None:
    """Refuse what would be too deep for code that goes down by calling itself."""
    level = [content]
    for _ in range(DEEPEST):
        level = [
            below
            for one in level
            if isinstance(one, dict | list)
            for below in (one.values() if isinstance(one, dict) else one)
        ]
    if level:
        raise ValueError(f"it is nested more than {DEEPEST} deep")
