"""The meaning of a column, judged by its name: power, energy or time, and the unit."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

_POWER = {"W": 1.0, "mW": 1e-3, "kW": 1e3}
_ENERGY = {"J": 1.0, "mJ": 1e-3, "kJ": 1e3, "MJ": 1e6, "Wh": 3.6e3, "mWh": 3.6, "kWh": 3.6e6}
_TIME = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "min": 60.0, "h": 3600.0}
UNITS = {"power": _POWER, "energy": _ENERGY, "time": _TIME}
_WORDS = {
    "watt": "W", "watts": "W", "milliwatt": "mW", "milliwatts": "mW", "kilowatt": "kW",
    "kilowatts": "kW", "joule": "J", "joules": "J", "millijoule": "mJ", "millijoules": "mJ",
    "kilojoule": "kJ", "kilojoules": "kJ", "sec": "s", "secs": "s", "second": "s", "seconds": "s",
    "millisecond": "ms", "milliseconds": "ms", "minutes": "min", "hours": "h",
}  # fmt: skip
# Units that are unambiguous in lower case; mj, for example, could be two things.
_SMALL = {"w": "W", "kw": "kW", "mw": "mW", "j": "J", "kj": "kJ", "wh": "Wh", "kwh": "kWh"}
# Units that have one meaning in whatever case; mWh and MWh have not.
_ANY_CASE = {"kwh": "kWh", "kj": "kJ"}
_UNIT = re.compile(r"(?:^|[\s_.\-/:\[(])([A-Za-z]+)\s*[\])]?\s*$")
_CAMEL = re.compile(r"(?<=[a-z0-9])([A-Z][a-z]+)$")
_DEVICE = re.compile(r"(?<![a-z])(gpu|cpu|dram|ram|memory)s?[\s_.\-/:]*(\d*)", re.IGNORECASE)
# Names with watts or joules that were not drawn.
_OTHER = re.compile(
    r"limit|cap\b|capacity|percent|tdp|max|min_|process|predict|estimat|budget|emission", re.I
)
_TIMES = re.compile(
    r"_?time(stamp)?|date(_?time)?|ts|t|_?runtime|wall_?time|elapsed", re.IGNORECASE
)
_DURATIONS = re.compile(r"duration|elapsed_time|epoch_time|time_per_epoch|took", re.IGNORECASE)
_DEVICES = re.compile(r"device|gpu(_?(id|index|uuid))?|index|uuid", re.IGNORECASE)


class Meaning(NamedTuple):
    """The meaning of a column.

    Attributes:
        quantity: power, energy, time, duration or device.
        unit: the unit that its name states; empty if none.
        device: the device that its name states, such as "gpu:1"; empty if none.
    """

    quantity: str
    unit: str
    device: str

    @property
    def factor(self) -> float:
        """The factor that converts to watts, joules or seconds."""
        return factor_of(self.quantity, self.unit)


def factor_of(quantity: str, unit: str) -> float:
    """The factor that converts a unit to watts, joules or seconds.

    Raises:
        KeyError: it is not a unit of that quantity.
    """
    return UNITS["time" if quantity == "duration" else quantity][unit]


def meaning_of(name: str) -> Meaning | None:
    """The meaning of a column by its name; None if it is not relevant."""
    unit, stem = _unit_of(name)
    device = device_of(name)
    if _OTHER.search(name):
        return None
    lower = stem.lower()
    is_power = unit in _POWER or (not unit and re.search(r"power|watt", lower))
    if is_power or unit in _ENERGY or (not unit and "energy" in lower):
        return Meaning("power" if is_power else "energy", unit, device)
    last = re.split(r"[\s\-/.:\[(]+", stem.strip(" _[("))[-1].strip("_")
    for quantity, pattern in (("duration", _DURATIONS), ("time", _TIMES)):
        if pattern.fullmatch(last):
            return Meaning(quantity, unit if unit in _TIME else "", "")
    if not unit and _DEVICES.fullmatch(name.strip()):
        return Meaning("device", "", "")
    return None


def meanings_of(names: Iterable[str]) -> dict[str, Meaning]:
    """The relevant columns of a table and their meanings."""
    found = {name: meaning_of(name) for name in names}
    return {name: meaning for name, meaning in found.items() if meaning is not None}


def device_of(name: str) -> str:
    """The device that a column's name states, such as "gpu:1"; empty if none."""
    match = _DEVICE.search(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name))
    if match is None:
        return ""
    kind = {"dram": "ram", "memory": "ram"}.get(match[1].lower(), match[1].lower())
    return f"{kind}:{match[2] or 0}"


def unit_of(name: str) -> str:
    """The unit that a column's name states; empty if none."""
    return _unit_of(name)[0]


def _unit_of(name: str) -> tuple[str, str]:
    """The unit at the end of a name, and the name without it."""
    for match in (_UNIT.search(name), _CAMEL.search(name)):
        if match is None:
            continue
        text = match[1]
        unit = _WORDS.get(text.lower()) or _ANY_CASE.get(text.lower(), text)
        if unit in _SMALL and re.search("power|energy|draw|consum", name, re.I):
            unit = _SMALL[unit]
        if unit in {**_POWER, **_ENERGY, **_TIME}:
            return unit, name[: match.start(1)]
    return "", name
