"""The ten features of the paper's regressions, and checks of their columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from energyest.arrays import FloatArray
from energyest.errors import EstimateError

if TYPE_CHECKING:
    import pandas as pd

FEATURES = (
    *("batch_size", "image_height", "image_width", "ram_GB", "training_samples"),
    *("validation_samples", "GFLOPs", "cuda_cores", "gpu_memory_GB", "gpu_power_limit_W"),
)
#: Range of absolute values that a fit accepts: products and ratios of them, squared, stay finite.
LEAST, MOST = 1e-15, 1e15


def check_columns(table: pd.DataFrame, names: Sequence[str]) -> None:
    """Raise an error for anything but a DataFrame with these columns.

    Raises:
        EstimateError: it is not a DataFrame or lacks columns; the message names all missing ones.
    """
    if not (hasattr(table, "columns") and hasattr(table, "groupby")):
        raise EstimateError(f"the table is a {type(table).__name__}: it must be a DataFrame")
    missing = [name for name in names if name not in table]
    if missing:
        plural = "s" * (len(missing) > 1)
        raise EstimateError(f"the table lacks the column{plural} {', '.join(missing)}")


def number_column(table: pd.DataFrame, name: str, *, positive: bool = False) -> FloatArray:
    """A column as floats, of shape (n,).

    Raises:
        EstimateError: it is missing, occurs twice, or holds text or a number out of range; the
            message gives the position of the row.
    """
    check_columns(table, [name])
    column = table[name]
    if column.ndim != 1:
        raise EstimateError(f"the table has more than one column {name}")
    # Text that looks like a number would otherwise be accepted as one.
    if column.dtype.kind not in "iuf":
        raise EstimateError(f"column {name} must hold numbers, not {column.dtype}")
    values: FloatArray = column.to_numpy(np.float64, na_value=np.nan)
    size = np.abs(values)
    good = (size >= LEAST) & (size <= MOST) & (values > 0 if positive else True)
    good |= (values == 0) & (not positive)
    if not good.all():
        row = int(np.argmin(good))
        must = "positive and finite, from" if positive else "finite, and 0 or from"
        raise EstimateError(
            f"{name} in row {row} is {values[row]:g}: it must be {must} {LEAST:g} to {MOST:g}"
        )
    return values
