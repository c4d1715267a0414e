"""A trace as a folder of plain files: `meta.json`, `epochs.jsonl` and `power.csv`.

- `meta.json`: one JSON object, replaced as a whole, so it is never half written.
- `epochs.jsonl`: one JSON object per line, one line per epoch. A line with `amends_row` adds values
  (metrics logged later) to the row of that number in the file, counted from 0.
- `power.csv`: one line per reading; an empty field is a quantity that was not read.
- `latest.json`, present only while the run is going on or after it was killed: recent totals,
  devices and the epoch under way, in the form that `meta.json` has after the run. Replaced as a
  whole.

The two growing files are only appended to. A killed process can leave a truncated last line; a last
line without a line break is ignored when the folder is read.
"""

from __future__ import annotations

import csv
import io
import json
import math
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from energyest.arrays import FloatArray
from energyest.checks import is_count, is_number, number_or_nan
from energyest.errors import TraceError
from energyest.records.epoch_table import AMENDS, EpochTable
from energyest.records.own_files import OwnFiles
from energyest.records.safe_json import inside, parse_json, read_bytes, read_lines
from energyest.records.table_files import few_columns, parse_readings, take_plain

FORMAT = 1
META_FILE = "meta.json"
EPOCHS_FILE = "epochs.jsonl"
POWER_FILE = "power.csv"
LATEST_FILE = "latest.json"
FILES = (META_FILE, EPOCHS_FILE, POWER_FILE, LATEST_FILE)

POWER_COLUMNS = (
    "time_s",
    "device",
    "power_W",
    "energy_J",
    "utilization",
    "memory_bytes",
    "temperature_C",
)
# Larger files are refused: a trace from elsewhere must not fill the memory. The description of a
# large model takes half a megabyte; 100,000 intervals of 50 columns take 160 MB; a month of 8 GPUs,
# with merged readings, takes 50 MB.
MOST_META_BYTES = 4 * 2**20
MOST_EPOCHS_BYTES = 512 * 2**20
MOST_POWER_BYTES = 256 * 2**20
# Rows × columns, which a small file can make large: 256 MiB as numbers of 8 bytes.
MOST_VALUES = 2**25
# An interval every 3 s for a month; a trace has more columns than its file names.
MOST_EPOCHS = 2**20
# Values and bytes of a row: several times what `MetricNames` allows.
MOST_COLUMNS = 2**16
MOST_LINE_BYTES = 2**24
# Rows written at a time.
_PART_ROWS = 4096
# Bytes of the epochs file read at a time, and the size from which its columns are parsed at once.
_PART_BYTES, _MANY_BYTES = 2**21, 2**18
# The keys that `latest.json` supplies for a run that has not ended.
LATEST = ("duration_s", "total_J", "components", "devices", "interrupted_epoch")
_ROUNDING_S = 1e-6
Columns = dict[str, NDArray[Any]]


def encode_epoch(row: Mapping[str, float]) -> str:
    """Encode a line of `epochs.jsonl`: a row, or an addition to an earlier row, named by `AMENDS`.

    NaN becomes null, because JSON has no NaN.
    """
    plain = {name: _plain(value) for name, value in row.items()}
    return json.dumps(plain, allow_nan=False) + "\n"


def encode_reading(row: Sequence[float | str]) -> str:
    """Encode a line of `power.csv`, in the order of `POWER_COLUMNS`."""
    cells = [
        _cell(v) if isinstance(v, str) else repr(round(float(v), 6)) if math.isfinite(v) else ""
        for v in row
    ]
    return ",".join(cells) + "\n"


@lru_cache
def _cell(text: str) -> str:
    """Encode a CSV field; cached, because there are few device names and many lines."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow([text, 0])
    return line.getvalue().removesuffix(",0\n")


POWER_HEADER = ",".join(POWER_COLUMNS) + "\n"


def encode_meta(meta: Mapping[str, Any], *, indent: int | None = 1) -> str:
    """Encode the text of `meta.json` or `latest.json`.

    Args:
        meta: plain JSON values.
        indent: indentation of each level; None for a single line, which is faster.

    Raises:
        TraceError: the meta holds names that are not text or numbers that are not finite, or is
            too large.
    """
    facts = {name: value for name, value in meta.items() if name != "format"}
    try:
        text = {"format": FORMAT, **facts}
        written = json.dumps(text, indent=indent, default=_plain_json, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TraceError(f"meta must be plain JSON: {error}") from error
    if len(written) > MOST_META_BYTES:  # it is ASCII
        raise TraceError(f"meta is larger than {MOST_META_BYTES} bytes: it could not be read back")
    return written


def epoch_lines(columns: Mapping[str, NDArray[Any]]) -> Iterator[str]:
    """The lines of `epochs.jsonl`, as from `encode_epoch`, but faster than one by one."""
    names = (json.dumps(name).replace("%", "%%") for name in columns)
    line = "{" + ", ".join(f"{name}: %s" for name in names) + "}\n"
    # In parts, because numbers take more memory as Python objects.
    for first in range(0, max(map(len, columns.values()), default=0), _PART_ROWS):
        part = (_plain_numbers(values[first : first + _PART_ROWS]) for values in columns.values())
        yield from map(line.__mod__, zip(*part, strict=True))


def power_lines(columns: Mapping[str, NDArray[Any]]) -> Iterator[str]:
    """The lines of `power.csv`, header first."""
    yield POWER_HEADER
    ordered = (columns[name] for name in POWER_COLUMNS)
    yield from map(encode_reading, zip(*ordered, strict=True))


def write_folder(
    folder: Path,
    epochs: Mapping[str, NDArray[Any]],
    power: Mapping[str, NDArray[Any]],
    meta: Mapping[str, Any],
) -> None:
    """Write a whole trace into a folder, which may hold other files.

    Raises:
        TraceError: the folder already holds a trace, or a file with the name of a trace file (which
            is left unchanged); the folder cannot be written; or the meta is not plain JSON.
    """
    text = encode_meta(meta)  # refuses an invalid meta before anything is written
    lines = {EPOCHS_FILE: epoch_lines(epochs), POWER_FILE: power_lines(power), META_FILE: [text]}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        own = OwnFiles(folder)
        try:
            _write_new(own, lines)
        finally:
            own.close()
    except OSError as error:
        raise TraceError(f"cannot write a trace to {folder}: {error}") from error


def _write_new(own: OwnFiles, lines: Mapping[str, Iterable[str]]) -> None:
    """Write files that do not exist yet: all or none."""
    taken = [name for name in FILES if own.exists(name)]
    if taken:
        is_trace = META_FILE in taken and EPOCHS_FILE in taken
        what = "a trace" if is_trace else f"{taken[0]}, which is not replaced"
        raise TraceError(f"{own.path} already holds {what}: choose another folder")
    try:
        for name, content in lines.items():
            own.replace(name, content)
    except BaseException:
        for name in lines:
            own.remove(name)
        raise


def read_folder(
    folder: Path, needs_readings: Callable[[Mapping[str, Any]], bool] = lambda _: True
) -> tuple[dict[str, FloatArray], Columns, dict[str, Any]]:
    """Read a trace: the columns of its epochs, the columns of its readings, and its meta.

    Args:
        folder: the trace's folder.
        needs_readings: whether readings are to be read, given the meta; by default they are.

    Raises:
        TraceError: the folder or its `meta.json` is missing, the format is newer than this
            version reads, a line other than the last is damaged, a file is too large, or
            `read_text` refuses it.
    """
    try:
        if not folder.is_dir():
            what = "it is a file, not a folder" if folder.exists() else "there is no such folder"
            raise TraceError(f"no trace at {folder}: {what}")
    except OSError as error:
        raise TraceError(f"cannot read the trace at {folder}: {error}") from error
    meta, epochs = _read_meta(folder), _read_epochs(folder)
    if meta.get("status") == "running":
        meta |= _read_latest(folder, meta.get("run_id"), epochs)
    return epochs, _read_power(folder) if needs_readings(meta) else {}, meta


def read_text(folder: Path, name: str, most_bytes: int) -> str | None:
    """The text of a file in a trace folder; None if there is no such file.

    Args:
        folder: the trace folder.
        name: path of the file below the folder.
        most_bytes: a larger file is refused.

    Raises:
        TraceError: it is not a regular file, leads out of the folder, is too large, is not UTF-8,
            or cannot be read.
    """
    data = _read_bytes(folder, name, most_bytes)
    try:
        return None if data is None else data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TraceError(f"{folder / name} is damaged: {error}") from error


def _plain(value: float) -> float | int | None:
    number = float(value)
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


def _plain_numbers(values: NDArray[Any]) -> list[object]:
    """The numbers as written in the files, each as from `_plain`."""
    plain = values.astype(object)
    is_whole = (np.floor(values) == values) & (np.abs(values) < 2**53)
    plain[is_whole] = values[is_whole].astype(np.int64)
    plain[~np.isfinite(values)] = "null"
    numbers: list[object] = plain.tolist()
    return numbers


def _read_bytes(
    folder: Path, name: str, most_bytes: int, *, whole_lines: bool = False
) -> bytes | None:
    """The bytes of a file; with `whole_lines`, without a last line truncated by a kill."""
    path = inside(folder, name)
    try:
        data = read_bytes(path, most_bytes)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise TraceError(f"cannot read {path}: {error}") from error
    return data[: data.rfind(b"\n") + 1] if whole_lines else data


def _read_meta(folder: Path) -> dict[str, Any]:
    path = folder / META_FILE
    text = read_text(folder, META_FILE, MOST_META_BYTES)
    if text is None:
        if inside(folder, EPOCHS_FILE).exists():
            return {}  # killed just after the start
        raise TraceError(f"{folder} is not a trace folder: it has no {META_FILE}")
    try:
        meta = parse_json(text)
    except ValueError as error:
        raise TraceError(f"{path} is damaged: {error}") from error
    version = meta.get("format") if isinstance(meta, dict) else None
    if not is_count(version, 1):
        raise TraceError(f"{path} is damaged: it states no format number")
    if version > FORMAT:
        raise TraceError(
            f"{folder} has trace format {version}; this version of energyest reads up to "
            f"{FORMAT}: upgrade energyest to read it"
        )
    return {name: value for name, value in meta.items() if name != "format"}


def _read_latest(folder: Path, run_id: object, epochs: Mapping[str, FloatArray]) -> dict[str, Any]:
    """The last known state of a run that has not ended; empty if missing or unusable."""
    try:
        latest = parse_json(read_text(folder, LATEST_FILE, MOST_META_BYTES) or "null")
    except (TraceError, ValueError):
        return {}
    if not isinstance(latest, dict) or latest.get("run_id") != run_id:
        return {}
    known = {name: latest[name] for name in LATEST if name in latest}
    for total, part in (("total_J", "energy_J"), ("duration_s", "duration_s")):
        # A row may have begun and ended after `latest.json` was written.
        sum_of_rows = float(np.sum(epochs.get(part, np.empty(0))))
        if number_or_nan(known.get(total)) < sum_of_rows * (1 - 1e-6) - _ROUNDING_S:
            known.pop(total)
    cut = known.get("interrupted_epoch")
    if not isinstance(cut, dict) or not isinstance(cut.get("start_s"), int | float):
        known.pop("interrupted_epoch", None)
        return known
    since = epochs.get("start_s", np.empty(0)) >= cut["start_s"] - _ROUNDING_S
    if since.any():
        # The epoch has ended since: its final cost replaces its cost so far.
        del known["interrupted_epoch"]
        rows = {name: float(values[since].sum()) for name, values in epochs.items()}
        for sums in (known, known.get("components")):
            if isinstance(sums, dict):
                _renew(sums, cut, rows)
    return known


def _renew(sums: dict[str, Any], before: Mapping[str, Any], after: Mapping[str, float]) -> None:
    """Update sums after one part of them has changed; remove a sum that becomes unknown."""
    for name in list(sums):
        part = "energy_J" if name == "total_J" else name
        if part in after:
            values = sums.pop(name), before.get(part), after[part]
            if all(isinstance(v, int | float) and math.isfinite(v) for v in values):
                old, was, has = values
                sums[name] = old - was + has


def _read_epochs(folder: Path) -> dict[str, FloatArray]:
    table = EpochTable(MOST_EPOCHS, MOST_VALUES)
    path = inside(folder, EPOCHS_FILE)
    number = 0
    try:
        for part in read_lines(path, MOST_EPOCHS_BYTES, _PART_BYTES):
            few = few_columns(part) if len(part) < _MANY_BYTES else {}
            is_all = len(part) < _PART_BYTES and not len(table)
            if few and is_all and len(few["epoch"]) <= MOST_EPOCHS:
                return few
            taken = 0 if len(part) < _MANY_BYTES else take_plain(table, part)
            number += taken
            for line in io.BytesIO(b"" if taken else part):
                number += 1
                _read_line(table, line, folder, number)
    except FileNotFoundError:
        pass
    except TraceError:
        raise
    except (OSError, ValueError) as error:
        raise TraceError(f"cannot read {path}: {error}") from error
    return table.into_columns()


def _read_line(table: EpochTable, line: bytes, folder: Path, number: int) -> None:
    try:
        if len(line) > MOST_LINE_BYTES or line.count(b'":') > MOST_COLUMNS:
            raise ValueError("the row is too large")
        row = parse_json(line.decode("utf-8"))
        amends = row.pop(AMENDS, None)
        values = {name: _number(value) for name, value in row.items()}
        if amends is not None:
            table.amend(values, amends)
        elif "epoch" in values:
            table.append(values)
        else:
            raise ValueError("it names no epoch")
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        path = folder / EPOCHS_FILE
        raise TraceError(f"{path}, line {number}, is damaged: {error!r}") from error


def _number(value: object) -> float:
    """A number of a row as a float; null, for what was not measured, becomes NaN."""
    if value is None:
        return math.nan
    if not is_number(value):
        raise TypeError(f"{reprlib.repr(value)} is not a number")
    return float(value)


def _plain_json(value: object) -> object:
    """Convert numpy values to Python values, and anything else that JSON lacks to text."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return str(value)


def _read_power(folder: Path) -> Columns:
    data = _read_bytes(folder, POWER_FILE, MOST_POWER_BYTES, whole_lines=True)
    if not data:
        return {}
    try:
        return parse_readings(data, most_values=MOST_VALUES)
    except ValueError as error:
        raise TraceError(f"{folder / POWER_FILE}{error}") from error
