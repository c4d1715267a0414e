"""`TrainerCallback` of transformers, which is optional, and what to install where it is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

# Why there is no `TrainerCallback`; None where there is one.
missing: ImportError | None = None

if TYPE_CHECKING:
    from transformers import TrainerCallback as TrainerCallback  # noqa: PLC0414
else:
    try:
        from transformers import TrainerCallback
    except ImportError as error:  # not installed, or without a part that it needs itself
        missing = error
        TrainerCallback = object


def check_installed() -> None:
    """Say what to install.

    Raises:
        ImportError: transformers cannot be imported.
    """
    if missing is not None:
        raise ImportError(
            f"EnergyCallback needs transformers and accelerate ({missing}): "
            "pip install 'energyest[transformers]'"
        ) from missing
