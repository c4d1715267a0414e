"""The processes that train together: what each of them records reaches rank 0.

It goes through the key-value store by which the processes of torch.distributed found each other.
Setting a key and looking for one are no collective calls: no step of the training is touched, and
a process that has died, or that has no monitor, holds up nobody.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from energyest.callbacks.copies import Copies
from energyest.measure.recorder import Recorder
from energyest.measure.tables import EpochTable
from energyest.ranks import SUMMED, Record, merge
from energyest.trace import EnergyTrace

log = logging.getLogger("energyest")

# How often rank 0 looks for what it waits for.
_POLL_S = 0.001
# What the sum of all needs of another rank's meta, and of its rows.
_TOTALS = ("total_J", "components", "interrupted_epoch")
_META = ("run_id", "rank", "world_size", "host", "status", "devices", "earlier_rows", *_TOTALS)
_COLUMNS = ("epoch", "start_s", "end_s", "duration_s", "validation_s", *SUMMED)


class Store(Protocol):
    """What is asked of a store of torch.distributed."""

    def set(self, key: str, value: str) -> None: ...  # noqa: D102
    def check(self, keys: list[str]) -> bool: ...  # noqa: D102
    def get(self, key: str) -> bytes: ...  # noqa: D102
    def delete_key(self, key: str) -> bool: ...  # noqa: D102


def shared_store() -> Store | None:
    """The store of the processes that torch.distributed has brought together; None without."""
    try:
        from torch.distributed import distributed_c10d  # noqa: PLC0415

        # Not public, but what torch's own parts use. Without it, each rank is on its own.
        store: Store = distributed_c10d._get_default_store()
    except Exception as error:
        log.debug("energyest: no store of torch.distributed: %s", error)
        return None
    return store


@dataclass
class _Other:
    """What is known of another rank.

    Attributes:
        table: its epochs that will not change.
        provisional: those after them.
        meta: facts on it, with totals as of its last message.
        messages: how many have come.
        progress: how far it had come with the last.
        has_ended: whether that was the last of all.
    """

    table: EpochTable = field(default_factory=EpochTable)
    provisional: list[dict[str, float]] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)
    messages: int = 0
    progress: list[int] = field(default_factory=list)
    has_ended: bool = False

    def take(self, message: Mapping[str, Any]) -> None:
        """Take in a message; its rows take the place of those that were provisional."""
        final = message["final"] - len(self.table)
        for row in message["rows"][:final]:
            self.table.append(row)
        self.provisional = message["rows"][final:]
        self.meta = message["meta"]
        self.progress = message["progress"]
        self.has_ended = message["is_last"]
        self.messages += 1

    def record(self, *, so_far: bool) -> Record:
        """Its part of the trace; the totals of one that runs only `so_far`."""
        without = () if so_far or self.has_ended else _TOTALS
        meta = {name: value for name, value in self.meta.items() if name not in without}
        return Record(meta, self.table.columns(self.provisional), {})

    def __len__(self) -> int:
        return len(self.table) + len(self.provisional)


class Group:
    """A recorder's run as all ranks make it: at rank 0 their sum, elsewhere the rank's own part.

    Args:
        recorder: measures this rank.
        store: key-value store that all ranks share.
        rank: of this process.
        world_size: number of processes.
        run_id: the same in all of them, and in no other training.
    """

    def __init__(
        self, recorder: Recorder, store: Store, *, rank: int, world_size: int, run_id: str
    ) -> None:
        self._recorder = recorder
        self._store = store
        self._rank = rank
        self._prefix = f"energyest/{run_id}"
        self._others = {r: _Other() for r in range(1, world_size)} if rank == 0 else {}
        self._sent = 0
        self._first_to_send = 0
        self._copies: Copies | None = None
        self._lock = threading.Lock()
        self._reported = False

    # ------------------------------------------------------------------ the run of all

    @property
    def state(self) -> object:
        """Changes whenever there is something new."""
        self._look()
        return self._recorder.state, [other.messages for other in self._others.values()]

    @property
    def total_J(self) -> float:
        """Energy from the start of the run to now; NaN if a part is missing."""
        if self._rank:
            return self._recorder.total_J
        return self.trace(readings=False, so_far=True).total_J

    def last_row(self) -> dict[str, float]:
        """The row of the epoch that ended last, be it provisional; empty if there is none."""
        columns = self.trace(readings=False).epoch_columns
        return {name: float(values[-1]) for name, values in columns.items() if len(values)}

    def trace(self, *, readings: bool = True, so_far: bool = False) -> EnergyTrace:
        """The trace up to now; the arguments are those of `Recorder.trace`."""
        own = self._recorder.trace(readings=readings, so_far=so_far)
        if self._rank:
            return own
        self._look()
        records = {0: Record(own.meta, own.epoch_columns, own.power_columns)}
        with self._lock:
            for rank, other in self._others.items():
                if other.messages:
                    records[rank] = other.record(so_far=so_far)
        whole = merge(records)
        return EnergyTrace(whole.epochs, whole.power, whole.meta)

    # ------------------------------------------------------------------ exchange

    def share(self, progress: Sequence[int], timeout_s: float, *, is_last: bool = False) -> None:
        """Tell rank 0 what is new; at rank 0, wait until the others have come as far.

        Args:
            progress: rows that have ended, and steps of the one under way.
            timeout_s: how long rank 0 waits at most. Ranks train in step: at its next batch it
                would wait for the slowest of them anyway.
            is_last: the run has ended.
        """
        if self._rank:
            self._tell(progress, is_last)
            return
        give_up_s = time.monotonic() + timeout_s
        while not self._have_come(progress, is_last) and time.monotonic() < give_up_s:
            time.sleep(_POLL_S)
        if self._recorder.folder is not None:
            self._copies = self._copies or Copies(self._recorder.folder)
            with self._lock:
                heard = {rank: other for rank, other in self._others.items() if other.messages}
                self._copies.update(
                    {rank: len(other) for rank, other in heard.items()},
                    lambda rank: heard[rank].record(so_far=False),
                    is_last=is_last,
                )

    def _have_come(self, progress: Sequence[int], is_last: bool) -> bool:
        self._look()
        return all(
            other.has_ended or (not is_last and other.progress >= list(progress))
            for other in self._others.values()
        )

    def _tell(self, progress: Sequence[int], is_last: bool) -> None:
        rows, final = self._recorder.rows_from(self._first_to_send)
        meta = self._recorder.trace(readings=False, so_far=True).meta
        message = {
            "final": final,
            "rows": [{n: row[n] for n in _COLUMNS if n in row} for row in rows],
            "meta": {name: meta[name] for name in _META if name in meta},
            "progress": list(progress),
            "is_last": is_last,
        }
        key = self._key(self._rank, self._sent)
        self._ask(lambda: self._store.set(key, json.dumps(message)))
        self._sent += 1
        self._first_to_send = final

    def _look(self) -> None:
        """Take in what has come."""
        with self._lock:
            for rank, other in self._others.items():
                while not other.has_ended and self._take(rank, other):
                    pass

    def _take(self, rank: int, other: _Other) -> bool:
        key = self._key(rank, other.messages)
        if not self._ask(lambda: self._store.check([key])):
            return False
        text = self._ask(lambda: self._store.get(key))
        if text is None:
            return False
        other.take(json.loads(text))
        self._ask(lambda: self._store.delete_key(key))
        return True

    def _key(self, rank: int, number: int) -> str:
        return f"{self._prefix}/{rank}/{number}"

    def _ask(self, question: Callable[[], Any]) -> Any:
        """What the store answers; None if it fails, as it does when its process has ended."""
        try:
            return question()
        except Exception as error:
            if not self._reported:
                self._reported = True
                log.debug("energyest: the ranks cannot reach each other: %s", error)
            return None
