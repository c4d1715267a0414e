"""Logs of Zeus: windows of `ZeusMonitor`, power of `PowerMonitor` and `zeus_monitor`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from energyest.arrays import FloatArray
from energyest.checks import short
from energyest.errors import TraceError
from energyest.readers.clock import Clock, clock_of_texts, clock_of_unix
from energyest.readers.readings import Readings, trace_of_readings, wide_readings
from energyest.readers.tables import Table, read_any_table
from energyest.readers.text import split_row
from energyest.readers.windows import Windows, trace_of_windows
from energyest.records.trace import EnergyTrace

_WINDOWS = ["start_time", "window_name", "elapsed_time"]
_ENERGY = re.compile(r"(gpu|cpu|dram)(\d*)_energy")
# Columns of PowerMonitor, depending on the version: gpu0, power0, gpu0_power, GPU0 power (W).
_POWER = re.compile(
    r"(?:(gpu|cpu|dram)_?)?(?:power_?)?(\d+)(?:[_ ]?power)?(?:[_ ]?\(?w(?:atts)?\)?)?", re.I
)
# The number at the end of names such as epoch_3.
_NUMBER = re.compile(r"[\s_:#-]*\d+$")
# Consecutive windows may touch.
_TOUCH_S = 1e-3


def is_zeus(path: Path, head: str) -> bool:
    """Whether a file is a log of Zeus."""
    header = split_row(head.partition("\n")[0])
    return header[:3] == _WINDOWS or _is_power(header)


def _is_power(header: list[str]) -> bool:
    if header == ["Time", "Power"]:  # of zeus_monitor
        return True
    return (
        len(header) > 1
        and header[0].lower() in ("time", "timestamp")
        and all(_POWER.fullmatch(name) for name in header[1:])
    )


def read_zeus(
    path: str | Path,
    *,
    epoch_end_s: Any = None,
    epoch_marks: str | None = None,
    window: str | None = None,
    gpu: Any = None,
    timezone: str | None = None,
    max_gap_s: float | None = None,
) -> EnergyTrace:
    """Read a trace from the `log_file` of Zeus's `ZeusMonitor`, or from power that Zeus logged.

    Args:
        path: the log.
        epoch_end_s: when epochs ended, as in `read_nvidia_smi`. A log of windows is cut at these
            ends; needed if its windows are not epochs.
        epoch_marks: if `epoch_end_s` is a file, regular expression of the lines that are ends.
        window: name of the windows that are epochs, with or without the number at its end; needed
            if there are several kinds and none is called epoch.
        gpu: index of the GPU to count, or a list of them; by default, all are summed.
        timezone: the time zone of the local times that `zeus_monitor` writes.
        max_gap_s: as in `EnergyTrace.from_power`.

    Raises:
        TraceError: the file is not such a log; its windows are of several kinds, or overlap; a
            value is not a number. The message names the line.

    Examples:
        >>> from energyest.readers import read_zeus
        >>> read_zeus('zeus.csv').column('energy_J').tolist()
        [6000.0, 6000.0, 6000.0]
    """
    table = read_any_table(Path(path), separator=",")
    if table.names[:3] == _WINDOWS:
        windows = _windows(table, window, gpu)
        return trace_of_windows(windows, epoch_end_s=epoch_end_s, epoch_marks=epoch_marks)
    if not _is_power(table.names):
        raise TraceError(f"{table.path} is not a log of Zeus: its columns are {table.names}")
    return trace_of_readings(
        _readings(table, timezone),
        epoch_end_s=epoch_end_s,
        epoch_marks=epoch_marks,
        gpu=gpu,
        max_gap_s=max_gap_s,
    )


def _windows(table: Table, window: str | None, gpu: Any) -> Windows:
    table, notes = _of_kind(table, window)
    start_s, duration_s = table.numbers("start_time"), table.numbers("elapsed_time")
    wrong = np.flatnonzero(~np.isfinite(start_s) | ~np.isfinite(duration_s))
    if len(wrong):
        raise table.refusal(int(wrong[0]), "a window without its times")
    order = np.argsort(start_s, kind="stable")
    table = table._replace(
        rows=[table.rows[n] for n in order], lines=[table.lines[n] for n in order]
    )
    start_s, duration_s = start_s[order], duration_s[order]
    overlap_s = (start_s + duration_s)[:-1] - start_s[1:]
    if (overlap_s > _TOUCH_S).any():
        first = int(np.argmax(overlap_s > _TOUCH_S)) + 1
        raise table.refusal(
            first,
            f"its window begins {overlap_s[first - 1]:.4g} s before the end of the window on line "
            f"{table.lines[first - 1]}: overlapping windows must not be summed",
        )
    wanted = (
        None
        if gpu is None
        else {str(n) for n in (gpu if isinstance(gpu, (list, tuple)) else [gpu])}
    )
    columns: dict[str, FloatArray] = {}
    devices = []
    for name in table.names[3:]:
        match = _ENERGY.fullmatch(name)
        if match is None:
            raise TraceError(f"{table.path}: unknown column {short(name)}")
        kind, number = {"dram": "ram"}.get(match[1], match[1]), match[2] or "0"
        if wanted is not None and not (kind == "gpu" and number in wanted):
            continue
        key = f"{kind}_energy_J"
        columns[key] = columns.get(key, 0.0) + table.numbers(name)
        devices.append({"device": f"{kind}:{number}", "kind": kind, "source": "measured"})
    if not columns:
        raise TraceError(
            f"{table.path} holds no energy of {'any device' if gpu is None else f'gpu={gpu!r}'}"
        )
    end_s, clock = clock_of_unix(start_s + duration_s)
    return Windows(
        table.path,
        "zeus",
        np.asarray(np.sum(list(columns.values()), axis=0)),
        duration_s,
        columns,
        table.lines,
        end_s=end_s,
        clock=clock,
        devices=devices,
        notes=[*table.notes, *notes],
        facts={"window": _NUMBER.sub("", table.texts("window_name")[0])},
    )


def _of_kind(table: Table, window: str | None) -> tuple[Table, list[str]]:
    """The windows that are epochs."""
    names = table.texts("window_name")
    if not names:
        raise TraceError(f"{table.path} holds no window")
    kinds = list(dict.fromkeys(_NUMBER.sub("", name) for name in names))
    if window is not None:
        keep = [window in (name, _NUMBER.sub("", name)) for name in names]
        if not any(keep):
            raise TraceError(
                f"{table.path} has no window={short(window)}; it has {', '.join(kinds)}"
            )
        return table.where(keep), []
    if len(kinds) == 1:
        return table, []
    epochs = [kind for kind in kinds if re.search("epoch", kind, re.I)]
    if len(epochs) != 1:
        other = next(n for n, name in enumerate(names) if _NUMBER.sub("", name) != kinds[0])
        raise table.refusal(
            other, f"windows of several kinds: choose the epochs with window=: {', '.join(kinds)}"
        )
    keep = [_NUMBER.sub("", name) == epochs[0] for name in names]
    left_out = [kind for kind in kinds if kind != epochs[0]]
    return table.where(keep), [
        f"epochs are the windows {short(epochs[0])}; left out: "
        f"{', '.join(left_out)}; window= chooses others"
    ]


def _readings(table: Table, timezone: str | None) -> Readings:
    time, notes = table.names[0], list(table.notes)
    factor = 1.0
    if table.names == ["Time", "Power"]:
        factor = 1e-3
        notes.append(f"{table.path.name}, line 1: Power is in mW, as zeus_monitor writes it")
    texts = table.texts(time)
    clock: Clock
    if texts and re.fullmatch(r"\d+(\.\d+)?", texts[0]):
        time_s, clock = clock_of_unix(table.numbers(time))
    else:
        time_s, clock = clock_of_texts(texts, table.refusal, timezone)
    powers: dict[str, FloatArray] = {}
    for name in table.names[1:]:
        match = _POWER.fullmatch(name)
        kind = ((match and match[1]) or "gpu").lower().replace("dram", "ram")
        powers[f"{kind}:{match[2] if match else 0}"] = table.numbers(name, factor)
    return Readings(
        table.path,
        "zeus power",
        clock=clock,
        notes=notes,
        **wide_readings(time_s, powers, table.lines),
    )
