"""What `detect()` has found, and what it should have found."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from energyest.markup import as_html, table
from energyest.measure.sensors.base import Device, Kind, Sensor
from energyest.patience import Errand

log = logging.getLogger("energyest")

#: Stands for GPUs of which NVML has not told yet.
LATE = "gpu:late"


@dataclass(frozen=True)
class Detection(Sequence[Sensor]):
    """The sensors of this machine, as a sequence.

    Attributes:
        sensors: the sensors; close them when done.
        notes: what is missing, and why.
        unmeasured: devices that are wanted or in use and that nobody can measure. What a run costs
            is not known with one of them: NaN, not the sum of the others.
        losses: those of the notes that say so of a device.
        late: what NVML will say of the GPUs, where it has not answered yet; `LATE` among the
            `unmeasured` stands for them until then.
        is_by_use: whether the GPUs were to be those that the process uses.
        is_by_torch: whether it is torch that has named them; else one that torch uses may be
            missing here.
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
        """Names of the devices of which no power and no energy will be read."""
        mute = (s.device for s in self.sensors if not getattr(s, "tells_energy", True))
        return [device.device for device in (*mute, *self.unmeasured)]

    def __add__(self, other: Detection) -> Detection:
        """Both together."""
        return replace(
            self,
            sensors=self.sensors + other.sensors,
            notes=self.notes + other.notes,
            unmeasured=self.unmeasured + other.unmeasured,
            losses=self.losses + other.losses,
        )

    def when_late(self, adopt: Callable[..., None]) -> None:
        """Hand on what NVML says of the GPUs as soon as it does, if it has not done so yet.

        Args:
            adopt: a method, not called if its object is gone by then: takes a `Detection`, and as
                `gone` the name of the device that has stood for it.
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
            news = (f"NVML has answered: {read} measured since",) if read else ()
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
    """Say once what cannot be measured, and what that means."""
    if losses:
        told = "; ".join(losses)
        log.warning("energyest: %s; the energy of the run is not known (NaN)%s", told, advice)


def lost(kind: Kind, device: str, name: str, reason: str, **details: Any) -> Device:
    """A device that is wanted or in use and that nobody can measure."""
    return Device(
        device=device,
        kind=kind,
        name=name,
        source="measured",
        method=f"not measured: {reason}",
        details=details,
    )
