"""RAPL: energy counters of processor packages and of their memory, in Intel's and AMD's CPUs.

Linux shows them below /sys/class/powercap (docs.kernel.org/power/powercap/powercap.html). A
`package` zone includes its parts `core` and `uncore`. `dram`, of servers, lies below its package in
the tree but is not part of its power (Intel's Software Developer's Manual, volume 3B, "RAPL
Domains"). `psys`, the platform, includes packages and more, but what more depends on the
manufacturer of the board: it is not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

from energyest.measure.sensors.base import Device, Reading
from energyest.measure.sensors.kernel.counters import (
    CounterSensor,
    EnergyCounter,
    number_or_nan,
    read_number,
)
from energyest.measure.sensors.kernel.processors import ProcessorSensor
from energyest.measure.sensors.ram import memory_in_use

RAPL_ROOT = Path("/sys/class/powercap")
# More than any package, or its memory, can draw; for one whose limit is unknown.
_MOST_W = 2000.0


class RaplSensor(ProcessorSensor):
    """All CPU packages of the machine, read through Intel's and AMD's energy counters.

    Args:
        root: the folder of the kernel's power zones.

    Raises:
        OSError: no package's counter can be read (usually for lack of permission).
    """

    def __init__(self, root: Path = RAPL_ROOT) -> None:
        packages = list(_packages(root))
        if not packages:
            raise FileNotFoundError(f"no processor package in {root}")
        super().__init__(
            [_counter(zone) for zone in packages],
            f"RAPL, {len(packages)} package(s) of this machine",
            power_limit_W=sum(map(_limit_W, packages)),
        )


class RaplDramSensor(CounterSensor):
    """The memory of the machine, read through the `dram` counter of each of its packages.

    Args:
        root: the folder of the kernel's power zones.

    Raises:
        FileNotFoundError: a package has no such counter: consumer CPUs and AMD's have none.
        OSError: a counter cannot be read (usually for lack of permission).
    """

    def __init__(self, root: Path = RAPL_ROOT) -> None:
        packages = list(_packages(root))
        zones = [zone for package in packages for zone in _dram(root, package)]
        # A sum over some of the packages would look like all memory.
        if not zones or len(zones) < len(packages):
            raise FileNotFoundError(
                f"{len(zones)} of {len(packages)} processor packages in {root} count the energy "
                "of their memory"
            )
        device = Device(
            device="ram:0",
            kind="ram",
            name="memory",
            source="measured",
            method=f"RAPL, memory of {len(packages)} package(s) of this machine",
            power_limit_W=sum(map(_limit_W, zones)),
            memory_bytes=float(psutil.virtual_memory().total),
        )
        super().__init__(device, [_counter(zone) for zone in zones])

    def read(self, time_s: float) -> Reading:
        """Read the counters and the memory in use; power is the mean since the last reading."""
        used, share = memory_in_use()
        return super().read(time_s)._replace(memory_bytes=used, utilization=share)


def energy_files(root: Path) -> list[Path]:
    """The counters of all packages, whether they can be read or not."""
    return [zone / "energy_uj" for zone in sorted(root.glob("intel-rapl:[0-9]*"))]


def package_numbers(root: Path) -> list[str]:
    """The numbers of the packages, which every user may see; empty if the kernel shows none."""
    try:
        return [zone.name.partition(":")[2] for zone in _packages(root)]
    except OSError:
        return []


def _packages(root: Path) -> Iterator[Path]:
    # intel-rapl:0 is a package (also on AMD), intel-rapl:0:1 a part of one.
    for zone in sorted(root.glob("intel-rapl:[0-9]*")):
        if zone.name.count(":") == 1 and _name(zone).startswith("package"):
            yield zone


def _dram(root: Path, package: Path) -> Iterator[Path]:
    """The memory of a package: beside it, as in sysfs, or in it, as a container may show it."""
    found = {
        zone.name: zone for folder in (package, root) for zone in folder.glob(f"{package.name}:*")
    }
    for _, zone in sorted(found.items()):
        if _name(zone) == "dram":
            yield zone


def _name(zone: Path) -> str:
    return (zone / "name").read_text(encoding="ascii").strip()


def _limit_W(zone: Path) -> float:
    """The long-term power limit, usually the TDP; NaN if it cannot be read."""
    return number_or_nan(zone / "constraint_0_power_limit_uw") / 1e6


def _counter(zone: Path) -> EnergyCounter:
    file = zone / "energy_uj"
    limit_W = _limit_W(zone)
    return EnergyCounter(
        lambda: read_number(file),
        unit_J=1e-6,
        range_J=read_number(zone / "max_energy_range_uj") * 1e-6,
        most_W=3 * limit_W if limit_W > 0 else _MOST_W,
    )
