"""Tables of a training: its devices, its epochs, and its stable levels."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from energyest.display import format_both
from energyest.estimators.step.regimes import find_regimes
from energyest.markup import NOT_KNOWN, Markup, cell, column_title, table
from energyest.records.devices import contained_names
from energyest.records.meta import read_number, read_text
from energyest.records.trace import EnergyTrace

# Metrics that have a column; of more, the first.
_MOST_METRICS = 4


def energy_cell(energy_J: float | None) -> str:
    """Joules and kWh; a dash for what is not known, never 0."""
    if energy_J is None or not math.isfinite(energy_J):
        return NOT_KNOWN
    return format_both(energy_J)


def device_table(trace: EnergyTrace) -> Markup:
    """Each device: its energy, its share of the total, and how it was read."""
    total_J, within = trace.total_J, contained_names(trace.devices)
    rows = []
    for device in trace.devices:
        energy_J = read_number(device, "energy_J")
        share = math.nan if energy_J is None or not total_J > 0 else energy_J / total_J
        missing_s = read_number(device, "missing_s")
        name = read_text(device, "device") or NOT_KNOWN
        rows.append(
            (
                f"{name} (part of another)" if name in within else name,
                read_text(device, "name") or NOT_KNOWN,
                energy_cell(energy_J),
                cell(share, "share"),
                read_text(device, "source") or NOT_KNOWN,
                read_text(device, "method") or NOT_KNOWN,
                cell(missing_s, "missing_s"),
            )
        )
    head = ("device", "name", "energy", "share", "source", "method", "time not measured")
    return table(head, rows, caption="Energy by device")


def epoch_table(trace: EnergyTrace, *, most: int) -> Markup:
    """A row for each epoch; of more than `most`, for each of up to `most` blocks of two or more."""
    if len(trace) > most:
        return _block_table(trace, min(most, len(trace) // 2))
    names = ["duration_s", "energy_J", "validation_energy_J", "mean_power_W"]
    names = [n for n in names if np.isfinite(trace.column(n)).any()]
    names += trace.metrics[:_MOST_METRICS]
    rows = (
        [_number(trace.column("epoch")[i], i), *(cell(trace.column(n)[i], n) for n in names)]
        for i in range(len(trace))
    )
    head = [trace.unit, *map(column_title, names)]
    return table(head, rows, caption=f"Energy by {trace.unit}")


def _block_table(trace: EnergyTrace, blocks: int) -> Markup:
    energy_J, unit = trace.column("energy_J"), trace.unit
    edges = np.linspace(0, len(trace), blocks + 1).astype(int)
    rows = []
    for begin, end in pairwise(edges):
        values = energy_J[begin:end]
        known = values[np.isfinite(values)]
        number = trace.column("epoch")
        name = _number(number[begin], begin)
        if end - begin > 1:
            name += f" to {_number(number[end - 1], end - 1)}"
        rows.append(
            (
                name,
                *(cell(function(known) if len(known) else math.nan, "energy_J") for function in
                  (np.mean, np.min, np.max)),
                # Of some that were not measured, the sum is not known.
                cell(float(values.sum()), "energy_J"),
                str(end - begin - len(known)),
            )
        )  # fmt: skip
    head = (f"{unit}s", "mean", "lowest", "highest", "sum", "not measured")
    return table(head, rows, caption=f"Energy by {unit}, in blocks of neighbours")


def level_table(trace: EnergyTrace) -> Markup:
    """The stable levels; nothing where there is none."""
    rows = [
        (f"{regime.start} to {regime.stop - 1}", cell(regime.mean_J, "energy_J"))
        for regime in find_regimes(trace)
    ]
    if not rows:
        return Markup()
    head = (f"{trace.unit}s", f"mean energy of one {trace.unit}")
    return table(head, rows, caption="Stable levels")


def _number(epoch: float, position: int) -> str:
    return str(int(epoch)) if math.isfinite(epoch) else str(position)
