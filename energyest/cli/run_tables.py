"""Tables of runs, as `energyest.tradeoff` collects them, in the words of the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from energyest.cli.output import notes_of_library
from energyest.display import JOULES_PER_KWH

if TYPE_CHECKING:
    import pandas as pd

    from energyest.cli.facts import Emissions
    from energyest.records.load_many import Source

#: Columns of a run's cost, in the order in which they are shown.
COSTS = ("energy_J", "energy_kWh", "co2e_kg", "duration_s", "mean_power_W")


def collect(
    source: Source | Mapping[str, str],
    *,
    model: str | None = None,
    unfinished: bool = False,
    parts: bool = False,
    index: bool | None = None,
) -> pd.DataFrame:
    """A table of runs; what was left out, and what an index is worth, is said in notes.

    Args:
        source: as `collect_runs` takes it, like all that follows.
        model: the hyperparameter that names the model.
        unfinished: whether runs that have not finished belong to it.
        parts: whether earlier parts of resumed runs have rows of their own.
        index: whether to keep an index.

    Raises:
        EnergyestError: as `collect_runs`.
    """
    from energyest.tradeoff.collect import collect_runs

    with notes_of_library(("model=", "--model"), ("unfinished=True", "--unfinished")):
        found: pd.DataFrame = collect_runs(
            source, model=model, unfinished=unfinished, parts=parts, index=index
        )
    return found


def with_units(table: pd.DataFrame, carbon: Emissions) -> pd.DataFrame:
    """The table with `energy_kWh` and `co2e_kg` behind `energy_J`; NaN where not known."""
    place = list(table.columns).index("energy_J") + 1
    more: pd.DataFrame = table.copy()
    if "co2e_kg" not in more:  # it may be a metric of somebody's
        more.insert(place, "co2e_kg", carbon.of_runs(table))
    if "energy_kWh" not in more:
        more.insert(place, "energy_kWh", table["energy_J"] / JOULES_PER_KWH)
    return more
