"""Intel's discrete GPUs, through the hardware monitors of their drivers `i915` and `xe`.

Documentation/ABI/testing/sysfs-driver-intel-i915-hwmon and -intel-xe-hwmon of Linux: energy in
microjoules, which the driver continues to 64 bits beyond the 32 of the register; `power1_max`, the
limit, and `power1_rated_max`, the default limit, in microwatts. In `xe`, a label tells the card
from the package on it. Chips such as `i915_gt0` are parts of a card and are not counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from energyest.measure.sensors.base import Device
from energyest.measure.sensors.kernel.counters import (
    CounterSensor,
    EnergyCounter,
    number_or_nan,
    read_number,
)
from energyest.measure.sensors.kernel.hwmon import HWMON_ROOT, channels, chips, read_text
from energyest.measure.sensors.maker import Maker
from energyest.measure.sensors.nvml import GpuAddress
from energyest.measure.sensors.visible import Visible

_DRIVERS = ("i915", "xe")
# More than any card can draw; for one whose limit is unknown.
_MOST_W = 3000.0
FAILURES = (OSError, ValueError, LookupError)


class IntelGpuSensor(CounterSensor):
    """One Intel GPU.

    Args:
        index: its number, in the order of the PCI bus.
        root: the folder of hardware monitors.

    Raises:
        LookupError: there is no such GPU.
        OSError: its counter cannot be read.
    """

    #: A counter costs microseconds to read.
    every_s = 0.0

    def __init__(self, index: int, root: Path = HWMON_ROOT) -> None:
        cards = _cards(root)
        if not 0 <= index < len(cards):
            raise LookupError(f"there are {len(cards)} Intel GPU(s) with an energy counter")
        chip, file = cards[index]
        limits_W = [number_or_nan(chip / f"power1_{name}") / 1e6 for name in ("max", "rated_max")]
        limit_W = next((limit_W for limit_W in limits_W if limit_W > 0), float("nan"))
        address = _address(index, chip)
        device = Device(
            device=f"gpu:{index}",
            kind="gpu",
            name=address.model,
            source="measured",
            method=f"energy counter of the driver {read_text(chip / 'name')}",
            power_limit_W=limit_W,
            details={"index": index, "pci_bus_id": address.pci_bus_id},
        )
        most_W = 3 * limit_W if limit_W > 0 else _MOST_W
        counter = EnergyCounter(lambda: read_number(file), unit_J=1e-6, most_W=most_W)
        super().__init__(device, [counter])


def has_gpus(root: Path = HWMON_ROOT) -> bool:
    """Whether there is such a GPU."""
    return bool(_cards(root))


def list_gpus(root: Path = HWMON_ROOT) -> list[GpuAddress]:
    """The GPUs with an energy counter, in the order of the PCI bus."""
    return [_address(index, chip) for index, (chip, _) in enumerate(_cards(root))]


def visible_gpus(gpus: Sequence[GpuAddress], environment: Mapping[str, str]) -> Visible:
    """The GPUs that Level Zero shows to a process: `ZE_AFFINITY_MASK`, such as "0,1.0".

    A number after a point is a tile; the power of its whole card is measured.

    Args:
        gpus: all GPUs.
        environment: the process's variables.
    """
    mask = environment.get("ZE_AFFINITY_MASK")
    if not mask:
        return Visible(list(gpus), [])
    numbers = [entry.strip().partition(".")[0] for entry in mask.split(",")]
    chosen = [gpus[int(n)] for n in numbers if n.isdecimal() and int(n) < len(gpus)]
    return Visible(list(dict.fromkeys(chosen)), [])


def _cards(root: Path) -> list[tuple[Path, Path]]:
    """The monitor and the energy counter of each card."""
    found = {}
    for chip in chips(root, *_DRIVERS):
        labels = dict(channels(chip, "energy"))
        name = labels.get("card") or labels.get("")
        if name is not None:
            found[_bus_id(chip)] = (chip, chip / f"{name}_input")
    return [card for _, card in sorted(found.items())]


def _address(index: int, chip: Path) -> GpuAddress:
    model = read_text(chip / "device" / "device").removeprefix("0x")
    name = f"Intel GPU 8086:{model}" if model else f"Intel GPU {index}"
    return GpuAddress(index, pci_bus_id=_bus_id(chip), model=name)


def _bus_id(chip: Path) -> str:
    return (chip / "device").resolve().name


INTEL = Maker(
    library="the driver of Intel's GPUs",
    torch_type="xpu",
    variable="ZE_AFFINITY_MASK",
    failures=FAILURES,
    list_gpus=list_gpus,
    visible=visible_gpus,
    open_sensor=IntelGpuSensor,
    read_for=lambda gpu, _: gpu,
    is_forbidden=lambda error: isinstance(error, PermissionError),
    may_use_gpus=lambda _: False,
)
