"""What every adapter has to do, from one table: each behaviour is tested with each of them."""

from __future__ import annotations

import copy
import logging
import math
import pickle
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from energyest import load_trace
from energyest.display import format_both
from energyest.errors import ConfigurationError
from tests.support.adapters import (
    ADAPTERS,
    BATCH,
    KNOWN_GPU,
    WATTS,
    Adapter,
    Net,
    Setting,
    is_installed,
)
from tests.support.sensors import Constant, Failing
from tests.support.threads import is_within, own_threads
from tests.support.trainers import AccidentError, lightning_warns

pytestmark = lightning_warns

LOG = logging.getLogger("energyest")


class Warnings(logging.Handler):
    """The package's log messages from now on, at a level or above; each test begins without any."""

    def __init__(self, level: int = logging.WARNING) -> None:
        super().__init__(level)
        self._texts: list[str] = []
        LOG.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self._texts.append(record.getMessage())

    def about(self, part: str) -> list[str]:
        return [text for text in self._texts if part in text]


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    before, level = list(LOG.handlers), LOG.level
    LOG.setLevel(logging.INFO)
    yield
    LOG.handlers[:] = before
    LOG.setLevel(level)


Behaviour = Callable[[Adapter, Path], None]
TABLE: list[tuple[Behaviour, bool]] = []


def behaviour(check: Behaviour) -> Behaviour:
    """Of all adapters."""
    TABLE.append((check, False))
    return check


def behaviour_with_a_trainer(check: Behaviour) -> Behaviour:
    """Of those whose framework has the loop: in one of the user's own, the user does it."""
    TABLE.append((check, True))
    return check


# ---------------------------------------------------------------------- the record


@behaviour
def rows_hold_energy_steps_samples_and_metrics(adapter: Adapter, folder: Path) -> None:
    sensors = [Constant(WATTS), Constant(20.0, "cpu:0"), Constant(5.0, "ram:0")]
    monitor = adapter.monitor(folder / "energy", *sensors)
    setting = Setting(folder, step_s=0.002)
    adapter.train(monitor, setting)
    epochs = monitor.trace.epochs
    assert list(epochs.epoch) == [0, 1, 2]
    assert (epochs.duration_s >= 4 * 0.002).all()
    np.testing.assert_allclose(epochs.gpu_energy_J, WATTS * epochs.duration_s)
    np.testing.assert_allclose(epochs.energy_J, (WATTS + 25) * epochs.duration_s)
    assert list(epochs.steps) == 3 * [4]
    assert list(epochs.samples) == 3 * [30]
    assert len(setting.net.losses) == 12
    assert np.isfinite(epochs[adapter.loss]).all()
    assert len(set(epochs[adapter.loss])) == 3


@behaviour
def rows_and_what_lies_outside_of_them_make_the_total(adapter: Adapter, folder: Path) -> None:
    monitor = adapter.monitor(folder / "energy")
    adapter.train(monitor, Setting(folder, step_s=0.002))
    trace = monitor.trace
    np.testing.assert_allclose(trace.column("start_s")[1:], trace.column("end_s")[:-1])
    assert trace.meta["total_J"] == pytest.approx(WATTS * trace.meta["duration_s"], rel=1e-3)
    outside_s = trace.meta["duration_s"] - trace.column("duration_s").sum()
    assert outside_s >= 0
    outside_J = monitor.total_J - trace.column("energy_J").sum()
    assert outside_J == pytest.approx(WATTS * outside_s, rel=0.02, abs=0.01)


@behaviour
def the_folder_holds_what_the_monitor_shows(adapter: Adapter, folder: Path) -> None:
    monitor = adapter.monitor(folder / "energy")
    adapter.train(monitor, Setting(folder, validates=True))
    assert monitor.folder == folder / "energy"
    written = load_trace(monitor.folder)
    assert written.meta["status"] == "finished"
    assert written.total_J == pytest.approx(monitor.total_J)
    shown = monitor.trace.epoch_columns
    for name in ("epoch", "energy_J", "duration_s", "validation_s", "samples", adapter.loss):
        np.testing.assert_allclose(written.column(name), shown[name])


@behaviour
def validation_is_a_part_of_its_epoch(adapter: Adapter, folder: Path) -> None:
    monitor = adapter.monitor(folder / "energy")
    adapter.train(monitor, Setting(folder, validates=True, validation_s=0.03))
    epochs = monitor.trace.epochs
    assert len(epochs) == 3
    assert (epochs.validation_s >= 2 * 0.03).all()
    np.testing.assert_allclose(epochs.validation_energy_J, WATTS * epochs.validation_s)
    assert (epochs.validation_energy_J < epochs.energy_J).all()
    without = adapter.monitor(None)
    adapter.train(without, Setting(folder))
    assert list(without.trace.column("validation_s")) == [0, 0, 0]


@behaviour
def flops_are_those_of_the_steps(adapter: Adapter, folder: Path) -> None:
    monitor = adapter.monitor(folder / "energy")
    adapter.train(monitor, Setting(folder))
    assert monitor.trace.meta["forward_flops_per_sample"] == Net.FORWARD_FLOPS
    np.testing.assert_allclose(monitor.trace.column("flops"), 30 * Net.TRAINING_FLOPS)
    if adapter.has_trainer:  # with the batches that are validated
        validated = adapter.monitor(None)
        adapter.train(validated, Setting(folder, validates=True))
        more = validated.trace.column("flops") - monitor.trace.column("flops")
        np.testing.assert_allclose(more, 2 * BATCH * Net.FORWARD_FLOPS)


@behaviour
def accumulated_gradients_leave_steps_to_be_batches(adapter: Adapter, folder: Path) -> None:
    monitor = adapter.monitor(folder / "energy")
    adapter.train(monitor, Setting(folder, samples=40, accumulates=2))
    assert list(monitor.trace.column("steps")) == 3 * [5]
    assert list(monitor.trace.column("samples")) == 3 * [40]
    assert monitor.trace.meta["planned_epochs"] == 3


@behaviour
def intervals_take_the_place_of_epochs(adapter: Adapter, folder: Path) -> None:
    monitor = adapter.monitor(folder / "energy", every_n_steps=5)
    adapter.train(monitor, Setting(folder))
    trace = monitor.trace
    assert trace.unit == "interval"
    assert list(trace.column("steps")) == [5, 5, 2]
    assert trace.meta["interval_steps"] == 5
    assert trace.meta["planned_epochs"] == pytest.approx(12 / 5)


# ---------------------------------------------------------------------- what is known ahead


@behaviour
def the_projection_comes_while_it_trains(adapter: Adapter, folder: Path) -> None:
    monitor = adapter.monitor(folder / "energy")
    seen: list[Any] = []
    notes: list[str] = []

    def look(_: int) -> None:
        seen.append(monitor.projection)
        if not notes or notes[-1]:
            notes.append(monitor.projection_note)

    setting = Setting(folder, epochs=20, at_batch=look)
    setting.step_s = 0.003
    adapter.train(monitor, setting)
    assert seen[0] is None  # of a GPU that PRE does not know
    assert any(projection is not None for projection in seen)
    assert "no epoch was measured" in notes[0] or "how long the training is" in notes[0]
    assert not notes[-1]
    last = next(p for p in reversed(seen) if p is not None)
    assert last.epochs == 20
    # It had a batch to go.
    assert last.energy_J == pytest.approx(monitor.trace.column("energy_J").sum(), rel=0.2)
    assert monitor.projection.energy_J == pytest.approx(monitor.trace.column("energy_J").sum())


@behaviour_with_a_trainer
def the_first_projection_comes_with_the_first_batch(adapter: Adapter, folder: Path) -> None:
    monitor = adapter.monitor(folder / "energy", Constant(WATTS, "gpu:0", KNOWN_GPU))
    seen: list[Any] = []
    setting = Setting(folder, at_batch=lambda n: seen.append(monitor.projection), validates=True)
    adapter.train(monitor, setting)
    first = seen[1]
    assert first is not None, monitor.trace.meta.get("first_projection_note")
    assert first.epochs == 3
    noted = monitor.trace.meta["first_projection"]
    assert noted["train_samples"] == 30
    assert noted["validation_samples"] == 2 * BATCH
    assert monitor.trace.meta["workload"]["batch_size"] == BATCH


@behaviour_with_a_trainer
def the_plan_is_that_of_the_trainer(adapter: Adapter, folder: Path) -> None:
    monitor = adapter.monitor(folder / "energy")
    setting = Setting(folder, epochs=5, validates=True)
    lengths: list[Any] = []
    setting.at_batch = lambda n: lengths.append(monitor.trace.meta.get("planned_epochs"))
    adapter.train(monitor, setting)
    assert set(lengths[4:]) == {5}
    meta = monitor.trace.meta
    assert meta["validation_every_n_rows"] == 1
    assert meta["validation_to_training_batches"] == 2 / 4
    assert (meta["batch_size"], meta["train_samples"]) == (BATCH, 30)
    assert meta["validation_samples"] == 2 * BATCH


@behaviour_with_a_trainer
def optimizer_steps_that_bound_a_training_bound_its_plan(adapter: Adapter, folder: Path) -> None:
    monitor = adapter.monitor(folder / "energy", every_n_steps=4)
    setting = Setting(folder, epochs=100, max_steps=7, accumulates=2)
    lengths: list[Any] = []
    setting.at_batch = lambda n: lengths.append(monitor.trace.meta.get("planned_epochs"))
    adapter.train(monitor, setting)
    assert list(monitor.trace.column("steps")) == [4, 4, 4, 2]
    assert set(lengths[5:]) == {3.5}


@behaviour_with_a_trainer
def a_training_that_stops_early_is_as_long_as_it_was(adapter: Adapter, folder: Path) -> None:
    monitor = adapter.monitor(folder / "energy")
    setting = Setting(folder, epochs=20, validates=True, patience=2, learning_rate=0.0)
    adapter.train(monitor, setting)
    meta = monitor.trace.meta
    assert len(monitor.trace) < 20
    assert meta["planned_epochs"] == len(monitor.trace)
    (rule,) = meta["early_stopping"]
    assert (rule["mode"], rule["patience"]) == ("min", 2)
    assert np.isfinite(monitor.trace.column(rule["monitor"])).all()


# ---------------------------------------------------------------------- logs


@behaviour_with_a_trainer
def values_are_logged_once_a_row(adapter: Adapter, folder: Path) -> None:
    monitor = adapter.monitor(folder / "energy")
    setting = Setting(folder, epochs=6, validates=True, step_s=0.002)
    adapter.train(monitor, setting)
    own = {name for name in setting.logged if name.startswith("energy/")}
    assert {"energy/epoch_J", "energy/total_J", "energy/mean_power_W"} <= own
    assert {"energy/projected_J", "energy/projected_lower_J", "energy/projected_upper_J"} <= own
    shown = setting.logged["energy/epoch_J"]
    np.testing.assert_allclose(shown, monitor.trace.column("energy_J"), rtol=0.1)
    np.testing.assert_allclose(setting.logged["energy/mean_power_W"], 6 * [WATTS], rtol=1e-3)
    assert setting.logged["energy/total_J"] == sorted(setting.logged["energy/total_J"])
    assert not any(name.startswith("energy/") for name in monitor.trace.metrics)
    # What the training logs itself is as it would be without.
    assert len(setting.logged[adapter.loss]) == 6


# ---------------------------------------------------------------------- the training is untouched


@behaviour
def the_training_is_the_same_bit_for_bit(adapter: Adapter, folder: Path) -> None:
    def outcome(monitor: Any | None, place: Path) -> dict[str, Any]:
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(5)
        setting = Setting(place, validates=True)
        adapter.train(monitor, setting)
        net = setting.net
        return {
            "losses": net.losses,
            "weights": [value.tolist() for value in net.state_dict().values()],
            "torch": torch.get_rng_state().tolist(),
            "numpy": np.random.get_state(legacy=False)["state"]["key"].tolist(),  # noqa: NPY002
            "python": random.getstate(),
            "attributes": [sorted(vars(module)) for module in net.modules()],
            "hooks": [len(module._forward_pre_hooks) for module in net.modules()],
            "logged": sorted(name for name in setting.logged if not name.startswith("energy/")),
        }

    plain = outcome(None, folder / "plain")
    monitor = adapter.monitor(folder / "energy", Constant(WATTS, "gpu:0", KNOWN_GPU))
    watched = outcome(monitor, folder / "watched")
    assert len(set(plain["losses"])) == 12
    assert watched == plain
    assert len(monitor.trace) == 3


@behaviour
def an_exception_passes_and_ends_the_run(adapter: Adapter, folder: Path) -> None:
    _check_end(adapter, folder, AccidentError("as it was"), "interrupted by AccidentError")


@behaviour
def ctrl_c_ends_the_run(adapter: Adapter, folder: Path) -> None:
    _check_end(adapter, folder, KeyboardInterrupt(), "interrupted by KeyboardInterrupt")


def _check_end(adapter: Adapter, folder: Path, error: BaseException, status: str) -> None:
    def fail(batch: int) -> None:
        if batch == 6:
            raise error

    monitor = adapter.monitor(folder / "energy")
    ended: BaseException | None = None
    try:
        adapter.train(monitor, Setting(folder, at_batch=fail))
    except BaseException as caught:
        ended = caught
    # Lightning makes an exit of Ctrl-C.
    assert ended is error or isinstance(error, KeyboardInterrupt)
    assert ended is not None
    assert is_within(lambda: not own_threads(), 10)
    trace = load_trace(folder / "energy")
    assert trace.meta["status"] == monitor.trace.meta["status"] == status
    assert list(trace.column("steps")) == [4]
    assert trace.meta["interrupted_epoch"]["energy_J"] > 0
    assert not [t for t in threading.enumerate() if t.name.startswith("energyest")]


@behaviour
def a_sensor_that_fails_leaves_nan_and_the_training_alone(adapter: Adapter, folder: Path) -> None:
    sensors = [Failing(error=RuntimeError("lost")), Constant(20.0, "cpu:0")]
    monitor = adapter.monitor(folder / "energy", *sensors)
    setting = Setting(folder)
    adapter.train(monitor, setting)
    assert len(setting.net.losses) == 12
    trace = monitor.trace
    assert list(trace.column("steps")) == 3 * [4]
    assert np.isnan(trace.column("energy_J")).all()
    assert math.isnan(monitor.total_J)
    np.testing.assert_allclose(trace.column("cpu_energy_J"), 20 * trace.column("duration_s"))


# ---------------------------------------------------------------------- several trainings


@behaviour_with_a_trainer
def a_second_training_has_a_trace_of_its_own(adapter: Adapter, folder: Path) -> None:
    monitor = adapter.monitor(folder / "energy")
    adapter.train(monitor, Setting(folder / "first"))
    first, first_J = monitor.folder, monitor.total_J
    adapter.train(monitor, Setting(folder / "second", epochs=2))
    assert len(monitor.trace) == 2
    assert monitor.folder != first
    assert monitor.trace.meta["run_id"] != load_trace(first).meta["run_id"]
    assert load_trace(first).total_J == pytest.approx(first_J)
    assert len(load_trace(first)) == 3


@behaviour
def a_folder_that_is_in_use_is_left_alone(adapter: Adapter, folder: Path) -> None:
    monitors = [adapter.monitor(folder / "energy") for _ in range(2)]
    for monitor in monitors:
        adapter.train(monitor, Setting(folder, epochs=2))
    assert monitors[0].folder == folder / "energy"
    assert monitors[1].folder.parent == folder
    for monitor in monitors:
        written = load_trace(monitor.folder)
        assert written.meta["run_id"] == monitor.trace.meta["run_id"]


@behaviour
def a_resumed_training_goes_on_with_its_trace(adapter: Adapter, folder: Path) -> None:
    earlier = adapter.monitor(folder / "energy")
    adapter.train(earlier, Setting(folder, epochs=2, saves=True, step_s=0.002))
    monitor = adapter.monitor(folder / "later")
    adapter.train(monitor, Setting(folder, epochs=4, resumes=True, step_s=0.002))
    trace = monitor.trace
    assert list(trace.column("epoch")) == [0, 1, 2, 3]
    assert list(trace.column("steps")) == 4 * [4]
    np.testing.assert_allclose(
        trace.column("energy_J")[:2], earlier.trace.column("energy_J"), rtol=0.05
    )
    assert trace.meta["earlier_rows"] == 2
    assert monitor.total_J > earlier.trace.column("energy_J").sum()
    assert monitor.total_J > trace.column("energy_J").sum()
    assert trace.meta["planned_epochs"] == 4


# ---------------------------------------------------------------------- a budget

# 4 batches of 5 ms at 300 W are an epoch of 6 J at the least.
BATCH_S = 0.005
TINY_KWH, HUGE_KWH = 1e-9, 1e3


@behaviour
def a_budget_that_is_kept_says_nothing(adapter: Adapter, folder: Path) -> None:
    said = Warnings()
    monitor = adapter.monitor(
        folder / "energy", budget_kWh=HUGE_KWH, budget_hours=1e3, on_exceed="stop"
    )
    adapter.train(monitor, Setting(folder, epochs=6, step_s=BATCH_S))
    assert len(monitor.trace) == 6
    assert not monitor.exceeded
    assert not said.about("budget")
    known = monitor.trace.meta["budget"]
    assert known == {"limits": {"kWh": HUGE_KWH, "hours": 1e3}, "on_exceed": "stop"}


@behaviour
def a_budget_that_is_spent_is_warned_of_and_no_more(adapter: Adapter, folder: Path) -> None:
    said = Warnings()
    monitor = adapter.monitor(folder / "energy", budget_kWh=TINY_KWH)
    adapter.train(monitor, Setting(folder, step_s=BATCH_S))
    assert len(monitor.trace) == 3
    assert monitor.trace.meta["status"] == "finished"
    (warning,) = said.about("budget of 1e-09 kWh is spent")
    assert "ends here" not in warning
    assert "is spent" in monitor.exceeded
    written = load_trace(folder / "energy").meta["budget"]
    assert written["stopped"] is None
    assert [finding["level"] for finding in written["findings"]] == ["spent"]


@behaviour
def a_budget_that_is_spent_stops_the_training(adapter: Adapter, folder: Path) -> None:
    said = Warnings()
    monitor = adapter.monitor(folder / "energy", budget_kWh=TINY_KWH, on_exceed="stop")
    setting = Setting(folder, epochs=20, validates=True, step_s=BATCH_S)
    adapter.train(monitor, setting)
    assert len(monitor.trace) == 1
    assert len(setting.net.losses) < 20 * 4
    assert monitor.trace.meta["status"] == "finished"
    (warning,) = said.about("budget")
    assert warning.endswith("the training ends here")
    written = load_trace(folder / "energy").meta["budget"]
    assert written["stopped"] == monitor.exceeded
    assert "is spent" in written["stopped"]


@behaviour
def hours_are_a_budget_too(adapter: Adapter, folder: Path) -> None:
    monitor = adapter.monitor(folder / "energy", budget_hours=0.02 / 3600, on_exceed="stop")
    adapter.train(monitor, Setting(folder, epochs=50, step_s=BATCH_S))
    assert 1 <= len(monitor.trace) < 50
    assert "hours is spent" in monitor.exceeded


@behaviour
def kilograms_are_a_budget_where_an_intensity_is_known(adapter: Adapter, folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="budget_kg=1 needs a carbon intensity"):
        adapter.monitor(None, budget_kg=1)
    options = {"carbon_intensity": 500.0, "pue": 1.5, "on_exceed": "stop"}
    monitor = adapter.monitor(folder / "energy", budget_kg=TINY_KWH * 0.75, **options)
    adapter.train(monitor, Setting(folder, epochs=20, step_s=BATCH_S))
    assert len(monitor.trace) == 1
    assert "kg CO2e is spent" in monitor.exceeded


@behaviour
def a_projection_that_is_settled_stops_the_training(adapter: Adapter, folder: Path) -> None:
    setting = Setting(folder, epochs=100_000, step_s=BATCH_S, validates=True)
    # Room for a tenth of them at the most, on a busy machine for less: far from spent when it is
    # seen that it will not do.
    budget_kWh = 10_000 * 4 * BATCH_S * WATTS / 3.6e6
    monitor = adapter.monitor(folder / "energy", budget_kWh=budget_kWh, on_exceed="stop")
    adapter.train(monitor, setting)
    trace = monitor.trace
    assert 3 <= len(trace) < 300
    assert monitor.total_J < budget_kWh * 3.6e6
    assert "will be exceeded" in trace.meta["budget"]["stopped"]
    assert "of 100000 epochs fit" in trace.meta["budget"]["stopped"]


@behaviour
def energy_that_is_not_measured_stops_nothing_and_is_said(adapter: Adapter, folder: Path) -> None:
    said = Warnings()
    sensors = [Failing(error=RuntimeError("lost")), Constant(20.0, "cpu:0")]
    monitor = adapter.monitor(folder / "energy", *sensors, budget_kWh=TINY_KWH, on_exceed="stop")
    adapter.train(monitor, Setting(folder))
    assert len(monitor.trace) == 3
    (warning,) = said.about("budget")
    assert "it is not known whether the budget of 1e-09 kWh is kept" in warning
    assert not monitor.exceeded


@behaviour
def what_was_spent_before_a_resume_counts(adapter: Adapter, folder: Path) -> None:
    earlier = adapter.monitor(folder / "energy")
    adapter.train(earlier, Setting(folder, epochs=6, saves=True, step_s=BATCH_S))
    budget_kWh = earlier.trace.column("energy_J").sum() / 3.6e6
    monitor = adapter.monitor(folder / "later", budget_kWh=budget_kWh, on_exceed="stop")
    adapter.train(monitor, Setting(folder, epochs=20, resumes=True, step_s=BATCH_S))
    assert len(monitor.trace) == 7
    assert "spent" in monitor.trace.meta["budget"]["stopped"]


@behaviour
def a_budget_that_cannot_be_is_refused(adapter: Adapter, folder: Path) -> None:
    for wrong in ({"budget_kWh": 0}, {"budget_hours": -1}, {"budget_kg": math.nan}):
        (name,) = wrong
        with pytest.raises(ConfigurationError, match=f"{name}=.* must be positive"):
            adapter.monitor(None, **wrong)
    with pytest.raises(ConfigurationError, match="on_exceed='halt' must be"):
        adapter.monitor(None, budget_kWh=1, on_exceed="halt")
    with pytest.raises(ConfigurationError, match="needs a budget"):
        adapter.monitor(None, on_exceed="stop")


# ---------------------------------------------------------------------- the summary


@behaviour
def a_summary_ends_the_run(adapter: Adapter, folder: Path) -> None:
    said = Warnings(logging.INFO)
    sensors = [Constant(300.0), Constant(100.0, "cpu:0")]
    monitor = adapter.monitor(folder / "energy", *sensors, carbon_intensity="DE", pue=1.5)
    adapter.train(monitor, Setting(folder, step_s=BATCH_S))
    (text,) = said.about("outside of them")
    assert "3 epochs in " in text
    assert f", {format_both(monitor.total_J)}" in text
    assert "GPU 75 %" in text
    assert "per sample" in text
    assert "(Germany, " in text
    assert f"trace: {folder / 'energy'}" in text
    quiet = adapter.monitor(None, quiet=True)
    said = Warnings(logging.INFO)
    adapter.train(quiet, Setting(folder, epochs=1))
    assert not said.about("in epochs")


# ---------------------------------------------------------------------- the monitor as an object


@behaviour_with_a_trainer
def a_monitor_can_be_copied_and_pickled(adapter: Adapter, folder: Path) -> None:
    monitor = adapter.monitor(folder / "energy")
    copies: list[Any] = []

    def copy_it(batch: int) -> None:
        if batch == 5:
            copies.extend([copy.deepcopy(monitor), pickle.loads(pickle.dumps(monitor))])

    adapter.train(monitor, Setting(folder / "first", at_batch=copy_it))
    assert len(monitor.trace) == 3
    copies += [copy.deepcopy(monitor), pickle.loads(pickle.dumps(monitor))]
    for number, one in enumerate(copies):
        assert len(one.trace) == 0
        assert one.projection is None
        adapter.train(one, Setting(folder / str(number), epochs=2))
        assert len(one.trace) == 2


@behaviour_with_a_trainer
def the_wrong_trainer_says_which_monitor_it_takes(adapter: Adapter, folder: Path) -> None:
    others = [other for other in ADAPTERS.values() if other.has_trainer and other is not adapter]
    for other in filter(is_installed, others):
        monitor = other.monitor(folder / "energy")
        right = type(adapter.monitor(None)).__name__
        with pytest.raises(ConfigurationError, match=f"use {right}: "):
            adapter.train(monitor, Setting(folder))


# ---------------------------------------------------------------------- the table


CASES = [
    pytest.param(adapter, check, id=f"{adapter.name}-{check.__name__}")
    for check, needs_trainer in TABLE
    for adapter in ADAPTERS.values()
    if adapter.has_trainer or not needs_trainer
]


@pytest.mark.parametrize(("adapter", "check"), CASES)
def test_adapter(adapter: Adapter, check: Behaviour, tmp_path: Path) -> None:
    if not is_installed(adapter):
        pytest.skip("transformers is not installed")
    check(adapter, tmp_path)


def test_there_are_at_least_twenty_for_each() -> None:
    for adapter in ADAPTERS.values():
        assert sum(case.values[0] is adapter for case in CASES) >= 20
