"""RAPL's energy counters: packages, their memory, and what becomes of counters that fail."""

from __future__ import annotations

import functools
import math
import os
from pathlib import Path

import psutil
import pytest

import energyest.measure.sensors as sensors_module
from energyest import track
from energyest.measure.sensors import Sensor, detect
from energyest.measure.sensors.cpu import Utilization
from energyest.measure.sensors.kernel.rapl import RaplDramSensor, RaplSensor
from simulation.stepped import Clock

# Of a Xeon: the counter wraps after 2**32 units of 61 µJ, which takes some 20 minutes at 200 W.
RANGE_UJ = 262_143_328_850


class Powercap:
    """A folder as the kernel's powercap interface shows it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(self, domain: str, name: str, energy_uj: int, limit_w: int | None = None) -> None:
        (self.root / domain).mkdir()
        (self.root / domain / "name").write_text(f"{name}\n")
        (self.root / domain / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
        if limit_w is not None:
            limit = self.root / domain / "constraint_0_power_limit_uw"
            limit.write_text(f"{limit_w * 10**6}\n")
        self.set(domain, energy_uj)

    def set(self, domain: str, energy_uj: int) -> None:
        self.counter(domain).write_text(f"{energy_uj}\n")

    def break_counter(self, domain: str) -> None:
        """Make reading the counter an OSError, for root as well."""
        self.counter(domain).unlink()
        self.counter(domain).mkdir()

    def repair_counter(self, domain: str, energy_uj: int) -> None:
        self.counter(domain).rmdir()
        self.set(domain, energy_uj)

    def counter(self, domain: str) -> Path:
        return self.root / domain / "energy_uj"


@pytest.fixture
def powercap(tmp_path: Path) -> Powercap:
    """Two packages."""
    powercap = Powercap(tmp_path)
    powercap.add("intel-rapl:0", "package-0", 5_000_000, limit_w=150)
    powercap.add("intel-rapl:1", "package-1", 900_000_000, limit_w=200)
    return powercap


def test_rapl_adds_the_packages_up(powercap: Powercap) -> None:
    sensor = RaplSensor(powercap.root)
    first = sensor.read(100.0)
    powercap.set("intel-rapl:0", 35_000_000)
    powercap.set("intel-rapl:1", 990_000_000)
    second = sensor.read(102.0)

    assert math.isnan(first.power_W)  # of one reading no power is known
    assert second.energy_J - first.energy_J == pytest.approx(30 + 90)
    assert second.power_W == pytest.approx(60)
    assert sensor.device.source == "measured"
    assert sensor.device.power_limit_W == pytest.approx(350)


def test_rapl_tells_how_busy_the_processors_are(
    powercap: Powercap, monkeypatch: pytest.MonkeyPatch
) -> None:
    sensor = RaplSensor(powercap.root)
    monkeypatch.setattr(Utilization, "since_last_call", lambda self: 0.25)
    assert sensor.read(0.0).utilization == 0.25
    assert sensor.device.details["threads"] == os.cpu_count()


def test_rapl_counters_wrap(powercap: Powercap) -> None:
    powercap.set("intel-rapl:1", RANGE_UJ - 1_000_000)
    sensor = RaplSensor(powercap.root)
    readings = []
    for time_s, counter_uj in enumerate([RANGE_UJ - 400_000, 2_000_000, 7_000_000]):
        powercap.set("intel-rapl:1", counter_uj)
        readings.append(sensor.read(float(time_s)))

    assert [r.energy_J - readings[0].energy_J for r in readings] == pytest.approx([0, 2.4, 7.4])
    assert [r.power_W for r in readings[1:]] == pytest.approx([2.4, 5.0])


@pytest.mark.parametrize(
    ("domain", "name"),
    [
        ("intel-rapl:0:0", "dram"),  # a part of package 0, or beside it
        ("intel-rapl:2", "psys"),  # the whole platform, both packages included
        ("intel-rapl-mmio:0", "package-0"),  # package 0 once more, through another interface
    ],
)
def test_rapl_counts_nothing_but_packages(powercap: Powercap, domain: str, name: str) -> None:
    powercap.add(domain, name, 0, limit_w=1000)
    sensor = RaplSensor(powercap.root)
    before = sensor.read(0.0)
    powercap.set("intel-rapl:0", 6_000_000)
    powercap.set(domain, 500_000_000)
    after = sensor.read(1.0)

    assert after.energy_J - before.energy_J == pytest.approx(1.0)
    assert after.power_W == pytest.approx(1.0)
    assert sensor.device.power_limit_W == pytest.approx(350)


def test_rapl_without_a_limit(tmp_path: Path) -> None:
    powercap = Powercap(tmp_path)
    powercap.add("intel-rapl:0", "package-0", 0)  # AMD's driver gives none
    assert "power_limit_W" not in RaplSensor(tmp_path).device.as_meta()


def test_rapl_that_cannot_be_read_at_the_start(powercap: Powercap) -> None:
    powercap.break_counter("intel-rapl:1")
    with pytest.raises(OSError, match="intel-rapl:1/energy_uj"):
        RaplSensor(powercap.root)


@pytest.mark.parametrize("root", ["", "missing"])
def test_rapl_without_packages(tmp_path: Path, root: str) -> None:
    with pytest.raises(FileNotFoundError, match="no processor package"):
        RaplSensor(tmp_path / root)


def test_rapl_that_fails_for_a_while_loses_no_energy(powercap: Powercap) -> None:
    sensor = RaplSensor(powercap.root)
    before = sensor.read(0.0)
    powercap.set("intel-rapl:0", 15_000_000)
    powercap.break_counter("intel-rapl:1")
    failed = sensor.read(1.0)
    powercap.repair_counter("intel-rapl:1", 920_000_000)
    after = sensor.read(2.0)

    # One package alone would pass for both.
    assert math.isnan(failed.power_W)
    assert math.isnan(failed.energy_J)
    assert after.energy_J - before.energy_J == pytest.approx(10 + 20)
    assert after.power_W == pytest.approx(15)


def test_rapl_that_reads_rubbish_gives_nan(powercap: Powercap) -> None:
    sensor = RaplSensor(powercap.root)
    powercap.counter("intel-rapl:0").write_text("")
    assert math.isnan(sensor.read(0.0).energy_J)


def test_detect_prefers_rapl(powercap: Powercap, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensors_module, "RaplSensor", functools.partial(RaplSensor, powercap.root))
    detection = detect(components=("cpu",))
    assert [s.device.method for s in detection] == ["RAPL, 2 package(s) of this machine"]
    assert detection.notes == ()


def test_detect_falls_back_to_the_model_and_says_so(
    powercap: Powercap, monkeypatch: pytest.MonkeyPatch
) -> None:
    powercap.break_counter("intel-rapl:0")
    monkeypatch.setattr(sensors_module, "RaplSensor", functools.partial(RaplSensor, powercap.root))
    detection = detect(components=("cpu",))

    assert [s.device.source for s in detection] == ["modelled"]
    (note,) = detection.notes
    assert note.startswith("CPU power is modelled, not measured: ")
    assert "intel-rapl:0/energy_uj" in note


# Counters that cannot be believed


def test_a_counter_that_restarts_is_not_taken_for_one_that_wraps(powercap: Powercap) -> None:
    """After a restart at 5 MJ, a wrap would stand for 257 kJ within a second."""
    powercap.set("intel-rapl:0", 5_000_000_000)
    sensor = RaplSensor(powercap.root)
    before = sensor.read(0.0)
    powercap.set("intel-rapl:0", 40_000_000)
    after, later = sensor.read(1.0), None
    powercap.set("intel-rapl:0", 90_000_000)
    later = sensor.read(2.0)
    assert math.isnan(after.power_W)
    assert after.energy_J < before.energy_J  # the meter takes it for a restart
    assert later.power_W == later.energy_J - after.energy_J == pytest.approx(50)


@pytest.mark.parametrize(("pause_s", "is_known"), [(60, True), (3600, False)])
def test_a_counter_may_have_wrapped_more_than_once(
    powercap: Powercap, pause_s: float, is_known: bool
) -> None:
    """A process that was stopped for an hour: at 350 W the counter has wrapped five times."""
    sensor = RaplSensor(powercap.root)
    before = sensor.read(0.0)
    powercap.set("intel-rapl:1", 960_000_000)
    after = sensor.read(pause_s)
    assert math.isnan(after.power_W) is not is_known
    if is_known:
        assert after.energy_J - before.energy_J == pytest.approx(60)
    else:
        assert after.energy_J < before.energy_J


@pytest.mark.parametrize("text", ["", "-5", "nan", "inf", "rubbish", "\x00"])
def test_a_counter_that_shows_no_number_is_missing_and_loses_nothing(
    powercap: Powercap, text: str
) -> None:
    sensor = RaplSensor(powercap.root)
    before = sensor.read(0.0)
    powercap.counter("intel-rapl:0").write_text(text)
    assert all(map(math.isnan, (sensor.read(1.0).energy_J, sensor.read(1.5).power_W)))
    powercap.set("intel-rapl:0", 25_000_000)
    after = sensor.read(2.0)
    assert after.energy_J - before.energy_J == pytest.approx(20)
    assert after.power_W == pytest.approx(10)


# Memory


def add_dram(powercap: Powercap, *numbers: int) -> None:
    for number in numbers:
        powercap.add(f"intel-rapl:{number}:0", "core", 1_000_000)
        powercap.add(f"intel-rapl:{number}:1", "dram", 70_000_000, limit_w=40)


def test_the_memory_of_all_packages_is_added_up(
    powercap: Powercap, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_dram(powercap, 0, 1)
    memory = psutil.virtual_memory()._replace(total=64 * 10**9, available=24 * 10**9)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    sensor = RaplDramSensor(powercap.root)
    first = sensor.read(10.0)
    powercap.set("intel-rapl:0:1", 75_000_000)
    powercap.set("intel-rapl:1:1", 82_000_000)
    powercap.set("intel-rapl:0", 900_000_000)
    second = sensor.read(12.0)
    assert second.energy_J - first.energy_J == pytest.approx(5 + 12)
    assert second.power_W == pytest.approx(8.5)
    assert (second.memory_bytes, second.utilization) == (40e9, pytest.approx(0.625))
    meta = sensor.device.as_meta()
    assert (meta["device"], meta["kind"], meta["source"]) == ("ram:0", "ram", "measured")
    assert meta["power_limit_W"] == pytest.approx(80)


def test_zones_within_their_package_as_a_container_shows_them(tmp_path: Path) -> None:
    powercap = Powercap(tmp_path)
    powercap.add("intel-rapl:0", "package-0", 5_000_000)
    powercap.add("intel-rapl:0/intel-rapl:0:0", "dram", 7_000_000)
    sensor = RaplDramSensor(tmp_path)
    first = sensor.read(0.0)
    powercap.set("intel-rapl:0/intel-rapl:0:0", 9_000_000)
    assert sensor.read(1.0).energy_J - first.energy_J == pytest.approx(2)


def test_memory_that_only_some_packages_count_is_not_all_memory(powercap: Powercap) -> None:
    with pytest.raises(FileNotFoundError, match="0 of 2 processor packages"):
        RaplDramSensor(powercap.root)
    add_dram(powercap, 1)
    with pytest.raises(FileNotFoundError, match="1 of 2 processor packages"):
        RaplDramSensor(powercap.root)


def found_with(powercap: Powercap, monkeypatch: pytest.MonkeyPatch) -> list[Sensor]:
    for sensor in (RaplSensor, RaplDramSensor):
        made = functools.partial(sensor, powercap.root)
        monkeypatch.setattr(sensors_module, sensor.__name__, made)
    return list(detect(components=("cpu", "ram")))


def test_memory_is_measured_where_it_can_be(
    powercap: Powercap, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [s.device.source for s in found_with(powercap, monkeypatch)] == ["measured", "modelled"]
    assert detect(components=("ram",)).notes == ()
    add_dram(powercap, 0, 1)
    assert [s.device.source for s in found_with(powercap, monkeypatch)] == ["measured"] * 2


def test_memory_that_may_not_be_read_is_modelled_and_a_note_says_so(
    powercap: Powercap, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_dram(powercap, 0, 1)
    powercap.break_counter("intel-rapl:1:1")
    made = functools.partial(RaplDramSensor, powercap.root)
    monkeypatch.setattr(sensors_module, "RaplDramSensor", made)
    found = detect(components=("ram",))
    assert [s.device.source for s in found] == ["modelled"]
    (note,) = found.notes
    assert note.startswith("RAM power is modelled, not measured: ")
    assert "intel-rapl:1:1/energy_uj" in note


# A run


def drive(powercap: Powercap, clock: Clock, *, seconds: int, watts: dict[str, int]) -> None:
    """Let time pass, in which the counters run."""
    for _ in range(seconds * 10):
        for domain, power in watts.items():
            now = int(powercap.counter(domain).read_text()) + power * 100_000
            powercap.set(domain, now % RANGE_UJ)
        clock.sleep(0.1)


def test_a_run_beside_wraps_a_restart_and_a_counter_that_vanishes(
    powercap: Powercap, clock: Clock
) -> None:
    add_dram(powercap, 0, 1)
    watts = {"intel-rapl:0": 100, "intel-rapl:1": 60, "intel-rapl:0:1": 10, "intel-rapl:1:1": 5}
    powercap.set("intel-rapl:0", RANGE_UJ - 150_000_000)  # wraps in the first epoch
    sensors = [RaplSensor(powercap.root), RaplDramSensor(powercap.root)]
    with track(sensors=sensors) as run:
        epochs = run.epochs(4)
        next(epochs)
        drive(powercap, clock, seconds=5, watts=watts)
        next(epochs)
        powercap.set("intel-rapl:1", 0)  # restarts
        drive(powercap, clock, seconds=5, watts=watts)
        next(epochs)
        drive(powercap, clock, seconds=5, watts=watts)
        next(epochs)
        powercap.break_counter("intel-rapl:0")  # for good
        del watts["intel-rapl:0"]
        drive(powercap, clock, seconds=8, watts=watts)
        assert next(epochs, None) is None
    cpu_J, ram_J = run.trace.column("cpu_energy_J"), run.trace.column("ram_energy_J")
    assert cpu_J[0] == pytest.approx(800, rel=0.02)
    # Power before and after stands for the second of the restart.
    assert cpu_J[1] == pytest.approx(800, rel=0.02)
    assert cpu_J[2] == pytest.approx(800, rel=0.02)
    assert math.isnan(cpu_J[3])
    assert ram_J[:3] == pytest.approx(75, rel=0.02)
    assert ram_J[3] == pytest.approx(120, rel=0.02)
    assert math.isnan(run.trace.total_J)
