"""Power out of named metrics over time, as experiment trackers keep them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from energyest.arrays import FloatArray
from energyest.checks import short
from energyest.errors import TraceError
from energyest.readers.clock import Clock
from energyest.readers.readings import Readings


class Series(NamedTuple):
    """A metric over time.

    Attributes:
        unix_s: shape (n,), when each value was logged, in Unix time.
        value: shape (n,).
        line: shape (n,), where it stands, or 0.
    """

    unix_s: FloatArray
    value: FloatArray
    line: list[int]


def series_of(points: Sequence[tuple[float, float, int]]) -> Series:
    """A metric from its points: Unix time, value and line; in the order of time."""
    ordered = sorted(points, key=lambda point: point[0])
    return Series(
        np.array([time for time, _, _ in ordered], dtype=np.float64),
        np.array([value for _, value, _ in ordered], dtype=np.float64),
        [line for _, _, line in ordered],
    )


def readings_of_series(
    path: Path,
    tool: str,
    power: Mapping[str, Series],
    others: Mapping[str, Series],
    *,
    epoch_end_s: Any,
    epoch_marks: str | None,
    timezone: str | None,
    facts: Mapping[str, Any],
) -> tuple[Readings, dict[str, Any]]:
    """Readings of power from metrics, and what tells `trace_of_readings` when epochs ended.

    Args:
        path: where they lie.
        tool: who wrote them.
        power: device to its power in watts.
        others: name to metric; one that `epoch_marks` matches is logged at the end of each epoch,
            and of one named epoch, it is the changes that mark the ends.
        epoch_end_s: when epochs ended, if not another metric marks it.
        epoch_marks: regular expression of that metric's name; with `epoch_end_s`, of the lines of
            the file that it is.
        timezone: the zone in which to read ends of epochs that name none.
        facts: what was read.

    Raises:
        TraceError: there is no power; `epoch_marks` matches no metric, or several.
    """
    if not power:
        raise TraceError(
            f"{path}: no power among its metrics: "
            f"{', '.join(sorted(others)[:20]) or 'there are none'}"
        )
    zero_s = min(float(series.unix_s.min()) for series in power.values())
    arrays: dict[str, Any] = {
        "time_s": np.concatenate([series.unix_s for series in power.values()]) - zero_s,
        "device": np.concatenate(
            [np.full(len(series.unix_s), of, dtype=object) for of, series in power.items()]
        ),
        "power_W": np.concatenate([series.value for series in power.values()]),
        "line": np.array([line for s in power.values() for line in s.line], dtype=np.int64),
    }
    clock = Clock(zero_s, "unix", timezone)
    readings = Readings(path, tool, clock=clock, facts=facts, **arrays)
    if epoch_marks is None or epoch_end_s is not None:
        return readings, {"epoch_end_s": epoch_end_s, "epoch_marks": epoch_marks}
    ends_s = _ends(path, others, epoch_marks) - zero_s
    return readings, {"epoch_end_s": ends_s[ends_s > 0].tolist()}


def devices_of_names(names: Sequence[str], pattern: re.Pattern[str], path: Path) -> dict[str, str]:
    """The metrics of power by their devices; the pattern's groups are node and number."""
    found: dict[str, str] = {}
    for name in names:
        match = pattern.fullmatch(name)
        if match is None:
            continue
        node = re.sub(r"\W", "_", match["node"]) if match["node"] else ""
        device = f"gpu:{match['number']}{f'@{node}' if node else ''}"
        if device in found:
            raise TraceError(f"{path}: {found[device]} and {name} are both power of {device}")
        found[device] = name
    return found


def one_run(
    path: Path, runs: Sequence[str], run: str | None, name: Callable[[str], str] = str
) -> str:
    """The run that somebody asked for, or the only one there is."""
    known = list(dict.fromkeys(runs))
    fitting = known if run is None else [one for one in known if one.startswith(run)]
    exact = [one for one in fitting if one == run]
    if len(exact or fitting) != 1:
        listed = ", ".join(map(name, known[:10])) or "there is none"
        raise TraceError(
            f"{path}: {'which run' if run is None else f'run={short(run)} fits {len(fitting)}'}? "
            f"run= names one of {len(known)}: {listed}"
        )
    return (exact or fitting)[0]


def _ends(path: Path, others: Mapping[str, Series], epoch_marks: str) -> FloatArray:
    try:
        pattern = re.compile(epoch_marks)
    except re.error as error:
        raise TraceError(f"epoch_marks={short(epoch_marks)} is no pattern: {error}") from error
    names = [n for n in others if pattern.fullmatch(n)] or [n for n in others if pattern.search(n)]
    if len(names) != 1:
        raise TraceError(
            f"{path}: epoch_marks={short(epoch_marks)} matches {len(names)} metrics, and one "
            f"should mark the ends of epochs: {', '.join(names or sorted(others)[:20])}"
        )
    series = others[names[0]]
    if re.search(r"(^|[/_.])epoch$", names[0]):
        # The number of the epoch, logged now and then: the last time of each is its end.
        last = np.append(np.diff(series.value) != 0, True)
        return np.asarray(series.unix_s[last])
    return np.asarray(np.unique(series.unix_s))
