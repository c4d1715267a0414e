"""From the epochs in a program's output to rows."""

from __future__ import annotations

import pytest

from energyest.measure.sensors import Detection
from energyest.program.epoch_patterns import Edge, SeenEpoch
from energyest.program.program_run import ProgramRun
from energyest.tracking.session import Session
from simulation.stepped import Clock
from tests.support.sensors import Constant


class Told:
    """A program of 100 W that prints epochs, on a simulated clock."""

    def __init__(self, clock: Clock, epochs: int | None = None) -> None:
        self.clock = clock
        self.session = Session(
            Detection((Constant(100),)), folder=None, interval_s=0.1, confidence=0.9
        )
        self.run = ProgramRun(self.session, epochs)
        self.run.start()

    def tells(self, edge: Edge, *numbers: int, epochs: int | None = None) -> None:
        """A number a second."""
        for number in numbers:
            self.run.see(SeenEpoch(number, epochs, edge, "user"))
            self.clock.sleep(1.0)

    @property
    def rows(self) -> list[tuple[float, float]]:
        """Number and seconds of each."""
        trace = self.session.trace
        return [
            (float(n), round(float(s), 3))
            for n, s in zip(trace.column("epoch"), trace.column("duration_s"), strict=True)
        ]


def test_a_line_that_begins_an_epoch(clock: Clock) -> None:
    program = Told(clock)
    clock.sleep(5)  # starting up
    program.tells("begins", 0, 0, 1, 2, 2, epochs=10)
    assert program.session.length.rows == 10
    program.run.finish("finished")
    assert program.rows == [(0, 2), (1, 1), (2, 2)]
    assert program.session.length.rows == 3
    assert program.session.total_J == pytest.approx(1000)


def test_a_line_that_ends_an_epoch(clock: Clock) -> None:
    program = Told(clock)
    clock.sleep(5)
    program.tells("ends", 0, 0, 1, epochs=10)
    assert program.session.length.rows == 10
    clock.sleep(3)  # a test at the end
    program.run.finish("finished")
    assert program.rows == [(0, 5), (1, 2)]
    assert "interrupted_epoch" not in program.session.trace.meta


def test_an_epoch_that_is_cut_off_does_not_count(clock: Clock) -> None:
    for edge, rows in (("begins", 2), ("ends", 3)):
        program = Told(clock)
        program.tells(edge, 0, 1, 2, epochs=10)
        program.run.finish("interrupted by SIGTERM")
        assert len(program.rows) == rows
        cut = program.session.trace.meta["interrupted_epoch"]
        assert cut["epoch"] == rows
        assert cut["energy_J"] == pytest.approx(100)
        assert program.session.length.rows == 10


def test_lines_of_several_processes_are_mixed(clock: Clock) -> None:
    program = Told(clock)
    program.tells("begins", 0, 0, 1, 0, 1, 2, 1, 2)
    program.run.finish("finished")
    assert program.rows == [(0, 2), (1, 3), (2, 3)]


def test_a_training_that_begins_again(clock: Clock) -> None:
    program = Told(clock)
    program.tells("begins", 0, 1, 2, 0, 1, 2, epochs=3)
    program.run.finish("finished")
    assert [number for number, _ in program.rows] == [0, 1, 2, 0, 1, 2]


def test_epochs_that_are_not_told_leave_no_projection(clock: Clock) -> None:
    program = Told(clock, epochs=50)
    program.tells("ends", 0, 1)
    assert program.session.length.rows == 50
    program.tells("ends", 4)
    assert program.session.length.rows is None
    program.run.finish("interrupted by SIGTERM")
    assert "did not show each" in " ".join(program.session.trace.meta["notes"])


def test_a_training_that_goes_on_is_planned_to_its_end(clock: Clock) -> None:
    program = Told(clock)
    program.tells("begins", 5, epochs=8)
    assert program.session.length.rows == 3
    given = Told(clock, epochs=20)  # goes before what the program says
    given.tells("begins", 5, epochs=8)
    assert given.session.length.rows == 15
    for one in (program, given):
        one.run.finish("finished")


def test_how_many_there_will_be_may_be_told_later(clock: Clock) -> None:
    program = Told(clock)
    program.tells("ends", 0)
    assert program.session.length.rows is None
    program.tells("ends", 0, epochs=4)
    assert program.session.length.rows == 4
    program.tells("ends", 1)
    assert program.session.length.rows == 4
    program.run.finish("finished")
    assert program.rows == [(0, 0), (1, 2)]


def test_without_an_epoch(clock: Clock) -> None:
    program = Told(clock)
    clock.sleep(4)
    program.run.finish("finished")
    assert program.rows == [(0, 4)]
    assert program.run.summary == "400 J in 4 s, no epoch recognised in the output"
