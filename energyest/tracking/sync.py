"""Waiting for accelerators at the edges of an epoch, so that its work counts where it belongs."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable

from energyest.measure.signals import let_handlers_raise

log = logging.getLogger("energyest")

# What was queued since a wait that has ended so shortly before is not waited for.
_JUST_NOW_S = 2e-4
_ended_s = -math.inf


class Synchronizer:
    """Waits for what the loop uses, and says of what.

    Args:
        tell: called with the names of all that is waited for, whenever there is another.
    """

    def __init__(self, tell: Callable[[list[str]], None]) -> None:
        self._tell = tell
        self._known: frozenset[str] = frozenset()

    def __call__(self) -> None:
        """Let the accelerators finish what was queued."""
        used = synchronize()
        if used <= self._known:
            return
        self._known |= used
        log.info("energyest: %s is waited for at the edges of epochs", ", ".join(sorted(used)))
        self._tell(sorted(self._known))


def synchronize() -> frozenset[str]:
    """Let accelerators finish what was queued, so that an epoch's energy is its own.

    Nothing happens where neither torch's CUDA part nor JAX is in use, nor where this was done just
    now, as where one epoch ends and the next begins. Nothing is imported or initialised.

    Returns:
        What was waited for: `torch.cuda`, `jax`.
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
        # An error of the training's own computation: the training will meet it itself.
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
    # Asking for arrays would initialise JAX, and with it take the GPU's memory.
    bridge = sys.modules.get("jax._src.xla_bridge")
    is_in_use = getattr(bridge, "backends_are_initialized", lambda: True)
    if not is_in_use():
        return False
    # JAX has no queue to wait for: what was computed last is an array, or gone into one.
    jax.block_until_ready(jax.live_arrays())
    return True
