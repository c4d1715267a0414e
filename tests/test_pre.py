"""`estimate_pre` and `PreModel`: their interface, refusals, and stored files."""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn, rand, randint

from energyest import EnergyestError, EnergyTrace, describe_workload, estimate_pre
from energyest.errors import EstimateError
from energyest.estimators.pre.fitted import packaged
from energyest.estimators.pre.gpu_distance import places_of
from energyest.estimators.pre.model import PreModel
from energyest.estimators.pre.physics.operation_table import OperationTable
from energyest.estimators.pre.physics.power import power_shares
from energyest.estimators.pre.physics.roofline import step_times
from energyest.estimators.pre.roofline_model import _PER_DISTANCE
from energyest.estimators.pre.training_data import TrainedRun, runs_of
from energyest.gpus import Gpu, resolve_gpu
from energyest.records.workload import Workload
from energyest.tradeoff import advise
from tests.support.roofline_runs import GUESS, POWER_GUESS, some_runs

NET = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.Flatten())
NET.append(nn.Linear(64 * 62 * 62, 10))


@pytest.fixture(scope="module")
def load() -> Workload:
    return describe_workload(NET, (rand(32, 3, 64, 64), randint(10, (32,))), precision="bf16")


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """60 made-up runs of 12 models on two GPUs, one in ten per cent off at random."""
    pairs = some_runs(5, 60)
    chance = np.random.default_rng(0)
    layout = OperationTable(pairs)
    times = step_times(layout, GUESS)
    step_s = times.step_s * np.exp(chance.normal(0, 0.1, 60))
    board_W = np.array([gpu.tdp_W for _, gpu in pairs])
    power_W = board_W * power_shares(layout, times, times.step_s, POWER_GUESS)
    return pd.DataFrame(
        {
            "workload": [workload for workload, _ in pairs],
            "gpu": [gpu.name for _, gpu in pairs],
            "step_s": step_s,
            "power_W": power_W * np.exp(chance.normal(0, 0.05, 60)),
            "model": [f"net{index % 12}" for index in range(60)],
        }
    )


# ------------------------------------------------------------------ estimates


def test_it_works_out_of_the_box(load: Workload) -> None:
    estimate = estimate_pre(load, "H100", epochs=10, train_samples=50_000)
    assert estimate.lower_J is not None
    assert estimate.upper_J is not None
    assert estimate.duration_s is not None
    assert 0 < estimate.lower_J < estimate.energy_J < estimate.upper_J
    assert estimate.confidence == 0.9
    assert estimate.measured_J == 0
    # A small network on images of 64 pixels: some milliseconds a step, far from the board's limit.
    steps = 10 * 50_000 / 32
    assert 0.5e-3 < estimate.duration_s / steps < 20e-3
    assert 60 < estimate.energy_J / estimate.duration_s < 700
    assert "bf16" in estimate.method
    assert "H100" in estimate.method


def test_twice_the_epochs_take_twice_the_energy(load: Workload) -> None:
    one, two = (estimate_pre(load, epochs=n, train_samples=3200) for n in (1, 2))
    assert two.energy_J == pytest.approx(2 * one.energy_J)
    assert two.duration_s == pytest.approx(2 * one.duration_s)


def test_a_last_batch_cut_short_costs_no_more_than_a_whole_one(load: Workload) -> None:
    def energy(samples: int) -> float:
        return estimate_pre(load, epochs=1, train_samples=samples).energy_J

    assert energy(64) < energy(65) <= energy(96)
    assert energy(64) < energy(95) <= energy(96)
    assert energy(1) <= energy(32)


def test_validation_costs_less_than_training_on_as_many_samples(load: Workload) -> None:
    alone = estimate_pre(load, epochs=1, train_samples=32_000)
    checked = estimate_pre(load, epochs=1, train_samples=32_000, validation_samples=32_000)
    assert alone.energy_J < checked.energy_J < 2 * alone.energy_J


def test_a_wider_interval_for_more_confidence(load: Workload) -> None:
    widths = [
        e.upper_J / e.lower_J  # type: ignore[operator]
        for c in (0.5, 0.8, 0.95)
        for e in [estimate_pre(load, epochs=1, train_samples=320, confidence=c)]
    ]
    assert widths[0] < widths[1] < widths[2]


def test_the_interval_is_that_of_what_costs_most(load: Workload) -> None:
    forward = replace(
        load,
        operations=tuple(o for o in load.operations if o.phase == "forward"),
        **dict.fromkeys(("backward_calls", "trainable_parameters", "parameter_tensors"), 0),
    )
    known = packaged()
    trained, validated = known.half_width(
        known.predict([(step, resolve_gpu("A100")) for step in (load, forward)]), 0.9
    )
    assert trained != pytest.approx(validated, rel=1e-3)
    for samples, half in ((0, trained), (32_000_000, validated)):
        estimate = estimate_pre(
            load, "A100", epochs=1, train_samples=32, validation_samples=samples
        )
        assert math.log(estimate.upper_J / estimate.energy_J) == pytest.approx(half, rel=1e-4)


def test_another_generation_is_less_certain_and_it_is_said(load: Workload) -> None:
    plain = replace(load, precision="fp32")
    near = estimate_pre(plain, "H100", epochs=1, train_samples=320)
    far = estimate_pre(plain, "GTX 750 Ti", epochs=1, train_samples=320)
    assert far.upper_J / far.lower_J > 1.3 * near.upper_J / near.lower_J  # type: ignore[operator]
    assert any("no training on GeForce GTX 750 Ti was measured" in a for a in far.assumptions)
    assert not any("was measured" in a for a in near.assumptions)


def test_a_gpu_of_ones_own(load: Workload) -> None:
    h100 = resolve_gpu("H100")
    load = replace(load, precision="fp32")  # limited by arithmetic, which the clock slows down
    full = estimate_pre(load, h100, epochs=1, train_samples=320)
    same = estimate_pre(load, replace(h100, name="Foo"), epochs=1, train_samples=320)
    assert same.energy_J == full.energy_J
    # Shares of half the power, and a clock that is lower for it.
    mine = replace(h100, name="Foo", tdp_W=350.0)
    half = estimate_pre(load, mine, epochs=1, train_samples=320)
    assert half.duration_s > full.duration_s
    assert full.energy_J / 2 < half.energy_J < 0.55 * full.energy_J


def test_what_does_not_fit_into_memory_is_warned_of_with_the_numbers(load: Workload) -> None:
    large = replace(load, saved_bytes=200e9, precision="fp32")
    with pytest.warns(
        UserWarning, match=r"needs about 2\d\d GB.*H100.* has 85.9 GB: a batch of 32"
    ):
        estimate = estimate_pre(large, "H100", epochs=1, train_samples=320)
    assert any("unlikely to fit" in a for a in estimate.assumptions)


def test_far_from_what_was_measured_the_estimate_says_so(load: Workload) -> None:
    odd = Gpu(
        "Odd",
        tdp_W=5.0,
        peak_flops_per_s={"fp32": 1e10, "bf16": 1e10},
        bandwidth_bytes_per_s=1e9,
        memory_bytes=1e9,
        cuda_cores=128,
        compute_capability=(9, 0),
    )
    estimate = estimate_pre(load, odd, epochs=1, train_samples=320)
    assert any(a.startswith("far from all measurements") for a in estimate.assumptions)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"gpu": "H1000"}, r"unknown GPU 'H1000'.*closest.*H100"),
        ({"gpu": "V100"}, "V100.* lacks bf16; it has fp32, fp16"),
        ({"epochs": 0}, "epochs=0 must be a number above 0"),
        ({"epochs": math.nan}, "epochs=nan"),
        ({"epochs": 10**400}, "epochs=1000"),
        ({"train_samples": 0}, "train_samples=0 must be a whole number of 1 or more"),
        ({"train_samples": -5}, "train_samples=-5"),
        ({"train_samples": 10.5}, r"train_samples=10\.5"),
        ({"validation_samples": -1}, "validation_samples=-1 must be a whole number of 0 or more"),
        ({"confidence": 1.0}, "confidence=1.0 must lie between 0 and 1"),
        ({"workload": NET}, "workload is a Sequential: it must come from describe_workload"),
        ({"model": object()}, "model is a object: it must be a fitted PreModel"),
    ],
)
def test_refusals(load: Workload, others: dict[str, object], message: str) -> None:
    arguments = {"workload": load, "gpu": "H100", "epochs": 1, "train_samples": 320, **others}
    with pytest.raises(EstimateError, match=message):
        estimate_pre(**arguments)  # type: ignore[arg-type]


def test_a_workload_without_operations_cannot_be_timed(load: Workload) -> None:
    backward = tuple(o for o in load.operations if o.phase == "backward")
    for operations in ((), backward):
        empty = replace(load, operations=operations)
        with pytest.raises(EstimateError, match="no operations of the forward pass"):
            estimate_pre(empty, "H100", epochs=1, train_samples=320)
    with pytest.raises(EstimateError, match="has no operations"):
        packaged().predict([(replace(load, operations=()), resolve_gpu("H100"))])


def test_a_gpu_without_end_is_refused() -> None:
    with pytest.raises(EstimateError, match="tdp_W=inf must be positive and finite"):
        replace(resolve_gpu("H100"), tdp_W=math.inf)


# ------------------------------------------------------------------ models


def test_it_learns_from_a_table(table: pd.DataFrame, load: Workload) -> None:
    model = PreModel(start=None).fit(table)
    found = model.predict([(row.workload, resolve_gpu(row.gpu)) for row in table.itertuples()])
    off = np.abs(np.log(found.energy_J / (table.step_s * table.power_W)))
    assert off.mean() < 0.15
    assert estimate_pre(load, "H100", epochs=1, train_samples=32, model=model).energy_J > 0


def test_cross_validation_leaves_groups_out(table: pd.DataFrame) -> None:
    found = PreModel(start=None).cross_validate(table, "gpu")
    assert len(found.table) == len(table)
    assert set(found.table["gpu"]) == {"H100 80GB HBM3", "A100-SXM4-80GB"}
    assert found.errors().shape == (60,)
    assert 0 <= found.coverage <= 1
    assert "unseen gpu" in str(found)


def test_a_few_runs_on_a_gpu_do_not_make_it_a_known_one(load: Workload) -> None:
    """Intervals of fewer than 20 runs are as wide as the packaged model's, or wider."""
    load = replace(load, precision="fp32")
    for name in ("A100", "T4"):
        gpu = resolve_gpu(name)
        predicted = packaged().predict([(load, gpu)])
        run = TrainedRun(load, gpu, predicted.step_s[0], predicted.power_W[0], "net", "here")
        learnt = PreModel().fit([run]).fitted_
        for other in (gpu, resolve_gpu("H100"), resolve_gpu("RTX 4090")):
            after = learnt.predict([(load, other)])
            by_time, by_power = (
                _PER_DISTANCE * np.linalg.norm(places_of([other]) - known, axis=1).min()
                for known in (packaged().core.timed_gpus, packaged().core.gpus)
            )
            assert after.gpu_step[0] >= by_time - 1e-9
            assert after.gpu_energy[0] >= by_power - 1e-9
            if other is gpu:  # where its own correction holds
                assert after.gpu_energy[0] == pytest.approx(by_power)
        assert set(learnt.gpus) == {gpu.name, *packaged().gpus}


@pytest.mark.long
def test_intervals_hold_as_often_as_they_say(table: pd.DataFrame) -> None:
    # Six fits and not twelve: each takes more than a second.
    halves = table.assign(model=[f"net{index % 6}" for index in range(60)])
    found = PreModel(start=None).cross_validate(halves, "model", confidence=0.8)
    assert 0.65 <= found.coverage <= 0.95  # 60 runs: two standard deviations are 0.1


def test_few_runs_of_ones_own_start_from_the_packaged_model(table: pd.DataFrame) -> None:
    few = table.iloc[:4]
    learnt = PreModel().fit(few).fitted_
    moved = [
        abs(math.log(learnt.core.step[name] / packaged().core.step[name]))
        for name in learnt.core.step
        if not name.startswith("call_")
    ]
    assert np.mean(moved) < 0.1


def test_a_few_runs_that_agree_feign_no_certainty(table: pd.DataFrame) -> None:
    known = packaged()
    others = [(row.workload, resolve_gpu(row.gpu)) for row in table.itertuples()]
    same = table.iloc[:1].assign(host="here")
    predicted = known.predict([(same.workload[0], resolve_gpu(same.gpu[0]))])
    same = same.assign(step_s=predicted.step_s[0], power_W=predicted.power_W[0])
    model = PreModel().fit(pd.concat([same] * 5)).fitted_
    learnt, before = model.core.energy_correction, known.core.energy_correction
    assert learnt.signal >= before.signal * (1 - 1e-9)
    assert learnt.noise >= before.noise * (1 - 1e-9)
    # Of a machine whose CPU is known, but no surer beyond that.
    least = known.half_width(known.predict(others), 0.9).min()
    assert model.half_width(model.predict(others), 0.9).min() > 0.7 * least


def test_runs_of_unnamed_machines_are_of_no_known_machine(table: pd.DataFrame) -> None:
    few = table.iloc[:8]
    assert set(PreModel().fit(few.assign(host=[""] * 4 + ["b"] * 4)).fitted_.core.hosts) == {"b"}
    assert set(PreModel().fit(few.assign(host="")).fitted_.core.hosts) == {""}


def test_a_saved_model_says_the_same(table: pd.DataFrame, tmp_path: Path) -> None:
    model = PreModel(start=None).fit(table)
    model.save(tmp_path / "model.json")
    again = PreModel.load(tmp_path / "model.json")
    pairs = [(row.workload, resolve_gpu(row.gpu)) for row in table.itertuples()]
    one, other = model.predict(pairs), again.predict(pairs)
    assert one.energy_J == pytest.approx(other.energy_J, rel=1e-3)
    half, same = model.fitted_.half_width(one, 0.9), again.fitted_.half_width(other, 0.9)
    assert half == pytest.approx(same, rel=1e-2)
    assert again.fitted_.gpus == model.fitted_.gpus


def test_a_model_that_was_not_fitted_says_so(load: Workload) -> None:
    for ask in (estimate_pre, advise):
        with pytest.raises(EnergyestError, match="PreModel is not fitted: call fit"):
            ask(load, "H100", epochs=1, train_samples=32, model=PreModel())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(kind="something"), "holds no PRE model"),
        (lambda c: c.update(format=6), "has format 6; this version reads 7: fit it again$"),
        (lambda c: c.pop("deviations"), "damaged"),
        (lambda c: c.update(deviations=[]), "its deviations are invalid"),
        (lambda c: c.update(deviations=[-1.0]), "its deviations are invalid"),
        (lambda c: c.update(deviations=[10**400]), "is not a finite number"),
        (lambda c: c["corrections"]["step"].update(signal=1e200), "do not fit together"),
        (lambda c: c["step"].pop("start_s"), "not a stored model"),
        (lambda c: c["step"].update(start_s=-1.0), "its parameter start_s is -1.0"),
        (lambda c: c["corrections"]["step"].update(noise=0), "do not fit together"),
        (lambda c: c["features"].pop(), "do not fit together"),
        (lambda c: c.update(features="abc"), "not a stored model"),
    ],
)
def test_damaged_and_newer_files_are_refused(change: object, message: str, tmp_path: Path) -> None:
    content = json.loads(json.dumps(packaged().to_dict()))
    change(content)  # type: ignore[operator]
    (tmp_path / "model.json").write_text(json.dumps(content))
    with pytest.raises(EstimateError, match=message):
        PreModel.load(tmp_path / "model.json")


def test_no_code_is_run_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_bytes(pickle.dumps({"kind": "energyest PRE model"}))
    with pytest.raises(EstimateError, match="holds no readable JSON"):
        PreModel.load(tmp_path / "model.json")
    with pytest.raises(FileNotFoundError):
        PreModel.load(tmp_path / "none.json")
    (tmp_path / "model.json").write_text('{"kind": NaN}')
    with pytest.raises(EstimateError, match="NaN is not a finite number"):
        PreModel.load(tmp_path / "model.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def small_file(table: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.json"
    PreModel().fit(table.iloc[:8]).save(path)
    return path


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_a_file_holds_only_our_own_errors_come_out(
    small_file: Path, data: st.DataObject
) -> None:
    content = json.loads(small_file.read_text())
    place = content
    while isinstance(place, dict) and place:
        name = data.draw(st.sampled_from(sorted(place)))
        if not isinstance(place[name], dict) or data.draw(st.booleans()):
            place[name] = data.draw(JSON)
            break
        place = place[name]
    changed = small_file.with_name("changed.json")
    changed.write_text(json.dumps(content))
    try:
        model = PreModel.load(changed)
        model.predict(some_runs(1, 2))
    except EnergyestError:
        pass


# ------------------------------------------------------------------ runs


def test_runs_of_traces(load: Workload) -> None:
    trace = EnergyTrace.from_epochs(
        energy_J=[900, 300, 300],
        duration_s=[9, 2, 2],
        gpu_energy_J=[800.0, 240.0, 240.0],
        validation_s=[0.5, 0.5, 0.5],
        validation_energy_J=[20.0, 20.0, 20.0],
        steps=[100, 100, 100],
        meta={
            "workload": load.to_dict(),
            "devices": [{"device": "gpu:0", "kind": "gpu", "name": "NVIDIA H200"}],
            "host": "here",
        },
    )
    (run,) = runs_of([trace])
    assert run.step_s == pytest.approx(1.5 / 100)  # without the cold epoch, and validation
    # The validation's energy is that of all devices; the GPU's share is 240 of 300 parts.
    assert run.power_W == pytest.approx((240 - 20 * 240 / 300) / 1.5)
    assert run.gpu.name == "H200"
    assert (run.workload, run.host) == (load, "here")
    # The packaged model, from which the fit begins, knows both.
    assert PreModel().fit([trace]).fitted_.gpus == ("H100 80GB HBM3", "H200")


def test_of_a_resumed_run_only_the_part_on_the_gpu_that_it_names_counts(load: Workload) -> None:
    trace = EnergyTrace.from_epochs(
        energy_J=[9000, 9000, 900, 300, 300],
        duration_s=[50, 50, 9, 2, 2],
        gpu_energy_J=[8000.0, 8000.0, 800.0, 240.0, 240.0],
        steps=[100.0] * 5,
        meta={
            "workload": load.to_dict(),
            "devices": [{"device": "gpu:0", "kind": "gpu", "name": "NVIDIA H200"}],
            "earlier_rows": 2,
        },
    )
    (run,) = runs_of([trace])
    assert run.step_s == pytest.approx(2 / 100)
    assert run.power_W == pytest.approx(120)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"power_W": 0.0}, r"row 0: power_W=0\.0 must be positive"),
        ({"step_s": math.nan}, "row 0: step_s=nan"),
        ({"gpu": "H1000"}, "row 0: unknown GPU"),
        ({"workload": {"model": 3}}, "row 0: not a stored workload"),
    ],
)
def test_rows_that_break_a_rule_are_refused(
    table: pd.DataFrame, change: dict[str, object], message: str
) -> None:
    row = {**table.iloc[0].to_dict(), **change}
    with pytest.raises(EnergyestError, match=message):
        PreModel().fit(pd.DataFrame([row]))


def test_tables_and_lists_that_hold_nothing_are_refused(table: pd.DataFrame) -> None:
    with pytest.raises(EstimateError, match="lacks the columns gpu"):
        PreModel().fit(table.drop(columns="gpu"))
    with pytest.raises(EstimateError, match="no run"):
        PreModel().fit([])
    with pytest.raises(EstimateError, match="no run"):
        PreModel().fit(table.iloc[:0])
    with pytest.raises(EstimateError, match="data is a EnergyTrace: it must be a table or a list"):
        PreModel().fit(EnergyTrace.from_epochs(energy_J=[1, 1]))  # type: ignore[arg-type]
    with pytest.raises(EstimateError, match="run 0 holds no workload"):
        PreModel().fit([EnergyTrace.from_epochs(energy_J=[1, 1], duration_s=[1, 1])])
    with pytest.raises(EstimateError, match="at least two models"):
        PreModel().cross_validate(table[table.model == "net1"])
    with pytest.raises(EstimateError, match="confidence=2"):
        PreModel().cross_validate(table, confidence=2)


def test_the_duration_has_an_interval() -> None:
    small = describe_workload(nn.Linear(64, 64), rand(32, 64))
    narrow, wide = (
        estimate_pre(small, "H100", epochs=3, train_samples=6400, confidence=confidence)
        for confidence in (0.5, 0.9)
    )
    assert wide.duration_lower_s < narrow.duration_lower_s < wide.duration_s
    assert wide.duration_s < narrow.duration_upper_s < wide.duration_upper_s
