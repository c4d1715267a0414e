"""Readings out of a file `power.csv`, which may come from anywhere."""

from __future__ import annotations

import csv
import io
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
