"""Refuses settings that cannot work, before a training begins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from energyest.checks import check_confidence, check_count, check_positive
from energyest.errors import ConfigurationError
from energyest.measure.sensors import check_components


def check_settings(
    confidence: float, interval_s: float, components: Sequence[str], batch_size: object
) -> None:
    """Refuse settings that cannot work, before a training begins."""
    if batch_size is not None and not callable(batch_size):
        raise ConfigurationError(
            f"batch_size={batch_size!r} must be a function of a batch that returns its samples"
        )
    check_components(components)
    check_positive(interval_s, "interval_s", ConfigurationError)
    check_confidence(confidence, ConfigurationError)


def check_folder(folder: str | Path | None) -> Path | None:
    """Where a trace goes; refuses addresses, as of a bucket, which would become odd local names."""
    if folder is not None and is_address(folder):
        raise ConfigurationError(f"folder={str(folder)!r} must be on a disk of this machine")
    return None if folder is None else Path(folder)


def is_address(folder: str | Path) -> bool:
    """Whether it is the address of a file system elsewhere, such as `s3://bucket`."""
    return "://" in str(folder)


def check_every_n_steps(every_n_steps: int | None) -> int | None:
    """Refuse what is not a whole number of 1 or more, or None."""
    if every_n_steps is None:
        return None
    return check_count(every_n_steps, "every_n_steps", ConfigurationError)
