"""`energyest project TRACE`: what the whole of a training will cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from energyest.cli import options
from energyest.cli.exits import Exit
from energyest.cli.facts import (
    Emissions,
    emissions,
    estimate_facts,
    trace_facts,
    unstable_facts,
)
from energyest.cli.methods import method_rows, print_methods
from energyest.cli.output import note, print_json, say, say_line
from energyest.cli.traces import check_log, open_trace
from energyest.display import reason_of
from energyest.errors import EstimateError

if TYPE_CHECKING:
    from energyest.estimate import Estimate, NotStableError
    from energyest.records.trace import EnergyTrace


@click.command("project")
@options.trace
@options.length
@options.carbon
@options.as_json
def command(
    trace: str,
    epochs: float | None,
    steps: int | None,
    intensity: str | None,
    pue: float | None,
    as_json: bool,
    **log: Any,
) -> int:
    """What the whole of a training will cost.

    TRACE is the folder of a trace, of a training that still runs too, or a log
    of another tool. All estimators are shown beside each other, and the
    projection (STEP) below them with its interval. The exit status is 1 if
    the training has not settled on a level yet; the best guess is shown.

    \b
    Examples:
      energyest project energy                 as long as it was planned
      energyest project energy --epochs 100
      energyest project nvidia-smi.csv --epoch-ends ends.txt -n 100
    """
    from energyest.estimate import NotStableError
    from energyest.estimators.step.estimate import estimate_step

    options.check_length(epochs, steps)
    carbon = emissions(intensity, pue)
    found = open_trace(trace, **log)
    _check(found, epochs, steps)
    estimate: Estimate | None
    unstable = None
    try:
        estimate = estimate_step(found, epochs, steps=steps)
    except NotStableError as error:
        if error.estimate is None and not as_json:
            raise
        estimate, unstable = error.estimate, error
    if as_json:
        _print_json(found, estimate, unstable, carbon)
    else:
        _print(found, estimate, unstable, carbon)
    if unstable is None:
        return Exit.OK
    if as_json:
        say(f"energyest: {unstable.reason}", error=True)
    return Exit.ERROR


def _check(trace: EnergyTrace, epochs: float | None, steps: int | None) -> None:
    from energyest.estimators.step.horizon import tells_length

    check_log(trace)
    if epochs is None and steps is None and not tells_length(trace):
        raise EstimateError(
            "the trace does not say how long the whole training is: pass --epochs or --steps"
        )


def _print(
    trace: EnergyTrace,
    estimate: Estimate | None,
    unstable: NotStableError | None,
    carbon: Emissions,
) -> None:
    assert estimate is not None
    if estimate.epochs is not None:
        print_methods(trace, estimate.epochs)
        say("")
    guess = ""
    if unstable is not None:
        say(f"energyest: {unstable.reason}", error=True)
        guess = "Best guess so far, without a guarantee: "
    if estimate.epochs is not None and unstable is None and trace.epochs_done >= estimate.epochs:
        note("the training has ended: this is what it cost; --epochs projects a longer one")
    say_line(f"{guess}{estimate}")
    emitted = carbon.for_run(trace).text(estimate)
    if emitted:
        say(emitted)
    early = _early_stop(trace, estimate.epochs) if unstable is None else None
    if early is not None:
        say_line(early[0])


def _print_json(
    trace: EnergyTrace,
    estimate: Estimate | None,
    unstable: NotStableError | None,
    carbon: Emissions,
) -> None:
    if unstable is not None:
        content = unstable_facts(unstable, carbon)
    else:
        assert estimate is not None
        facts = estimate_facts(estimate, carbon)
        content = {"is_stable": True, "reason": None, "missing_epochs": 0, "estimate": facts}
    early = None if estimate is None else _early_stop(trace, estimate.epochs)
    stops = None if early is None or early[1] is None else estimate_facts(early[1], carbon)
    planned = None if estimate is None else estimate.epochs
    methods = [] if planned is None else method_rows(trace, planned)
    measured = trace_facts(trace, carbon)
    print_json({**content, "early_stop": stops, "methods": methods, "measured": measured})


def _early_stop(trace: EnergyTrace, epochs: float | None) -> tuple[str, Estimate | None] | None:
    """What a training is likely to cost that a callback may end before its last epoch."""
    from energyest.estimate import NotStableError
    from energyest.estimators.early_stopping.estimate import estimate_early_stop
    from energyest.records.meta import read_objects

    if not read_objects(trace.meta, "early_stopping"):
        return None
    try:
        estimate = estimate_early_stop(trace, epochs)
    except (EstimateError, NotStableError) as error:
        return f"If EarlyStopping ends it: {reason_of(error)}", None
    return f"If EarlyStopping ends it ({estimate.assumptions[0]}): {estimate}", estimate
