"""What Lightning does within a `fit`, or to its callbacks, besides training."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import pytorch_lightning
from torch import nn

from energyest import EnergyMonitor
from tests.support.trainers import (
    BATCH,
    BATCHES,
    GPU_W,
    NETS,
    At,
    PlNet,
    both_namespaces,
    both_namespaces_if_long,
    lightning_warns,
    loader,
    make_trainer,
    monitor_of,
    warnings_of,
)

pytestmark = lightning_warns


def tunable(pl: ModuleType) -> Any:
    class Net(NETS[pl]):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.lr, self.batch_size = 0.1, BATCH

        def train_dataloader(self) -> Any:
            return loader()

        def val_dataloader(self) -> Any:
            return loader()

    return Net()


def finder(pl: ModuleType, epochs: list[int]) -> Any:
    """Looks for a learning rate when some epochs begin, as in Lightning's documentation."""

    class Finder(pl.callbacks.LearningRateFinder):  # type: ignore[misc, name-defined]
        def on_fit_start(self, *args: Any) -> None:
            pass

        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch in epochs:
                self.lr_find(trainer, pl_module)

    return Finder(num_training_steps=6)


def check_once(monitor: EnergyMonitor, caplog: Any, every: int | None, epochs: int = 4) -> None:
    """All was counted once, and nothing failed."""
    trace = monitor.trace
    assert trace.column("steps").sum() == epochs * BATCHES
    if every is None:
        assert list(trace.column("epoch")) == list(range(epochs))
    assert trace.total_J == pytest.approx(GPU_W * trace.meta["duration_s"])
    assert (trace.column("start_s") >= 0).all()
    assert "earlier_parts" not in trace.meta
    assert not warnings_of(caplog, "failed")


@both_namespaces
@pytest.mark.parametrize("every", [None, 3])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("epochs", [[0], [2], pytest.param([0, 1, 3], marks=pytest.mark.long)])
def test_a_learning_rate_finder_within_the_training(
    pl: ModuleType,
    epochs: list[int],
    first: bool,
    every: int | None,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monitor = monitor_of(tmp_path / "energy", every_n_steps=every, count_flops=False)
    callbacks = [finder(pl, epochs), monitor]
    trainer = make_trainer(pl, tmp_path, *callbacks[:: 1 if first else -1], max_epochs=4)
    trainer.fit(tunable(pl), loader())
    check_once(monitor, caplog, every)


@both_namespaces_if_long
@pytest.mark.parametrize("kind", ["LearningRateFinder", "BatchSizeFinder"])
@pytest.mark.parametrize("first", [True, pytest.param(False, marks=pytest.mark.long)])
def test_a_finder_at_the_start(
    pl: ModuleType, first: bool, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {
        "LearningRateFinder": {"num_training_steps": 6},
        "BatchSizeFinder": {"max_trials": 2},
    }
    monitor = monitor_of(tmp_path / "energy", count_flops=False)
    callbacks = [getattr(pl.callbacks, kind)(**options[kind]), monitor]
    trainer = make_trainer(pl, tmp_path, *callbacks[:: 1 if first else -1], max_epochs=4)
    trainer.fit(tunable(pl))
    check_once(monitor, caplog, None)


@both_namespaces_if_long
def test_a_finder_in_a_training_that_was_resumed(
    pl: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saver = pl.callbacks.ModelCheckpoint(tmp_path, "last")
    options: dict[str, Any] = {"count_flops": False}
    first = monitor_of(tmp_path / "first", **options)
    trainer = make_trainer(pl, tmp_path, first, saver, max_epochs=2, enable_checkpointing=True)
    trainer.fit(tunable(pl), loader())
    for epochs in ([2], [3]):
        monitor = monitor_of(tmp_path / "second", **options)
        callbacks = [monitor, finder(pl, epochs)]
        trainer = make_trainer(pl, tmp_path, *callbacks, max_epochs=5)
        trainer.fit(tunable(pl), loader(), ckpt_path=tmp_path / "last.ckpt")
        trace = monitor.trace
        assert list(trace.column("epoch")) == [0, 1, 2, 3, 4]
        assert list(trace.column("steps")) == [BATCHES] * 5
        before_J = first.trace.column("energy_J")
        assert trace.column("energy_J")[:2] == pytest.approx(before_J)
        assert [part["run_id"] for part in trace.meta["earlier_parts"]] == [
            first.trace.meta["run_id"]
        ]
    assert not warnings_of(caplog, "failed")


@both_namespaces_if_long
def test_a_tuner_before_the_training(
    pl: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from importlib import import_module

    monitor = monitor_of(tmp_path / "energy", count_flops=False)
    trainer = make_trainer(pl, tmp_path, monitor, max_epochs=4)
    net = tunable(pl)
    tuner = import_module(f"{pl.__name__}.tuner").Tuner(trainer)
    tuner.lr_find(net, num_training=6)
    tuner.scale_batch_size(net, max_trials=2)
    trainer.fit(net)
    check_once(monitor, caplog, None)


# ------------------------------------------------------------------ batches that are skipped


@both_namespaces
@pytest.mark.parametrize(("every", "rows"), [(None, [2, 2, 2]), (3, [3, 3])])
@pytest.mark.parametrize("callback", [True, False])
def test_the_rest_of_an_epoch_is_skipped(
    pl: ModuleType, callback: bool, every: int | None, rows: list[int], tmp_path: Path
) -> None:
    class Net(NETS[pl]):  # type: ignore[misc]
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
            return -1 if batch_idx == 2 else None

    monitor = monitor_of(tmp_path / "energy", every_n_steps=every)
    make_trainer(pl, tmp_path, monitor, max_epochs=3).fit(Net(), loader(), loader())
    assert list(monitor.trace.column("steps")) == rows
    assert list(monitor.trace.column("samples")) == [BATCH * steps for steps in rows]
    assert monitor.trace.meta["status"] == "finished"
    assert not vars(monitor).get("_reported_errors")


@both_namespaces
def test_epochs_that_are_skipped_from_their_first_batch(pl: ModuleType, tmp_path: Path) -> None:
    class Net(NETS[pl]):  # type: ignore[misc]
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
            return -1 if self.current_epoch < 2 else None

    monitor = monitor_of(tmp_path / "energy")
    make_trainer(pl, tmp_path, monitor, max_epochs=4).fit(Net(), loader(), loader())
    assert list(monitor.trace.column("steps")) == [0, 0, BATCHES, BATCHES]
    assert np.isfinite(monitor.trace.column("energy_J")).all()
    assert not vars(monitor).get("_reported_errors")


# ------------------------------------------------------------------ copies


def make_copy(monitor: Any, duplicate: Any, when: str, copies: list[Any]) -> None:
    if when == "within":
        copies.append(duplicate(monitor))


def by_pickle(monitor: EnergyMonitor) -> EnergyMonitor:
    copied: EnergyMonitor = pickle.loads(pickle.dumps(monitor))
    return copied


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, by_pickle])
@pytest.mark.parametrize(
    "when",
    ["within", *(pytest.param(when, marks=pytest.mark.long) for when in ("before", "after"))],
)
def test_a_copy_holds_no_trainer_and_no_model(
    when: str, duplicate: Callable[[EnergyMonitor], EnergyMonitor], tmp_path: Path
) -> None:
    monitor, copies = monitor_of(count_flops=False), []
    net = PlNet()
    at = At("on_train_batch_end", 0, partial(make_copy, monitor, duplicate, when, copies))
    trainer = make_trainer(pytorch_lightning, tmp_path, monitor, at, max_epochs=2)
    if when == "before":
        copies.append(duplicate(monitor))
    trainer.fit(net, loader())
    if when == "after":
        copies.append(duplicate(monitor))
    (copied,) = copies
    assert len(pickle.dumps(copied)) < 100_000
    kinds = (pytorch_lightning.Trainer, nn.Module)
    assert not any(isinstance(found, kinds) for found in reachable_from(copied))
    gone = weakref.ref(net)
    del net, trainer, monitor, copies, at
    gc.collect()
    assert gone() is None
    # And it can be trained with.
    again = make_trainer(pytorch_lightning, tmp_path, copied, max_epochs=1)
    again.fit(PlNet(), loader())
    assert len(copied.trace) == 1


def reachable_from(start: object) -> list[object]:
    """The objects that an object holds, and what these hold, but no modules and classes."""
    seen: dict[int, object] = {}
    waiting: list[object] = [vars(start)]
    while waiting:
        found = waiting.pop()
        if id(found) not in seen and not isinstance(found, type | ModuleType):
            seen[id(found)] = found
            if type(found).__name__ not in ("function", "builtin_function_or_method"):
                waiting += gc.get_referents(found)
    return list(seen.values())
