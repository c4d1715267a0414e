"""What a table of runs has to be before anything is concluded from it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from energyest.errors import RunsError
from energyest.integration import FloatArray

if TYPE_CHECKING:
    import pandas as pd

Mode = Literal["max", "min"]
By = str | Sequence[str]
#: What makes one choice, where the caller does not say otherwise.
CHOICE = ("model", "gpu")
# Settings that change what a run costs: runs that differ in them are no repetitions.
_SETTINGS = ("batch_size", "precision", "gpus")
# Repetitions do not differ so much; the smallest step between units in use is 60 (s and min).
_MOST_SPREAD = 30.0
# A board's own power and an energy from a counter agree within a few per cent.
_MOST_OFF = 3.0
_LOWER_IS_BETTER = re.compile(r"loss|error|err\b|perplexity|ppl|rmse|mse|mae|wer\b|cer\b|nll")
_SHARE = re.compile(r"acc|f1|auc|auroc|precision|recall|iou|dice|map\b|top_?\d|^quality$")


def check_runs(runs: object, columns: Sequence[str] = ()) -> pd.DataFrame:
    """The table, if it is one and has these columns and no run twice.

    Raises:
        RunsError: it is no DataFrame, has no row, lacks a column, names a column twice, or holds a
            run twice: every row is there again, or one that has a name in a column `run`.
    """
    import pandas as pd  # noqa: PLC0415

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
    missing = [name for name in columns if name not in runs.columns]
    if missing:
        raise RunsError(
            f"the table of runs lacks {_listed(missing)}: it has {_listed(runs.columns)}"
        )
    again = runs.astype(str).duplicated(keep=False)
    if again.all() or ("run" in runs.columns and again.any()):
        raise RunsError(
            f"{int(again.sum())} rows are there twice ({_rows(runs, again)}): a run counts once; "
            "runs.drop_duplicates() leaves one of each"
        )
    return runs


def as_names(by: By, what: str = "by") -> list[str]:
    """Names of columns from one name or several.

    Raises:
        RunsError: there is none, or one twice.
    """
    names = [by] if isinstance(by, str) else [str(name) for name in by]
    if not names or len(set(names)) < len(names):
        raise RunsError(f"{what}={by!r} must name one column or several different ones")
    return names


def numbers(runs: pd.DataFrame, name: str, *, positive: bool = False) -> FloatArray:
    """A column as finite numbers of shape (runs,).

    Args:
        runs: the table.
        name: the column.
        positive: whether 0 and less are refused: energies, durations, FLOPs.

    Raises:
        RunsError: values are text, missing, infinite, or not positive; their rows are named.
    """
    import pandas as pd  # noqa: PLC0415

    column = runs[name]
    if not (pd.api.types.is_numeric_dtype(column) or column.isna().all()):
        converted = pd.to_numeric(column, errors="coerce")
        text = converted.isna() & column.notna()
        if text.any():
            raise RunsError(
                f"{name} must hold numbers in one unit: {column[text].iloc[0]!r} in row "
                f"{_rows(runs, text)} is none"
            )
        column = converted
    values: FloatArray = column.to_numpy(dtype=np.float64, na_value=np.nan)
    unknown = ~np.isfinite(values)
    if unknown.any():
        raise RunsError(
            f"{name} is not known for {int(unknown.sum())} of {len(runs)} runs "
            f"({_rows(runs, unknown)}){_other_unit(runs, name)}: leave them out with "
            f"runs.dropna(subset=[{name!r}]), or find out what it was"
        )
    if positive and (values <= 0).any():
        raise RunsError(f"{name} must be above 0: {_rows(runs, values <= 0)}")
    return values


def check_choices(runs: pd.DataFrame, by: Sequence[str]) -> None:
    """Every run belongs to a choice, and the runs of a choice are repetitions.

    Raises:
        RunsError: a value of these columns is missing.

    Warns:
        UserWarning: runs of one choice differ in a setting that decides what they cost.
    """
    for name in by:
        unknown = runs[name].isna()
        if unknown.any():
            raise RunsError(f"{name} is not known for the rows {_rows(runs, unknown)}")
    for name in _SETTINGS:
        if name in runs.columns and name not in by:
            several = runs.groupby(list(by), observed=True)[name].nunique()
            if (several > 1).any():
                first = several.index[int(np.argmax(several > 1))]
                warnings.warn(
                    f"runs of {label(first)} differ in {name} and are no repetitions: choose those "
                    f"of one {name}, or add it to by=",
                    UserWarning,
                    stacklevel=3,
                )


def check_units(runs: pd.DataFrame, name: str, by: Sequence[str]) -> None:
    """A cost is in the same unit in all rows.

    Raises:
        RunsError: repetitions of a choice differ more than thirtyfold, or energies are not what
            `mean_power_W` × `duration_s` says, by a factor above three.
    """
    values = numbers(runs, name, positive=True)
    for key, rows in runs.groupby(list(by), observed=True).indices.items():
        low, high = values[rows].min(), values[rows].max()
        if high > _MOST_SPREAD * low:
            raise RunsError(
                f"{name} of {label(key)} lies between {low:.4g} and {high:.4g}: repetitions do not "
                "differ so much; are units mixed, or runs of different lengths?"
            )
    if name == "energy_J" and {"mean_power_W", "duration_s"} <= set(runs.columns):
        expected = runs["mean_power_W"].to_numpy(float) * runs["duration_s"].to_numpy(float)
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = values / expected
        wrong = np.isfinite(factor) & ((factor > _MOST_OFF) | (factor < 1 / _MOST_OFF))
        if wrong.any():
            raise RunsError(
                f"energy_J is {factor[wrong][0]:.3g} times mean_power_W × duration_s in row "
                f"{_rows(runs, wrong)}: one of them is in another unit"
            )


def check_quality(runs: pd.DataFrame, name: str) -> FloatArray:
    """A quality as numbers of shape (runs,), all shares or all percentages.

    Raises:
        RunsError: as `numbers`, or shares of 1 stand beside percentages.
    """
    values = numbers(runs, name)
    if _SHARE.search(name.lower()) and values.min() >= 0 and 1 < values.max() <= 100:
        shares = values <= 1
        if shares.any() and values[~shares].min() > 10 * values[shares].max():
            raise RunsError(
                f"{name} mixes shares and percentages: {values[shares].max():.4g} in row "
                f"{_rows(runs, shares)}, {values[~shares].min():.4g} in row "
                f"{_rows(runs, ~shares)}"
            )
    return values


def direction(name: str, mode: Mode | None) -> Mode:
    """Whether more of a quality is better: as the caller says, or else as its name does.

    Raises:
        RunsError: `mode` is neither "max", "min" nor None.
    """
    if mode not in ("max", "min", None):
        raise RunsError(f"mode={mode!r} must be 'max' or 'min'")
    return mode or ("min" if _LOWER_IS_BETTER.search(name.lower()) else "max")


def check_alpha(alpha: float) -> float:
    """Refuse a level that is no probability between 0 and 1.

    Raises:
        RunsError: it is not.
    """
    if isinstance(alpha, bool) or not (isinstance(alpha, float | int) and 0 < alpha < 1):
        raise RunsError(f"alpha={alpha!r} must lie between 0 and 1")
    return float(alpha)


def label(key: object) -> str:
    """A choice or group in words."""
    return ", ".join(map(str, key)) if isinstance(key, tuple) else str(key)


def _rows(runs: pd.DataFrame, chosen: object) -> str:
    """Which rows these are, the first few by name."""
    index = runs.index[np.asarray(chosen, dtype=bool)]
    names = list(runs.loc[index, "run"]) if "run" in runs.columns and index.is_unique else index
    shown = ", ".join(map(str, list(names)[:4]))
    return shown if len(index) <= 4 else f"{shown} and {len(index) - 4} more"


def _other_unit(runs: pd.DataFrame, name: str) -> str:
    """Columns of the same quantity in other units, as two joined tables have them."""
    stem = name.rpartition("_")[0]
    others = [
        str(other)
        for other in runs.columns
        if stem and other != name and str(other).rpartition("_")[0] == stem
    ]
    return f", but there is also {_listed(others)}" if others else ""


def _listed(names: object) -> str:
    return ", ".join(map(repr, map(str, names)))  # type: ignore[call-overload]
