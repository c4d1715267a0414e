"""JSON files of numbers and text; reading one never executes code."""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path, PurePath
from typing import Any, NoReturn

from energyest.errors import EstimateError, TraceError
from energyest.records.own_files import save_file

AnyPath = str | PurePath
# Larger files are refused; a model takes well under a megabyte.
MOST_BYTES = 16 * 2**20
# Nesting depth of lists and objects; files of this package have at most 6.
DEEPEST = 32


def write_json(path: AnyPath, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically: a concurrent reader sees the old content.

    Args:
        path: where to write; an existing file is replaced if it also holds a stored model.
        content: the content; its "kind" marks it as written by this package.

    Raises:
        FileExistsError: there is a file that this package did not write.
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


def inside(folder: Path, name: str) -> Path:
    """Resolve a file or subfolder of a trace folder, following links; it need not exist.

    Args:
        folder: the trace folder; it may itself be reached through a link.
        name: path of the file below the folder.

    Raises:
        TraceError: the path leads out of the folder, or cannot be resolved, as with circular links.
    """
    try:
        path = folder / name
        if os.sep not in name and stat.S_ISREG(os.lstat(path).st_mode):
            return path  # no link: there is nothing to resolve
        root, path = folder.resolve(), (folder / name).resolve()
    except FileNotFoundError:
        return folder / name
    except (OSError, RuntimeError, ValueError) as error:  # circular links, invalid names
        raise TraceError(f"cannot read {name!r} in {folder}: {error}") from error
    if not path.is_relative_to(root):
        raise TraceError(f"{folder / name} leads out of the trace's folder: it is not read")
    return path


def read_bytes(path: Path, most_bytes: int) -> bytes:
    """Read an untrusted file.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
        ValueError: it is larger than `most_bytes`, or is not a regular file; such a file is not
            even opened, because a FIFO would block forever.
    """
    size = _size(path, most_bytes)
    with open(path, "rb") as file:
        data = file.read(size + 1)  # this much memory is allocated at once
        if len(data) > size:  # it has grown
            data += file.read(most_bytes + 1 - len(data))
    if len(data) > most_bytes:
        raise _too_large(most_bytes)
    return data


def read_lines(path: Path, most_bytes: int, part_bytes: int) -> Iterator[bytes]:
    """Read an untrusted file in parts of whole lines, dropping a last line without a line break.

    Args:
        path: the file.
        most_bytes: a larger file is refused.
        part_bytes: size of a part, which is then extended to the end of its last line.

    Raises:
        FileNotFoundError, OSError, ValueError: as `read_bytes` does.
    """
    # Memory for a whole part would be allocated at once, which costs more than a small file.
    part_bytes = min(part_bytes, _size(path, most_bytes) + 1)
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
                return  # even if the rest of the line has been written since


def _size(path: Path, most_bytes: int) -> int:
    """The size of a file, after checking that it is regular and not too large."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is not a regular file")
    if found.st_size > most_bytes:
        raise _too_large(most_bytes)
    return found.st_size


def _too_large(most_bytes: int) -> ValueError:
    return ValueError(f"it is larger than {most_bytes} bytes")


def read_json(path: AnyPath) -> Any:
    """The content of a JSON file.

    Raises:
        EstimateError: it cannot be read, is not a regular file, is larger than `MOST_BYTES`, or is
            refused by `parse_json`.
        FileNotFoundError: there is no such file.
    """
    try:
        return parse_json(read_bytes(Path(path), MOST_BYTES).decode("utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise EstimateError(f"{path} holds no readable JSON: {error}") from error


def parse_json(text: str) -> Any:
    """Parse JSON text; all numbers are finite and all strings are printable.

    Raises:
        ValueError: it is not JSON, holds a number beyond the range of floats, or is nested deeper
            than `DEEPEST`.
    """
    decoder = _DECODER if _may_overflow(text) else _FAST_DECODER
    content = _decoded(text, decoder)
    if text.count("[") + text.count("{") > DEEPEST:  # else there is no need to look
        _check_depth(content)
    # May be a lone surrogate, which cannot be printed. A search for one character is the fastest.
    if "\\" in text and ("\\ud" in text or "\\uD" in text):
        whole = json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")
        content = _DECODER.decode(whole.decode("utf-8"))
    return content


def parse_any_numbers(text: str) -> Any:
    """Parse JSON text of which the caller checks the values: they may be infinite, for example.

    Raises:
        ValueError: it is not JSON, or is nested too deeply.
    """
    return _decoded(text, _FAST_DECODER)


def _decoded(text: str, decoder: json.JSONDecoder) -> Any:
    try:
        return decoder.decode(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def packaged_json(name: str) -> Any:
    """The content of a JSON file among the package's own data."""
    return json.loads((resources.files("energyest") / "data" / name).read_text(encoding="utf-8"))


def check_kind(content: Any, kind: str, newest: int, name: str) -> None:
    """Refuse content that is not a stored model of this kind and format.

    Args:
        content: the content of a file.
        kind: the value its entry "kind" must have after "energyest ", such as "PRE model".
        newest: the value its entry "format" must have.
        name: the file's name, for the message.

    Raises:
        EstimateError: the content is of another kind or format.
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
    raise ValueError(f"{constant[:40]} is not a finite number")


def _finite(text: str) -> float:
    """A finite float; refuses 1e999."""
    value = float(text)
    if not math.isfinite(value):
        _refuse(text)
    return value


def _small(text: str) -> int:
    """An integer that fits into a float."""
    _finite(text)
    return int(text)


def _may_overflow(text: str) -> bool:
    """Whether a number may be beyond the range of floats: by an exponent, or by many digits."""
    shape = text.encode("utf-8", "surrogatepass").translate(_SHAPES, b"+")
    if _MANY_DIGITS in shape:
        return True
    # The id of a run may look like an exponent of three digits, but is in quotes.
    return b"e000" in shape and _LARGE.search(text) is not None


# Text with all digits as 0 and without +, to find numbers that are long. Fewer digits than these
# are in the range with any exponent of two digits.
_SHAPES = bytes.maketrans(b"123456789E", b"000000000e")
_MANY_DIGITS = b"0" * 200
_LARGE = re.compile(r"[eE]\+?[0-9]{3,}\s*(?:[,\]}]|$)")
_FAST_DECODER = json.JSONDecoder(parse_constant=_refuse)
_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite, parse_int=_small)


def _check_depth(content: Any) -> None:
    """Refuse nesting that is too deep for recursive code."""
    level = [content]
    for _ in range(DEEPEST):
        level = [
            below
            for one in level
            if isinstance(one, dict | list)
            for below in (one.values() if isinstance(one, dict) else one)
        ]
    if level:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep")
