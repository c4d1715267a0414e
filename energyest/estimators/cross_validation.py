"""What a cross-validation of a PRE model found, and how runs are divided for it."""

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
#: Parts that runs are left out in, where they are not left out by model or GPU.
FOLDS = 5
#: Of more groups than this, several are left out at a time: a fit for each would take too long.
MOST_PARTS = 10
_PREDICTED = "predicted_"


@dataclass(frozen=True)
class CrossValidation:
    """How well runs are predicted by a model that has not seen their group.

    Attributes:
        table: a row a run: `model`, `gpu`, and for each quantity `measured_<quantity>`,
            `predicted_<quantity>`, and where the model gives an interval, `<quantity>_lower` and
            `<quantity>_upper`. The quantity that matters most stands first.
        confidence: probability that the interval is meant to cover a run.
        groups: what was left out at a time: "model", "gpu", or None for random fifths.
    """

    table: pd.DataFrame
    confidence: float
    groups: Groups

    @property
    def quantities(self) -> tuple[str, ...]:
        """What was predicted, such as "energy_J" or "mean_power_W"."""
        return tuple(
            str(name).removeprefix(_PREDICTED)
            for name in self.table.columns
            if str(name).startswith(_PREDICTED)
        )

    def errors(self, quantity: str | None = None) -> FloatArray:
        """Absolute relative errors, of shape (n,); 1 is 100 %.

        Args:
            quantity: one of `quantities`; by default the first of them.

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
        """Share of the runs that the interval covers; None for a model that gives none."""
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
            f"{name}: {100 * e.mean():.1f} % in the mean, {100 * np.median(e):.1f} % in the median"
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
    """The part that each run belongs to: all runs of a part are left out together.

    A part is a group; of more than `MOST_PARTS` groups, parts of several, put together at random.

    Args:
        groups: "model", "gpu", or None for fifths at random, always the same ones.
        models: name of each run's model, of shape (n,).
        gpus: name of its GPU, of shape (n,).

    Raises:
        EstimateError: `groups` is none of these, or there are fewer than two parts.
    """
    if groups is None:
        order = np.random.default_rng(0).permutation(len(models))
        labels = [str(place % FOLDS) for place in order]
    elif groups in ("model", "gpu"):
        labels = list(models if groups == "model" else gpus)
    else:
        raise EstimateError(f"groups={groups!r} must be 'model', 'gpu' or None")
    if len(set(labels)) < 2:
        raise EstimateError(f"cross-validation needs runs of two {groups or 'run'}s or more")
    if len(set(labels)) <= MOST_PARTS:
        return labels
    part_of = parts(labels, MOST_PARTS)
    return [str(part_of[label]) for label in labels]


def parts(names: Sequence[str], count: int) -> dict[str, int]:
    """Deal out names to at most so many parts, at random but always the same ones.

    So neighbours in the alphabet, often of one family, do not lie in one part.
    """
    single = sorted(set(names))
    order = np.random.default_rng(0).permutation(len(single))
    return {single[place]: index % count for index, place in enumerate(order)}
