"""Traces from logs of other tools: wrong values are refused or marked, but not counted."""

from __future__ import annotations

import math
import re
import warnings
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from energyest import EnergyTrace, estimate_step, load_trace
from energyest.arrays import FloatArray
from energyest.errors import TraceError
from energyest.measure.meter import Meter
from energyest.measure.sensors.base import Reading


def silently(build: Any, *arguments: Any, **options: Any) -> EnergyTrace:
    """A trace that must not cause a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return build(*arguments, **options)


def in_turn(devices: int, rounds: int, apart_s: float = 0.004, every_s: float = 1.0) -> FloatArray:
    """The times at which nvidia-smi reads a number of devices."""
    return (np.arange(rounds)[:, None] * every_s + np.arange(devices) * apart_s).ravel()


# ---------------------------------------------------------------------- several devices

TIME = in_turn(2, 61)
POWER = np.tile([300.0, 200.0], 61)
NAMES = np.tile(["gpu:0", "gpu:1"], 61)


def test_readings_of_two_gpus_are_not_taken_for_one() -> None:
    with pytest.raises(TraceError, match=r"groups of 2 readings close together, .* 2 devices"):
        EnergyTrace.from_power(TIME, POWER, [20, 40, 60])


def test_two_gpus_add_up() -> None:
    trace = silently(EnergyTrace.from_power, TIME, POWER, [20, 40, 60], device=NAMES)
    assert trace.column("energy_J") == pytest.approx([10_000] * 3)
    assert trace.column("gpu_energy_J") == pytest.approx([10_000] * 3)
    assert trace.column("mean_power_W") == pytest.approx([500] * 3)
    # The second device was read 4 ms later, up to the end: 0.8 J outside of the epochs.
    assert trace.total_J == pytest.approx(30_000, abs=2)
    assert [device["device"] for device in trace.devices] == ["gpu:0", "gpu:1"]
    assert (trace.power["device"] == NAMES).all()


def test_the_refusal_names_the_code_that_adds_them_up() -> None:
    log = pd.DataFrame({"index": np.tile([0, 1], 61), "time": TIME, "power": POWER})
    with pytest.raises(TraceError) as caught:
        EnergyTrace.from_power(log["time"], log["power"], [60])
    code = re.search(r"device=('gpu:' \+ .*?), or", str(caught.value))
    assert code is not None
    device = eval(code[1], {"log": log})
    trace = EnergyTrace.from_power(log["time"], log["power"], [60], device=device)
    assert trace.column("energy_J") == pytest.approx([30_000])
    code = re.search(r"device=(\['gpu:0'\] \* 122)$", str(caught.value))
    assert code is not None
    with pytest.warns(UserWarning, match="as if 2 devices"):
        EnergyTrace.from_power(log["time"], log["power"], [60], device=eval(code[1]))


def test_whole_logs_one_after_the_other() -> None:
    time = np.tile(np.arange(11.0), 2)
    power = np.repeat([100.0, 50.0], 11)
    with pytest.raises(TraceError, match=r"time_s\[11\] is 0: .* sort the readings .* device="):
        EnergyTrace.from_power(time, power, [10])
    device = np.repeat(["gpu:0", "cpu:0"], 11)
    trace = silently(EnergyTrace.from_power, time, power, [5, 10], device=device)
    assert trace.column("gpu_energy_J") == pytest.approx([500, 500])
    assert trace.column("cpu_energy_J") == pytest.approx([250, 250])
    assert trace.column("energy_J") == pytest.approx([750, 750])
    assert trace.total_J == pytest.approx(1500)


def test_a_device_that_stops_leaves_the_sum_unknown() -> None:
    time = np.concatenate([np.arange(61.0), np.arange(31.0)])
    device = np.repeat(["gpu:0", "gpu:1"], [61, 31])
    with pytest.warns(UserWarning, match="1 of 3 epochs are NaN, as power of gpu:1 .* 31 s to 60"):
        trace = EnergyTrace.from_power(time, np.full(92, 100.0), [15, 30, 60], device=device)
    assert trace.column("energy_J") == pytest.approx([3000, 3000, math.nan], nan_ok=True)
    assert math.isnan(trace.total_J)


def test_so_does_a_device_that_comes_late() -> None:
    time = np.concatenate([np.arange(61.0), np.arange(30, 61.0)])
    device = np.repeat(["gpu:0", "gpu:1"], [61, 31])
    with pytest.warns(UserWarning, match=r"1 of 2 epochs .* gpu:1 is not known from 0 s to 30 s"):
        trace = EnergyTrace.from_power(time, np.full(92, 100.0), [30, 60], device=device)
    assert trace.column("energy_J") == pytest.approx([math.nan, 6000], nan_ok=True)
    assert trace.devices[1]["missing_s"] == 30


@given(
    devices=st.integers(2, 16),
    rounds=st.integers(6, 80),
    apart_s=st.sampled_from([0.0, 0.002, 0.004, 0.01]),
    every_s=st.sampled_from([1.0, 5.0, 60.0]),
    seed=st.integers(0, 99),
)
def test_any_number_of_devices_is_seen(
    devices: int, rounds: int, apart_s: float, every_s: float, seed: int
) -> None:
    late_s = np.random.default_rng(seed).uniform(0, apart_s / 2, devices * rounds)
    time = in_turn(devices, rounds, apart_s, every_s) + late_s
    with pytest.raises(TraceError, match=f"as if {devices} devices"):
        EnergyTrace.from_power(time, np.full(len(time), 100.0), [time[-1]])


def test_a_second_device_is_seen_that_comes_later() -> None:
    time = np.concatenate([np.arange(300.0), 300 + in_turn(2, 30)])
    with pytest.raises(TraceError, match="as if 2 devices"):
        EnergyTrace.from_power(time, np.full(360, 100.0), [320])


def test_so_are_few_rounds_at_the_same_times() -> None:
    with pytest.raises(TraceError, match="as if 2 devices"):
        EnergyTrace.from_power([0, 0, 1, 1, 2, 2], [300, 200] * 3, [2])
    # Once, a clock may well show the same time twice.
    silently(EnergyTrace.from_power, [0, 1, 1, 2, 3, 4], [300] * 6, [4])


@pytest.mark.parametrize("readings", [30, 50, 100, 200])
def test_readings_at_random_times_are_not_taken_for_those_of_several_devices(readings: int) -> None:
    for seed in range(200):
        time = np.cumsum(np.random.default_rng(seed).exponential(1, readings))
        EnergyTrace.from_power(time, np.full(readings, 100.0), [time[-1]], max_gap_s=math.inf)


@given(
    readings=st.integers(12, 300),
    jitter=st.floats(0, 0.4),
    rounded_to=st.sampled_from([1e-6, 0.1, 1.0]),
    seed=st.integers(0, 999),
)
def test_one_device_is_one_however_irregularly_it_is_read(
    readings: int, jitter: float, rounded_to: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    time = np.sort(np.arange(readings) + rng.uniform(-jitter, jitter, readings))
    time = np.round(time / rounded_to) * rounded_to
    trace = EnergyTrace.from_power(time, rng.normal(300, 20, readings), [time[-1]])
    assert trace.column("energy_J") == pytest.approx(300 * (time[-1] - time[0]), rel=0.2)


def test_devices_read_halfway_between_each_other_are_suspected() -> None:
    time, power = np.arange(100) / 2, np.tile([300.0, 200.0], 50)
    with pytest.warns(UserWarning, match="alternates between 2 levels"):
        EnergyTrace.from_power(time, power, [40])
    noise = np.random.default_rng(0).normal(0, 20, 100)
    silently(EnergyTrace.from_power, time, 300 + noise, [40])
    steps = np.repeat([300.0, 100.0, 280.0, 90.0], 25)
    silently(EnergyTrace.from_power, time, steps, [40])


@pytest.mark.parametrize("device", [["gpu:0"], [0, 1, 2], [["gpu:0"]] * 3, None, 0, ["gpu,0"] * 3])
def test_bad_names_of_devices(device: Any) -> None:
    with pytest.raises(TraceError, match="device"):
        EnergyTrace.from_power([0, 1, 2], [1, 1, 1], [2], device=device)


def test_a_device_needs_two_readings() -> None:
    names = ["gpu:0", "gpu:0", "gpu:1"]
    with pytest.raises(TraceError, match=r"1 reading\(s\) of a device"):
        EnergyTrace.from_power([0, 1, 1], [1, 1, 1], [1], device=names)


# ---------------------------------------------------------------------- gaps

# An hour in which the machine was suspended.
SUSPENDED = np.r_[np.arange(0, 600, 1.0), np.arange(4200, 4800, 1.0)]
HOUR = np.full(1200, 250.0)


def test_an_hour_without_readings_is_not_known(tmp_path: Any) -> None:
    with pytest.warns(UserWarning, match=r"2 of 4 epochs are NaN, .* 600 s to 4200 s") as caught:
        trace = EnergyTrace.from_power(SUSPENDED, HOUR, [600, 2400, 4200, 4799])
    assert caught[0].filename == __file__
    known = [150_000, math.nan, math.nan, 149_750]
    assert trace.column("energy_J") == pytest.approx(known, nan_ok=True)
    assert trace.column("gpu_energy_J") == pytest.approx(known, nan_ok=True)
    assert math.isnan(trace.total_J)
    assert trace.devices == [{"device": "gpu:0", "kind": "gpu", "missing_s": 3600.0}]
    again = load_trace(trace.save(tmp_path / "trace"))
    assert again.column("energy_J") == pytest.approx(known, nan_ok=True)


def test_before_a_gap_power_is_as_it_was_read_there() -> None:
    with pytest.warns(UserWarning, match="2 of 4"):
        trace = EnergyTrace.from_power(
            SUSPENDED, np.where(SUSPENDED < 1000, 250.0, 50.0), [600, 2400, 4200, 4799]
        )
    known = [150_000, math.nan, math.nan, 29_950]
    assert trace.column("energy_J") == pytest.approx(known, nan_ok=True)


def test_the_end_of_an_epoch_within_the_gap_is_not_known_either() -> None:
    with pytest.warns(UserWarning, match="2 of 2 epochs"):
        trace = EnergyTrace.from_power(SUSPENDED, HOUR, [602, 4799])
    assert np.isnan(trace.column("energy_J")).all()


def test_gaps_are_bridged_where_the_caller_says_so() -> None:
    trace = silently(
        EnergyTrace.from_power, SUSPENDED, HOUR, [600, 2400, 4200, 4799], max_gap_s=math.inf
    )
    assert trace.total_J == pytest.approx(250 * 4799)
    with pytest.warns(UserWarning, match="not known"):
        trace = EnergyTrace.from_power([0, 1, 2, 4, 5], [9] * 5, [2, 4, 5], max_gap_s=1.5)
    assert trace.column("energy_J") == pytest.approx([18, math.nan, 9], nan_ok=True)
    with pytest.warns(UserWarning, match="2 of 2"):
        EnergyTrace.from_power([0, 10, 20], [9] * 3, [10, 20], max_gap_s=5)
    for wrong in (0, -1, math.nan, "5", True):
        with pytest.raises(TraceError, match=r"max_gap_s=.* must be positive"):
            EnergyTrace.from_power([0, 1], [1, 1], [1], max_gap_s=wrong)


def test_a_gap_after_the_last_epoch_leaves_the_total_unknown() -> None:
    trace = silently(EnergyTrace.from_power, SUSPENDED, HOUR, [300, 500])
    assert trace.column("energy_J") == pytest.approx([75_000, 50_000])
    assert math.isnan(trace.total_J)
    assert trace.head(1).total_J == pytest.approx(75_000)


def test_failed_readings_are_not_zeros() -> None:
    time, power = np.arange(100.0), np.full(100, 200.0)
    power[[10, 11, 12, 50]] = math.nan
    trace = silently(EnergyTrace.from_power, time, power, [30, 60, 99])
    assert trace.column("energy_J") == pytest.approx([6000, 6000, 7800])
    power[30:50] = math.nan
    with pytest.warns(UserWarning, match="1 of 3 epochs are NaN"):
        trace = EnergyTrace.from_power(time, power, [30, 60, 99], utilization=power / 200)
    assert trace.column("energy_J") == pytest.approx([6000, math.nan, 7800], nan_ok=True)
    with pytest.warns(UserWarning, match="3 of 3 epochs are NaN"):
        trace = EnergyTrace.from_power(time, np.full(100, math.nan), [30, 60, 99])
    assert np.isnan(trace.column("energy_J")).all()
    power[1:-1] = math.nan  # whose first and last reading are no two readings in a row
    with pytest.warns(UserWarning, match="1 of 1 epochs are NaN"):
        EnergyTrace.from_power(time, power, [99])


def test_the_monitor_finds_the_same_gaps() -> None:
    time = np.r_[np.arange(0, 20, 0.5), np.arange(24, 40, 0.5), np.arange(50, 60, 0.5)]
    edges = [0.0, 10.0, 25.0, 38.0, 52.0, 59.0]
    with pytest.warns(UserWarning, match="1 of 5"):
        trace = EnergyTrace.from_power(time, np.full(len(time), 80.0), edges[1:])
    meter = Meter(5.0)
    for time_s in time:
        meter.add(Reading(time_s, "gpu:0", 80.0))
    energy_J, covered_s = meter.values_at(edges)
    is_covered = np.isclose(np.diff(covered_s), np.diff(edges))
    expected = np.where(is_covered, np.diff(energy_J), math.nan)
    assert trace.column("energy_J") == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("every_s", [0.02, 1.0, 10.0, 60.0])
def test_what_is_a_gap_depends_on_how_often_power_is_read(every_s: float) -> None:
    time = every_s * np.delete(np.arange(1000.0), [100, 500, 501])
    trace = silently(EnergyTrace.from_power, time, np.full(997, 100.0), [time[-1]])
    assert trace.total_J == pytest.approx(100 * time[-1])


def test_readings_of_a_long_run_lie_ever_further_apart() -> None:
    # As the monitor stores them: each tenth of the rows at half the rate of the one before.
    steps = np.repeat(0.1 * 2.0 ** np.arange(12), 200)
    time = np.append(0.0, np.cumsum(steps))
    trace = EnergyTrace.from_power(time, np.full(len(time), 100.0), [1000, time[-1]])
    assert trace.total_J == pytest.approx(100 * time[-1])
    with_gap = np.where(time > time[2000], time + 20_000, time)
    with pytest.warns(UserWarning, match="1 of 2 epochs"):
        EnergyTrace.from_power(with_gap, np.full(len(time), 100.0), [1000, with_gap[-1]])


@given(
    left_out=st.sets(st.tuples(st.integers(0, 280), st.integers(1, 30)), max_size=6),
    ends=st.sets(st.integers(1, 299), min_size=1, max_size=8),
    begins_s=st.sampled_from([0.0, 1.7e9]),
)
# Between these gaps lie equal numbers of readings, as if so many devices were read in turn.
@example(left_out={(184, 3), (93, 30), (248, 3)}, ends={1}, begins_s=0.0)
def test_an_epoch_is_right_or_not_known(
    left_out: set[tuple[int, int]], ends: set[int], begins_s: float
) -> None:
    keep = np.ones(301, dtype=bool)
    for first, length in left_out:
        keep[first + 1 : min(first + length, 299) + 1] = False
    time = begins_s + np.arange(301.0)[keep]
    edges = begins_s + np.array([0, *sorted(ends)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trace = EnergyTrace.from_power(time, np.full(len(time), 70.0), edges[1:])
    far = np.flatnonzero(np.diff(time) > 5)
    gaps = [(time[i] + 1, time[i + 1]) for i in far]  # the next reading was due after a second
    expected = [
        math.nan if any(start < end_s and end > start_s for start, end in gaps) else end_s - start_s
        for start_s, end_s in pairwise(edges)
    ]
    expected_J = 70 * np.array(expected)
    assert trace.column("energy_J") == pytest.approx(expected_J, rel=1e-6, nan_ok=True)


# ---------------------------------------------------------------------- text and times

STARTED = datetime(2026, 3, 1, 23, 59, 58)
CLOCK = [STARTED + timedelta(seconds=i, milliseconds=500) for i in range(4)]


@pytest.mark.parametrize(
    "times",
    [
        CLOCK,
        [time.replace(tzinfo=timezone.utc) for time in CLOCK],
        [time.isoformat() for time in CLOCK],
        [time.strftime("%Y/%m/%d %H:%M:%S.%f") for time in CLOCK],
        np.array(CLOCK, dtype="datetime64[ms]"),
        pd.Series(CLOCK),
        pd.Series(CLOCK, index=[5, 6, 7, 8]).dt.tz_localize("Europe/Berlin"),
        pd.DatetimeIndex(CLOCK),
        [pd.Timestamp(time) for time in CLOCK],
    ],
)
def test_times_of_the_clock_are_refused_with_the_code_that_converts_them(times: Any) -> None:
    with pytest.raises(TraceError, match="time_s must hold numbers") as caught:
        EnergyTrace.from_power(times, [100.0] * 4, [3])
    code = re.search(r"in pandas: (start = .*?); (seconds = .*?), where", str(caught.value))
    assert code is not None
    names: dict[str, Any] = {"pd": pd, "times": times}
    exec(f"{code[1]}\n{code[2]}", names)
    trace = EnergyTrace.from_power(names["seconds"], [100.0] * 4, [1, 3])
    assert trace.column("energy_J") == pytest.approx([100, 200])
    with pytest.raises(TraceError, match=r"epoch_end_s must hold numbers.*the same start"):
        EnergyTrace.from_power(names["seconds"], [100.0] * 4, times)


@pytest.mark.parametrize(
    "times",
    [
        [timedelta(seconds=2), timedelta(seconds=3)],
        np.array([2000, 3000], dtype="timedelta64[ms]"),
        pd.Series(pd.to_timedelta([2, 3], unit="s")),
    ],
)
def test_so_are_spans_of_time(times: Any) -> None:
    with pytest.raises(TraceError, match="duration_s must hold numbers") as caught:
        EnergyTrace.from_epochs([100.0, 150.0], times)
    code = re.search(r"in pandas: seconds = (.*)", str(caught.value))
    assert code is not None
    seconds = eval(code[1], {"pd": pd, "times": times})
    assert EnergyTrace.from_epochs([100.0, 150.0], seconds).column("end_s") == pytest.approx([2, 5])


@pytest.mark.parametrize(
    "power_W",
    [
        ["300.00 W", "[N/A]", "280.00 W", "290.00 W"],
        [" 300.00 W", " [Unknown Error]", " 280.00 W", " 290.00 W"],
        [300.0, "[N/A]", 280, "290"],
        pd.Series(["300.00", "[N/A]", "280.00", "290.00"], index=[3, 4, 5, 6]),
    ],
)
def test_so_is_power_with_its_unit(power_W: Any) -> None:
    with pytest.raises(TraceError, match="power_W must hold numbers: it holds text") as caught:
        EnergyTrace.from_power([0, 1, 2, 3], power_W, [3])
    code = re.search(r"in pandas: (.*)", str(caught.value))
    assert code is not None
    numbers = eval(code[1], {"pd": pd, "power_W": power_W})
    assert list(numbers) == pytest.approx([300, math.nan, 280, 290], nan_ok=True)
    trace = silently(EnergyTrace.from_power, [0, 1, 2, 3], numbers, [3])
    assert trace.column("energy_J") == pytest.approx([865])


def test_so_is_utilization_in_percent() -> None:
    busy = ["97 %", "[N/A]", "50 %"]
    with pytest.raises(TraceError, match="utilization must hold numbers: it holds text") as caught:
        EnergyTrace.from_power([0, 1, 2], [1, 1, 1], [2], utilization=busy)
    code = re.search(r"in pandas: (.*)", str(caught.value))
    assert code is not None
    numbers = eval(code[1], {"pd": pd, "utilization": busy})
    trace = EnergyTrace.from_power([0, 1, 2], [1, 1, 1], [2], utilization=numbers)
    assert list(trace.power["utilization"]) == pytest.approx([0.97, math.nan, 0.5], nan_ok=True)


# ---------------------------------------------------------------------- units

A40 = {"device": "gpu:0", "kind": "gpu", "name": "NVIDIA A40", "power_limit_W": 300}
SECONDS = np.arange(60.0)


def log_of(power_W: float = 280.0, time_s: Any = SECONDS, **options: Any) -> EnergyTrace:
    return EnergyTrace.from_power(time_s, np.full(60, power_W), [time_s[-1]], **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"power_W": 280e3}, r"power_W\[0\] is 280000: .* must be watts, .* milliwatts"),
        ({"time_s": 1.77e12 + 1e3 * SECONDS}, "time_s must be seconds: .* milliseconds"),
        ({"time_s": 1.77e18 + 1e9 * SECONDS}, "time_s must be seconds"),
    ],
)
def test_readings_in_other_units_are_refused(options: dict, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        log_of(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"power_W": 25e3}, "gpu:0 draws 25000 W .* milliwatts"),
        ({"power_W": 0.28}, "gpu:0 draws 0.28 W .* kilowatts"),
        ({"power_W": 0.0}, "60 readings of gpu:0 are 0 W"),
        ({"time_s": 1000 * SECONDS}, "was read every 1000 s: is time_s in milliseconds"),
        ({"power_W": 600, "meta": {"devices": [A40]}}, "its power limit is 300 W: .* alone"),
    ],
)
def test_readings_in_what_seem_other_units_are_warned_of(options: dict, message: str) -> None:
    with pytest.warns(UserWarning, match=message):
        log_of(**options)


def test_usual_readings_are_not_warned_of() -> None:
    silently(log_of)
    silently(log_of, 1.0)
    silently(log_of, 310.0, meta={"devices": [A40]})
    silently(log_of, 0.5, device="ram:0")
    silently(log_of, 9e3)
    silently(log_of, time_s=60 * SECONDS)
    silently(log_of, time_s=1.77e9 + SECONDS)
    silently(EnergyTrace.from_power, [0.0, 9.0], [100.0, 120.0], [9.0])
    silently(EnergyTrace.from_power, [0, 1, 2], [0, 1, 2], [1, 2])


KWH = np.array([5.1e-3, 4.02e-3, 4.01e-3])
LASTED_S = np.array([60.0, 48.0, 48.0])


@pytest.mark.parametrize(
    ("energy_J", "duration_s", "message"),
    [
        (KWH, LASTED_S, "0.0000842|8.42e-05 W over all epochs.* 3.6e6"),
        (3.6e6 * KWH, 1000 * LASTED_S, "0.303 W .* divide duration_s by 1000"),
        (3.6e9 * KWH, LASTED_S, "3.03e.05 W .* divide energy_J by 1000"),
        (3.6e6 * KWH, LASTED_S / 3600, "W .* multiply duration_s by 3600"),
        (KWH, None, "epochs cost 0.00402 J: is energy_J in joules. Multiply kWh by 3.6e6"),
        ([5100, 0, 4010], LASTED_S, "1 of 3 epochs cost 0 J"),
        ([5100, 0, 4010], None, "1 of 3 epochs cost 0 J"),
    ],
)
def test_epochs_in_what_seem_other_units_are_warned_of(
    energy_J: Any, duration_s: Any, message: str
) -> None:
    with pytest.warns(UserWarning, match=message) as caught:
        EnergyTrace.from_epochs(energy_J, duration_s)
    assert caught[0].filename == __file__


def test_a_counter_is_not_taken_for_the_energy_of_epochs() -> None:
    energy_J = np.array([5100.0, 4020, 4010, 4030, 4020, 4000])
    with pytest.warns(UserWarning, match=r"rises with each epoch .* np.diff\(energy_J"):
        counted = EnergyTrace.from_epochs(np.cumsum(energy_J))
    given_J = np.diff(counted.column("energy_J"), prepend=0)
    assert silently(EnergyTrace.from_epochs, given_J).column("energy_J") == pytest.approx(energy_J)
    silently(EnergyTrace.from_epochs, np.linspace(4000, 6000, 10))  # a trend


@pytest.mark.parametrize(
    ("energy_J", "duration_s", "message"),
    [
        (KWH, LASTED_S, "less than any computer draws: if in kWh, multiply"),
        (3.6e9 * KWH, LASTED_S, r"more than 1 device\(s\) draw, 100 kW each: if in millijoules"),
    ],
)
def test_of_known_devices_they_are_refused(energy_J: Any, duration_s: Any, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        EnergyTrace.from_epochs(energy_J, duration_s, meta={"devices": [A40]})


def test_usual_epochs_are_not_warned_of() -> None:
    meta = {"devices": [A40]}
    silently(EnergyTrace.from_epochs, [5100, 4020, 4010], LASTED_S, meta=meta)
    silently(EnergyTrace.from_epochs, 1000 * np.array([5100, 4020]), [60, 48])  # many GPUs
    silently(EnergyTrace.from_epochs, [1, 2, 100])
    silently(EnergyTrace.from_epochs, [1, 2, 100], [1, 2, 1])
    silently(EnergyTrace.from_epochs, [1, 2], [2, 4], meta=meta)
    silently(EnergyTrace.from_epochs, [10, 0], [1, 0])
    silently(EnergyTrace.from_epochs, [], [])


# ---------------------------------------------------------------------- epochs that were not read


def test_epochs_that_were_not_read_are_not_zeros(tmp_path: Any) -> None:
    known = [math.nan, 400, 400, math.nan, 400, 400]
    trace = silently(EnergyTrace.from_epochs, [None, 400, 400, math.nan, 400, 400], [2.0] * 6)
    assert trace.column("energy_J") == pytest.approx(known, nan_ok=True)
    assert trace.column("end_s") == pytest.approx([2, 4, 6, 8, 10, 12])
    assert len(trace) == 6
    assert math.isnan(trace.total_J)
    assert "1.6 kJ in 4 of them" in repr(trace)
    estimate = estimate_step(trace, 10)
    assert estimate.energy_J == pytest.approx(4000)
    assert any("2 epoch(s) that were not measured" in said for said in estimate.assumptions)
    again = load_trace(trace.save(tmp_path / "trace"))
    assert again.column("energy_J") == pytest.approx(known, nan_ok=True)


def test_a_trace_s_own_epochs_make_a_trace() -> None:
    with pytest.warns(UserWarning, match="2 of 4"):
        trace = EnergyTrace.from_power(SUSPENDED, HOUR, [600, 2400, 4200, 4799])
    epochs = trace.epochs
    again = silently(EnergyTrace.from_epochs, epochs["energy_J"], epochs["duration_s"])
    assert again.column("energy_J") == pytest.approx(trace.column("energy_J"), nan_ok=True)
    readings = trace.power
    with pytest.warns(UserWarning, match="2 of 4"):
        again = EnergyTrace.from_power(
            readings["time_s"], readings["power_W"], epochs["end_s"], device=readings["device"]
        )
    assert again.column("energy_J") == pytest.approx(trace.column("energy_J"), nan_ok=True)
