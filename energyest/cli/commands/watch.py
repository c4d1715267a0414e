"""`energyest watch FOLDER`: the live projection of a run elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from energyest.cli import options
from energyest.cli.exits import Exit
from energyest.cli.facts import Emissions, emissions, estimate_facts, trace_facts
from energyest.cli.output import (
    is_terminal,
    make_console,
    print_json,
    printable_lines,
    say,
    say_line,
)
from energyest.cli.traces import folder_of_trace
from energyest.display import format_both, format_duration
from energyest.errors import ConfigurationError, TraceError

if TYPE_CHECKING:
    from energyest.exporters.run_view import RunView

# A folder that cannot be read for longer is gone: files are replaced in much less.
_GONE_S = 10.0


@click.command("watch")
@click.argument("folder", metavar="FOLDER")
@click.option("-n", "--epochs", type=float, help="Epochs of the training. Default: as planned.")
@click.option(
    "--every", type=float, default=2.0, show_default=True, help="Seconds between two looks."
)
@click.option(
    "--timeout",
    type=float,
    metavar="SECONDS",
    help="Give up after so many seconds without anything new. Default: never.",
)
@options.carbon
@options.as_json
def command(
    folder: str,
    epochs: float | None,
    every: float,
    timeout: float | None,
    intensity: str | None,
    pue: float | None,
    as_json: bool,
) -> int:
    """Watch a training that another process records in FOLDER.

    Shows epochs, energy so far, and the projection with its interval, until
    the run ends. The folder need not be there yet. On a terminal the view
    stays in its place; elsewhere, every new epoch is a line, and with --json
    an object on a line. Ctrl-C ends watching, not the training.

    \b
    Exit status: 0 if the run finished; 1 if it was interrupted, the folder
    vanished or --timeout was over; 130 after Ctrl-C.

    \b
    Examples:
      energyest watch energy
      energyest watch lightning_logs/version_0/energy --intensity FR
      energyest watch energy --timeout 3600 > energy.log
    """
    if not every > 0:
        raise ConfigurationError(f"--every {every:g} must be above 0")
    carbon = emissions(intensity, pue)
    views = _views(Path(folder), epochs, every, timeout, quiet=as_json)
    if as_json:
        last = None
        for last in views:
            print_json(_facts(last, carbon), indent=None)
    elif is_terminal():
        last = _show_live(views, carbon)
    else:
        last = None
        for last in views:
            say_line(_line(last, carbon))
    if last is None or last.status != "finished":
        return Exit.ERROR
    return Exit.OK


# ---------------------------------------------------------------------- looking


def _views(
    folder: Path, epochs: float | None, every_s: float, timeout_s: float | None, *, quiet: bool
) -> Iterator[RunView]:
    """A view whenever there is something new, the last one when the run has ended.

    Raises:
        TraceError: the folder holds no trace that can be read, has vanished, or nothing new came
            for `timeout_s`.
    """
    from energyest.exporters.run_view import RunView, state_of

    seen: object = None
    shown: tuple[int, str] | None = None
    failed_at_s: float | None = None
    news_at_s = time.monotonic()
    if not folder.exists() and not quiet:
        say(f"waiting for {folder}", error=True)
    while True:
        if shown is None:
            folder = folder_of_trace(folder)
        now_s, state = time.monotonic(), state_of(folder)
        if state != seen and state:
            try:
                view = RunView.load(folder, epochs)
            except TraceError:
                if shown is None and timeout_s is None and (folder / "meta.json").exists():
                    raise  # no trace that this version can read
                failed_at_s = now_s if failed_at_s is None else failed_at_s
            else:
                seen, failed_at_s, news_at_s = state, None, now_s
                news = (len(view.trace), view.status)
                if news != shown:
                    shown = news
                    yield view
                if view.status != "running":
                    return
        elif not state and shown is not None:
            failed_at_s = now_s if failed_at_s is None else failed_at_s
        if failed_at_s is not None and shown is not None and now_s - failed_at_s > _GONE_S:
            raise TraceError(f"{folder} has vanished, or can no longer be read")
        if timeout_s is not None and now_s - news_at_s > timeout_s:
            raise TraceError(f"{folder}: nothing new for {timeout_s:g} s")
        time.sleep(every_s)


# ---------------------------------------------------------------------- showing


def _facts(view: RunView, carbon: Emissions) -> dict[str, Any]:
    estimate = None if view.estimate is None else estimate_facts(view.estimate, carbon)
    measured = trace_facts(view.trace, carbon)
    return {
        "status": view.status,
        "measured": measured,
        "is_stable": not view.reason,
        "reason": view.reason or None,
        "estimate": estimate,
    }


def _line(view: RunView, carbon: Emissions) -> str:
    return ": ".join(filter(None, [_so_far(view, carbon), _projected(view, carbon)]))


def _so_far(view: RunView, carbon: Emissions) -> str:
    trace = view.trace
    planned = view.estimate.epochs if view.estimate is not None else None
    of = "" if planned is None else f" of {planned:.6g}"
    text = f"{len(trace)}{of} {trace.unit}s"
    if view.status != "running":
        text += f", {view.status}"
    if not math.isfinite(trace.total_J):
        return f"{text}, energy not known{' yet' if not len(trace) else ''}"
    emitted = carbon.for_run(trace).text(trace)
    return f"{text}, {format_both(trace.total_J)}{emitted and f', {emitted}'} so far"


def _projected(view: RunView, carbon: Emissions) -> str:
    if view.status != "running":
        return ""
    if view.estimate is None:
        return view.reason
    guess = f"best guess ({view.reason}): " if view.reason else ""
    emitted = carbon.for_run(view.trace).text(view.estimate)
    return f"{guess}{view.estimate}{emitted and f', {emitted}'}"


def _show_live(views: Iterator[RunView], carbon: Emissions) -> RunView | None:
    from rich.live import Live

    last = None
    with Live(console=make_console(), auto_refresh=False, vertical_overflow="visible") as live:
        for last in views:
            live.update(_picture(last, carbon), refresh=True)
    return last


def _picture(view: RunView, carbon: Emissions) -> Any:
    from rich.console import Group
    from rich.padding import Padding
    from rich.progress_bar import ProgressBar

    planned = view.estimate.epochs if view.estimate is not None else None
    parts: list[Any] = printable_lines(_so_far(view, carbon), _projected(view, carbon))
    if planned:
        bar = ProgressBar(total=planned, completed=min(len(view.trace), planned), width=60)
        parts.insert(1, Padding(bar, 0))  # on a line of its own
    left_s = _left_s(view)
    if left_s is not None:
        parts += printable_lines(f"about {format_duration(left_s)} to go")
    return Group(*parts)


def _left_s(view: RunView) -> float | None:
    if view.status != "running" or view.estimate is None or view.estimate.duration_s is None:
        return None
    return max(0.0, view.estimate.duration_s - float(view.trace.column("duration_s").sum()))
