"""The trace that a user names: a folder, the folder above it, or a log of another tool."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from energyest.cli.output import no_warnings, note
from energyest.errors import EstimateError, TraceError

if TYPE_CHECKING:
    from energyest.records.trace import EnergyTrace

# Lightning puts a trace two levels below its log folder, version_0/energy; that may have a name.
_PATTERNS = ("*/meta.json", "*/*/meta.json", "*/*/*/meta.json")
_MOST_NAMED = 5
# The options for the arguments of the readers.
_OPTIONS = {
    "epoch_end_s": "--epoch-ends",
    "epoch_marks": "--epoch-marks",
    "gpu": "--gpu",
    "interval_s": "--interval",
    "timezone": "--timezone",
    "tool": "--tool",
}
# An argument as messages name it: alone, or with a quoted value or a number.
_ARGUMENT = re.compile(rf"(?<![\w-])({'|'.join(_OPTIONS)})=(?:(?=(['\"\d]))|(?=[\s,;:.)]|$))")


def open_trace(
    trace: str,
    *,
    epoch_ends: str | None = None,
    epoch_marks: str | None = None,
    gpu: str | None = None,
    tool: str | None = None,
    interval: float | None = None,
    timezone: str | None = None,
) -> EnergyTrace:
    """The trace of a folder, or of a log of another tool.

    Raises:
        TraceError: there is none, or it cannot be read.
    """
    from energyest.readers.detect import is_log, read_log

    path = Path(trace)
    if not is_log(path):
        return _open_folder(path)
    # What is doubtful is in the trace's notes.
    with no_warnings():
        try:
            return read_log(
                path,
                tool=tool,
                epoch_end_s=epoch_ends,
                epoch_marks=epoch_marks,
                gpu=gpu,
                interval_s=interval,
                timezone=timezone,
            )
        except TraceError as error:
            raise TraceError(with_options(str(error))) from error


def with_options(text: str) -> str:
    """A message of the readers with the options of the command line for their arguments."""
    return _ARGUMENT.sub(lambda m: _OPTIONS[m[1]] + (" " if m[2] else ""), text)


def check_log(trace: EnergyTrace) -> None:
    """Say what is doubtful about the trace of a log, and refuse a log without epochs.

    Raises:
        EstimateError: the log does not say when epochs ended.
    """
    from energyest.records.meta import read_object
    from energyest.summary import notes_of

    if not read_object(trace.meta, "log"):
        return
    for line in notes_of(trace):
        note(with_options(line))
    if not len(trace):
        raise EstimateError(
            "the log does not say when epochs ended: pass --epoch-ends FILE, or --epoch-marks"
        )


def is_trace(path: Path) -> bool:
    """Whether a path is one trace, or a log, and no folder of many."""
    from energyest.readers.detect import is_log

    return _holds_trace(path) or is_log(path)


def traces_below(path: Path) -> list[Path]:
    """Folders of traces up to three levels below a folder."""
    found = {file.parent for pattern in _PATTERNS for file in path.glob(pattern)}
    # What lies in another trace is one of its processes.
    return sorted(one for one in found if found.isdisjoint(one.parents))


def _open_folder(path: Path) -> EnergyTrace:
    from energyest.records.loading import load_trace

    try:
        return load_trace(path)
    except TraceError:
        found = folder_of_trace(path)
        if found == path:
            raise
        return load_trace(found)


def folder_of_trace(path: Path) -> Path:
    """The folder itself, or the only one below it that holds a trace.

    Raises:
        TraceError: several of them do.
    """
    below = [] if _holds_trace(path) else traces_below(path)
    if len(below) > 1:
        raise TraceError(
            f"{path} holds no trace itself, but {len(below)} of them below it: name one of "
            f"{_listed(below)}; `energyest runs {path}` compares them"
        )
    if not below:
        return path
    note(f"the trace of {path} is in {below[0]}")
    return below[0]


def _holds_trace(path: Path) -> bool:
    from energyest.records import storage

    return any((path / name).exists() for name in storage.FILES)


def _listed(paths: Iterable[Path]) -> str:
    names = [str(path) for path in paths]
    more = ", ..." if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
