"""Answers of a GPU's library that may fail: what cannot be read is None, or NaN."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")
Failures = tuple[type[Exception], ...]


def or_none(ask: Callable[[], _T], failures: Failures) -> _T | None:
    """The answer; None if it fails."""
    try:
        return ask()
    except failures:
        return None


def or_nan(ask: Callable[[], float], failures: Failures) -> float:
    """The answer as a number; NaN if it fails."""
    try:
        return float(ask())
    except failures:
        return math.nan
