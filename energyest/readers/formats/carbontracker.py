"""carbontracker's standard log: duration and average power of each epoch."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from energyest.checks import short
from energyest.errors import TraceError
from energyest.readers.clock import clock_of_texts
from energyest.readers.text import Log, read_log_text
from energyest.readers.windows import Windows, trace_of_windows
from energyest.records.trace import EnergyTrace

_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) - (?:CarbonTracker: )?(.*)")
_EPOCH = re.compile(r"Epoch (\d+):")
_DURATION = re.compile(r"Duration: (-?)(\d+):(\d{2}):(\d{1,2}(?:\.\d+)?)")
_POWER = re.compile(r"Average power usage \(W\) for (\w+): (.*)")
_DEVICES = re.compile(r"(\w+) with device\(s\) (.*?)\.(?= \w+ with|$)")
_OUTPUT = re.compile(r"(Predicted|Actual) consumption")


def is_carbontracker(path: Path, head: str) -> bool:
    """Whether a file is a log of carbontracker, or a folder holds one."""
    if path.is_dir():
        return any(path.glob("*_carbontracker.log"))
    return bool(_LINE.match(head)) and (
        "carbontracker" in head.lower() or bool(_POWER.search(head)) or bool(_OUTPUT.search(head))
    )


def read_carbontracker(
    path: str | Path,
    *,
    epoch_end_s: Any = None,
    epoch_marks: str | None = None,
    timezone: str | None = None,
) -> EnergyTrace:
    """Read a trace from carbontracker's standard log, `..._carbontracker.log`.

    The energy of an epoch is the average power of each component times the epoch's duration, as
    carbontracker itself computes it. It does not include the PUE by which carbontracker multiplies
    its predictions.

    Args:
        path: the log, or a `log_dir` that holds one.
        epoch_end_s: ends at which to cut the log's own epochs, as in `read_nvidia_smi`.
        epoch_marks: if `epoch_end_s` is a file, regular expression of the lines that are ends.
        timezone: the time zone of the log's local times.

    Raises:
        TraceError: the file is not such a log, or is the output log (`..._output.log`), which holds
            only totals that include a PUE; an epoch occurs twice or lacks its duration. The message
            names the line.

    Warns:
        UserWarning: an epoch's power was not read ("None"), so the epoch is NaN.

    Examples:
        >>> from energyest.readers import read_carbontracker
        >>> len(read_carbontracker('carbontracker.log'))
        3
    """
    log = read_log_text(_log_in(Path(path)))
    epochs = _Epochs(log)
    for number, text in log.lines:
        epochs.take(number, text)
    return trace_of_windows(
        epochs.windows(timezone), epoch_end_s=epoch_end_s, epoch_marks=epoch_marks
    )


def _log_in(path: Path) -> Path:
    if not path.is_dir():
        return path
    logs = sorted(path.glob("*_carbontracker.log"))
    if len(logs) != 1:
        names = ", ".join(log.name for log in logs[:5])
        raise TraceError(
            f"{path} holds {len(logs)} logs of carbontracker: give the path of one"
            f"{f': {names}' if logs else ''}"
        )
    return logs[0]


class _Epochs:
    """The epochs of a log, read line by line."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.line: list[int] = []
        self.dates: list[str] = []
        self.duration_s: list[float] = []
        self.power_W: dict[str, list[list[float]]] = {}
        self.devices: dict[str, list[str]] = {}
        self.notes: list[str] = []
        self.facts: dict[str, Any] = {}
        self.is_output = False

    def take(self, number: int, text: str) -> None:
        match = _LINE.fullmatch(text.rstrip())
        what = match[2] if match else text
        if _OUTPUT.search(what):
            self.is_output = True
        if "components were found" in what:
            self.devices = {m[1].lower(): m[2].split(", ") for m in _DEVICES.finditer(what)}
        elif found := re.fullmatch(r"carbontracker version (\S+)", what):
            self.facts["version"] = found[1]
        elif match and (epoch := _EPOCH.fullmatch(what)):
            if int(epoch[1]) != len(self.line) + 1:
                raise self.log.refusal(
                    number, f"epoch {epoch[1]} where epoch {len(self.line) + 1} is expected"
                )
            self._check_duration(number)
            self.line.append(number)
            self.dates.append(match[1])
        elif span := _DURATION.fullmatch(what):
            if not self.line or len(self.duration_s) >= len(self.line) or span[1]:
                raise self.log.refusal(number, f"a duration without an epoch: {short(what)}")
            self.duration_s.append(3600 * int(span[2]) + 60 * int(span[3]) + float(span[4]))
        elif power := _POWER.fullmatch(what):
            self._take_power(number, power[1].lower(), power[2])

    def _take_power(self, number: int, kind: str, text: str) -> None:
        if not self.line:
            raise self.log.refusal(number, "power before the first epoch")
        values = text.replace("[", " ").replace("]", " ").replace(",", " ").split()
        try:
            power_W = [math.nan if value == "None" else float(value) for value in values]
        except ValueError as error:
            raise self.log.refusal(number, f"{short(text)} is not a power in watts") from error
        known = self.power_W.setdefault(kind, [])
        if len(known) >= len(self.line) or kind not in ("gpu", "cpu", "ram"):
            raise self.log.refusal(number, f"power of {kind} is repeated, or not of a component")
        # The energy of an epoch that lacks a component is unknown.
        known += [[math.nan]] * (len(self.line) - 1 - len(known)) + [power_W]
        if any(map(math.isnan, power_W)) or not power_W:
            self.notes.append(self.log.note(number, f"power of {kind} was not read: {short(text)}"))

    def _check_duration(self, number: int) -> None:
        if len(self.duration_s) != len(self.line):
            raise self.log.refusal(number, f"epoch {len(self.line)}, before it, has no duration")

    def windows(self, timezone: str | None) -> Windows:
        """The epochs found."""
        log = self.log
        if not self.line:
            if self.is_output:
                raise TraceError(
                    f"{log.path} is carbontracker's output log, which holds predictions and totals "
                    "with a PUE but no epochs: read the file next to it that ends in "
                    "_carbontracker.log"
                )
            raise TraceError(f"{log.path} holds no epoch of carbontracker")
        epochs = len(self.duration_s)
        if epochs < len(self.line):
            self.notes.append(
                log.note(self.line[-1], "the last epoch has no duration and is left out")
            )
        duration_s = np.array(self.duration_s)
        columns = {}
        for kind, power_W in self.power_W.items():
            rows = [*power_W, *([[math.nan]] * (epochs - len(power_W)))][:epochs]
            columns[f"{kind}_energy_J"] = duration_s * np.array(
                [sum(row) if row else math.nan for row in rows]
            )
        if not columns:
            raise log.refusal(self.line[0], "no average power of any component")
        end_s, clock = clock_of_texts(
            self.dates[:epochs], lambda n, text: log.refusal(self.line[n], text), timezone
        )
        devices = [
            {"device": f"{kind}:{n}", "kind": kind, "name": name.strip()}
            for kind, names in self.devices.items()
            for n, name in enumerate(names)
            if kind in self.power_W
        ]
        return Windows(
            log.path,
            "carbontracker",
            np.sum(list(columns.values()), axis=0),
            duration_s,
            columns,
            self.line[:epochs],
            end_s=end_s,
            clock=clock,
            devices=devices,
            notes=self.notes,
            facts=self.facts,
        )
