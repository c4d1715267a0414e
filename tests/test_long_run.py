"""The growth of data during a run; `benchmarks/endurance/long_run.py` runs a month."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from energyest import EnergyTrace, load_trace
from energyest.measure import reading_table
from energyest.measure.checkpoint import RunCheckpoint
from energyest.measure.folder import TraceFolder
from energyest.measure.meter import Meter, PowerIntegral
from energyest.measure.reading_table import ROWS_PER_RATE, ReadingTable
from energyest.measure.recorder import Recorder
from energyest.measure.sensors import Reading
from energyest.records.epoch_table import EpochTable
from simulation.stepped import Clock, Run, WaveSensor, epoch_errors, sensors, without_threads
from tests.support.sensors import Constant

EPOCH_S = 61.3
ROW_BYTES = 6 * 8 + 2  # numbers of 8 bytes and that of the device


@pytest.fixture(autouse=True)
def _without_threads() -> Iterator[None]:
    with without_threads():
        yield


def most_rows(readings: int, rows_per_rate: int = ROWS_PER_RATE) -> float:
    """The rows for a number of readings; each rate merges twice as many as the one before."""
    return rows_per_rate * (math.log2(readings / rows_per_rate + 1) + 0.1)


def table_bytes(table: ReadingTable) -> int:
    arrays = [table._devices, *table._columns.values()]
    return sum(array.buffer_info()[1] * array.itemsize for array in arrays)


@pytest.mark.long
def test_an_hour_of_eight_gpus(tmp_path: Path) -> None:
    devices = sensors(8)
    run = Run(devices, tmp_path / "energy", hz=10, epoch_s=EPOCH_S)
    accounts, table, writer = run.recorder._account, run.recorder._readings, run.recorder._writer
    assert writer is not None
    rows = {}
    for minutes in (15, 30, 60):
        run.go_on(60.0 * minutes)
        rows[minutes] = len(table._devices)
        assert rows[minutes] <= most_rows(600 * minutes * len(devices))
        assert table_bytes(table) == ROW_BYTES * rows[minutes]
        # What waits for more readings, for the disk or for an epoch to be booked.
        assert len(table._waiting) == len(devices)
        assert all(len(meter._time) <= 256 for meter in accounts._meters.values())
        assert not accounts._news
        assert not accounts.has_pending
        assert len(writer._news.readings) <= len(devices)
    # As many rows for the second half of the hour as for the quarter before.
    assert rows[60] - rows[30] == pytest.approx(rows[30] - rows[15], rel=0.1)
    run.recorder.stop()

    trace = load_trace(tmp_path / "energy")
    energy_error, duration_error_s = epoch_errors(devices, trace, EPOCH_S)
    assert len(trace) == 3600 // EPOCH_S
    assert abs(energy_error).max() < 1e-6
    assert abs(duration_error_s).max() < 1e-6
    in_memory = run.recorder.trace()
    assert len(trace.power_columns["time_s"]) == len(in_memory.power_columns["time_s"])


def test_rows_grow_as_the_logarithm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_table, "ROWS_PER_RATE", 60)
    table = ReadingTable()
    for i in range(100_000):
        table.add([Reading(i / 10, "gpu:0", power_W=1.0), Reading(i / 10, "cpu:0", power_W=2.0)])
    columns = table.columns()
    assert len(columns["time_s"]) <= most_rows(200_000, 60)
    # Whatever the rate, the rows of all devices have the same times.
    times = [columns["time_s"][columns["device"] == name] for name in ("gpu:0", "cpu:0")]
    assert np.array_equal(*times)
    # A device has 30 rows of each rate: none is longer than a fifteenth of the run so far.
    share = np.diff(times[0]) / times[0][1:]
    assert share[30:].max() <= 1 / 15


def test_all_devices_share_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_table, "ROWS_PER_RATE", 600)
    sizes = []
    for devices in (1, 10):
        table = ReadingTable()
        for i in range(60_000 // devices):
            table.add([Reading(i / 10, f"gpu:{n}", power_W=1.0) for n in range(devices)])
        sizes.append(len(table.columns()["time_s"]))
    assert sizes[1] == pytest.approx(sizes[0], rel=0.01)


def test_a_row_is_the_mean_of_what_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_table, "ROWS_PER_RATE", 1)
    table = ReadingTable(origin_s=100.0)
    watts = [5.0, 10.0, math.nan, math.nan, math.nan, math.nan, math.nan]
    for i, power_W in enumerate(watts):
        table.add([Reading(100.0 + i, "gpu:0", power_W, energy_J=float(i), utilization=0.5)])
    columns = table.columns()
    assert list(columns["time_s"]) == [0, 2, 6]  # 1, then 2, then 4 readings to a row
    assert np.array_equal(columns["power_W"], [5, 10, math.nan], equal_nan=True)
    assert list(columns["energy_J"]) == [0, 2, 6]
    assert list(columns["utilization"]) == [0.5, 0.5, 0.5]


class Faulty(WaveSensor):
    """A device with quantities that cannot be read."""

    lost: tuple[str, ...] = ()

    def read(self, time_s: float) -> Reading:
        return super().read(time_s)._replace(**dict.fromkeys(self.lost, math.nan))


class Dead(WaveSensor):
    def read(self, time_s: float) -> Reading:
        raise RuntimeError("fell off the bus")


@pytest.mark.long
def test_devices_that_fail_for_long_leave_nothing_behind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole, *others = sensors(3)[:3]
    power_only = Faulty("gpu:7", "gpu", whole.wave, counter=True)
    counter_only = Faulty("gpu:8", "gpu", whole.wave, counter=True)
    dead = Dead("gpu:9", "gpu", whole.wave, counter=True)
    run = Run([whole, *others, power_only, counter_only, dead], None, hz=10, epoch_s=EPOCH_S)
    run.go_on(60)
    power_only.lost, counter_only.lost = ("energy_J",), ("power_W",)
    run.go_on(1800)
    accounts = run.recorder._account
    lengths = {name: len(meter._time) for name, meter in accounts._meters.items()}
    assert max(lengths.values()) <= 4096
    assert lengths["gpu:9"] == 0
    assert not accounts.has_pending
    assert not accounts._news  # nobody writes them
    assert len([record for record in caplog.records if "gpu:9" in record.message]) == 1
    run.recorder.stop()
    failed = [device["failed_readings"] for device in run.recorder.trace().devices]
    assert failed[:3] == [0, 0, 0]
    assert failed[-1] > 18_000


def test_a_sampler_that_hangs_leaves_no_lines_behind() -> None:
    run = Run(sensors(1), None, hz=10, epoch_s=EPOCH_S)
    run.recorder._sampler.sample_now = lambda timeout_s: False  # type: ignore[method-assign]
    for _ in range(50):
        run.clock.now_s += 100
        run.recorder.end_epoch()
        run.recorder.start_epoch()
    assert len(run.recorder.trace()) == 50
    assert not run.recorder._account._news
    assert len(run.recorder._account._pending) <= 2  # the last end and start of an epoch


def test_epochs_take_8_bytes_a_value() -> None:
    table = EpochTable()
    row = {f"column {i}": float(i) for i in range(14)}
    for _ in range(20_000):
        table.append(row)
    sizes = [a.buffer_info()[1] * a.itemsize for a in table._columns.values()]
    assert sum(sizes) == 20_000 * 14 * 8


def test_a_trace_holds_the_columns_once() -> None:
    run = Run(sensors(1), None, hz=10, epoch_s=EPOCH_S)
    run.go_on(200)
    columns = run.recorder._readings.columns()
    trace = EnergyTrace(run.recorder._account.columns(), columns)
    for name, values in columns.items():
        assert np.shares_memory(trace.power_columns[name], values)
    # What its maker can still write to is copied.
    mine = np.array([1.0, 2.0])
    view = mine[:]
    view.flags.writeable = False
    for values in (mine, view):
        assert not np.shares_memory(EnergyTrace({"energy_J": values}).column("energy_J"), mine)
    # Nobody can write to a part of what is fixed.
    mine.flags.writeable = False
    assert np.shares_memory(EnergyTrace({"energy_J": mine[:1]}).column("energy_J"), mine)


def test_folding_and_forgetting_change_no_energy() -> None:
    rng = np.random.default_rng(3)
    time_s = np.cumsum(rng.uniform(0.05, 0.15, 3000))
    power_W = rng.uniform(50, 400, 3000)
    counter_J = np.append(0, np.cumsum(np.diff(time_s) * 300))
    counter_J[rng.random(3000) < 0.2] = math.nan
    forgetful, whole = Meter(5.0), Meter(5.0)
    integral = PowerIntegral(5.0)
    for at_s, watts, joules in zip(time_s, power_W, counter_J, strict=True):
        reading = Reading(at_s, "gpu:0", watts, joules)
        for meter in (forgetful, whole, integral):
            meter.add(reading)
        forgetful.forget(at_s - 1)
    assert len(forgetful._time) < 300 < len(whole._time)
    at_s = [time_s[-1] - 0.5, time_s[-1]]
    for value, expected in zip(forgetful.values_at(at_s), whole.values_at(at_s), strict=True):
        assert np.allclose(value, expected, rtol=1e-12)
    trapezoids_J = np.diff(time_s) * (power_W[1:] + power_W[:-1]) / 2
    assert integral.energy_J == pytest.approx(trapezoids_J.sum(), rel=1e-12)


@pytest.mark.parametrize("still_s", [0.8, 1.6, 3.0, 6.0])
def test_forgetting_in_a_standstill_takes_nothing_back(still_s: float) -> None:
    """Energy counted by power during a standstill is not lost when the counter moves again."""
    for late_s in np.arange(0.05, still_s + 1, 0.1):
        forgetful, whole = Meter(5.0), Meter(5.0)
        time_s = np.arange(0, 40, 0.1)
        end_s = 30 + still_s
        counter_J = 300 * (np.minimum(time_s, 30) + np.maximum(time_s - end_s, 0))
        for at_s, joules in zip(time_s, counter_J, strict=True):
            for meter in (forgetful, whole):
                meter.add(Reading(at_s, "gpu:0", 300.0, joules))
        # Of what is forgotten, the last is from four seconds before.
        forgotten_s = end_s - late_s + 4
        forgetful.forget(forgotten_s)
        assert len(forgetful._time) < len(whole._time)
        at_s = [forgotten_s, 39.9]
        for value, expected in zip(forgetful.values_at(at_s), whole.values_at(at_s), strict=True):
            assert np.allclose(value, expected, rtol=1e-12)
        assert forgetful.value_at(39.9).energy_J == pytest.approx(300 * 39.9, rel=1e-3)


def test_a_standstill_without_end_is_forgotten_too() -> None:
    meter = Meter(5.0)
    for at_s in np.arange(0, 1000, 0.1):
        meter.add(Reading(at_s, "gpu:0", 300.0, 1e6))
        meter.forget(at_s)
    assert len(meter._time) < 300
    assert meter.value_at(999.9).energy_J == pytest.approx(300 * 999.9)


def test_a_long_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its earlier rows are appended once, and not rewritten as if they had waited too long."""
    monkeypatch.setattr(TraceFolder, "bring_back", None)
    rows = 25_000
    end_s = np.arange(1.0, rows + 1)
    energy_J = np.where(end_s % 100 == 0, math.nan, 50.5)
    columns = {"epoch": end_s - 1, "start_s": end_s - 1, "end_s": end_s, "duration_s": end_s**0}
    before = EnergyTrace(
        {**columns, "steps": 8 * end_s**0, "energy_J": energy_J},
        meta={"total_J": None, "duration_s": float(rows)},
    )
    earlier = RunCheckpoint.from_state_dict(RunCheckpoint.of(before).state_dict())
    assert (earlier.steps, earlier.duration_s, earlier.next_epoch) == (8 * rows, rows, rows)
    clock = Clock()
    recorder = Recorder([Constant(100)], folder=tmp_path / "energy", clock=clock)
    recorder.continue_from(earlier)
    recorder.start()
    recorder.start_epoch(rows)
    clock.sleep(4)
    recorder.end_epoch()
    recorder.add_metrics({"val_acc": 0.5})
    recorder.stop()
    loaded = load_trace(tmp_path / "energy")
    for trace in (recorder.trace(), loaded):
        np.testing.assert_array_equal(trace.column("epoch"), np.arange(rows + 1))
        np.testing.assert_array_equal(trace.column("energy_J")[:-1], energy_J)
        np.testing.assert_array_equal(trace.column("end_s")[:-1], end_s - rows)
        assert trace.column("energy_J")[-1] == pytest.approx(400, rel=1e-2)
        np.testing.assert_array_equal(np.flatnonzero(trace.column("val_acc") == 0.5), [rows])


def test_power_across_a_gap_is_not_bridged() -> None:
    integral = PowerIntegral(max_gap_s=5.0)
    for at_s, power_W in ((0, 10), (1, 10), (2, math.nan), (3, 10), (20, 10), (21, 30)):
        integral.add(Reading(at_s, "gpu:0", power_W))
    assert integral.energy_J == 10 + 20 + 20
