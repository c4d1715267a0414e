"""The command line: `energyest devices`, `show`, `project`, `runs` and `run -- PROGRAM`.

A trace is a folder, or a log of another tool.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from energyest import __version__
from energyest.display import format_energy, printable
from energyest.errors import EnergyestError, EstimateError
from energyest.program.command import add_arguments, run_program

if TYPE_CHECKING:
    from energyest.records.trace import EnergyTrace

# Shorter gaps are not worth a line.
_GAP_S = 0.1
# The exit status for a training that its budget has ended.
_OVER_BUDGET = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit status: 1 for an error of the package's own; 3 for `show` of a training that its
        budget has ended.
    """
    parser = argparse.ArgumentParser(
        prog="energyest", description="Energy of deep-learning training: measure and project it."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("devices", help="what can be measured on this machine, and how")
    show = commands.add_parser("show", help="what a recorded training cost, epoch by epoch")
    project = commands.add_parser("project", help="what the whole of a training will cost")
    for command in (show, project):
        command.add_argument("trace", help="folder of a trace, or a log of another tool")
        _add_log_options(command)
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
            return _show(_load(options))
        elif options.command == "runs":
            _runs(options.folder, options.model, options.csv, options.unfinished)
        else:
            _project(_load(options), options.epochs, options.steps)
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


def _add_log_options(command: argparse.ArgumentParser) -> None:
    """What says how to read a log of another tool."""
    log = command.add_argument_group("logs of other tools (docs/reference/log_formats.md)")
    log.add_argument("--epoch-ends", metavar="FILE", help="when epochs ended: one a line")
    log.add_argument(
        "--epoch-marks",
        metavar="REGEX",
        help="lines that say that an epoch has ended: of the log or, with --epoch-ends, of that",
    )
    log.add_argument("--gpu", help="the GPU to count; by default all")
    log.add_argument("--tool", help="who wrote the log; by default told by what is in it")
    log.add_argument(
        "--interval", type=float, metavar="SECONDS", help="between readings, of a log without times"
    )
    log.add_argument("--timezone", help="of the log's local times, such as Europe/Berlin")


def _load(options: argparse.Namespace) -> EnergyTrace:
    """The trace of a folder, or of a log of another tool."""
    from energyest.readers.detect import is_log, read_log  # noqa: PLC0415
    from energyest.records.loading import load_trace  # noqa: PLC0415

    path = Path(options.trace)
    if not is_log(path):
        return load_trace(path)
    with warnings.catch_warnings():
        # What is doubtful is in the trace's notes.
        warnings.simplefilter("ignore", UserWarning)
        return read_log(
            path,
            tool=options.tool,
            epoch_end_s=options.epoch_ends,
            epoch_marks=options.epoch_marks,
            gpu=options.gpu,
            interval_s=options.interval,
            timezone=options.timezone,
        )


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


def _show(trace: EnergyTrace) -> int:
    from energyest.records.meta import read_object, read_text  # noqa: PLC0415
    from energyest.summary import energy_text  # noqa: PLC0415

    measured = trace.epochs.dropna(axis="columns", how="all").rename(columns=_line)
    tool = read_text(read_object(trace.meta, "log"), "tool")
    status = read_text(trace.meta, "status") or (f"from {tool}" if tool else "status unknown")
    if status == "running":
        status = "running, or killed"
    _say(_line(f"{trace}, {status}; {energy_text(trace)}"))
    for line in _gaps(trace):
        _say(_line(f"note: {line}"))
    if len(trace):
        shown = measured.to_string(index=False, float_format="{:.4g}".format, na_rep="-")
        _say(shown)
    stopped = read_text(read_object(trace.meta, "budget"), "stopped")
    if stopped is None:
        return 0
    _say(_line(f"energyest: the training ended early: {stopped}"), file=sys.stderr)
    return _OVER_BUDGET


def _gaps(trace: EnergyTrace) -> Iterator[str]:
    """What of a trace was not measured."""
    from energyest.records.loading import missing_text  # noqa: PLC0415
    from energyest.records.meta import (  # noqa: PLC0415
        read_list,
        read_number,
        read_object,
        read_objects,
        read_text,
    )

    if missing_text(trace.meta):
        yield missing_text(trace.meta)
    for device in trace.devices:
        missing_s = read_number(device, "missing_s") or 0.0
        if missing_s >= _GAP_S:
            yield f"{device.get('device')} was not measured for {missing_s:.4g} s"
    yield from map(str, read_list(trace.meta, "notes"))
    for finding in read_objects(read_object(trace.meta, "budget"), "findings"):
        yield read_text(finding, "reason") or "a budget was exceeded"
    cut = read_object(trace.meta, "interrupted_epoch")
    so_far_J = read_number(cut, "energy_J")
    if so_far_J is not None:
        yield f"{trace.unit} {cut.get('epoch')} was under way: {format_energy(so_far_J)} so far"


def _project(trace: EnergyTrace, epochs: float | None, steps: int | None) -> None:
    from energyest.estimate import NotStableError  # noqa: PLC0415
    from energyest.estimators.compare import compare_estimators  # noqa: PLC0415
    from energyest.estimators.step.estimate import estimate_step  # noqa: PLC0415
    from energyest.estimators.step.horizon import tells_length  # noqa: PLC0415
    from energyest.records.meta import read_object, read_objects  # noqa: PLC0415

    if read_object(trace.meta, "log"):
        for line in _gaps(trace):
            _say(_line(f"note: {line}"), file=sys.stderr)
        if not len(trace):
            raise EstimateError(
                "the log does not say when epochs ended: give --epoch-ends FILE, or --epoch-marks"
            )
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
