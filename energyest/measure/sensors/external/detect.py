"""Find the whole node: by what answers soon."""

from __future__ import annotations

from energyest.measure.sensors.detection import Detection, lost
from energyest.measure.sensors.external.ipmi import IpmiSensor
from energyest.patience import PATIENCE_S, Errand


def detect_system() -> Detection:
    """The sensor of the whole node, if its controller answers within 1.5 s.

    It was asked for: if it cannot be read, the energy of a run is unknown.
    """
    errand = Errand(IpmiSensor, "ipmi")
    try:
        if errand.wait(PATIENCE_S):
            return Detection((errand.result(),))
        errand.when_done(lambda: _discard(errand))
        reason = f"its controller has not answered within {PATIENCE_S:g} s"
    except (OSError, ValueError) as error:
        reason = str(error)
    note = f"system:0 (whole node) is not measured: {reason}"
    device = lost("system", "system:0", "whole node", reason)
    return Detection((), (note,), (device,), (note,))


def _discard(errand: Errand[IpmiSensor]) -> None:
    try:
        errand.result().close()
    except (OSError, ValueError):
        return
