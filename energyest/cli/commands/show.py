"""`energyest show TRACE`: what a training cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from energyest.cli import options
from energyest.cli.exits import Exit
from energyest.cli.facts import Emissions, emissions, trace_facts
from energyest.cli.output import one_line, print_json, print_table, say, say_line
from energyest.cli.traces import open_trace, with_options

if TYPE_CHECKING:
    from energyest.records.trace import EnergyTrace

# Columns to do without on a narrow terminal, the first one first.
_OPTIONAL = (
    *("end_s", "start_s", "flops", "samples", "steps", "validation_s", "ram_energy_J"),
    *("cpu_energy_J", "validation_energy_J", "gpu_energy_J"),
)


@click.command("show")
@options.trace
@options.carbon
@click.option("--all", "all_rows", is_flag=True, help="All epochs, also on a terminal.")
@options.as_json
def command(
    trace: str, intensity: str | None, pue: float | None, all_rows: bool, as_json: bool, **log: Any
) -> int:
    """What a recorded training cost, epoch by epoch.

    TRACE is the folder of a trace, or a log of another tool. A terminal shows
    the columns, and of a long training the epochs, that it has room for; a
    file or a pipe gets all. Exits with 3 if the budget ended the training.

    \b
    Examples:
      energyest show lightning_logs/version_0/energy
      energyest show energy --intensity DE --pue 1.2
      energyest show energy --json | jq .energy_kWh
      energyest show nvidia-smi.csv --epoch-ends ends.txt
    """
    carbon = emissions(intensity, pue)
    found = open_trace(trace, **log)
    facts = trace_facts(found, carbon)
    if as_json:
        names = found.epoch_columns
        rows = zip(*(values.tolist() for values in names.values()), strict=True)
        print_json({**facts, "epochs": [dict(zip(names, row, strict=True)) for row in rows]})
    else:
        _print(found, carbon, all_rows)
    if facts["stopped_by_budget"] is None:
        return Exit.OK
    if as_json:  # the text says it already
        reason = one_line(facts["stopped_by_budget"])
        say(f"energyest: the training ended early: {reason}", error=True)
    return Exit.OVER_BUDGET


def _print(trace: EnergyTrace, carbon: Emissions, all_rows: bool) -> None:
    from energyest.records.devices import names_with_counts
    from energyest.records.meta import read_object, read_text
    from energyest.summary import notes_of, status_of, summary_of

    basis = carbon.for_run(trace)
    lines = summary_of(trace, intensity=basis.intensity, pue=basis.pue).split("\n")
    for line in lines:
        say_line(line)
    devices = ", ".join(names_with_counts(trace.devices))
    say_line(f"  {status_of(trace)}{devices and f'; {devices}'}")
    stopped = read_text(read_object(trace.meta, "budget"), "stopped")
    for text in notes_of(trace):
        if text != stopped:  # which the summary says
            say_line(f"note: {with_options(text)}")
    if len(trace):
        measured = trace.epochs.dropna(axis="columns", how="all")
        columns = {str(name): measured[name].tolist() for name in measured}
        optional = (*_OPTIONAL, *reversed(trace.metrics), "mean_power_W", "duration_s")
        print_table(columns, optional=optional, every_row=all_rows)
