"""Checks of a table of runs: its columns, their units, and which runs are repetitions."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from energyest.arrays import FloatArray
from energyest.errors import EstimateError, RunsError
from energyest.tradeoff.metrics import is_share

By = str | Sequence[str]
#: Key of each group -> positions of its rows.
Groups = dict[tuple[Any, ...], NDArray[np.intp]]
#: The columns that define a choice by default.
CHOICE = ("model", "gpu")
# Settings that change the cost of a run: runs that differ in them are not repetitions.
_SETTINGS = (*CHOICE, "batch_size", "precision", "gpus")
# Suffixes of columns that hold a cost, whose units may be mixed up.
_COSTS = ("_J", "_Wh", "_kWh", "_s", "_W", "_kg")
# Repetitions never differ from the next one by such a factor; the smallest factor between common
# units is 60 (s and min).
_WIDEST_GAP = 30.0
# Power readings of a GPU and its energy counter agree within a few per cent.
_MOST_OFF = 3.0
# Messages name at most this many rows, groups or columns.
_MOST_NAMED = 4

# ------------------------------------------------------------------ arguments


@contextmanager
def as_runs_errors() -> Iterator[None]:
    """Turn errors of checks shared with the estimators into `RunsError`."""
    try:
        yield
    except EstimateError as error:
        raise RunsError(str(error)) from error


def as_names(by: By, what: str = "by") -> list[str]:
    """A list of column names from one name or several.

    Raises:
        RunsError: there is no name, a duplicate, or something other than a name.
    """
    names = [by] if isinstance(by, str) else list(by) if isinstance(by, Iterable) else []
    if not names or not all(isinstance(n, str) for n in names) or len(set(names)) < len(names):
        raise RunsError(f"{what}={by!r} must be one column name or several different ones")
    return names


def refuse_taken(names: Sequence[str], taken: Sequence[str]) -> None:
    """Refuse columns whose names are needed for the result.

    Raises:
        RunsError: a column has such a name and must be renamed.
    """
    clash = [name for name in names if name in taken]
    if clash:
        raise RunsError(
            f"{_listed(clash)} clashes with a column of the result: rename it with "
            f"runs.rename(columns={{{clash[0]!r}: ...}})"
        )


# ------------------------------------------------------------------ the table


def check_runs(runs: object, columns: Sequence[str] = (), *, repeated: bool = True) -> pd.DataFrame:
    """Return the table if it is valid, has these columns and holds no run twice.

    Args:
        runs: the table.
        columns: names of required columns.
        repeated: whether runs are treated as repetitions, so that copies would matter.

    Raises:
        RunsError: it is not a DataFrame, has no row, lacks a column, has a column twice, or holds a
            run twice: rows of a table with a column `run` are equal, or every row has a copy.
    """
    if not isinstance(runs, pd.DataFrame):
        raise RunsError(
            f"runs is a {type(runs).__name__}: it must be a DataFrame with one row per run, for "
            "example from collect_runs()"
        )
    if not len(runs):
        raise RunsError("the table of runs has no row")
    twice = [str(name) for name in runs.columns[runs.columns.duplicated()]]
    if twice:
        raise RunsError(f"the table of runs has two columns named {twice[0]!r}")
    check_columns(runs, columns)
    if "run" in runs.columns and runs["run"].is_unique:
        return runs  # to compare whole rows takes seconds where there are many
    again = runs.astype(str).duplicated(keep=False)
    if (repeated and again.all()) or ("run" in runs.columns and again.any()):
        raise RunsError(
            f"{int(again.sum())} duplicate rows ({_rows(runs, again)}): each run must occur only "
            "once; runs.drop_duplicates() keeps one of each"
        )
    return runs


def check_columns(runs: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise an error if the table lacks one of these columns.

    Raises:
        RunsError: a column is missing.
    """
    missing = [name for name in columns if name not in runs.columns]
    if missing:
        raise RunsError(
            f"the table of runs lacks {_listed(missing)}; it has {_listed(runs.columns)}"
        )


def check_choices(runs: pd.DataFrame, by: Sequence[str]) -> None:
    """Check that every run belongs to a choice and that the runs of a choice are repetitions.

    Raises:
        RunsError: a value in these columns is missing, or two values look alike (1 and "1").

    Warns:
        UserWarning: runs of one choice differ in a setting that affects their cost.
    """
    for name in by:
        unknown = runs[name].isna()
        if unknown.any():
            raise RunsError(f"{name} is not known for the rows {_rows(runs, unknown)}")
        if runs[name].astype(str).nunique() < runs[name].nunique():
            raise RunsError(f"{name} has different values that look alike, such as 1 and '1'")
    settings = _settings(runs, by)
    for key, rows in groups_of(runs, by).items() if settings else ():
        for name in settings:
            values = runs[name].iloc[rows]
            # What is unknown in all runs is no difference: NaN is one value here.
            if values.dropna().nunique() + values.isna().any() > 1:
                warnings.warn(
                    f"runs of {label(key)} differ in {name}, so they are not repetitions: select "
                    f"the runs of one {name}, or add {name} to the columns that define a choice",
                    UserWarning,
                    stacklevel=3,
                )
                return


def _settings(runs: pd.DataFrame, by: Sequence[str]) -> list[str]:
    """Columns other than `by` that hold settings; a `precision` of fractions is a metric."""
    return [
        name
        for name in _SETTINGS
        if name in runs.columns
        and name not in by
        and not (name == "precision" and pd.api.types.is_float_dtype(runs[name]))
    ]


def groups_of(runs: pd.DataFrame, by: Sequence[str]) -> Groups:
    """Key of each group -> positions of its rows, in order of the keys; without empty groups."""
    # Drop the index, whose levels may have the same names as columns.
    keys = runs[list(by)].reset_index(drop=True)
    found = keys.groupby(list(by), observed=True, sort=True).indices
    return {key if isinstance(key, tuple) else (key,): rows for key, rows in found.items()}


# ------------------------------------------------------------------ one column


def numbers(
    runs: pd.DataFrame, name: str, *, positive: bool = False, known: bool = True
) -> FloatArray:
    """A column as numbers, shape (runs,), all finite.

    Args:
        runs: the table.
        name: the column.
        positive: whether to refuse values of 0 and less, as for energies, durations and FLOPs.
        known: whether to refuse missing values; otherwise they are NaN.

    Raises:
        RunsError: values are text, dates or booleans, missing, infinite, or not positive; the
            message names their rows.
    """
    column = runs[name]
    kinds = pd.api.types
    if kinds.is_object_dtype(column) or kinds.is_string_dtype(column):
        converted = pd.to_numeric(column, errors="coerce")
        text = converted.isna() & column.notna()
        if text.any():
            raise RunsError(
                f"{name} must hold numbers in one unit: {column[text].iloc[0]!r} in row "
                f"{_rows(runs, text)} is not a number"
            )
        column = converted
    elif (
        kinds.is_bool_dtype(column)
        or kinds.is_complex_dtype(column)
        or not kinds.is_numeric_dtype(column)
    ):
        raise RunsError(f"{name} must hold numbers in one unit, not {column.dtype}")
    values: FloatArray = column.to_numpy(dtype=np.float64, na_value=np.nan)
    unknown = ~np.isfinite(values) if known else np.isinf(values)
    if unknown.any():
        raise RunsError(
            f"{name} is not known for {int(unknown.sum())} of {len(runs)} runs "
            f"({_rows(runs, unknown)}){_other_unit(runs, name)}: leave them out with "
            f"runs.dropna(subset=[{name!r}]), or fill in the missing values"
        )
    if positive and (values <= 0).any():
        raise RunsError(f"{name} must be above 0: {_rows(runs, values <= 0)}")
    return values


def check_value(
    runs: pd.DataFrame, name: str, by: Sequence[str], *, positive: bool = False
) -> FloatArray:
    """A cost or a quality, depending on its name, as numbers of shape (runs,).

    Args:
        runs: the table.
        name: the column.
        by: see `check_cost`.
        positive: whether to refuse values of 0 and less for a quality, too.

    Raises:
        RunsError: as `check_cost` or `check_quality`.
    """
    if name.endswith(_COSTS):
        return check_cost(runs, name, by)
    return check_quality(runs, name, positive=positive)


def check_cost(runs: pd.DataFrame, name: str, by: Sequence[str] = ()) -> FloatArray:
    """A cost as positive numbers, shape (runs,), in the same unit in all rows.

    Args:
        runs: the table.
        name: the column.
        by: columns that define a choice, in addition to settings in the table. Empty if runs are
            not repetitions and may differ arbitrarily.

    Raises:
        RunsError: as `numbers`; or there is a gap of more than a factor of thirty between
            repetitions of a choice; or energies differ from `mean_power_W` × `duration_s` by more
            than a factor of three.
    """
    values = numbers(runs, name, positive=True)
    if by:
        _refuse_gaps(runs, name, values, by)
    if name == "energy_J" and {"mean_power_W", "duration_s"} <= set(runs.columns):
        _refuse_other_power(runs, values)
    return values


def _refuse_gaps(runs: pd.DataFrame, name: str, values: FloatArray, by: Sequence[str]) -> None:
    """Refuse repetitions that lie far apart."""
    # A setting that is unknown for some runs cannot separate them.
    known = [setting for setting in _settings(runs, by) if runs[setting].notna().all()]
    for key, rows in groups_of(runs, [*by, *known]).items():
        steps = np.sort(values[rows])
        gaps = steps[1:] / steps[:-1]
        if len(gaps) and gaps.max() > _WIDEST_GAP:
            place = int(np.argmax(gaps))
            raise RunsError(
                f"{name} of {label(key)} is {steps[place]:.4g} or less in some runs and "
                f"{steps[place + 1]:.4g} or more in others: repetitions do not lie so far apart; "
                "are units mixed, or runs of different lengths?"
            )


def _refuse_other_power(runs: pd.DataFrame, energy_J: FloatArray) -> None:
    """Refuse energies that differ from power × time, where these are known."""
    power_W, duration_s = (numbers(runs, n, known=False) for n in ("mean_power_W", "duration_s"))
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = energy_J / (power_W * duration_s)
    wrong = np.isfinite(factor) & ((factor > _MOST_OFF) | (factor < 1 / _MOST_OFF))
    if wrong.any():
        raise RunsError(
            f"energy_J is {factor[wrong][0]:.3g} times mean_power_W × duration_s in row "
            f"{_rows(runs, wrong)}: one of them is in another unit"
        )


def check_quality(runs: pd.DataFrame, name: str, *, positive: bool = False) -> FloatArray:
    """A quality as numbers, shape (runs,), either all shares or all percentages.

    Raises:
        RunsError: as `numbers`, or shares and percentages are mixed.
    """
    values = numbers(runs, name, positive=positive)
    shares = values <= 1
    if is_share(name) and values.min() >= 0 and 1 < values.max() <= 100:
        # A failed training may reach 0.1 %; a value that fits the others as a share is a share.
        alike = shares & (200 * values >= values[~shares].min()) & (values < 1)
        if alike.any():
            raise RunsError(
                f"{name} mixes shares and percentages: {values[alike].max():.4g} in row "
                f"{_rows(runs, alike)}, {values[~shares].min():.4g} in row "
                f"{_rows(runs, ~shares)}; write all of them as shares"
            )
    return values


# ------------------------------------------------------------------ names in messages


def label(key: object) -> str:
    """The name of a choice or group in messages."""
    return ", ".join(map(str, key)) if isinstance(key, tuple) else str(key)


def named(names: Sequence[str]) -> str:
    """The first few names, and the number of further ones."""
    shown = ", ".join(names[:_MOST_NAMED])
    more = len(names) - _MOST_NAMED
    return shown if more <= 0 else f"{shown} and {more} more"


def _rows(runs: pd.DataFrame, chosen: object) -> str:
    """The names of the chosen rows, shortened."""
    rows = np.asarray(chosen, dtype=bool)
    names = runs["run"].to_numpy() if "run" in runs.columns else runs.index.to_numpy()
    return named(list(map(str, names[rows])))


def _other_unit(runs: pd.DataFrame, name: str) -> str:
    """Mention columns of the same quantity in other units, as after joining two tables."""
    stem = name.rpartition("_")[0]
    others = [
        str(other)
        for other in runs.columns
        if stem and other != name and str(other).rpartition("_")[0] == stem
    ]
    return f", but there is also {_listed(others)}" if others else ""


def _listed(names: Iterable[object]) -> str:
    return ", ".join(map(repr, map(str, names)))
