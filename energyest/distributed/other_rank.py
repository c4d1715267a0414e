"""`OtherRank`: what rank 0 knows about another process of the training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from energyest.distributed.rank_copies import Update
from energyest.records.epoch_table import EpochTable
from energyest.records.trace import EnergyTrace

#: Meta entries of a running run that hold only for the moment.
TOTALS = ("total_J", "components", "interrupted_epoch")


@dataclass
class OtherRank:
    """The state of another rank, as received.

    Attributes:
        table: its final epochs.
        provisional: its later epochs, which may change.
        meta: facts about it, with totals as of its last message.
        messages: number of messages received.
        progress: its progress at the last message.
        since_s: seconds from the end of its last row to that message.
        has_ended: whether that message was its final one.
        waited_s: seconds spent waiting for it in vain since that message.
        copied: number of its epochs that are in its copy.
    """

    table: EpochTable = field(default_factory=EpochTable)
    provisional: list[dict[str, float]] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)
    messages: int = 0
    progress: list[int] = field(default_factory=list)
    since_s: float = 0.0
    has_ended: bool = False
    waited_s: float = 0.0
    copied: int = 0

    def take(self, message: Mapping[str, Any]) -> None:
        """Take in a message; its rows replace the provisional ones."""
        final = message["final"] - len(self.table)
        for row in message["rows"][:final]:
            self.table.append(row)
        self.provisional = message["rows"][final:]
        self.meta = message["meta"]
        self.progress, self.since_s = message["progress"], message["since_s"]
        self.has_ended = message["is_last"]
        self.waited_s = 0.0
        self.messages += 1

    def trace(self, *, so_far: bool) -> EnergyTrace:
        """Its part of the trace; while it runs, totals are included only with `so_far`."""
        return EnergyTrace(self.table.columns(self.provisional), meta=self.meta_of(so_far=so_far))

    def news(self, *, whole: bool) -> Update:
        """What its copy lacks; afterwards this counts as copied."""
        first, self.copied = self.copied, len(self.table)
        known = (
            self.trace(so_far=False) if whole else EnergyTrace({}, meta=self.meta_of(so_far=False))
        )
        return Update(known, self.table.rows_from(first))

    @property
    def rows(self) -> int:
        """Number of its epochs received."""
        return len(self.table) + len(self.provisional)

    def row(self, number: int) -> EnergyTrace:
        """One of its epochs; empty if it has not reached that epoch."""
        rows = self.table.rows_from(number) + self.provisional[max(0, number - len(self.table)) :]
        return EnergyTrace(EpochTable().columns(rows[:1]), meta=self.meta)

    def meta_of(self, *, so_far: bool) -> dict[str, Any]:
        """Facts about it; while it runs, totals are included only with `so_far`."""
        without = () if so_far or self.has_ended else TOTALS
        return {name: value for name, value in self.meta.items() if name not in without}
