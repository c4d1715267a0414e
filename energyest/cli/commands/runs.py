"""`energyest runs FOLDER`: all trainings below a folder, beside each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from energyest.cli import options
from energyest.cli.facts import emissions
from energyest.cli.output import print_json, print_table, say_written
from energyest.cli.run_tables import COSTS, collect, with_units

if TYPE_CHECKING:
    import pandas as pd

# Columns to do without on a narrow terminal, the first one first.
_OPTIONAL = ("mean_power_W", "energy_J", "gpu", "epochs", "duration_s")


@click.command("runs")
@click.argument("folder", metavar="FOLDER")
@click.option("--model", help="Hyperparameter that names the model. Default: its class.")
@click.option(
    "--csv",
    metavar="FILE",
    help="File to write the whole table to; replaces a table of runs, and nothing else.",
)
@click.option("--unfinished", is_flag=True, help="Also runs that were interrupted or still go on.")
@options.carbon
@options.as_json
def command(
    folder: str,
    model: str | None,
    csv: str | None,
    unfinished: bool,
    intensity: str | None,
    pue: float | None,
    as_json: bool,
) -> None:
    """Finished trainings below a folder, one row each.

    Shows the costs, and the hyperparameters and metrics in which the runs
    differ. Copies and interrupted runs are left out, and named.

    \b
    Examples:
      energyest runs lightning_logs
      energyest runs lightning_logs --model arch --intensity DE
      energyest runs lightning_logs --csv runs.csv
    """
    from energyest.tradeoff.collect import save_runs

    carbon = emissions(intensity, pue)
    table = with_units(collect(folder, model=model, unfinished=unfinished), carbon)
    if csv is not None:
        save_runs(table, csv)
        say_written(csv, len(table), "runs", error=True)  # stdout holds the table
    if as_json:
        print_json({"runs": table.to_dict(orient="records")})
    else:
        _print(table)


def _print(table: pd.DataFrame) -> None:
    from energyest.tradeoff.collect import COLUMNS

    others = [
        name
        for name in table.columns
        if name not in (*COLUMNS, "energy_kWh", "co2e_kg")
        and (len(table) == 1 or len(set(table[name].dropna())) > 1)
        and not table[name].equals(table["model"].rename(name))
    ]
    names = ["run", "model", "gpu", "epochs", *COSTS, *others]
    shown = table[names].dropna(axis="columns", how="all")
    columns: dict[str, Any] = {str(name): shown[name].tolist() for name in shown}
    hidden = [str(name) for name in reversed(others)]
    print_table(columns, optional=(*_OPTIONAL[:3], *hidden, *_OPTIONAL[3:]))
