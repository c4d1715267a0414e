"""A simulated NVML, so that the real pynvml can be tested on a machine without a GPU.

``build`` compiles fake_nvml.c into a ``libnvidia-ml.so.1``. There are two ways to have it used:

- In this process, ``FakeNvml(build(directory))`` loads it. When pynvml later asks the loader for
  ``libnvidia-ml.so.1``, the loader finds that a library of that soname is there already. This
  holds until the process ends, so tests that need a real GPU belong into another process.
- A subprocess finds it through LD_LIBRARY_PATH, which ``environment`` sets. Such a process sees
  the defaults (two idle GPUs) unless it makes a ``FakeNvml`` of the same path and scripts it.

Typical use::

    fake = FakeNvml(build(tmp_path))
    fake.set_power(0, watts=300)
    fake.fail("nvmlDeviceGetPowerUsage", device=1, code=pynvml.NVML_ERROR_GPU_IS_LOST, times=3)
    fake.delay("nvmlDeviceGetTotalEnergyConsumption", seconds=10)
    ...
    fake.remove()
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pynvml

__all__ = ["FakeNvml", "build", "compiler_available", "environment"]

_SONAME = "libnvidia-ml.so.1"
_EVERY_DEVICE = -1


def _compiler() -> str | None:
    if sys.platform != "linux":  # sonames and LD_LIBRARY_PATH are what all of this rests on
        return None
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def compiler_available() -> bool:
    """Whether ``build`` can work here: on Linux, with a C compiler."""
    return _compiler() is not None


def build(directory: Path) -> Path:
    """Compile the library into `directory` and return its path.

    Raises RuntimeError, with the compiler's message, if that fails.
    """
    compiler = _compiler()
    if compiler is None:
        raise RuntimeError("simulating NVML needs Linux and a C compiler")
    library = Path(directory).resolve() / _SONAME
    source = Path(__file__).with_name("fake_nvml.c")
    flags = ["-std=c11", "-O1", "-Wall", "-Wextra", "-shared", "-fPIC", "-pthread"]
    command = [compiler, *flags, f"-Wl,-soname,{_SONAME}", "-o", str(library), str(source)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stderr}")
    return library


def environment(library: Path) -> dict[str, str]:
    """This process's environment, changed so that a subprocess finds `library` as NVML."""
    paths = [str(library.parent), os.environ.get("LD_LIBRARY_PATH", "")]
    return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(filter(None, paths))}


class FakeNvml:
    """The simulated driver of this process: up to 8 GPUs, all of them scripted by its methods.

    Each GPU has a power, and an energy counter that integrates it exactly over time. A GPU that
    was never touched idles at 70 W, and its counter starts at an odd number: like a driver's, it
    has been counting for a while.

    There is one driver per process: a second ``FakeNvml`` resets and shares the state of the
    first, even if its library was built elsewhere. Raises RuntimeError if the process has loaded
    a real NVML before.
    """

    def __init__(self, library: Path) -> None:
        ctypes.CDLL(str(library))
        self._library = ctypes.CDLL(_SONAME)  # what pynvml will get: the first one loaded
        if not hasattr(self._library, "fake_reset"):
            raise RuntimeError(f"this process has loaded another {_SONAME} already")
        self.reset()

    def reset(self) -> None:
        """Return to the defaults: two idle GPUs, nothing scripted or counted, NVML not initialised.

        Calls that hang end at once. pynvml is put back to where it is after its import: without
        nvmlInit its functions raise NVMLError_Uninitialized.
        """
        self._call("fake_reset")
        pynvml.nvmlLib = None
        pynvml._nvmlLib_refcount = 0
        # pynvml never forgets a function it has looked up, even if the library is another now.
        pynvml._nvmlGetFunctionPointer_cache.clear()

    def remove(self) -> None:
        """Reset, and make this a machine without NVML: nvmlInit raises NVMLError_LibraryNotFound.

        For the end of a test: a loaded library cannot be unloaded, and what runs later in this
        process should not find GPUs. A new FakeNvml, or a reset, brings them back.
        """
        self.reset()
        self.fail("nvmlInitWithFlags", code=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    # What the machine is

    def set_device_count(self, count: int) -> None:
        """Have `count` GPUs, 0 to 8; those already there keep their state."""
        self._call("fake_set_device_count", count)

    def set_name(self, device: int, name: str) -> None:
        self._call("fake_set_name", device, name)

    def set_chip(
        self,
        device: int,
        *,
        cores: int,
        sm_MHz: int,
        memory_MHz: int,
        bus_bits: int,
        capability: tuple[int, int],
    ) -> None:
        """Set what the GPU is made of; the clocks are the highest ones."""
        major, minor = capability
        self._call("fake_set_cores", device, cores)
        self._call("fake_set_sm_mhz", device, sm_MHz)
        self._call("fake_set_memory_mhz", device, memory_MHz)
        self._call("fake_set_bus_bits", device, bus_bits)
        self._call("fake_set_capability", device, 10 * major + minor)

    def set_power_limit(
        self,
        device: int,
        *,
        watts: float,
        enforced_watts: float | None = None,
        default_watts: float | None = None,
    ) -> None:
        """Set the limit asked for; the enforced one follows it and the default one stays."""
        enforced = watts if enforced_watts is None else enforced_watts
        self._call("fake_set_power_limit", device, _milli(watts))
        self._call("fake_set_enforced_power_limit", device, _milli(enforced))
        if default_watts is not None:
            self._call("fake_set_default_power_limit", device, _milli(default_watts))

    def set_mig(self, device: int, enabled: bool) -> None:
        """Switch MIG mode, in which there are no MIG devices at first."""
        self._call("fake_set_mig", device, enabled)

    def add_mig_device(self, device: int, uuid: str) -> None:
        """Make a MIG device, up to 7, on a GPU in MIG mode; its UUID begins with `MIG-`."""
        self._call("fake_add_mig_device", device, uuid)

    # What the GPUs do

    def set_power(self, device: int, *, watts: float) -> None:
        """Draw `watts` from now on; the counter has integrated the old power up to now."""
        self._call("fake_set_power", device, _milli(watts))

    def set_average_power(self, device: int, *, watts: float | None) -> None:
        """Report this average (nvmlDeviceGetPowerUsage); None: the power, as at first."""
        self._call("fake_set_average_power", device, -1 if watts is None else _milli(watts))

    def set_module_power(self, device: int, *, watts: float | None) -> None:
        """Make the GPU part of a module with this power; None: of none, as at first."""
        self._call("fake_set_module_power", device, -1 if watts is None else _milli(watts))

    def set_counter(self, device: int, *, joules: float) -> None:
        """Let the energy counter continue from `joules`: from 0, as after a driver reload."""
        self._call("fake_set_counter", device, _milli(joules))

    def shift_counter(self, device: int, *, joules: float) -> None:
        """Let the energy counter jump, backwards if `joules` is negative, but not below 0."""
        self._call("fake_shift_counter", device, _milli(joules))

    def freeze_counter(self, device: int, frozen: bool = True) -> None:
        """Stop the counter from integrating: only set_counter and shift_counter move it then."""
        self._call("fake_freeze_counter", device, frozen)

    def set_utilization(self, device: int, *, gpu: int, memory: int = 0) -> None:
        """Set both utilisations, in per cent."""
        self._call("fake_set_gpu_utilization", device, gpu)
        self._call("fake_set_memory_utilization", device, memory)

    def set_memory(self, device: int, *, used: int, total: int | None = None) -> None:
        """Set the memory in use and, if given, the GPU's memory, in bytes."""
        self._call("fake_set_memory_used", device, used)
        if total is not None:
            self._call("fake_set_memory_total", device, total)

    def set_temperature(self, device: int, *, celsius: int) -> None:
        self._call("fake_set_temperature", device, celsius)

    def add_process(self, device: int, *, pid: int, used_bytes: int) -> None:
        """Let a process compute on the GPU, up to 8 of them, until the next reset."""
        self._call("fake_add_process", device, pid, used_bytes)

    def set_time(self, seconds: float | None) -> None:
        """Run by a clock that stands still until it is set anew; None: by the real one, as before.

        A call that hangs then returns at once, and the clock has gone on by as much.
        """
        self._call("fake_set_time", -1 if seconds is None else round(seconds * 1e9))

    def time(self) -> float:
        """Seconds by the clock that the counters run by."""
        return self._call("fake_time") / 1e9

    # How the calls go

    def fail(
        self,
        function: str,
        *,
        code: int,
        device: int | None = None,
        field: int | None = None,
        times: int | None = None,
        every: int = 1,
    ) -> None:
        """Let calls of an NVML function return `code`, an NVML_ERROR_*.

        `function` is NVML's name for it, with the version that pynvml calls, such as
        nvmlDeviceGetCount_v2. Without `device` all calls fail, on whatever device. `field` fails
        one field of nvmlDeviceGetFieldValues, of which the others, and the call, succeed.

        `times` ends it after that many failures, and `every=5` fails the fifth call from now, the
        tenth and so on. A new rule replaces the old one of the same function, device and field;
        NVML_SUCCESS as `code` removes it.
        """
        name = self._name(function, field)
        self._call("fake_fail", name, _index(device), code, every, _count(times))

    def delay(
        self,
        function: str,
        *,
        seconds: float,
        device: int | None = None,
        field: int | None = None,
        times: int | None = None,
        every: int = 1,
    ) -> None:
        """Let calls of an NVML function hang before they do what they do; see ``fail``.

        Calls on other threads go on meanwhile. 0 seconds removes the rule, and a reset ends even
        the calls that hang already, with NVML_ERROR_UNINITIALIZED.
        """
        name = self._name(function, field)
        self._call("fake_delay", name, _index(device), _milli(seconds), every, _count(times))

    def spin(self, function: str, *, seconds: float) -> None:
        """Let calls of an NVML function take so much of a processor; 0 ends it, as a reset does."""
        self._call("fake_spin", self._name(function, None), round(seconds * 1e6))

    def calls(self, function: str, *, device: int | None = None, field: int | None = None) -> int:
        """How often an NVML function was called since the last reset, on one device or in all.

        A call counts when it begins, whether it then succeeds, fails or hangs.
        """
        return self._call("fake_calls", self._name(function, field), _index(device))

    def _name(self, function: str, field: int | None) -> str:
        if not (function.startswith("nvml") and hasattr(self._library, function)):
            raise ValueError(f"{function} is not a function of the simulated NVML")
        if field is None:
            return function
        if function != "nvmlDeviceGetFieldValues":
            raise ValueError(f"{function} has no fields")
        return f"{function}:{field}"

    def _call(self, function: str, *arguments: str | int) -> int:
        control = self._library[function]
        control.restype = ctypes.c_int64
        result: int = control(
            *(
                ctypes.c_char_p(argument.encode())
                if isinstance(argument, str)
                else ctypes.c_int64(argument)
                for argument in arguments
            )
        )
        if result < 0:
            raise ValueError(f"{function} does not accept {arguments}")
        return result


def _milli(value: float) -> int:
    """W, J or s in NVML's mW and mJ, or in ms."""
    return round(value * 1000)


def _index(device: int | None) -> int:
    return _EVERY_DEVICE if device is None else device


def _count(times: int | None) -> int:
    return -1 if times is None else times
