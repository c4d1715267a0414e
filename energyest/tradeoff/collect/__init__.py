"""From traces to a table of runs: of a folder of thousands, only what changed is read again."""

from energyest.tradeoff.collect.duplicates import duplicated_runs
from energyest.tradeoff.collect.table import COLUMNS, collect_runs, save_runs

__all__ = ["COLUMNS", "collect_runs", "duplicated_runs", "save_runs"]
