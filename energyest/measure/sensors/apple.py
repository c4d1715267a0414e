"""Apple Silicon through `zeus-apple-silicon`, which reads the counters of macOS (IOReport).

`AppleEnergyMonitor().get_cumulative_energy()` gives millijoules since the monitor was made:
`cpu_total_mj`, `gpu_mj`, `gpu_sram_mj`, `dram_mj` and more; None for what a chip does not count
(README and zeus/device/soc/apple.py of Zeus). The neural engine, which no training uses, is left
out.
"""

from __future__ import annotations

import importlib
import platform
import sys
from collections.abc import Sequence
from typing import Any

from energyest.measure.sensors.base import Device, Kind
from energyest.measure.sensors.cpu import processor_name
from energyest.measure.sensors.detection import Detection
from energyest.measure.sensors.kernel.counters import CounterSensor, EnergyCounter

# The metrics of each kind of device. The first must be there; the others count if they are.
_METRICS: dict[Kind, tuple[str, ...]] = {
    "gpu": ("gpu_mj", "gpu_sram_mj"),
    "cpu": ("cpu_total_mj",),
    "ram": ("dram_mj",),
}
# More than any such chip draws.
_MOST_W = 1000.0


def is_apple() -> bool:
    """Whether this machine is a Mac with Apple's own processor."""
    return sys.platform == "darwin" and platform.machine() == "arm64"


def detect_apple(components: Sequence[Kind]) -> Detection:
    """GPU, processors and memory of a Mac, as far as its chip counts their energy.

    Args:
        components: the kinds of sensors wanted.
    """
    try:
        monitor = importlib.import_module("zeus_apple_silicon").AppleEnergyMonitor()
        metrics = monitor.get_cumulative_energy()
    except Exception as error:
        remedy = "; pip install energyest[apple]" if isinstance(error, ImportError) else ""
        return Detection((), (f"Apple Silicon is not measured: {error}{remedy}",))
    sensors = [
        AppleSensor(kind, monitor, names)
        for kind in components
        if (names := _counted(metrics, kind))
    ]
    return Detection(tuple(sensors))


class AppleSensor(CounterSensor):
    """The GPU, the processors or the memory of a Mac.

    Args:
        kind: gpu, cpu or ram.
        monitor: the library's `AppleEnergyMonitor`.
        names: its metrics that are added up.
    """

    #: The library reads all counters at once, which takes milliseconds.
    every_s = 0.5

    def __init__(self, kind: Kind, monitor: Any, names: Sequence[str]) -> None:
        device = Device(
            device=f"{kind}:0",
            kind=kind,
            name={"ram": "memory", "gpu": f"{processor_name()} GPU"}.get(kind, processor_name()),
            source="measured",
            method=f"energy counter of macOS (zeus-apple-silicon: {' + '.join(names)})",
            rated_power_W=_MOST_W / 3,
        )

        def ask() -> float:
            try:
                metrics = monitor.get_cumulative_energy()
                return float(sum(getattr(metrics, name) for name in names))
            except Exception as error:  # RuntimeError of the library; None for a metric
                raise OSError(f"zeus-apple-silicon: {error}") from error

        super().__init__(device, [EnergyCounter(ask, unit_J=1e-3, most_W=_MOST_W)])


def _counted(metrics: Any, kind: Kind) -> list[str]:
    """The metrics of a kind that this chip has; none if its first one is missing."""
    names = [n for n in _METRICS.get(kind, ()) if getattr(metrics, n, None) is not None]
    return names if names[:1] == list(_METRICS.get(kind, ())[:1]) else []
