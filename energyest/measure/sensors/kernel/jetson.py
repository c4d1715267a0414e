"""Jetson modules, through the monitors (INA3221) on their power rails.

Each monitor has up to three channels, with the label of a rail, its voltage and its current
(docs.kernel.org/hwmon/ina3221.html). What the module draws is one rail, `VDD_IN`, or the sum of
the rails that feed it; never both, and never a rail that is fed by another one of the sum. The
sources of the sums are NVIDIA's: the Jetson Linux Developer Guide ("Software-Based Power
Consumption Modeling") and the AGX Xavier design guide (DG-09840, figure 5-14).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from energyest.measure.sensors.base import Device, Kind, Reading, of_this_machine
from energyest.measure.sensors.detection import Detection
from energyest.measure.sensors.kernel.counters import number_or_nan, read_number
from energyest.measure.sensors.kernel.hwmon import HWMON_ROOT, channels, chips, read_text

MODEL = Path("/proc/device-tree/model")
# The rails whose sum the module draws; the first of these sets that is there.
_MODULES: tuple[tuple[str, ...], ...] = (
    ("VDD_IN",),  # Orin NX, Orin Nano, Xavier NX
    # AGX Orin; VDDQ_VDD2_1V8AO is fed by VIN_SYS_5V0.
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),  # AGX Xavier
)
# Rails that feed GPU or CPU, with what they feed besides.
_PARTS: dict[str, Kind] = {"VDD_GPU_SOC": "gpu", "GPU": "gpu", "VDD_CPU_CV": "cpu", "CPU": "cpu"}


class RailSensor:
    """The sum of power rails.

    Args:
        device: what they feed.
        rails: files of the voltage in mV and the current in mA of each rail.
    """

    #: A reading asks the monitor over a slow bus.
    every_s = 0.2

    def __init__(self, device: Device, rails: Sequence[tuple[Path, Path]]) -> None:
        self.device = device
        self._rails = rails

    def read(self, time_s: float) -> Reading:
        """Read all rails; if one fails, or the sum is not above 0, power is NaN."""
        try:
            parts_W = [read_number(mV) * read_number(mA) * 1e-6 for mV, mA in self._rails]
        except (OSError, ValueError):
            return Reading(time_s, self.device.device)
        power_W = math.fsum(parts_W)
        is_possible = 0 < power_W < math.inf and min(parts_W) >= 0
        return Reading(time_s, self.device.device, power_W=power_W if is_possible else math.nan)

    def close(self) -> None:
        """Nothing is held."""


def is_jetson(model: Path = MODEL) -> bool:
    """Whether this machine is a Jetson, or another with an NVIDIA Tegra."""
    told = read_text(model)
    return "Jetson" in told or "NVIDIA" in told


def detect_jetson(
    components: Sequence[Kind], *, root: Path = HWMON_ROOT, model: Path = MODEL
) -> Detection:
    """The module of a Jetson, and its GPU and CPU where they have rails of their own.

    The module is measured if it is asked for, if GPU, CPU and memory all are, or if the GPU has no
    rail of its own.

    Args:
        components: the kinds of sensors wanted.
        root: the folder of hardware monitors.
        model: the file with the name of the board.
    """
    rails = {
        label: (chip / f"{name}_input", chip / f"{name.replace('in', 'curr')}_input")
        for chip in chips(root, "ina3221")
        for label, name in channels(chip, "in")
        if label and (chip / f"{name.replace('in', 'curr')}_input").exists()
    }
    board = read_text(model).rstrip("\0") or "Jetson"
    found = Detection(())
    parts = {kind: label for label, kind in _PARTS.items() if label in rails}
    for kind, label in parts.items():
        if kind in components:
            found += _opened(_part(kind, label, board), [rails[label]])
    is_whole = {"gpu", "cpu", "ram"} <= set(components)
    if is_whole or "module" in components or ("gpu" in components and "gpu" not in parts):
        of_module = next((names for names in _MODULES if set(names) <= rails.keys()), None)
        if of_module is None:
            known = ", ".join(rails) or "none"
            return found + Detection((), (f"the module is not measured: its rails are {known}",))
        method = f"INA3221, {' + '.join(of_module)}"
        device = Device(
            "module:0",
            "module",
            board,
            "measured",
            method,
            contains=_IN_A_MODULE,
            details=of_this_machine("module:0"),
        )
        found += _opened(device, [rails[name] for name in of_module])
    return found


_IN_A_MODULE = ("gpu", "cpu", "ram")


def _part(kind: Kind, label: str, board: str) -> Device:
    # It stands for what is modelled, or found without power, of the same kind.
    device = f"{kind}:rail"
    return Device(
        device,
        kind,
        f"{board}, {label}",
        "measured",
        f"INA3221, {label}",
        contains=(kind,),
        details=of_this_machine(device),
    )


def _opened(device: Device, rails: Sequence[tuple[Path, Path]]) -> Detection:
    sensor = RailSensor(device, rails)
    unread = [str(file) for rail in rails for file in rail if math.isnan(number_or_nan(file))]
    if unread:
        return Detection((), (f"{device.label} is not measured: {unread[0]} cannot be read",))
    return Detection((sensor,))
