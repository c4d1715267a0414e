"""The result of `detect()`: the sensors found, and the devices that are missing."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from energyest.markup import as_html, table
from energyest.measure.sensors.base import Device, Kind, Sensor
from energyest.patience import Errand
from energyest.records.devices import counted_devices

log = logging.getLogger("energyest")

#: Stands for the GPUs while NVML has not answered.
LATE = "gpu:late"


@dataclass(frozen=True)
class Detection(Sequence[Sensor]):
    """The sensors of this machine, as a sequence.

    Attributes:
        sensors: the sensors; close them when done.
        notes: what is missing, and why.
        unmeasured: devices that are wanted or in use but cannot be measured. With one of them, the
            cost of a run is unknown: NaN, not the sum of the others; unless another device, such
            as the whole node, includes its energy.
        losses: the notes about unmeasured devices.
        late: NVML's pending answer about the GPUs, if it has not answered yet; until then, `LATE`
            among the `unmeasured` stands for them.
        is_by_use: whether the GPUs are those that the process uses, not ones asked for.
        is_by_torch: whether torch identified the GPUs; if not, one that torch uses may be missing.
    """

    sensors: tuple[Sensor, ...]
    notes: tuple[str, ...] = ()
    unmeasured: tuple[Device, ...] = ()
    losses: tuple[str, ...] = ()
    late: Errand[Detection] | None = field(default=None, compare=False)
    is_by_use: bool = False
    is_by_torch: bool = False

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return self.sensors[index]

    def __len__(self) -> int:
        return len(self.sensors)

    def __iter__(self) -> Iterator[Sensor]:
        return iter(self.sensors)

    @property
    def devices(self) -> list[Device]:
        """All devices, the unmeasured ones last."""
        return [*(sensor.device for sensor in self.sensors), *self.unmeasured]

    @property
    def unread(self) -> list[str]:
        """Names of the devices of which neither power nor energy will be read."""
        mute = (s.device for s in self.sensors if not getattr(s, "tells_energy", True))
        return [device.device for device in (*mute, *self.unmeasured)]

    @property
    def unknown(self) -> list[str]:
        """Names of the unread devices whose energy no other device includes.

        With one of them, the total is unknown.
        """
        return uncovered(self.unread, self.devices)

    def __add__(self, other: Detection | Sequence[Sensor]) -> Detection:
        """The sum of both; to a detection, further sensors can be added."""
        if not isinstance(other, Detection):
            other = Detection(tuple(other))
        return replace(
            self,
            sensors=self.sensors + other.sensors,
            notes=self.notes + other.notes,
            unmeasured=self.unmeasured + other.unmeasured,
            losses=self.losses + other.losses,
        )

    def when_late(self, adopt: Callable[..., None]) -> None:
        """Pass on NVML's answer about the GPUs once it arrives, if it is still pending.

        Args:
            adopt: a method that takes a `Detection` and, as `gone`, the name of the device that
                stood for it; not called if its object no longer exists.
        """
        if self.late is None:
            return
        late, of = self.late, weakref.WeakMethod(adopt)

        def arrive() -> None:
            found, taker = late.result(), of()
            if taker is None:
                found.close()
                return
            read = ", ".join(sensor.device.label for sensor in found)
            news = (f"NVML has answered: {read} measured from then on",) if read else ()
            taker(replace(found, notes=(*found.notes, *news)), gone=[LATE])

        late.when_done(arrive)

    def close(self) -> None:
        """Release all sensors."""
        for sensor in self.sensors:
            sensor.close()
        if self.late is not None:
            late = self.late
            late.when_done(lambda: late.result().close())

    def _repr_html_(self) -> str:
        rows = [(d.device, d.name, d.source, d.method) for d in self.devices]
        head = ("device", "name", "source", "method")
        heading = "What can be measured here" if rows else "Nothing can be measured here"
        return as_html(heading, [table(head, rows)] if rows else [], self.notes)

    def __str__(self) -> str:
        lines = [
            f"{s.device.device}  {s.device.name}: {s.device.source}, {s.device.method}"
            for s in self.sensors
        ]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def warn_of(losses: Sequence[str], advice: str = "") -> None:
    """Warn about what cannot be measured, and what that means."""
    if losses:
        told = "; ".join(losses)
        log.warning("energyest: %s; the energy of the run is unknown (NaN)%s", told, advice)


def uncovered(names: Iterable[str], devices: Sequence[Device]) -> list[str]:
    """Those of the named devices that the total adds up, as no other device contains them."""
    wanted = set(names)
    counted = counted_devices([device.as_meta() for device in devices])
    return [device["device"] for device in counted if device["device"] in wanted]


def lost(kind: Kind, device: str, name: str, reason: str, **details: Any) -> Device:
    """A device that is wanted or in use but cannot be measured."""
    return Device(
        device=device,
        kind=kind,
        name=name,
        source="measured",
        method=f"not measured: {reason}",
        details=details,
    )
