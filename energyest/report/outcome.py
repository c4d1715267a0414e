"""Projection against outcome, and the estimators beside each other."""

from __future__ import annotations

import math

import numpy as np

from energyest.display import format_duration, format_energy, reason_of
from energyest.errors import EstimateError
from energyest.estimate import Estimate, NotStableError
from energyest.estimators.compare import compare_estimators
from energyest.estimators.step.estimate import estimate_step
from energyest.estimators.step.horizon import find_horizon, tells_length
from energyest.markup import NOT_KNOWN, Markup, cell, joined, listing, of_frame, paragraph, table
from energyest.records.trace import EnergyTrace
from energyest.report.tables import energy_cell

# How much of a finished run is shown to the estimator.
SHARES = (0.10, 0.25, 0.50, 0.75)


def length_of(trace: EnergyTrace) -> float | None:
    """How many epochs a run has that is over; None for one that is to go on, or may be."""
    if not tells_length(trace):
        return trace.epochs_done
    horizon = find_horizon(trace, None, None, None)
    return min(horizon.epochs, trace.epochs_done) if horizon.is_reached(trace) else None


def outcome_of(trace: EnergyTrace) -> Markup:
    """The projection: of a finished run beside what it came to, else with its interval."""
    if not len(trace):
        return paragraph(f"There is no {trace.unit} to project from.")
    epochs = length_of(trace)
    return _running(trace) if epochs is None else _finished(trace, epochs)


def comparison_of(trace: EnergyTrace) -> Markup:
    """What each estimator says."""
    if not len(trace):
        return paragraph(f"There is no {trace.unit} to estimate from.")
    epochs = length_of(trace)
    # Of a finished run, what each would have said half way.
    observed = len(trace) if epochs is None else max(1, len(trace) // 2)
    try:
        found = compare_estimators(trace, epochs, observed=observed)
    except EstimateError as error:
        return paragraph(f"They cannot be compared: {error}.")
    names = ["energy_J", "energy_lower_J", "energy_upper_J", "error", "note"]
    shown = found[[name for name in names if name in found]]
    of = "" if epochs is None else f" of {epochs:.6g}"
    caption = f"Estimates of the whole training after {observed}{of} {trace.unit}s"
    return of_frame(shown, caption=caption)


def _finished(trace: EnergyTrace, epochs: float) -> Markup:
    unit, outcome_J = trace.unit, float(np.sum(trace.column("energy_J")))
    rows = []
    for share in SHARES:
        observed = math.ceil(share * len(trace))
        seen = f"{observed} ({100 * share:.0f} %)"
        try:
            estimate = estimate_step(trace.head(observed), epochs)
        except (EstimateError, NotStableError) as error:
            rows.append((seen, NOT_KNOWN, NOT_KNOWN, NOT_KNOWN, reason_of(error)))
            continue
        off = (estimate.energy_J - outcome_J) / outcome_J if outcome_J > 0 else math.nan
        rows.append(
            (
                seen,
                format_energy(estimate.energy_J),
                _interval(estimate),
                cell(off, "error"),
                _verdict(estimate, outcome_J),
            )
        )
    head = (f"{unit}s seen", "projected", "interval", "error", "what it came to")
    came_to = energy_cell(outcome_J)
    text = (
        f"The {unit}s came to {came_to}. This is what estimate_step projects from the first of "
        f"them alone; energy outside of {unit}s is not part of it."
    )
    return joined([paragraph(text), table(head, rows, caption="Projection and outcome")])


def _running(trace: EnergyTrace) -> Markup:
    try:
        estimate = estimate_step(trace)
    except NotStableError as error:
        guess = f"Best guess, without a guarantee: {error.estimate}." if error.estimate else ""
        return joined([paragraph(f"{error.reason}."), paragraph(guess) if guess else ""])
    except EstimateError as error:
        return paragraph(f"There is no projection: {error}.")
    rows = [("energy", energy_cell(estimate.energy_J), _interval(estimate))]
    if estimate.duration_s is not None:
        ends = (estimate.duration_lower_s, estimate.duration_upper_s)
        interval = " to ".join(format_duration(end) for end in ends if end is not None)
        rows.append(("duration", format_duration(estimate.duration_s), interval or NOT_KNOWN))
    of = "" if estimate.epochs is None else f" of {estimate.epochs:.6g}"
    caption = f"Projection of the whole training after {trace.epochs_done:.6g}{of} {trace.unit}s"
    confidence = "" if estimate.confidence is None else f" ({100 * estimate.confidence:.4g} %)"
    shown = table(("", "projected", f"interval{confidence}"), rows, caption=caption)
    notes = [f"method: {estimate.method}", *(f"assumed: {a}" for a in estimate.assumptions)]
    return joined([shown, listing(notes)])


def _interval(estimate: Estimate) -> str:
    if estimate.lower_J is None or estimate.upper_J is None:
        return NOT_KNOWN
    return f"{format_energy(estimate.lower_J)} to {format_energy(estimate.upper_J)}"


def _verdict(estimate: Estimate, outcome_J: float) -> str:
    if not math.isfinite(outcome_J):
        return "not known: some were not measured"
    if estimate.lower_J is None or estimate.upper_J is None:
        return format_energy(outcome_J)
    where = "in" if estimate.lower_J <= outcome_J <= estimate.upper_J else "outside"
    return f"{format_energy(outcome_J)}, {where} the interval"
