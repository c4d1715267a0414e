"""The projection while a training runs: its end, how often it is made, and changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning

from energyest import EnergyTrace, Estimate, estimate_step, track
from energyest.tracking import live_projection as projection
from energyest.tracking.live_projection import LevelWatch, Projector
from energyest.tracking.plan import Length
from tests.support.sensors import Constant
from tests.support.trainers import PlNet, loader, make_trainer, monitor_of, warnings_of


class Replay:
    """Stands in for a recorder: rows measured earlier, one after the other."""

    def __init__(self, energy_J: Any, **meta: Any) -> None:
        self.whole = EnergyTrace.from_epochs(energy_J, np.ones(len(energy_J)), meta=meta)
        self.rows = 0
        self.traces = 0

    @property
    def state(self) -> tuple[int, int]:
        return self.rows, 0

    def trace(self, *, readings: bool) -> EnergyTrace:
        assert not readings
        self.traces += 1
        return self.whole.head(self.rows)


def replay(energy_J: Any, plan: Length = Length(100), **meta: Any) -> list[Estimate | None]:  # noqa: B008
    """The projections after each row."""
    meta |= {"planned_epochs": plan.rows, "planned_duration_s": plan.duration_s}
    recorder = Replay(energy_J, **meta)
    projector = Projector(recorder, 0.9)  # type: ignore[arg-type]
    projections = []
    for row in range(1, len(recorder.whole) + 1):
        recorder.rows = row
        projections.append(projector.project(plan))
        assert projector.project(plan) is projections[-1]
    assert recorder.traces == len(recorder.whole)  # once for each row
    return projections


def level(energy_J: float, rows: int, seed: int = 0) -> list[float]:
    noise = np.random.default_rng(seed).normal(0, 0.005, rows)
    return list(energy_J * (1 + noise))


# ---------------------------------------------------------------------- to which end


def test_projection_is_that_of_estimate_step() -> None:
    energy_J = level(100, 10)
    projections = replay(energy_J)
    trace = EnergyTrace.from_epochs(energy_J, np.ones(10))
    assert projections[0] is None
    assert projections[-1] == estimate_step(trace, 100)


@pytest.mark.parametrize(
    ("plan", "epochs"),
    [
        (Length(100, 40.0), 40),  # the time limit comes first
        (Length(30, 40.0), 30),
        (Length(None, 40.0), 40),
        (Length(33.5, None), 33.5),
        (Length(10, None), 20),  # the training goes on beyond its plan
        (Length(19.5, None), 20),  # its last row is cut short
    ],
)
def test_end_of_the_plan(plan: Length, epochs: float) -> None:
    projection = replay([100.0] * 20, plan)[-1]
    assert projection is not None
    assert projection.energy_J == pytest.approx(100 * epochs, rel=1e-3)


def test_without_a_plan_nothing_is_projected(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Replay([100.0] * 20)
    recorder.rows = 20
    assert Projector(recorder, 0.9).project(Length()) is None  # type: ignore[arg-type]
    assert recorder.traces == 0
    assert caplog.text == ""


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """The plans that `estimate_step` finds; it answers with levels of 9 rows each."""
    seen = []

    def answer(trace: EnergyTrace, *, confidence: float) -> Estimate:
        seen.append((trace.meta.get("planned_epochs"), trace.meta.get("planned_duration_s")))
        start = len(trace) // 9 * 9
        return Estimate(100 + start, 99 + start, 101 + start, confidence, stable_epoch=start)

    monkeypatch.setattr(projection, "estimate_step", answer)
    return seen


def test_own_loop_with_a_time_limit(planned: list[Any]) -> None:
    with track(sensors=[Constant(100)]) as run:
        run.start_epoch()
        run.end_epoch()
        assert run.projection is None
        run.planned_duration_s = 10.0
        assert run.projection is not None
        run.planned_epochs = 20
        assert run.projection is not None
        assert set(planned) == {(None, 10), (20, 10)}
        assert run.planned_epochs == run.trace.meta["planned_epochs"] == 20
        assert run.planned_duration_s == run.trace.meta["planned_duration_s"] == 10
    # Its end is where it ended.
    assert run.planned_epochs == run.trace.meta["planned_epochs"] == 1
    assert run.planned_duration_s is None
    assert run.trace.meta["planned_duration_s"] is None


def test_cheap_projections_are_made_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection, "_ALWAYS_MADE", 3)
    monkeypatch.setattr(projection, "_SHARE_OF_TIME", 0.0)
    recorder = Replay([100.0] * 20, planned_epochs=100)
    projector = Projector(recorder, 0.9)  # type: ignore[arg-type]
    made = []
    for row in range(10, 20):
        recorder.rows = row
        made.append(projector.project_if_cheap(Length(100)) is not None)
    assert made == 3 * [True] + 7 * [False]
    assert projector.project(Length(100)) is not None  # for who asks


@pytest.mark.parametrize(("cost_s", "every"), [(0.001, 1), (0.01, 5), (0.2, 100)])
def test_projections_take_little_of_the_time(
    cost_s: float, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 0.0
    monkeypatch.setattr(projection.time, "monotonic", lambda: now_s)
    made: list[int] = []

    class Costly(Projector):
        def project(self, plan: Length) -> Estimate | None:
            nonlocal now_s
            now_s += cost_s
            made.append(row)
            return Estimate(1.0)

    projector = Costly(Replay([1.0]), 0.9)  # type: ignore[arg-type]
    for row in range(1100):
        now_s = float(2 * row)
        projector.project_if_cheap(Length(1100))
    assert made[:10] == list(range(10))  # the first ones, whatever they cost
    assert len(made[10:]) == pytest.approx(1090 / max(1, every / 2), rel=0.25)


# ---------------------------------------------------------------------- changes


def test_a_change_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    projections = replay(level(400, 13) + level(900, 30, seed=1))
    (text,) = warnings_of(caplog, "changed at")
    assert "energyest: the energy per epoch changed at epoch 13: the projection went from" in text
    before = projections[12]
    assert before is not None
    assert before.lower_J is not None
    for energy_J in (before.energy_J, before.lower_J):
        assert f"{energy_J / 1e3:.4g} kJ" in text  # both totals with both ends
    assert text.count("kJ") == 6


def test_later_changes_are_said_as_well(caplog: pytest.LogCaptureFixture) -> None:
    replay(level(400, 12) + level(900, 12, seed=1) + level(300, 12, seed=2))
    assert ["at epoch 12:" in text for text in warnings_of(caplog, "changed at")] == [True, False]
    assert "at epoch 24:" in warnings_of(caplog, "changed at")[1]


def test_nothing_changes(caplog: pytest.LogCaptureFixture) -> None:
    replay([150.0, *level(100, 40)])  # a cold first epoch is a level of its own
    assert warnings_of(caplog, "changed at") == []


@pytest.mark.parametrize("epoch", [12, 12.4, 13])
def test_an_announced_change_is_not_said(epoch: float, caplog: pytest.LogCaptureFixture) -> None:
    changes = [{"epoch": epoch, "flops_ratio": 2.0, "reason": "backbone"}]
    replay(level(400, 13) + level(900, 10, seed=1), planned_changes=changes)
    assert warnings_of(caplog, "changed at") == []


def test_a_change_that_was_announced_for_another_epoch(caplog: pytest.LogCaptureFixture) -> None:
    replay(level(400, 13) + level(900, 10, seed=1), planned_changes=[{"epoch": 5}])
    assert len(warnings_of(caplog, "changed at")) == 1


def test_intervals_are_named(caplog: pytest.LogCaptureFixture) -> None:
    replay(level(400, 13) + level(900, 10, seed=1), interval_steps=200)
    assert "energy per interval changed at interval 13" in warnings_of(caplog, "changed at")[0]


def estimate(start: int | None, energy_J: float, half_J: float | None = 1.0) -> Estimate:
    lower_J = None if half_J is None else energy_J - half_J
    upper_J = None if half_J is None else energy_J + half_J
    return Estimate(energy_J, lower_J, upper_J, 0.9, stable_epoch=start)


EMPTY = EnergyTrace.from_epochs([])


@pytest.mark.parametrize(
    ("row", "warnings"), [(9, 0), (9.4, 0), (8, 0), (8.5, 0), (7, 1), (10, 1), (None, 1)]
)
def test_only_the_announced_row_is_passed_over(
    row: float | None, warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    changes = [] if row is None else [{"epoch": row, "flops_ratio": 2.0}]
    trace = EnergyTrace.from_epochs([100.0] * 12, meta={"planned_changes": changes})
    watch = LevelWatch()
    for start, energy_J in ((0, 100), (9, 200)):  # far out of the interval
        watch.see(estimate(start, energy_J), Length(100), trace)
    assert len(warnings_of(caplog, "changed at")) == warnings


@pytest.mark.parametrize(
    ("seen", "warnings"),
    [
        ([(0, 100), (9, 100.5), (9, 100.9)], 0),  # within the interval
        ([(0, 100), (9, 100.5), (9, 105)], 1),  # at first within, then not
        ([(0, 100), (9, 120), (9, 130), (9, 140)], 1),  # more of the same level
        ([(0, 100), (9, 120), (10, 130), (11, 140)], 1),  # whose beginning is seen off by some
        ([(0, 100), (9, 120), (13, 140)], 2),
        ([(0, 100), (9, 100.5), (0, 105)], 0),  # it was no change
        ([(5, 100), (2, 120)], 0),
        ([(None, 100), (9, 120)], 0),  # by a method without levels
    ],
)
def test_rules(
    seen: list[tuple[int | None, float]], warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    watch = LevelWatch()
    for start, energy_J in seen:
        watch.see(estimate(start, energy_J), Length(100), EMPTY)
    assert len(warnings_of(caplog, "changed at")) == warnings


def test_a_new_interval_that_holds_the_old_projection(caplog: pytest.LogCaptureFixture) -> None:
    watch = LevelWatch()
    watch.see(estimate(0, 100, 1), Length(100), EMPTY)
    for half_J in (80, 21, 20):  # it says: that may yet be
        watch.see(estimate(9, 120, half_J), Length(100), EMPTY)
    assert warnings_of(caplog, "changed at") == []
    watch.see(estimate(9, 120, 19), Length(100), EMPTY)
    assert len(warnings_of(caplog, "changed at")) == 1


def test_a_dip_that_stays_is_compared_with_what_came_before_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch = LevelWatch()
    for start, energy_J, half_J in ((0, 100, 1), (0, 90, 25), (0, 88, 25), (9, 75, 5)):
        watch.see(estimate(start, energy_J, half_J), Length(100), EMPTY)
    assert "from 100 J" in warnings_of(caplog, "changed at")[0]


def test_an_interval_that_stays_wide_counts(caplog: pytest.LogCaptureFixture) -> None:
    watch = LevelWatch()
    for start, energy_J, half_J in ((0, 100, 1), *((0, 90, 25),) * 3, (9, 75, 5)):
        watch.see(estimate(start, energy_J, half_J), Length(100), EMPTY)
    assert warnings_of(caplog, "changed at") == []


def test_three_changes_are_said_at_most(caplog: pytest.LogCaptureFixture) -> None:
    watch = LevelWatch()
    for start in range(0, 100, 10):
        watch.see(estimate(start, 100 + start), Length(200), EMPTY)
    said = warnings_of(caplog)
    assert len(said) == 3
    assert ["later changes are not reported" in text for text in said] == [False, False, True]


def test_what_cannot_be_compared(caplog: pytest.LogCaptureFixture) -> None:
    for first, second, plan in [
        (estimate(0, 100, None), estimate(9, 200), Length(100)),  # no interval
        (estimate(0, 100), estimate(9, 200), Length(200)),  # for another length
        (estimate(0, 100), estimate(9, 200), Length(100, 1000.0)),
        (estimate(0, 100), estimate(9, 200, 0.0), Length(100)),  # nothing is left to project
    ]:
        watch = LevelWatch()
        watch.see(first, Length(100), EMPTY)
        watch.see(second, plan, EMPTY)
    assert warnings_of(caplog, "changed at") == []
    # The length that `max_steps` comes to varies a little with the batches so far.
    watch = LevelWatch()
    watch.see(estimate(0, 100), Length(100), EMPTY)
    watch.see(estimate(9, 200), Length(100.3), EMPTY)
    assert len(warnings_of(caplog, "changed at")) == 1


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.usefixtures("planned")
@pytest.mark.parametrize("every", [None, 4])
def test_in_a_training(every: int | None, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    monitor = monitor_of(every_n_steps=every, count_flops=False)
    trainer = make_trainer(pytorch_lightning, tmp_path, monitor, max_epochs=12)
    trainer.fit(PlNet(), loader())
    (text,) = warnings_of(caplog, "changed at")
    assert "at epoch 9:" in text
    assert monitor.projection is not None
