"""GPUs and their driver: readings that fail, hang, or are wrong."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pynvml

from energyest.measure.sensors import Reading, Sensor, detect
from simulation.busy import all_waited_s
from simulation.scene import (
    AVERAGE,
    COUNTER,
    EVERYTHING,
    MEMORY,
    POWER,
    TEMPERATURE,
    UTILIZATION,
    Scene,
)
from tests.faults import (
    Check,
    Outcome,
    all_epochs_recorded,
    case,
    fact,
    failed_readings,
    goes_on,
    missing,
    nothing_missing,
    quiet,
    total_unknown,
    total_within,
    unknown,
    within,
)
from tests.faults.training import train

GOES_ON = "continues, is not delayed"
# Each sort of reading fails on a GPU of its own, and all of them on the last.
SORTS = ((POWER,), (COUNTER,), (UTILIZATION,), (MEMORY,), (TEMPERATURE,), EVERYTHING)
GPUS = range(len(SORTS))
LAST = f"gpu:{len(SORTS) - 1}"
UNKNOWN = pynvml.NVML_ERROR_UNKNOWN
LOST = pynvml.NVML_ERROR_GPU_IS_LOST
NOT_SUPPORTED = pynvml.NVML_ERROR_NOT_SUPPORTED
always: tuple[Check, ...] = (goes_on, all_epochs_recorded, quiet)


def fail_each_sort(scene: Scene, code: int = UNKNOWN, **how: int) -> None:
    for gpu, functions in enumerate(SORTS):
        for function in functions:
            scene.driver.fail(function, code=code, device=gpu, **how)


def lose(scene: Scene, gpu: int, code: int = LOST) -> None:
    for function in EVERYTHING:
        scene.driver.fail(function, code=code, device=gpu)


def without_power(scene: Scene) -> None:
    for function in (POWER, AVERAGE):
        scene.driver.fail(function, code=NOT_SUPPORTED, device=0)


def without_counter(scene: Scene) -> None:
    scene.driver.fail(COUNTER, code=NOT_SUPPORTED, device=0)


def report_power(scene: Scene, watts: float) -> None:
    """Let the board report a power that it does not draw."""
    scene.driver.fail(POWER, code=NOT_SUPPORTED, device=0)
    scene.driver.set_average_power(0, watts=watts)


# ---------------------------------------------------------------------- readings that fail


@case(
    "each kind of reading (power, counter, utilisation, memory, temperature, all) fails once",
    GOES_ON,
    "nothing is missing; if all failed, one failed reading",
    *always,
    within(1),
    nothing_missing,
    failed_readings(LAST, 1),
    simulated=True,
)
def fails_once(scene: Scene, folder: Path) -> Outcome:
    scene.driver.set_device_count(len(SORTS))
    at = {1: lambda: fail_each_sort(scene, times=1)}
    return train(scene, folder / "energy", gpus=GPUS, at=at)


@case(
    "each kind of reading fails every third time",
    GOES_ON,
    "nothing is missing; if all failed, every third reading failed",
    *always,
    within(1),
    nothing_missing,
    failed_readings(LAST, 8),
    simulated=True,
)
def fails_often(scene: Scene, folder: Path) -> Outcome:
    scene.driver.set_device_count(len(SORTS))
    at = {0: lambda: fail_each_sort(scene, every=3)}
    return train(scene, folder / "energy", gpus=GPUS, at=at)


@case(
    "each kind of reading fails for 4 s",
    GOES_ON,
    "nothing is missing: the counter covers the gap, or power does where it is the counter",
    *always,
    within(1, of_an_epoch=7),  # how the gap of the sixth GPU spreads over its epochs is not known
    nothing_missing,
    failed_readings(LAST, 30),
    simulated=True,
)
def fails_for_4_s(scene: Scene, folder: Path) -> Outcome:
    scene.driver.set_device_count(len(SORTS))
    at = {1: lambda: fail_each_sort(scene), 5: lambda: fail_each_sort(scene, code=0)}
    return train(scene, folder / "energy", gpus=GPUS, at=at, epochs=7)


@case(
    "each kind of reading fails for a little more than 5 s",
    GOES_ON,
    "the run is complete; the epochs in which nothing was read from a GPU are NaN",
    *always,
    total_within(1),
    unknown(1, 2, 3, 4, 5, 6),
    nothing_missing,
    failed_readings(LAST, 40),
    simulated=True,
)
def fails_for_5_s(scene: Scene, folder: Path) -> Outcome:
    scene.driver.set_device_count(len(SORTS))
    at = {1: lambda: fail_each_sort(scene), 6: lambda: fail_each_sort(scene, code=0)}
    return train(scene, folder / "energy", gpus=GPUS, at=at, epochs=8, seconds=1.05)


@case(
    "one kind of reading fails for ever: power, counter, utilisation, memory or temperature",
    GOES_ON,
    "nothing is missing: power replaces the counter, the counter replaces power",
    *always,
    within(1),
    nothing_missing,
    simulated=True,
)
def one_sort_fails_for_ever(scene: Scene, folder: Path) -> Outcome:
    scene.driver.set_device_count(len(SORTS) - 1)

    def fail() -> None:
        for gpu, (function, *_) in enumerate(SORTS[:-1]):
            scene.driver.fail(function, code=UNKNOWN, device=gpu)

    return train(scene, folder / "energy", gpus=GPUS[:-1], at={1: fail}, epochs=9)


@case(
    "one of two GPUs is lost during the run",
    GOES_ON,
    "epochs without it are NaN, and so is the total, because a sum without it would look "
    "complete; "
    "the seconds are counted; the other GPU is right",
    *always,
    unknown(2, 3, 4, 5, 6, 7, 8),
    total_unknown,
    missing("gpu:0", 6.4, 8.5),
    missing("gpu:1", 0, 0),
    failed_readings("gpu:0", 50),
    fact("other GPU is right", True),
    simulated=True,
)
def gpu_is_lost(scene: Scene, folder: Path) -> Outcome:
    outcome = train(scene, folder / "energy", gpus=(0, 1), at={2: lambda: lose(scene, 0)}, epochs=9)
    error = outcome.device_errors["gpu:1"]
    outcome.facts["other GPU is right"] = error is not None and abs(error) < 1
    return outcome


@case(
    "a GPU is lost for 7 s; its counter continues",
    GOES_ON,
    "of the run nothing is missing: the counter covers the gap; its epochs are NaN, as nobody "
    "knows how its energy spreads over them",
    *always,
    total_within(1),
    unknown(1, 2, 3, 4, 5, 6, 7, 8),
    nothing_missing,
    simulated=True,
)
def gpu_comes_back(scene: Scene, folder: Path) -> Outcome:
    at = {1: lambda: lose(scene, 0), 8: lambda: lose(scene, 0, code=0)}
    return train(scene, folder / "energy", at=at, epochs=10)


@case(
    "a GPU is lost for 7 s and comes back with a counter that restarts",
    GOES_ON,
    "7 s are missing, their epochs NaN",
    *always,
    unknown(1, 2, 3, 4, 5, 6, 7, 8),
    total_unknown,
    missing("gpu:0", 6.9, 9),
    simulated=True,
)
def gpu_comes_back_reset(scene: Scene, folder: Path) -> Outcome:
    def back() -> None:
        scene.driver.set_counter(0, joules=0)
        lose(scene, 0, code=0)

    return train(scene, folder / "energy", at={1: lambda: lose(scene, 0), 8: back}, epochs=10)


# ---------------------------------------------------------------------- counters that are wrong


def counter_case(
    fault: str, trace: str, name: str, act: Callable[[Scene], object], *, epochs: int = 5
) -> None:
    def provoke(scene: Scene, folder: Path) -> Outcome:
        return train(scene, folder / "energy", at={1: lambda: act(scene)}, epochs=epochs)

    provoke.__name__ = name
    case(fault, GOES_ON, trace, *always, within(1), nothing_missing, simulated=True)(provoke)


STANDS_IN = "nothing is missing: power replaces the counter"
counter_case(
    "the counter stands still",
    STANDS_IN,
    "counter_stands_still",
    lambda scene: scene.driver.freeze_counter(0),
)
counter_case(
    "the counter restarts from 0",
    STANDS_IN,
    "counter_restarts",
    lambda scene: scene.driver.set_counter(0, joules=0),
)
counter_case(
    "the counter jumps ahead by 1 MJ",
    STANDS_IN,
    "counter_jumps",
    lambda scene: scene.driver.shift_counter(0, joules=1e6),
)


@case(
    "the counter runs backwards",
    GOES_ON,
    STANDS_IN,
    *always,
    within(1),
    nothing_missing,
    simulated=True,
)
def counter_runs_backwards(scene: Scene, folder: Path) -> Outcome:
    class Backwards:
        """What the driver says, but with a counter that falls as fast as it should rise."""

        def __init__(self, sensor: Sensor) -> None:
            self.sensor, self.device = sensor, sensor.device
            self.began_s = scene.clock()

        def read(self, time_s: float) -> Reading:
            reading = self.sensor.read(time_s)
            if time_s - self.began_s > 1.5:
                reading = reading._replace(energy_J=2e6 - reading.energy_J)
            return reading

        def close(self) -> None:
            self.sensor.close()

    sensors = [Backwards(sensor) for sensor in detect([0], components=["gpu"])]
    return train(scene, folder / "energy", sensors=sensors)


@case(
    "the counter stands still on a board that reports no power",
    GOES_ON,
    "NaN from then on: no 0 J for a GPU that cannot be read",
    *always,
    unknown(1, 2, 3, 4),
    total_unknown,
    missing("gpu:0", 3.4, 5),
    simulated=True,
)
def counter_stands_still_alone(scene: Scene, folder: Path) -> Outcome:
    without_power(scene)
    at = {1: lambda: scene.driver.freeze_counter(0)}
    return train(scene, folder / "energy", at=at, epochs=5)


# ---------------------------------------------------------------------- power that is wrong


def power_case(name: str, fault: str, watts: float) -> None:
    def with_counter(scene: Scene, folder: Path) -> Outcome:
        at = {1: lambda: report_power(scene, watts)}
        scene.driver.fail(POWER, code=NOT_SUPPORTED, device=0)
        return train(scene, folder / "energy", at=at)

    with_counter.__name__ = name
    case(
        f"power reads {fault}",
        GOES_ON,
        "nothing is missing: the counter counts",
        *always,
        within(1),
        nothing_missing,
        simulated=True,
    )(with_counter)

    def alone(scene: Scene, folder: Path) -> Outcome:
        without_counter(scene)
        scene.driver.fail(POWER, code=NOT_SUPPORTED, device=0)
        at = {1: lambda: report_power(scene, watts)}
        return train(scene, folder / "energy", at=at, epochs=8)

    alone.__name__ = f"{name}_without_counter"
    case(
        f"power reads {fault}, on a board without counter",
        GOES_ON,
        "such readings count as failed: NaN from then on, never 0 J",
        *always,
        unknown(1, 2, 3, 4, 5, 6, 7),
        total_unknown,
        failed_readings("gpu:0", 55),
        simulated=True,
    )(alone)


power_case("power_reads_0", "0 W", 0)
power_case("power_reads_absurdly", "5 kW at a limit of 700 W", 5000)


@case(
    "power reads NaN, negative and infinite in turn",
    GOES_ON,
    "nothing is missing: the counter counts",
    *always,
    within(1),
    nothing_missing,
    simulated=True,
)
def power_reads_nan(scene: Scene, folder: Path) -> Outcome:
    class Odd:
        def __init__(self, sensor: Sensor, watts: Sequence[float]) -> None:
            self.sensor, self.device, self.watts = sensor, sensor.device, list(watts)

        def read(self, time_s: float) -> Reading:
            self.watts.append(self.watts.pop(0))
            return self.sensor.read(time_s)._replace(power_W=self.watts[0])

        def close(self) -> None:
            self.sensor.close()

    odd = (math.nan, -1.0, math.inf)
    sensors = [Odd(sensor, odd) for sensor in detect([0], components=["gpu"])]
    return train(scene, folder / "energy", sensors=sensors)


# ---------------------------------------------------------------------- calls that hang

HANG_S = 10.0
# A longer gap is not bridged.
BRIDGED_S = 5.0


@case(
    "a call of the driver hangs for 10 s",
    GOES_ON,
    "of the run nothing is missing: the counter covers the gap; epochs that ended more than 5 s "
    "before its end are NaN, over the others its energy is spread evenly",
    *always,
    total_within(1),
    fact("epochs that are NaN or not without reason", []),
    nothing_missing,
)
def driver_hangs(scene: Scene, folder: Path) -> Outcome:
    began_s = 0.0

    def hang() -> None:
        nonlocal began_s
        began_s = time.monotonic()
        scene.driver.delay(COUNTER, seconds=HANG_S, times=1)

    outcome = train(scene, folder / "energy", at={1: hang}, epochs=14, counter=True)
    # Of an epoch that ends so close to 5 s before, the time at which the call comes back decides.
    late_s = 0.5 + all_waited_s()
    wrong = []
    for number, (error, end_s) in enumerate(
        zip(outcome.epoch_errors, scene.ends_s[1:-1], strict=True)
    ):
        before_s = began_s + HANG_S - end_s
        if end_s > began_s and before_s > BRIDGED_S + 0.1:
            is_wrong = error is not None
        elif end_s < began_s or before_s < BRIDGED_S - late_s:
            is_wrong = error is None or abs(error) > 20
        else:
            continue
        if is_wrong:
            wrong.append(f"epoch {number}: {error}")
    outcome.facts["epochs that are NaN or not without reason"] = wrong
    return outcome


@case(
    "a call of the driver hangs for ever",
    GOES_ON + "; its end takes 2 s longer",
    "NaN from then on; a warning at the end",
    goes_on,
    all_epochs_recorded,
    unknown(1, 2, 3, 4, 5, 6, 7, 8),
    total_unknown,
    fact("its end takes less than 3 s", True),
)
def driver_hangs_for_ever(scene: Scene, folder: Path) -> Outcome:
    at = {1: lambda: scene.driver.delay(COUNTER, seconds=100, times=1)}
    outcome = train(scene, folder / "energy", at=at, epochs=9, counter=True)
    outcome.facts["its end takes less than 3 s"] = scene.end_took_s < 3
    return outcome
