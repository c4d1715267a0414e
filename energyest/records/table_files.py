"""Read many rows at once from `epochs.jsonl` and `power.csv`, which are not trusted."""

from __future__ import annotations

import csv
import io
import re
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from energyest.arrays import FloatArray
from energyest.records.epoch_table import AMENDS, EpochTable
from energyest.records.safe_json import parse_any_numbers, parse_json

# A machine has at most 16 GPUs, but the saved sum of many machines has all of theirs.
_MOST_DEVICES = 2**12
# A usual line has seven fields, one of which is a name.
_MOST_LINE_BYTES, _MOST_FIELDS = 2**16, 2**10
# A quoted field, in which quotes are doubled, or a field without any quote.
_FIELD = rb'(?:"(?:[^"]|"")*"|[^",]*)'
_QUOTED = re.compile(rb"%b(?:,%b)*" % (_FIELD, _FIELD))


def parse_readings(data: bytes, *, most_values: int) -> dict[str, NDArray[Any]]:
    """Parse a table into columns, by the names in its first line.

    Args:
        data: the file, in whole lines; at least one.
        most_values: the largest number of lines × columns.

    Raises:
        ValueError: a line is damaged or too long, or the table is too large. The message is worded
            to follow the file's name.
    """
    header = data[: min(data.index(b"\n"), _MOST_LINE_BYTES + 1)].decode("utf-8", "replace")
    names = header.split(",")
    if len(header) > _MOST_LINE_BYTES or len(names) > _MOST_FIELDS:
        raise ValueError(", line 1, is damaged: it names too many columns")
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
            # Lines and fields are defined as in `_check_fields`.
            lineterminator="\n",
            quoting=csv.QUOTE_MINIMAL if has_quotes else csv.QUOTE_NONE,
        )
    except (ValueError, pd.errors.ParserError) as error:
        raise ValueError(f" is damaged: {error}") from error
    devices = table["device"].unique()
    if len(devices) > _MOST_DEVICES:
        raise ValueError(f" is damaged: it has {len(devices)} device names, which are too many")
    if not all(str(name).isprintable() for name in devices):
        raise ValueError(" is damaged: a device name cannot be printed")
    return {name: table[name].to_numpy() for name in names}


def _check_fields(data: bytes, fields: int, most_values: int) -> None:
    """Refuse lines with more or fewer fields than the header, and tables that are too large."""
    text = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(text == ord("\n"))
    if len(ends) * fields > most_values:
        raise ValueError(f" has {len(ends)} lines of {fields} fields: that is too many")
    long = np.diff(ends, prepend=-1) > _MOST_LINE_BYTES
    if long.any():
        raise ValueError(f", line {int(np.argmax(long)) + 1}, is too long")
    commas = np.flatnonzero(text == ord(","))
    quotes = np.flatnonzero(text == ord('"'))
    commas = commas[np.searchsorted(quotes, commas) % 2 == 0]  # commas outside of quotes
    wrong = np.diff(np.searchsorted(commas, ends), prepend=0) != fields - 1
    if wrong.any():
        number = int(np.argmax(wrong)) + 1
        raise ValueError(f", line {number}, is damaged: it must have {fields} fields")


# ---------------------------------------------------------------------- epochs

# Lines with different names are read separately; a file with more kinds of lines is not plain.
_MOST_KINDS = 16
_LONGEST_LINE, _LONGEST_NUMBER = 2**14, 40
# Separators of JSON: Python's default, and the most compact.
_STYLES = ((b", ", b": "), (b",", b":"))
# Types of the values in a row.
_NUMBERS = {int, float, type(None)}
_AMENDS = re.compile(rb'\{"%b": ?(0|[1-9]\d{0,9}),' % AMENDS.encode())


class _Kind(NamedTuple):
    """Lines that name the same columns.

    Attributes:
        places: shape (lines,), their positions among all lines.
        rows: shape (lines,), the rows that they amend; None if the lines are rows themselves.
        names: the columns.
        numbers: shape (lines, columns).
    """

    places: NDArray[np.intp]
    rows: NDArray[np.intp] | None
    names: list[str]
    numbers: FloatArray


def take_plain(table: EpochTable, text: bytes) -> int:
    """Add lines of `epochs.jsonl` to a table if all of them are plain.

    Plain lines are as `encode_epoch` writes them: one object per line, with numbers or null as
    values. Reading them at once gives the same result as reading them one by one, six times as
    fast.

    Args:
        table: the table; unchanged if the lines are not plain.
        text: whole lines, at least one.

    Returns:
        The number of lines; 0 if they are not plain. Reading them one by one then shows what is
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
                return 0  # the row does not exist yet
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
        # In the order of the lines: a later value of a row replaces an earlier one.
        order = np.argsort(places, kind="stable") if len(having) > 1 else slice(None)
        table.put(name, rows[places[order]], values[order])
    return lines


def few_columns(text: bytes) -> dict[str, FloatArray]:
    """The columns of a few plain lines, which are rows of the same columns; empty if they are not.

    As `take_plain`, which is faster for many lines, for those that all name the same columns. They
    are read as JSON in one piece.

    Args:
        text: whole lines, at least one.
    """
    lines = text.count(b"\n")
    if text.count(b"}\n") != lines or b"\\" in text:  # escaped names may not be printable
        return {}
    # Strings have no line breaks in JSON, and no value is an object: if there are as many rows as
    # lines, each line is one.
    joined = text[:-1].replace(b"\n", b",\n")
    try:
        rows = parse_any_numbers(f"[{joined.decode('utf-8')}]")
        (names,) = set(map(tuple, rows))
        values = [list(row.values()) for row in rows]
        are_numbers = set(map(type, chain.from_iterable(values))) <= _NUMBERS
        if len(rows) != lines or "epoch" not in names or AMENDS in names or not are_numbers:
            return {}
        # null, for what was not measured, becomes NaN.
        columns = np.ascontiguousarray(np.array(values, dtype=np.float64).T)
        columns.flags.writeable = False  # so that nobody needs to copy them
        return {} if np.isinf(columns).any() else dict(zip(names, columns, strict=True))
    except (ValueError, TypeError, AttributeError, OverflowError):
        return {}


def _kinds_of(text: bytes) -> list[_Kind] | None:
    """Group lines by the names in them, in order of appearance; None if they are not plain."""
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
    """Parse lines that all name the same columns; None if they do not, or are not plain."""
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
    """The columns named in a line, from the text between its quotes; empty if not plain."""
    try:
        # After a backslash, a quote does not end a name: what was split there is not valid JSON.
        names = [parse_json(f'"{name.decode("utf-8")}"') for name in raw]
    except ValueError:
        return []
    begins = AMENDS if AMENDS in names else "epoch"
    is_plain = begins in names[: 1 if begins == AMENDS else None]
    return names if is_plain and len(set(names)) == len(names) else []


def _without_names(text: bytes, names: list[bytes]) -> bytes:
    """The values of lines, separated by commas; empty unless all lines have exactly these names."""
    before = np.frombuffer(text, np.uint8)
    quotes = np.flatnonzero(before == ord('"'))
    ends = np.flatnonzero(before == ord("\n"))
    closes = before[ends - 1] == ord("}")
    if len(quotes) != 2 * len(names) * len(ends) or 0 in before or not closes.all():
        return b""
    opening = quotes[::2].reshape(len(ends), len(names))
    if (opening[:, 0] - 1 != np.append(0, ends[:-1] + 1)).any():
        return b""  # a line does not begin with a brace and a quote
    comma, colon = next((s for s in _STYLES if text[quotes[1] + 1 :].startswith(s[1])), _STYLES[0])
    left = before.copy()
    for i, name in enumerate(names):
        # The text before a number, of which only the comma is kept.
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
    # A brace before each line break, and nowhere else.
    expected = (b"," * (len(names) - 1) + b"}\n") * len(ends)
    is_plain = table.translate(None, b"0123456789+-.eEnul") == expected
    return table.replace(b"}", b"") if is_plain else b""


def _are_numbers(table: bytes) -> bool:
    """Whether every field that pandas accepts as a number is valid, and the same, in JSON.

    Not valid are +5, 05, .5 and 5.; not the same is -0, an integer without a sign in JSON.

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
    """The numbers of a table without a header; None if a field is not a number, or overflows."""
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
    """The option that makes pandas round to the nearest float, its default since 3.1."""
    major, minor = map(int, version.split(".")[:2])
    return {} if (major, minor) >= (3, 1) else {"float_precision": "round_trip"}
