"""All estimators beside each other, on one training."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from energyest.cli.output import print_table, say_line

if TYPE_CHECKING:
    import pandas as pd

    from energyest.records.trace import EnergyTrace

_ADVICE = re.compile(r": pass \w+=$")
_SHOWN = {
    "energy_J": "energy_J",
    "energy_lower_J": "lower_J",
    "energy_upper_J": "upper_J",
    "duration_s": "duration_s",
    "error_J": "error_J",
    "error": "error (%)",
}


def print_methods(trace: EnergyTrace, epochs: float | None, **more: Any) -> None:
    """Print what every estimator says; why one says nothing stands below.

    Args:
        trace: of the training.
        epochs: of the whole training; None for as many as planned.
        **more: of `compare_estimators`.

    Raises:
        EstimateError: the length is not known, or an argument is out of its range.
    """
    table = _compare(trace, epochs, **more)
    if "error" in table:
        table["error"] *= 100
    columns: dict[str, list[Any]] = {"method": table.index.tolist()}
    columns |= {shown: table[n].tolist() for n, shown in _SHOWN.items() if n in table}
    print_table(columns, number=".1f", optional=("error_J", "duration_s"))
    reasons: dict[str, list[str]] = {}
    for name, text in table["note"].items():
        if text:
            # What to pass to a function is no advice here.
            reason = _ADVICE.sub("", str(text))
            reasons.setdefault(reason, []).append(str(name))
    for reason, names in reasons.items():
        say_line(f"- {' and '.join(names)}: {reason}")


def method_rows(trace: EnergyTrace, epochs: float | None, **more: Any) -> list[dict[Any, Any]]:
    """The same for JSON: the columns of `compare_estimators`, one object a method."""
    rows: list[dict[Any, Any]] = (
        _compare(trace, epochs, **more).reset_index().to_dict(orient="records")
    )
    return rows


def _compare(trace: EnergyTrace, epochs: float | None, **more: Any) -> pd.DataFrame:
    from energyest.estimators.compare import compare_estimators

    return compare_estimators(trace, epochs, **more)
