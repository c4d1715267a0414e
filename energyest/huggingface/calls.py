"""Finds the Trainer's call in which a callback runs.

A Trainer does not pass its callbacks a reference to itself or the checkpoint it resumes from, and
does not report an exception that ended training. All three can be read from the call stack.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import Trainer, TrainerCallback

log = logging.getLogger("energyest")

# Seconds between two checks whether a training is still running.
LOOK_S = 0.5
# Walking a running stack is not atomic: a single check may miss a call, but not this many.
_LOOKS = 3
# There are only a few calls between a Trainer and its callback.
_MOST_CALLS = 30


@dataclass(frozen=True)
class TrainerCall:
    """A running method of a Trainer.

    Attributes:
        trainer: the Trainer.
        frame: stack frame of the method.
        checkpoint: the folder of the checkpoint that the training resumes from, if any.
    """

    trainer: Trainer
    frame: FrameType
    checkpoint: str | None


def call_of(callback: TrainerCallback) -> TrainerCall:
    """The innermost running call, in this thread, of a Trainer that has the callback.

    Raises:
        LookupError: there is none.
    """
    from transformers import Trainer  # noqa: PLC0415  (the caller has imported it)

    frame: FrameType | None = sys._getframe(1)
    for _ in range(_MOST_CALLS):
        if frame is None:
            break
        owner = frame.f_locals.get("self")
        if isinstance(owner, Trainer) and _has(owner, callback):
            folder = frame.f_locals.get("resume_from_checkpoint")
            return TrainerCall(owner, frame, folder if isinstance(folder, str) else None)
        frame = frame.f_back
    raise LookupError("not called by a Trainer of transformers that has this callback")


def _has(trainer: Trainer, callback: TrainerCallback) -> bool:
    return any(one is callback for one in trainer.callback_handler.callbacks)


class CallWatch:
    """Detects the end of a call, even if an exception ends it without any event.

    Args:
        frame: stack frame of the call, in this thread.
        on_end: called once, in another thread, within a second after the end.
    """

    def __init__(self, frame: FrameType, on_end: Callable[[], None]) -> None:
        self._frame: FrameType | None = frame
        self._thread_id = threading.get_ident()
        self._on_end = on_end
        self._is_closed = threading.Event()
        try:
            threading.Thread(target=self._watch, name="energyest-call-watch", daemon=True).start()
        except RuntimeError as error:  # no more threads: `is_over` still works
            log.debug("energyest: the end of the training is not watched for: %s", error)

    @property
    def is_over(self) -> bool:
        """Whether the call has ended; False once this is closed."""
        frame = self._frame
        return frame is not None and not any(self._is_seen(frame) for _ in range(_LOOKS))

    def close(self) -> None:
        """Stop watching."""
        self._frame = None  # a frame keeps all local variables of the call alive
        self._is_closed.set()

    def _watch(self) -> None:
        while not self._is_closed.wait(LOOK_S):
            if self.is_over:
                self.close()
                self._on_end()

    def _is_seen(self, call: FrameType) -> bool:
        frame = sys._current_frames().get(self._thread_id)
        while frame is not None and frame is not call:
            frame = frame.f_back
        return frame is not None
