"""The makes of GPUs, and the one that this process may train on."""

from __future__ import annotations

import os

from energyest.gpus.driver import ERROR_NO_PERMISSION, FAILURES, NvmlError, may_use_gpus
from energyest.measure.sensors.maker import Maker, torch_is_for_amd
from energyest.measure.sensors.nvml import NvmlSensor, list_gpus
from energyest.measure.sensors.visible import visible_gpus

# Where the drivers of AMD's and NVIDIA's GPUs are asked to compute.
_AMD_DRIVER, _NVIDIA_DRIVER = "/dev/kfd", "/dev/nvidiactl"
# Where the kernel shows the drivers of Intel's GPUs, also of those without a monitor.
_INTEL_DRIVERS = ("/sys/module/i915", "/sys/module/xe")


def maker_in_use() -> Maker:
    """The make of the GPUs on which this process may train: torch's, or else the driver's."""
    if _uses_amd():
        # Loaded where there is such a GPU: nobody else pays for it.
        from energyest.measure.sensors.amd.sensor import AMD  # noqa: PLC0415

        return AMD
    if _uses_intel():
        from energyest.measure.sensors.kernel.intel_gpu import INTEL  # noqa: PLC0415

        return INTEL
    return NVIDIA


def _uses_amd() -> bool:
    is_for_amd = torch_is_for_amd()
    if is_for_amd:
        return True
    return os.path.exists(_AMD_DRIVER) and not os.path.exists(_NVIDIA_DRIVER)


def _uses_intel() -> bool:
    if os.path.exists(_NVIDIA_DRIVER) or not any(map(os.path.exists, _INTEL_DRIVERS)):
        return False
    from energyest.measure.sensors.kernel.intel_gpu import has_gpus  # noqa: PLC0415

    return has_gpus()


NVIDIA = Maker(
    library="NVML",
    torch_type="cuda",
    variable="CUDA_VISIBLE_DEVICES",
    failures=FAILURES,
    list_gpus=list_gpus,
    visible=visible_gpus,
    open_sensor=NvmlSensor,
    read_for=lambda gpu, _: gpu,
    is_forbidden=lambda error: isinstance(error, NvmlError) and error.code == ERROR_NO_PERMISSION,
    may_use_gpus=may_use_gpus,
)
