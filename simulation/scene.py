"""Simulated GPUs whose every watt is known, and so what a training has really drawn."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from energyest.records.trace import EnergyTrace
from simulation.fake_nvml import FakeNvml
from simulation.stepped import Clock, RealClock

POWER = "nvmlDeviceGetFieldValues"
AVERAGE = "nvmlDeviceGetPowerUsage"
COUNTER = "nvmlDeviceGetTotalEnergyConsumption"
UTILIZATION = "nvmlDeviceGetUtilizationRates"
MEMORY = "nvmlDeviceGetMemoryInfo"
TEMPERATURE = "nvmlDeviceGetTemperature"
EVERYTHING = (POWER, AVERAGE, COUNTER, UTILIZATION, MEMORY, TEMPERATURE)


@dataclass
class Scene:
    """The simulated GPUs, and what they really draw.

    Attributes:
        driver: the simulated driver.
        clock: by which it runs.
        steps: GPU -> instants at which its power changed, with the watts from then on.
        trace: of the last training, as it was in memory.
        folder: of the last training.
        ends_s: when it began, and when each of its epochs ended, and itself.
        end_took_s: how long its end took, without the time in which others were busy.
    """

    driver: FakeNvml
    clock: Clock | RealClock = field(default_factory=RealClock)
    steps: dict[int, list[tuple[float, float]]] = field(default_factory=dict)
    trace: EnergyTrace = field(default_factory=lambda: EnergyTrace({}))
    folder: Path | None = None
    ends_s: list[float] = field(default_factory=list)
    end_took_s: float = 0.0

    def draw(self, gpu: int, watts: float) -> None:
        """Draw so much from now on."""
        self.driver.set_power(gpu, watts=watts)
        self.steps.setdefault(gpu, []).append((self.clock(), watts))

    def energy_J(self, gpu: int, start_s: float, end_s: float) -> float:
        """What a GPU has really drawn."""
        steps = [*self.steps[gpu], (float("inf"), 0.0)]
        spans = pairwise(steps)
        return sum(
            watts * max(0.0, min(until_s, end_s) - max(since_s, start_s))
            for (since_s, watts), (until_s, _) in spans
        )
