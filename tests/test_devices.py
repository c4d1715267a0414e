"""Which GPUs a trace has is answered alike everywhere, however its meta spells them."""

from __future__ import annotations

from typing import Any

import pytest

from energyest import EnergyTrace, PlannedChange, estimate_step
from energyest.estimators import (
    estimate_flops,
    estimate_green_algorithms,
    estimate_mlco2,
    estimate_pre,
)
from energyest.estimators.pre.from_trace import estimate_pre_of
from energyest.estimators.pre.training_data import runs_of
from energyest.measure.checkpoint import RunCheckpoint
from energyest.records.devices import accelerators_of, devices_of, gpus_of, kind_of, of_kind
from energyest.records.ranks import merge
from energyest.records.run_labels import gpu_names
from tests.support.golden import workloads

SPELLINGS: dict[str, dict[str, Any]] = {
    "device and kind": {"device": "gpu:0", "kind": "gpu"},
    "device": {"device": "gpu:0"},
    "another name": {"device": "cuda:0"},
    "kind": {"kind": "gpu"},
    "neither": {},
}
JOULES = [1000.0, 900.0, 900.0, 900.0, 900.0]


def trace_on(device: dict[str, Any], **meta: Any) -> EnergyTrace:
    board = {**device, "name": "NVIDIA A40", "power_limit_W": 300.0}
    memory = {"device": "ram:0", "memory_bytes": 64e9}
    return EnergyTrace.from_epochs(
        JOULES,
        [10.0, 9.0, 9.0, 9.0, 9.0],
        gpu_energy_J=JOULES,
        steps=[50.0] * 5,
        samples=[1600.0] * 5,
        flops=[4e13] * 5,
        validation_energy_J=[0.0] * 5,
        validation_s=[0.0] * 5,
        meta={"devices": [board, memory], "precision": "tf32", **meta},
    )


@pytest.mark.parametrize("device", SPELLINGS.values(), ids=SPELLINGS)
def test_every_part_sees_one_gpu(device: dict[str, Any]) -> None:
    workload = workloads()["torchvision/mobilenet_v2 tf32"]
    trace = trace_on(device, workload=workload.to_dict())
    assert [gpu["name"] for gpu in gpus_of(trace.devices)] == ["NVIDIA A40"]
    assert accelerators_of(trace.devices) == gpus_of(trace.devices)
    assert gpu_names(trace) == "NVIDIA A40"
    # 100 W of 300 W: the GPU waits half of the time, and threefold work is not threefold energy.
    change = PlannedChange(10, flops_ratio=3)
    load = 100 / 300
    factor = change.effect(load).energy
    assert factor < 2.5
    step = estimate_step(trace, 20, planned=[change])
    assert step.energy_J == pytest.approx(1000 + 9 * 900 + 10 * 900 * factor, rel=1e-4)
    assert estimate_mlco2(trace, 20, duration_s=200).energy_J == 300 * 200
    green = estimate_green_algorithms(trace, 20, duration_s=200)
    assert green.energy_J == pytest.approx((300 + 0.3725 * 64) * 200)
    assert estimate_flops(trace, 20).energy_J == pytest.approx(8e14 / (74.8e12 / 300 * 0.33))
    pre = estimate_pre(workload, "A40", epochs=20, train_samples=1600)
    assert estimate_pre_of(trace, 20).energy_J == pytest.approx(pre.energy_J)
    assert runs_of([trace])[0].gpu.name == "A40"
    assert RunCheckpoint.of(trace).gpus == {"NVIDIA A40": 1}
    assert merge({0: trace}).column("gpu_energy_J") == pytest.approx(JOULES)


def test_kinds() -> None:
    devices = [
        {"device": "gpu:0@rank1", "kind": "gpu"},
        {"device": "cpu:0"},
        {"device": "ram:0"},
        {"device": "tpu:0", "kind": "tpu"},
    ]
    assert [kind_of(device) for device in devices] == ["gpu", "cpu", "ram", "tpu"]
    assert of_kind(devices, "cpu", "ram") == devices[1:3]
    assert accelerators_of(devices[1:]) == devices[1:2]
    assert accelerators_of(devices[2:]) == []


def test_what_is_not_an_entry_is_left_out() -> None:
    assert devices_of({"devices": [1, {"name": "a"}, None]}) == [{"name": "a"}]
    assert devices_of({"devices": "gpu:0"}) == devices_of({}) == []
