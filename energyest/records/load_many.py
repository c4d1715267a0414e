"""`load_traces`: all traces below a folder, or a list of them, by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from energyest.errors import EnergyestError, RunsError
from energyest.records.loading import load_trace, needs_readings
from energyest.records.places import Found, Known, Place, in_order, is_inside, place_of
from energyest.records.safe_json import parse_json
from energyest.records.trace import EnergyTrace

Source = str | Path | Iterable[str | Path | EnergyTrace] | Mapping[str, EnergyTrace | str | Path]
Content = TypeVar("Content")


def load_traces(source: Source) -> dict[str, EnergyTrace]:
    """Load many traces by name, for `collect_runs` and `score_estimators`.

    Args:
        source: a folder that holds traces at any depth, each named by its path within the folder,
            or an address that fsspec opens, such as `s3://bucket/runs`; or several traces or trace
            folders; or a mapping from names to traces or trace folders.

    Raises:
        RunsError: there is no trace, or `source` is none of these.
        TraceError: a folder given as a trace is not one.
        MissingDependencyError: the address needs fsspec, or a package that fsspec needs for it.

    Warns:
        UserWarning: a trace below the folder cannot be read, or vanished, and was left out.

    Examples:
        >>> from energyest.tradeoff import load_traces
        >>> traces = load_traces('lightning_logs/resnet18-h200-0')
        >>> len(traces)
        1
    """
    if isinstance(source, Mapping):
        found = {str(name): _trace(trace) for name, trace in source.items()}
    elif isinstance(source, str | Path):
        found = _traces_in(source)
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


def read_each(
    place: Place,
    found: Iterable[Found],
    read: Callable[[Path], Content],
    taken: Collection[str] = (),
) -> Iterator[tuple[Found, Content]]:
    """Read traces of a place, but for those inside another one, in the order of their folders.

    Args:
        place: where they lie.
        found: the traces.
        read: reads one from its folder.
        taken: names of further traces, in which no other is looked for.

    Warns:
        UserWarning: a trace cannot be read, or has vanished, and was left out.
    """
    done = set(taken)
    for one in in_order(found):
        if is_inside(one.name, done):
            continue
        try:
            with place.open(one, _may_need_readings) as folder:
                content = read(folder)
        except (EnergyestError, OSError) as error:
            label = place.label(one.name)
            why = f"as it cannot be read: {label}: {error}"
            if not place.has(one):
                why = f"as it vanished while it was read: {label}"
            warnings.warn(f"left out, {why}", UserWarning, stacklevel=5)
            continue
        done.add(one.name)
        yield one, content


def _may_need_readings(data: bytes) -> bool:
    try:
        meta = parse_json(data.decode("utf-8"))
    except ValueError:
        return True
    return not isinstance(meta, dict) or needs_readings(meta)


def _traces_in(source: str | Path) -> dict[str, EnergyTrace]:
    """All traces below a folder, without those inside another trace, which are its ranks."""
    place = place_of(source)
    found = place.look(Known()).found
    return {place.label(one.name): trace for one, trace in read_each(place, found, load_trace)}
