"""`load_traces`: all traces below a folder, or a list of them, by name."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

from energyest.errors import EnergyestError, RunsError
from energyest.records.loading import load_trace
from energyest.records.trace import EnergyTrace

Source = str | Path | Iterable[str | Path | EnergyTrace] | Mapping[str, EnergyTrace | str | Path]
_META_FILE = "meta.json"


def load_traces(source: Source) -> dict[str, EnergyTrace]:
    """Load many traces by name, for `collect_runs` and `score_estimators`.

    Args:
        source: a folder that holds traces at any depth, each named by its path within the folder;
            or several traces or trace folders; or a mapping from names to traces or trace folders.

    Raises:
        RunsError: there is no trace, or `source` is none of these.
        TraceError: a folder given as a trace is not one.

    Warns:
        UserWarning: a trace below the folder cannot be read and was left out.

    Examples:
        >>> from energyest.tradeoff import load_traces
        >>> traces = load_traces('lightning_logs/resnet18-h200-0')
        >>> len(traces)
        1
    """
    if isinstance(source, Mapping):
        found = {str(name): _trace(trace) for name, trace in source.items()}
    elif isinstance(source, str | Path):
        found = _traces_in(Path(source))
    elif isinstance(source, Iterable) and not isinstance(source, EnergyTrace):
        found = {}
        for place, item in enumerate(source):
            name = str(place) if isinstance(item, EnergyTrace) else str(item)
            found[name] = _trace(item)
    else:
        raise RunsError(
            f"source is a {type(source).__name__}: it must be a folder, or several traces"
        )
    if not found:
        raise RunsError(f"there is no trace in {source}")
    return found


def _trace(item: object) -> EnergyTrace:
    if isinstance(item, EnergyTrace):
        return item
    if isinstance(item, str | Path):
        return load_trace(item)
    raise RunsError(f"a run is a {type(item).__name__}: it must be a trace or its folder")


def _traces_in(folder: Path) -> dict[str, EnergyTrace]:
    """All traces below a folder, without those inside another trace, which are its ranks."""
    if not folder.is_dir():
        raise RunsError(f"there is no folder {folder}")
    found: dict[str, EnergyTrace] = {}
    taken: list[Path] = []
    for path in sorted((file.parent for file in folder.rglob(_META_FILE)), key=lambda p: p.parts):
        if any(path.is_relative_to(trace) for trace in taken):
            continue
        name = str(path.relative_to(folder)) if path != folder else folder.name
        try:
            found[name] = load_trace(path)
        except EnergyestError as error:
            warnings.warn(f"left out, as it cannot be read: {error}", UserWarning, stacklevel=4)
            continue
        taken.append(path)
    return found
