"""`energyest export`: traces and runs as files for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from energyest.cli import options
from energyest.cli.encoding import FORMATS, encoded, format_of
from energyest.cli.facts import emissions, trace_facts
from energyest.cli.files import check_output, write
from energyest.cli.output import print_exactly, say_written
from energyest.cli.run_tables import collect, with_units
from energyest.cli.traces import check_log, is_trace, open_trace

_TABLES = ("epochs", "power", "runs")


@click.command("export")
@click.argument("path", metavar="TRACE|FOLDER")
@click.option(
    "--to",
    type=click.Choice(FORMATS),
    help="Format. Default: by the ending of FILE, else csv.",
)
@click.option(
    "--table",
    type=click.Choice(_TABLES),
    help="epochs or power (readings) of a trace, or the runs below a folder. Default: epochs of "
    "a trace, runs of a folder of several.",
)
@options.output
@options.log
@options.carbon
@click.option("--model", help="Of runs: hyperparameter that names the model.")
@click.option("--unfinished", is_flag=True, help="Of runs: also those that have not finished.")
@click.option("--json", "as_json", is_flag=True, help="The same as --to json.")
def command(
    path: str,
    to: str | None,
    table: str | None,
    output: str | None,
    force: bool,
    intensity: str | None,
    pue: float | None,
    model: str | None,
    unfinished: bool,
    as_json: bool,
    **log: Any,
) -> None:
    """Write a trace, or runs, as CSV, Parquet or JSON.

    Without --output the table goes to stdout. Column names include units. What
    is not known is an empty cell in CSV, null in JSON and Parquet, never 0. In
    CSV, text that a spreadsheet would compute (it begins with =, +, - or @) is
    preceded by an apostrophe; numbers are not. JSON also holds the totals of a
    trace. Parquet needs pyarrow: pip install pyarrow.

    \b
    Read back with pandas:
      pandas.read_csv("epochs.csv")
      pandas.read_parquet("epochs.parquet")
      pandas.DataFrame(json.load(open("epochs.json"))["epochs"])

    \b
    Examples:
      energyest export energy --output epochs.csv
      energyest export energy --table power --output power.parquet
      energyest export nvidia-smi.csv --epoch-ends ends.txt
      energyest export lightning_logs --to json | jq '.runs[].energy_kWh'
    """
    if as_json and to not in (None, "json"):
        raise click.UsageError(f"--json is not allowed with --to {to}", click.get_current_context())
    form = "json" if as_json else to or format_of(output) or "csv"
    if form == "parquet" and output is None:
        raise click.UsageError("--to parquet takes --output FILE", click.get_current_context())
    target = None if output is None else check_output(output, force)
    kind = table or ("epochs" if is_trace(Path(path)) else _kind_of(Path(path)))
    carbon = emissions(intensity, pue)
    content: dict[str, object] = {}
    if kind == "runs":
        options.check_no_log("a table of runs", log)
        rows = with_units(collect(path, model=model, unfinished=unfinished), carbon)
    else:
        found = open_trace(path, **log)
        if kind == "epochs":
            check_log(found)
        content = trace_facts(found, carbon)
        rows = found.epochs if kind == "epochs" else found.power
    data = encoded(rows, form, kind, content)
    if target is None:
        print_exactly(data.decode("utf-8"))
        return
    write(target, lambda file: file.write(data))
    say_written(str(output), len(rows), kind, error=as_json)


def _kind_of(folder: Path) -> str:
    from energyest.cli.traces import traces_below

    return "runs" if len(traces_below(folder)) != 1 else "epochs"
