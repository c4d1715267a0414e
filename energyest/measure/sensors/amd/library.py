"""Access to AMD SMI through the module `amdsmi`, which comes with ROCm and from PyPI.

The library differs from release to release: functions and keys are missing or new, and what a GPU
does not tell is "N/A", or the largest number of its type (amdsmi_interface.py of releases 6.1 to
7.0). Here all failures become one error.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
from types import ModuleType
from typing import Any

# Numbers of errors in amdsmi.h.
STATUS_INVAL, STATUS_NOT_SUPPORTED, STATUS_NOT_YET_IMPLEMENTED = 1, 2, 3
STATUS_NO_PERM = 10
# The largest unsigned numbers of 16, 32 and 64 bits: "not available", where "N/A" is not said.
_NOT_AVAILABLE = {2.0**16 - 1, 2.0**32 - 1, 2.0**64, 2.0**64 - 1}


class AmdError(Exception):
    """AMD SMI, or the module that leads to it, cannot answer.

    Attributes:
        code: AMD SMI's number of the error; None if it has none.
    """

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code

    @property
    def is_final(self) -> bool:
        """Whether this query will never succeed for this GPU, driver or user."""
        final = (STATUS_INVAL, STATUS_NOT_SUPPORTED, STATUS_NOT_YET_IMPLEMENTED, STATUS_NO_PERM)
        return self.code in final


#: Raised if AMD SMI has no answer, or one of an unusable form.
FAILURES = (AmdError, AttributeError, TypeError, ValueError, LookupError)


def call(name: str, *arguments: Any) -> Any:
    """Call a function of AMD SMI and return its answer.

    Args:
        name: name of the function, such as `amdsmi_get_power_info`.
        *arguments: its arguments; text stands for a member of an enumeration, as in
            `AmdSmiMemoryType.VRAM`.

    Raises:
        AmdError: the call failed in any way.
    """
    module = _module()
    function = getattr(module, name, None)
    if not callable(function):
        raise AmdError(f"this version of amdsmi has no {name}", STATUS_NOT_SUPPORTED)
    try:
        return function(*(_member(module, given) for given in arguments))
    except Exception as error:
        code = getattr(error, "err_code", None)
        told = getattr(error, "err_info", None) or str(error) or type(error).__name__
        raise AmdError(str(told), code if isinstance(code, int) else None) from error


def number(answer: Any) -> float:
    """A number in an answer; NaN if it is not available."""
    if isinstance(answer, bool) or not isinstance(answer, int | float):
        return math.nan
    value = float(answer)
    return math.nan if value in _NOT_AVAILABLE or not math.isfinite(value) else value


def _member(module: ModuleType, given: Any) -> Any:
    if not isinstance(given, str):
        return given
    enumeration, _, member = given.partition(".")
    return getattr(getattr(module, enumeration), member)


_failed: list[AmdError] = []
_initialised: list[ModuleType] = []


def _module() -> ModuleType:
    """The module, with its library initialised.

    The library does not count its users: a shutdown would take it from others in this process, such
    as torch. It is therefore left to the process's end.
    """
    module = sys.modules.get("amdsmi")
    if module is None:
        if _failed:
            raise _failed[0]
        try:
            _check_library()
            import amdsmi  # type: ignore[import-not-found]  # noqa: PLC0415
        except (Exception, SystemExit) as error:
            _failed.append(_missing(error))
            raise _failed[0] from error
        module = amdsmi
    if module not in _initialised:
        try:
            module.amdsmi_init()
        except Exception as error:
            told = getattr(error, "err_info", None) or str(error) or type(error).__name__
            raise AmdError(f"AMD SMI cannot be initialised: {told}") from error
        _initialised.append(module)
    return module


def _check_library() -> None:
    """Look for the library as the module does: without it, the module prints to the output."""
    from importlib.util import find_spec  # noqa: PLC0415  (slow to import)

    spec = find_spec("amdsmi")
    if spec is None or spec.origin is None:
        raise ImportError("the package amdsmi is not installed (pip install energyest[amd])")
    homes = [os.environ.get("ROCM_HOME"), os.environ.get("ROCM_PATH"), "/opt/rocm"]
    places = [os.path.join(home, "lib", "libamd_smi.so") for home in homes if home]
    places += ["libamd_smi.so", os.path.join(os.path.dirname(spec.origin), "libamd_smi.so")]
    for place in places:
        try:
            ctypes.CDLL(place)
        except OSError:
            continue
        return
    raise ImportError("libamd_smi.so is not found: it comes with ROCm (amd-smi-lib)")


def _missing(error: BaseException) -> AmdError:
    return AmdError(f"AMD SMI cannot be used: {str(error) or type(error).__name__}")
