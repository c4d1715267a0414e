"""Lower epochs at the end of a trace: a dip that ends, or a new level that stays."""

from __future__ import annotations

import numpy as np
import pytest

from energyest import EnergyTrace, NotStableError, PlannedChange, estimate_step
from energyest.estimators import find_stable_epoch
from energyest.estimators.step.young_level import level_at_end, other_level

LONG = [100.0, 101, 99, 100, 100, 101, 99, 100, 100, 100]


def trace(energy_J: list[float], duration_s: list[float] | None = None) -> EnergyTrace:
    # Equal durations would make them pieces of a log.
    usual_s = [10.0 + 0.01 * (n % 3) for n in range(len(energy_J))]
    return EnergyTrace.from_epochs(energy_J, duration_s or usual_s)


@pytest.mark.parametrize("dip", [[70.0], [70.0, 72.0], [60.0, 90.0]])
def test_a_dip_after_a_long_level_is_projected_with_both_in_the_interval(dip: list[float]) -> None:
    estimate = estimate_step(trace(LONG + dip), 60)
    done_J, to_come = sum(LONG + dip), 60 - len(LONG + dip)
    stays_J, returns_J = done_J + to_come * float(np.median(dip)), done_J + to_come * 100
    # Another dip is likely to come, which makes the total a little less than if the level went on.
    assert estimate.lower_J < stays_J < estimate.energy_J < 0.99 * returns_J < estimate.upper_J
    # More likely than not, the dip ends, and less so the longer it has lasted.
    assert estimate.energy_J > (stays_J + returns_J) / 2
    assert any(f"the last {len(dip)} epoch(s)" in said for said in estimate.assumptions)
    assert estimate.stable_epoch == find_stable_epoch(trace(LONG + dip)) == 0


def test_a_dip_is_less_likely_to_end_the_longer_it_has_lasted() -> None:
    likely = [1 - other_level(np.array(LONG + [70.0] * n), 0, n).probability for n in (1, 2)]
    likely.append(other_level(np.array(LONG + [70.0] * 3), len(LONG)).probability)
    assert 1 > likely[0] > likely[1] > likely[2] == pytest.approx(0.5)


def test_the_dip_is_no_part_of_the_level() -> None:
    level = level_at_end(np.array([*LONG, 70.0, 72.0]))
    assert level.dip == 2
    assert level.mean == pytest.approx(np.mean(LONG), rel=1e-4)
    assert level.average(np.array([*LONG, np.nan, np.nan])) == pytest.approx(
        np.mean(LONG), rel=1e-4
    )


def test_a_level_lasts_through_several_dips() -> None:
    level = level_at_end(np.array([*LONG, 20.0, 20, 60, 100, 101, 40]))
    assert (level.start, level.dip, level.missing_epochs) == (0, 1, 0)
    assert level.mean == pytest.approx(np.mean(LONG), rel=1e-4)
    # The newest epoch is on the level again, and the dips before it may come again.
    again = [*LONG, 20.0, 20, 60, 100]
    assert level_at_end(np.array(again)).dip == 0
    estimate = estimate_step(trace(again), 60)
    per_epoch = (estimate.energy_J - sum(again)) / (60 - len(again))
    assert 70 < per_epoch < 97
    assert estimate.lower_J < estimate.energy_J < estimate.upper_J


def test_a_short_level_that_has_ended_is_a_dip_of_the_one_before() -> None:
    ends = trace([*LONG, *LONG, *[90.0] * 5, 80, 80])
    assert find_stable_epoch(ends) == 0
    estimate = estimate_step(ends, 100)
    assert estimate.lower_J < sum(ends.column("energy_J")) + 73 * 80 < estimate.upper_J


def test_the_level_of_a_run_with_regular_dips_goes_on_at_its_usual_height() -> None:
    dips = [98.0, 101, 102, 58, 99, 104, 103, 54, 79]
    level = level_at_end(np.array([*dips, 101.5]))
    assert (level.dip, level.missing_epochs) == (0, 0)
    with pytest.raises(NotStableError):
        estimate_step(trace([*dips, 115.0]), 60)


@pytest.mark.parametrize(
    "values",
    [
        [*LONG, 130.0],  # a higher level stays more often than not, and its height is not known
        [100.0, 101, 99, 100, 70],  # a short level is none to return to
        [300.0] * 5 + LONG[:4] + [70.0],
    ],
)
def test_other_new_levels_are_refused(values: list[float]) -> None:
    with pytest.raises(NotStableError):
        estimate_step(trace(values), 60)


def test_a_dip_after_a_planned_change_that_is_not_established_is_refused() -> None:
    with pytest.raises(NotStableError):
        estimate_step(trace([*LONG, 70.0]), 60, planned=[PlannedChange(10)])


def test_the_duration_may_stay_short_as_well() -> None:
    shorter = estimate_step(trace([*LONG, 70.0], [10.0] * 10 + [7.0]), 60)
    as_long = estimate_step(trace([*LONG, 70.0], [10.0] * 11), 60)
    assert shorter.duration_lower_s < 107 + 49 * 7 < 107 + 49 * 10 < shorter.duration_upper_s
    assert as_long.duration_lower_s > 0.9 * 600
