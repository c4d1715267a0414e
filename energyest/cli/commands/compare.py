"""`energyest compare`: estimators on one training, or runs beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from energyest.cli import options
from energyest.cli.facts import Emissions, emissions, trace_facts
from energyest.cli.methods import method_rows, print_methods
from energyest.cli.output import print_json, print_table, say
from energyest.cli.run_tables import COSTS, collect, with_units
from energyest.cli.traces import check_log, is_trace, open_trace, traces_below


@click.command("compare")
@click.argument("paths", nargs=-1, required=True, metavar="TRACE... | FOLDER")
@click.option("-n", "--epochs", type=float, help="Of one trace: epochs of the whole training.")
@click.option(
    "--observed", type=int, help="Of one trace: let the estimators see the first epochs alone."
)
@click.option(
    "--by",
    multiple=True,
    metavar="COLUMN",
    help="Of a folder: what makes a choice, such as model, gpu or a hyperparameter; may be "
    "repeated. Default: model and gpu.",
)
@click.option(
    "--cost", default="energy_J", show_default=True, help="Of a folder: what is to be saved."
)
@click.option("--quality", metavar="METRIC", help="Of a folder: what may be given up for it.")
@click.option("--model", help="Hyperparameter that names the model. Default: its class.")
@options.log
@options.carbon
@options.as_json
def command(
    paths: tuple[str, ...],
    epochs: float | None,
    observed: int | None,
    by: tuple[str, ...],
    cost: str,
    quality: str | None,
    model: str | None,
    intensity: str | None,
    pue: float | None,
    as_json: bool,
    **log: Any,
) -> None:
    """Compare estimators on a training, runs, or choices.

    \b
    One TRACE      all estimators beside each other; of a finished run also
                   how far off each is. --observed 5 asks what each would have
                   said after 5 epochs.
    TRACE TRACE..  the runs beside each other, and how each differs from the
                   first.
    FOLDER         of many runs: how much each choice (--by) saves over each
                   more expensive one, from medians of its repetitions, with
                   90 % intervals where there are 5 or more of them.

    \b
    Examples:
      energyest compare energy --epochs 100
      energyest compare energy --observed 5
      energyest compare nvidia-smi.csv --epoch-ends ends.txt
      energyest compare runs/resnet18 runs/resnet50
      energyest compare runs --by model --by gpu --quality val_acc
    """
    carbon = emissions(intensity, pue)
    if len(paths) > 1:
        options.check_no_log("several traces", log)
        _compare_runs(paths, model, carbon, as_json)
    elif _is_one(Path(paths[0])):
        _compare_estimators(paths[0], epochs, observed, carbon, as_json, **log)
    else:
        options.check_no_log("a folder of runs", log)
        _compare_choices(paths[0], list(by) or ["model", "gpu"], cost, quality, model, as_json)


def _is_one(path: Path) -> bool:
    return is_trace(path) or len(traces_below(path)) == 1 or not path.is_dir()


def _compare_estimators(
    trace: str,
    epochs: float | None,
    observed: int | None,
    carbon: Emissions,
    as_json: bool,
    **log: Any,
) -> None:
    from energyest.estimators.step.horizon import tells_length

    found = open_trace(trace, **log)
    check_log(found)
    if epochs is None and not tells_length(found):
        epochs = float(len(found))  # a finished run, or a log of one
    if as_json:
        rows = method_rows(found, epochs, observed=observed)
        print_json({"methods": rows, "measured": trace_facts(found, carbon)})
    else:
        print_methods(found, epochs, observed=observed)


def _compare_runs(
    paths: tuple[str, ...], model: str | None, carbon: Emissions, as_json: bool
) -> None:
    by_name = {path: open_trace(path) for path in paths}
    table = with_units(collect(by_name, model=model, unfinished=True), carbon)
    table = table.set_index("run").loc[[p for p in by_name if p in set(table["run"])]].reset_index()
    for cost in ("energy_J", "duration_s"):
        table[f"{cost.rpartition('_')[0]}_change"] = table[cost] / table[cost].iloc[0] - 1
    if as_json:
        print_json({"runs": table.to_dict(orient="records")})
        return
    changes = {
        f"{name} (%)": [100 * share for share in table[f"{name}_change"]]
        for name in ("energy", "duration")
    }
    metrics = [name for trace in by_name.values() for name in trace.metrics if name in table]
    names = ["run", "model", "gpu", "status", "epochs", *COSTS, *dict.fromkeys(metrics)]
    shown = table[names].dropna(axis="columns", how="all")
    columns: dict[str, Any] = {str(name): shown[name].tolist() for name in shown}
    after = list(columns).index("duration_s") + 1 if "duration_s" in columns else len(columns)
    ordered = list(columns.items())
    print_table(
        dict([*ordered[:after], *changes.items(), *ordered[after:]]),
        optional=("mean_power_W", "energy_J", "model", "gpu", "epochs", "status"),
    )
    say(f"changes are relative to {paths[0]}")


def _compare_choices(
    folder: str, by: list[str], cost: str, quality: str | None, model: str | None, as_json: bool
) -> None:
    from energyest.tradeoff.savings import savings

    table = savings(collect(folder, model=model), cost, quality, by=by)
    if as_json:
        print_json({"cost": cost, "quality": quality, "savings": table.to_dict(orient="records")})
        return
    names = {
        "from": [", ".join(map(str, row)) for row in table[[f"from_{n}" for n in by]].to_numpy()],
        "to": [", ".join(map(str, row)) for row in table[[f"to_{n}" for n in by]].to_numpy()],
    }
    shares = {
        "saving (%)": [100 * share for share in table["saving"]],
        "lower (%)": [100 * share for share in table["saving_lower"]],
        "upper (%)": [100 * share for share in table["saving_upper"]],
    }
    others = [name for name in map(str, table) if name.startswith("quality_change")]
    rest = {name: table[name].tolist() for name in [*others, "from_runs", "to_runs"]}
    print_table({**names, **shares, **rest}, optional=("from_runs", "to_runs", *reversed(others)))
