"""From PRE to STEP: weights, bounds and ends of the estimates in between."""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energyest import EnergyTrace, Estimate, NotStableError, estimate_step
from energyest.errors import EstimateError
from energyest.estimators.pre.blend import (
    HOST_DEVIATION,
    LEVEL_DEVIATION,
    beside_gpu,
    blend,
    deviation_of,
    share_of_pre,
)

Z = NormalDist().inv_cdf(0.95)  # of an interval of 90 %


def predicted(epoch_J: float, epochs: float = 20, deviation: float = 0.2, **facts: Any) -> Estimate:
    """PRE's estimate of a training of epochs that take a second each."""
    whole_J = epoch_J * epochs
    factor = math.exp(Z * deviation)
    facts = {"duration_s": float(epochs), "method": "PRE: Net", "assumptions": ("so",), **facts}
    return Estimate(whole_J, whole_J / factor, whole_J * factor, 0.9, epochs=epochs, **facts)


def measured(energy_J: list[float], **meta: Any) -> EnergyTrace:
    return EnergyTrace.from_epochs(energy_J, np.ones(len(energy_J)), meta=meta)


def stepped(rest_J: float, deviation: float, trace: EnergyTrace, epochs: float = 20) -> Estimate:
    """STEP's estimate, with an interval from a given deviation of the energy to come."""
    done_J = float(trace.column("energy_J").sum())
    half_J = Z * deviation * rest_J
    return Estimate(
        done_J + rest_J,
        max(done_J, done_J + rest_J - half_J),
        done_J + rest_J + half_J,
        0.9,
        duration_s=float(epochs),
        epochs=epochs,
        method="STEP",
        stable_epoch=1,
        assumptions=("level",),
    )


# ---------------------------------------------------------------------- the stages


def test_before_any_epoch_it_is_pre() -> None:
    pre = predicted(100)
    found = blend(pre, measured([]))
    assert found.energy_J == pytest.approx(pre.energy_J)
    assert found.lower_J == pytest.approx(pre.lower_J)
    assert found.upper_J == pytest.approx(pre.upper_J)
    assert found.duration_s == pytest.approx(20)
    assert (found.measured_J, found.epochs, found.method) == (0, 20, "PRE: Net")
    assert found.assumptions == ("so",)


def test_the_first_epoch_counts_as_measured_and_says_nothing() -> None:
    found = blend(predicted(100), measured([900.0]))
    assert found.energy_J == pytest.approx(900 + 19 * 100)
    assert found.measured_J == 900
    assert found.duration_s == pytest.approx(20)
    assert found.lower_J == pytest.approx(900 + 1900 / math.exp(0.2 * Z))
    assert found.method == "PRE: Net, after 1 epoch"


def test_the_second_epoch_is_weighed_against_pre() -> None:
    found = blend(predicted(100), measured([900.0, 110.0]))
    share = LEVEL_DEVIATION**2 / (LEVEL_DEVIATION**2 + 0.2**2)
    epoch_J = math.exp(share * math.log(100) + (1 - share) * math.log(110))
    assert found.energy_J == pytest.approx(1010 + 18 * epoch_J)
    deviation = 1 / math.sqrt(1 / LEVEL_DEVIATION**2 + 1 / 0.2**2)
    assert found.upper_J == pytest.approx(1010 + 18 * epoch_J * math.exp(Z * deviation))
    assert found.method == "epoch 1, and PRE with 20 % of the weight"
    # Whatever STEP guesses from a cold epoch and a warm one.
    guess = Estimate(20000.0, epochs=20, method="STEP")
    assert blend(predicted(100), measured([900.0, 110.0]), guess).energy_J == found.energy_J


def test_step_outweighs_pre_as_it_becomes_sure() -> None:
    trace = measured([900.0, 130.0, 130.0])
    off = []
    for deviation in (0.1, 0.03, 0.01, 0.0):
        step = stepped(17 * 130, deviation, trace)
        found = blend(predicted(100), trace, step)
        off.append(abs(found.energy_J / step.energy_J - 1))
        assert found.stable_epoch == 1
        assert found.assumptions == ("level",)
    assert off == sorted(off, reverse=True)
    assert off[-2] < 0.002
    assert off[-1] == pytest.approx(0, abs=1e-12)
    assert found.upper_J == pytest.approx(step.upper_J)


def test_where_step_refuses_its_guess_is_weighed() -> None:
    trace = measured([100.0, 100.0, 300.0, 100.0])
    guess = Estimate(600 + 16 * 150.0, duration_s=20.0, epochs=20, method="STEP")
    found = blend(predicted(100), trace, guess)
    share = LEVEL_DEVIATION**2 / max(LEVEL_DEVIATION**2 + 0.2**2, math.log(1.5) ** 2)
    rest_J = 1600 * 1.5 ** (1 - share)
    assert found.energy_J == pytest.approx(600 + rest_J)
    assert "not stable yet" in found.method
    assert blend(predicted(100), trace).energy_J == pytest.approx(600 + 16 * 100)


def test_at_the_end_it_is_what_was_measured() -> None:
    trace = measured([5.0, 6.0, 7.0])
    found = blend(predicted(100, epochs=3), trace)
    assert found.energy_J == found.measured_J == 18
    step = estimate_step(trace, 3)
    assert blend(predicted(100, epochs=3), trace, step) is step


def test_the_plan_is_the_traces() -> None:
    pre = predicted(100, epochs=20)
    assert blend(pre, measured([], planned_epochs=40)).energy_J == pytest.approx(4000)
    assert blend(pre, measured([], planned_duration_s=7.0)).energy_J == pytest.approx(700)
    assert blend(pre, measured([], planned_epochs=40), epochs=5).energy_J == pytest.approx(500)
    found = blend(pre, measured([90.0, 80.0], planned_epochs=2.5))
    assert found.epochs == 2.5
    longer = measured([90.0, 80.0, 85.0], planned_epochs=2)  # than it was planned to be
    assert blend(pre, longer).energy_J == 255
    with pytest.raises(EstimateError, match="less than the 3 epochs"):
        blend(pre, measured([1.0, 1.0, 1.0]), epochs=2)


def test_an_epoch_that_was_not_read_is_to_come() -> None:
    unread = EnergyTrace({"energy_J": np.array([math.nan]), "duration_s": np.ones(1)})
    found = blend(predicted(100), unread)
    assert found.energy_J == pytest.approx(2000)
    assert found.measured_J == 0
    unread = EnergyTrace({"energy_J": np.array([100.0, math.nan]), "duration_s": np.ones(2)})
    found = blend(predicted(100), unread)
    assert found.energy_J == pytest.approx(100 + 19 * 100)


def test_planned_changes_count() -> None:
    changes = [{"epoch": 10, "flops_ratio": 3.0}]
    found = blend(predicted(100), measured([], planned_changes=changes))
    assert found.energy_J == pytest.approx(10 * 100 + 10 * 300)
    whole = predicted(100)
    assert deviation_of(found) > deviation_of(whole)
    # Come and gone: the second epoch is of the new level, PRE of the old one.
    changes = [{"epoch": 1, "flops_ratio": 3.0}]
    found = blend(predicted(100), measured([100.0, 300.0], planned_changes=changes))
    assert found.energy_J == pytest.approx(400 + 18 * 300)
    # Nobody knows what it does: only the level speaks.
    changes = [{"epoch": 0.5}]
    found = blend(predicted(100), measured([100.0, 300.0], planned_changes=changes))
    assert found.energy_J == pytest.approx(400 + 18 * 300)


def test_pre_needs_an_interval() -> None:
    for pre in (Estimate(100.0, epochs=3), Estimate(100.0, 90.0, 110.0, 0.9)):
        with pytest.raises(EstimateError, match="pre needs epochs and an interval"):
            blend(pre, measured([]))


# ---------------------------------------------------------------------- properties

deviations = st.floats(1e-3, 1.0)
energies = st.floats(1e-3, 1e6)


@settings(deadline=None)
@given(deviations, deviations, st.floats(-8, 8))
def test_share_lies_between_0_and_1(pre: float, other: float, difference: float) -> None:
    share = share_of_pre(pre, other, difference)
    assert 0 < share < 1
    assert share <= other**2 / (other**2 + pre**2) * (1 + 1e-12)
    # The surer the other is, the less PRE counts; the surer PRE is, the more.
    assert share_of_pre(pre, other / 2, difference) <= share
    assert share_of_pre(2 * pre, other, difference) <= share
    # The farther off PRE is, the less it is believed.
    assert share_of_pre(pre, other, 2 * difference) <= share


def test_share_at_its_ends() -> None:
    assert share_of_pre(0.2, 0.0, 1.0) == 0
    assert share_of_pre(math.inf, 0.1, 1.0) == 0
    assert share_of_pre(0.2, math.inf, 1.0) == 1
    assert share_of_pre(0.2, 0.1, 0.0) == pytest.approx(0.2)


@settings(deadline=None)
@given(energies, energies, energies, deviations, deviations, st.integers(2, 19))
def test_between_the_two(
    pre_J: float, level_J: float, cold_J: float, pre: float, other: float, rows: int
) -> None:
    trace = measured([cold_J] + [level_J] * (rows - 1))
    before = predicted(pre_J, deviation=pre)
    steps = [None, stepped((20 - rows) * level_J, other, trace)]
    for step in steps:
        found = blend(before, trace, step)
        done_J = trace.column("energy_J").sum()
        both = done_J + (20 - rows) * pre_J, done_J + (20 - rows) * level_J
        assert min(both) * (1 - 1e-9) <= found.energy_J <= max(both) * (1 + 1e-9)
        assert found.measured_J == pytest.approx(done_J)
        assert found.lower_J is not None
        assert found.upper_J is not None
        assert done_J * (1 - 1e-12) <= found.lower_J <= found.energy_J <= found.upper_J
        assert found.epochs == 20


@settings(deadline=None)
@given(energies, st.floats(0.5, 2.0), deviations, deviations)
def test_a_small_difference_moves_it_a_little(
    level_J: float, ratio: float, pre: float, other: float
) -> None:
    trace = measured([level_J] * 5)
    found = [
        blend(predicted(level_J * r, deviation=pre), trace, stepped(15 * level_J, other, trace))
        for r in (ratio, ratio * 1.0001)
    ]
    assert found[1].energy_J == pytest.approx(found[0].energy_J, rel=3e-4)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.7, 1.4))
def test_nothing_jumps_in_a_steady_training(seed: int, ratio: float) -> None:
    """With an error of PRE within its interval: from epoch to epoch, and nearer to the truth."""
    chance = np.random.default_rng(seed)
    energy_J = [150.0, *(100 * np.exp(chance.normal(0, 0.01, 11)))]
    pre = predicted(100 * ratio)
    totals = []
    for rows in range(len(energy_J) + 1):
        trace = measured(energy_J[:rows], planned_epochs=20)
        step: Estimate | None
        try:
            step = estimate_step(trace)
        except NotStableError as error:
            step = error.estimate
        totals.append(blend(pre, trace, step).energy_J)
    truth = 2050
    assert abs(totals[-1] / truth - 1) < 0.02
    assert max(abs(b / a - 1) for a, b in itertools.pairwise(totals[2:])) < 0.25


# ---------------------------------------------------------------------- other devices


def test_beside_the_gpu() -> None:
    pre = predicted(100, duration_s=20.0)
    found = beside_gpu(pre, 50)
    assert found.energy_J == pytest.approx(2000 + 20 * 50)
    assert deviation_of(found) == pytest.approx(math.hypot(0.2, HOST_DEVIATION / 3))
    assert found.assumptions[0] == "processors and memory keep drawing 50 W"
    assert deviation_of(Estimate(1.0)) == math.inf
    with pytest.raises(EstimateError, match="a duration and an interval"):
        beside_gpu(predicted(100, duration_s=None), 50)
