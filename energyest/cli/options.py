"""Options and arguments that several commands have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def as_json(command: Command) -> Command:
    """`--json`, as the parameter `as_json`."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on stdout."
    )(command)


def carbon(command: Command) -> Command:
    """`--intensity` and `--pue`, as the parameters of these names."""
    return _all(
        command,
        click.option(
            "--intensity",
            metavar="G_PER_KWH|COUNTRY|CSV",
            help="Carbon intensity of the electricity, for CO2e: g CO2e per kWh, a country, or a "
            "CSV file of it over time. Default: as recorded with a run, or "
            "ENERGYEST_CARBON_INTENSITY, or [tool.energyest] of pyproject.toml.",
        ),
        click.option(
            "--pue",
            type=float,
            help="Power usage effectiveness of the data centre, for CO2e alone. Default: "
            "ENERGYEST_PUE, or 1.",
        ),
    )


def trace(command: Command) -> Command:
    """TRACE as the parameter `trace`, and the options of `log`."""
    return click.argument("trace", metavar="TRACE")(log(command))


def log(command: Command) -> Command:
    """The options that `traces.open_trace` takes."""
    return _all(
        command,
        click.option(
            "--epoch-ends", metavar="FILE", help="Of a log: when epochs ended, one a line."
        ),
        click.option(
            "--epoch-marks",
            metavar="REGEX",
            help="Of a log: lines that end an epoch; with --epoch-ends, lines of that file.",
        ),
        click.option("--gpu", help="Of a log: the GPU to count. Default: all."),
        click.option("--tool", help="Of a log: the tool that wrote it. Default: recognised."),
        click.option(
            "--interval",
            type=float,
            metavar="SECONDS",
            help="Of a log without times: seconds between readings.",
        ),
        click.option("--timezone", help="Of a log with local times, such as Europe/Berlin."),
    )


def check_no_log(where: str, log: Mapping[str, object]) -> None:
    """Refuse the options of `log` where no single log is read.

    Args:
        where: what is read instead, for the message.
        log: the options, as `open_trace` takes them; None where not given.

    Raises:
        click.UsageError: one is given.
    """
    given = [f"--{name.replace('_', '-')}" for name, value in log.items() if value is not None]
    if given:
        raise click.UsageError(
            f"{given[0]} is for one log, not for {where}",
            click.get_current_context(silent=True),
        )


def length(command: Command) -> Command:
    """`--epochs` and `--steps`, as the parameters of these names; `check_length` refuses both."""
    return _all(
        command,
        click.option(
            "-n",
            "--epochs",
            type=float,
            help="Epochs (or intervals) of the whole training. Default: as planned in the trace.",
        ),
        click.option("--steps", type=int, help="Instead: training batches of the whole training."),
    )


def check_length(epochs: float | None, steps: int | None) -> None:
    """Refuse a length that is given twice.

    Raises:
        click.UsageError: it is.
    """
    if epochs is not None and steps is not None:
        raise click.UsageError(
            "--steps is not allowed with --epochs: both say how long the training is",
            click.get_current_context(silent=True),
        )


def output(command: Command) -> Command:
    """`--output` and `--force`, as the parameters of these names."""
    return _all(
        command,
        click.option("-o", "--output", metavar="FILE", help="The file to write."),
        click.option("--force", is_flag=True, help="Replace FILE if it is there already."),
    )


def training(command: Command) -> Command:
    """How a model is trained, for `pre` and `advise`."""
    return _all(
        command,
        click.option(
            "--batch",
            metavar="SHAPE",
            help="Shape of a batch, such as 32x3x224x224; of whole numbers, 8x512:int64. Several "
            "inputs are separated by commas, and may have names: input_ids=8x512:int64.",
        ),
        click.option(
            "--batch-from",
            metavar="MODULE:NAME",
            help="Instead: a batch, or a function without arguments that returns one.",
        ),
        click.option(
            "--samples", type=int, help="Samples in the batch, where its shape does not tell."
        ),
        click.option("--precision", help="fp32, tf32, bf16 or fp16. Default: fp32."),
        click.option("--optimizer", help="sgd, sgd_momentum, adamw, ... Default: sgd."),
        click.option("-n", "--epochs", type=float, help="Epochs of the training."),
        click.option("--train-samples", type=int, help="Samples in an epoch."),
        click.option(
            "--validation-samples",
            type=int,
            help="Samples that are validated after each epoch. Default: 0.",
        ),
        click.option(
            "--confidence",
            type=float,
            default=0.9,
            show_default=True,
            help="Probability for the intervals.",
        ),
    )


def _all(command: Command, *decorators: Callable[[Command], Command]) -> Command:
    """Decorate with all of them; the first is the first in the help."""
    for decorator in reversed(decorators):
        command = decorator(command)
    return command
