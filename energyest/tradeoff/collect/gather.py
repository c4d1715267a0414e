"""The records of all runs of a source: read, or taken from the index of their folder."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from energyest.errors import RunsError
from energyest.records.load_many import Source, load_traces, read_each
from energyest.records.loading import load_summary
from energyest.records.places import Found, Known, is_inside, place_of
from energyest.tradeoff.collect.index import Index, load_index, save_index
from energyest.tradeoff.collect.record import Question, RunRecord, record_of

# Fewer runs are read in no time: an index is not worth a file in their folder.
_FEWEST_INDEXED = 100


def gather(source: Source, question: Question, index: bool | None) -> dict[str, RunRecord]:
    """The records of all runs of a source by name, in the order of their folders.

    Args:
        source: as `load_traces` takes it.
        question: which metrics are asked for.
        index: whether to keep an index in the folder; None for a folder of many runs.

    Raises:
        RunsError, TraceError, MissingDependencyError: as `load_traces`.

    Warns:
        UserWarning: a trace below the folder cannot be read, or vanished, and was left out.
    """
    if not isinstance(source, str | Path):
        return {name: record_of(trace, question) for name, trace in load_traces(source).items()}
    place = place_of(source)
    old = Index() if index is False else load_index(place)
    listing = place.look(_usable(old, question))
    new = Index(Known(folders=listing.folders))
    for name in listing.unchanged:
        new.known.runs[name], new.records[name] = old.known.runs[name], old.records[name]

    def read(folder: Path) -> tuple[RunRecord, bool]:
        trace, needed_readings = load_summary(folder)
        return record_of(trace, question), needed_readings

    for found, (record, readings) in read_each(place, listing.found, read, set(new.records)):
        files = found.files(readings=readings)
        new.known.runs[found.name] = files, found.signature(files)
        new.records[found.name] = _with_other_metrics(record, found, old)
    read_now = new.records.keys() - listing.unchanged
    for name in listing.unchanged:
        if read_now and is_inside(name, read_now):
            del new.records[name], new.known.runs[name]  # the folder above is a trace by now
    for found in listing.found:
        if found.name not in new.records:
            new.known.folders.pop(found.name, None)  # it is to be looked at again, and named
    is_wanted = len(new.records) >= _FEWEST_INDEXED if index is None else index
    has_changed = bool(listing.found) or old.known.runs.keys() != new.known.runs.keys()
    if is_wanted and has_changed:
        save_index(place, new)
    if not new.records:
        raise RunsError(f"there is no trace in {source}")
    in_order = sorted(new.records, key=lambda name: name.split(os.sep))
    return {place.label(name): new.records[name] for name in in_order}


def _usable(index: Index, question: Question) -> Known:
    """What the index knows of runs whose metrics were asked for before; others are read again."""
    known = index.known
    lacking = {n for n, one in index.records.items() if question.of_metrics not in one.metrics}
    return Known(
        {name: files for name, files in known.runs.items() if name not in lacking},
        {name: folder for name, folder in known.folders.items() if name not in lacking},
    )


def _with_other_metrics(record: RunRecord, found: Found, index: Index) -> RunRecord:
    """The record with what was asked for before, if the files are the same."""
    files, signature = index.known.runs.get(found.name, ((), ""))
    if not signature or found.signature(files) != signature:
        return record
    return replace(record, metrics={**index.records[found.name].metrics, **record.metrics})
