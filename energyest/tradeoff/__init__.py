"""Analysis of finished runs, in a table with one row per run, and advice on the next one."""

from energyest.records.load_many import load_traces
from energyest.tradeoff.advice import Advice
from energyest.tradeoff.advisor import advise
from energyest.tradeoff.collect import collect_runs, duplicated_runs
from energyest.tradeoff.groups import GroupComparison, compare_groups
from energyest.tradeoff.interaction import Interaction, interaction
from energyest.tradeoff.match import GpuMatch, match_gpu
from energyest.tradeoff.pareto import cheapest_within, pareto_front
from energyest.tradeoff.savings import savings

__all__ = [
    "Advice",
    "GpuMatch",
    "GroupComparison",
    "Interaction",
    "advise",
    "cheapest_within",
    "collect_runs",
    "compare_groups",
    "duplicated_runs",
    "interaction",
    "load_traces",
    "match_gpu",
    "pareto_front",
    "savings",
]
