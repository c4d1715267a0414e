"""The devices that belong to a run, and those among them that nothing reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from energyest.measure.run_account import RunAccount
from energyest.measure.run_meta import RunMeta
from energyest.measure.sampling.sampler import Sampler
from energyest.measure.sensors.base import Device, check_devices
from energyest.measure.sensors.detection import LATE, Detection, uncovered, warn_of
from energyest.measure.signals import SharedLock, uninterrupted


class RunDevices:
    """The devices of a run; some may be added or removed while it goes on.

    Args:
        found: the devices at the start.

    Raises:
        ConfigurationError: `check_devices` refuses the devices.
    """

    def __init__(self, found: Detection) -> None:
        self._hold(found.devices)
        check_devices(self.all)
        #: Names of devices without a sensor, whose energy is unknown.
        self.unread = frozenset(found.unread)

    def change(self, found: Detection, gone: Sequence[str]) -> None:
        """Add the devices found and remove those that are gone, from now on."""
        kept = [device for device in self.all if device.device not in gone]
        self._hold([*kept, *found.devices])
        self.unread = self.unread.difference(gone).union(found.unread)

    def _hold(self, devices: Sequence[Device]) -> None:
        self.all = devices
        is_told = all(device.device != LATE for device in devices)
        #: The number of GPUs, read or not; None while NVML has not answered.
        self.gpus = sum(device.kind == "gpu" for device in devices) if is_told else None

    def lose_all(self) -> None:
        """Mark all devices as unread."""
        self.unread = frozenset(device.device for device in self.all)

    def losses(self, names: Iterable[str]) -> dict[str, str]:
        """Messages about the named devices, which could not be read at the start."""
        wanted = set(names)
        return {
            device.device: f"{device.label} could not be read when the run began"
            for device in self.all
            if device.device in wanted
        }

    @property
    def unknown(self) -> list[str]:
        """Names of the devices without a sensor that make the total unknown."""
        return uncovered(self.unread, self.all)

    @property
    def labels(self) -> str:
        """All devices, for a message."""
        return ", ".join(device.label for device in self.all) or "any device"


class WithDevices:
    """The part of a recorder that handles its devices, and the notes on what is missing."""

    _account: RunAccount
    _devices: RunDevices
    _lock: SharedLock
    _meta: RunMeta
    _sampler: Sampler
    _stopped: bool

    def adopt(self, found: Detection, *, gone: Sequence[str] = ()) -> None:
        """Add the devices found to the run and remove those that are gone, from now on."""

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
        """Add notes on what is missing to the trace; warn about losses that make energy unknown."""
        with self._lock:
            new = self._meta.note(notes)
            is_known = self._devices.unread and not self._devices.unknown
        if not is_known:  # else other devices include their energy
            warn_of([loss for loss in losses if loss in new])

    def note_nothing(self, reason: str) -> None:
        """Note that no device is measured."""
        loss = f"{self._devices.labels} cannot be measured: {reason}"
        self.note([loss], [loss])

    @property
    def gpus(self) -> int | None:
        """The number of GPUs in the run, read or not; None while NVML has not answered."""
        return self._devices.gpus

    def _lose_all(self, reason: str) -> None:
        with self._lock:
            self._devices.lose_all()
            self._account.set_devices(self._devices.all, self._devices.unread)
        self.note_nothing(reason)

    def _report_unread(self) -> None:
        with self._lock:
            losses = self._devices.losses(self._account.never_read())
            unknown = uncovered(losses, self._devices.all)
        self.note(list(losses.values()))
        # A sensor that failed with an error has been reported already.
        reported = self._sampler.reported
        warn_of([losses[name] for name in unknown if name not in reported])
