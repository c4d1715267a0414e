"""`Probe`: what a training step was measured to cost; made by `probe`, used by `estimate_pre`."""

from __future__ import annotations

from dataclasses import dataclass

from energyest.checks import is_number, short
from energyest.errors import EstimateError
from energyest.gpus import Gpu
from energyest.records.workload import LARGEST, Workload


@dataclass(frozen=True)
class Probe:
    """Real training steps, measured on a GPU.

    Attributes:
        workload: what was trained, in a plain loop.
        gpu: on what.
        steps: number of steps that were timed.
        step_s: mean length of a step in seconds.
        power_W: mean power of the GPU meanwhile, in watts.

    Raises:
        EstimateError: a number is none, is not positive, or is beyond any machine.
    """

    workload: Workload
    gpu: Gpu
    steps: int
    step_s: float
    power_W: float

    def __post_init__(self) -> None:
        for name in ("steps", "step_s", "power_W"):
            value = getattr(self, name)
            if not (is_number(value) and 1 / LARGEST <= value <= LARGEST):
                raise EstimateError(
                    f"{name}={short(value)} of a probe must be a number above 0, from "
                    f"{1 / LARGEST:.0e} to {LARGEST:.0e}"
                )

    @property
    def energy_per_step_J(self) -> float:
        """Energy of a step in joules."""
        return self.step_s * self.power_W

    def __str__(self) -> str:
        workload = self.workload
        return (
            f"{workload.model}, batch {workload.batch_size}, {workload.precision}, on "
            f"{self.gpu.name}: {1e3 * self.step_s:.3g} ms a step at {self.power_W:.0f} W, "
            f"{self.energy_per_step_J:.3g} J ({self.steps} steps)"
        )
