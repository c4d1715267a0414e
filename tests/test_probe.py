"""The probe: what it measures, what it leaves unchanged, and its effect in `estimate_pre`."""

from __future__ import annotations

import copy
import gc
import math
import random
import weakref
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pynvml
import pytest
import torch
from torch import Tensor, nn

from energyest.errors import EstimateError, ProbeError, WorkloadError
from energyest.estimators.pre.blend import deviation_of
from energyest.estimators.pre.estimate import estimate_pre
from energyest.estimators.pre.probed import PROBE_DEVIATION
from energyest.gpus import Gpu, resolve_gpu
from energyest.measure.sensors import detect
from energyest.profiling import step_timing as stepping
from energyest.profiling.probes import gpu_probe as probing
from energyest.profiling.probes.gpu_probe import measure_and_clear, probe
from energyest.profiling.step_timing import StepCost, timed_steps
from energyest.profiling.tf32 import convolutions_in_tf32, matrix_products_in_tf32, tf32
from energyest.records.probe import Probe
from energyest.records.workload import OPTIMIZERS, PRECISIONS, Workload
from simulation.fake_nvml import FakeNvml
from simulation.stepped import Clock
from simulation.synthetic_pre import small_model, workload
from tests.support.sensors import Constant
from tests.support.trainers import PlNet

CPU = torch.device("cpu")
BATCH = (torch.randn(16, 8), torch.randint(3, (16,)))


class Net(nn.Module):
    """Dropout, batch norm and noise: everything that a careless probe could disturb."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + random.gauss(0, 0.1) + np.random.normal(0, 0.1))  # noqa: NPY002


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fraction of a second in place of a few."""
    for name, seconds in [
        ("_WARM_S", 0.02),
        ("_LONGEST_WARM_S", 0.1),
        ("_TIMED_S", 0.05),
        ("_LONGEST_S", 1.0),
        ("_AFTER_S", 0.02),
    ]:
        monkeypatch.setattr(stepping, name, seconds)


def cost_of(model: nn.Module, batch: Any = BATCH, **options: Any) -> StepCost:
    """Steps on the CPU, with a simulated meter."""
    sensors = options.pop("sensors", [Constant(300.0)])
    steps, loss = options.pop("steps", 3), options.pop("loss", None)
    described = workload(model=type(model).__name__, batch_size=16, **options)
    return measure_and_clear(model, batch, CPU, sensors, workload=described, steps=steps, loss=loss)


# ---------------------------------------------------------------------- what is measured


@pytest.mark.usefixtures("quick")
def test_steps_are_timed_and_metered(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stepping, "time", SimpleNamespace(monotonic=clock))

    class Slow(Net):
        def forward(self, x: Tensor) -> Tensor:
            clock.sleep(0.01)
            return super().forward(x)

    cost = cost_of(Slow(), steps=10)
    assert cost.steps == 10
    assert cost.step_s == pytest.approx(0.01)
    assert cost.power_W == pytest.approx(300, rel=1e-3)


@pytest.mark.parametrize(
    ("steps", "expected_s", "timed"),
    [(30, 0.1, 30), (30, 0.01, 120), (30, 1e-6, 1_200_000), (30, 1.0, 5), (30, 60.0, 3), (1, 2, 1)],
)
def test_number_of_steps(steps: int, expected_s: float, timed: int) -> None:
    assert timed_steps(steps, expected_s) == pytest.approx(timed, abs=1)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_precisions(precision: str) -> None:
    seen = set()

    class Look(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            out = super().forward(x)
            seen.add((out.dtype, matrix_products_in_tf32(), convolutions_in_tf32()))
            return out

    before = matrix_products_in_tf32(), convolutions_in_tf32()
    cost_of(Look(8, 3), precision=precision)
    mixed = {"bf16": torch.bfloat16, "fp16": torch.float16}
    flags = before if precision in mixed else 2 * (precision == "tf32",)
    assert seen == {(mixed.get(precision, torch.float32), *flags)}
    assert (matrix_products_in_tf32(), convolutions_in_tf32()) == before


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers(optimizer: str) -> None:
    model = nn.Linear(8, 3)
    made = stepping._optimizer(optimizer, model)
    assert made is not None
    model(BATCH[0]).sum().backward()
    made.step()
    kept = sum(v.numel() > 1 for v in made.state[model.weight].values() if torch.is_tensor(v))
    expected = replace(workload(), optimizer=optimizer).optimizer_states
    # Adafactor keeps a row and a column; Adam's state may be counted as a single number as well.
    assert kept == expected or optimizer == "adafactor"


@pytest.mark.usefixtures("quick")
def test_steps_are_those_that_are_described() -> None:
    asked = []

    def loss(output: Tensor, target: Tensor) -> Tensor:
        asked.append(target)
        return nn.functional.cross_entropy(output, target)

    cost_of(Net(), loss=loss)
    assert all(torch.equal(target, BATCH[1]) for target in asked)
    cost_of(Net(), batch={"x": BATCH[0], "labels": BATCH[1]})
    cost_of(PlNet(), batch=(BATCH[0], BATCH[1].clamp(max=1)))  # its training_step logs
    frozen = nn.Linear(8, 3).requires_grad_(False)
    cost_of(frozen)


@pytest.mark.usefixtures("quick")
def test_a_batch_is_converted_to_the_weights_format() -> None:
    cost_of(nn.Linear(8, 3).bfloat16())  # torch refuses products of two formats


@pytest.mark.usefixtures("quick")
def test_manual_optimization_runs_its_own_backward_pass() -> None:
    weights = []

    class ByHand(PlNet):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 3)

        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.automatic_optimization = False
            weights.append(self.layer.weight.detach().clone())
            self.manual_backward(self.layer(batch[0]).square().mean())

    cost_of(ByHand())
    assert not weights[0].equal(weights[-1])  # the optimizer of the probe has made steps


# ---------------------------------------------------------------------- what is left alone


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("fails", [False, True])
def test_model_and_settings_are_left_alone(fails: bool) -> None:
    class Fragile(Net):
        instances: list[weakref.ref[nn.Module]] = []  # noqa: RUF012

        def forward(self, x: Tensor) -> Tensor:
            self.instances.append(weakref.ref(self))
            assert torch.is_grad_enabled()
            assert self.net[0].weight.any()  # the values of the original
            out = super().forward(x)
            if fails:
                raise ValueError("not today")
            return out

    model = Fragile()
    model.net[3].eval()
    (model(BATCH[0]).sum() if not fails else model.net(BATCH[0]).sum()).backward()
    before = copy.deepcopy(model.state_dict())
    gradient = model.net[0].weight.grad.clone()
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    x = BATCH[0].clone()
    with torch.no_grad(), tf32(True):
        if fails:
            with pytest.raises(ProbeError, match=r"no training step of Fragile.*not today"):
                cost_of(model)
        else:
            cost_of(model)
        assert not torch.is_grad_enabled()
        assert matrix_products_in_tf32()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert torch.equal(model.net[0].weight.grad, gradient)
    assert [m.training for m in model.net] == [True, True, True, False, True]
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])  # noqa: NPY002
    assert torch.equal(BATCH[0], x)
    # The copy is gone, also with an error that still refers to where it was.
    assert len(model.instances) > 1 - fails
    assert {ref() for ref in model.instances} <= {model, None}


@pytest.mark.usefixtures("quick")
def test_nothing_is_left_behind_by_an_error_that_is_kept() -> None:
    copies: list[weakref.ref[nn.Module]] = []

    class Fails(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            copies.append(weakref.ref(self))
            if len(copies) > 3:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return super().forward(x)

    with pytest.raises(
        ProbeError, match=r"out of memory: a step of Fails with a batch of 16 needs at least"
    ):
        cost_of(Fails(8, 3))
    gc.collect()
    assert len(copies) == 4
    assert {ref() for ref in copies} == {None}


@pytest.mark.usefixtures("quick")
def test_an_error_later_on_is_a_probe_error_too() -> None:
    class Fails(nn.Linear):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            Fails.calls += 1
            if Fails.calls > 3:
                raise RuntimeError("CUDA error: an illegal memory access")
            return super().forward(x)

    with pytest.raises(ProbeError, match="could not be trained: RuntimeError: CUDA error") as found:
        cost_of(Fails(8, 3))
    assert isinstance(found.value.__cause__, RuntimeError)


@pytest.mark.usefixtures("quick")
def test_power_that_cannot_be_read() -> None:
    sensor = Constant(math.nan)
    with pytest.raises(ProbeError, match="power of the GPU could not be read"):
        cost_of(Net(), sensors=[sensor])
    assert sensor.closed


# ---------------------------------------------------------------------- the whole


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_refused_without_a_gpu() -> None:
    with pytest.raises(ProbeError, match="needs an NVIDIA GPU that torch can use"):
        probe(Net(), BATCH)
    with pytest.raises(ProbeError, match="steps=0 must be a whole number"):
        probe(Net(), BATCH, steps=0)


@pytest.fixture
def h100(monkeypatch: pytest.MonkeyPatch, nvml: FakeNvml) -> FakeNvml:
    """A simulated H100, whose work the CPU does."""
    nvml.set_name(0, "NVIDIA H100 80GB HBM3")
    nvml.set_power(0, watts=250)
    # Power alone is exact, whenever it is read.
    nvml.fail("nvmlDeviceGetTotalEnergyConsumption", code=pynvml.NVML_ERROR_NOT_SUPPORTED, device=0)
    monkeypatch.setattr(probing, "_cuda_device", lambda gpu: CPU)
    monkeypatch.setattr(probing, "address_of", lambda device: "0")
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    return nvml


@pytest.mark.usefixtures("h100")
def test_probe_of_a_simulated_gpu() -> None:
    found = probe(PlNet(), (BATCH[0], BATCH[1].clamp(max=1)), optimizer="SGD_momentum", steps=5)
    assert found.gpu == resolve_gpu("H100")
    assert (found.workload.model, found.workload.optimizer) == ("PlNet", "sgd_momentum")
    assert found.workload.loop == "plain"  # no Trainer was there
    assert found.power_W == pytest.approx(250)
    assert found.steps * found.step_s > 0.9  # s
    assert found.energy_per_step_J == pytest.approx(found.step_s * found.power_W)
    assert "H100 80GB HBM3" in str(found)


def test_what_a_probe_needs(h100: FakeNvml) -> None:
    with torch.device("meta"):
        model = Net()
    with pytest.raises(WorkloadError, match="need values"):
        probe(model, BATCH)
    h100.set_name(0, "NVIDIA H101")
    h100.set_chip(0, cores=8, sm_MHz=8, memory_MHz=8, bus_bits=8, capability=(5, 0))
    with pytest.raises(EstimateError, match="H101 lacks fp16"):
        probe(Net(), BATCH, precision="fp16")
    h100.set_device_count(0)
    with pytest.raises(ProbeError, match="a probe needs NVML"):
        probe(Net(), BATCH)


def test_sensors_of_a_probe_are_gpus_alone(h100: FakeNvml) -> None:
    found = probing._power_sensor(CPU)
    assert found.device.kind == "gpu"
    found.close()
    assert len(detect([0], components=("gpu",))) == 1


# ---------------------------------------------------------------------- the estimate


def made_up(step_s: float = 2e-3, power_W: float = 210.0, **changes: Any) -> Probe:
    return Probe(workload(loop="plain", **changes), resolve_gpu("H100"), 30, step_s, power_W)


def estimated(asked: Workload | None = None, gpu: Any = None, **options: Any) -> Any:
    options = {"epochs": 10, "train_samples": 3200, "model": small_model(), **options}
    return estimate_pre(asked or workload(), gpu, **options)


def test_estimate_is_the_probes() -> None:
    found = estimated(probe=made_up())
    assert found.duration_s == pytest.approx(1000 * 2e-3)
    assert found.energy_J == pytest.approx(1000 * 2e-3 * 210)
    assert deviation_of(found) == pytest.approx(PROBE_DEVIATION)
    assert "probe of 30 steps" in found.method
    assert "on one H100 80GB HBM3" in found.method
    assert found == estimated(gpu="NVIDIA H100 80GB HBM3", probe=made_up())


def test_validation_is_corrected_by_the_same_factors() -> None:
    plain = estimated(validation_samples=320)
    validation_J = plain.energy_J - estimated().energy_J
    step_J = estimated().energy_J / 1000
    found = estimated(validation_samples=320, probe=made_up())
    ratio = 2e-3 * 210 / step_J
    assert found.energy_J == pytest.approx(ratio * (1000 * step_J + validation_J), rel=1e-6)


def test_a_lightning_loop_costs_more_than_the_probes_own() -> None:
    lightning = workload(loop="lightning")
    ratio = estimated(lightning).energy_J / estimated().energy_J
    found = estimated(lightning, probe=made_up())
    assert found.energy_J == pytest.approx(1000 * 2e-3 * 210 * ratio, rel=1e-6)


def test_without_a_probe_it_is_an_h100() -> None:
    assert estimated() == estimated(gpu="H100")
    assert "H100 80GB HBM3" in estimated().method


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"batch_size": 64}, "its batch_size is 32, not 64"),
        ({"precision": "bf16"}, "its precision is 'fp32', not 'bf16'"),
        ({"model": "Other"}, "its model is 'Net', not 'Other'"),
        ({"trainable_parameters": 8}, "its trainable_parameters is 1048576, not 8"),
        ({"parameter_bytes": 2}, "its parameter_bytes is 4, not 2"),
        ({"optimizer": "adam"}, "its optimizer is 'sgd', not 'adam'"),
        ({"operations": workload().operations[:2]}, "its step has 2.01e.08 FLOPs, not"),
    ],
)
def test_a_probe_of_another_workload(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(EstimateError, match=f"for another workload: {text}"):
        estimated(workload(**changes), probe=made_up())


def test_a_probe_that_does_not_fit() -> None:
    with pytest.raises(EstimateError, match="probe is a dict"):
        estimated(probe={})
    with pytest.raises(EstimateError, match="power_W=nan of a probe"):
        made_up(power_W=math.nan)
    assert estimated(gpu=Gpu(resolve_gpu("H100").name, 700, {"fp32": 6e13}), probe=made_up())
