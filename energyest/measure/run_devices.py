"""The devices that belong to a run, and which of them nothing reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from energyest.measure.run_account import RunAccount
from energyest.measure.run_meta import RunMeta
from energyest.measure.sampler import Sampler
from energyest.measure.sensors.base import Device, check_device_names
from energyest.measure.sensors.detection import LATE, Detection, warn_of
from energyest.measure.signals import SharedLock, uninterrupted


class RunDevices:
    """Devices, of which some may come or go while the run goes on.

    Args:
        found: what is there when it begins.

    Raises:
        ConfigurationError: `check_device_names` refuses the devices'.
    """

    def __init__(self, found: Detection) -> None:
        self.all: Sequence[Device] = found.devices
        check_device_names(self.all)
        #: Names of those without a sensor: their energy is not known.
        self.unread = frozenset(found.unread)

    def change(self, found: Detection, gone: Sequence[str]) -> None:
        """Others belong to the run from now on: these, without those that are gone."""
        self.all = [*(device for device in self.all if device.device not in gone), *found.devices]
        self.unread = self.unread.difference(gone).union(found.unread)

    def lose_all(self) -> None:
        """Nothing reads any of them."""
        self.unread = frozenset(device.device for device in self.all)

    def losses(self, names: Iterable[str]) -> dict[str, str]:
        """What is to be said of those, by these names, that could not be read at the start."""
        wanted = set(names)
        return {
            device.device: f"{device.label} could not be read when the run began"
            for device in self.all
            if device.device in wanted
        }

    @property
    def labels(self) -> str:
        """All of them, for a message."""
        return ", ".join(device.label for device in self.all) or "any device"

    @property
    def gpus(self) -> int | None:
        """How many are GPUs, read or not; None while NVML has not told."""
        is_told = all(device.device != LATE for device in self.all)
        return sum(device.kind == "gpu" for device in self.all) if is_told else None


class WithDevices:
    """The part of a recorder that looks after its devices, and the notes of what is missing."""

    _account: RunAccount
    _devices: RunDevices
    _lock: SharedLock
    _meta: RunMeta
    _sampler: Sampler
    _stopped: bool

    def adopt(self, found: Detection, *, gone: Sequence[str] = ()) -> None:
        """From now on, other devices belong to the run: these, without those that are gone."""

        def change() -> bool:
            with self._lock:
                if self._stopped or not self._sampler.add(found.sensors):
                    return False
                self._devices.change(found, gone)
                self._account.set_devices(self._devices.all, self._devices.unread)
                self._meta.set_devices(self._devices.all)
                return True

        if uninterrupted(change, lock=self._lock):
            self.note(found.notes, found.losses)
        else:
            found.close()

    def note(self, notes: Sequence[str], losses: Sequence[str] = ()) -> None:
        """Add to what the trace says is missing; warn of what leaves the energy unknown."""
        with self._lock:
            new = self._meta.note(notes)
        warn_of([loss for loss in losses if loss in new])

    def note_nothing(self, reason: str) -> None:
        """As `note`: of no device anything is measured."""
        loss = f"nothing is measured of {self._devices.labels}: {reason}"
        self.note([loss], [loss])

    @property
    def gpus(self) -> int | None:
        """How many GPUs belong to the run, read or not; None while NVML has not told."""
        return self._devices.gpus

    def _lose_all(self, reason: str) -> None:
        with self._lock:
            self._devices.lose_all()
            self._account.set_devices(self._devices.all, self._devices.unread)
        self.note_nothing(reason)

    def _report_unread(self) -> None:
        with self._lock:
            losses = self._devices.losses(self._account.never_read())
        # Of a sensor that has failed with an error, that was said already.
        reported = self._sampler.reported
        said = [loss for name, loss in losses.items() if name not in reported]
        self.note(list(losses.values()), said)
