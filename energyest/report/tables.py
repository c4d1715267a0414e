"""Tables of a training: its devices, its epochs, and its stable levels."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from energyest.display import format_both
from energyest.estimators.step.regimes import find_regimes
from energyest.markup import NOT_KNOWN, Markup, cell, column_title, table
from energyest.records.devices import (
    contained_names,
    counted_devices,
    counts_by_name,
    gpus_of,
)
from energyest.records.meta import read_count, read_number, read_object, read_objects, read_text
from energyest.records.trace import EnergyTrace
from energyest.summary import energy_of, since_checkpoint

# Metrics that have a column; of more, the first.
_MOST_METRICS = 4


def energy_cell(energy_J: float | None) -> str:
    """Joules and kWh; a dash for what is not known, never 0."""
    if energy_J is None or not math.isfinite(energy_J):
        return NOT_KNOWN
    return format_both(energy_J)


def device_table(trace: EnergyTrace) -> Markup:
    """Each device: its energy, its share of all of them, and how it was read.

    Of a resumed run, the devices are those of the newest part.
    """
    since, within = since_checkpoint(trace), contained_names(trace.devices)
    total_J = energy_of(counted_devices(trace.devices)) if since else trace.total_J
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
    return table(head, rows, caption=f"Energy by device{since and f', {since}'}")


def part_table(trace: EnergyTrace) -> Markup:
    """The parts of a resumed run; nothing for a run of one part."""
    meta = trace.meta
    earlier = read_objects(meta, "earlier_parts")
    if not earlier:
        return Markup()
    now = {
        **{name: meta.get(name) for name in ("run_id", "host", "start_time")},
        "gpus": counts_by_name(gpus_of(trace.devices)),
        "total_J": trace.total_J,
        "rows": len(trace),
    }
    rows, rows_before, before_J = [], 0, 0.0
    for part in (*earlier, now):
        # A part's numbers include those of the parts before it.
        so_far, so_far_J = read_count(part, "rows"), read_number(part, "total_J")
        gpus = ", ".join(f"{n} x {name}" for name, n in read_object(part, "gpus").items())
        rows.append(
            (
                read_text(part, "run_id") or NOT_KNOWN,
                read_text(part, "host") or NOT_KNOWN,
                gpus or NOT_KNOWN,
                read_text(part, "start_time") or NOT_KNOWN,
                NOT_KNOWN if so_far is None else str(so_far - rows_before),
                energy_cell(None if so_far_J is None else so_far_J - before_J),
            )
        )
        rows_before, before_J = so_far or rows_before, math.nan if so_far_J is None else so_far_J
    head = ("run", "machine", "GPUs", "started", f"{trace.unit}s ended", "energy")
    return table(head, rows, caption="Parts of the run: it was resumed from checkpoints")


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
