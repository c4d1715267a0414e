"""The files of a run: written completely, once, and without leftovers."""

from __future__ import annotations

from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from energyest import EnergyTrace, load_trace
from energyest.measure.folder import TraceFolder
from energyest.measure.sensors import Reading
from energyest.measure.writer import TraceWriter
from energyest.records import storage
from simulation.stepped import Run, sensors, without_threads
from tests.support.written import META, contents_of, line


def reading(row: int) -> Reading:
    return Reading(float(row), "gpu:0", 1.0)


@pytest.fixture
def writers() -> Iterator[list[TraceWriter]]:
    """Those that write when they are asked to, without a thread; they are closed."""
    made: list[TraceWriter] = []
    yield made
    for writer in made:
        writer._folder.close()


def test_a_disk_that_takes_a_part_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Reluctant(FileIO):
        def write(self, data: Any) -> int:
            return super().write(data[:3])

    monkeypatch.setattr("energyest.records.own_files.FileIO", Reluctant)
    folder = TraceFolder(tmp_path / "energy")
    folder.claim(META)
    folder.bring_back(contents_of(2))
    folder.append(storage.EPOCHS_FILE, line(2))
    folder.close()
    trace = load_trace(tmp_path / "energy")
    assert list(trace.column("energy_J")) == [0, 1, 2]
    assert list(trace.power_columns["time_s"]) == [0, 1]


def test_rows_that_come_during_a_rewrite_are_written_once(
    tmp_path: Path, writers: list[TraceWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    def contents() -> EnergyTrace:
        writers[0].forget()  # as the recorder does: what waits is in the contents too
        return contents_of(2)

    writers.append(TraceWriter(tmp_path / "energy", META, contents))
    writer = writers[0]
    writer.put(rows=[line(0)], readings=[reading(0)])
    writer.write_waiting()
    is_gone = writer._folder.is_gone

    def look_while_more_comes() -> bool:
        if not (gone := is_gone()):
            return False
        writer.put(rows=[line(1)], readings=[reading(1)])
        return gone

    monkeypatch.setattr(writer._folder, "is_gone", look_while_more_comes)
    (tmp_path / "energy").rename(tmp_path / "away")
    writer.write_waiting()
    writer.put(rows=[line(2)], readings=[reading(2)])
    writer.write_waiting()
    trace = load_trace(tmp_path / "energy")
    assert list(trace.column("epoch")) == [0, 1, 2]
    assert list(trace.power_columns["time_s"]) == [0, 1, 2]


def test_what_was_known_last_is_gone_after_a_normal_end(tmp_path: Path) -> None:
    with without_threads():
        run = Run(sensors(1), tmp_path / "energy", hz=1, epoch_s=10.3)
        run.go_on(120)
        assert (tmp_path / "energy/latest.json").exists()
        run.recorder.stop()
    assert not (tmp_path / "energy/latest.json").exists()
    assert load_trace(tmp_path / "energy").meta["status"] == "finished"


def test_a_failing_disk_is_tried_less_and_less_often(
    tmp_path: Path, writers: list[TraceWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 0.0
    monkeypatch.setattr("energyest.measure.writer.time.monotonic", lambda: now_s)
    writers.append(TraceWriter(tmp_path / "energy", META, lambda: contents_of(1)))
    writer = writers[0]
    tried_s = []

    def fail(*_: object) -> None:
        tried_s.append(now_s)
        raise OSError("no space left")

    monkeypatch.setattr(writer._folder, "bring_back", fail)
    monkeypatch.setattr(writer._folder, "append", fail)
    for second in range(4000):
        now_s = float(second)
        writer.put(rows=[line(second)])
        writer.write_waiting()
    assert tried_s == [0, 10, 30, 70, 150, 310, 630, 1230, 1830, 2430, 3030, 3630]
