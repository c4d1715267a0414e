"""A Trainer of Lightning on the CPU that shows and stores nothing of its own accord."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any


def quiet_trainer(pl: ModuleType, folder: Path, *callbacks: Any, **options: Any) -> Any:
    """Make it.

    Args:
        pl: `pytorch_lightning` or `lightning.pytorch`.
        folder: where it stores what it is asked to.
        callbacks: of the Trainer.
        options: of the Trainer; they go before what is quiet.
    """
    return pl.Trainer(
        **{
            "accelerator": "cpu",
            "default_root_dir": folder,
            "callbacks": list(callbacks),
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            **options,
        }
    )
