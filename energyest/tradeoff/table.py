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
#: Key of each group -> places of its rows.
Groups = dict[tuple[Any, ...], NDArray[np.intp]]
#: The columns that make a choice, unless the caller says otherwise.
CHOICE = ("model", "gpu")
# What changes the cost of a run: runs that differ in it are no repetitions.
_SETTINGS = (*CHOICE, "batch_size", "precision", "gpus")
# Endings of columns that hold a cost, whose units can be mixed up.
_COSTS = ("_J", "_Wh", "_kWh", "_s", "_W", "_kg")
# Repetitions lie close enough to each other that no gap between neighbours is so wide; the smallest
# step between units in use is 60 (s and min).
_WIDEST_GAP = 30.0
# A board's own power and an energy from a counter agree within a few per cent.
_MOST_OFF = 3.0
# In a message, so many rows, groups or columns are named.
_MOST_NAMED = 4

# ------------------------------------------------------------------ arguments


@contextmanager
def as_runs_errors() -> Iterator[None]:
    """Turn the errors of checks that estimators share into `RunsError`."""
    try:
        yield
    except EstimateError as error:
        raise RunsError(str(error)) from error


def as_names(by: By, what: str = "by") -> list[str]:
    """Names of columns from one name or several.

    Raises:
        RunsError: there is no name, one twice, or something that is not a name.
    """
    names = [by] if isinstance(by, str) else list(by) if isinstance(by, Iterable) else []
    if not names or not all(isinstance(n, str) for n in names) or len(set(names)) < len(names):
        raise RunsError(f"{what}={by!r} must name one column or several different ones")
    return names


def refuse_taken(names: Sequence[str], taken: Sequence[str]) -> None:
    """Refuse columns of the caller that have the name of a column of the result.

    Raises:
        RunsError: one has; it must be renamed.
    """
    clash = [name for name in names if name in taken]
    if clash:
        raise RunsError(
            f"{_listed(clash)} would stand beside a column of the result with this name: rename it "
            f"with runs.rename(columns={{{clash[0]!r}: ...}})"
        )


# ------------------------------------------------------------------ the table


def check_runs(runs: object, columns: Sequence[str] = (), *, repeated: bool = True) -> pd.DataFrame:
    """The table, if it is one and has these columns and no run twice.

    Args:
        runs: the table.
        columns: what it must have.
        repeated: whether runs count as repetitions, so that a copy of the whole table does harm.

    Raises:
        RunsError: it is no DataFrame, has no row, lacks a column, names a column twice, or holds a
            run twice: rows with a column `run` are equal, or every row has its copy.
    """
    if not isinstance(runs, pd.DataFrame):
        raise RunsError(
            f"runs is a {type(runs).__name__}: it must be a DataFrame with one row a run, for "
            "example from collect_runs"
        )
    if not len(runs):
        raise RunsError("the table of runs has no row")
    twice = [str(name) for name in runs.columns[runs.columns.duplicated()]]
    if twice:
        raise RunsError(f"the table of runs has two columns named {twice[0]!r}")
    check_columns(runs, columns)
    again = runs.astype(str).duplicated(keep=False)
    if (repeated and again.all()) or ("run" in runs.columns and again.any()):
        raise RunsError(
            f"{int(again.sum())} duplicate rows ({_rows(runs, again)}): each run must be there "
            "once; runs.drop_duplicates() leaves one of each"
        )
    return runs


def check_columns(runs: pd.DataFrame, columns: Sequence[str]) -> None:
    """Refuse a table that lacks one of these columns.

    Raises:
        RunsError: it does.
    """
    missing = [name for name in columns if name not in runs.columns]
    if missing:
        raise RunsError(
            f"the table of runs lacks {_listed(missing)}: it has {_listed(runs.columns)}"
        )


def check_choices(runs: pd.DataFrame, by: Sequence[str]) -> None:
    """Every run belongs to a choice, and the runs of a choice are repetitions.

    Raises:
        RunsError: a value of these columns is missing, or two of them read alike (1 and "1").

    Warns:
        UserWarning: runs of one choice differ in a setting that decides what they cost.
    """
    for name in by:
        unknown = runs[name].isna()
        if unknown.any():
            raise RunsError(f"{name} is not known for the rows {_rows(runs, unknown)}")
        if runs[name].astype(str).nunique() < runs[name].nunique():
            raise RunsError(f"{name} has different values that read alike, such as 1 and '1'")
    settings = _settings(runs, by)
    for key, rows in groups_of(runs, by).items() if settings else ():
        for name in settings:
            if len(set(runs[name].iloc[rows])) > 1:
                warnings.warn(
                    f"runs of {label(key)} differ in {name} and are no repetitions: choose the "
                    f"runs of one {name}, or add {name} to the columns that make a choice",
                    UserWarning,
                    stacklevel=3,
                )
                return


def _settings(runs: pd.DataFrame, by: Sequence[str]) -> list[str]:
    """Columns beside `by` that hold settings; a `precision` of fractions is a metric instead."""
    return [
        name
        for name in _SETTINGS
        if name in runs.columns
        and name not in by
        and not (name == "precision" and pd.api.types.is_float_dtype(runs[name]))
    ]


def groups_of(runs: pd.DataFrame, by: Sequence[str]) -> Groups:
    """Key of each group -> places of its rows, in order of the keys; without empty groups."""
    # Columns alone: levels of an index may have the same names.
    keys = runs[list(by)].reset_index(drop=True)
    found = keys.groupby(list(by), observed=True, sort=True).indices
    return {key if isinstance(key, tuple) else (key,): rows for key, rows in found.items()}


# ------------------------------------------------------------------ one column


def numbers(
    runs: pd.DataFrame, name: str, *, positive: bool = False, known: bool = True
) -> FloatArray:
    """A column as numbers of shape (runs,), all finite.

    Args:
        runs: the table.
        name: the column.
        positive: whether 0 and less are refused: energies, durations, FLOPs.
        known: whether missing values are refused; else they are NaN.

    Raises:
        RunsError: values are text, dates or truth values, missing, infinite, or not positive; their
            rows are named.
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
            f"runs.dropna(subset=[{name!r}]), or find out what it was"
        )
    if positive and (values <= 0).any():
        raise RunsError(f"{name} must be above 0: {_rows(runs, values <= 0)}")
    return values


def check_value(
    runs: pd.DataFrame, name: str, by: Sequence[str], *, positive: bool = False
) -> FloatArray:
    """A cost or a quality as numbers of shape (runs,), whichever it is by its name.

    Args:
        runs: the table.
        name: the column.
        by: see `check_cost`.
        positive: whether 0 and less are refused of a quality, too.

    Raises:
        RunsError: as `check_cost` or `check_quality`.
    """
    if name.endswith(_COSTS):
        return check_cost(runs, name, by)
    return check_quality(runs, name, positive=positive)


def check_cost(runs: pd.DataFrame, name: str, by: Sequence[str] = ()) -> FloatArray:
    """A cost as positive numbers of shape (runs,), in the same unit in all rows.

    Args:
        runs: the table.
        name: the column.
        by: what makes a choice; settings that the table knows do as well. Empty where runs are not
            repetitions, and may differ as they like.

    Raises:
        RunsError: as `numbers`. There is a gap of a factor of thirty or more between repetitions of
            a choice, or energies are not `mean_power_W` × `duration_s`, by a factor above three.
    """
    values = numbers(runs, name, positive=True)
    if by:
        _refuse_gaps(runs, name, values, by)
    if name == "energy_J" and {"mean_power_W", "duration_s"} <= set(runs.columns):
        _refuse_other_power(runs, values)
    return values


def _refuse_gaps(runs: pd.DataFrame, name: str, values: FloatArray, by: Sequence[str]) -> None:
    """Repetitions lie close to each other."""
    # Runs cannot be told to differ in a setting that is unknown for one of them.
    known = [setting for setting in _settings(runs, by) if runs[setting].notna().all()]
    for key, rows in groups_of(runs, [*by, *known]).items():
        steps = np.sort(values[rows])
        gaps = steps[1:] / steps[:-1]
        if len(gaps) and gaps.max() > _WIDEST_GAP:
            place = int(np.argmax(gaps))
            raise RunsError(
                f"{name} of {label(key)} is {steps[place]:.4g} or less, and then "
                f"{steps[place + 1]:.4g} or more: repetitions do not lie so far apart; are units "
                "mixed, or runs of different lengths?"
            )


def _refuse_other_power(runs: pd.DataFrame, energy_J: FloatArray) -> None:
    """Energies are power × time, as far as these are known."""
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
    """A quality as numbers of shape (runs,), all shares or all percentages.

    Raises:
        RunsError: as `numbers`, or shares of 1 stand beside percentages.
    """
    values = numbers(runs, name, positive=positive)
    shares = values <= 1
    if is_share(name) and values.min() >= 0 and 1 < values.max() <= 100:
        # A training that fails may reach 0.1 %; what would be as good as the others is a share.
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
    """A choice or group in words."""
    return ", ".join(map(str, key)) if isinstance(key, tuple) else str(key)


def named(names: Sequence[str]) -> str:
    """The first few names, and how many there are more."""
    shown = ", ".join(names[:_MOST_NAMED])
    more = len(names) - _MOST_NAMED
    return shown if more <= 0 else f"{shown} and {more} more"


def _rows(runs: pd.DataFrame, chosen: object) -> str:
    """Which rows these are, the first few by name."""
    rows = np.asarray(chosen, dtype=bool)
    names = runs["run"].to_numpy() if "run" in runs.columns else runs.index.to_numpy()
    return named(list(map(str, names[rows])))


def _other_unit(runs: pd.DataFrame, name: str) -> str:
    """Columns of the same quantity in other units, as two joined tables have them."""
    stem = name.rpartition("_")[0]
    others = [
        str(other)
        for other in runs.columns
        if stem and other != name and str(other).rpartition("_")[0] == stem
    ]
    return f", but there is also {_listed(others)}" if others else ""


def _listed(names: Iterable[object]) -> str:
    return ", ".join(map(repr, map(str, names)))
