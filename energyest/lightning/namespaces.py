"""`Callback`: what is a callback in `pytorch_lightning` and in `lightning.pytorch` alike.

The two hold the same code twice: a Trainer of either runs the hooks of any object, but a single
callback without a list and LightningCLI are asked for their own class.
"""

from __future__ import annotations

import importlib.util
import logging
from typing import TYPE_CHECKING

import pytorch_lightning

log = logging.getLogger("energyest")


def _callback() -> type:
    """A class below those of both namespaces, as far as they are installed."""
    kinds: list[type] = [pytorch_lightning.Callback]
    try:
        if importlib.util.find_spec("lightning") is not None:
            kinds.append(importlib.import_module("lightning.pytorch").Callback)
        return type("Callback", tuple(kinds), {"__module__": __name__})
    except Exception as error:  # one that is broken, or something else of that name
        log.debug("energyest: lightning.pytorch cannot be used: %s", error)
        return pytorch_lightning.Callback


if TYPE_CHECKING:
    from pytorch_lightning import Callback as Callback  # noqa: PLC0414
else:
    Callback = _callback()
