"""What a sensor is: one source of watts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from energyest.checks import short
from energyest.errors import ConfigurationError

Kind = Literal["gpu", "cpu", "ram"]
KINDS: tuple[Kind, ...] = ("gpu", "cpu", "ram")
Source = Literal["measured", "modelled"]


class Reading(NamedTuple):
    """One look at a device. NaN stands for a quantity that could not be read, never 0.

    Attributes:
        time_s: when, in seconds of the sampler's clock.
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
        device: name in the readings, such as `gpu:0`; what stands before the colon is the kind.
        kind: gpu, cpu or ram.
        name: product name.
        source: whether power is measured or modelled.
        method: how, in a few words; with the source of the constants of a model.
        power_limit_W: the most that the device may draw, in watts; NaN if unknown.
        memory_bytes: size of its memory; NaN if it has none or it is unknown.
        details: further facts, such as uuid and index of a GPU.
        rated_power_W: what a device of its name is made to draw, where no limit is known of this
            one; NaN if unknown. It is no part of the meta.
        has_instant_power: whether each reading of power is of that instant, not a mean or a model.
            It is no part of the meta.
    """

    device: str
    kind: Kind
    name: str
    source: Source
    method: str
    power_limit_W: float = math.nan
    memory_bytes: float = math.nan
    details: dict[str, Any] = field(default_factory=dict)
    rated_power_W: float = math.nan
    has_instant_power: bool = False

    @property
    def label(self) -> str:
        """The device and its product, for messages."""
        return f"{self.device} ({self.name})"

    @property
    def most_power_W(self) -> float:
        """What no reading of power, and no counter, can exceed; infinite if that is unknown."""
        limit_W = self.power_limit_W if self.power_limit_W > 0 else self.rated_power_W
        # Far above any transient: a limit is held on average over some milliseconds to seconds.
        return 3 * limit_W if limit_W > 0 else math.inf

    def as_meta(self) -> dict[str, Any]:
        """Plain JSON values; what is unknown is left out."""
        values: dict[str, Any] = {
            "device": self.device,
            "kind": self.kind,
            "name": self.name,
            "source": self.source,
            "method": self.method,
            "power_limit_W": self.power_limit_W,
            "memory_bytes": self.memory_bytes,
            **self.details,
        }
        return {
            name: value
            for name, value in values.items()
            if not (isinstance(value, float) and math.isnan(value))
        }


class Sensor(Protocol):
    """One source of watts. Only the sampler's thread calls `read` once it runs.

    It may have more than these: `every_s`, seconds from one reading to the next where more often is
    of no use; or what `OftenSensor` has.
    """

    @property
    def device(self) -> Device:
        """What this sensor measures."""
        ...

    def read(self, time_s: float) -> Reading:
        """Look at the device now, `time_s` on the sampler's clock; failed parts are NaN."""
        ...

    def close(self) -> None:
        """Release what the sensor holds; further reads are not allowed."""
        ...


@runtime_checkable
class OftenSensor(Sensor, Protocol):
    """A sensor of which a part is too costly to be read in each round."""

    def read_often(self, time_s: float) -> Reading:
        """As `read`, but only what is cheap; the rest is NaN."""
        ...


def check_device_names(devices: Sequence[Device]) -> None:
    """Refuse devices that could not be told apart in a trace, or could not be read back from it.

    Raises:
        ConfigurationError: two have one name, or a name is empty, longer than 200 characters or
            not printable.
    """
    names = [device.device for device in devices]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"sensors of one name cannot be told apart: {names}")
    for name in names:
        if not (isinstance(name, str) and 0 < len(name) <= 200 and name.isprintable()):
            raise ConfigurationError(
                f"a sensor's device is named {short(name)}: that must be text of 1 to 200 "
                "characters that can be printed"
            )
