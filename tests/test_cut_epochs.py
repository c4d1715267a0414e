"""A last epoch that was cut short: it counts as measured, and not as an epoch of the level."""

from __future__ import annotations

import math

import numpy as np
import pytest

from energyest import (
    EnergyTrace,
    Estimate,
    NotStableError,
    compare_estimators,
    estimate_step,
)
from energyest.estimators import estimate_first_epoch, estimate_flops, find_stable_epoch
from energyest.estimators.pre.blend import blend
from energyest.estimators.step.regimes import find_regimes
from energyest.plots.training.projection import project
from energyest.report.outcome import length_of
from energyest.summary import summary_of
from tests.support.traces import trace_of

EPOCH_J, STEPS = 100.0, 40


def cut_after(whole: int, last: int, **meta: object) -> EnergyTrace:
    """Equal epochs of 40 steps, and one that ended after `last` steps."""
    steps = np.array([*[STEPS] * whole, last], dtype=float)
    shares = steps / STEPS
    return trace_of(EPOCH_J * shares, 2 * shares, steps=steps, flops=1e12 * shares, meta=meta)


@pytest.mark.parametrize(
    ("steps", "done"),
    [
        ([40, 40, 10], 2.25),
        ([40, 10], 1.25),
        ([10], 1),  # nothing to compare it with
        ([40, 40, 40], 3),
        ([40, 40, 50], 3),
        ([40, 40, 37], 3),  # as loaders of varying length have it
        ([30, 50, 29], 3),
        ([10, 40, 10], 3),  # an earlier one is as short
        ([math.nan, math.nan, 10], 3),
        ([40, math.nan, 10], 3),
        ([40, 40, math.nan], 3),
        ([40, 40, 0], 3),
        ([0, 0, 0], 3),
    ],
)
def test_epochs_that_were_done(steps: list[float], done: float) -> None:
    assert trace_of(np.ones(len(steps)), steps=steps).epochs_done == done


def test_without_steps_every_row_is_an_epoch() -> None:
    assert trace_of([100, 100, 25]).epochs_done == 3
    assert trace_of([]).epochs_done == 0


@pytest.mark.parametrize("last", [1, 10, 20, 35])
@pytest.mark.parametrize("whole", [3, 5, 20])
def test_the_projection_of_equal_steps_is_exact(whole: int, last: int) -> None:
    trace = cut_after(whole, last)
    for form in ("energy", "power"):
        estimate = estimate_step(trace, 30, form=form)
        assert estimate.energy_J == pytest.approx(30 * EPOCH_J)
        assert estimate.duration_s == pytest.approx(60)
        assert estimate.measured_J == pytest.approx((whole + last / STEPS) * EPOCH_J)
        assert estimate.lower_J is not None
        assert estimate.lower_J <= estimate.energy_J
    assert f"epochs 0 to {whole - 1}]" in str(estimate)
    by_steps = estimate_step(trace, steps=30 * STEPS)
    assert by_steps.epochs == pytest.approx(30)
    assert by_steps.energy_J == pytest.approx(30 * EPOCH_J)
    window = estimate_step(trace, 30, start=0)
    assert window.energy_J == pytest.approx(30 * EPOCH_J)
    by_time = estimate_step(trace, duration_s=60)
    assert by_time.epochs == pytest.approx(30)
    assert by_time.energy_J == pytest.approx(30 * EPOCH_J)


def test_the_rest_of_the_cut_epoch_alone() -> None:
    estimate = estimate_step(cut_after(5, 10), 6)
    assert estimate.energy_J == pytest.approx(6 * EPOCH_J)
    assert estimate.epochs == 6


def test_too_few_whole_epochs() -> None:
    with pytest.raises(NotStableError, match=r"only 2 epoch\(s\) were measured") as caught:
        estimate_step(cut_after(2, 20), 10)
    assert caught.value.missing_epochs == 1
    assert caught.value.estimate is not None
    assert caught.value.estimate.energy_J == pytest.approx(1000)


@pytest.mark.parametrize("planned", [5.25, 6, 3])
def test_a_run_that_has_ended_is_its_own_total(planned: float) -> None:
    trace = cut_after(5, 10, planned_epochs=planned)
    estimate = estimate_step(trace)
    assert estimate.energy_J == estimate.lower_J == estimate.upper_J == pytest.approx(525)
    assert estimate.epochs == length_of(trace) == 5.25
    table = compare_estimators(trace, 5.25, observed=4)
    assert table.loc["STEP", "error"] == pytest.approx(0)
    assert project(trace, None, 6).path == ()


def test_a_run_that_goes_on_has_no_outcome() -> None:
    trace = cut_after(5, 10, planned_epochs=20)
    assert length_of(trace) is None
    assert estimate_step(trace).energy_J == pytest.approx(2000)
    table = compare_estimators(trace, 6)
    assert "error" not in table
    assert project(trace, None, 6).path[0].epochs == 5.25


def test_validation_of_the_cut_epoch_is_to_come() -> None:
    shares = np.array([1, 1, 1, 1, 1, 0.25])
    validated = np.array([1, 1, 1, 1, 1, 0])
    trace = trace_of(
        100 * shares + 10 * validated,
        2 * shares + validated,
        steps=40 * shares,
        validation_energy_J=10 * validated,
        validation_s=validated,
        meta={"validation_every_n_rows": 1},
    )
    estimate = estimate_step(trace, 10)
    assert estimate.energy_J == pytest.approx(10 * 110)
    assert estimate.duration_s == pytest.approx(10 * 3)


def test_levels_do_not_end_with_it() -> None:
    trace = cut_after(5, 10)
    assert find_stable_epoch(trace) == 0
    (regime,) = find_regimes(trace)
    assert (regime.start, regime.stop) == (0, 5)


def test_baselines_take_whole_epochs() -> None:
    trace = cut_after(5, 10)
    assert estimate_first_epoch(trace, 10).energy_J == pytest.approx(1000)
    flops = estimate_flops(trace, 10, peak_flops_per_s=1e15, tdp_W=700, efficiency=1)
    assert flops.energy_J == pytest.approx(1e13 / (1e15 / 700))


def test_beside_pre() -> None:
    pre = Estimate(2000.0, lower_J=1000.0, upper_J=4000.0, confidence=0.9, epochs=20, method="PRE")
    early = blend(pre, cut_after(1, 20))
    assert early.epochs == pytest.approx(20)
    assert early.energy_J == pytest.approx(2000)
    trace = cut_after(5, 20)
    later = blend(pre, trace, step=estimate_step(trace, 20))
    assert later.epochs == pytest.approx(20)
    assert later.energy_J == pytest.approx(2000)


def test_the_summary_counts_the_part() -> None:
    assert "5.25 epochs" in summary_of(cut_after(5, 10))
