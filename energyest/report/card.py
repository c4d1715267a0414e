"""`trace_card`: a trace as the value of a notebook's cell."""

from __future__ import annotations

from energyest.markup import Markup, as_html
from energyest.records.trace import EnergyTrace
from energyest.report.tables import device_table, epoch_table
from energyest.summary import notes_of, status_of, summary_of

# Epochs in a cell of a notebook: of more, blocks of neighbouring ones.
_MOST_EPOCHS = 20


def trace_card(trace: EnergyTrace) -> str:
    """What a run cost, by device and by epoch, and what was not measured, as HTML.

    Args:
        trace: finished or running, and of any length.
    """
    heading = f"{status_of(trace)}: {summary_of(trace)}"
    tables: list[Markup] = []
    if trace.devices:
        tables.append(device_table(trace))
    if len(trace):
        tables.append(epoch_table(trace, most=_MOST_EPOCHS))
    return as_html(heading, tables, [*notes_of(trace)])
