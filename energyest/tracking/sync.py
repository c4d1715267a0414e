"""Waiting for the GPU at the edges of an epoch, so that its work counts where it belongs."""

from __future__ import annotations

import logging
import sys

log = logging.getLogger("energyest")


def cuda_synchronize() -> None:
    """Let the GPU finish what was queued, so that an epoch's energy is its own.

    Nothing happens where torch or its CUDA part is not in use.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        # An error of the training's own kernels: the training will meet it itself.
        log.debug("energyest: synchronize: %s", error)
