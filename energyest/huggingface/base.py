"""`TrainerCallback` of transformers, an optional package, and an error if it is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

# The import error if `TrainerCallback` is missing, else None.
missing: ImportError | None = None

if TYPE_CHECKING:
    from transformers import TrainerCallback as TrainerCallback  # noqa: PLC0414
else:
    try:
        from transformers import TrainerCallback
    except ImportError as error:  # not installed, or a dependency is missing
        missing = error
        TrainerCallback = object


def check_installed() -> None:
    """Raise an error that says what to install, if transformers is missing.

    Raises:
        ImportError: transformers cannot be imported.
    """
    if missing is not None:
        raise ImportError(
            f"EnergyCallback needs transformers and accelerate ({missing}): "
            "pip install transformers accelerate"
        ) from missing
