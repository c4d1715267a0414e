"""`Predictions`: what PRE says of training steps on GPUs, and how far it may be off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from energyest.estimators.pre.physics.operation_table import Array


@dataclass(frozen=True)
class Predictions:
    """Predictions for training steps; each field is an array of length n.

    Attributes:
        step_s: duration of a step in seconds.
        power_W: mean power of the GPU.
        deviation_step: standard deviation of the logarithm of the duration of a step.
        deviation_energy: standard deviation of the logarithm of the energy of a step.
        gpu_step: the part of `deviation_step` that is due to the GPU: how far it is from those
            measured. Parts add up as squares.
        gpu_energy: the same part of `deviation_energy`.
        host: the part of both that is due to the machine's CPU.
        devices: the part of both that is due to training on several GPUs.
        cpu_share: share of the step that does not shrink with a smaller batch.
        is_unlike: whether the step is unlike all measured steps on any GPU
            (`Correction.is_unlike`).
    """

    step_s: Array
    power_W: Array
    deviation_step: Array
    deviation_energy: Array
    gpu_step: Array
    gpu_energy: Array
    host: Array
    devices: Array
    cpu_share: Array
    is_unlike: NDArray[np.bool_]

    @property
    def energy_J(self) -> Array:
        """Energy of a step in joules."""
        return self.step_s * self.power_W
