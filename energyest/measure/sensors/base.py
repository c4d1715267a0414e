"""The interface of sensors, the sources of watts."""

from __future__ import annotations

import itertools
import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from energyest.checks import short
from energyest.errors import ConfigurationError
from energyest.records.devices import containers, contents_of

Kind = Literal["gpu", "cpu", "ram", "module", "system"]
KINDS: tuple[Kind, ...] = ("gpu", "cpu", "ram", "module", "system")
#: The kinds that are measured unless others are asked for, and those that must be asked for.
USUAL: tuple[Kind, ...] = ("gpu", "cpu", "ram")
ON_REQUEST: tuple[Kind, ...] = ("module", "system")
Source = Literal["measured", "modelled"]


class Reading(NamedTuple):
    """One reading of a device. A quantity that could not be read is NaN, never 0.

    Attributes:
        time_s: time of the reading, in seconds on the sampler's clock.
        device: name of the device, such as `gpu:0`.
        power_W: watts.
        energy_J: cumulative energy counter in joules.
        utilization: share of time in which the device was busy, 0 to 1.
        memory_bytes: memory in use.
        temperature_C: degrees Celsius.
    """

    time_s: float
    device: str
    power_W: float = math.nan
    energy_J: float = math.nan
    utilization: float = math.nan
    memory_bytes: float = math.nan
    temperature_C: float = math.nan


@dataclass(frozen=True)
class Device:
    """What a sensor measures, as it goes into a trace's meta.

    Attributes:
        device: name in the readings, such as `gpu:0`; the part before the colon is the kind.
        kind: gpu, cpu, ram, module (a package of several of these) or system (a whole node).
        name: product name.
        source: whether power is measured or modelled.
        method: how it is measured, in a few words; for a model, with the source of its constants.
        power_limit_W: the most that the device may draw, in watts; NaN if unknown.
        memory_bytes: size of its memory; NaN if it has none or the size is unknown.
        details: further facts, such as the UUID and index of a GPU.
        contains: kinds (`gpu` is every other GPU of the machine) or names (`gpu:0`) of the devices
            whose power this one includes, so that a total counts their joules once. None for the
            usual: a system contains all other kinds, and any other device nothing.
        rated_power_W: rated power of the product, for use if this device's limit is unknown; NaN if
            unknown. Not part of the meta.
        bridged_s: the longest time between two readings that is bridged, for a device that is
            read more rarely than others; NaN for the usual 5 s, or 60 s if its power is modelled.
            Not part of the meta.
        has_instant_power: whether power readings are instantaneous, not a mean or a model. Not part
            of the meta.
    """

    device: str
    kind: Kind
    name: str
    source: Source
    method: str
    power_limit_W: float = math.nan
    memory_bytes: float = math.nan
    details: dict[str, Any] = field(default_factory=dict)
    contains: tuple[str, ...] | None = None
    rated_power_W: float = math.nan
    bridged_s: float = math.nan
    has_instant_power: bool = False

    @property
    def label(self) -> str:
        """The device and its product, for messages."""
        return f"{self.device} ({self.name})"

    @property
    def most_power_W(self) -> float:
        """A bound that power readings and counters cannot exceed; infinite if unknown."""
        limit_W = self.power_limit_W if self.power_limit_W > 0 else self.rated_power_W
        # Far above any transient: a limit holds on average over milliseconds to seconds.
        return 3 * limit_W if limit_W > 0 else math.inf

    def as_meta(self) -> dict[str, Any]:
        """The device as plain JSON values; unknown values are left out."""
        values: dict[str, Any] = {
            "device": self.device,
            "kind": self.kind,
            "name": self.name,
            "source": self.source,
            "method": self.method,
            "power_limit_W": self.power_limit_W,
            "memory_bytes": self.memory_bytes,
            "contains": math.nan if self.contains is None else list(self.contains),
            **self.details,
        }
        return {
            name: value
            for name, value in values.items()
            if not (isinstance(value, float) and math.isnan(value))
        }


def of_this_machine(device: str) -> dict[str, Any]:
    """An identity for a device of which a machine has one, in the place of a UUID.

    Several processes on a machine may measure it; their sum counts it once.
    """
    return {"uuid": f"{device}@{platform.node()}"}


class Sensor(Protocol):
    """One source of watts. Once the sampler runs, only its thread calls `read`.

    A sensor may also have `every_s`, the seconds between readings if reading more often is of no
    use, the method of `OftenSensor`, or that of `LateSensor`.
    """

    @property
    def device(self) -> Device:
        """What this sensor measures."""
        ...

    def read(self, time_s: float) -> Reading:
        """Read the device now, at `time_s` on the sampler's clock; failed quantities are NaN."""
        ...

    def close(self) -> None:
        """Release what the sensor holds; further reads are not allowed."""
        ...


@runtime_checkable
class OftenSensor(Sensor, Protocol):
    """A sensor with quantities that are too costly to read in each round."""

    def read_often(self, time_s: float) -> Reading:
        """Like `read`, but only the cheap quantities; the others are NaN."""
        ...


@runtime_checkable
class LateSensor(Sensor, Protocol):
    """A sensor whose readings are made elsewhere, and are read once there is a new one.

    Its readings carry the time at which they were made. If it has no `every_s` of 0.5 or more, all
    sensors are always read at the full rate, so that none of its readings is missed.
    """

    def has_news(self) -> bool:
        """Whether there is a reading that was not read yet."""
        ...


def check_devices(devices: Sequence[Device]) -> None:
    """Refuse names that a trace could not tell apart or hold, and joules that would count twice.

    Raises:
        ConfigurationError: two devices have the same name; a name is empty, longer than 200
            characters or not printable; two devices contain each other; or two contain the same
            although neither contains the other.
    """
    names = [device.device for device in devices]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"sensors must have different device names: {names}")
    for name in names:
        if not (isinstance(name, str) and 0 < len(name) <= 200 and name.isprintable()):
            raise ConfigurationError(
                f"a sensor's device is named {short(name)}: a name must be text of 1 to 200 "
                "printable characters"
            )
    entries = [device.as_meta() for device in devices]
    around = containers(entries)
    # What each contains, whether it is among the devices or, as a late GPU, is not yet.
    contents = [
        {*contents_of(entry), *(names[at] for at, of in enumerate(around) if place in of)}
        for place, entry in enumerate(entries)
    ]
    for one, other in itertools.combinations(range(len(devices)), 2):
        of_one, of_other = other in around[one], one in around[other]
        if of_one and of_other:
            raise ConfigurationError(
                f"{names[one]} and {names[other]} contain each other: name in contains= of the "
                "outer one what it contains"
            )
        shared = contents[one] & contents[other]
        if shared and not (of_one or of_other):
            raise ConfigurationError(
                f"{names[one]} and {names[other]} both contain {', '.join(sorted(shared))}, whose "
                "energy would count twice: the outer one must name the inner one in contains="
            )
