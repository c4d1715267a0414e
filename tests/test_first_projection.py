"""`EnergyMonitor`'s first projection: PRE's, at the first batch, and how STEP succeeds to it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from energyest import EnergyTrace, Estimate, estimate_step, load_trace, track
from energyest.estimators.pre import estimate as pre_estimate
from energyest.estimators.pre.estimate import GPU_ALONE, estimate_pre
from energyest.estimators.pre.training_data import runs_of
from energyest.measure.sensors import detect
from energyest.profiling.tf32 import tf32
from energyest.records.workload import Operation, Workload
from energyest.tracking.first_projection import optimizer_of, power_beside_gpus, precision_of
from simulation.fake_nvml import FakeNvml
from simulation.stepped import Clock
from simulation.synthetic_pre import small_model
from tests.support.sensors import Constant
from tests.support.trainers import (
    BATCH,
    BATCHES,
    CPU_W,
    GPU_W,
    SAMPLES,
    Data,
    PlNet,
    Spy,
    Stream,
    lightning_warns,
    loader,
    make_trainer,
    monitor_of,
    time_limits_go_by,
    warnings_of,
)

pytestmark = lightning_warns


def h100(device: str = "gpu:0", name: str = "NVIDIA H100 80GB HBM3") -> Constant:
    """A GPU that PRE knows, at a power of its own."""
    return Constant(GPU_W, device, name)


class Early(pytorch_lightning.Callback):
    """Looks before the first batch, at its end, and at the end of each epoch."""

    def __init__(self, look: Callable[[], Any]) -> None:
        self.look = look
        self.seen: list[Any] = []

    def on_train_start(self, *_: Any) -> None:
        self.seen.append(self.look())

    def on_train_batch_end(self, *args: Any) -> None:
        if len(self.seen) == 1:
            self.seen.append(self.look())

    def on_train_epoch_end(self, *_: Any) -> None:
        self.seen.append(self.look())


@pytest.fixture(autouse=True)
def packaged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pre_estimate, "packaged", lambda: small_model().fitted_)


def fit(tmp_path: Path, *sensors: Any, data: Any = None, **options: Any) -> tuple[Any, list[Any]]:
    """The monitor of a training, and its projections: before it, at the first batch, by epochs."""
    every, model = options.pop("every", None), options.pop("model", None)
    validation, count = options.pop("validation", None), options.pop("count_flops", True)
    monitor = monitor_of(
        tmp_path / "energy", *(sensors or [h100()]), every_n_steps=every, count_flops=count
    )
    early = Early(lambda: monitor.projection)
    trainer = make_trainer(pytorch_lightning, tmp_path, monitor, early, **options)
    batches = loader() if data is None else data
    trainer.fit(model or PlNet(step_s=0.002), batches, validation)
    return monitor, early.seen


# ---------------------------------------------------------------------- the first of them


def test_pre_speaks_at_the_first_batch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    monitor, seen = fit(tmp_path, max_epochs=6, validation=loader(2 * BATCH))
    assert seen[0] is None
    first = seen[1]
    stored = Workload.from_dict(load_trace(tmp_path / "energy").meta["workload"])
    expected = estimate_pre(
        stored, "H100", epochs=6, train_samples=SAMPLES, validation_samples=2 * BATCH
    )
    assert first.energy_J == pytest.approx(expected.energy_J)
    assert first.upper_J == pytest.approx(expected.upper_J)
    assert first.method == expected.method
    assert (first.measured_J, first.epochs) == (0, 6)
    assert GPU_ALONE in first.assumptions
    meta = monitor.trace.meta["first_projection"]
    assert meta["energy_J"] == pytest.approx(expected.energy_J)
    assert (meta["train_samples"], meta["validation_samples"]) == (SAMPLES, 2 * BATCH)
    assert warnings_of(caplog) == []


def test_the_workload_is_the_trainings(tmp_path: Path) -> None:
    monitor, _ = fit(tmp_path, max_epochs=3)
    meta = monitor.trace.meta
    stored = Workload.from_dict(meta["workload"])
    assert (stored.model, stored.batch_size, stored.loop) == ("PlNet", BATCH, "lightning")
    assert (stored.precision, stored.optimizer) == ("fp32", "sgd_momentum")
    assert stored.forward_flops_per_sample == meta["forward_flops_per_sample"]
    assert (meta["precision"], meta["optimizer"]) == ("fp32", "sgd_momentum")
    (run,) = runs_of([monitor.trace])  # it can be learnt from
    assert run.workload == stored
    assert run.power_W == pytest.approx(GPU_W, rel=0.01)


def test_step_succeeds(clock: Clock, tmp_path: Path) -> None:
    monitor, seen = fit(tmp_path, max_epochs=8, model=PlNet(0.02, clock=clock))
    epoch_J = monitor.trace.column("energy_J")
    pre_J = seen[1].energy_J / 8
    assert seen[2].energy_J == pytest.approx(epoch_J[0] + 7 * pre_J, rel=0.05)
    assert "after 1 epoch" in seen[2].method
    assert seen[3].method.startswith("epoch 1, and PRE with")
    for rows, projection in enumerate(seen[2:], start=1):
        assert projection.measured_J == pytest.approx(epoch_J[:rows].sum(), rel=0.2)
        assert projection.measured_J <= projection.lower_J <= projection.energy_J
    step = estimate_step(monitor.trace.head(7), 8)
    assert seen[8].energy_J == pytest.approx(step.energy_J, rel=0.05)
    assert monitor.projection.energy_J == pytest.approx(epoch_J.sum())
    assert monitor.projection.method.startswith("STEP")


def test_what_is_logged_follows(clock: Clock, tmp_path: Path) -> None:
    monitor = monitor_of(None, h100())
    spy = Spy(lambda t: (t.callback_metrics.get("energy/projected_J"), monitor.projection))
    trainer = make_trainer(pytorch_lightning, tmp_path, monitor, spy, max_epochs=3, logger=True)
    trainer.fit(PlNet(0.02, clock=clock), loader())
    assert len(spy.seen) == 3
    for logged, projection in spy.seen:
        assert float(logged) == pytest.approx(projection.energy_J, rel=1e-3)


def test_processors_and_memory_go_on(tmp_path: Path) -> None:
    monitor, seen = fit(tmp_path, h100(), Constant(CPU_W, "cpu:0"), max_epochs=4)
    alone = fit(tmp_path, max_epochs=4)[1][1]
    first = seen[1]
    assert first.energy_J == pytest.approx(alone.energy_J + CPU_W * alone.duration_s)
    assert GPU_ALONE not in first.assumptions
    assert first.assumptions[0].endswith("keep drawing 100 W")
    assert monitor.trace.meta["first_projection"]["host_power_W"] == pytest.approx(CPU_W)


# ---------------------------------------------------------------------- how long it lasts


@pytest.mark.parametrize(
    ("options", "epochs", "steps"),
    [
        ({"max_epochs": 5}, 5, 5 * BATCHES),
        ({"max_steps": 10}, 2.5, 10),
        ({"max_epochs": 2, "max_steps": 100}, 2, 2 * BATCHES),
        ({"max_steps": 10, "every": 4}, 2.5, 10),
        ({"max_steps": 10, "every": 3}, 10 / 3, 10),
        ({"max_steps": 5, "accumulate_grad_batches": 2}, 2.5, 10),
        ({"max_epochs": 3, "limit_train_batches": 2}, 3, 6),
    ],
)
def test_plans(options: Any, epochs: float, steps: float, tmp_path: Path) -> None:
    monitor, seen = fit(tmp_path, **options)
    first, each = seen[1], monitor.trace.meta["first_projection"]["train_samples"] / BATCH
    assert first.epochs == pytest.approx(epochs)
    assert each * epochs == pytest.approx(steps)
    assert first.unit == ("interval" if "every" in options else "epoch")
    assert monitor.projection.energy_J == pytest.approx(monitor.trace.column("energy_J").sum())


def test_without_a_length_it_comes_after_the_first_epoch(tmp_path: Path) -> None:
    monitor, seen = fit(tmp_path, data=DataLoader(Stream(), BATCH), max_epochs=4)
    assert seen[:2] == [None, None]
    assert "after 1 epoch" in seen[2].method
    assert monitor.trace.meta["first_projection"]["train_samples"] == SAMPLES


def test_a_time_limit(clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    time_limits_go_by(clock, monkeypatch)
    limit, model = timedelta(seconds=0.6), PlNet(0.02, clock=clock)
    _, seen = fit(tmp_path, max_epochs=-1, max_time=limit, model=model)
    assert seen[1].duration_s == pytest.approx(0.6, abs=0.01)


def test_without_an_end_nothing_is_projected(tmp_path: Path) -> None:
    class Stop(pytorch_lightning.Callback):
        def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
            trainer.should_stop = trainer.current_epoch == 2

    monitor = monitor_of(None, h100())
    early = Early(lambda: monitor.projection)
    trainer = make_trainer(pytorch_lightning, tmp_path, monitor, early, Stop(), max_epochs=-1)
    trainer.fit(PlNet(), loader())
    assert early.seen == 5 * [None]


@pytest.mark.parametrize(
    ("options", "samples"),
    [
        ({}, 2 * BATCH),
        ({"check_val_every_n_epoch": 2, "num_sanity_val_steps": 1}, BATCH),
        ({"val_check_interval": 2}, 4 * BATCH),
        ({"every": 2}, BATCH),
        ({"every": 2, "val_check_interval": 2}, 2 * BATCH),
        ({"val_check_interval": 8, "check_val_every_n_epoch": None}, BATCH),
        ({"limit_val_batches": 0}, 0),
    ],
)
def test_validation_in_the_mean(options: Any, samples: int, tmp_path: Path) -> None:
    monitor, _ = fit(tmp_path, validation=loader(2 * BATCH), max_epochs=2, **options)
    assert monitor.trace.meta["first_projection"]["validation_samples"] == samples


def test_the_last_batch_may_be_smaller(tmp_path: Path) -> None:
    monitor, _ = fit(tmp_path, data=loader(SAMPLES - 3), max_epochs=2)
    assert monitor.trace.meta["first_projection"]["train_samples"] == SAMPLES - 3


# ---------------------------------------------------------------------- where there is none


@pytest.mark.parametrize(
    ("sensors", "options", "note"),
    [
        ([Constant(50, "cpu:0")], {}, "this one uses none"),
        ([Constant(50)], {}, "unknown GPU 'constant'"),
        ([h100(), Constant(5, "ram:0")], {"count_flops": False}, None),
        ([h100()], {"precision": "64-true"}, "precision='fp64' must be one of"),
        ([h100(name="NVIDIA GeForce RTX 9999")], {}, "unknown GPU"),
    ],
)
def test_as_before_without_one(
    sensors: Any,
    options: Any,
    note: str | None,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monitor, seen = fit(tmp_path, *sensors, max_epochs=4, **options)
    assert seen[:4] == 4 * [None]
    assert len(monitor.trace) == 4
    meta = monitor.trace.meta
    notes = [meta.get("workload_note"), meta.get("first_projection_note")]
    assert note in notes if note is None else any(note in str(text) for text in notes)
    assert warnings_of(caplog) == []


def test_two_gpus(tmp_path: Path) -> None:
    monitor, seen = fit(tmp_path, h100(), h100("gpu:1"), max_epochs=3)
    assert seen[:3] == 3 * [None]
    assert "workload" not in monitor.trace.meta
    assert "this one uses 2" in monitor.trace.meta["first_projection_note"]


def test_without_the_packaged_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing() -> Any:
        raise FileNotFoundError("pre_model.json")

    monkeypatch.setattr(pre_estimate, "packaged", missing)
    monitor, seen = fit(tmp_path, max_epochs=3)
    assert seen[:4] == 4 * [None]
    assert monitor.trace.meta["first_projection_note"] == "pre_model.json"
    assert "workload" in monitor.trace.meta
    assert warnings_of(caplog) == []


def test_nothing_of_the_users_is_called_again(tmp_path: Path) -> None:
    calls = {"step": 0, "forward": 0, "hook": 0}

    class Net(PlNet):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            calls["step"] += 1
            return super().training_step(batch, batch_idx)

        def forward(self, x: Tensor) -> Tensor:
            calls["forward"] += 1
            return super().forward(x)

    net = Net()
    net.net.register_forward_hook(lambda *_: calls.update(hook=calls["hook"] + 1))
    monitor, _ = fit(tmp_path, model=net, max_epochs=1)
    assert calls == dict.fromkeys(calls, BATCHES)
    assert "workload" in monitor.trace.meta


_KEPT: dict[Any, Tensor] = {}


@functools.cache
def _kept_mask(length: int) -> Tensor:
    return torch.tril(torch.ones(length, length)) + torch.tensor([1.0, 2.0]).sum()


def _kept_positions(samples: int, training: bool) -> Tensor:
    key = (samples, training)
    if key not in _KEPT:
        _KEPT[key] = torch.arange(float(samples))[:, None].clone().mul_(2)
    return _KEPT[key]


class Keeping(PlNet):
    """A model whose forward caches values that any copy of it shares."""

    def forward(self, x: Tensor) -> Tensor:
        kept = _kept_positions(x.shape[0], self.training)
        out: Tensor = self.net(x @ _kept_mask(x.shape[1]) + kept)
        return out


def test_what_a_function_keeps_has_values(tmp_path: Path) -> None:
    losses = []
    for options in ({}, {"monitor": True}):
        _KEPT.clear()
        _kept_mask.cache_clear()
        torch.manual_seed(0)
        net = Keeping()
        monitor = [monitor_of(None, h100())] if options else []
        make_trainer(pytorch_lightning, tmp_path, *monitor, max_epochs=1).fit(net, same())
        losses.append(net.losses)
    assert losses[0] == losses[1]
    assert "workload" in monitor[0].trace.meta


def same() -> DataLoader[Any]:
    """Batches that draw nothing from the generators."""
    x = torch.arange(float(SAMPLES * 8)).reshape(SAMPLES, 8).cos()
    return DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), BATCH)


class Target:
    """An object in a batch that neither torch nor a copy of the batch knows."""

    def __init__(self, classes: Tensor) -> None:
        self.classes = classes


class Writing(PlNet):
    """Its forward looks at values, and its step writes to what the batch holds."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) if x.sum() > -1e9 else x

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        batch[1].classes = batch[1].classes.float()
        assert type(batch[1].classes) is Tensor
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1].classes.long())


def test_objects_of_a_batch_are_not_written_to(tmp_path: Path) -> None:
    def collate(items: Any) -> Any:
        x, y = zip(*items, strict=True)
        return torch.stack(x), Target(torch.stack(y))

    seen = []
    net = Writing()
    net.on_train_batch_start = lambda batch, i: seen.append(batch[1].classes.dtype)  # type: ignore
    monitor, _ = fit(
        tmp_path, model=net, data=DataLoader(Data(), BATCH, collate_fn=collate), max_epochs=1
    )
    assert seen == BATCHES * [torch.int64]
    assert len(monitor.trace) == 1
    assert "workload" in monitor.trace.meta


# ---------------------------------------------------------------------- the simulated driver


def test_with_the_simulated_driver(tmp_path: Path, nvml: FakeNvml) -> None:
    nvml.set_name(0, "NVIDIA H100 80GB HBM3")
    nvml.set_power(0, watts=300)
    _, seen = fit(tmp_path, *detect([0], components=("gpu", "ram")), max_epochs=4)
    assert "on one H100 80GB HBM3" in seen[1].method
    assert seen[1].assumptions[0].startswith("processors and memory keep drawing")
    nvml.set_name(0, "NVIDIA H101 prototype")
    nvml.set_chip(0, cores=16896, sm_MHz=1980, memory_MHz=2619, bus_bits=5120, capability=(9, 0))
    _, seen = fit(tmp_path, *detect([0], components=("gpu",)), max_epochs=4)
    assert "on one H101 prototype" in seen[1].method  # from what NVML tells of it
    assert any("no training on H101 prototype was measured" in a for a in seen[1].assumptions)


# ---------------------------------------------------------------------- own loops


def test_own_loops_can_begin_with_an_estimate(clock: Clock) -> None:
    estimate = Estimate(1000.0, 500.0, 2000.0, 0.9, duration_s=10.0, epochs=10, method="PRE")
    with track(epochs=10, sensors=[Constant(GPU_W)]) as run:
        assert run.projection is None
        run.expect(estimate)
        assert run.projection is not None
        assert run.projection.energy_J == pytest.approx(1000)
        run.start_epoch()
        clock.sleep(0.1)
        run.end_epoch()
        assert run.projection.energy_J == pytest.approx(900 + 0.1 * GPU_W, rel=0.05)
        assert run.projection.measured_J == pytest.approx(0.1 * GPU_W)


def test_an_estimate_that_cannot_be_used_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with track(epochs=10, sensors=[Constant(GPU_W)]) as run:
        run.expect(Estimate(1000.0))
        assert run.projection is None
    assert warnings_of(caplog) == [
        "energyest: no projection: pre needs epochs and an interval, as estimate_pre() returns"
    ]


# ---------------------------------------------------------------------- parts


@pytest.fixture
def flags() -> Iterator[None]:
    with tf32(False):
        yield


@pytest.mark.usefixtures("flags")
def test_precision() -> None:
    conv = Operation("forward", "convolution", 2, 100.0, 1.0)
    product = Operation("forward", "addmm", 1, 150.0, 1.0)
    assert precision_of("bf16-mixed") == precision_of("bf16-true") == "bf16"
    assert precision_of("16-mixed", [conv]) == "fp16"
    assert precision_of("64-true") == "fp64"
    assert precision_of("32-true", [conv, product]) == "fp32"
    torch.backends.cudnn.allow_tf32 = True  # torch's default
    assert precision_of("32-true", [conv, product]) == "tf32"
    assert precision_of("32-true", [product]) == "fp32"
    assert precision_of("32-true") == "fp32"
    with tf32(True):
        assert precision_of("32-true", [product]) == "tf32"


def test_optimizers() -> None:
    parameters, kinds = [nn.Parameter(torch.zeros(2))], torch.optim

    class Own(kinds.Adam):
        pass

    for optimizer, name in [
        (kinds.SGD(parameters), "sgd"),
        (kinds.SGD(parameters, momentum=0.9), "sgd_momentum"),
        (kinds.SGD(parameters, momentum=0.9, nesterov=True), "nesterov"),
        (kinds.AdamW(parameters), "adamw"),
        (kinds.RMSprop(parameters), "rmsprop"),
        (Own(parameters), "adamw"),
    ]:
        assert optimizer_of([optimizer]) == name
    assert optimizer_of([]) == "sgd"


def test_power_beside_the_gpus() -> None:
    def beside_W(*kinds: str) -> float:
        names = [f"{kind}:0" for kind in kinds]
        power = {
            "time_s": np.array([0.0, 1.0, 2.0, 2.5, 2.5, 2.5]),
            "device": np.array(["cpu:0", "cpu:0", "cpu:0", "cpu:0", "gpu:0", "system:0"]),
            "power_W": np.array([900.0, 900.0, 100.0, 200.0, 300.0, 700.0]),
        }
        devices = [{"device": n, "kind": k} for n, k in zip(names, kinds, strict=True)]
        return power_beside_gpus(EnergyTrace({}, power, {"devices": devices}))

    assert beside_W("cpu", "gpu") == 150
    assert beside_W("gpu") == 0
    # What is contained in the node counts once.
    assert beside_W("cpu", "gpu", "system") == 400
    assert beside_W("system", "cpu") == 700
    assert math.isnan(beside_W("ram", "gpu"))  # never read
