"""Power from named metrics over time, as experiment trackers keep them."""

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
        value: shape (n,), the values.
        line: shape (n,), the line of each value, or 0.
    """

    unix_s: FloatArray
    value: FloatArray
    line: list[int]


def series_of(points: Sequence[tuple[float, float, int]]) -> Series:
    """Make a metric, ordered by time, from points of Unix time, value and line."""
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
    """Power readings from metrics, and the arguments of `trace_of_readings` for the epoch ends.

    Args:
        path: their path.
        tool: the tool that wrote them.
        power: device -> its power in watts.
        others: name -> metric. The metric that `epoch_marks` matches is logged at the end of each
            epoch; if its name is "epoch", changes of its value mark the ends.
        epoch_end_s: when epochs ended, unless a metric marks it.
        epoch_marks: regular expression of that metric's name or, if `epoch_end_s` is a file, of
            lines in it.
        timezone: the time zone of epoch ends that state none.
        facts: what the reader read.

    Raises:
        TraceError: there is no power, or `epoch_marks` matches no metric or several.
    """
    if not power:
        raise TraceError(
            f"{path}: none of its metrics is power: "
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
    """The power metric of each device; the pattern has the groups node and number."""
    found: dict[str, str] = {}
    for name in names:
        match = pattern.fullmatch(name)
        if match is None:
            continue
        node = re.sub(r"\W", "_", match["node"]) if match["node"] else ""
        device = f"gpu:{match['number']}{f'@{node}' if node else ''}"
        if device in found:
            raise TraceError(f"{path}: {found[device]} and {name} are both the power of {device}")
        found[device] = name
    return found


def one_run(
    path: Path, runs: Sequence[str], run: str | None, name: Callable[[str], str] = str
) -> str:
    """The requested run, or the only one."""
    known = list(dict.fromkeys(runs))
    fitting = known if run is None else [one for one in known if one.startswith(run)]
    exact = [one for one in fitting if one == run]
    if len(exact or fitting) != 1:
        listed = ", ".join(map(name, known[:10])) or "there is none"
        raise TraceError(
            f"{path}: {'which run' if run is None else f'run={short(run)} fits {len(fitting)}'}? "
            f"Choose one of {len(known)} with run=: {listed}"
        )
    return (exact or fitting)[0]


def _ends(path: Path, others: Mapping[str, Series], epoch_marks: str) -> FloatArray:
    try:
        pattern = re.compile(epoch_marks)
    except re.error as error:
        raise TraceError(
            f"epoch_marks={short(epoch_marks)} is not a valid regular expression: {error}"
        ) from error
    names = [n for n in others if pattern.fullmatch(n)] or [n for n in others if pattern.search(n)]
    if len(names) != 1:
        raise TraceError(
            f"{path}: epoch_marks={short(epoch_marks)} matches {len(names)} metrics, but exactly "
            f"one must mark the ends of epochs: {', '.join(names or sorted(others)[:20])}"
        )
    series = others[names[0]]
    if re.search(r"(^|[/_.])epoch$", names[0]):
        # The number of the epoch, logged repeatedly: its last occurrence is the epoch's end.
        last = np.append(np.diff(series.value) != 0, True)
        return np.asarray(series.unix_s[last])
    return np.asarray(np.unique(series.unix_s))
