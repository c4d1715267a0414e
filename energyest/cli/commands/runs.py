"""`energyest runs FOLDER`: all trainings below a folder, beside each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from energyest.cli import options
from energyest.cli.encoding import encoded, format_of
from energyest.cli.facts import emissions
from energyest.cli.files import check_output, write
from energyest.cli.output import note, print_json, print_table, say_written
from energyest.cli.run_tables import COSTS, collect, with_units
from energyest.display import format_both

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
@click.option(
    "--to",
    metavar="FILE",
    help="Instead of showing the table, write it to FILE.csv, FILE.parquet or FILE.json.",
)
@click.option("--force", is_flag=True, help="Replace the FILE of --to if it is there already.")
@click.option("--unfinished", is_flag=True, help="Also runs that were interrupted or still go on.")
@click.option("--parts", is_flag=True, help="Also the earlier parts of resumed runs, one row each.")
@click.option(
    "--index/--no-index",
    default=None,
    help="Keep an index in FOLDER, so that the next call reads only what has changed. Default: "
    "from 100 runs on.",
)
@options.carbon
@options.as_json
def command(
    folder: str,
    model: str | None,
    csv: str | None,
    to: str | None,
    force: bool,
    unfinished: bool,
    parts: bool,
    index: bool | None,
    intensity: str | None,
    pue: float | None,
    as_json: bool,
) -> None:
    """Finished trainings below a folder, one row each.

    Shows the costs, and the hyperparameters and metrics in which the runs
    differ. Copies and interrupted runs are left out, and named. A run that was
    resumed is one row; lost_J is what it used after the checkpoints that it was
    resumed from. FOLDER may be an address that fsspec opens, as s3://bucket/runs.

    \b
    Examples:
      energyest runs lightning_logs
      energyest runs lightning_logs --model arch --intensity DE
      energyest runs lightning_logs --csv runs.csv
      energyest runs lightning_logs --unfinished --parts --to runs.parquet
    """
    from energyest.tradeoff.collect import save_runs

    form = format_of(to)
    if to is not None and form is None:
        raise click.UsageError(
            f"--to {to}: the name must end with .csv, .parquet or .json",
            click.get_current_context(),
        )
    target = None if to is None else check_output(to, force)
    carbon = emissions(intensity, pue)
    found = collect(folder, model=model, unfinished=unfinished, parts=parts, index=index)
    table = with_units(found, carbon)
    _say_lost(table)
    if target is not None and form is not None:
        data = encoded(table, form, "runs", {})
        write(target, lambda file: file.write(data))
        say_written(str(to), len(table), "runs", error=as_json)
    if csv is not None:
        save_runs(table, csv)
        say_written(csv, len(table), "runs", error=True)  # stdout holds the table
    if as_json:
        print_json({"runs": table.to_dict(orient="records")})
    elif target is None:
        _print(table)


def _say_lost(table: pd.DataFrame) -> None:
    """Say what resumed runs have lost: it is in no energy_J."""
    lost_J = table["lost_J"]
    if (lost_J > 0).any():
        note(
            f"{format_both(float(lost_J.sum()))} were used after checkpoints from which runs were "
            "resumed: lost_J has them, energy_J has not"
        )
    if lost_J.isna().any():
        note(
            f"lost_J is not known for {int(lost_J.isna().sum())} of {len(table)} runs: their "
            "earlier parts are not in the folder"
        )


def _print(table: pd.DataFrame) -> None:
    from energyest.tradeoff.collect import COLUMNS

    others = [
        name
        for name in table.columns
        if name not in (*COLUMNS, "energy_kWh", "co2e_kg")
        and (len(table) == 1 or len(set(table[name].dropna())) > 1)
        and not table[name].equals(table["model"].rename(name))
    ]
    lost = ["lost_J"] if (table["lost_J"] != 0).any() else []  # NaN is not 0
    names = ["run", "model", "gpu", "epochs", *COSTS, *lost, *others]
    shown = table[names].dropna(axis="columns", how="all")
    columns: dict[str, Any] = {str(name): shown[name].tolist() for name in shown}
    hidden = [str(name) for name in reversed(others)]
    print_table(columns, optional=(*_OPTIONAL[:3], *hidden, *_OPTIONAL[3:]))
