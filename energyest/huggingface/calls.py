"""The call of a Trainer that a callback is in.

Trainers tell their callbacks neither who they are, nor which checkpoint they go on from, nor that
an exception has ended a training. All three are seen on the stack of the training's thread.
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

# So often a look is taken at whether a training goes on.
LOOK_S = 0.5
# A look is not one instant: what runs meanwhile may hide a call from one, but not from so many.
_LOOKS = 3
# Between a callback and its Trainer lie but a few calls.
_MOST_CALLS = 30


@dataclass(frozen=True)
class TrainerCall:
    """A method of a Trainer that runs.

    Attributes:
        trainer: whose method it is.
        frame: of the method.
        checkpoint: the folder that a training goes on from; None without one.
    """

    trainer: Trainer
    frame: FrameType
    checkpoint: str | None


def call_of(callback: TrainerCallback) -> TrainerCall:
    """The innermost call of a Trainer that this thread is in, and that has the callback.

    Raises:
        LookupError: there is none.
    """
    from transformers import Trainer  # noqa: PLC0415  (whoever calls has loaded it)

    frame: FrameType | None = sys._getframe(1)
    for _ in range(_MOST_CALLS):
        if frame is None:
            break
        owner = frame.f_locals.get("self")
        if isinstance(owner, Trainer) and _has(owner, callback):
            folder = frame.f_locals.get("resume_from_checkpoint")
            return TrainerCall(owner, frame, folder if isinstance(folder, str) else None)
        frame = frame.f_back
    raise LookupError("it was called by no Trainer of transformers that has it as a callback")


def _has(trainer: Trainer, callback: TrainerCallback) -> bool:
    return any(one is callback for one in trainer.callback_handler.callbacks)


class CallWatch:
    """Notices that a call has ended, where an exception may end it and nobody would tell.

    Args:
        frame: of the call, which is one of this thread.
        on_end: called once, in another thread, within a second of the end.
    """

    def __init__(self, frame: FrameType, on_end: Callable[[], None]) -> None:
        self._frame: FrameType | None = frame
        self._thread_id = threading.get_ident()
        self._on_end = on_end
        self._is_closed = threading.Event()
        try:
            threading.Thread(target=self._watch, name="energyest-call-watch", daemon=True).start()
        except RuntimeError as error:  # no more threads: whoever asks will see it
            log.debug("energyest: the end of the training is not watched for: %s", error)

    @property
    def is_over(self) -> bool:
        """Whether the call has ended; False once this is closed."""
        frame = self._frame
        return frame is not None and not any(self._is_seen(frame) for _ in range(_LOOKS))

    def close(self) -> None:
        """Look no more."""
        self._frame = None  # it holds what the call has worked with
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
