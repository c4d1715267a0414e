"""CodeCarbon's `emissions.csv`, and its table of tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from energyest.arrays import FloatArray
from energyest.checks import short
from energyest.errors import TraceError
from energyest.readers.clock import clock_of_texts
from energyest.readers.text import Log, read_log_text, rows_of, split_row
from energyest.readers.windows import Windows, trace_of_windows
from energyest.records.trace import EnergyTrace

_KWH_J = 3.6e6
_KINDS = ("gpu", "cpu", "ram")
# Columns that all versions write.
_SURE = {"timestamp", "duration", "emissions", "energy_consumed"}
# After the last flush, stop() writes the rest; if it is shorter than this share of the shortest
# epoch, it is not an epoch.
_NO_EPOCH = 0.5
# The parts add up to the whole, except for rounding.
_ROUNDING = 1e-3
# Times are whole seconds.
_SECOND_S = 1.0


class _Rows(NamedTuple):
    """Rows as they are in the file, or the differences between consecutive rows."""

    line: list[int]
    run: list[str]
    duration_s: FloatArray
    energy_J: FloatArray
    parts_J: dict[str, FloatArray]
    pue: FloatArray

    def taken(self, rows: Sequence[int]) -> _Rows:
        chosen = np.asarray(rows, dtype=np.intp)
        return _Rows(
            [self.line[n] for n in rows],
            [self.run[n] for n in rows],
            self.duration_s[chosen],
            self.energy_J[chosen],
            {name: part[chosen] for name, part in self.parts_J.items()},
            self.pue[chosen],
        )


def is_codecarbon(path: Path, head: str) -> bool:
    """Whether a file is a table of CodeCarbon."""
    return {*split_row(head.partition("\n")[0])} >= _SURE


def read_codecarbon(
    path: str | Path,
    *,
    epoch_end_s: Any = None,
    epoch_marks: str | None = None,
    run_id: str | Sequence[str] | None = None,
    timezone: str | None = None,
) -> EnergyTrace:
    """Read a trace from CodeCarbon's `emissions.csv`, whose rows are epochs.

    An epoch is a tracker, a task, or what a tracker's `flush()` added: rows of one run are
    cumulative, so their differences are taken. What `stop()` adds after the last flush is not an
    epoch, but counts in the total. CodeCarbon multiplies its energy by a PUE, which is divided out.

    Args:
        path: the table.
        epoch_end_s: ends at which to cut the rows, as in `read_nvidia_smi`, if rows are not epochs.
        epoch_marks: if `epoch_end_s` is a file, regular expression of the lines that are ends.
        run_id: the run to read, or the first characters of its id, if the file holds several runs.
            A list is read, in its order, as parts of one training.
        timezone: the time zone of CodeCarbon's local times.

    Raises:
        TraceError: the file is not such a table; it holds several runs, unless there is one tracker
            per epoch; cumulative values decrease; a value is not a number. The message names the
            line.

    Examples:
        >>> from energyest.readers import read_codecarbon
        >>> read_codecarbon('emissions.csv')
        EnergyTrace(3 epochs, 106.4 J, AMD EPYC, ram:0)
    """
    log = read_log_text(path)
    header = split_row(log.lines[0].text)
    if not {*header} >= _SURE:
        raise log.refusal(
            log.lines[0].number,
            "not a table of CodeCarbon: it lacks " + ", ".join(sorted(_SURE - {*header})),
        )
    table = [
        (number, dict(zip(header, row, strict=True))) for number, row in rows_of(log, header, ",")
    ]
    if not table:
        raise TraceError(f"{log.path} holds no row below its header")
    notes: list[str] = []
    if not log.is_whole and table[-1][0] != log.lines[-1].number:
        notes.append(log.note(log.lines[-1].number, "the last row was cut short and is left out"))
    table = _of_runs(log, table, run_id)
    rows = _numbers(log, table)
    is_tasks = "task_name" in header
    end_s, clock = clock_of_texts(
        [row["timestamp"] for _, row in table],
        lambda n, text: log.refusal(table[n][0], text),
        timezone,
    )
    _check_one_training(log, table, rows, is_tasks, run_id)
    epochs, outside_J = rows, 0.0
    if not is_tasks:
        epochs, kept, outside_J = _added(log, rows, notes)
        end_s = end_s[kept]
        if len({*epochs.run}) == 1:  # durations are exact, but times are whole seconds
            end_s = end_s[0] + np.cumsum(epochs.duration_s) - epochs.duration_s[0]
        _check_apart(log, epochs, end_s)
    if (epochs.pue != 1).any():
        notes.append(
            log.note(
                epochs.line[0],
                f"CodeCarbon's energy includes a PUE of {epochs.pue[0]:g}, which "
                "is divided out: energy is that of the computer alone",
            )
        )
    first = table[0][1]
    devices = _device_entries(first)
    columns = {
        f"{entry}_energy_J": epochs.parts_J[entry]
        for entry in _KINDS
        if entry in epochs.parts_J and any(d["kind"] == entry for d in devices)
    }
    _check_sum(log, epochs, notes)
    if len(epochs.line) == 1 and epoch_end_s is None:
        notes.append(log.note(epochs.line[0], "a single row, which is taken as one epoch"))
    return trace_of_windows(
        Windows(
            log.path,
            "codecarbon",
            epochs.energy_J,
            epochs.duration_s,
            columns,
            epochs.line,
            end_s=end_s,
            clock=clock,
            devices=devices,
            outside_J=outside_J,
            notes=notes,
            facts={
                name: first[key]
                for name, key in (("version", "codecarbon_version"), ("run_id", "run_id"))
                if first.get(key) and (key != "run_id" or len({*rows.run}) == 1)
            },
        ),
        epoch_end_s=epoch_end_s,
        epoch_marks=epoch_marks,
    )


Table = list[tuple[int, dict[str, str]]]


def _of_runs(log: Log, table: Table, run_id: str | Sequence[str] | None) -> Table:
    """The rows of the requested runs, in the order of the request."""
    if run_id is None:
        return table
    chosen: Table = []
    for asked in [run_id] if isinstance(run_id, str) else run_id:
        runs = {
            row.get("run_id", "") for _, row in table if row.get("run_id", "").startswith(asked)
        }
        if len(runs) != 1:
            every = dict.fromkeys(row.get("run_id", "") for _, row in table)
            raise TraceError(
                f"{log.path}: run_id={short(asked)} fits {len(runs)} runs of {', '.join(every)}"
            )
        chosen += [(number, row) for number, row in table if row.get("run_id") in runs]
    return chosen


def _numbers(log: Log, table: Table) -> _Rows:
    def column(name: str, missing: float = math.nan) -> FloatArray:
        values = []
        for number, row in table:
            text = row.get(name, "")
            try:
                value = float(text) if text else missing
            except ValueError as error:
                raise log.refusal(number, f"{name} is {short(text)}, not a number") from error
            if math.isinf(value) or value < 0:
                raise log.refusal(number, f"{name} is {text}: it must be finite and not negative")
            values.append(value)
        return np.array(values)

    pue = column("pue", 1.0)
    pue = np.where(pue > 0, pue, 1.0)
    duration_s = column("duration")
    if np.isnan(duration_s).any():
        raise log.refusal(table[int(np.argmax(np.isnan(duration_s)))][0], "no duration")
    return _Rows(
        [number for number, _ in table],
        [row.get("run_id", "") for _, row in table],
        duration_s,
        column("energy_consumed") * _KWH_J / pue,
        {
            kind: column(f"{kind}_energy") * _KWH_J / pue
            for kind in _KINDS
            if f"{kind}_energy" in table[0][1]
        },
        pue,
    )


def _check_one_training(log: Log, table: Table, rows: _Rows, is_tasks: bool, run_id: Any) -> None:
    """Refuse a file of several trainings if no run was chosen."""
    if run_id is not None:
        return
    counts: dict[str, int] = {}
    for run in rows.run:
        counts[run] = counts.get(run, 0) + 1
    if len(counts) > 1 and (is_tasks or max(counts.values()) > 1):
        other = next(n for n, run in enumerate(rows.run) if run != rows.run[0])
        runs = ", ".join(f"{run} ({count} rows)" for run, count in list(counts.items())[:5])
        more = f", ... ({len(counts)} in all)" if len(counts) > 5 else ""
        raise log.refusal(
            rows.line[other], f"another run begins: choose one with run_id=: {runs}{more}"
        )
    # (An experiment may well hold several trackers of one training.)
    projects = [row.get("project_name", "") for _, row in table]
    others = [n for n, project in enumerate(projects) if project != projects[0]]
    if others:
        found = ", ".join(map(repr, dict.fromkeys(projects)))
        raise log.refusal(
            rows.line[others[0]], f"another project_name: {found}; choose a run with run_id="
        )


def _added(log: Log, rows: _Rows, notes: list[str]) -> tuple[_Rows, list[int], float]:
    """The difference of each row to the one before it in its run, and which rows are epochs.

    Returns:
        The epochs, their indices among the rows, and the joules outside of epochs.
    """
    runs: dict[str, list[int]] = {}
    for n, run in enumerate(rows.run):
        runs.setdefault(run or f"row {n}", []).append(n)
    duration_s, energy_J = rows.duration_s.copy(), rows.energy_J.copy()
    parts_J = {name: part.copy() for name, part in rows.parts_J.items()}
    outside_J, no_epochs = 0.0, set()
    for of_run in runs.values():
        if len(of_run) < 2:
            continue
        for values, name in ((duration_s, "duration"), (energy_J, "energy_consumed")):
            steps = np.diff(values[of_run])
            if (steps < 0).any():
                raise log.refusal(
                    rows.line[of_run[int(np.argmax(steps < 0)) + 1]],
                    f"{name} is less than in the previous row of the same run, but flush() writes "
                    "cumulative values: are these rows in order, and of one tracker?",
                )
        for values in (duration_s, energy_J, *parts_J.values()):
            values[of_run] = np.diff(values[of_run], prepend=0.0)
        last, others = of_run[-1], duration_s[of_run[:-1]]
        if duration_s[last] < _NO_EPOCH * others.min():
            no_epochs.add(last)
            outside_J += float(energy_J[last])
            notes.append(
                log.note(
                    rows.line[last],
                    f"what stop() adds after the last flush, {energy_J[last]:.4g} J in "
                    f"{duration_s[last]:.4g} s, counts in the total but is not an epoch",
                )
            )
    kept = [n for n in range(len(rows.line)) if n not in no_epochs]
    added = _Rows(rows.line, rows.run, duration_s, energy_J, parts_J, rows.pue)
    return added.taken(kept), kept, outside_J


def _check_apart(log: Log, rows: _Rows, end_s: FloatArray) -> None:
    """Refuse trackers that ran at the same time: each measured the whole machine."""
    starts_s = end_s - rows.duration_s
    for n in range(1, len(rows.line)):
        if end_s[n] < end_s[n - 1]:
            raise log.refusal(rows.line[n], "its time is before the time of the row above")
        overlap_s = end_s[n - 1] - starts_s[n]
        if overlap_s > _SECOND_S + 0.2 * rows.duration_s[n]:
            raise log.refusal(
                rows.line[n],
                f"its tracker overlaps the row above by {overlap_s:.4g} s: each measured "
                "the whole machine, so they must not be summed; choose one with run_id=",
            )


def _check_sum(log: Log, rows: _Rows, notes: list[str]) -> None:
    if not rows.parts_J:
        return
    parts_J = np.sum(np.nan_to_num(list(rows.parts_J.values())), axis=0)
    off = np.flatnonzero(np.abs(parts_J - rows.energy_J) > _ROUNDING * rows.energy_J)
    if len(off):
        where = int(off[0])
        notes.append(
            log.note(
                rows.line[where],
                f"gpu, cpu and ram add up to {parts_J[where]:.4g} J, but energy_consumed is "
                f"{rows.energy_J[where]:.4g} J, which is used",
            )
        )


def _device_entries(row: dict[str, str]) -> list[dict[str, Any]]:
    """The devices that CodeCarbon measured; a part without energy was not measured."""

    def count(key: str) -> int:
        try:
            return int(float(row.get(key) or 0))
        except ValueError:
            return 0

    model = row.get("gpu_model", "")
    name = model.split(" x ", 1)[-1] if " x " in model else model
    entries: list[dict[str, Any]] = [
        {"device": f"gpu:{n}", "kind": "gpu", "name": name or "GPU", "source": "measured"}
        for n in range(min(count("gpu_count"), 64))
    ]
    if not entries and model:
        entries.append({"device": "gpu:0", "kind": "gpu", "name": name, "source": "measured"})
    if row.get("cpu_energy"):
        # RAPL, or a model from the CPU's TDP: the file does not say which.
        entries.append({"device": "cpu:0", "kind": "cpu", "name": row.get("cpu_model") or "CPU"})
    if row.get("ram_energy"):
        entries.append({"device": "ram:0", "kind": "ram", "source": "modelled"})
    return entries
