"""Made-up trainings, for what the measured ones show too seldom.

Each kind is described by what causes it, and its sizes come from that cause: none was fitted to a
measured family. They are few and simple; no figure about them says how often such runs occur.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.common.real_trainings import LongRun
from energyest import EnergyTrace

RUNS, EPOCHS, POWER_W, EPOCH_S = 60, 60, 200.0, 60.0

# The energy of each epoch and its duration.
Made = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]


def made_up_runs() -> Iterator[LongRun]:
    """All of them, by family."""
    for family, make in KINDS.items():
        for number in range(RUNS):
            energy_J, duration_s = make(np.random.default_rng(number))
            trace = EnergyTrace.from_epochs(energy_J, duration_s)
            yield LongRun(f"{family}-{number:02d}", family, family, trace)


def stalls(chance: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """After a description of VGG16 trainings measured by others.

    Ordinary epochs spread by 3 %; most runs have stalls, which cost half as much again and come in
    bursts. The duration grows with the cost.
    """
    rate = chance.choice([0.0, 0.03, 0.06, 0.1, 0.15], p=[0.28, 0.2, 0.2, 0.2, 0.12])
    usual = 1 + chance.uniform(0.015, 0.05) * chance.standard_normal(EPOCHS)
    size = np.ones(EPOCHS)
    stalls = False
    for epoch in range(EPOCHS):
        stalls = chance.random() < (0.38 if stalls else 0.7 * rate)
        if stalls:
            size[epoch] = np.clip(1.5 * np.exp(0.3 * chance.standard_normal()), 1.15, 4.0)
    usual[0] *= 1.2
    duration_s = EPOCH_S * np.maximum(usual, 0.5) * size
    return POWER_W * duration_s, duration_s


def dips(chance: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Epochs that are shorter: an evaluation is skipped, or files are cached for a while.

    An evaluation of a twentieth to a quarter of an epoch is skipped in single epochs; cached files
    save as much, for two epochs in the mean. In a third of the runs, neither happens.
    """
    rate = chance.choice([0.0, 0.03, 0.06, 0.1], p=[0.34, 0.22, 0.22, 0.22])
    goes_on = chance.choice([0.0, 0.5])
    saved = chance.uniform(0.05, 0.25)
    cost = 1 + chance.uniform(0.003, 0.02) * chance.standard_normal(EPOCHS)
    dips = False
    for epoch in range(1, EPOCHS):
        dips = chance.random() < (goes_on if dips else rate)
        cost[epoch] -= dips * saved * chance.uniform(0.8, 1.2)
    cost[0] *= 1.1
    return POWER_W * EPOCH_S * cost, EPOCH_S * cost


def periodic(chance: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Every few epochs, an evaluation or a checkpoint that the trace does not hold apart.

    An evaluation of 5 to 50 % as many images costs a third as much for each; a checkpoint takes a
    few seconds. Together: 2 to 25 % of an epoch.
    """
    every = int(chance.choice([2, 3, 4, 5, 10, 20]))
    first = every - 1 if chance.random() < 0.7 else 0  # some frameworks begin with the first epoch
    extra = np.exp(chance.uniform(np.log(0.02), np.log(0.25)))
    cost = 1 + chance.uniform(0.003, 0.02) * chance.standard_normal(EPOCHS)
    cost[first::every] += extra
    cost[0] *= 1.1
    return POWER_W * EPOCH_S * cost, EPOCH_S * cost


def drifts(chance: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The GPU becomes warm, the room's temperature changes, other users come and go.

    Leakage adds up to 4 % until the GPU is warm. The rest is noise with a memory of 5 to 40 epochs,
    of 0.2 % on a machine of one's own, and up to 4 % where others use the disk or the processors.
    A third of the runs become steadily slower or faster by up to 0.05 % an epoch.
    """
    epoch = np.arange(EPOCHS)
    warm = chance.uniform(0, 0.04) * (1 - np.exp(-epoch / chance.uniform(2, 12)))
    memory, spread = np.exp(-1 / chance.uniform(5, 40)), 0.002 * 20 ** chance.random()
    slow = np.zeros(EPOCHS)
    for i in range(1, EPOCHS):
        slow[i] = memory * slow[i - 1] + spread * np.sqrt(1 - memory**2) * chance.standard_normal()
    slope = chance.uniform(-5e-4, 5e-4) * (chance.random() < 1 / 3)
    noise = chance.uniform(0.002, 0.015) * chance.standard_normal(EPOCHS)
    cost = 1 + warm + slow + slope * epoch + noise
    cost[0] *= 1.1
    return POWER_W * EPOCH_S * cost, EPOCH_S * cost


def cut_logs(chance: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A log of power, cut into equal times, which are not the training's epochs.

    A training of 3 to 50 epochs is evaluated after each, or every second or fifth. That takes 3 to
    25 % of an epoch, at 40 to 100 % of the power, because data become the bottleneck. Half of the
    trainings also save a checkpoint then, at idle power. A tenth are restarted once. The log
    begins up to 3 % of its length before the training does.
    """
    idle = chance.uniform(0.15, 0.4)
    parts = [(chance.uniform(0, 0.03), idle)]  # durations, relative to the training; powers
    epochs, every = int(np.exp(chance.uniform(np.log(3), np.log(50)))), chance.choice([1, 1, 2, 5])
    validation = (chance.uniform(0.03, 0.25) / epochs, chance.uniform(0.4, 1.0))
    checkpoint = (chance.uniform(0, 0.05) / epochs * (chance.random() < 0.5), idle)
    restart = chance.integers(epochs) if chance.random() < 0.1 else -1
    for epoch in range(epochs):
        parts.append((1 / epochs, 1.0))
        if (epoch + 1) % every == 0:
            parts += [validation, checkpoint]
        if epoch == restart:
            parts.append((chance.uniform(0.01, 0.05), idle))
    times, powers = np.array(parts).T
    ends = np.concatenate([[0.0], np.cumsum(times)])
    used = np.concatenate([[0.0], np.cumsum(times * powers)])
    pieces = int(chance.integers(25, 60))
    energy = np.diff(np.interp(np.linspace(0, ends[-1], pieces + 1), ends, used)) * pieces
    energy *= 1 + chance.uniform(0.002, 0.015) * chance.standard_normal(pieces)
    return POWER_W * EPOCH_S * energy, np.full(pieces, EPOCH_S)


KINDS: dict[str, Made] = {
    "made-up": stalls,
    "made-up-dips": dips,
    "made-up-periodic": periodic,
    "made-up-drifts": drifts,
    "made-up-cut": cut_logs,
}
