"""Check a log's units: refuse what cannot be joules, watts or seconds; doubt unlikely numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from energyest.arrays import FloatArray, refuse
from energyest.checks import positive_or_none
from energyest.errors import TraceError
from energyest.records.devices import Device, kind_of
from energyest.records.epoch_table import MOST_S
from energyest.records.from_logs.columns import lower_median

# No device draws 100 kW: a rack of 72 of the largest GPUs draws 120 kW. More than a node of eight
# draws is unlikely; so is less than any CPU or GPU draws when on. No computer draws as little as
# 1 mW.
_MOST_W, _UNLIKELY_W = 1e5, 1e4
_LITTLE_W, _LEAST_W = 1.0, 1e-3
# For short epochs the threshold is lower: in examples they cost a joule or two.
_VERY_LITTLE_W, _LONG_S = 0.1, 60.0
# A board with a power limit exceeds it for moments, but not in the median of a log.
_OVER_LIMIT = 1.5
# An epoch of a training costs more than this.
_LITTLE_J = 0.1
# This many steps up in a row are not chance.
_FEW = 4
# Tools read power at least every 60 s; if not, the times are probably milliseconds.
_SELDOM_S = 90.0


def check_times(time_s: FloatArray, name: str) -> None:
    """Refuse times that cannot be seconds, even as Unix time.

    Raises:
        TraceError: a time is not finite, or is thousands of years away.
    """
    refuse(~np.isfinite(time_s), time_s, name, "must be finite")
    rule = "must be seconds: these would be thousands of years (divide milliseconds by 1000)"
    refuse(np.abs(time_s) > MOST_S, time_s, name, rule)


def check_power(power_W: FloatArray, device: str) -> None:
    """Refuse values that cannot be the watts of a device.

    Raises:
        TraceError: power is higher than any device draws.
    """
    rule = (
        f"must be watts, and {device} cannot draw more than {_MOST_W / 1e3:g} kW (divide "
        "milliwatts by 1000; use NaN for a reading that failed)"
    )
    refuse(power_W > _MOST_W, power_W, "power_W", rule)


def doubts_of_power(power_W: FloatArray, every_s: float, device: Device) -> list[str]:
    """Doubts about unlikely readings of a device, which have passed `check_power`.

    Args:
        power_W: shape (readings,), watts; NaN where a reading failed.
        every_s: usual time between two readings.
        device: the device's entry, with its power limit if known.
    """
    name, known_W = device["device"], power_W[np.isfinite(power_W)]
    usual_W, zeros = lower_median(known_W), int(np.count_nonzero(known_W == 0))
    limit_W = positive_or_none(device.get("power_limit_W"))
    doubts = []
    if limit_W is not None and usual_W > _OVER_LIMIT * limit_W:
        doubts.append(
            f"{name} draws {usual_W:g} W most of the time, but its power limit is {limit_W:g} W: "
            "is power_W in watts, and for this device alone?"
        )
    elif usual_W > _UNLIKELY_W:
        doubts.append(
            f"{name} draws {usual_W:g} W most of the time, more than any device: is power_W in "
            "milliwatts, or the power of many devices?"
        )
    if 0 < usual_W < _LITTLE_W and kind_of(device) != "ram":
        doubts.append(f"{name} draws {usual_W:g} W most of the time: is power_W in kilowatts?")
    if zeros > 1 and kind_of(device) == "gpu":
        doubts.append(
            f"{zeros} readings of {name} are 0 W, but a GPU that responds draws power: use NaN for "
            "a reading that failed; 0 counts as no energy"
        )
    if every_s > _SELDOM_S:
        doubts.append(
            f"{name} was read every {every_s:g} s: is time_s in milliseconds? Power is "
            "interpolated linearly between readings"
        )
    return doubts


def doubts_of_epochs(
    energy_J: FloatArray, duration_s: FloatArray | None, devices: Sequence[Device]
) -> list[str]:
    """Doubts about unlikely energies and durations of epochs.

    Args:
        energy_J: shape (epochs,), joules; NaN for an epoch that was not measured.
        duration_s: shape (epochs,), seconds; None if unknown.
        devices: the devices that drew the energy; empty if unknown, when numbers may be made up.

    Raises:
        TraceError: these devices cannot have drawn that much, or that little, in the time.
    """
    doubts = []
    spent = energy_J > 0  # which leaves NaN out
    free = (energy_J == 0) & (True if duration_s is None else duration_s > 0)
    if free.any():
        doubts.append(
            f"{int(free.sum())} of {len(energy_J)} epochs cost 0 J: use NaN for an epoch that was "
            "not measured; 0 counts as no energy"
        )
    rise_J = np.diff(energy_J)  # NaN beside an epoch that was not measured
    if len(rise_J) >= _FEW and (rise_J > 0).all() and np.median(rise_J) > energy_J[0] / 2:
        doubts.append(
            "energy_J rises with each epoch by about what the first cost: is it the energy of all "
            "epochs so far? Then give np.diff(energy_J, prepend=0)"
        )
    if duration_s is None:
        usual_J = lower_median(energy_J[spent])
        if usual_J < _LITTLE_J:
            doubts.append(
                f"epochs cost {usual_J:g} J: is energy_J in joules? Multiply kWh by 3.6e6"
            )
        return doubts
    lasted_s = duration_s[spent]
    if not lasted_s.any():
        return doubts
    power_W = float(energy_J[spent].sum() / lasted_s.sum())
    found = f"energy_J ÷ duration_s is {power_W:.3g} W over all epochs"
    little_W = _LITTLE_W if lower_median(lasted_s) >= _LONG_S else _VERY_LITTLE_W
    if power_W < little_W:
        how = "if in kWh, multiply energy_J by 3.6e6; if in milliseconds, divide duration_s by 1000"
        if devices and power_W < _LEAST_W:
            raise TraceError(f"{found}, less than any computer draws: {how}")
        doubts.append(f"{found}: are these joules and seconds? ({how})")
    if power_W > (_UNLIKELY_W * len(devices) or _MOST_W):
        how = "if in millijoules, divide energy_J by 1000; if in hours, multiply duration_s by 3600"
        if devices and power_W > _MOST_W * len(devices):
            most = f"{_MOST_W / 1e3:g} kW each"
            raise TraceError(f"{found}, more than {len(devices)} device(s) draw, {most}: {how}")
        doubts.append(f"{found}: are these joules and seconds? ({how})")
    return doubts
