"""The command line: `energyest devices`, `show`, `project`, `runs` and `run -- PROGRAM`."""

from __future__ import annotations

import argparse
import math
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TextIO

from energyest import __version__
from energyest.display import format_energy, printable
from energyest.errors import EnergyestError, EstimateError
from energyest.program.command import add_arguments, run_program

if TYPE_CHECKING:
    from energyest.records.trace import EnergyTrace

# Shorter gaps are not worth a line.
_GAP_S = 0.1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 1 for an error of the package's own."""
    parser = argparse.ArgumentParser(
        prog="energyest", description="Energy of deep-learning training: measure and project it."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("devices", help="what can be measured on this machine, and how")
    show = commands.add_parser("show", help="what a recorded training cost, epoch by epoch")
    project = commands.add_parser("project", help="what the whole of a training will cost")
    for command in (show, project):
        command.add_argument("trace", help="folder of a trace")
    length = project.add_mutually_exclusive_group()
    length.add_argument(
        "-n",
        "--epochs",
        type=float,
        help="epochs (or intervals) of the whole run; by default as the monitor found them planned",
    )
    length.add_argument("--steps", type=int, help="instead, training batches of the whole run")
    runs = commands.add_parser("runs", help="finished trainings below a folder, one row each")
    runs.add_argument("folder", help="folder that holds traces at any depth")
    runs.add_argument("--model", help="hyperparameter that names the model")
    runs.add_argument(
        "--csv",
        help="file to write the whole table to; replaces a table of runs, and nothing else",
    )
    runs.add_argument(
        "--unfinished", action="store_true", help="also runs that were interrupted or go on"
    )
    add_arguments(commands.add_parser("run", help="run a program, and measure it: run -- PROGRAM"))
    options = parser.parse_args(arguments)
    if options.command == "run":
        return _run(options)
    # Here, because it brings numpy, whose threads would take signals that are a program's.
    from energyest.estimate import NotStableError  # noqa: PLC0415

    try:
        if options.command == "devices":
            _devices()
        elif options.command == "show":
            _show(options.trace)
        elif options.command == "runs":
            _runs(options.folder, options.model, options.csv, options.unfinished)
        else:
            _project(options.trace, options.epochs, options.steps)
    except BrokenPipeError:  # as of `energyest show FOLDER | head`
        sys.stderr.close()
        return 1
    except NotStableError as error:
        _say(f"energyest: {error.reason}", file=sys.stderr)
        if error.estimate is not None:
            _say(f"Best guess so far, without a guarantee: {error.estimate}")
        return 1
    except (EnergyestError, OSError) as error:
        _say(f"energyest: {error}", file=sys.stderr)
        return 1
    return 0


def _say(text: object, *, file: TextIO | None = None) -> None:
    """Print what may come from a file that somebody else wrote, as far as the terminal can."""
    encoding = getattr(file or sys.stdout, "encoding", None) or "utf-8"
    print(printable(str(text)).encode(encoding, "replace").decode(encoding), file=file)


def _line(text: str) -> str:
    """Text that stays within its line."""
    return text.replace("\n", "?")


def _run(options: argparse.Namespace) -> int:
    try:
        return run_program(options)
    except EnergyestError as error:
        _say(f"energyest: {error}", file=sys.stderr)
        return 2  # as argparse has it: nothing has run


def _devices() -> None:
    from energyest.measure.sensors import detect  # noqa: PLC0415  (--help stays fast)

    found = detect()
    _say(found)
    found.close()


def _show(folder: str) -> None:
    from energyest.records.loading import load_trace  # noqa: PLC0415
    from energyest.records.meta import read_text  # noqa: PLC0415

    trace = load_trace(folder)
    measured = trace.epochs.dropna(axis="columns", how="all").rename(columns=_line)
    status = read_text(trace.meta, "status") or "status unknown"
    if status == "running":
        status = "running, or killed"
    total_J = trace.total_J
    total = f"{format_energy(total_J)} in all" if math.isfinite(total_J) else "total not known"
    _say(_line(f"{trace}, {status}; {total}"))
    for line in _gaps(trace):
        _say(_line(f"note: {line}"))
    if not len(trace):
        return
    _say(measured.to_string(index=False, float_format=lambda value: f"{value:.4g}", na_rep="-"))


def _gaps(trace: EnergyTrace) -> Iterator[str]:
    """What of a trace was not measured."""
    from energyest.records.loading import missing_text  # noqa: PLC0415
    from energyest.records.meta import (  # noqa: PLC0415
        read_list,
        read_number,
        read_object,
    )

    if missing_text(trace.meta):
        yield missing_text(trace.meta)
    for device in trace.devices:
        missing_s = read_number(device, "missing_s") or 0.0
        if missing_s >= _GAP_S:
            yield f"{device.get('device')} was not measured for {missing_s:.4g} s"
    yield from map(str, read_list(trace.meta, "notes"))
    cut = read_object(trace.meta, "interrupted_epoch")
    so_far_J = read_number(cut, "energy_J")
    if so_far_J is not None:
        yield f"{trace.unit} {cut.get('epoch')} was under way: {so_far_J:.4g} J so far"


def _project(folder: str, epochs: float | None, steps: int | None) -> None:
    from energyest.estimate import NotStableError  # noqa: PLC0415
    from energyest.estimators.compare import compare_estimators  # noqa: PLC0415
    from energyest.estimators.step.estimate import estimate_step  # noqa: PLC0415
    from energyest.estimators.step.horizon import tells_length  # noqa: PLC0415
    from energyest.records.loading import load_trace  # noqa: PLC0415
    from energyest.records.meta import read_objects  # noqa: PLC0415

    trace = load_trace(folder)
    if epochs is None and steps is None and not tells_length(trace):
        raise EstimateError(
            "the trace does not say how long the whole training is: give --epochs or --steps"
        )
    unstable = None
    try:
        estimate = estimate_step(trace, epochs, steps=steps)
    except NotStableError as error:
        if error.estimate is None:
            raise
        estimate, unstable = error.estimate, error
    if estimate.epochs is not None:
        table = compare_estimators(trace, estimate.epochs)
        if "error" in table:
            table = table.assign(error=100 * table["error"]).rename(columns={"error": "error (%)"})
        _say(f"{table.to_string(float_format='%.1f', na_rep='-')}\n")
    if unstable is not None:
        raise unstable
    _say(estimate)
    if read_objects(trace.meta, "early_stopping"):
        _say(_line(_early_stop(trace, estimate.epochs)))


def _early_stop(trace: EnergyTrace, epochs: float | None) -> str:
    """What a training is likely to cost that a callback may end before its last epoch."""
    from energyest.estimate import NotStableError  # noqa: PLC0415
    from energyest.estimators.early_stopping.estimate import estimate_early_stop  # noqa: PLC0415

    try:
        estimate = estimate_early_stop(trace, epochs)
    except (EstimateError, NotStableError) as error:
        return f"If EarlyStopping ends it: {getattr(error, 'reason', error)}"
    return f"If EarlyStopping ends it ({estimate.assumptions[0]}): {estimate}"


def _runs(folder: str, model: str | None, csv: str | None, unfinished: bool) -> None:
    from energyest.tradeoff.collect import COLUMNS, collect_runs, save_runs  # noqa: PLC0415

    with warnings.catch_warnings(record=True) as left_out:
        warnings.simplefilter("always")
        table = collect_runs(folder, model=model, unfinished=unfinished)
    for warning in left_out:
        text = (
            str(warning.message)
            .replace("model=", "--model")
            .replace("unfinished=True", "--unfinished")
        )
        _say(_line(f"note: {text}"), file=sys.stderr)
    if csv is not None:
        save_runs(table, csv)
    # What a line of the terminal has room for: the costs, and in what else runs differ.
    others = [
        name
        for name in table.columns
        if name not in COLUMNS
        and (len(table) == 1 or table[name].nunique() > 1)
        and not table[name].equals(table["model"].rename(name))
    ]
    shown = ["run", "model", "gpu", "epochs", "energy_J", "duration_s", "mean_power_W", *others]
    table = table[shown].dropna(axis="columns", how="all").rename(columns=_line)
    # A name from a file stays in its row.
    table = table.map(lambda value: _line(value) if isinstance(value, str) else value)
    _say(table.to_string(index=False, float_format=lambda value: f"{value:.4g}", na_rep="-"))
