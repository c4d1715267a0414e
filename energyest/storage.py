"""A trace as a folder of plain files: `meta.json`, `epochs.jsonl` and `power.csv`.

- `meta.json`: one JSON object; replaced as a whole, so it is never half written.
- `epochs.jsonl`: one JSON object a line, one line an epoch; but a line with `amends_row` adds to
  the epoch of that number in the file, counted from 0 (a metric that was logged later).
- `power.csv`: one line a reading; an empty field is a quantity that was not read.

The two growing files are only ever appended to. A process that is killed can leave its last line
cut short; such a line (one without a line break) is left out when the folder is read.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from energyest.errors import TraceError

FORMAT = 1
META_FILE = "meta.json"
EPOCHS_FILE = "epochs.jsonl"
POWER_FILE = "power.csv"

POWER_COLUMNS = (
    "time_s",
    "device",
    "power_W",
    "energy_J",
    "utilization",
    "memory_bytes",
    "temperature_C",
)
# Key of a line that adds to an earlier row, whose number is its value.
AMENDS = "amends_row"
Columns = dict[str, NDArray[Any]]


def encode_epoch(row: Mapping[str, float]) -> str:
    """One line of `epochs.jsonl`; NaN becomes null, because JSON has no NaN."""
    plain = {name: _plain(value) for name, value in row.items()}
    return json.dumps(plain, allow_nan=False) + "\n"


def encode_amendment(row: int, values: Mapping[str, float]) -> str:
    """A line of `epochs.jsonl` that adds to an earlier one."""
    return encode_epoch({AMENDS: row, **values})


def encode_reading(row: Sequence[float | str]) -> str:
    """One line of `power.csv`, in the order of `POWER_COLUMNS`."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(
        v if isinstance(v, str) else repr(round(float(v), 6)) if math.isfinite(v) else ""
        for v in row
    )
    return line.getvalue()


POWER_HEADER = ",".join(POWER_COLUMNS) + "\n"


def encode_meta(meta: Mapping[str, Any]) -> str:
    """The text of `meta.json`.

    Raises:
        TraceError: it holds names that are not text, or numbers that are not finite.
    """
    facts = {name: value for name, value in meta.items() if name != "format"}
    try:
        text = {"format": FORMAT, **facts}
        return json.dumps(text, indent=1, default=_plain_json, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TraceError(f"meta must be plain JSON: {error}") from error


def write_meta(folder: Path, meta: Mapping[str, Any]) -> None:
    """Replace `meta.json` in one step."""
    text = encode_meta(meta)
    temporary = folder / (META_FILE + ".new")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, folder / META_FILE)


def write_folder(
    folder: Path,
    meta: Mapping[str, Any],
    epochs: Iterable[Mapping[str, float]],
    readings: Iterable[Sequence[float | str]],
) -> None:
    """Write a whole trace; the folder must not hold one yet."""
    encode_meta(meta)  # what cannot be written is refused before anything is
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / META_FILE).exists():
            raise TraceError(f"{folder} already holds a trace: choose another folder")
        with open(folder / EPOCHS_FILE, "w", encoding="utf-8") as file:
            file.writelines(encode_epoch(row) for row in epochs)
        with open(folder / POWER_FILE, "w", encoding="utf-8") as file:
            file.write(POWER_HEADER)
            file.writelines(encode_reading(row) for row in readings)
        write_meta(folder, meta)
    except OSError as error:
        raise TraceError(f"cannot write a trace to {folder}: {error}") from error


def read_folder(folder: Path) -> tuple[dict[str, Any], Columns, Columns]:
    """Read a trace: meta, the columns of its epochs and the columns of its readings.

    Raises:
        TraceError: the folder or its `meta.json` is missing, the format is newer than this
            version reads, or a line other than the last is damaged.
    """
    if not folder.is_dir():
        what = "it is a file, not a folder" if folder.exists() else "there is no such folder"
        raise TraceError(f"no trace at {folder}: {what}")
    try:
        meta = _read_meta(folder / META_FILE)
        epochs = _read_epochs(folder / EPOCHS_FILE)
        power = _read_power(folder / POWER_FILE)
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"cannot read the trace at {folder}: {error}") from error
    return meta, epochs, power


def columns_from_rows(rows: Iterable[Mapping[str, float]]) -> Columns:
    """Columns of float64 from rows that may each lack some names; what lacks is NaN."""
    rows = list(rows)
    names = dict.fromkeys(name for row in rows for name in row)
    return {
        name: np.array([row.get(name, math.nan) for row in rows], dtype=np.float64)
        for name in names
    }


def _plain(value: float) -> float | int | None:
    number = float(value)
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


def _read_meta(path: Path) -> dict[str, Any]:
    if not path.exists():
        if (path.parent / EPOCHS_FILE).exists():
            return {}  # killed just after it began
        raise TraceError(f"{path.parent} is not a trace folder: it has no {path.name}")
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, RecursionError) as error:
        raise TraceError(f"{path} is damaged: {error}") from error
    version = meta.get("format") if isinstance(meta, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise TraceError(f"{path} is damaged: it states no format number")
    if version > FORMAT:
        raise TraceError(
            f"{path.parent} has trace format {version}; this version of energyest reads up to "
            f"{FORMAT}: upgrade energyest to read it"
        )
    return {str(name): value for name, value in meta.items() if name != "format"}


def _read_epochs(path: Path) -> Columns:
    rows: list[dict[str, float]] = []
    for number, line in enumerate(_whole_lines(path), start=1):
        try:
            row = json.loads(line, parse_constant=_refuse_constant)
            amends = row.pop(AMENDS, None)
            values = {str(n): math.nan if v is None else _number(v) for n, v in row.items()}
            if amends is None:
                rows.append({"epoch": values["epoch"], **values})
            else:
                rows[_checked_row(amends, len(rows))].update(values)
        except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
            raise TraceError(f"{path}, line {number}, is damaged: {error!r}") from error
    return columns_from_rows(rows)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not finite")
    return number


def _checked_row(amends: object, rows: int) -> int:
    """The number of a row that is amended."""
    if isinstance(amends, bool) or not isinstance(amends, int) or not 0 <= amends < rows:
        raise LookupError(f"there is no row {amends!r} to add to")
    return amends


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _plain_json(value: object) -> object:
    """Values of numpy as those of Python, anything else that JSON lacks as text."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return str(value)


def _read_power(path: Path) -> Columns:
    lines = _whole_lines(path)
    if not lines:
        return {}
    header = lines[0].split(",")
    if not {"time_s", "device"} <= set(header):
        raise TraceError(f"{path}, line 1, is damaged: it names no columns time_s and device")
    for number, line in enumerate(lines, start=1):
        if line.count(",") != len(header) - 1:  # names of devices hold no comma
            raise TraceError(
                f"{path}, line {number}, is damaged: it must have {len(header)} fields"
            )
    import pandas as pd  # noqa: PLC0415  (slow to import, and only needed to read files)

    try:
        table = pd.read_csv(
            io.StringIO("\n".join(lines)),
            dtype={name: str if name == "device" else np.float64 for name in header},
            keep_default_na=False,
            na_values={name: [""] for name in header if name != "device"},
            index_col=False,
            on_bad_lines="error",
        )
    except (ValueError, pd.errors.ParserError) as error:
        raise TraceError(f"{path} is damaged: {error}") from error
    return {name: table[name].to_numpy() for name in header}


def _whole_lines(path: Path) -> list[str]:
    """The lines that end in a line break; the file of a run that was just begun may be missing."""
    if not path.exists():
        return []
    data = path.read_bytes()
    return data[: data.rfind(b"\n") + 1].decode("utf-8").split("\n")[:-1]
