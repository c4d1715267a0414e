"""Many rows at once, out of `epochs.jsonl` and `power.csv`, which may come from anywhere."""

from __future__ import annotations

import csv
import io
import re
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from energyest.arrays import FloatArray
from energyest.records.epoch_table import AMENDS, EpochTable
from energyest.records.safe_json import parse_json

# A machine has 16 GPUs at the most, but the saved sum of many machines has theirs all.
_MOST_DEVICES = 2**12
# A line is seven fields, of which one is a name.
_MOST_LINE_BYTES, _MOST_FIELDS = 2**16, 2**10
# Fields with quotes around them, in which a quote is written twice, or without any quote.
_FIELD = rb'(?:"(?:[^"]|"")*"|[^",]*)'
_QUOTED = re.compile(rb"%b(?:,%b)*" % (_FIELD, _FIELD))


def parse_readings(data: bytes, *, most_values: int) -> dict[str, NDArray[Any]]:
    """The columns of a table, by the names in its first line.

    Args:
        data: the file, in whole lines; at least one.
        most_values: more lines x columns are refused.

    Raises:
        ValueError: a line is damaged or too long, or the table is too large; says which, in words
            that follow the file's name.
    """
    header = data[: min(data.index(b"\n"), _MOST_LINE_BYTES + 1)].decode("utf-8", "replace")
    names = header.split(",")
    if len(header) > _MOST_LINE_BYTES or len(names) > _MOST_FIELDS:
        raise ValueError(", line 1, is damaged: it names too many columns, that is too much")
    if not {"time_s", "device"} <= set(names) or len(set(names)) < len(names):
        raise ValueError(
            ", line 1, is damaged: it must name the columns time_s and device, each once"
        )
    has_quotes = b'"' in data
    if has_quotes:
        for number, line in enumerate(data.split(b"\n"), start=1):
            if b'"' in line and not _QUOTED.fullmatch(line):
                raise ValueError(f", line {number}, is damaged: a quote is not closed")
    _check_fields(data, len(names), most_values)
    import pandas as pd  # noqa: PLC0415  (slow to import, and only needed to read files)

    numbers = [name for name in names if name != "device"]
    try:
        table = pd.read_csv(
            io.BytesIO(data),
            header=0,
            names=names,
            dtype={"device": str, **dict.fromkeys(numbers, np.float64)},
            keep_default_na=False,
            na_values={name: [""] for name in numbers},
            index_col=False,
            on_bad_lines="error",
            # A line and a field are here what they are for `_check_fields`.
            lineterminator="\n",
            quoting=csv.QUOTE_MINIMAL if has_quotes else csv.QUOTE_NONE,
        )
    except (ValueError, pd.errors.ParserError) as error:
        raise ValueError(f" is damaged: {error}") from error
    devices = table["device"].unique()
    if len(devices) > _MOST_DEVICES:
        raise ValueError(f" is damaged: {len(devices)} names of devices are too many")
    if not all(str(name).isprintable() for name in devices):
        raise ValueError(" is damaged: there are names of devices that cannot be printed")
    return {name: table[name].to_numpy() for name in names}


def _check_fields(data: bytes, fields: int, most_values: int) -> None:
    """Refuse a line that has not as many fields as the header, and more lines than can be held."""
    text = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(text == ord("\n"))
    if len(ends) * fields > most_values:
        raise ValueError(f" has {len(ends)} lines of {fields} fields: that is too much")
    long = np.diff(ends, prepend=-1) > _MOST_LINE_BYTES
    if long.any():
        raise ValueError(f", line {int(np.argmax(long)) + 1}, is too long")
    commas = np.flatnonzero(text == ord(","))
    quotes = np.flatnonzero(text == ord('"'))
    commas = commas[np.searchsorted(quotes, commas) % 2 == 0]  # those that no quotes surround
    wrong = np.diff(np.searchsorted(commas, ends), prepend=0) != fields - 1
    if wrong.any():
        number = int(np.argmax(wrong)) + 1
        raise ValueError(f", line {number}, is damaged: it must have {fields} fields")


# ---------------------------------------------------------------------- epochs

# Lines with other names are read apart from each other; more kinds of them are not plain.
_MOST_KINDS = 16
_LONGEST_LINE, _LONGEST_NUMBER = 2**14, 40
# How JSON is written: by Python unless told otherwise, and as densely as can be.
_STYLES = ((b", ", b": "), (b",", b":"))
_AMENDS = re.compile(rb'\{"%b": ?(0|[1-9]\d{0,9}),' % AMENDS.encode())


class _Kind(NamedTuple):
    """Lines that name the same columns.

    Attributes:
        places: shape (lines,), where they are among all lines.
        rows: shape (lines,), the rows that they add to; None of lines that are rows.
        names: the columns.
        numbers: shape (lines, columns).
    """

    places: NDArray[np.intp]
    rows: NDArray[np.intp] | None
    names: list[str]
    numbers: FloatArray


def take_plain(table: EpochTable, text: bytes) -> int:
    """Add lines of `epochs.jsonl` to a table, if nothing about them is out of the ordinary.

    They are as `encode_epoch` writes them: an object a line, of names and numbers or null. Reading
    so many at once is six times as fast as reading them one by one, and comes to the same.

    Args:
        table: where they go; it stays as it is if they are not plain.
        text: whole lines, at least one.

    Returns:
        How many lines there were; 0 if they were not plain: reading them one by one tells what is
        wrong, if anything.
    """
    kinds = _kinds_of(text)
    if kinds is None:
        return 0
    lines = sum(len(kind.places) for kind in kinds)
    is_row = np.ones(lines, dtype=bool)
    for kind in kinds:
        is_row[kind.places] = kind.rows is None
    rows = len(table) + np.cumsum(is_row) - 1
    for kind in kinds:
        if kind.rows is not None:
            if (kind.rows > rows[kind.places]).any():
                return 0  # there is no such row as yet
            rows[kind.places] = kind.rows
    names = dict.fromkeys(name for kind in kinds for name in kind.names)
    try:
        table.extend(int(is_row.sum()), names)
    except ValueError:
        return 0
    for name in names:
        having = [kind for kind in kinds if name in kind.names]
        places = np.concatenate([kind.places for kind in having])
        values = np.concatenate([kind.numbers[:, kind.names.index(name)] for kind in having])
        # In the order of the lines: what is said later of a row replaces what was said before.
        order = np.argsort(places, kind="stable") if len(having) > 1 else slice(None)
        table.put(name, rows[places[order]], values[order])
    return lines


def _kinds_of(text: bytes) -> list[_Kind] | None:
    """Lines by what they name, in the order in which it comes; None if they are not plain."""
    kind = _kind_of(text)
    if kind is not None:
        return [kind]
    lines = io.BytesIO(text).readlines()
    by_quotes: dict[int, list[int]] = {}
    for place, line in enumerate(lines):
        by_quotes.setdefault(line.count(b'"'), []).append(place)
    if not 1 < len(by_quotes) <= _MOST_KINDS:
        return None
    kinds = []
    for places in by_quotes.values():
        kind = _kind_of(b"".join(lines[place] for place in places))
        if kind is None:
            return None
        kinds.append(kind._replace(places=np.array(places)))
    return kinds


def _kind_of(text: bytes) -> _Kind | None:
    """What lines say, if there are no others between them; None if they are not of one kind."""
    line = text[: text.index(b"\n")]
    raw = line.split(b'"')[1::2]
    names = _names(raw) if len(line) <= _LONGEST_LINE else []
    table = _without_names(text, raw) if names else b""
    numbers = _numbers(table, len(names)) if table else None
    if numbers is None:
        return None
    places = np.arange(len(numbers))
    if names[0] != AMENDS:
        return _Kind(places, None, names, numbers)
    found = [match for line in io.BytesIO(text) if (match := _AMENDS.match(line))]
    if len(found) < len(numbers):
        return None
    rows = np.array([int(match[1]) for match in found])
    return _Kind(places, rows, names[1:], numbers[:, 1:])


def _names(raw: list[bytes]) -> list[str]:
    """The columns of a line, as they stand between its quotes; empty if they are not plain."""
    try:
        # What follows a backslash may be a quote: it is not the end of a name, and no JSON.
        names = [parse_json(f'"{name.decode("utf-8")}"') for name in raw]
    except ValueError:
        return []
    begins = AMENDS if AMENDS in names else "epoch"
    is_plain = begins in names[: 1 if begins == AMENDS else None]
    return names if is_plain and len(set(names)) == len(names) else []


def _without_names(text: bytes, names: list[bytes]) -> bytes:
    """The fields of lines that all have these names, between commas; empty if not all have."""
    before = np.frombuffer(text, np.uint8)
    quotes = np.flatnonzero(before == ord('"'))
    ends = np.flatnonzero(before == ord("\n"))
    closes = before[ends - 1] == ord("}")
    if len(quotes) != 2 * len(names) * len(ends) or 0 in before or not closes.all():
        return b""
    opening = quotes[::2].reshape(len(ends), len(names))
    comma, colon = next((s for s in _STYLES if text[quotes[1] + 1 :].startswith(s[1])), _STYLES[0])
    left = before.copy()
    for i, name in enumerate(names):
        # What stands before a number, of which a comma is kept.
        between = np.frombuffer((comma if i else b"{") + b'"' + name + b'"' + colon, np.uint8)
        begins = opening[:, i] - (len(comma) if i else 1)
        if begins[-1] + len(between) > len(left):
            return b""
        windows = sliding_window_view(left, len(between), writeable=True)
        if (windows[begins] != between).any():
            return b""
        windows[begins] = 0
        if i:
            left[begins] = ord(",")
    table = left.tobytes().translate(None, b"\0")
    # The brace before each line break, and there alone.
    expected = (b"," * (len(names) - 1) + b"}\n") * len(ends)
    is_plain = table.translate(None, b"0123456789+-.eEnul") == expected
    return table.replace(b"}", b"") if is_plain else b""


def _are_numbers(table: bytes) -> bool:
    """Whether none of the fields is one that pandas takes for a number, and JSON does not.

    Such are +5, 05, .5 and 5.; and -0, which is an integer in JSON, without a sign.

    Args:
        table: fields of digits, signs, points, and the letters of exponents and null.
    """
    text = np.frombuffer(b"\n" + table + b"\n\n", np.uint8)
    is_digit = np.zeros(256, dtype=bool)
    is_digit[list(b"0123456789")] = True
    edges = np.flatnonzero((text == ord(",")) | (text == ord("\n")))[:-2]
    if np.diff(edges).max() > _LONGEST_NUMBER:
        return False
    first, second, third = (text[edges[:-1] + i] for i in (1, 2, 3))
    is_negative = first == ord("-")
    begins, goes_on = np.where(is_negative, (second, third), (first, second))
    is_null = (begins == ord("n")) & ~is_negative
    is_zero = begins == ord("0")
    ends = (goes_on == ord(",")) | (goes_on == ord("\n"))
    wrong = ~(is_digit[begins] | is_null) | (is_zero & (is_digit[goes_on] | (is_negative & ends)))
    points = np.flatnonzero(text == ord("."))
    return not wrong.any() and bool(is_digit[text[points + 1]].all())


def _numbers(table: bytes, columns: int) -> FloatArray | None:
    """The numbers of a table without a header; None if a field is none, or beyond all floats."""
    if not _are_numbers(table):
        return None
    import pandas as pd  # noqa: PLC0415

    try:
        frame = pd.read_csv(
            io.BytesIO(table),
            header=None,
            dtype=np.float64,
            keep_default_na=False,
            na_values=["null"],
            index_col=False,
            lineterminator="\n",
            quoting=csv.QUOTE_NONE,
            low_memory=False,
            **_exactly(pd.__version__),
        )
    except ValueError:
        return None
    numbers: FloatArray = frame.to_numpy()
    return None if numbers.shape[1] != columns or np.isinf(numbers).any() else numbers


def _exactly(version: str) -> dict[str, Any]:
    """What asks pandas for the nearest floats, which it gives by itself since 3.1."""
    major, minor = map(int, version.split(".")[:2])
    return {} if (major, minor) >= (3, 1) else {"float_precision": "round_trip"}
