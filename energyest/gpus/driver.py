"""NVML, asked through the module `pynvml` of nvidia-ml-py, or whatever bears that name here.

Drivers lack functions, old versions of the module lack names, and a file of the user's may stand
in its place. Here, all that goes wrong is one error; what a driver cannot do is no other case.
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

# Numbers of nvml.h, which old versions of the module do not name.
ERROR_INVALID_ARGUMENT = 2
ERROR_NOT_SUPPORTED = 3
ERROR_NO_PERMISSION = 4
ERROR_DRIVER_NOT_LOADED = 9
ERROR_LIBRARY_NOT_FOUND = 12
ERROR_FUNCTION_NOT_FOUND = 13
ERROR_LIB_RM_VERSION_MISMATCH = 18
FIELD_POWER_INSTANT = 186
TEMPERATURE_GPU = 0
CLOCK_SM, CLOCK_MEM = 1, 2
MIG_ENABLED = 1
# While a question has hung for long already, another waits only so long.
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
        """Whether this board, driver or user will never get an answer to the question."""
        return self.code in (
            ERROR_INVALID_ARGUMENT,
            ERROR_NOT_SUPPORTED,
            ERROR_NO_PERMISSION,
            ERROR_FUNCTION_NOT_FOUND,
        )


#: NVML has no answer, or one of a shape that nobody can use, as of another module or version.
FAILURES = (NvmlError, AttributeError, TypeError, ValueError, LookupError)


def call(name: str, *arguments: Any) -> Any:
    """The answer of a function of NVML.

    Names in another encoding than UTF-8, over which the module stumbles, come as bytes.

    Args:
        name: of the function in `pynvml`, such as `nvmlDeviceGetName`.
        *arguments: what it takes.

    Raises:
        NvmlError: whatever went wrong.
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


def ask_field(handle: Any, field: int) -> Callable[[], Any]:
    """Asks for one of a GPU's values by its number, again and again.

    The module builds its request anew for each call, which takes longer than the answer.

    Args:
        handle: of the GPU; NVML is initialised.
        field: number of the value.

    Returns:
        What asks; it raises as `call` does.
    """
    module = _module()
    try:
        values = (module.c_nvmlFieldValue_t * 1)()
        ask_driver = module.nvmlLib.nvmlDeviceGetFieldValues
    except (AttributeError, TypeError):  # another module, or another version of it
        return lambda: call("nvmlDeviceGetFieldValues", handle, [field])[0]
    value, values[0].fieldId = values[0], field

    def ask() -> Any:
        code = ask_driver(handle, 1, values)
        if code:
            raise NvmlError("a value cannot be read", code)
        return value

    return ask


def text(answer: Any) -> str:
    """Text that NVML has answered with, as text or as bytes of whatever encoding."""
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
    """NVML is initialised inside.

    Raises:
        NvmlError: it cannot be.
    """
    call("nvmlInit")
    try:
        yield
    finally:
        with contextlib.suppress(NvmlError):  # it is gone, or was shut down by others
            call("nvmlShutdown")


def may_use_gpus(error: Exception) -> bool:
    """Whether a process may compute on GPUs although asking NVML for them has failed so.

    Not where there is no driver, where it lets this user do nothing, or where it was updated and
    the system not started since: then CUDA does not work either. Where it is the module that
    fails, the driver's library tells.
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
    """How many GPUs there are, or 1 where the library is there and does not tell; else 0."""
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
if hasattr(os, "register_at_fork"):  # the threads are the parent's alone
    os.register_at_fork(after_in_child=_hanging.clear)


def begin(work: Callable[[], T]) -> Errand[T]:
    """Begin to ask, and wait for the end of it, but not for long: a driver may hang for minutes.

    It is the result that says whether that has come.
    """
    patience_s = _IN_TROUBLE_S if is_hanging() else PATIENCE_S
    errand = Errand(work, "nvml")
    if not errand.wait(patience_s):
        _hanging.append(errand)
    return errand


def soon(work: Callable[[], T]) -> T:
    """What asking comes to, where it does so soon.

    Raises:
        NvmlError: it does not, or what it raises itself.
    """
    if is_hanging():
        raise NvmlError("NVML does not answer")
    errand = begin(work)
    if not errand.is_done:
        raise NvmlError(f"NVML has not answered within {PATIENCE_S:g} s")
    return errand.result()


def is_hanging() -> bool:
    """Whether a question has not been answered that was not waited for any longer."""
    _hanging[:] = [errand for errand in _hanging if not errand.is_done]
    return bool(_hanging)


# ---------------------------------------------------------------------- the module

_failed: list[NvmlError] = []


def _module() -> ModuleType:
    found = sys.modules.get("pynvml")
    if found is not None:
        return found
    if _failed:
        raise _failed[0]  # what fails, or does other things, is not run again
    try:
        _refuse_the_script_itself()
        import pynvml  # noqa: PLC0415  (only needed on a machine with a driver)
    except (Exception, SystemExit) as error:
        failure = NvmlError(f"the module pynvml cannot be imported: {_said(error)}")
        if not isinstance(error, OSError):  # a process that is out of files may have some later
            _failed.append(failure)
        raise failure from error
    return pynvml  # type: ignore[no-any-return]


def _refuse_the_script_itself() -> None:
    """A training in a file named pynvml.py would be run a second time by importing it."""
    from importlib.util import find_spec  # noqa: PLC0415  (slow to import)

    script = getattr(sys.modules.get("__main__"), "__file__", None)
    spec = find_spec("pynvml")
    found = spec.origin if spec is not None else None
    if script and found and os.path.exists(found) and os.path.samefile(script, found):
        raise ImportError(f"{script} bears its name")


def _lacks(module: ModuleType, name: str) -> str:
    if callable(getattr(module, "nvmlInit", None)):
        return f"this version of the module pynvml has no {name}"
    where = getattr(module, "__file__", None) or "in memory"
    return f"the module pynvml ({where}) is not that of nvidia-ml-py: it has no {name}"


def _said(error: BaseException) -> str:
    try:
        message = str(error)
    except Exception:  # pynvml asks the driver for the words
        message = ""
    return message or type(error).__name__
