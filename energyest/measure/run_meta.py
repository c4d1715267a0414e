"""The meta of a run that is being recorded; its user holds a lock."""

from __future__ import annotations

import copy
import logging
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from energyest.errors import TraceError
from energyest.measure.sensors.base import Device
from energyest.records.safe_json import parse_json
from energyest.records.storage import encode_meta

log = logging.getLogger("energyest")

# What nobody but the recorder writes into the meta of a trace.
_MEASURED = {
    "format",
    "run_id",
    "status",
    "start_time",
    "interval_s",
    "devices",
    "duration_s",
    "total_J",
    "components",
    "interrupted_epoch",
}


class RunMeta:
    """Facts on a run, and whether they have changed since they were written.

    Args:
        devices: what belongs to the run.
        interval_s: seconds between readings.
        given: further facts.
    """

    def __init__(
        self, devices: Sequence[Device], interval_s: float, given: Mapping[str, Any]
    ) -> None:
        self.values: dict[str, Any] = {
            "run_id": uuid.uuid4().hex,
            "status": "running",
            "start_time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "interval_s": interval_s,
            "devices": [device.as_meta() for device in devices],
            **given,
        }
        self._has_changed = False

    @property
    def devices(self) -> list[dict[str, Any]]:
        """The entries of the devices."""
        entries: list[dict[str, Any]] = self.values["devices"]
        return entries

    def set_devices(self, devices: Sequence[Device]) -> None:
        """Other devices belong to the run; what is known of one that stays is kept."""
        known = {entry["device"]: entry for entry in self.devices}
        self.update({"devices": [known.get(d.device) or d.as_meta() for d in devices]})

    def update(self, facts: Mapping[str, Any]) -> None:
        """Set facts."""
        self.values.update(facts)
        self._has_changed = True

    def annotate(self, facts: Mapping[str, Any]) -> None:
        """Set facts of others: plain ones, and none that only the recorder knows."""
        taken = [name for name in facts if name in _MEASURED]
        if taken:
            log.warning("energyest: %s is set by the recorder", ", ".join(taken))
        new = {
            name: value
            for name, value in facts.items()
            if name not in _MEASURED and self.values.get(name, ...) != value
        }
        if new:
            self.update(new)

    def note(self, notes: Sequence[str]) -> list[str]:
        """Add to what is missing; returns what was not known yet."""
        known = self.values.get("notes", [])
        known = known if isinstance(known, list) else [known]  # a user's, by `describe`
        new = [note for note in notes if note not in known]
        if new:
            self.update({"notes": [*known, *new]})
        return new

    def copy(self) -> dict[str, Any]:
        """All facts, for others to keep."""
        return copy.deepcopy(self.values)

    def take_change(self) -> dict[str, Any] | None:
        """All facts if they have changed since this was asked last."""
        if not self._has_changed:
            return None
        self._has_changed = False
        return self.copy()


def plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts as they will be read back; empty, with a warning, where they could not be."""
    try:
        read_back: dict[str, Any] = parse_json(encode_meta(facts))
    except (TraceError, ValueError) as error:
        log.warning("energyest: %s is left out: %s", ", ".join(map(str, facts)), error)
        return {}
    return {name: value for name, value in read_back.items() if name in facts}
