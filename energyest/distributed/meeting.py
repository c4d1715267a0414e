"""How the monitors in the processes of a training find each other at the start.

This is not a collective call: a rank without a monitor would never make it, and block all others
until their process group times out. Each rank leaves a word in the shared store, and rank 0
answers it with a description of the run.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Mapping
from typing import Any

from energyest.distributed.store_connection import Store
from energyest.distributed.store_worker import StoreWorker
from energyest.measure.signals import uninterrupted

#: How long a rank waits for the others, which start at almost the same time.
MEET_S = 5.0
# How long rank 0 keeps answering late ranks.
_LATE_S = 60.0
_POLL_S = 0.01
_LATE_POLL_S = 0.2


def invite(store: Store, place: str, world_size: int, run: Mapping[str, Any]) -> list[int]:
    """At rank 0, describe the run to the others; return the ranks that did not ask in time.

    Args:
        store: the store shared by all ranks.
        place: which of the trainer's monitors this is; the same in all ranks.
        world_size: number of ranks.
        run: description of the run, as plain JSON values.
    """
    absent = set(range(1, world_size))
    text = json.dumps(run)

    def answer(connection: Store) -> None:
        began_s = time.monotonic()
        while absent and time.monotonic() - began_s < _LATE_S:
            if not threading.main_thread().is_alive():
                return  # the process is ending
            for rank in sorted(absent):
                if connection.check([key := _word_of(place, rank)]):
                    word = json.loads(connection.get(key))
                    connection.delete_key(key)
                    connection.set(f"energyest/answer/{word}", text)
                    absent.discard(rank)
            time.sleep(_POLL_S if time.monotonic() - began_s < MEET_S else _LATE_POLL_S)

    worker = StoreWorker(store)
    request = worker.send(answer)
    worker.close()
    if request is not None:
        uninterrupted(lambda: request.wait(MEET_S))
    return sorted(absent)


def ask(store: Store, place: str, rank: int) -> dict[str, Any] | None:
    """At another rank, get rank 0's description of the run; None if it does not answer in time.

    Args:
        store: the store shared by all ranks.
        place: as for `invite`.
        rank: number of this process.
    """
    # A new word each time: a rank without a monitor now may have had one in an earlier run.
    word = uuid.uuid4().hex
    answers: list[dict[str, Any]] = []

    def listen(connection: Store) -> None:
        began_s = time.monotonic()
        connection.set(_word_of(place, rank), json.dumps(word))
        key = f"energyest/answer/{word}"
        while time.monotonic() - began_s < MEET_S:
            if connection.check([key]):
                answers.append(json.loads(connection.get(key)))
                connection.delete_key(key)
                return
            time.sleep(_POLL_S)

    worker = StoreWorker(store)
    request = worker.send(listen)
    worker.close()
    if request is not None:
        uninterrupted(lambda: request.wait(MEET_S))
    return answers[0] if answers else None


def _word_of(place: str, rank: int) -> str:
    return f"energyest/word/{place}/{rank}"
