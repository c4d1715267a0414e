"""`Callback`: a base class that both `pytorch_lightning` and `lightning.pytorch` accept.

The two packages hold the same code. A Trainer of either calls the hooks of any object in a list,
but a single callback without a list, and LightningCLI, require a subclass of their own `Callback`.
"""

from __future__ import annotations

import importlib.util
import logging
from typing import TYPE_CHECKING

import pytorch_lightning

log = logging.getLogger("energyest")


def _callback() -> type:
    """A subclass of `Callback` of each installed namespace."""
    kinds: list[type] = [pytorch_lightning.Callback]
    try:
        if importlib.util.find_spec("lightning") is not None:
            kinds.append(importlib.import_module("lightning.pytorch").Callback)
        return type("Callback", tuple(kinds), {"__module__": __name__})
    except Exception as error:  # a broken installation, or another package of that name
        log.debug("energyest: lightning.pytorch cannot be used: %s", error)
        return pytorch_lightning.Callback


if TYPE_CHECKING:
    from pytorch_lightning import Callback as Callback  # noqa: PLC0414
else:
    Callback = _callback()
