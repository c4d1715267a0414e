"""`energyest advise`: which model on which GPU, before anything is trained."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from energyest.cli import options
from energyest.cli.facts import Emissions, emissions
from energyest.cli.output import print_json, print_table, say, say_line
from energyest.cli.run_tables import with_units
from energyest.cli.targets import How, workload_of
from energyest.display import format_duration, format_energy
from energyest.errors import ConfigurationError

if TYPE_CHECKING:
    from energyest.records.workload import Workload
    from energyest.tradeoff import Advice


@click.command("advise")
@click.argument("targets", nargs=-1, required=True, metavar="[NAME=]MODEL...")
@click.option("--gpu", "gpus", multiple=True, required=True, help="A GPU; may be repeated.")
@options.training
@click.option(
    "--quality",
    multiple=True,
    metavar="NAME=VALUE",
    help="Expected quality of a model, such as its accuracy; for each model, or for none.",
)
@click.option("--lower-is-better", is_flag=True, help="Lower --quality is better, as of a loss.")
@options.carbon
@options.as_json
def command(
    targets: tuple[str, ...],
    gpus: tuple[str, ...],
    batch: str | None,
    batch_from: str | None,
    samples: int | None,
    precision: str | None,
    optimizer: str | None,
    epochs: float | None,
    train_samples: int | None,
    validation_samples: int | None,
    confidence: float,
    quality: tuple[str, ...],
    lower_is_better: bool,
    intensity: str | None,
    pue: float | None,
    as_json: bool,
) -> None:
    """Choose among models and GPUs before anything is trained.

    A MODEL is what `energyest pre` takes; it is called by the last part of its
    name, unless NAME= says otherwise. Shown are the pairs that no other pair
    beats in energy and time (and quality, where it is given); --json has all
    pairs, and why some cannot be trained.

    \b
    Examples:
      energyest advise torchvision.models:resnet18 \\
          torchvision.models:resnet50 --gpu A100 --gpu H100 --gpu L4 \\
          --batch 64x3x224x224 --epochs 90 --train-samples 1281167 \\
          --quality resnet18=0.698 --quality resnet50=0.761
    """
    from energyest.tradeoff import advise

    for name, value in {"--epochs": epochs, "--train-samples": train_samples}.items():
        if value is None:
            raise ConfigurationError(f"{name} is missing")
    assert epochs is not None
    assert train_samples is not None
    carbon = emissions(intensity, pue)
    how = How(batch, batch_from, samples, precision, optimizer)
    models: dict[str, Workload] = {}
    for given in targets:
        name, target = _named(given)
        if name in models:
            raise ConfigurationError(
                f"two models are called {name}: give one of them a name of its own, NAME={target}"
            )
        models[name] = workload_of(target, how).workload
    found = advise(
        models,
        list(gpus),
        epochs=epochs,
        train_samples=train_samples,
        validation_samples=validation_samples or 0,
        quality=_qualities(quality) if quality else None,
        mode="min" if lower_is_better else "max",
        confidence=confidence,
    )
    if as_json:
        table = with_units(found.table, carbon)
        print_json({"confidence": confidence, "pairs": table.to_dict(orient="records")})
        return
    _print(found, carbon)


def _print(found: Advice, carbon: Emissions) -> None:
    # Its text is a heading, the table and notes, with empty lines between them.
    heading, *_, notes = str(found).split("\n\n")
    say_line(heading)
    front = found.front.to_dict(orient="records")
    if front:
        say("")
        print_table(_columns(front, carbon), optional=("basis", "precision", "batch", "power"))
        say("")
    for line in notes.split("\n"):
        say_line(f"- {line}")


def _columns(rows: list[dict[Any, Any]], carbon: Emissions) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {
        "model": [row["model"] for row in rows],
        "gpu": [row["gpu"] for row in rows],
        "batch": [row["batch_size"] for row in rows],
        "precision": [row["precision"] for row in rows],
        "energy": [format_energy(row["energy_J"]) for row in rows],
        "from": [format_energy(row["energy_lower_J"]) for row in rows],
        "to": [format_energy(row["energy_upper_J"]) for row in rows],
        "CO2e": [carbon.text(row["energy_J"]).removesuffix(" CO2e") for row in rows],
        "time": [format_duration(row["duration_s"]) for row in rows],
        "power": [f"{row['mean_power_W']:.0f} W" for row in rows],
        "quality": [row["quality"] for row in rows],
        "basis": [row["basis"] for row in rows],
    }
    if carbon.intensity is None:
        del columns["CO2e"]
    if all(math.isnan(value) for value in columns["quality"]):
        del columns["quality"]
    return columns


def _named(given: str) -> tuple[str, str]:
    """The name of a model, and what is to be looked for."""
    name, sign, target = given.partition("=")
    if sign:
        return name, target
    return given.rstrip("/").replace(":", "/").rpartition("/")[2], given


def _qualities(given: tuple[str, ...]) -> dict[str, float]:
    found = {}
    for one in given:
        name, _, value = one.rpartition("=")
        try:
            found[name] = float(value)
        except ValueError:
            raise ConfigurationError(f"--quality {one} must be NAME=NUMBER") from None
    return found
