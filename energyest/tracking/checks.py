"""Refuses settings that cannot work, before a training begins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from pathlib import Path

from energyest.errors import ConfigurationError
from energyest.measure.sensors import check_components


def check_settings(confidence: float, interval_s: float, components: Sequence[str]) -> None:
    """Refuse settings that cannot work, before a training begins."""
    check_components(components)
    if not (isinstance(interval_s, Real) and math.isfinite(interval_s) and interval_s > 0):
        raise ConfigurationError(f"interval_s={interval_s!r} must be positive")
    if not (isinstance(confidence, Real) and 0 < confidence < 1):
        raise ConfigurationError(f"confidence={confidence!r} must lie between 0 and 1")


def check_folder(folder: str | Path | None) -> Path | None:
    """Where a trace goes; refuses addresses, as of a bucket, which would become odd local names."""
    if folder is not None and is_address(folder):
        raise ConfigurationError(f"folder={str(folder)!r} must be on a disk of this machine")
    return None if folder is None else Path(folder)


def is_address(folder: str | Path) -> bool:
    """Whether it is the address of a file system elsewhere, such as `s3://bucket`."""
    return "://" in str(folder)


def check_count(value: int, name: str) -> None:
    """Refuse what is not a whole number of 1 or more."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ConfigurationError(f"{name}={value!r} must be a whole number of 1 or more")
