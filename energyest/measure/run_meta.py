"""The meta of a run's trace while the run goes on."""

from __future__ import annotations

import copy
import logging
import uuid
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from energyest.errors import TraceError
from energyest.measure.sensors.base import Device
from energyest.records.safe_json import parse_json
from energyest.records.storage import encode_meta

log = logging.getLogger("energyest")

# Meta entries that only the recorder writes.
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
    """The meta of a trace; a change is a single step, so a signal handler sees all or nothing.

    Args:
        devices: the devices read.
        interval_s: seconds between readings.
        facts: further facts.
    """

    def __init__(
        self, devices: Sequence[Device], interval_s: float, facts: Mapping[str, Any]
    ) -> None:
        #: Never changed in place.
        self.facts: Mapping[str, Any] = {
            "run_id": uuid.uuid4().hex,
            "status": "running",
            "start_time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "interval_s": interval_s,
            "devices": [device.as_meta() for device in devices],
            **facts,
        }
        self._has_changed = False

    @property
    def devices(self) -> list[dict[str, Any]]:
        """The entries of the devices."""
        entries: list[dict[str, Any]] = self.facts["devices"]
        return entries

    def set_devices(self, devices: Sequence[Device]) -> None:
        """Change the devices; the entry of a device that stays is kept."""
        known = {entry["device"]: entry for entry in self.devices}
        self.set({"devices": [known.get(d.device) or d.as_meta() for d in devices]})

    def note(self, notes: Sequence[str]) -> list[str]:
        """Add notes on what is missing; return those that are new."""
        known = self.facts.get("notes", [])
        known = known if isinstance(known, list) else [known]  # a user's, by `describe`
        new = [note for note in notes if note not in known]
        if new:
            self.set({"notes": [*known, *new]})
        return new

    def set(self, facts: Mapping[str, Any]) -> None:
        """Set or replace facts."""
        self._has_changed = True
        self.facts = {**self.facts, **facts}

    def holds(self, facts: Mapping[str, Any]) -> bool:
        """Whether all facts are known already; only simple values are compared."""
        known = self.facts
        return all(
            isinstance(value, int | float | str | None) and known.get(name, ...) == value
            for name, value in facts.items()
        )

    def annotate(self, facts: Mapping[str, Any]) -> None:
        """Set the facts that are new or changed."""
        news = {name: value for name, value in facts.items() if self.facts.get(name, ...) != value}
        if news:
            self.set(news)

    def copy(self, names: Collection[str] | None = None) -> dict[str, Any]:
        """An independent copy of all facts, or of the named ones."""
        facts = self.facts
        wanted = facts if names is None else [name for name in facts if name in names]
        return copy.deepcopy({name: facts[name] for name in wanted})

    def take_change(self) -> dict[str, Any] | None:
        """A copy if there was a change since the last call; else None."""
        if not self._has_changed:
            return None
        self._has_changed = False
        return self.copy()


def as_stored(facts: Mapping[str, Any]) -> dict[str, Any]:
    """A user's facts as they will be read back; warns about facts that cannot be stored."""
    taken = [name for name in facts if name in _MEASURED]
    if taken:
        log.warning("energyest: %s is set by the recorder", ", ".join(taken))
    try:
        plain: dict[str, Any] = parse_json(encode_meta(facts))
    except (TraceError, ValueError) as error:
        log.warning("energyest: %s is left out: %s", ", ".join(map(str, facts)), error)
        return {}
    wanted = facts.keys() - _MEASURED
    return {name: value for name, value in plain.items() if name in wanted}
