"""The processes that train together: what each of them records reaches rank 0.

It goes through the key-value store by which the processes of torch.distributed found each other.
Setting a key and looking for one are no collective calls: no step of the training is touched, and
a process that has died, or that has no monitor, holds up nobody.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from energyest.distributed.rank_copies import RankCopies, Update
from energyest.distributed.store_connection import Store
from energyest.distributed.store_worker import Request, StoreWorker
from energyest.measure.recorder import Recorder
from energyest.measure.signals import SharedLock, let_handlers_raise, uninterrupted
from energyest.records.epoch_table import EpochTable
from energyest.records.ranks import SUMMED, merge
from energyest.records.trace import EnergyTrace

log = logging.getLogger("energyest")

# At the end of an epoch, rank 0 waits for the others for this share of it ...
_RANKS_SHARE = 0.05
#: ... but no longer than so many seconds; and so long where a checkpoint is made.
RANKS_S = 2.0
#: At the end of the run, it waits so long.
RANKS_LAST_S = 3.0
# How often rank 0 looks for what it waits for, and how long it waits for the store to answer where
# it waits for no rank.
_POLL_S = 0.001
_LOOK_S = 0.02
# A rank that rank 0 has waited for in vain for so long, since its last message, has no monitor, or
# one that is broken: it is not waited for again. At the end, a rank waits so long for the store.
_PATIENCE_S = 2.0
_LAST_S = 1.0
# What the sum of all needs of another rank's meta, and of its rows.
_TOTALS = ("total_J", "components", "interrupted_epoch")
_META = (
    "run_id",
    "rank",
    "world_size",
    "host",
    "status",
    "devices",
    "earlier_rows",
    "notes",
    *_TOTALS,
)
_COLUMNS = ("epoch", "start_s", "end_s", "duration_s", "validation_s", *SUMMED)


def shared_store() -> Store | None:
    """The store of the processes that torch.distributed has brought together; None without."""
    try:
        from torch.distributed import distributed_c10d  # noqa: PLC0415

        # Not public, but what torch's own parts use. Without it, each rank is on its own.
        store: Store = distributed_c10d._get_default_store()
    except Exception as error:
        let_handlers_raise(error)
        log.debug("energyest: no store of torch.distributed: %s", error)
        return None
    return store


def for_ranks_s(row: Mapping[str, float]) -> float:
    """How long rank 0 waits at the end of an epoch."""
    duration_s = row.get("duration_s", 0.0)
    return min(_RANKS_SHARE * duration_s, RANKS_S) if duration_s > 0 else 0.0


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
        waited_s: how long it was waited for in vain since then.
        copied: how many of its epochs are in its copy.
    """

    table: EpochTable = field(default_factory=EpochTable)
    provisional: list[dict[str, float]] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)
    messages: int = 0
    progress: list[int] = field(default_factory=list)
    has_ended: bool = False
    waited_s: float = 0.0
    copied: int = 0

    def take(self, message: Mapping[str, Any]) -> None:
        """Take in a message; its rows take the place of those that were provisional."""
        final = message["final"] - len(self.table)
        for row in message["rows"][:final]:
            self.table.append(row)
        self.provisional = message["rows"][final:]
        self.meta = message["meta"]
        self.progress = message["progress"]
        self.has_ended = message["is_last"]
        self.waited_s = 0.0
        self.messages += 1

    def trace(self, *, so_far: bool) -> EnergyTrace:
        """Its part of the trace; the totals of one that runs only `so_far`."""
        return EnergyTrace(self.table.columns(self.provisional), meta=self.meta_of(so_far=so_far))

    def news(self, *, whole: bool) -> Update:
        """What its copy lacks; it is then taken to be in it."""
        first, self.copied = self.copied, len(self.table)
        known = (
            self.trace(so_far=False) if whole else EnergyTrace({}, meta=self.meta_of(so_far=False))
        )
        return Update(known, self.table.rows_from(first))

    def row(self, number: int) -> EnergyTrace:
        """One of its epochs; nothing if it has not come so far."""
        rows = self.table.rows_from(number) + self.provisional[max(0, number - len(self.table)) :]
        return EnergyTrace(EpochTable().columns(rows[:1]), meta=self.meta)

    def meta_of(self, *, so_far: bool) -> dict[str, Any]:
        """Facts on it; without the totals of one that runs, unless `so_far`."""
        without = () if so_far or self.has_ended else _TOTALS
        return {name: value for name, value in self.meta.items() if name not in without}


class RankExchange:
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
        self._worker = StoreWorker(store)
        self._rank = rank
        self._prefix = f"energyest/{run_id}"
        self._others = {r: _Other() for r in range(1, world_size)} if rank == 0 else {}
        # What came for rank 0: the number of a rank and its message; and how many of each.
        self._inbox: deque[tuple[int, bytes]] = deque()
        self._fetched = dict.fromkeys(self._others, 0)
        self._sent = 0
        self._first_to_send = 0
        self._sending: tuple[Request, int] | None = None
        self._copies: RankCopies | None = None
        self._lock = SharedLock()
        self._is_sharing = False
        # Where a signal handler interrupts who waits for one thread, another may come beside it.
        self._asking, self._sharing = threading.Lock(), threading.Lock()

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
        own = EnergyTrace({}, meta=self._recorder.meta(so_far=True))
        whole = self._sum(own, lambda other: EnergyTrace({}, meta=other.meta_of(so_far=True)))
        return float(whole.meta.get("total_J", math.nan))

    def last_row(self) -> dict[str, float]:
        """The row of the epoch that ended last, be it provisional; empty if there is none."""
        # That row alone is summed: a long run has many.
        last = sum(self._recorder.state) - 1
        rows, _ = self._recorder.rows_from(max(last, 0))
        if self._rank or not rows:
            return rows[-1] if rows else {}
        meta = self._recorder.meta()
        number = last - meta.pop("earlier_rows", 0)
        if number < 0:
            return rows[-1]
        own = EnergyTrace(EpochTable().columns(rows[-1:]), meta=meta)
        whole = self._sum(own, lambda other: other.row(number))
        return {name: float(values[-1]) for name, values in whole.epoch_columns.items()}

    def trace(self, *, readings: bool = True, so_far: bool = False) -> EnergyTrace:
        """The trace up to now; the arguments are those of `Recorder.trace`."""
        own = self._recorder.trace(readings=readings, so_far=so_far)
        if self._rank:
            return own
        return self._sum(own, lambda other: other.trace(so_far=so_far))

    def _sum(self, own: EnergyTrace, part: Callable[[_Other], EnergyTrace]) -> EnergyTrace:
        """Of this rank's trace, and of that part of the others' from which something has come."""
        self._look()
        with self._lock:
            heard = {rank: part(other) for rank, other in self._others.items() if other.messages}
        return merge({0: own, **heard})

    # ------------------------------------------------------------------ exchange

    def share(self, progress: Sequence[int], timeout_s: float, *, is_last: bool = False) -> None:
        """Tell rank 0 what is new; at rank 0, wait until the others have come as far.

        Args:
            progress: rows that have ended, and steps of the one under way.
            timeout_s: how long rank 0 waits at most. Ranks train in step: at its next batch it
                would wait for the slowest of them anyway.
            is_last: the run has ended.
        """
        if self._is_sharing and not is_last:
            return  # a signal handler has come in the middle of it, and asks for a checkpoint
        self._is_sharing = True
        try:
            uninterrupted(
                lambda: self._share(progress, timeout_s, is_last=is_last), to_the_end=is_last
            )
        finally:
            self._is_sharing = False

    def _share(self, progress: Sequence[int], timeout_s: float, *, is_last: bool) -> None:
        with self._sharing:
            if self._rank:
                self._tell(progress, is_last=is_last)
            else:
                self._wait_for(progress, timeout_s, is_last=is_last)
                self._copy(is_last=is_last)
            if is_last:
                self._worker.close()

    def _wait_for(self, progress: Sequence[int], timeout_s: float, *, is_last: bool) -> None:
        """Wait for the others to have come as far, or to have ended."""
        began_s = time.monotonic()
        while True:
            self._look(max(timeout_s, _POLL_S))
            waited_s = time.monotonic() - began_s
            with self._lock:
                late = [
                    other
                    for other in self._others.values()
                    if not other.has_ended and (is_last or other.progress < list(progress))
                ]
            awaited = [other for other in late if is_last or other.waited_s < _PATIENCE_S]
            if not awaited or waited_s >= timeout_s:
                break
            time.sleep(_POLL_S)
        for other in late:
            other.waited_s += waited_s

    def _copy(self, *, is_last: bool) -> None:
        """Keep what has come beside this rank's trace."""
        if self._recorder.folder is None:
            return
        if self._copies is None:
            self._copies = RankCopies(self._recorder.folder)
        if is_last:
            self._copies.wait()
        if self._copies.is_busy:
            return
        with self._lock:
            news = {
                rank: other.news(whole=is_last)
                for rank, other in self._others.items()
                if len(other.table) > other.copied or (is_last and other.messages)
            }
        self._copies.update(news, is_last=is_last)

    def _tell(self, progress: Sequence[int], *, is_last: bool) -> None:
        if not self._has_sent(_LAST_S if is_last else 0.0):
            return  # the store hangs; if it comes back, the rows go with the next message
        rows, final = self._recorder.rows_from(self._first_to_send)
        meta = self._recorder.meta(so_far=True)
        message = {
            "final": final,
            "rows": [{n: row[n] for n in _COLUMNS if n in row} for row in rows],
            "meta": {name: meta[name] for name in _META if name in meta},
            "progress": list(progress),
            "is_last": is_last,
        }
        key, text = self._key(self._rank, self._sent), json.dumps(message)
        request = self._worker.send(lambda store: store.set(key, text))
        if request is not None:
            self._sending = request, final
            if is_last:  # the process may end with the run
                request.wait(_LAST_S)

    def _has_sent(self, timeout_s: float) -> bool:
        """Whether the last message is on its way, or known to have failed."""
        if self._sending is not None:
            request, final = self._sending
            if not request.wait(timeout_s):
                return False
            if request.succeeded:
                self._sent += 1
                self._first_to_send = final
            self._sending = None
        return True

    def _look(self, timeout_s: float = _LOOK_S) -> None:
        """Take in what has come."""
        if self._others and not self._lock.is_held:  # else what has come is being looked at
            uninterrupted(lambda: self._take_in(timeout_s))

    def _take_in(self, timeout_s: float) -> None:
        with self._asking:
            request = self._worker.send(self._fetch)
        if request is not None:
            request.wait(timeout_s)
        with self._lock:
            while self._inbox:
                rank, text = self._inbox.popleft()
                try:
                    self._others[rank].take(json.loads(text))
                except (ValueError, TypeError, LookupError) as error:  # of another version
                    log.debug("energyest: a message of rank %d is no good: %s", rank, error)

    def _fetch(self, store: Store) -> None:
        """In the worker's thread."""
        for rank in self._fetched:
            while store.check([key := self._key(rank, self._fetched[rank])]):
                self._inbox.append((rank, store.get(key)))
                self._fetched[rank] += 1
                store.delete_key(key)

    def _key(self, rank: int, number: int) -> str:
        return f"{self._prefix}/{rank}/{number}"
