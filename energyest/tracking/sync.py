"""Synchronises accelerators at the ends of an epoch, so that its energy counts towards it."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable

from energyest.measure.signals import let_handlers_raise

log = logging.getLogger("energyest")

# No synchronisation if the last one ended less than this before.
_JUST_NOW_S = 2e-4
_ended_s = -math.inf


class Synchronizer:
    """Waits for the accelerators that the loop uses, and reports which.

    Args:
        tell: called with the names of all that are waited for, whenever a new one appears.
    """

    def __init__(self, tell: Callable[[list[str]], None]) -> None:
        self._tell = tell
        self._known: frozenset[str] = frozenset()

    def __call__(self) -> None:
        """Wait until the accelerators have finished all queued work."""
        used = synchronize()
        if used <= self._known:
            return
        self._known |= used
        log.info("energyest: waiting for %s at the ends of epochs", ", ".join(sorted(used)))
        self._tell(sorted(self._known))


def synchronize() -> frozenset[str]:
    """Wait until accelerators have finished all queued work, so that it counts in its own epoch.

    Does nothing if neither CUDA in torch nor JAX is in use, or if the last call has only just
    ended, as between the end of one epoch and the start of the next. Imports and initialises
    nothing.

    Returns:
        The names of what was waited for: `torch.cuda`, `jax`.
    """
    global _ended_s  # noqa: PLW0603
    if time.monotonic() - _ended_s < _JUST_NOW_S:
        return frozenset()
    waits = {"torch.cuda": _wait_for_cuda, "jax": _wait_for_jax}
    used = frozenset(name for name, wait in waits.items() if _is_done(name, wait))
    if used:
        _ended_s = time.monotonic()
    return used


def _is_done(name: str, wait: Callable[[], bool]) -> bool:
    try:
        return wait()
    except Exception as error:
        let_handlers_raise(error)
        # An error of the training's own computation: the training will raise it itself.
        log.debug("energyest: synchronize %s: %s", name, error)
        return False


def _wait_for_cuda() -> bool:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return False
    torch.cuda.synchronize()
    return True


def _wait_for_jax() -> bool:
    jax = sys.modules.get("jax")
    if jax is None:
        return False
    # Listing the arrays would initialise JAX, which allocates the GPU's memory.
    bridge = sys.modules.get("jax._src.xla_bridge")
    is_in_use = getattr(bridge, "backends_are_initialized", lambda: True)
    if not is_in_use():
        return False
    # JAX offers no queue to wait for, but the last result is an array or part of one.
    jax.block_until_ready(jax.live_arrays())
    return True
