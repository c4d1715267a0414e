"""Measurements before a training: `Probe` of its steps on a GPU, `HostProbe` of the CPU alone.

`energyest.profiling` makes them, and `estimate_pre` uses them.
"""

from __future__ import annotations

from dataclasses import dataclass

from energyest.checks import is_number, short
from energyest.errors import EstimateError
from energyest.gpus import Gpu
from energyest.records.workload import LARGEST, Workload

#: Seconds of a `probe_host` step on the reference machine: one whose CPU launches operations at the
#: rate that PRE's packaged model assumes. `benchmarks.collect.launch_rate --host` divides the time
#: of the test by the factor that the model found in 94 trainings there (`usual_s`): 16 Intel
#: Xeon cores with an H200 (torch 2.11, Python 3.12, 2026-11-30).
USUAL_HOST_STEP_S = 0.77e-3


@dataclass(frozen=True)
class Probe:
    """Real training steps, measured on a GPU.

    Attributes:
        workload: the training step, run in a plain loop.
        gpu: the GPU it ran on.
        steps: number of steps timed.
        step_s: mean duration of a step in seconds.
        power_W: mean power of the GPU during the steps, in watts.

    Raises:
        EstimateError: a value is not a number, is not positive, or is out of range.
    """

    workload: Workload
    gpu: Gpu
    steps: int
    step_s: float
    power_W: float

    def __post_init__(self) -> None:
        _check(self, "steps", "step_s", "power_W")

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


@dataclass(frozen=True)
class HostProbe:
    """How fast a machine's CPU launches operations, measured without a GPU.

    Attributes:
        steps: number of steps of a tiny network that were timed.
        step_s: duration of an undisturbed step in seconds; nearly all others took longer.

    Raises:
        EstimateError: a value is not a number, is not positive, or is out of range.
    """

    steps: int
    step_s: float

    def __post_init__(self) -> None:
        _check(self, "steps", "step_s")

    @property
    def factor(self) -> float:
        """How many times as long as the reference machine this one takes."""
        return self.step_s / USUAL_HOST_STEP_S

    def __str__(self) -> str:
        return (
            f"launching operations takes {self.factor:.3g} times as long as usual here "
            f"({1e3 * self.step_s:.3g} ms a step, {self.steps} steps)"
        )


def _check(probe: Probe | HostProbe, *names: str) -> None:
    for name in names:
        value = getattr(probe, name)
        if not (is_number(value) and 1 / LARGEST <= value <= LARGEST):
            raise EstimateError(
                f"{name}={short(value)} of a probe must be a number above 0, from "
                f"{1 / LARGEST:.0e} to {LARGEST:.0e}"
            )
