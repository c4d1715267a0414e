"""The index of a folder of runs: what was read of each, so that only what changed is read again.

It is one file in the folder itself, replaced as a whole: a line of JSON that says what it is, with
a checksum, and a line of JSON with the runs. Whoever writes last wins: what others had read is read
again. It comes from wherever the folder comes from, and is checked like everything else; what is
wrong with it costs time, never an answer.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from energyest.records.places import Known, Place
from energyest.tradeoff.collect.record import NUMBERS, TEXTS, RunRecord

log = logging.getLogger("energyest")

#: The format is part of the name: versions with different formats can share a folder.
FORMAT = 1
INDEX_FILE = f".energyest-runs-{FORMAT}.json"
_KIND = "energyest index of runs"
_MOST_BYTES = 2**29
# Of one run, the metrics for so many different questions.
_MOST_QUESTIONS = 8
_COLUMNS = (*TEXTS, *NUMBERS)
_FILE = re.compile(r"|((rank[1-9]\d{0,4}[/\\])?(meta\.json|epochs\.jsonl|power\.csv|latest\.json))")
_RANK = re.compile(r"rank[1-9]\d{0,4}")


@dataclass
class Index:
    """What is known of a folder of runs.

    Attributes:
        known: the files of each run, and the other folders.
        records: name -> the run.
    """

    known: Known = field(default_factory=Known)
    records: dict[str, RunRecord] = field(default_factory=dict)


def load_index(place: Place) -> Index:
    """The index of a place; an empty one if there is none that can be used, which is said."""
    try:
        data = place.read(INDEX_FILE, _MOST_BYTES)
    except (OSError, ValueError) as error:
        return _unusable(place, str(error))
    if data is None:
        return Index()
    head, _, body = data.partition(b"\n")
    try:
        reason = _why_unusable(json.loads(head, parse_constant=_refuse), body)
        if not reason:
            return _index_of(json.loads(body, parse_constant=_refuse))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        reason = f"it is damaged: {error!r}"[:200]
    return _unusable(place, reason)


def _why_unusable(said: Any, body: bytes) -> str:
    """Why an index is not used, by its first line; empty if it is."""
    if not isinstance(said, dict) or said.get("kind") != _KIND:
        return "it was not written by energyest"
    if said.get("format") != FORMAT or said.get("columns") != list(_COLUMNS):
        return "it was written by another version of energyest"
    return "" if said.get("checksum") == _checksum(body) else "it is damaged: its checksum differs"


def save_index(place: Place, index: Index) -> None:
    """Write the index, where that is possible."""
    layouts: dict[tuple[str, ...], int] = {}
    runs = {
        name: [
            layouts.setdefault(files, len(layouts)),
            signature,
            [index.records[name].facts[column] for column in _COLUMNS],
            index.records[name].hparams,
            dict(list(index.records[name].metrics.items())[-_MOST_QUESTIONS:]),
            index.records[name].earlier,
        ]
        for name, (files, signature) in index.known.runs.items()
        if signature
    }
    content = {"layouts": [*layouts], "folders": index.known.folders, "runs": runs}
    head = {"kind": _KIND, "format": FORMAT, "columns": _COLUMNS}
    try:
        body = json.dumps(content, separators=(",", ":"), allow_nan=False)
        said = json.dumps({**head, "checksum": _checksum(body.encode("ascii"))})
        if len(said) + len(body) < _MOST_BYTES:
            place.replace(INDEX_FILE, f"{said}\n{body}")
    except (OSError, ValueError, TypeError) as error:
        log.debug("energyest: the index of %s is not written: %s", place.label("."), error)


def _index_of(content: Mapping[str, Any]) -> Index:
    """The index in the content of a file.

    Raises:
        ValueError, TypeError, LookupError, AttributeError: it is damaged.
    """
    index = Index()
    layouts = [tuple(_checked(layout, _is_layout)) for layout in content["layouts"]]
    for name, (changed_ns, below) in content["folders"].items():
        is_whole = isinstance(changed_ns, int) and isinstance(below, list)
        index.known.folders[name] = _checked((changed_ns, below), is_whole and _are_folders(below))
    for name, entry in content["runs"].items():
        layout, signature, values, hparams, metrics, earlier = entry
        facts = dict(zip(_COLUMNS, values, strict=True))
        record = RunRecord(facts, hparams, metrics, [(one, total_J) for one, total_J in earlier])
        _checked(record, _is_record(record) and isinstance(signature, str))
        index.known.runs[name] = (layouts[layout], signature)
        index.records[name] = record
    return index


def _checksum(body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=16).hexdigest()


def _checked(value: Any, is_right: Any) -> Any:
    if not (is_right(value) if callable(is_right) else is_right):
        raise ValueError("an entry makes no sense")
    return value


def _is_layout(files: object) -> bool:
    """Whether these are files of a trace: no other is looked at."""
    return isinstance(files, list) and all(
        isinstance(file, str) and bool(_FILE.fullmatch(file) or _RANK.fullmatch(file))
        for file in files
    )


def _are_folders(names: Iterable[object]) -> bool:
    """Whether these are names of folders within a folder."""
    return all(
        isinstance(name, str) and name not in ("", ".", "..") and not {"/", "\\", "\0"} & set(name)
        for name in names
    )


def _is_record(record: RunRecord) -> bool:
    texts = {type(record.facts[name]) for name in TEXTS}
    numbers = [record.facts[name] for name in NUMBERS]
    metrics = [value for values in record.metrics.values() for value in values.values()]
    parts = [part for part, _ in record.earlier]
    return (
        texts <= {str, type(None)}
        and all(map(_is_plain, (*numbers, *metrics, *(total_J for _, total_J in record.earlier))))
        and all(isinstance(record.facts[name], int) for name in ("gpus", "epochs"))
        and all(isinstance(part, str) for part in parts)
        and isinstance(record.hparams, dict)
    )


def _is_plain(value: object) -> bool:
    return value is None or (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    )


def _unusable(place: Place, reason: str) -> Index:
    log.warning(
        "energyest: the index %s of %s is made anew: %s", INDEX_FILE, place.label("."), reason
    )
    return Index()


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a finite number")
