"""The part of a run before it was stopped and resumed, perhaps on another machine."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from energyest.arrays import FloatArray
from energyest.errors import ConfigurationError, TraceError
from energyest.records.devices import counts_by_name, gpus_of
from energyest.records.epoch_table import check_rows, check_totals, why_unstorable
from energyest.records.meta import read_count, read_object, read_objects
from energyest.records.trace import EnergyTrace

log = logging.getLogger("energyest")

# More epochs than any training has, more rows x columns than a trace can hold, and more devices
# than any machine has: a checkpoint with more is not one of ours.
_MOST_ROWS, _MOST_VALUES, _MOST_DEVICES = 2**20, 2**25, 2**12
_MOST_NUMBER = 1e15
# Meta entries that describe one part of a run, and those that also hold for the next part.
_OF_PART = ("run_id", "start_time", "host", "world_size", "total_J")
_KEPT = ("first_epoch", "planned_changes", "interval_steps")
# If a training is resumed more often than this, only the newest parts are listed.
_MOST_PARTS = 100


@dataclass(frozen=True, eq=False)
class RunCheckpoint:
    """What a run had cost when the checkpoint from which it resumes was saved.

    Attributes:
        columns: name -> values of the completed epochs, each of shape (epochs,).
        open_row: cost so far of the epoch under way; empty between epochs.
        total: joules since the start of the run, as `energy_J` and by kind of device, and
            `duration_s`; time outside of epochs is included, pauses are not. NaN where unknown.
        meta: facts about the run that hold after resuming.
    """

    columns: Mapping[str, FloatArray] = field(default_factory=dict)
    open_row: Mapping[str, float] = field(default_factory=dict)
    total: Mapping[str, float] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.columns.get("epoch", ()))

    @property
    def gpus(self) -> dict[str, Any]:
        """The GPUs on which the last part was measured: name -> number of them."""
        parts = read_objects(self.meta, "earlier_parts")
        return dict(read_object(parts[-1], "gpus")) if parts else {}

    @property
    def run_id(self) -> str | None:
        """The id of the run, or of its last part, that saved the checkpoint."""
        parts = read_objects(self.meta, "earlier_parts")
        run_id = parts[-1].get("run_id") if parts else None
        return run_id if isinstance(run_id, str) else None

    @property
    def next_epoch(self) -> int:
        """The number of the epoch after the completed ones."""
        return int(self.columns["epoch"][-1]) + 1 if len(self) else 0

    @property
    def steps(self) -> int:
        """Training steps of the completed epochs; 0 if they were not counted."""
        return int(np.nansum(self.columns.get("steps", ())))

    @property
    def open_steps(self) -> int:
        """Training steps of the epoch under way."""
        steps = self.open_row.get("steps", math.nan)
        return 0 if math.isnan(steps) else int(steps)

    @property
    def duration_s(self) -> float:
        """Seconds of the completed epochs."""
        return float(np.nansum(self.columns.get("duration_s", ())))

    def check_unit(self, interval_steps: int | None) -> None:
        """Refuse to continue with another kind of row.

        Args:
            interval_steps: steps in an interval; None for epochs.

        Raises:
            ConfigurationError: the rows of the checkpoint are of another kind.
        """
        unit = read_count(self.meta, "interval_steps")
        if len(self) and unit != interval_steps:
            was, now = (
                f"intervals of {n} steps" if n else "epochs" for n in (unit, interval_steps)
            )
            raise ConfigurationError(f"the run resumes in {was}: it cannot use {now}")

    def energy_alone(self) -> RunCheckpoint:
        """A copy with the total cost but without the epochs."""
        parts = read_objects(self.meta, "earlier_parts")
        return RunCheckpoint(total=self.total, meta={"earlier_parts": parts} if parts else {})

    def past_columns(self) -> dict[str, FloatArray]:
        """The epochs at negative times, so that they, and the one under way, end at 0."""
        if not len(self):
            return {}
        end_s = self.columns["end_s"][-1] + self.open_row.get("duration_s", 0.0)
        times = {name: self.columns[name] - end_s for name in ("start_s", "end_s")}
        return {**self.columns, **times}

    @classmethod
    def of(cls, trace: EnergyTrace) -> RunCheckpoint:
        """Make a checkpoint of a run as it is now.

        Args:
            trace: the run's trace, with the totals so far in its meta.
        """
        meta = trace.meta
        total = {
            "energy_J": meta.get("total_J"),
            "duration_s": meta.get("duration_s"),
            **read_object(meta, "components"),
        }
        cut = read_object(meta, "interrupted_epoch")
        part = {
            **{name: meta.get(name) for name in _OF_PART},
            "gpus": counts_by_name(gpus_of(trace.devices)),
            "rows": len(trace),
        }
        return cls(
            trace.epoch_columns,
            {name: _or_nan(value) for name, value in cut.items()},
            {name: _or_nan(value) for name, value in total.items()},
            {
                **{name: meta[name] for name in _KEPT if name in meta},
                "earlier_parts": [*read_objects(meta, "earlier_parts"), part][-_MOST_PARTS:],
            },
        )

    def with_values(self, values: Mapping[str, float]) -> RunCheckpoint:
        """A copy with further columns of the epoch under way."""
        return replace(self, open_row={**self.open_row, **values})

    def with_open_row_ended(self) -> RunCheckpoint:
        """A copy in which the epoch under way has ended."""
        row = self.open_row
        names = dict.fromkeys((*self.columns, *row))
        unknown = np.full(len(self), math.nan)
        columns = {n: np.append(self.columns.get(n, unknown), row.get(n, math.nan)) for n in names}
        return replace(self, columns=columns, open_row={})

    def with_last_row_open(self) -> RunCheckpoint:
        """A copy in which the last epoch is under way again."""
        row = {name: float(values[-1]) for name, values in self.columns.items()}
        columns = {name: values[:-1] for name, values in self.columns.items()}
        return replace(self, columns=columns, open_row=row)

    def state_dict(self) -> dict[str, Any]:
        """The content as plain lists, dictionaries, numbers and text, for a checkpoint file."""
        return {
            "columns": {name: values.tolist() for name, values in self.columns.items()},
            "open_row": dict(self.open_row),
            "total": dict(self.total),
            "meta": dict(self.meta),
        }

    @classmethod
    def from_state_dict(cls, state: Any) -> RunCheckpoint:
        """Rebuild a checkpoint from the result of `state_dict`.

        Raises:
            TraceError: `state` is not such a result, or holds impossible numbers.
        """
        if not isinstance(state, Mapping):
            raise TraceError(f"the state of a run must be a mapping, not {type(state).__name__}")
        columns = _columns(_mapping(state, "columns"))
        if columns and not {"epoch", "start_s", "end_s"} <= set(columns):
            raise TraceError("the state of a run must hold the number and times of its epochs")
        row, total = (
            {
                n: float(_numbers([value], f"{name} {n}")[0])
                for n, value in _mapping(state, name).items()
            }
            for name in ("open_row", "total")
        )
        if row and not {"energy_J", "duration_s"} <= set(row):
            raise TraceError("the state of a run must hold the energy and duration of its open_row")
        known = {"epoch", "start_s", "end_s"} & set(columns)
        if any(np.isnan(columns[name]).any() for name in known):
            raise TraceError("the state of a run must hold every epoch's number and times")
        if (np.abs(columns.get("epoch", ())) > _MOST_NUMBER).any():
            raise TraceError(f"the state of a run: epoch numbers must not exceed {_MOST_NUMBER:g}")
        _check(columns, row, total)
        meta = {n: v for n, v in _mapping(state, "meta").items() if n in _KEPT}
        parts = read_objects(_mapping(state, "meta"), "earlier_parts")[-_MOST_PARTS:]
        return cls(columns, row, total, {**meta, **({"earlier_parts": parts} if parts else {})})


def _check(
    rows: Mapping[str, FloatArray], row: Mapping[str, float], total: Mapping[str, float]
) -> None:
    """Refuse numbers that no run can have."""
    what = "the state of a run: "
    check_rows(rows, what)
    check_rows({name: np.array([value]) for name, value in row.items()}, f"{what}open_row: ")
    check_rows({name: np.array([value]) for name, value in total.items()}, f"{what}total: ")
    energy_J, duration_s = (total.get(name, math.nan) for name in ("energy_J", "duration_s"))
    parts = ("energy_J", "duration_s") if row else ()
    with_row = {n: np.append(v, row[n]) if n in parts else v for n, v in rows.items()}
    # It does not say how many devices there were.
    check_totals(energy_J, duration_s, with_row, _MOST_DEVICES, f"{what}total: ")


def _columns(state: Mapping[str, Any]) -> dict[str, FloatArray]:
    """Columns of equal length; those that no trace can have are left out, with a warning."""
    unstorable = [reason for reason in map(why_unstorable, state) if reason]
    if unstorable:
        log.warning("energyest: left out of the state of a run: %s", "; ".join(unstorable[:3]))
    kept = {name: values for name, values in state.items() if not why_unstorable(name)}
    lengths = {len(values) if isinstance(values, list | tuple) else 0 for values in kept.values()}
    if len(lengths) > 1:
        raise TraceError("the state of a run must hold columns of the same length")
    if sum(lengths) > _MOST_ROWS or sum(lengths) * len(kept) > _MOST_VALUES:
        raise TraceError(f"the state of a run: {sum(lengths)} rows x {len(kept)} are too many")
    return {name: _numbers(values, name) for name, values in kept.items()}


def _mapping(state: Mapping[Any, Any], name: str) -> dict[str, Any]:
    part = state.get(name)
    if not isinstance(part, Mapping):
        raise TraceError(f"the state of a run must hold a mapping {name}")
    return {str(key): value for key, value in part.items()}


def _or_nan(value: Any) -> float:
    return math.nan if value is None else float(value)


def _numbers(values: Any, name: str) -> FloatArray:
    """Floats; None, which JSON has for NaN, becomes NaN, and infinity is refused."""
    try:
        if not isinstance(values, list | tuple):
            raise TypeError("it must be a list")
        vector = np.fromiter(map(_or_nan, values), np.float64, len(values))
    except (TypeError, ValueError, OverflowError) as error:
        raise TraceError(f"the state of a run: {name} must hold numbers: {error}") from error
    if np.isinf(vector).any():
        raise TraceError(f"the state of a run: {name} must be finite")
    return vector
