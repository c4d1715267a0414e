"""A sensor of your own: here a plug in the wall, which measures the whole machine.

`sensors=` takes the place of the sensors that energyest finds, so nothing is counted twice.

python examples/own_sensor.py
"""

import time

from energyest import track
from energyest.measure.sensors.base import Device, Reading


class Plug:
    """A smart plug; this one makes its power up, a real one would be asked over the network."""

    device = Device("system:0", "system", "smart plug", source="measured", method="plug")

    def read(self, time_s):
        """The power at this instant; NaN if the plug does not answer."""
        return Reading(time_s, "system:0", power_W=180.0 + 40.0 * (time_s % 1 < 0.5))

    def close(self):
        """Disconnect."""


with track("runs/plug", sensors=[Plug()]) as run:
    for _ in run.epochs(4):
        time.sleep(0.5)  # train here

columns = ["epoch", "duration_s", "energy_J", "mean_power_W"]
print(run.trace.epochs[columns].round(1).to_string(index=False))
for device in run.trace.devices:
    print(f"{device['name']}: {device['source']}, by {device['method']}")
