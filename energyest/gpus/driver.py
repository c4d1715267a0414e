"""Access to NVML through the module `pynvml` of nvidia-ml-py, or whatever has that name here.

Drivers lack functions, old versions of the module lack names, and a user's file may shadow it.
Here all failures become one error, including what a driver does not support.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypeVar

from energyest.patience import PATIENCE_S, Errand

T = TypeVar("T")

# Constants of nvml.h, which old versions of the module lack.
ERROR_INVALID_ARGUMENT = 2
ERROR_NOT_SUPPORTED = 3
ERROR_NO_PERMISSION = 4
ERROR_DRIVER_NOT_LOADED = 9
ERROR_LIBRARY_NOT_FOUND = 12
ERROR_FUNCTION_NOT_FOUND = 13
ERROR_LIB_RM_VERSION_MISMATCH = 18
FIELD_POWER_INSTANT = 186
POWER_SCOPE_MODULE = 1
TEMPERATURE_GPU = 0
CLOCK_SM, CLOCK_MEM = 1, 2
MIG_ENABLED = 1
# While an earlier query hangs, further queries wait only this long.
_IN_TROUBLE_S = 0.1


class NvmlError(Exception):
    """NVML, or the module that leads to it, cannot answer.

    Attributes:
        code: NVML's number of the error; None if it has none.
    """

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code

    @property
    def is_final(self) -> bool:
        """Whether this query will never succeed for this board, driver or user."""
        return self.code in (
            ERROR_INVALID_ARGUMENT,
            ERROR_NOT_SUPPORTED,
            ERROR_NO_PERMISSION,
            ERROR_FUNCTION_NOT_FOUND,
        )


#: Raised if NVML has no answer, or one of an unusable form, as with another module or version.
FAILURES = (NvmlError, AttributeError, TypeError, ValueError, LookupError)


def call(name: str, *arguments: Any) -> Any:
    """Call a function of NVML and return its answer.

    Names that are not UTF-8, which the module cannot decode, are returned as bytes.

    Args:
        name: name of the function in `pynvml`, such as `nvmlDeviceGetName`.
        *arguments: its arguments.

    Raises:
        NvmlError: the call failed in any way.
    """
    module = _module()
    function = getattr(module, name, None)
    if not callable(function):
        raise NvmlError(_lacks(module, name), ERROR_FUNCTION_NOT_FOUND)
    try:
        return function(*arguments)
    except UnicodeDecodeError as error:
        return error.object
    except Exception as error:
        code = getattr(error, "value", None)
        raise NvmlError(_said(error), code if isinstance(code, int) else None) from error


def ask_field(handle: Any, field: int, scope: int = 0) -> Callable[[], Any]:
    """Prepare repeated queries of one of a GPU's fields.

    The module builds a new request for each call, which takes longer than the answer.

    Args:
        handle: handle of the GPU; NVML must be initialised.
        field: number of the field.
        scope: the part that it is about, such as `POWER_SCOPE_MODULE`; 0 for the GPU.

    Returns:
        A function that queries the field; it raises as `call` does.
    """
    module = _module()
    try:
        values = (module.c_nvmlFieldValue_t * 1)()
        ask_driver = module.nvmlLib.nvmlDeviceGetFieldValues
    except (AttributeError, TypeError):  # another module, or another version of it
        asked = (field, scope) if scope else field
        return lambda: call("nvmlDeviceGetFieldValues", handle, [asked])[0]
    value, values[0].fieldId, values[0].scopeId = values[0], field, scope

    def ask() -> Any:
        code = ask_driver(handle, 1, values)
        if code:
            raise NvmlError("a value cannot be read", code)
        return value

    return ask


def text(answer: Any) -> str:
    """Decode an answer of NVML, which may be text or bytes in any encoding."""
    raw: bytes = (
        answer if isinstance(answer, bytes) else str(answer).encode("utf-8", "surrogateescape")
    )
    raw = raw.partition(b"\0")[0]
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


@contextmanager
def connected() -> Iterator[None]:
    """Initialise NVML within the context.

    Raises:
        NvmlError: NVML cannot be initialised.
    """
    call("nvmlInit")
    try:
        yield
    finally:
        with contextlib.suppress(NvmlError):  # it is gone, or others shut it down
            call("nvmlShutdown")


def may_use_gpus(error: Exception) -> bool:
    """Whether a process may compute on GPUs although a query to NVML failed with this error.

    It cannot if there is no driver, if the user has no permission, or if the driver was updated
    without a restart: then CUDA does not work either. If the module failed, the driver's library is
    asked directly.
    """
    code = error.code if isinstance(error, NvmlError) else None
    if code is None or code == ERROR_FUNCTION_NOT_FOUND:
        return _count_without_module() > 0
    return code not in (
        ERROR_NO_PERMISSION,
        ERROR_DRIVER_NOT_LOADED,
        ERROR_LIBRARY_NOT_FOUND,
        ERROR_LIB_RM_VERSION_MISMATCH,
    )


def _count_without_module() -> int:
    """The number of GPUs; 1 if the library exists but gives no number; 0 without a library."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return 0
    try:
        is_new = hasattr(library, "nvmlInitWithFlags")
        failed = library.nvmlInitWithFlags(0) if is_new else library.nvmlInit_v2()
        if failed:
            return int(failed not in (ERROR_DRIVER_NOT_LOADED, ERROR_LIBRARY_NOT_FOUND))
        count = ctypes.c_uint()
        failed = library.nvmlDeviceGetCount_v2(ctypes.byref(count))
        library.nvmlShutdown()
    except AttributeError:  # a library that is older than ten years
        return 1
    return 1 if failed else count.value


# ---------------------------------------------------------------------- drivers that hang

_hanging: list[Errand[Any]] = []
if hasattr(os, "register_at_fork"):  # a forked child has none of the threads
    os.register_at_fork(after_in_child=_hanging.clear)


def begin(work: Callable[[], T]) -> Errand[T]:
    """Begin a query and wait for it, but not for long, because a driver may hang for minutes.

    The returned errand tells whether it is done.
    """
    patience_s = _IN_TROUBLE_S if is_hanging() else PATIENCE_S
    errand = Errand(work, "nvml")
    if not errand.wait(patience_s):
        _hanging.append(errand)
    return errand


def soon(work: Callable[[], T]) -> T:
    """Return the result of a query if it is answered soon.

    Raises:
        NvmlError: it is not answered soon; errors of the query itself are passed on.
    """
    if is_hanging():
        raise NvmlError("NVML does not answer")
    errand = begin(work)
    if not errand.is_done:
        raise NvmlError(f"NVML has not answered within {PATIENCE_S:g} s")
    return errand.result()


def is_hanging() -> bool:
    """Whether an abandoned query is still unanswered."""
    _hanging[:] = [errand for errand in _hanging if not errand.is_done]
    return bool(_hanging)


# ---------------------------------------------------------------------- the module

_failed: list[NvmlError] = []


def _module() -> ModuleType:
    found = sys.modules.get("pynvml")
    if found is not None:
        return found
    if _failed:
        raise _failed[0]  # a module that failed, or does other things, is not run again
    try:
        _refuse_the_script_itself()
        import pynvml  # noqa: PLC0415  (only needed on a machine with a driver)
    except (Exception, SystemExit) as error:
        failure = NvmlError(f"the module pynvml cannot be imported: {_said(error)}")
        if not isinstance(error, OSError):  # too many open files, for example, may be temporary
            _failed.append(failure)
        raise failure from error
    return pynvml  # type: ignore[no-any-return]


def _refuse_the_script_itself() -> None:
    """Refuse to import a training script named pynvml.py, which would run a second time."""
    from importlib.util import find_spec  # noqa: PLC0415  (slow to import)

    script = getattr(sys.modules.get("__main__"), "__file__", None)
    spec = find_spec("pynvml")
    found = spec.origin if spec is not None else None
    if script and found and os.path.exists(found) and os.path.samefile(script, found):
        raise ImportError(f"{script} has the same name")


def _lacks(module: ModuleType, name: str) -> str:
    if callable(getattr(module, "nvmlInit", None)):
        return f"this version of the module pynvml has no {name}"
    where = getattr(module, "__file__", None) or "in memory"
    return f"the module pynvml ({where}) is not the one of nvidia-ml-py: it has no {name}"


def _said(error: BaseException) -> str:
    try:
        message = str(error)
    except Exception:  # pynvml asks the driver for the text
        message = ""
    return message or type(error).__name__
