"""A sensor that plays back a recorded trace."""

from __future__ import annotations

import numpy as np

from energyest.arrays import FloatArray
from energyest.checks import check_positive, number_or_nan
from energyest.errors import ConfigurationError
from energyest.measure.sensors.base import KINDS, Device, Reading
from energyest.records.trace import EnergyTrace

_QUANTITIES = ("power_W", "energy_J", "utilization", "memory_bytes", "temperature_C")


class ReplaySensor:
    """Replays one device of a trace as if it were present.

    The recording starts at the first reading. Between two recorded readings the quantities are
    interpolated; after the last one, readings fail (NaN).

    Args:
        trace: a trace with readings.
        device: the device to replay; by default the first.
        speed: how many recorded seconds pass in one second. Joules stay those of the recording:
            watts are multiplied by `speed`.

    Raises:
        ConfigurationError: the trace has no such readings, or `speed` is not positive.
    """

    def __init__(
        self, trace: EnergyTrace, device: str | None = None, *, speed: float = 1.0
    ) -> None:
        names = [str(name) for name in dict.fromkeys(trace.power_columns["device"])]
        if not names:
            raise ConfigurationError("the trace holds no readings to replay")
        name = names[0] if device is None else device
        if name not in names:
            raise ConfigurationError(f"device {name!r} is not in the trace: it has {names}")
        speed = check_positive(speed, "speed", ConfigurationError)
        rows = trace.power_columns["device"] == name
        time = trace.power_columns["time_s"][rows]
        self._time_s: FloatArray = time - time[0]
        self._columns = {q: trace.power_columns[q][rows] for q in _QUANTITIES}
        self._speed = speed
        self._start_s: float | None = None
        recorded = next((d for d in trace.devices if d.get("device") == name), {})
        kind = name.split(":")[0]
        self.device = Device(
            device=name,
            kind=kind if kind in KINDS else "gpu",
            name=str(recorded.get("name", name)),
            source="modelled" if recorded.get("source") == "modelled" else "measured",
            method="replay of a recorded trace",
            power_limit_W=number_or_nan(recorded.get("power_limit_W")) * speed,
            memory_bytes=number_or_nan(recorded.get("memory_bytes")),
        )

    def read(self, time_s: float) -> Reading:
        """The recorded quantities at this time after the first reading."""
        if self._start_s is None:
            self._start_s = time_s
        at = (time_s - self._start_s) * self._speed
        if at > self._time_s[-1]:
            return Reading(time_s, self.device.device)
        values = {q: float(np.interp(at, self._time_s, c)) for q, c in self._columns.items()}
        values["power_W"] *= self._speed
        return Reading(time_s, self.device.device, **values)

    def close(self) -> None:
        """Nothing is held."""
