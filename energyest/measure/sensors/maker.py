"""`Maker`: how to find and read the GPUs of one make."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from energyest.measure.sensors.base import Sensor
from energyest.measure.sensors.nvml import GpuAddress
from energyest.measure.sensors.visible import Visible


@dataclass(frozen=True)
class Maker:
    """The library that reads the GPUs of one make.

    Attributes:
        library: its name, for messages.
        torch_type: torch's type of these devices.
        variable: the environment variable that leaves GPUs to a process.
        failures: what its functions raise.
        list_gpus: lists the GPUs of this machine.
        visible: the GPUs among these that a process with this environment sees.
        open_sensor: makes the sensor of the GPU with this number.
        read_for: the GPU that is read for a GPU; another one if they share a board.
        is_forbidden: whether an error means that the user may not open a GPU.
        may_use_gpus: whether a process may compute on GPUs although the library failed so.
    """

    library: str
    torch_type: str
    variable: str
    failures: tuple[type[Exception], ...]
    list_gpus: Callable[[], list[GpuAddress]]
    visible: Callable[[Sequence[GpuAddress], Mapping[str, str]], Visible]
    open_sensor: Callable[[int], Sensor]
    read_for: Callable[[GpuAddress, Sequence[GpuAddress]], GpuAddress]
    is_forbidden: Callable[[Exception], bool]
    may_use_gpus: Callable[[Exception], bool]


def torch_is_for_amd() -> bool | None:
    """Whether torch was built for AMD's GPUs; None if torch is not imported."""
    torch = sys.modules.get("torch")
    try:
        return None if torch is None else torch.version.hip is not None
    except AttributeError:  # half imported, or another torch
        return None
