"""Predictions of trainings by fits that have not seen their group: an architecture, or a GPU."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from joblib import Parallel, delayed

from energyest.estimators.cross_validation import MOST_PARTS, parts
from energyest.estimators.pre.fitted import FittedPreModel, packaged
from energyest.estimators.pre.model import core_of
from energyest.estimators.pre.training_data import TrainedRun


@dataclass(frozen=True)
class Unseen:
    """Predictions of n trainings; each field has the shape (n,).

    Attributes:
        step_s: duration of a step, if the speed of the machine's CPU is unknown.
        power_W: mean power, if it is unknown.
        known_step_s: duration, if it is known from other trainings of the machine.
        known_power_W: mean power, if it is known.
        half: half-width of the interval of the logarithm of the energy, if it is unknown.
        is_unlike: whether the training is unlike all that were learnt from.
    """

    step_s: np.ndarray
    power_W: np.ndarray
    known_step_s: np.ndarray
    known_power_W: np.ndarray
    half: np.ndarray
    is_unlike: np.ndarray


def fitted(learnt: Sequence[TrainedRun]) -> FittedPreModel:
    """A fit whose interval has the same relative width as the packaged model's.

    The packaged model has no part in the predictions: it is where the search begins.
    """
    gpus = tuple(sorted({run.gpu.name for run in learnt if run.has_power}))
    return FittedPreModel(core_of(learnt, begin=packaged().core), packaged().deviations, gpus)


def predict_unseen(
    made: Sequence[TrainedRun],
    group_of: Callable[[TrainedRun], str],
    *,
    asked: Sequence[int] | None = None,
    others: Sequence[TrainedRun] = (),
    confidence: float = 0.9,
) -> Unseen:
    """Predict trainings by fits without their group, in as many processes as there are cores.

    Of more than ten groups, a tenth is left out at a time.

    Args:
        made: trainings to learn from.
        group_of: name of the group of a run.
        asked: places of those to predict, in ascending order; by default all.
        others: timed operations to learn from, too, if they are not of the group.
        confidence: coverage probability of the interval.
    """
    asked = range(len(made)) if asked is None else asked
    part_of = parts([group_of(made[place]) for place in asked], MOST_PARTS)
    places, jobs = [], []
    for part in sorted(set(part_of.values())):
        kept = [run for run in (*made, *others) if part_of.get(group_of(run)) != part]
        left = [place for place in asked if part_of[group_of(made[place])] == part]
        places += left
        jobs.append(delayed(_predicted)(kept, [made[place] for place in left], confidence))
    found = np.concatenate(Parallel(n_jobs=os.cpu_count())(jobs), axis=1)
    columns = found[:, np.argsort(places)]
    return Unseen(*columns[:5], columns[5].astype(bool))


def _predicted(
    learnt: Sequence[TrainedRun], left: Sequence[TrainedRun], confidence: float
) -> np.ndarray:
    """The fields of `Unseen`, of shape (6, number of those left out)."""
    model, pairs = fitted(learnt), [run.pair for run in left]
    unknown = model.predict(pairs)
    known = model.core.predict(pairs, [run.host for run in left])
    half = model.half_width(unknown, confidence)
    return np.array(
        [unknown.step_s, unknown.power_W, known.step_s, known.power_W, half, unknown.is_unlike]
    )
