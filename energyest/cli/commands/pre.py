"""`energyest pre`: what a training will cost, before anything runs."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import click

from energyest.cli import options
from energyest.cli.facts import emissions, estimate_facts
from energyest.cli.files import check_output, write
from energyest.cli.output import no_warnings, print_json, print_table, say, say_line
from energyest.cli.targets import How, workload_of
from energyest.display import format_duration, format_energy, format_mass
from energyest.errors import ConfigurationError

if TYPE_CHECKING:
    import pandas as pd

    from energyest.carbon import CarbonSeries
    from energyest.estimate import Estimate
    from energyest.records.trace import EnergyTrace
    from energyest.records.workload import Workload


@click.command("pre")
@click.argument("target", metavar="MODEL")
@click.option(
    "--gpu",
    "gpus",
    metavar="NAME",
    multiple=True,
    help="The GPU to train on, such as A100 or 'RTX 3090'.",
)
@options.training
@click.option("--devices", type=int, help="GPUs of one host that train together. Default: 1.")
@click.option("--accumulate", type=int, help="Batches for each step of the optimizer. Default: 1.")
@click.option(
    "--compiled/--not-compiled",
    default=None,
    help="Whether torch.compile runs the model. Default: as it is.",
)
@click.option("--power-limit", type=float, metavar="WATTS", help="Limit of a GPU's power.")
@click.option(
    "--power-limits", is_flag=True, help="Also show time and energy at lower limits of its power."
)
@click.option(
    "--loader-rate", type=float, metavar="SAMPLES_PER_S", help="What the data loader delivers."
)
@click.option("--save-workload", metavar="FILE", help="Store the workload, as a MODEL for later.")
@options.carbon
@click.option(
    "--forecast",
    metavar="CSV",
    help="Carbon intensity to come, over time: names the cleanest time to start.",
)
@options.as_json
def command(
    target: str,
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
    devices: int | None,
    accumulate: int | None,
    compiled: bool | None,
    power_limit: float | None,
    power_limits: bool,
    loader_rate: float | None,
    save_workload: str | None,
    intensity: str | None,
    pue: float | None,
    forecast: str | None,
    as_json: bool,
) -> None:
    """Estimate a training before it starts, on a GPU that need not be here.

    MODEL is MODULE:NAME or FILE.py:NAME of a torch model, or of a class or a
    function without arguments that makes one; or a workload that
    --save-workload has stored; or the folder of a trace, which says what else
    is needed. The module is imported, which runs its code. One training step
    is walked through on shapes alone, without a GPU.

    \b
    Examples:
      energyest pre torchvision.models:resnet50 --gpu A100 \\
          --batch 256x3x224x224 --precision bf16 --optimizer sgd_momentum \\
          --epochs 90 --train-samples 1281167 --validation-samples 50000
      energyest pre train.py:make_model --batch-from train.py:batch \\
          --gpu H100 --devices 8 --epochs 3 --train-samples 1000000
      energyest pre lightning_logs/version_0/energy --gpu H100
    """
    from energyest.carbon import CarbonSeries
    from energyest.estimators.pre.estimate import estimate_pre
    from energyest.estimators.pre.power_limits import power_limits as at_power_limits

    if len(gpus) > 1:
        raise ConfigurationError(
            f"--gpu is given {len(gpus)} times: for GPUs that train together, use --devices; to "
            "compare GPUs, use energyest advise"
        )
    gpu = gpus[0] if gpus else None
    carbon = emissions(intensity, pue)
    to_come = None if forecast is None else CarbonSeries.from_csv(forecast)
    stored_at = None if save_workload is None else check_output(save_workload, False)
    workload, trace = workload_of(target, How(batch, batch_from, samples, precision, optimizer))
    if trace is not None:
        found_epochs, found_samples, found_validated = _length_of(trace)
        epochs = found_epochs if epochs is None else epochs
        train_samples = found_samples if train_samples is None else train_samples
        validation_samples = found_validated if validation_samples is None else validation_samples
        gpu = _gpu_of(trace) if gpu is None else gpu
    if stored_at is not None:
        text = json.dumps(workload.to_dict(), indent=1, allow_nan=False)
        write(stored_at, lambda file: file.write(text.encode()))
    for name, value in {
        "--gpu NAME": gpu,
        "--epochs": epochs,
        "--train-samples": train_samples,
    }.items():
        if value is None:
            raise ConfigurationError(f"{name} is missing")
    assert epochs is not None
    assert train_samples is not None
    training: dict[str, Any] = {
        "epochs": epochs,
        "train_samples": train_samples,
        "validation_samples": validation_samples or 0,
        "devices": devices,
        "accumulate": accumulate,
        "compiled": compiled,
        "loader_samples_per_s": loader_rate,
    }
    with no_warnings():  # that it does not fit is among the assumptions
        estimate = estimate_pre(
            workload, gpu, power_limit_W=power_limit, confidence=confidence, **training
        )
        limits = at_power_limits(workload, gpu, **training) if power_limits else None
    starts = None if to_come is None else _starts(to_come, estimate, carbon.pue)
    if as_json:
        content: dict[str, Any] = {"estimate": estimate_facts(estimate, carbon), "gpu": gpu}
        if starts is not None:
            content["starts"] = starts.astype({"start": str}).to_dict("records")
        if limits is not None:
            content["power_limits"] = limits.to_dict("records")
        print_json({**content, "workload": _workload_facts(workload)})
        return
    say_line(str(estimate))
    emitted = carbon.text(estimate)
    if emitted:
        say(emitted)
    if starts is not None:
        best = starts.iloc[0]
        when = f"{best.start:%Y-%m-%d %H:%M UTC}"
        say_line(
            f"cleanest start: {when}, {format_mass(best.co2e_kg)} CO2e, {100 * best.saving:.3g} % "
            "less than at the earliest"
        )
    for text in estimate.assumptions:
        say_line(f"- {text}")
    if limits is not None:
        say("")
        print_table(_limit_columns(limits))


def _workload_facts(workload: Workload) -> dict[str, Any]:
    names = ("model", "batch_size", "precision", "optimizer", "parameters")
    return {
        **{name: getattr(workload, name) for name in names},
        "forward_flops_per_sample": workload.forward_flops_per_sample,
        "memory_bytes": workload.memory_bytes,
    }


def _limit_columns(limits: pd.DataFrame) -> dict[str, list[str]]:
    return {
        "power limit": [f"{value:g} W" for value in limits["power_limit_W"]],
        "energy": [format_energy(value) for value in limits["energy_J"]],
        "time": [format_duration(value) for value in limits["duration_s"]],
        "slower": [f"{100 * value:.3g} %" for value in limits["slowdown"]],
        "saved": [f"{100 * value:.3g} %" for value in limits["saving"]],
    }


def _starts(forecast: CarbonSeries, estimate: Estimate, pue: float) -> pd.DataFrame:
    """The times to start, from now on."""
    from energyest.carbon import start_times

    if estimate.duration_s is None:
        raise ConfigurationError("--forecast needs an estimate with a duration")
    now = datetime.now(timezone.utc)
    begins = datetime.fromtimestamp(forecast.begin_s, timezone.utc)
    return start_times(
        forecast, estimate.energy_J, estimate.duration_s, earliest=max(now, begins), pue=pue
    )


def _length_of(trace: EnergyTrace) -> tuple[float | None, int | None, int | None]:
    """Epochs, samples of an epoch, and samples of a validation, as far as a trace tells."""
    from energyest.records.meta import read_object, read_positive

    first = read_object(trace.meta, "first_projection")

    def samples(name: str) -> int | None:
        recorded = read_positive(first, name) or read_positive(trace.meta, name)
        return None if recorded is None else round(recorded)

    epochs = read_positive(trace.meta, "planned_epochs") or float(len(trace)) or None
    return epochs, samples("train_samples"), samples("validation_samples")


def _gpu_of(trace: EnergyTrace) -> Any:
    from energyest.records.devices import gpus_of, name_of

    gpus = gpus_of(trace.devices)
    return name_of(gpus[0]) if gpus else None
