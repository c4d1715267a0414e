"""Checks of arguments: one rule for each kind of number, and one message for each rule.

A `check_...` function returns the value as a built-in number. The caller says which error it
raises: each part of the package has an exception class of its own.
"""

from __future__ import annotations

import math
import re
from importlib.util import find_spec
from numbers import Integral, Real
from typing import Any, TypeGuard

from energyest.errors import EnergyestError, MissingDependencyError

Error = type[EnergyestError]
# Messages show at most this much of a value.
_MOST_CHARACTERS = 100
# Above this, rounding errors dominate the quantile of any distribution.
MOST_CONFIDENCE = 1 - 1e-9
# Words that start with / or ~, hold several slashes, a backslash or an @; long ones with a digit.
_PLACES = re.compile(r"(?<!\S)(?:\S*(?:://|[\\@]|/\S*/)\S*|[\"'(\[=]*[~/]\S+|(?=\S*\d)\S{24,})")


def is_number(value: object) -> TypeGuard[float]:
    """Whether `value` is a real number (Python or NumPy, not a bool) that fits into a float."""
    if type(value) is float:  # by far the most
        return True
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def is_count(value: object, least: int = 0) -> TypeGuard[int]:
    """Whether `value` is an integer of at least `least`, and not a bool."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def finite_or_none(value: object) -> float | None:
    """The value as a float if it is a finite number, else None."""
    return float(value) if is_number(value) and math.isfinite(value) else None


def positive_or_none(value: object) -> float | None:
    """The value as a float if it is finite and above 0, else None."""
    number = finite_or_none(value)
    return number if number is not None and number > 0 else None


def number_or_nan(value: object) -> float:
    """The value as a float if it is a number, else NaN."""
    return float(value) if is_number(value) else math.nan


def check_count(value: Any, name: str, error: Error, *, least: int = 1) -> int:
    """Return a whole number of `least` or more; raise `error` for anything else."""
    if not is_count(value, least):
        raise error(f"{name}={short(value)} must be a whole number of {least} or more")
    return int(value)


def check_positive(value: Any, name: str, error: Error) -> float:
    """Return a finite number above 0; raise `error` for anything else."""
    number = positive_or_none(value)
    if number is None:
        raise error(f"{name}={short(value)} must be positive and finite")
    return number


def check_not_negative(value: Any, name: str, error: Error) -> float:
    """Return a finite number of 0 or more; raise `error` for anything else."""
    number = finite_or_none(value)
    if number is None or number < 0:
        raise error(f"{name}={short(value)} must be finite and 0 or more")
    return number


def check_share(value: Any, name: str, error: Error) -> float:
    """Return a number from 0 to 1; raise `error` for anything else."""
    if not (is_number(value) and 0 <= value <= 1):
        raise error(f"{name}={short(value)} must lie between 0 and 1")
    return float(value)


def check_confidence(value: Any, error: Error) -> float:
    """Return a probability that an interval can have; raise `error` for anything else."""
    if not (is_number(value) and 0 < value <= MOST_CONFIDENCE):
        raise error(f"confidence={short(value)} must lie between 0 and 1 (at most 1 - 1e-9)")
    return float(value)


def short(value: object) -> str:
    """The repr of a value, cut to the length that a message shows."""
    return repr(value)[:_MOST_CHARACTERS]


def without_places(text: str) -> str:
    """Replace addresses, paths and possible keys in a text, such as an error of the user's code."""
    return _PLACES.sub("...", text)


def check_installed(what: str, *modules: str) -> None:
    """Raise an error if a required module is not installed, before its import fails.

    Args:
        what: the feature that needs the modules, as users know it.
        modules: import names of the modules.

    Raises:
        MissingDependencyError: a module is not installed; the message says how to install it.
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        packages = [module.replace("_", "-") for module in missing]
        names = " and ".join(filter(None, (", ".join(packages[:-1]), packages[-1])))
        verb = "is" if len(missing) == 1 else "are"
        raise MissingDependencyError(
            f"{what} needs {names}, which {verb} not installed: pip install {' '.join(packages)}",
            name=missing[0],
        )
