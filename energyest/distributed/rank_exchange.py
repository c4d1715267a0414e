"""Exchange between the processes of a training: what each of them records reaches rank 0.

It uses the key-value store through which the processes of torch.distributed found each other.
Setting and looking up keys are not collective calls: no training step is affected, and a process
that has died, or has no monitor, blocks nobody.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from energyest.distributed.other_rank import TOTALS, OtherRank
from energyest.distributed.rank_copies import RankCopies
from energyest.distributed.store_connection import Store
from energyest.distributed.store_worker import StoreWorker
from energyest.measure.recorder import Recorder
from energyest.measure.signals import Alarm, SharedLock, let_handlers_raise, uninterrupted
from energyest.records.epoch_table import EpochTable
from energyest.records.ranks import SUMMED, merge
from energyest.records.trace import EnergyTrace

log = logging.getLogger("energyest")

#: The longest that rank 0 waits for the others' first row, and when a checkpoint is saved.
RANKS_S = 2.0
#: The longest that rank 0 waits at the end of the run.
RANKS_LAST_S = 3.0
# How often rank 0 polls while it waits for ranks, and how long it waits for the store to answer
# when it waits for no rank.
_POLL_S = 0.001
_LOOK_S = 0.02
# After an epoch, rank 0 polls again after this time, doubled each time, until the others have
# reported theirs.
_FIRST_S, _LONGEST_S = 0.02, 1.0
# Exchanging messages takes at most this share of a CPU core.
_SHARE = 0.02
# If rank 0 has waited this long in vain since a rank's last message, the rank has no monitor, or a
# broken one, and is not waited for again. And how long a rank waits for the store at the end.
_PATIENCE_S = 2.0
_LAST_S = 1.0
# How long after an epoch the other ranks' power is assumed to stay the same.
_GOES_ON_S = 5.0
# Meta entries and columns of other ranks that the sum needs.
_META = (
    "run_id",
    "rank",
    "world_size",
    "host",
    "status",
    "devices",
    "earlier_rows",
    "notes",
    *TOTALS,
)
_COLUMNS = ("epoch", "start_s", "end_s", "duration_s", "validation_s", *SUMMED)


def shared_store() -> Store | None:
    """The store shared by the processes of torch.distributed; None without one."""
    try:
        from torch.distributed import distributed_c10d  # noqa: PLC0415

        # Not public, but used by other parts of torch. Without it, each rank is on its own.
        store: Store = distributed_c10d._get_default_store()
    except Exception as error:
        let_handlers_raise(error)
        log.debug("energyest: no store of torch.distributed: %s", error)
        return None
    return store


class _Beside(NamedTuple):
    """What the other ranks had drawn when each of them had reported an epoch.

    Attributes:
        per_s: for each summed column, what a second of that epoch adds to rank 0's own value.
        total_J: their total energy so far.
        told_s: when they had reported the epoch.
    """

    per_s: dict[str, float]
    total_J: float
    told_s: float


class RankExchange:
    """The run over all ranks: at rank 0 the sum of all, elsewhere the rank's own part.

    Args:
        recorder: measures this rank.
        store: key-value store that all ranks share.
        rank: number of this process.
        world_size: number of processes.
        run_id: id of the training, the same in all its processes.
    """

    def __init__(
        self, recorder: Recorder, store: Store, *, rank: int, world_size: int, run_id: str
    ) -> None:
        self._recorder = recorder
        self._worker = StoreWorker(store)
        self._rank = rank
        self._prefix = f"energyest/{run_id}"
        self._others = {r: OtherRank() for r in range(1, world_size)} if rank == 0 else {}
        self._beside = _Beside({}, math.nan, math.nan)
        # Completed rows of this rank and steps of the current one; and whether the run is over.
        self._progress: Sequence[int] = ()
        self._shared_s = math.nan
        self._is_last = False
        # Messages fetched from each rank; messages sent by this one, and the first row of the next.
        self._fetched = dict.fromkeys(self._others, 0)
        self._sent = 0
        self._has_ended = False
        self._first_to_send = 0
        # The worker does not query again before then, unless a caller waits.
        self._rest_until_s = -math.inf
        self._hurry = Alarm()
        self._awaiting: deque[None] = deque()
        self._copying = threading.Lock()
        self._copies: RankCopies | None = None
        self._lock = SharedLock()
        self._is_gathering = False

    # ------------------------------------------------------------------ the run of all

    @property
    def state(self) -> object:
        """A value that changes whenever there is something new."""
        return self._recorder.state, [other.messages for other in self._others.values()]

    @property
    def total_J(self) -> float:
        """Energy from the start of the run to now; NaN if a part is missing."""
        if self._rank:
            return self._recorder.total_J
        return self._sum_of_totals(self._recorder.meta(_META))

    def with_others(self, row: Mapping[str, float]) -> dict[str, float]:
        """A row of this rank that has just ended, plus the likely share of the other ranks.

        Their share is what they reported for this row or, until then, for the previous one.
        """
        if self._rank or not row:
            return dict(row)
        per_s = self._beside.per_s if self._goes_on(row) else {}
        added = {n: _duration_s(row) * per_s.get(n, math.nan) for n in SUMMED if n in row}
        whole = {**row, **{name: row[name] + more for name, more in added.items()}}
        duration_s = row["duration_s"]
        whole["mean_power_W"] = whole["energy_J"] / duration_s if duration_s > 0 else math.nan
        return whole

    def total_after_J(self, row: Mapping[str, float]) -> float:
        """The total at the end of that row, estimated in the same way."""
        if self._rank or not row:
            return self._recorder.total_J
        beside = self._beside
        since_J = (row["end_s"] - beside.told_s) * beside.per_s.get("energy_J", math.nan)
        others_J = beside.total_J + since_J if self._goes_on(row) else math.nan
        return self._recorder.total_J + others_J

    def trace(self, *, readings: bool = True, so_far: bool = False) -> EnergyTrace:
        """The trace up to now; arguments as for `Recorder.trace`."""
        own = self._recorder.trace(readings=readings, so_far=so_far)
        if self._rank:
            return own
        return self._sum(own, lambda other: other.trace(so_far=so_far))

    def _goes_on(self, row: Mapping[str, float]) -> bool:
        """Whether the others have reported that row, or one shortly before it."""
        unheard_s = row["end_s"] - row["duration_s"] - self._beside.told_s
        return unheard_s <= _GOES_ON_S

    def _sum(self, own: EnergyTrace, part: Callable[[OtherRank], EnergyTrace]) -> EnergyTrace:
        """Sum this rank's trace and the given part of every rank that has reported."""
        with self._lock:
            heard = {rank: part(other) for rank, other in self._others.items() if other.messages}
        return merge({0: own, **heard})

    def _sum_of_totals(self, own: Mapping[str, Any]) -> float:
        whole = self._sum(
            EnergyTrace({}, meta=own),
            lambda other: EnergyTrace({}, meta=other.meta_of(so_far=True)),
        )
        return float(whole.meta.get("total_J", math.nan))

    # ------------------------------------------------------------------ exchange

    def share(self, progress: Sequence[int]) -> None:
        """After a row has ended, report it to rank 0; at rank 0, take in what has arrived.

        This waits only for the others' first row, without which no energy is known.

        Args:
            progress: number of completed rows, and of steps in the current one.
        """
        self._progress, self._shared_s = progress, time.monotonic()
        if self._others and math.isnan(self._beside.told_s):
            self.gather(progress, RANKS_S)
        self._worker.send(self._exchange)

    def look(self) -> None:
        """At rank 0, take in what has arrived, if the store answers at once."""
        if self._others and not self._lock.is_held:  # else this is already going on
            uninterrupted(lambda: self._ask(_LOOK_S))

    def gather(self, progress: Sequence[int], timeout_s: float, *, is_last: bool = False) -> None:
        """Like `share`, but rank 0 waits until the others have come as far.

        Args:
            progress: as for `share`.
            timeout_s: the longest that rank 0 waits.
            is_last: whether the run has ended, so that all messages must be sent.
        """
        if self._is_gathering and not is_last:
            return  # a signal handler has interrupted this, and saves a checkpoint
        self._is_gathering = True
        self._progress, self._is_last = progress, is_last
        try:
            uninterrupted(lambda: self._gather(timeout_s), to_the_end=is_last)
        finally:
            self._is_gathering = False

    def _gather(self, timeout_s: float) -> None:
        if self._rank:
            self._ask(_LAST_S if self._is_last else 0.0)
        else:
            self._wait_for_others(timeout_s)
        if self._is_last:
            self._worker.close()
            if not self._rank:
                self._copy(is_last=True)

    def _wait_for_others(self, timeout_s: float) -> None:
        """Wait for the others to have come as far, or to have ended."""
        began_s = time.monotonic()
        while True:
            self._ask(max(began_s + timeout_s - time.monotonic(), _POLL_S))
            waited_s = time.monotonic() - began_s
            late = self._late()
            awaited = [other for other in late if self._is_last or other.waited_s < _PATIENCE_S]
            if not awaited or waited_s >= timeout_s:
                break
            time.sleep(_POLL_S)
        for other in late:
            other.waited_s += waited_s

    def _late(self) -> list[OtherRank]:
        """Ranks that have not come as far as this one."""
        # Without the lock, which the main thread may hold while it waits for this.
        return [
            other
            for other in self._others.values()
            if not other.has_ended and (self._is_last or other.progress < list(self._progress))
        ]

    def _ask(self, timeout_s: float) -> None:
        """Exchange now, and wait for it for at most `timeout_s`."""
        self._awaiting.append(None)
        try:
            request = self._worker.send(self._exchange)
            self._hurry.set()
            if request is not None:
                request.wait(timeout_s)
        finally:
            self._awaiting.pop()

    def _key(self, rank: int, number: int) -> str:
        return f"{self._prefix}/{rank}/{number}"

    # ------------------------------------------------------------------ in the worker's thread

    def _exchange(self, store: Store) -> None:
        """Send or fetch what is new."""
        again_s = _FIRST_S
        while True:
            if not (self._awaiting or self._is_last):
                self._hurry.wait(self._rest_until_s - time.monotonic())
            self._hurry.clear()
            is_last = self._is_last
            cpu_s = time.thread_time()
            try:
                if self._rank:
                    self._tell(store, is_last=is_last)
                elif self._fetch(store):
                    if not is_last:
                        self._copy(is_last=False)
                    self._look_beside()
            finally:
                cost_s = time.thread_time() - cpu_s
                self._rest_until_s = time.monotonic() + cost_s / _SHARE
            if self._awaiting or is_last or again_s > _LONGEST_S or not self._late():
                return
            if self._hurry.wait(again_s):
                return  # a caller waits for the next query
            again_s *= 2

    def _tell(self, store: Store, *, is_last: bool) -> None:
        if self._has_ended:
            return
        progress = self._progress
        rows, final = self._recorder.rows_from(self._first_to_send)
        message = {
            "final": final,
            "rows": [{n: row[n] for n in _COLUMNS if n in row} for row in rows],
            "meta": self._recorder.meta(_META),
            "progress": list(progress),
            "since_s": time.monotonic() - self._shared_s,
            "is_last": is_last,
        }
        store.set(self._key(self._rank, self._sent), json.dumps(message))
        # If `set` raised, all of it goes with the next message.
        self._sent += 1
        self._first_to_send = final
        self._has_ended = is_last

    def _fetch(self, store: Store) -> bool:
        """Take in what has arrived; return whether anything has."""
        before = sum(self._fetched.values())
        for rank in self._fetched:
            while store.check([key := self._key(rank, self._fetched[rank])]):
                text = store.get(key)
                self._fetched[rank] += 1
                store.delete_key(key)
                try:
                    with self._lock:
                        self._others[rank].take(json.loads(text))
                except (ValueError, TypeError, LookupError) as error:  # of another version
                    log.debug("energyest: a message of rank %d is invalid: %s", rank, error)
        return sum(self._fetched.values()) > before

    def _look_beside(self) -> None:
        """Update what the others draw, as of the last epoch that all reporting ranks have sent."""
        with self._lock:
            rows_told = [other.rows for other in self._others.values() if other.messages]
        number = min(rows_told, default=0) - 1
        own = self._recorder.meta((*_META, "duration_s"))
        first = own.get("earlier_rows", 0)
        rows, _ = self._recorder.rows_from(first + max(number, 0))
        if number < 0 or not rows:
            return
        row, meta = rows[0], {n: value for n, value in own.items() if n != "earlier_rows"}
        whole = self._sum(
            EnergyTrace(EpochTable().columns([row]), meta=meta), lambda other: other.row(number)
        ).epoch_columns
        duration_s = _duration_s(row)
        per_s = {
            name: (float(whole[name][0]) - row.get(name, math.nan)) / duration_s
            for name in SUMMED
            if name in whole and duration_s > 0
        }
        own_J = own.get("total_J")
        total_J = self._sum_of_totals(own) - (math.nan if own_J is None else own_J)
        # Clocks differ, but all ranks end an epoch together.
        since_s = max(other.since_s for other in self._others.values() if other.messages)
        self._beside = _Beside(per_s, total_J, row["end_s"] + since_s)

    def _copy(self, *, is_last: bool) -> None:
        """Store what has arrived next to this rank's trace."""
        if self._recorder.folder is None:
            return
        with self._copying:
            if self._copies is None:
                self._copies = RankCopies(self._recorder.folder)
            if is_last:
                self._copies.wait()
            if self._copies.is_busy:
                return
            if not self._lock.acquire(timeout=_LAST_S):  # its holder may be waiting for this thread
                return
            try:
                news = {
                    rank: other.news(whole=is_last)
                    for rank, other in self._others.items()
                    if len(other.table) > other.copied or (is_last and other.messages)
                }
            finally:
                self._lock.release()
            self._copies.update(news, is_last=is_last)


def _duration_s(row: Mapping[str, float]) -> float:
    """Seconds of a row in this part of the run; an earlier part may have begun the row."""
    return min(row["duration_s"], row["end_s"])
