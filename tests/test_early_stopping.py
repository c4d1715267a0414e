"""When an `EarlyStopping` ends a training: the rule, what the monitor records, the projection."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import pytorch_lightning
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_lightning.callbacks import EarlyStopping

from energyest import EnergyTrace, NotStableError, load_trace
from energyest.cli import main
from energyest.errors import EstimateError
from energyest.estimators import estimate_early_stop, estimate_step
from tests.support.cost import cost_in_calls
from tests.support.trainers import (
    NETS,
    PlNet,
    Spy,
    both_namespaces,
    lightning_warns,
    loader,
    make_trainer,
    monitor_of,
)

pytestmark = lightning_warns
EPOCH_J = 100.0


def trace_of(metric: Any, *, meta: dict[str, Any] | None = None, **columns: Any) -> EnergyTrace:
    noise = np.random.default_rng(0).normal(0, 1, len(metric))
    return EnergyTrace.from_epochs(
        EPOCH_J + noise, [2.0] * len(metric), meta=meta, val_loss=metric, **columns
    )


def watched(**entry: Any) -> dict[str, Any]:
    return {"early_stopping": [{"monitor": "val_loss", **entry}]}


def stop_of(metric: Any, **options: Any) -> int | None:
    """Rows after which Lightning's own callback stops; NaN rows are those that are not checked."""
    callback = EarlyStopping("val_loss", **options)
    for row, value in enumerate(metric):
        if callback._evaluate_stopping_criteria(torch.tensor(value, dtype=torch.float32))[0]:
            return row + 1
    return None


# ---------------------------------------------------------------------- the rule


# Coarse steps: ties, and improvements of exactly `min_delta`, are what goes wrong.
METRICS = st.lists(
    st.one_of(
        st.integers(-8, 8).map(lambda number: number / 10),
        st.sampled_from([math.inf, -math.inf]),
        st.floats(-2, 2, width=32),
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=400, deadline=None)
@given(
    METRICS,
    st.integers(0, 6),
    st.sampled_from(["min", "max"]),
    st.sampled_from([0.0, 0.1, 0.3]),
    st.booleans(),
    st.sampled_from([None, -0.5, 0.3]),
    st.sampled_from([None, 0.6]),
)
def test_the_rule_is_lightnings(
    metric: list[float],
    patience: int,
    mode: str,
    min_delta: float,
    check_finite: bool,
    good: float | None,
    bad: float | None,
) -> None:
    options: dict[str, Any] = {
        **{"patience": patience, "mode": mode, "min_delta": min_delta},
        **{"check_finite": check_finite, "stopping_threshold": good, "divergence_threshold": bad},
    }
    stop = stop_of(metric, **options)
    trace = trace_of(metric, meta=watched(**options))
    # The training ends with the trace: nothing is left to be drawn.
    estimate = _or_guess(trace, len(trace))
    assert estimate.epochs == (len(trace) if stop is None else stop)


def _or_guess(*arguments: Any, **options: Any) -> Any:
    """The estimate, if need be the guess of a trace that is too short for STEP."""
    try:
        return estimate_early_stop(*arguments, **options)
    except NotStableError as error:
        return error.estimate


def test_what_has_stopped_is_known_exactly() -> None:
    trace = trace_of([1.0, 0.5, 0.4, 0.4, 0.45, 0.4, 0.3, 0.2])
    estimate = estimate_early_stop(trace, 100, monitor="val_loss", patience=3)
    assert (estimate.epochs, estimate.epochs_lower) == (6, None)
    assert estimate.energy_J == pytest.approx(trace.column("energy_J")[:6].sum())
    assert "already end the training" in estimate.assumptions[0]
    # A value of NaN ends the training, too: it is the last of one that is over.
    broken = trace_of([1.0, 0.9, 0.8, 0.7, math.nan], meta={"status": "finished"})
    assert estimate_early_stop(broken, 100, monitor="val_loss").epochs == 5
    # Of one that goes on, the epoch may just not have its metric yet.
    running = trace_of([1.0, 0.9, 0.8, 0.7, math.nan], meta={"status": "running"})
    assert (estimate_early_stop(running, 100, monitor="val_loss").epochs or 0) > 5


def test_nan_that_does_not_stop_it_counts_as_no_improvement() -> None:
    metric = [1.0, 0.9, math.nan, 0.95, math.nan, 0.8, 0.7]
    meta = watched(patience=3, check_finite=False)
    assert stop_of(metric, patience=3, check_finite=False) == 5
    assert _or_guess(trace_of(metric, meta=meta), 7).epochs == 5
    # Where there was no validation, nothing was checked.
    meta = watched(patience=3, check_finite=False, on_train_epoch_end=False)
    no_validation = np.isnan(metric)
    trace = trace_of(metric, meta=meta, validation_s=np.where(no_validation, 0.0, 1.0))
    assert (_or_guess(trace, 100).epochs or 0) > 7


def test_patience_that_is_nearly_gone_leaves_little_doubt() -> None:
    # No value comes near the best again.
    metric = [1.0, 0.5, 0.1, *([0.8, 0.82, 0.81, 0.79] * 5)]
    estimate = estimate_early_stop(trace_of(metric), 200, monitor="val_loss", patience=22)
    assert estimate.epochs == estimate.epochs_lower == estimate.epochs_upper == len(metric) + 2
    step = estimate_step(trace_of(metric), len(metric) + 2)
    assert estimate.energy_J == step.energy_J
    assert estimate.lower_J == pytest.approx(step.lower_J, rel=0.01)
    assert estimate.upper_J == pytest.approx(step.upper_J, rel=0.01)


def test_it_does_not_stop_before_its_patience_nor_after_the_end() -> None:
    metric = 1 / np.arange(1, 21)  # the newest is the best
    for patience, end in ((5, 200), (30, 40)):
        estimate = estimate_early_stop(
            trace_of(metric), end, monitor="val_loss", patience=patience, confidence=0.99
        )
        lower, upper = estimate.epochs_lower, estimate.epochs_upper
        assert lower is not None
        assert upper is not None
        assert min(20 + patience, end) <= lower <= (estimate.epochs or 0) <= upper <= end
    assert estimate.epochs == 40
    longest = estimate_step(trace_of(metric), 40)
    assert estimate.energy_J == longest.energy_J
    assert "probability of 100 %" in estimate.assumptions[1]


def test_an_end_that_nothing_sets() -> None:
    metric = 1 / np.arange(1, 21)
    with pytest.raises(EstimateError, match="not likely to stop"):
        estimate_early_stop(trace_of(metric), monitor="val_loss", patience=5000)
    noisy = 0.5 + np.random.default_rng(0).normal(0, 0.1, 20)
    estimate = estimate_early_stop(trace_of(noisy), monitor="val_loss", patience=15)
    assert 20 < (estimate.epochs or 0) < 100


def test_the_callback_may_begin_with_a_state() -> None:
    """As after a resumption without the trace, or a second `fit`."""
    metric = [0.5, 0.45, 0.4, 0.42]
    new = watched(patience=5)
    assert (estimate_early_stop(trace_of(metric, meta=new), 100).epochs or 0) > 4
    old = watched(patience=5, best=0.3, waited=1)
    assert estimate_early_stop(trace_of(metric, meta=old), 100).epochs == 4
    # What came before it does not count twice.
    rows = {**old, "earlier_rows": 2}
    assert (estimate_early_stop(trace_of(metric, meta=rows), 100).epochs or 0) > 4


def test_not_before_the_least_number_of_epochs() -> None:
    meta = {**watched(patience=2), "min_epochs": 30}
    estimate = estimate_early_stop(trace_of([0.3, 0.2, 0.4, 0.4, 0.4], meta=meta), 100)
    assert estimate.epochs == 30
    assert estimate.energy_J == pytest.approx(30 * EPOCH_J, rel=0.02)
    later = {**meta, "first_epoch": 10}
    assert estimate_early_stop(trace_of([0.3, 0.2, 0.4, 0.4, 0.4], meta=later), 100).epochs == 20


# ---------------------------------------------------------------------- metrics that are missing


def test_checks_come_with_validation() -> None:
    metric = np.full(21, math.nan)
    metric[::5] = [1.0, 0.5, 0.6, 0.7, 0.65]  # and the last is the fourth epoch since
    estimate = estimate_early_stop(
        trace_of(metric, meta=watched(patience=4, on_train_epoch_end=False)), 100
    )
    # The next epoch with a value is the 26th: it is the check with which the patience is gone,
    # unless it is the best.
    assert estimate.epochs == 26


def test_an_old_value_is_checked_again_at_the_end_of_each_epoch() -> None:
    metric = np.full(12, math.nan)
    metric[::3] = [1.0, 0.9, 0.8, 0.7]
    by_epoch = trace_of(metric, meta=watched(patience=2, on_train_epoch_end=True))
    assert estimate_early_stop(by_epoch, 100).epochs == 3
    by_validation = trace_of(metric, meta=watched(patience=2, on_train_epoch_end=False))
    assert (estimate_early_stop(by_validation, 100).epochs or 0) >= 18


def test_intervals_are_checked_where_the_metric_is() -> None:
    metric = np.full(12, math.nan)
    metric[2::3] = [1.0, 0.5, 0.8, 0.85]  # at the end of each epoch, which has three intervals
    meta = {**watched(patience=3, on_train_epoch_end=True), "interval_steps": 100}
    estimate = estimate_early_stop(trace_of(metric, meta=meta), 99)
    assert (estimate.epochs, estimate.unit) == (15, "interval")


def test_several_checks_in_an_epoch() -> None:
    meta = watched(patience=8, on_train_epoch_end=False)
    metric = [1.0, 0.5, 0.6, 0.61, 0.6, 0.62]
    every = {**meta, "validation_every_n_rows": 0.5}
    estimate = estimate_early_stop(trace_of(metric, meta=every), 100)
    assert estimate.epochs == 6
    assert (estimate_early_stop(trace_of(metric, meta=meta), 100).epochs or 0) >= 10


def test_several_callbacks() -> None:
    entries = [{"monitor": "val_loss", "patience": 50}, {"monitor": "acc", "mode": "max"}]
    loss, acc = 1 / np.arange(1, 21), np.linspace(0.5, 0.52, 20)
    acc[-2] = 0.7
    trace = trace_of(loss, acc=acc, meta={"early_stopping": entries})
    first = estimate_early_stop(trace, 100)
    assert first.epochs == 22
    assert "on acc;" in first.method
    assert (estimate_early_stop(trace, 100, monitor="val_loss").epochs or 0) >= 70
    gone = {"early_stopping": [*entries, {"monitor": "gone"}]}
    assert estimate_early_stop(trace_of(loss, acc=acc, meta=gone), 100).epochs == 22


# ---------------------------------------------------------------------- errors


def test_errors() -> None:
    trace = trace_of([1.0, 0.9, 0.8, 0.7, 0.6])
    with pytest.raises(EstimateError, match="no EarlyStopping is known"):
        estimate_early_stop(trace, 100)
    with pytest.raises(EstimateError, match=r"no metric 'acc' yet; it has val_loss"):
        estimate_early_stop(trace, 100, monitor="acc")
    for options in (
        {"patience": -1},
        {"mode": "least"},
        {"min_delta": math.nan},
        {"confidence": 1.0},
        {"epochs": 2},
    ):
        with pytest.raises(EstimateError, match=next(iter(options))):
            estimate_early_stop(trace, **{"epochs": 100, "monitor": "val_loss", **options})
    with pytest.raises(NotStableError, match="4 values of val_loss") as few:
        estimate_early_stop(trace.head(3), 100, monitor="val_loss")
    assert few.value.missing_epochs == 1


def test_a_level_that_is_young_gives_a_guess() -> None:
    energy = [10.0] * 6 + [100.0]
    trace = EnergyTrace.from_epochs(energy, val_loss=[1.0, 0.5, 0.6, 0.7, 0.6, 0.7, 0.7])
    with pytest.raises(NotStableError, match="changed at epoch 6") as error:
        estimate_early_stop(trace, 100, monitor="val_loss", patience=6)
    assert error.value.estimate is not None
    assert error.value.estimate.epochs == 8
    assert error.value.estimate.lower_J is None


@pytest.mark.parametrize(
    "entries", [3, [3], [{}], [{"monitor": ["a"]}], [{"monitor": ""}, {"monitor": None}]]
)
def test_a_meta_that_says_nonsense(entries: Any) -> None:
    trace = trace_of([1.0, 0.9, 0.8, 0.7, 0.6], meta={"early_stopping": entries})
    with pytest.raises(EstimateError, match="no EarlyStopping is known"):
        estimate_early_stop(trace, 100)
    odd = watched(patience="long", mode=7, min_delta=math.inf, best="x", waited=-1)
    assert estimate_early_stop(trace_of([1.0] * 5, meta=odd), 100).epochs == 4


# ---------------------------------------------------------------------- made-up learning curves

LAST = 150


def curves(random: np.random.Generator) -> dict[str, Any]:
    """One of each kind; none is of the very form that is fitted, but for one."""
    t = np.arange(1.0, LAST + 1)
    noise = random.normal(0, random.choice([0.005, 0.02, 0.05]), LAST)
    fast, slow = random.uniform(2, 5), random.uniform(8, 30)
    turn = random.uniform(10, 40)
    return {
        "power law": 0.3 + (t + 1) ** -random.uniform(0.3, 1.2) + noise,
        "exponential": 0.3 + np.exp(-t / slow) + noise,
        "two constants": 0.3 + 0.7 * np.exp(-t / fast) + 0.3 * np.exp(-t / slow) + noise,
        "plateau": 0.3 + np.exp(-t / fast) + noise,
        "overfitting": 0.3 + 2 / (1 + t) + 0.004 * np.maximum(0, t - turn) ** 1.3 + noise,
        "noise that shrinks": (0.3 + np.exp(-t / slow)) * np.exp(2 * noise),
    }


@pytest.mark.long
def test_intervals_hold_the_stop() -> None:
    """At 90 %; the bound leaves room for the chance of so few cases (about 3 % one way)."""
    random = np.random.default_rng(5)
    held: dict[str, list[tuple[bool, bool, bool]]] = {}
    for _ in range(40):
        for name, metric in curves(random).items():
            patience, seen = (int(random.choice(numbers)) for numbers in ([3, 6, 10], [8, 15, 30]))
            stop = min(stop_of(metric, patience=patience) or LAST, LAST)
            if stop <= seen:
                continue
            trace = trace_of(metric[:seen])
            estimate = estimate_early_stop(trace, LAST, monitor="val_loss", patience=patience)
            assert None not in (estimate.lower_J, estimate.upper_J, estimate.epochs_lower)
            stop_J = float(trace.column("energy_J").sum()) + EPOCH_J * (stop - seen)
            held.setdefault(name, []).append(
                (
                    estimate.epochs_lower <= stop <= estimate.epochs_upper,
                    estimate.lower_J <= stop_J <= estimate.upper_J,
                    abs(estimate.epochs - stop) <= abs(LAST - stop),
                )
            )
    shares = {name: np.mean(cases, axis=0) for name, cases in held.items()}
    assert all(len(cases) >= 15 for cases in held.values()), held
    for name, (epochs, energy, _) in shares.items():
        assert epochs >= 0.75, (name, shares)
        assert energy >= 0.75, (name, shares)
    epochs, energy, closer = np.mean(np.concatenate([*held.values()]), axis=0)
    assert 0.85 <= epochs <= 0.99
    assert 0.85 <= energy <= 0.99
    # It is more informative than the planned end.
    assert closer >= 0.75


def test_mode_max_mirrors_mode_min() -> None:
    metric = 1 / np.arange(1, 21) + np.random.default_rng(0).normal(0, 0.02, 20)
    least = estimate_early_stop(trace_of(metric), 100, monitor="val_loss", patience=8)
    most = estimate_early_stop(trace_of(-metric), 100, monitor="val_loss", patience=8, mode="max")
    assert (most.epochs, most.energy_J, most.upper_J) == (
        least.epochs,
        least.energy_J,
        least.upper_J,
    )


def test_a_larger_min_delta_stops_no_later() -> None:
    metric = 0.5 + np.exp(-np.arange(15) / 6)
    stops = [
        estimate_early_stop(trace_of(metric), 300, monitor="val_loss", min_delta=delta).epochs
        for delta in (0.0, 0.001, 0.01, 0.03)
    ]
    assert stops == sorted(stops, reverse=True)
    assert stops[-1] < stops[0]
    # Without noise, the curve itself determines the end.
    on_curve = 0.5 + np.exp(-np.arange(300) / 6)
    assert stops[2] == pytest.approx(stop_of(on_curve, min_delta=0.01), abs=2)


def test_it_is_the_same_each_time_and_fast() -> None:
    metric = 0.3 + np.exp(-np.arange(30) / 20) + np.random.default_rng(0).normal(0, 0.01, 30)
    trace = trace_of(metric)

    def estimate() -> object:
        return estimate_early_stop(trace, 300, monitor="val_loss", patience=10)

    assert estimate() == estimate()
    assert cost_in_calls(estimate) < 1_000_000  # 0.1 s, more or less


# ---------------------------------------------------------------------- Lightning


class Learns(PlNet):
    """Its validation loss is made up, and so is known ahead."""

    VALUES = 0.5 + np.exp(-np.arange(60) / 4) + np.random.default_rng(2).normal(0, 0.02, 60)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", float(self.VALUES[self.current_epoch]))


def stopping(pl: ModuleType, **options: Any) -> Any:
    return pl.callbacks.EarlyStopping("val_loss", **options)


@both_namespaces
def test_what_the_monitor_records(pl: ModuleType, tmp_path: Path) -> None:
    monitor = monitor_of(count_flops=False)
    callbacks = [
        stopping(pl, min_delta=0.1, patience=7, stopping_threshold=0.2),
        pl.callbacks.EarlyStopping(
            "train_loss",
            mode="max",
            min_delta=0.2,
            check_finite=False,
            check_on_train_epoch_end=True,
            divergence_threshold=-5.0,
        ),
    ]
    trainer = make_trainer(
        pl, tmp_path, monitor, *callbacks, max_epochs=2, min_epochs=2, check_val_every_n_epoch=2
    )
    net = NETS[pl]
    model = type("Logs", (net,), {"validation_step": lambda self, *_: self.log("val_loss", 1.0)})()
    trainer.fit(model, loader(), loader())
    assert monitor.trace.meta["min_epochs"] == 2
    assert monitor.trace.meta["early_stopping"] == [
        {
            **{"monitor": "val_loss", "mode": "min", "patience": 7, "min_delta": 0.1},
            **{"stopping_threshold": 0.2, "divergence_threshold": None},
            **{"check_finite": True, "on_train_epoch_end": False},
        },
        {
            **{"monitor": "train_loss", "mode": "max", "patience": 3, "min_delta": 0.2},
            **{"stopping_threshold": None, "divergence_threshold": -5.0},
            **{"check_finite": False, "on_train_epoch_end": True},
        },
    ]
    # In a second `fit`, the callback goes on from the best that it has seen.
    trainer.fit_loop.max_epochs = 4
    trainer.fit(model, loader(), loader())
    assert monitor.trace.meta["early_stopping"][0]["best"] == 1.0
    assert monitor.trace.meta["early_stopping"][0]["waited"] == 0


def test_nothing_is_recorded_where_nothing_watches(tmp_path: Path) -> None:
    monitor = monitor_of(count_flops=False)
    make_trainer(pytorch_lightning, tmp_path, monitor, max_epochs=1).fit(PlNet(), loader())
    assert not {"early_stopping", "min_epochs"} & monitor.trace.meta.keys()


def test_a_callback_that_cannot_be_read(tmp_path: Path, caplog: Any) -> None:
    class Odd(EarlyStopping):
        def setup(self, *_: Any, **__: Any) -> None:
            super().setup(*_, **__)
            self.best_score = torch.zeros(3)

        def _evaluate_stopping_criteria(self, current: Any) -> Any:
            return False, None

    monitor = monitor_of(count_flops=False)
    trainer = make_trainer(pytorch_lightning, tmp_path, monitor, Odd("val_loss"), max_epochs=1)
    trainer.fit(Learns(), loader(), loader())
    assert "the stopping rule of Odd is not known" in caplog.text
    assert len(monitor.trace) == 1


@pytest.mark.parametrize("every", [1, 2])
def test_a_training_that_stops(every: int, tmp_path: Path, capsys: Any) -> None:
    monitor = monitor_of(tmp_path / "energy", count_flops=False)
    callback = stopping(pytorch_lightning, patience=4)
    spy = Spy(lambda _: (monitor.trace, monitor.projection))
    trainer = make_trainer(
        *(pytorch_lightning, tmp_path, monitor, spy, callback),
        max_epochs=60,
        check_val_every_n_epoch=every,
    )
    trainer.fit(Learns(), loader(), loader())
    stop = len(monitor.trace)
    assert stop == callback.stopped_epoch + 1
    assert stop < 60
    # Seen from its end, and from the last two thirds of it.
    assert estimate_early_stop(monitor.trace).epochs == stop
    seen = spy.seen[2 * stop // 3 : -1]
    # The monitor's own is for the planned end; there is none just after an epoch that took long.
    assert {projection.epochs for _, projection in seen if projection is not None} == {60}
    for trace, _ in seen:
        estimate = _or_guess(trace)
        assert len(trace) < estimate.epochs_lower <= stop <= estimate.epochs_upper
    assert main(["project", str(tmp_path / "energy")]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("If EarlyStopping ends it")
    assert f"for {stop} epochs" in line
    assert load_trace(tmp_path / "energy").meta["early_stopping"][0]["patience"] == 4


# ---------------------------------------------------------------------- the command line


def test_project_shows_both(tmp_path: Path, capsys: Any) -> None:
    metric = 0.3 + np.exp(-np.arange(20) / 5) + np.random.default_rng(0).normal(0, 0.01, 20)
    trace = trace_of(metric, meta={**watched(patience=5), "planned_epochs": 200})
    assert main(["project", str(trace.save(tmp_path / "trace"))]) == 0
    planned, stopped = capsys.readouterr().out.splitlines()[-2:]
    assert "for 200 epochs" in planned
    assert str(estimate_early_stop(trace)) in stopped
    assert "val_loss continues along its curve so far" in stopped


def test_project_says_why_there_is_no_second_figure(tmp_path: Path, capsys: Any) -> None:
    trace = EnergyTrace.from_epochs([100.0] * 5, meta=watched(patience=5))
    assert main(["project", str(trace.save(tmp_path / "trace")), "-n", "50"]) == 0
    planned, why = capsys.readouterr().out.splitlines()[-2:]
    assert "for 50 epochs" in planned
    assert "no metric 'val_loss'" in why
