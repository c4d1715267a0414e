"""Waiting for the GPU at the edges of an epoch, so that its work counts where it belongs."""

from __future__ import annotations

import logging
import math
import sys
import time

log = logging.getLogger("energyest")

# What was queued since a wait that has ended so shortly before is not waited for.
_JUST_NOW_S = 2e-4
_ended_s = -math.inf


def cuda_synchronize() -> None:
    """Let the GPU finish what was queued, so that an epoch's energy is its own.

    Nothing happens where torch or its CUDA part is not in use, nor where this was done just now, as
    where one epoch ends and the next begins.
    """
    global _ended_s  # noqa: PLW0603
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return
    if time.monotonic() - _ended_s < _JUST_NOW_S:
        return
    try:
        torch.cuda.synchronize()
        _ended_s = time.monotonic()
    except RuntimeError as error:
        # An error of the training's own kernels: the training will meet it itself.
        log.debug("energyest: synchronize: %s", error)
