"""What the training waits for, so that what is measured belongs where it is counted."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping

log = logging.getLogger("energyest")

# At the end of an epoch, rank 0 waits for the others for this share of it ...
_RANKS_SHARE = 0.05
#: ... but no longer than so many seconds; and so long where a checkpoint is made.
RANKS_S = 2.0
#: At the end of the run, it waits so long.
RANKS_LAST_S = 3.0


def for_ranks_s(row: Mapping[str, float]) -> float:
    """How long rank 0 waits at the end of an epoch."""
    duration_s = row.get("duration_s", 0.0)
    return min(_RANKS_SHARE * duration_s, RANKS_S) if duration_s > 0 else 0.0


def wait_for_gpu() -> None:
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
