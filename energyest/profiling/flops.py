"""FLOPs of a model for one sample, and what training adds to the forward pass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from energyest.records.workload import Workload

# Where the backward pass cannot be counted: it computes gradients of inputs and of weights, each
# about as much as the forward pass. Kaplan et al., "Scaling laws for neural language models"
# (arXiv 2001.08361), section 2.1.
TRAINING_TO_FORWARD = 3.0


@dataclass(frozen=True)
class FlopCount:
    """The arithmetic of one forward pass.

    As fvcore counts it, a multiply and an add as two; normalisation as in inference.

    Attributes:
        per_sample: floating-point operations for one sample; None if they could not be counted.
        note: why not, or what was left out.
        uncounted: operations that may do arithmetic and have no rule, and how often they occur.
        training_to_forward: FLOPs of forward and backward ÷ FLOPs of forward.
        is_training_counted: whether that was counted; else it is `TRAINING_TO_FORWARD`.
    """

    per_sample: float | None
    note: str = ""
    uncounted: Mapping[str, int] = field(default_factory=dict)
    training_to_forward: float = TRAINING_TO_FORWARD
    is_training_counted: bool = False

    def training_flops(self, samples: float) -> float:
        """FLOPs of forward and backward for that many samples; NaN if not counted."""
        if self.per_sample is None:
            return math.nan
        return self.training_to_forward * self.per_sample * samples

    @staticmethod
    def of_workload(workload: Workload) -> FlopCount:
        """The count that a described workload holds."""
        forward = workload.forward_flops_per_sample * workload.batch_size
        backward = sum(o.flops * o.count for o in workload.operations if o.phase == "backward")
        return FlopCount(
            workload.forward_flops_per_sample,
            training_to_forward=1 + backward / forward if forward else 1.0,
            is_training_counted=bool(forward),
        )
