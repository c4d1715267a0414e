"""The recorder and its parts, with sensors whose watts are known."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import trapezoid

from energyest import load_trace
from energyest.errors import ConfigurationError
from energyest.measure.ledger import Event, Ledger, Mark, Usage
from energyest.measure.meter import Meter
from energyest.measure.reading_table import ROWS_PER_RATE, ReadingTable
from energyest.measure.recorder import Recorder
from energyest.measure.run_account import RunAccount
from energyest.measure.sampling.sampler import Alarm, Round, Sampler
from energyest.measure.sensors import Device, Reading
from energyest.records.epoch_table import EpochTable
from simulation.stepped import WRITE_S, Clock, without_threads
from tests.support.sensors import Constant, Failing
from tests.support.threads import is_within

# So long may the end of a run wait for its threads; a second is enough where nobody else is busy.
PATIENT_S = 60.0


def record(tmp_path: Path | None, *sensors: Constant, epochs: int = 3) -> Recorder:
    recorder = Recorder(sensors, folder=None if tmp_path is None else tmp_path / "energy")
    recorder.start()
    for _ in range(epochs):
        recorder.start_epoch(continues=True)
        time.sleep(0.05)
        recorder.end_epoch({"loss": 0.5})
    recorder.stop(timeout_s=PATIENT_S)
    return recorder


# ---------------------------------------------------------------------- recorder


def test_components_and_totals() -> None:
    sensors = Constant(300), Constant(100, "gpu:1"), Constant(20, "cpu:0")
    recorder = record(None, *sensors)
    epochs = recorder.trace().epochs
    assert np.allclose(epochs["gpu_energy_J"], 400 * epochs["duration_s"])
    assert np.allclose(epochs["cpu_energy_J"], 20 * epochs["duration_s"])
    assert np.isnan(epochs["ram_energy_J"]).all()
    assert np.allclose(epochs["energy_J"], 420 * epochs["duration_s"])
    assert np.allclose(epochs["mean_power_W"], 420)
    meta = recorder.trace().meta
    assert meta["total_J"] == pytest.approx(420 * meta["duration_s"])
    assert [d["missing_s"] for d in meta["devices"]] == [0, 0, 0]
    assert all(sensor.closed and not sensor.reads_once_closed for sensor in sensors)


def test_epochs_lie_end_to_end() -> None:
    epochs = record(None, Constant(10)).trace().epochs
    assert list(epochs["start_s"][1:]) == list(epochs["end_s"][:-1])


def test_disk_and_memory_agree(tmp_path: Path) -> None:
    recorder = record(tmp_path, Constant(300), Constant(20, "cpu:0"))
    assert recorder.folder is not None
    loaded, trace = load_trace(recorder.folder), recorder.trace()
    assert loaded.epochs.equals(trace.epochs)
    assert np.allclose(loaded.power["time_s"], trace.power["time_s"], atol=1e-6)
    assert loaded.meta == trace.meta
    assert loaded.meta["status"] == "finished"


def test_rows_are_on_disk_while_the_run_goes_on(tmp_path: Path) -> None:
    recorder = Recorder([Constant(300)], folder=tmp_path / "energy")
    recorder.start()
    for _ in range(2):
        recorder.start_epoch()
        time.sleep(0.05)
        recorder.end_epoch()
    assert is_within(lambda: len(load_trace(tmp_path / "energy")) == 2)
    trace = load_trace(tmp_path / "energy")
    assert trace.meta["status"] == "running"
    # Readings follow, though no row does.
    ended_s = trace.column("end_s")[-1]
    assert is_within(lambda: load_trace(tmp_path / "energy").power["time_s"].max() > ended_s + 0.1)
    recorder.stop(timeout_s=PATIENT_S)


def test_a_taken_folder_is_left_alone(tmp_path: Path) -> None:
    first, second = record(tmp_path, Constant(1)), record(tmp_path, Constant(2))
    assert first.folder == tmp_path / "energy"
    assert second.folder == tmp_path / "energy-2"
    assert load_trace(first.folder).epochs["mean_power_W"][0] == pytest.approx(1)


def test_folder_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    recorder = record(tmp_path / "file", Constant(300))
    assert recorder.folder is None
    assert [r.message for r in caplog.records if "cannot be written" in r.message] != []
    assert len(caplog.records) == 1
    trace = recorder.trace()
    assert len(trace) == 3
    assert len(load_trace(trace.save(tmp_path / "elsewhere"))) == 3


def test_disk_that_fails_in_mid_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder([Constant(300)], folder=tmp_path / "energy")
    recorder.start()
    recorder.start_epoch()
    recorder.end_epoch()
    assert is_within(lambda: len(load_trace(tmp_path / "energy")) == 1)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("energyest.records.own_files.write", full)
    for _ in range(3):
        recorder.start_epoch()
        time.sleep(0.05)
        recorder.end_epoch()
    recorder.stop(timeout_s=PATIENT_S)
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "No space left" in caplog.text
    assert len(recorder.trace()) == 4
    assert len(load_trace(tmp_path / "energy")) == 1  # what was written stays readable


def test_broken_sensor_is_missing_not_zero(caplog: pytest.LogCaptureFixture) -> None:
    broken = Failing(0, error=RuntimeError("no such sensor any more"))
    recorder = record(None, broken, Constant(20, "cpu:0"))
    epochs = recorder.trace().epochs
    assert np.isnan(epochs["gpu_energy_J"]).all()
    assert np.isnan(epochs["energy_J"]).all()
    assert np.allclose(epochs["cpu_energy_J"], 20 * epochs["duration_s"])
    device = recorder.trace().meta["devices"][0]
    assert device["energy_J"] is None
    assert device["missing_s"] == pytest.approx(recorder.trace().meta["duration_s"], rel=1e-3)
    assert 3 <= device["failed_readings"] <= broken.reads
    assert len([r for r in caplog.records if "could not be read" in r.message]) == 1


def test_no_sensors_at_all() -> None:
    recorder = record(None)
    assert len(recorder.trace()) == 3
    assert np.isnan(recorder.trace().epochs["energy_J"]).all()
    assert math.isnan(recorder.trace().total_J)


def test_row_is_there_at_once_and_close_to_the_final_one() -> None:
    recorder = Recorder([Constant(300)], interval_s=10.0)  # no reading comes by itself
    recorder.start()
    recorder.start_epoch()
    time.sleep(0.05)
    row = recorder.end_epoch({"loss": 1.0})
    assert row["energy_J"] == pytest.approx(300 * row["duration_s"])
    assert list(recorder.trace().column("loss")) == [1.0]
    recorder.add_metrics({"val_acc": 0.5})
    assert list(recorder.trace().column("val_acc")) == [0.5]
    recorder.stop()
    assert list(recorder.trace().column("val_acc")) == [0.5]
    assert recorder.trace().column("energy_J")[0] == pytest.approx(row["energy_J"])


def test_late_metrics_reach_the_disk(tmp_path: Path) -> None:
    clock = Clock()
    # Without its thread, so that the writer comes exactly where it is told to.
    with without_threads(clock):
        recorder = Recorder([Constant(1)], folder=tmp_path / "energy", clock=clock)
        recorder.start()
        recorder.start_epoch(7)
        clock.sleep(1.0)
        recorder.end_epoch()
        recorder.add_metrics({"val_acc": 0.5})
        clock.sleep(WRITE_S + 1.0)
        assert recorder._writer is not None
        recorder._writer.write_waiting()
        file = tmp_path / "energy" / "epochs.jsonl"
        assert file.read_text().endswith("\n")
        recorder.add_metrics({"val_f1": 0.25})
        recorder.stop()
    row, *amended = [json.loads(line) for line in file.read_text().splitlines()]
    assert row["epoch"] == 7
    assert "val_acc" not in row  # it had been handed to the writer before
    assert amended == [
        {"amends_row": 0, "val_acc": 0.5},
        {"amends_row": 0, "val_f1": 0.25},
    ]
    trace = load_trace(tmp_path / "energy")
    assert list(trace.column("val_acc")) == [0.5]
    assert list(trace.column("val_f1")) == [0.25]


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_gap_is_not_told_as_0_by_power(is_whole: bool) -> None:
    account = RunAccount([Device("gpu:0", "gpu", "x", "measured", "made up")], 0.0, 0.1)

    def read(time_s: float, *, is_whole: bool) -> None:
        reading = Reading(time_s, "gpu:0", 100.0)
        account.see([reading])
        account.add_round(Round(time_s, [reading], {}, is_whole))
        account.settle(is_whole=is_whole)

    read(0.0, is_whole=True)
    account.post(Mark(0.0, Event.RUN_START))
    account.post(Mark(0.0, Event.EPOCH_START))
    read(1.0, is_whole=True)
    assert account.total_J(1.0) == pytest.approx(100)
    read(7.0, is_whole=is_whole)  # 6 s in which nothing was read are no part of any sum
    read(7.1, is_whole=False)
    assert math.isnan(account.total_J(7.2))
    account.post(Mark(7.2, Event.EPOCH_END))
    assert math.isnan(account.last_row()["energy_J"])


def test_pause_counts_nowhere(clock: Clock) -> None:
    recorder = Recorder([Constant(100)])
    recorder.start()
    recorder.start_epoch()
    clock.sleep(0.1)
    recorder.pause()
    clock.sleep(0.5)
    recorder.resume()
    row = recorder.end_epoch()
    recorder.stop()
    assert row["duration_s"] == pytest.approx(0.1)
    assert row["energy_J"] == pytest.approx(10)
    assert recorder.total_J == pytest.approx(10, abs=1)  # and the last round


def test_an_interrupted_epoch_is_not_an_epoch(clock: Clock) -> None:
    recorder = Recorder([Constant(100)])
    recorder.start()
    recorder.start_epoch()
    recorder.end_epoch()
    recorder.start_epoch()
    clock.sleep(0.5)
    recorder.start_validation()
    clock.sleep(0.25)
    recorder.stop("interrupted by ValueError", {"steps": 3.0})
    meta = recorder.trace().meta
    assert len(recorder.trace()) == 1
    assert meta["interrupted_epoch"]["epoch"] == 1
    assert meta["interrupted_epoch"]["steps"] == 3
    assert meta["interrupted_epoch"]["energy_J"] == pytest.approx(75)
    assert meta["interrupted_epoch"]["validation_s"] == pytest.approx(0.25)
    assert meta["interrupted_epoch"]["validation_energy_J"] == pytest.approx(25)
    recorder.stop()  # a second time does nothing
    assert recorder.trace().meta["status"] == "interrupted by ValueError"


def test_bad_interval() -> None:
    with pytest.raises(ConfigurationError, match="interval_s=0"):
        Recorder([Constant(1)], interval_s=0)


# ---------------------------------------------------------------------- sampler


class Slow(Constant):
    """A device whose readings take a given time."""

    def __init__(self, clock: Clock, takes_s: float) -> None:
        super().__init__(5)
        self.clock, self.takes_s = clock, takes_s

    def read(self, time_s: float) -> Reading:
        self.clock.now_s += self.takes_s
        return super().read(time_s)


class Wake:
    """Stands in for the event for which a sampler's thread waits between two rounds.

    Args:
        clock: advances by the time waited.
        until_s: when the sampler is to stop.
        requests: when a round is requested within a wait, as shares of the wait.
    """

    def __init__(self, clock: Clock, sampler: Sampler, until_s: float, *requests: float) -> None:
        self.clock, self.sampler, self.until_s = clock, sampler, until_s
        self.requests = list(requests)

    def clear(self) -> None:
        pass

    def wait(self, timeout_s: float) -> None:
        share = self.requests.pop(0) if self.requests else 1
        self.clock.now_s += max(timeout_s, 0) * share
        if share < 1:
            self.sampler._waiting.append((self.sampler._started + 1, Alarm()))
        self.sampler._stopping = self.clock.now_s >= self.until_s


def rounds_of(takes_s: float, until_s: float, *requests: float, hangs: int = -1) -> list[float]:
    """When the rounds of a sampler begin that reads every 20 ms, in the place of its thread."""
    clock = Clock()
    sensor = Slow(clock, takes_s)
    rounds: list[float] = []

    def note(taken: Round) -> None:
        rounds.append(taken.began_s)
        sensor.takes_s = 0.33 if len(rounds) == hangs else takes_s

    sampler = Sampler([sensor], note, interval_s=0.02, clock=clock)
    sampler._wake = Wake(clock, sampler, until_s, *requests)  # type: ignore[assignment]
    sampler._run()
    assert sensor.closed
    return rounds


def test_sampler_keeps_its_beat() -> None:
    assert rounds_of(0.005, until_s=0.5) == pytest.approx(np.arange(26) * 0.02)


def test_requested_rounds_do_not_delay_the_beat() -> None:
    rounds = rounds_of(0.0, 0.5, *[0.25, 0.5, 1] * 20)
    assert len(rounds) > 60
    for beat_s in np.arange(25) * 0.02:
        assert np.abs(np.array(rounds) - beat_s).min() < 1e-9


def test_rounds_that_a_hanging_call_has_cost_are_not_made_up_for() -> None:
    rounds = rounds_of(0.005, 0.5, hangs=3)
    assert rounds[:4] == pytest.approx([0, 0.02, 0.04, 0.06])
    assert np.diff(rounds)[3:] == pytest.approx([0.33, *[0.02] * (len(rounds) - 5)])


def test_requested_rounds_begin_after_the_request() -> None:
    rounds: list[float] = []
    sampler = Sampler([Constant(1)], lambda taken: rounds.append(taken.began_s), interval_s=0.05)
    sampler.start(PATIENT_S)
    for _ in range(200):
        asked = time.monotonic()
        assert sampler.sample_now(PATIENT_S)
        assert rounds[-1] >= asked
    assert sampler.stop(PATIENT_S)


def test_a_reading_that_took_too_long_is_dropped() -> None:
    clock = Clock()
    seen: list[Reading] = []
    for takes_s in (0.2, 0.4):
        sampler = Sampler(
            [Slow(clock, takes_s)], lambda taken: seen.extend(taken.readings), clock=clock
        )
        sampler.read_round()
    assert [reading.power_W for reading in seen] == pytest.approx([5, math.nan], nan_ok=True)


def test_an_error_in_recording_does_not_end_the_thread(caplog: pytest.LogCaptureFixture) -> None:
    calls = []

    def fail(taken: Round) -> None:
        calls.append(taken.began_s)
        raise ValueError("bug")

    sampler = Sampler([Constant(1)], fail, interval_s=0.01)
    sampler.start(PATIENT_S)
    assert is_within(lambda: len(calls) > 3)
    assert sampler.stop(PATIENT_S)
    assert len(caplog.records) == 1


# ---------------------------------------------------------------------- meter


@pytest.mark.parametrize("fold_every", [1, 7, 10_000])
def test_meter_equals_the_integral_whatever_it_forgets(
    fold_every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("energyest.measure.meter._FOLD_AT", 2)
    rng = np.random.default_rng(0)
    time_s = np.cumsum(rng.uniform(0.05, 0.15, 2000))
    power = rng.uniform(50, 400, 2000)
    power[rng.random(2000) < 0.1] = math.nan
    power[0] = 100.0
    truth = np.interp(time_s, time_s[~np.isnan(power)], power[~np.isnan(power)])
    meter = Meter(max_gap_s=5)
    start = None
    for i, (t, p) in enumerate(zip(time_s, power, strict=True)):
        meter.add(Reading(t, "gpu:0", power_W=p))
        if i == 100:
            start = meter.value_at(t)
        if i % fold_every == 0:
            meter.forget(t)
    end = meter.value_at(time_s[-1])
    assert start is not None
    expected = trapezoid(truth[100:], time_s[100:])
    # Readings that failed just at the two instants were bridged with less than is known now.
    assert end.energy_J - start.energy_J == pytest.approx(expected, rel=1e-3)
    assert end.covered_s - start.covered_s == pytest.approx(time_s[-1] - time_s[100], abs=1e-6)


def test_meter_keeps_the_counter_across_failed_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("energyest.measure.meter._FOLD_AT", 2)
    meter = Meter(max_gap_s=5)
    for i in range(101):
        # Power lies; the counter, which fails nine times out of ten, says 300 W.
        counter = 30.0 * i if i % 10 == 0 else math.nan
        meter.add(Reading(i / 10, "gpu:0", power_W=1.0, energy_J=counter))
        meter.forget(i / 10)
    assert meter.value_at(10.0).energy_J == pytest.approx(3000)


@pytest.mark.parametrize("stall_s", [1.0, 3.0])
@pytest.mark.parametrize("since_s", np.arange(22.05, 28, 0.5))
def test_meter_notices_a_counter_that_stands_still_while_readings_are_folded(
    since_s: float, stall_s: float
) -> None:
    meter = Meter(max_gap_s=5)
    for i in range(400):
        time_s = i / 10
        # 100 W all along; the counter stands still for a while, and nothing makes up for it.
        counted_s = min(time_s, since_s) + max(0.0, time_s - since_s - stall_s)
        meter.add(Reading(time_s, "gpu:0", power_W=100.0, energy_J=100 * counted_s))
        meter.forget(time_s)
    assert meter.value_at(39.9).energy_J == pytest.approx(3990)


def test_meter_memory_is_bounded_even_if_an_instant_is_held() -> None:
    meter = Meter(max_gap_s=5)
    for i in range(20_000):
        meter.add(Reading(i / 10, "gpu:0", power_W=100.0))
    assert len(meter._time) <= 4097
    assert meter.value_at(1999.9).energy_J == pytest.approx(199_990)


def test_meter_without_readings_covers_nothing() -> None:
    meter = Meter(max_gap_s=5)
    before = meter.value_at(0)
    meter.add(Reading(3.0, "gpu:0", power_W=100))
    meter.add(Reading(4.0, "gpu:0", power_W=100))
    after = meter.value_at(4.0)
    assert after.covered_s - before.covered_s == pytest.approx(1)
    assert after.energy_J - before.energy_J == pytest.approx(100)


# ---------------------------------------------------------------------- ledger and tables


def usage(time_s: float, watts: float = 100.0) -> Usage:
    return Usage(time_s, (watts * time_s,), (time_s,))


def play(*events: tuple[float, Event]) -> tuple[Ledger, list[dict[str, float]]]:
    ledger = Ledger([Constant(100.0).device], origin_s=0.0)
    rows = [ledger.post(Mark(t, event), usage(t)) for t, event in events]
    return ledger, [row for row in rows if row is not None]


def test_ledger_separates_validation_and_pause() -> None:
    ledger, (row,) = play(
        (0, Event.RUN_START),
        (1, Event.EPOCH_START),
        (5, Event.VALIDATION_START),
        (6, Event.PAUSE_START),
        (8, Event.PAUSE_END),
        (9, Event.VALIDATION_END),
        (11, Event.EPOCH_END),
        (12, Event.RUN_END),
    )
    assert row["duration_s"] == 8
    assert row["energy_J"] == 800
    assert row["validation_s"] == 2
    assert row["validation_energy_J"] == 200
    assert (row["start_s"], row["end_s"]) == (1, 11)
    assert ledger.run_usage().time_s == 10
    assert ledger.interrupted is None


def test_ledger_takes_marks_that_do_not_pair() -> None:
    ledger, rows = play(
        (0, Event.RUN_START),
        (1, Event.EPOCH_END),
        (2, Event.VALIDATION_END),
        (3, Event.PAUSE_END),
        (4, Event.EPOCH_START),
        (5, Event.VALIDATION_START),
        (7, Event.EPOCH_END),
        (8, Event.VALIDATION_END),
        (9, Event.RUN_END),
    )
    (row,) = rows
    assert row["validation_s"] == 2  # up to the end of its epoch
    assert ledger.run_usage().time_s == 9


def test_epoch_table_grows_columns() -> None:
    table = EpochTable()
    with pytest.raises(LookupError, match="no row"):
        table.amend({"lost": 1.0})
    table.append({"a": 1.0})
    table.append({"a": 2.0, "b": 3.0})
    table.amend({"c": 4.0})
    columns = table.columns()
    assert set(columns) == {"a", "b", "c"}
    assert np.array_equal(columns["b"], [math.nan, 3.0], equal_nan=True)
    assert np.array_equal(columns["c"], [math.nan, 4.0], equal_nan=True)


def test_readings_are_thinned_and_keep_their_mean() -> None:
    table = ReadingTable()
    total = 10 * ROWS_PER_RATE
    rng = np.random.default_rng(0)
    power = rng.uniform(0, 100, total)
    for i in range(total):
        table.add([Reading(i / 10, "gpu:0", power_W=power[i], energy_J=float(i))])
    columns = table.columns()
    # 1, then 2, then 4 readings a row, for as many rows each; the rest at 8.
    assert len(columns["time_s"]) == 3 * ROWS_PER_RATE + 3 * ROWS_PER_RATE // 8
    assert list(columns["time_s"][:3]) == [0, 0.1, 0.2]
    tail = columns["power_W"][ROWS_PER_RATE : 2 * ROWS_PER_RATE]
    assert tail.mean() == pytest.approx(power[ROWS_PER_RATE : 3 * ROWS_PER_RATE].mean())
    # The counter value belongs to the row's own time.
    assert np.allclose(columns["energy_J"], columns["time_s"] * 10)
