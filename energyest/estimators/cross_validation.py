"""The result of a cross-validation, and the division of runs into parts for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from energyest.arrays import FloatArray
from energyest.errors import EstimateError

if TYPE_CHECKING:
    import pandas as pd

Groups = Literal["model", "gpu"] | None
#: Number of folds if runs are not left out by model or GPU.
FOLDS = 5
#: If there are more groups, several are left out at a time: a fit for each would take too long.
MOST_PARTS = 10
_PREDICTED = "predicted_"


@dataclass(frozen=True)
class CrossValidation:
    """How well a model predicts runs of groups that it was not fitted on.

    Attributes:
        table: one row per run: `model`, `gpu`, and for each quantity `measured_<quantity>`,
            `predicted_<quantity>` and, if the model gives an interval, `<quantity>_lower` and
            `<quantity>_upper`. The most important quantity comes first.
        confidence: nominal coverage probability of the interval.
        groups: what was left out at a time: "model", "gpu", or None for random fifths.
    """

    table: pd.DataFrame
    confidence: float
    groups: Groups

    @property
    def quantities(self) -> tuple[str, ...]:
        """The predicted quantities, such as "energy_J" or "mean_power_W"."""
        return tuple(
            str(name).removeprefix(_PREDICTED)
            for name in self.table.columns
            if str(name).startswith(_PREDICTED)
        )

    def errors(self, quantity: str | None = None) -> FloatArray:
        """Absolute relative errors, of shape (n,); 1 is 100 %.

        Args:
            quantity: one of `quantities`; by default the first.

        Raises:
            EstimateError: the quantity was not predicted.
        """
        names = self.quantities
        name = names[0] if quantity is None else quantity
        if name not in names:
            raise EstimateError(f"quantity={name!r} must be one of {', '.join(names)}")
        measured = self.table[f"measured_{name}"].to_numpy(float)
        errors: FloatArray = np.abs(self.table[_PREDICTED + name].to_numpy(float) / measured - 1)
        return errors

    @property
    def coverage(self) -> float | None:
        """Share of the runs that the interval covers; None for a model without intervals."""
        covered = [
            self.table[f"measured_{name}"].between(
                self.table[f"{name}_lower"], self.table[f"{name}_upper"]
            )
            for name in self.quantities
            if f"{name}_lower" in self.table
        ]
        return float(np.mean(covered)) if covered else None

    def __str__(self) -> str:
        parts = [
            f"{name}: mean error {100 * e.mean():.1f} %, median {100 * np.median(e):.1f} %"
            for name in self.quantities
            for e in [self.errors(name)]
        ]
        if self.coverage is not None:
            parts.append(
                f"{100 * self.confidence:.0f} % interval covers {100 * self.coverage:.0f} %"
            )
        left_out = f"unseen {self.groups}" if self.groups else "random fifths"
        return f"{len(self.table)} runs, {left_out}: {'; '.join(parts)}"


def group_labels(groups: Groups, models: Sequence[str], gpus: Sequence[str]) -> list[str]:
    """The part that each run belongs to; all runs of a part are left out together.

    A part is a group or, if there are more than `MOST_PARTS` groups, several groups at random.

    Args:
        groups: "model", "gpu", or None for random fifths, with a fixed seed.
        models: name of each run's model, of shape (n,).
        gpus: name of each run's GPU, of shape (n,).

    Raises:
        EstimateError: `groups` is invalid, or there are fewer than two parts.
    """
    if groups is None:
        order = np.random.default_rng(0).permutation(len(models))
        labels = [str(place % FOLDS) for place in order]
    elif groups in ("model", "gpu"):
        labels = list(models if groups == "model" else gpus)
    else:
        raise EstimateError(f"groups={groups!r} must be 'model', 'gpu' or None")
    if len(set(labels)) < 2:
        raise EstimateError(f"cross-validation needs at least two {groups or 'run'}s")
    if len(set(labels)) <= MOST_PARTS:
        return labels
    part_of = parts(labels, MOST_PARTS)
    return [str(part_of[label]) for label in labels]


def parts(names: Sequence[str], count: int) -> dict[str, int]:
    """Distribute names over at most `count` parts, at random with a fixed seed.

    Neighbours in the alphabet, often of one family, therefore do not all lie in the same part.
    """
    single = sorted(set(names))
    order = np.random.default_rng(0).permutation(len(single))
    return {single[place]: index % count for index, place in enumerate(order)}
