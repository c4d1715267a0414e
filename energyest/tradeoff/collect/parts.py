"""Which runs a table holds: each training once, though it was copied, or resumed in parts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from energyest.checks import number_or_nan
from energyest.tradeoff.collect.record import RunRecord

# Of a run's total, what rounding makes of it.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Chosen:
    """The runs of a table.

    Attributes:
        runs: name -> the run.
        left_out: names of copies and of unfinished runs, each with the reason.
        resumed_as: for a part of a run that was resumed later, the id of the next part.
        lost_J: for each name, joules used after the checkpoint from which the run was resumed: in
            this part, and in the earlier ones that have no row of their own. NaN if a part that
            may have lost some is not there.
    """

    runs: dict[str, RunRecord]
    left_out: list[str]
    resumed_as: dict[str, str]
    lost_J: dict[str, float]


def choose(records: Mapping[str, RunRecord], *, unfinished: bool, parts: bool) -> Chosen:
    """The runs of a table: each once, by the last of its parts.

    Args:
        records: all that were found, in order.
        unfinished: whether runs that have not finished belong to it.
        parts: whether each earlier part of a resumed run has a row of its own.
    """
    first: dict[str, str] = {}  # id of a run -> name of the first trace with it
    left_out: list[str] = []
    originals: dict[str, RunRecord] = {}
    for name, record in records.items():
        run_id = record.run_id
        if run_id is not None and first.setdefault(run_id, name) != name:
            left_out.append(f"{name} (a copy of {first[run_id]})")
        else:
            originals[name] = record
    following = _following(originals)
    lost_J = _lost_J(originals)
    runs: dict[str, RunRecord] = {}
    lost: dict[str, float] = {}
    for name, record in originals.items():
        is_part = record.run_id in following
        if is_part and not parts:
            continue
        if record.status != "finished" and not (unfinished or is_part):
            left_out.append(f"{name} ({record.status})")
            continue
        runs[name] = record
        if is_part:
            lost[name] = lost_J.get(str(record.run_id), math.nan)
        else:
            earlier = _earlier(record, following)
            # A part with a row of its own says there what it has lost.
            counted = [one for one in earlier if not (parts and one in first)]
            lost[name] = sum((lost_J.get(one, math.nan) for one in counted), 0.0)
    return Chosen(runs, left_out, following, lost)


def _following(originals: Mapping[str, RunRecord]) -> dict[str, str]:
    """Id of each part that was resumed -> id of the part that continues it.

    If a checkpoint was resumed from several times, that is the one that began last.
    """
    found: dict[str, tuple[bool, str, str]] = {}
    for record in originals.values():
        chain = [one for one, _ in record.earlier]
        for place, one in enumerate(chain):
            is_next = place == len(chain) - 1
            follower = record.run_id if is_next else chain[place + 1]
            started = str(record.facts["started"] or "")
            # A run whose own trace is there knows better than a later part that lists it.
            candidate = (is_next, started, follower or "")
            if one != record.run_id:
                found[one] = max(found.get(one, candidate), candidate)
    return {one: follower for one, (_, _, follower) in found.items()}


def _earlier(record: RunRecord, following: Mapping[str, str]) -> list[str]:
    """The earlier parts of a run, of which another run may be a branch."""
    chain = [one for one, _ in record.earlier]
    ids = [*chain, record.run_id or ""]
    kept = []
    for one, follower in zip(reversed(chain), reversed(ids[1:]), strict=True):
        if following.get(one) != follower:
            break  # another run continues it, and says what was lost before
        kept.append(one)
    return kept


def _lost_J(originals: Mapping[str, RunRecord]) -> dict[str, float]:
    """Id of each part that was resumed -> joules after the last checkpoint that was used of it."""
    carried: dict[str, list[float]] = {}
    for record in originals.values():
        for one, before_J in record.earlier:
            carried.setdefault(one, []).append(number_or_nan(before_J))
    found = {}
    for record in originals.values():
        if record.run_id is not None and record.run_id in carried:
            carried_J, total_J = carried[record.run_id], record.number("energy_J")
            lost_J = math.nan if any(map(math.isnan, carried_J)) else total_J - max(carried_J)
            # NaN stays; less than rounding makes of it is nothing.
            found[record.run_id] = 0.0 if lost_J <= _ROUNDING * total_J else lost_J
    return found
