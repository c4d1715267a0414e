"""STEP, the baselines and their table."""

from __future__ import annotations

import copy
import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from energyest import EnergyTrace, Estimate, NotStableError, compare_estimators, estimate_step
from energyest.errors import EstimateError
from energyest.estimators import (
    estimate_first_epoch,
    estimate_flops,
    estimate_green_algorithms,
    estimate_mlco2,
    find_stable_epoch,
)
from energyest.gpus import find_gpu

RNG = np.random.default_rng(7)
# A frozen base for ten epochs, then fine-tuning: the protocol of the paper.
THAW = np.concatenate([np.full(10, 80.0), 100 + RNG.normal(0, 1, 30)])


def trace_of(energy_J, duration_s=None, **meta) -> EnergyTrace:
    duration = np.full(len(energy_J), 2.0) if duration_s is None else duration_s
    return EnergyTrace.from_epochs(energy_J=energy_J, duration_s=duration, meta=meta)


A40 = {"device": "gpu:0", "kind": "gpu", "name": "NVIDIA A40", "power_limit_W": 300.0}


# ---------------------------------------------------------------------- STEP as in the paper


def test_energy_form_of_the_paper_by_hand() -> None:
    energy = np.arange(1.0, 21.0)
    estimate = estimate_step(trace_of(energy[:15]), 50, start=10, window=5)
    assert estimate.energy_J == pytest.approx(energy[:10].sum() + energy[10:15].mean() * 40)
    assert estimate.epochs == 50
    assert estimate.measured_J == energy[:15].sum()
    assert "epochs 10 to 14" in estimate.method


def test_power_form_of_the_paper_by_hand() -> None:
    energy, duration = np.arange(1.0, 16.0), np.linspace(1, 2, 15)
    power = energy[10:15].sum() / duration[10:15].sum()
    trace = trace_of(energy, duration)
    known = estimate_step(trace, 50, form="power", start=10, window=5, duration_s=99.0)
    assert known.energy_J == pytest.approx(power * 99)
    projected = estimate_step(trace, 50, form="power", start=10, window=5)
    total_s = duration[:15].sum() + 35 * duration[10:15].mean()
    assert projected.duration_s == pytest.approx(total_s)
    assert projected.energy_J == pytest.approx(power * total_s)


def test_the_papers_formula_looks_at_its_window_alone() -> None:
    more = np.concatenate([THAW[:15], np.full(10, 1e6)])
    assert (
        estimate_step(trace_of(more), 60, start=10, window=5).energy_J
        == estimate_step(trace_of(THAW[:15]), 60, start=10, window=5).energy_J
    )


# ---------------------------------------------------------------------- STEP by default


def test_automatic_start_finds_the_thaw() -> None:
    trace = trace_of(THAW[:25])
    assert find_stable_epoch(trace) == 10
    estimate = estimate_step(trace, 40)
    # Nearly: other starts of the level are not quite impossible.
    assert estimate.energy_J == pytest.approx(THAW[:25].sum() + 15 * THAW[10:25].mean(), rel=1e-3)
    assert estimate.stable_epoch == 10
    assert estimate.lower_J < estimate.energy_J < estimate.upper_J
    assert estimate.confidence == 0.9
    assert estimate.duration_s == pytest.approx(80)


def test_cold_first_epoch_is_measured_but_not_projected() -> None:
    energy = [3400, 100, 101, 99, 100]
    estimate = estimate_step(trace_of(energy), 100)
    assert estimate.energy_J == pytest.approx(3800 + 95 * 100, rel=1e-3)


def test_single_outliers_are_not_a_change() -> None:
    energy = np.full(20, 100.0) + RNG.normal(0, 0.5, 20)
    energy[[4, 9, 14]] += 60  # a checkpoint every five epochs
    assert find_stable_epoch(trace_of(energy)) == 0


def test_a_repeated_outlier_at_the_end_is_not_a_change() -> None:
    energy = np.array([100.0, 101, 99, 100, 160] * 8)
    for observed in range(10, 41):
        assert find_stable_epoch(trace_of(energy[:observed])) == 0
    with pytest.raises(NotStableError):
        find_stable_epoch(trace_of(energy[:5]))  # the first of its kind may be a new level


def test_cold_epoch_after_a_change_is_not_part_of_the_new_level() -> None:
    energy = np.concatenate([np.full(10, 100.0), [500], np.full(8, 200.0)])
    assert find_stable_epoch(trace_of(energy)) == 11


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int64])
def test_numbers_of_numpy_count_as_any(kind: type) -> None:
    trace = trace_of(THAW[:20])
    assert estimate_step(trace, kind(120)) == estimate_step(trace, 120)
    assert isinstance(estimate_step(trace, kind(120)).epochs, int)
    assert estimate_step(trace, 120, start=kind(10), window=kind(5)) == estimate_step(
        trace, 120, start=10, window=5
    )


def test_huge_values_do_not_overflow() -> None:
    assert estimate_step(trace_of([1e200] * 5), 10).energy_J == pytest.approx(1e201)


def test_power_form_of_the_paper_measures_nothing() -> None:
    energy = np.concatenate([np.full(10, 300.0), 100 + RNG.normal(0, 1, 5)])
    estimate = estimate_step(trace_of(energy), 20, form="power", start=10, window=5)
    assert estimate.measured_J is None
    # All 20 epochs are uncertain, and none is known to have cost anything.
    assert estimate.lower_J < estimate.energy_J - 1
    assert estimate.energy_J + 1 < estimate.upper_J


def test_two_changes() -> None:
    energy = np.repeat([500.0, 80.0, 100.0], [1, 9, 12]) + RNG.normal(0, 0.5, 22)
    assert find_stable_epoch(trace_of(energy)) == 10


@pytest.mark.parametrize("form", ["energy", "power"])
def test_all_epochs_measured_gives_their_sum(form: str) -> None:
    estimate = estimate_step(trace_of(THAW), 40, form=form)
    assert estimate.energy_J == pytest.approx(THAW.sum())
    assert estimate.lower_J == pytest.approx(THAW.sum())
    assert estimate.upper_J == pytest.approx(THAW.sum())
    assert not estimate.assumptions


def test_all_measured_needs_no_stability() -> None:
    assert estimate_step(trace_of([5.0]), 1).energy_J == 5
    assert estimate_step(trace_of([5.0, 50.0]), 2).energy_J == 55


def test_power_form_by_default() -> None:
    energy, duration = np.array([50.0, 10, 10, 10, 10]), np.array([5.0, 2, 2, 2, 2])
    trace = trace_of(energy, duration)
    known = estimate_step(trace, 10, form="power", duration_s=33.0)
    assert known.energy_J == pytest.approx(90 + (33 - 13) * 5)
    assert estimate_step(trace, 10, form="power").energy_J == pytest.approx(90 + 5 * 2 * 5)


def test_start_alone_uses_all_epochs_from_it() -> None:
    estimate = estimate_step(trace_of([9, 9, 1, 2, 3]), 10, start=2)
    assert estimate.energy_J == pytest.approx(24 + 5 * 2)


def test_epochs_without_a_measurement_are_projected() -> None:
    columns = dict(trace_of([10.0, 10, 10, 10, 10]).epoch_columns)
    columns["energy_J"] = np.array([10, 10, math.nan, 10, 10])
    estimate = estimate_step(EnergyTrace(columns), 10)
    assert estimate.energy_J == pytest.approx(100)
    assert estimate.measured_J == pytest.approx(40)
    assert any("were not measured" in a for a in estimate.assumptions)


@given(unread=st.sets(st.integers(0, 11), max_size=7), form=st.sampled_from(["energy", "power"]))
def test_wherever_epochs_were_not_read_they_cost_what_others_cost(
    unread: set[int], form: str
) -> None:
    energy_J = np.full(12, 100.0)
    energy_J[list(unread)] = math.nan
    trace = trace_of(energy_J)
    estimate = estimate_step(trace, 20, form=form)
    assert estimate.energy_J == pytest.approx(2000)
    assert estimate.duration_s == pytest.approx(40)
    assert any("were not measured" in said for said in estimate.assumptions) == bool(unread)
    if not unread & {4, 5, 6}:
        paper = estimate_step(trace, 20, form=form, start=4, window=3)
        assert paper.energy_J == pytest.approx(2000)
        is_said = any("were not measured" in said for said in paper.assumptions)
        assert is_said == any(epoch < 7 for epoch in unread)


def test_nothing_measured_at_all() -> None:
    columns = dict(trace_of([1.0] * 5).epoch_columns)
    columns["energy_J"] = np.full(5, math.nan)
    with pytest.raises(NotStableError, match="no epoch was measured") as caught:
        estimate_step(EnergyTrace(columns), 10)
    assert caught.value.estimate is None


def test_no_durations_no_duration() -> None:
    trace = EnergyTrace.from_epochs(energy_J=[1, 1, 1, 1])
    assert estimate_step(trace, 10).duration_s is None
    with pytest.raises(EstimateError, match="durations"):
        estimate_step(trace, 10, form="power")


# ---------------------------------------------------------------------- not stable


def test_too_few_epochs() -> None:
    with pytest.raises(NotStableError, match="at least 2 more") as caught:
        estimate_step(trace_of([10.0]), 100)
    assert caught.value.missing_epochs == 2
    assert caught.value.estimate.energy_J == pytest.approx(1000)
    assert caught.value.estimate.lower_J is None  # nothing can be said from one epoch


def test_no_epochs() -> None:
    with pytest.raises(NotStableError, match="no epoch was measured") as caught:
        estimate_step(EnergyTrace.from_epochs(energy_J=[]), 100)
    assert caught.value.estimate is None
    assert caught.value.missing_epochs == 3
    with pytest.raises(NotStableError):
        find_stable_epoch(EnergyTrace.from_epochs(energy_J=[]))


def test_just_after_a_change() -> None:
    with pytest.raises(NotStableError, match="changed at epoch 10") as caught:
        estimate_step(trace_of(THAW[:11]), 40)
    assert caught.value.missing_epochs == 2
    # The epoch may be the first of a level, or stand alone.
    lower_J, upper_J = THAW[:11].sum() + 29 * THAW[9], THAW[:11].sum() + 29 * THAW[10]
    assert lower_J < caught.value.estimate.energy_J < upper_J
    assert caught.value.estimate.lower_J is None


def test_papers_window_not_measured_yet() -> None:
    with pytest.raises(NotStableError, match="3 more are needed") as caught:
        estimate_step(trace_of([10.0] * 12), 100, start=10, window=5)
    assert caught.value.missing_epochs == 3
    assert caught.value.estimate.energy_J == pytest.approx(1000)


def test_error_survives_pickling_and_copying() -> None:
    with pytest.raises(NotStableError) as caught:
        estimate_step(trace_of([10.0]), 100)
    for other in (pickle.loads(pickle.dumps(caught.value)), copy.copy(caught.value)):
        assert other.estimate == caught.value.estimate
        assert other.missing_epochs == caught.value.missing_epochs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 4}, "epochs=4 is less than the 5 epochs measured"),
        ({"epochs": 0}, "epochs=0 must be positive"),
        ({"epochs": math.inf}, "must be positive"),
        ({"epochs": 3.5}, "epochs=3.5 is less than the 5 epochs measured"),
        ({"epochs": True}, "must be positive"),
        ({"epochs": 10, "steps": 100}, "pass only one"),
        ({"epochs": None, "steps": 100}, "does not hold the steps"),
        ({"epochs": None}, "how long the training is"),
        ({"form": "watts"}, "form='watts' must be"),
        ({"start": -1}, "from 0 to 9"),
        ({"start": 10}, "from 0 to 9"),
        ({"start": "now"}, "'auto' or an epoch"),
        ({"confidence": "0.9"}, "between 0 and 1"),
        ({"duration_s": "10"}, "positive and finite"),
        ({"duration_s": 3.0}, "shorter than the 10 s already measured"),
        ({"trace": [1.0]}, "trace is a list: it must be an EnergyTrace"),
        ({"window": 0}, "window=0 must be"),
        ({"start": 7, "window": 4}, "reach past the last of 10 epochs"),
        ({"confidence": 1.0}, "between 0 and 1"),
        ({"duration_s": -3}, "positive and finite"),
        ({"form": "power", "duration_s": 1.0}, "shorter than the 10 s already measured"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(EstimateError, match=message):
        estimate_step(**{"trace": trace_of([1.0] * 5), "epochs": 10, **arguments})


def test_unknown_method_of_stability() -> None:
    with pytest.raises(EstimateError, match="'magic'"):
        find_stable_epoch(trace_of([1.0] * 5), method="magic")


# ---------------------------------------------------------------------- properties

_levels = st.lists(st.floats(1, 1000), min_size=4, max_size=40)


def _estimate(energy, epochs: int) -> Estimate:
    try:
        return estimate_step(trace_of(energy), epochs)
    except NotStableError as error:
        return error.estimate


@given(energy=_levels, factor=st.sampled_from([2.0**-20, 0.5, 4.0, 2.0**30]))
def test_scaling_energy_scales_the_estimate(energy: list[float], factor: float) -> None:
    # Powers of two scale without rounding, so that no comparison inside can tip over.
    plain, scaled = _estimate(energy, 100), _estimate(np.array(energy) * factor, 100)
    assert scaled.energy_J == pytest.approx(plain.energy_J * factor, rel=1e-9)
    if plain.upper_J is None:
        assert scaled.upper_J is None
    else:
        assert scaled.upper_J == pytest.approx(plain.upper_J * factor, rel=1e-9)


@given(energy=_levels, more=st.integers(0, 60))
@example(energy=[947.0, 1.0, 947.0, 167.0, 674.0, 1.0, 1.0, 1.0], more=1)
def test_interval_holds_the_estimate_and_what_was_measured(energy: list[float], more: int) -> None:
    estimate = _estimate(energy, len(energy) + more)
    assert sum(energy) * (1 - 1e-12) <= estimate.energy_J
    if estimate.lower_J is not None:
        slack = 1e-9 * estimate.energy_J
        assert sum(energy) - slack <= estimate.lower_J <= estimate.energy_J + slack
        assert estimate.energy_J - slack <= estimate.upper_J


@given(level=st.floats(1, 1e6), epochs=st.integers(3, 30))
def test_constant_run_is_projected_exactly(level: float, epochs: int) -> None:
    uneven_s = [2.0 + 0.01 * (epoch % 2) for epoch in range(epochs)]
    # A log in equal times has a little more room for pauses.
    for duration_s, most in ((uneven_s, 0.06), (None, 0.07)):
        estimate = estimate_step(trace_of([level] * epochs, duration_s), 100)
        assert estimate.energy_J == pytest.approx(100 * level)
        assert estimate.upper_J - estimate.lower_J <= most * estimate.energy_J


@given(level=st.floats(1, 1e6), epochs=st.integers(3, 120), more=st.integers(1, 300))
def test_more_epochs_of_a_constant_run_never_widen_the_interval(
    level: float, epochs: int, more: int
) -> None:
    total = epochs + 1 + more
    first, second = (estimate_step(trace_of([level] * n), total) for n in (epochs, epochs + 1))
    # Its ends are quantiles of a thousand futures.
    slack = 0.02 * (first.upper_J - first.lower_J)
    assert second.upper_J - second.lower_J <= first.upper_J - first.lower_J + slack


@pytest.mark.parametrize(
    ("correlation", "noise", "least", "widest"),
    [
        (0.0, 0.01, 0.95, 0.02),
        (0.0, 0.10, 0.90, 0.12),
        (0.5, 0.01, 0.90, 0.02),
        (0.8, 0.01, 0.8, 0.02),
    ],
)
def test_interval_holds_without_being_wide(
    correlation: float, noise: float, least: float, widest: float
) -> None:
    # It is made for real trainings, which drift: of steady noise it holds more than 90 %.
    hits, widths = [], []
    for seed in range(300):
        draws = np.random.default_rng(seed).standard_normal(60)
        for i in range(1, 60):
            draws[i] = correlation * draws[i - 1] + draws[i] * math.sqrt(1 - correlation**2)
        energy = 100 * (1 + noise * draws)
        estimate = _estimate(energy[:15], 60)
        if estimate.lower_J is not None:
            hits.append(estimate.lower_J <= energy.sum() <= estimate.upper_J)
            widths.append((estimate.upper_J - estimate.lower_J) / 2 / energy.sum())
    assert len(hits) >= 280
    assert np.mean(hits) >= least
    assert np.median(widths) <= widest


def test_a_drift_widens_the_interval_with_the_distance() -> None:
    energy = np.linspace(100, 103, 15)
    trace = trace_of(energy)
    near, far = estimate_step(trace, 20), estimate_step(trace, 200)
    relative = [(e.upper_J - e.lower_J) / (e.energy_J - e.measured_J) for e in (near, far)]
    # That stalls may come makes both of them wide.
    assert relative[1] > 1.2 * relative[0]


def test_wider_confidence_wider_interval() -> None:
    narrow = estimate_step(trace_of(THAW[:20]), 40, confidence=0.5)
    wide = estimate_step(trace_of(THAW[:20]), 40, confidence=0.99)
    assert wide.lower_J < narrow.lower_J < narrow.upper_J < wide.upper_J


# ---------------------------------------------------------------------- baselines


def test_first_epoch() -> None:
    trace = trace_of([30.0, 10, 10, 10])
    assert estimate_first_epoch(trace, 100).energy_J == 3000
    assert estimate_first_epoch(trace, 100, observed=3).energy_J == pytest.approx(5000 / 3)
    assert estimate_first_epoch(trace, 100).duration_s == pytest.approx(200)
    with pytest.raises(NotStableError) as caught:
        estimate_first_epoch(trace, 100, observed=6)
    assert caught.value.missing_epochs == 2
    with pytest.raises(EstimateError, match="observed=0"):
        estimate_first_epoch(trace, 100, observed=0)


def test_mlco2() -> None:
    trace = trace_of([1.0] * 4, devices=[A40])
    assert estimate_mlco2(trace, 100).energy_J == pytest.approx(300 * 200)
    assert estimate_mlco2(trace, 100, duration_s=7, tdp_W=10).energy_J == pytest.approx(70)
    two = trace_of([1.0] * 4, devices=[A40, {**A40, "device": "gpu:1"}])
    assert estimate_mlco2(two, 100).energy_J == pytest.approx(2 * 300 * 200)


def test_tdp_from_the_table_and_of_the_cpu() -> None:
    unknown_limit = {k: v for k, v in A40.items() if k != "power_limit_W"}
    assert estimate_mlco2(trace_of([1.0], devices=[unknown_limit]), 1).energy_J == 600
    cpu = {"device": "cpu:0", "kind": "cpu", "name": "some", "power_limit_W": 50.0}
    assert estimate_mlco2(trace_of([1.0], devices=[cpu]), 1).energy_J == 100
    # With a GPU, the CPU does not count.
    assert estimate_mlco2(trace_of([1.0], devices=[cpu, A40]), 1).energy_J == 600


def test_green_algorithms() -> None:
    trace = trace_of([1.0] * 4, devices=[A40])
    estimate = estimate_green_algorithms(trace, 100, utilization=0.5, ram_GB=16)
    assert estimate.energy_J == pytest.approx((300 * 0.5 + 0.3725 * 16) * 200)
    # Without a reading of it, utilisation is 1, as in the method itself.
    assert estimate_green_algorithms(trace, 100, ram_GB=0).energy_J == pytest.approx(60000)
    with pytest.raises(EstimateError, match="pass ram_GB"):
        estimate_green_algorithms(trace, 100)
    with pytest.raises(EstimateError, match=r"utilization=1\.5"):
        estimate_green_algorithms(trace, 100, utilization=1.5, ram_GB=1)


def test_utilization_of_a_long_run_whose_readings_were_thinned() -> None:
    # Ten readings of the first ten seconds, idle, and two of the ninety after them, busy.
    time_s = np.array([*range(11), 11.0, 101.0])
    busy = np.array([*[0.0] * 11, 1.0, 1.0])
    trace = EnergyTrace.from_power(
        time_s,
        np.full(13, 100.0),
        [50, 100],
        utilization=busy,
        max_gap_s=90,
        meta={"devices": [A40]},
    )
    estimate = estimate_green_algorithms(trace, 2, ram_GB=0)
    assert estimate.energy_J == pytest.approx(300 * 90.5 / 101 * 100)


def test_green_algorithms_from_the_trace() -> None:
    time = np.arange(0, 11.0)
    ram = {"device": "ram:0", "kind": "ram", "name": "memory", "memory_bytes": 64e9}
    trace = EnergyTrace.from_power(
        time,
        np.full(11, 100.0),
        [5, 10],
        utilization=np.linspace(0.2, 0.6, 11),
        meta={"devices": [A40, ram]},
    )
    expected = (300 * 0.4 + 0.3725 * 64) * 50
    assert estimate_green_algorithms(trace, 10).energy_J == pytest.approx(expected)


def test_flops() -> None:
    trace = EnergyTrace.from_epochs(
        energy_J=[1, 1], duration_s=[1, 1], flops=[1e15, 1e15], meta={"devices": [A40]}
    )
    # A40: 37.4 TFLOP/s in fp32 at 300 W; a third of that rate is assumed.
    expected = 100 * 1e15 / (37.4e12 / 300 * 0.33)
    assert estimate_flops(trace, 100).energy_J == pytest.approx(expected, rel=1e-3)
    given = estimate_flops(trace, 100, flops=1e18, peak_flops_per_s=1e13, tdp_W=100, efficiency=0.5)
    assert given.energy_J == pytest.approx(1e18 / (1e11 * 0.5))
    with pytest.raises(EstimateError, match="no FLOPs"):
        estimate_flops(trace_of([1.0], devices=[A40]), 1)
    with pytest.raises(EstimateError, match="efficiency=0"):
        estimate_flops(trace, 100, efficiency=0)


def test_peak_follows_precision_and_number_of_gpus() -> None:
    columns = {"energy_J": [1.0], "duration_s": [1.0], "flops": [1e15]}
    single = EnergyTrace.from_epochs(**columns, meta={"devices": [A40], "precision": "bf16"})
    double = EnergyTrace.from_epochs(**columns, meta={"devices": [A40, A40], "precision": "bf16"})
    expected = 1e15 / (149.7e12 / 300 * 0.33)
    assert estimate_flops(single, 1).energy_J == pytest.approx(expected, rel=1e-2)
    # Twice the peak at twice the power: the same arithmetic costs the same.
    assert estimate_flops(double, 1).energy_J == pytest.approx(expected, rel=1e-2)
    v100 = {"device": "gpu:0", "kind": "gpu", "name": "Tesla V100-SXM2-16GB"}
    for precision in ("fp32", "tf32"):  # no tf32 before Ampere: fp32 is what runs
        meta = {"devices": [v100], "precision": precision}
        trace = EnergyTrace.from_epochs(**columns, meta=meta)
        assert estimate_flops(trace, 1).energy_J == pytest.approx(
            1e15 / (15.7e12 / 300 * 0.33), rel=1e-2
        )


def test_a_gpu_without_tf32_does_not_change_the_peak_of_the_next() -> None:
    devices = [{"name": "Tesla V100-SXM2-16GB"}, {"name": "NVIDIA A40"}]
    trace = EnergyTrace.from_epochs(
        energy_J=[1.0], flops=[1e15], meta={"devices": devices, "precision": "tf32"}
    )
    # 15.7 TFLOP/s in fp32 and 74.8 in tf32, at 300 W each.
    expected = 1e15 / ((15.7e12 + 74.8e12) / 600 * 0.33)
    assert estimate_flops(trace, 1).energy_J == pytest.approx(expected, rel=1e-2)


def test_finding_no_stable_epoch_promises_no_estimate() -> None:
    with pytest.raises(NotStableError) as caught:
        find_stable_epoch(trace_of([1.0]))
    assert caught.value.estimate is None
    assert "estimate" not in str(caught.value)
    with pytest.raises(NotStableError, match=r"\.estimate holds the best guess"):
        estimate_step(trace_of([1.0]), 10)


def test_devices_as_one_writes_them_by_hand() -> None:
    trace = trace_of([1.0], devices=[{"name": "NVIDIA A40"}])
    assert estimate_mlco2(trace, 1).energy_J == 600
    capped = trace_of([1.0], devices=[{"name": "A40", "power_limit_W": np.int64(150)}])
    assert estimate_mlco2(capped, 1).energy_J == 300


def test_what_a_trace_lacks_is_named() -> None:
    with pytest.raises(EstimateError, match="pass tdp_W"):
        estimate_mlco2(trace_of([1.0]), 1)
    with pytest.raises(EstimateError, match="pass duration_s"):
        estimate_mlco2(EnergyTrace.from_epochs(energy_J=[1]), 1, tdp_W=5)
    with pytest.raises(EstimateError, match="less than the 2"):
        estimate_mlco2(trace_of([1.0, 1.0], devices=[A40]), 1)


def test_comparison() -> None:
    trace = trace_of(THAW, devices=[A40])
    table = compare_estimators(trace, 40, observed=20, ram_GB=16)
    assert table.loc["STEP", "energy_J"] == estimate_step(trace.head(20), 40).energy_J
    expected = 80 * 40 / THAW.sum() - 1
    assert table.loc["first epoch", "error"] == pytest.approx(expected)
    assert math.isnan(table.loc["FLOPs", "energy_J"])
    assert "no FLOPs" in table.loc["FLOPs", "note"]


def test_comparison_passes_on_what_it_is_given() -> None:
    trace = trace_of(THAW[:20], np.linspace(1, 2, 20))
    given = {"duration_s": 99.0, "tdp_W": 10.0, "ram_GB": 2.0, "utilization": 0.5}
    table = compare_estimators(trace, 40, confidence=0.5, **given)
    step = estimate_step(trace, 40, form="power", confidence=0.5, duration_s=99.0)
    assert table.loc["STEP, power form", "energy_J"] == step.energy_J
    assert table.loc["STEP, power form", "energy_upper_J"] == step.upper_J
    assert table.loc["STEP", "energy_upper_J"] == estimate_step(trace, 40, confidence=0.5).upper_J
    assert table.loc["MLCO2", "energy_J"] == 990
    assert table.loc["Green Algorithms", "energy_J"] == pytest.approx((10 * 0.5 + 0.3725 * 2) * 99)


@pytest.mark.parametrize(
    "arguments",
    [{"epochs": None}, {"epochs": "40"}, {"confidence": 5}, {"tdp_W": "300"}, {"observed": 2.5}],
)
def test_comparison_refuses_bad_arguments(arguments: dict) -> None:
    with pytest.raises(EstimateError):
        compare_estimators(**{"trace": trace_of(THAW), "epochs": 40, **arguments})


def test_comparison_of_a_running_training() -> None:
    table = compare_estimators(trace_of(THAW[:12]), 40)
    assert "error" not in table
    assert "more are needed" in table.loc["STEP, paper (start 10, window 5)", "note"]
    assert compare_estimators(EnergyTrace.from_epochs(energy_J=[]), 40)["energy_J"].isna().all()
    with pytest.raises(EstimateError, match="less than the 40"):
        compare_estimators(trace_of(THAW), 39)


# ---------------------------------------------------------------------- Estimate


def test_text_and_units() -> None:
    estimate = Estimate(
        7.2e6, 7e6, 7.4e6, 0.9, duration_s=3725, measured_J=1e6, epochs=100, method="STEP <x>"
    )
    assert estimate.energy_kWh == 2
    assert estimate.co2e_kg(400) == pytest.approx(0.8)
    assert str(estimate) == (
        "7.2 MJ (2 kWh) for 100 epochs in 1 h 02 min, 90 % interval 7 MJ to 7.4 MJ [STEP <x>]"
    )
    page = replace(estimate, assumptions=("a < b",))._repr_html_()
    assert page == (
        "<p>7.2 MJ (2 kWh) for 100 epochs in 1 h 02 min, 90 % interval 7 MJ to 7.4 MJ "
        "[STEP &lt;x&gt;]</p><ul><li>measured so far: 1 MJ</li><li>a &lt; b</li></ul>"
    )
    assert Estimate(5.0)._repr_html_() == "<p>5 J (1.389 mWh)</p>"
    assert str(Estimate(5.0)) == "5 J (1.389 mWh)"
    with pytest.raises(EstimateError, match="intensity"):
        estimate.co2e_kg(-1)
    with pytest.raises(AttributeError):
        estimate.energy_J = 1  # frozen


@pytest.mark.parametrize(
    ("name", "tdp_W"),
    [
        ("NVIDIA H100 80GB HBM3", 700),
        ("NVIDIA GeForce RTX 3090", 350),
        ("NVIDIA GeForce RTX 3070", 220),
        ("NVIDIA GeForce GTX 750 Ti", 60),
        ("Tesla V100-SXM2-16GB", 300),
        ("Tesla T4", 70),
    ],
)
def test_gpu_table(name: str, tdp_W: float) -> None:
    gpu = find_gpu(name)
    assert gpu is not None
    assert gpu.tdp_W == tdp_W
    assert gpu.source


def test_gpu_table_is_sane() -> None:
    assert find_gpu("GeForce RTX 9999") is None
    assert find_gpu("") is None
    h100 = find_gpu("NVIDIA H100 80GB HBM3")
    assert h100 is not None
    assert (
        h100.peak_flops_per_s["bf16"]
        > h100.peak_flops_per_s["tf32"]
        > h100.peak_flops_per_s["fp32"]
        > 6e13
    )


def test_unknown_durations_of_epochs_to_come_are_not_0() -> None:
    """Validation is known in joules alone: how long training takes without it is not."""
    validation_J = np.where(np.arange(20) % 2, 40.0, 0.0)
    trace = EnergyTrace.from_epochs(
        np.full(20, 400.0), np.full(20, 60.0), validation_energy_J=validation_J
    )
    with pytest.raises(EstimateError, match="durations"):
        estimate_step(trace, 60, form="power")
    assert estimate_step(trace, 60).energy_J == pytest.approx(24_000, rel=0.02)
