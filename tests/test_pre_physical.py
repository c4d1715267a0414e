"""The physical model of PRE: limits computed by hand, and learning from known truths."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energyest.errors import EstimateError
from energyest.estimators.pre.fitted import packaged
from energyest.estimators.pre.model import PreModel
from energyest.estimators.pre.physics.fitting import fit_parameters
from energyest.estimators.pre.physics.operation_table import OperationTable
from energyest.estimators.pre.physics.parameters import STEP
from energyest.estimators.pre.physics.power import power_shares
from energyest.estimators.pre.physics.roofline import StepTimes, step_times
from energyest.estimators.pre.residual_gp import Correction
from energyest.estimators.pre.roofline_model import RooflineModel
from energyest.estimators.pre.training_data import TrainedRun
from energyest.gpus import Gpu, resolve_gpu
from energyest.records.workload import Operation, Workload
from energyest.tradeoff import advise
from tests.support.roofline_runs import COPY, GUESS, H100, LARGE, POWER_GUESS, some_runs, workload


def times(*workloads: Workload, gpu: Gpu = H100, **parameters: float) -> StepTimes:
    return step_times(OperationTable([(w, gpu) for w in workloads]), {**GUESS, **parameters})


# ------------------------------------------------------------------ time


def test_a_large_product_is_bound_by_arithmetic() -> None:
    found = times(workload(LARGE))
    thick = 8192 / (8192 + GUESS["thin_columns"]) * 8192 / (8192 + GUESS["thin_depth"])
    share = (GUESS["peak_matmul_fp32"] ** -4 + 0.92**-4) ** -0.25 * thick
    ideal_s = LARGE.flops / (H100.peak_flops_per_s["fp32"] * share)
    assert found.math_s[0] == pytest.approx(ideal_s, rel=0.01)
    assert found.memory_s[0] == 0
    assert found.step_s[0] == pytest.approx(ideal_s, rel=0.01)


def test_a_large_copy_is_bound_by_memory() -> None:
    found = times(workload(COPY))
    ideal_s = COPY.bytes / (H100.bandwidth_bytes_per_s * GUESS["bandwidth_other"])
    # The nearer a share is to what no kernel exceeds, the less of it is left.
    assert ideal_s < found.memory_s[0] < 1.15 * ideal_s
    assert times(workload(replace(COPY, bytes=2 * COPY.bytes))).memory_s[0] == pytest.approx(
        2 * found.memory_s[0], rel=0.01
    )
    assert found.math_s[0] == 0


def test_many_tiny_operations_are_bound_by_the_cpu() -> None:
    tiny = replace(COPY, bytes=8.0, count=10_000)
    found = times(workload(tiny))
    assert found.cpu_s[0] == pytest.approx(
        GUESS["call_step_s"] + 10_000 * GUESS["call_other_s"], rel=1e-9
    )
    assert found.gpu_s[0] < found.cpu_s[0]
    assert found.cpu_s[0] <= found.step_s[0] < 1.05 * found.cpu_s[0]


def test_a_slower_machine_slows_what_its_cpu_bounds_and_nothing_else() -> None:
    layout = OperationTable(
        [(workload(replace(COPY, bytes=8.0, count=9999)), H100), (workload(LARGE), H100)]
    )
    once, twice = step_times(layout, GUESS), step_times(layout, GUESS, 2.0)
    assert twice.step_s[0] / once.step_s[0] == pytest.approx(2, rel=0.02)
    assert twice.step_s[1] / once.step_s[1] == pytest.approx(1, rel=0.01)


def test_counts_are_repetitions() -> None:
    many, one = times(workload(replace(LARGE, count=7))), times(workload(LARGE))
    assert many.gpu_s[0] == pytest.approx(7 * one.gpu_s[0])


def test_workloads_do_not_see_each_other() -> None:
    both = times(workload(LARGE), workload(COPY, input_bytes=1e9))
    for index, single in enumerate((workload(LARGE), workload(COPY, input_bytes=1e9))):
        assert both.step_s[index] == pytest.approx(times(single).step_s[0])


def test_the_gradients_of_a_convolution_are_two_but_one_call() -> None:
    product = {"rows": 100_000, "columns": 64, "depth": 576}
    one = 2.0 * 100_000 * 64 * 576
    both = Operation("backward", "convolution_backward", 1, 2 * one, 1e6, **product)
    first = replace(both, flops=one)  # the first layer: no gradient of the images is asked for
    found = times(workload(both), workload(first))
    assert found.start_s[0] == pytest.approx(2 * found.start_s[1])
    assert found.cpu_s[0] == pytest.approx(found.cpu_s[1])


@given(
    scale=st.floats(1.1, 50),
    name=st.sampled_from(["bandwidth_bytes_per_s", "peak"]),
    operations=st.lists(st.sampled_from([LARGE, COPY]), min_size=1, max_size=3),
)
@settings(max_examples=30, deadline=None)
def test_a_better_gpu_is_never_slower(scale: float, name: str, operations: list[Operation]) -> None:
    if name == "peak":
        better = replace(
            H100, peak_flops_per_s={k: scale * v for k, v in H100.peak_flops_per_s.items()}
        )
    else:
        better = replace(H100, bandwidth_bytes_per_s=scale * H100.bandwidth_bytes_per_s)
    load = workload(*operations)
    assert times(load, gpu=better).step_s[0] <= times(load).step_s[0]


def test_a_precision_that_the_gpu_lacks_is_refused_by_name() -> None:
    with pytest.raises(EstimateError, match=r"V100.*lacks bf16"):
        OperationTable([(workload(LARGE, precision="bf16"), resolve_gpu("V100"))])


def test_tf32_is_fp32_where_there_is_none() -> None:
    old = resolve_gpu("V100")
    tf32, fp32 = (times(workload(LARGE, precision=p), gpu=old) for p in ("tf32", "fp32"))
    assert tf32.step_s[0] == fp32.step_s[0]


def test_a_kepler_gpu_sustains_less_of_its_peak_than_the_generations_after_it() -> None:
    """It has more lanes, 192 a multiprocessor, than it issues instructions for."""
    k80 = resolve_gpu("K80")
    maxwell = replace(k80, compute_capability=(5, 2))
    slower, faster = (times(workload(LARGE), gpu=gpu).math_s[0] for gpu in (k80, maxwell))
    assert slower == pytest.approx(1.2 * faster, rel=0.01)


def test_a_gpu_without_a_known_bandwidth_is_refused() -> None:
    unknown = Gpu("Foo", 100, {"fp32": 1e13})
    with pytest.raises(EstimateError, match="no memory bandwidth known for Foo"):
        OperationTable([(workload(LARGE), unknown)])


@pytest.mark.parametrize("gpu", ["H100", "A100", "B200", "L4", "RTX 4090", "T4"])
def test_unknown_cores_follow_from_the_fp32_rate(gpu: str) -> None:
    """A GPU whose data sheet says nothing of its cores has more than one multiprocessor."""
    known = resolve_gpu(gpu)
    unknown = replace(known, cuda_cores=math.nan)
    small = replace(LARGE, flops=2 * 512.0**3, bytes=3 * 4 * 512.0**2, rows=512, columns=512)
    wide = replace(small, name="native_batch_norm", flops=0.0, groups=64, rows=0, columns=0)
    load = workload(small, replace(wide, bytes=1e8))
    seconds = [times(load, gpu=g).gpu_s[0] for g in (known, unknown)]
    assert seconds[1] == pytest.approx(seconds[0], rel=0.4)  # their clocks differ by as much


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"peak_flops_per_s": {"bf16": 3e14}}, "no fp32 peak known for Mine"),
        ({"bandwidth_bytes_per_s": math.nan}, "no memory bandwidth known for Mine"),
        ({"tdp_W": math.nan}, "no board power known for Mine"),
    ],
)
def test_what_a_data_sheet_lacks_is_named(changes: dict[str, object], text: str) -> None:
    mine = replace(H100, name="Mine", **changes)  # type: ignore[arg-type]
    load = workload(LARGE, precision="bf16")
    with pytest.raises(EstimateError, match=text):
        packaged().predict([(load, mine)])
    with pytest.raises(EstimateError, match=text):
        PreModel().fit([TrainedRun(load, mine, 0.1, 300.0, "net")])
    table = advise({"net": load}, ["H100", mine], epochs=1, train_samples=1000).table
    assert table[table.gpu == "Mine"].note.str.contains(text).all()
    assert table[table.gpu != "Mine"].energy_J.notna().all()


# ------------------------------------------------------------------ power


def shares(*workloads: Workload) -> np.ndarray:
    layout = OperationTable([(w, H100) for w in workloads])
    found = step_times(layout, GUESS)
    return power_shares(layout, found, found.step_s, POWER_GUESS)


def test_power_lies_between_rest_and_the_boards() -> None:
    idle, busy = shares(workload(replace(COPY, bytes=8.0, count=9999)), workload(LARGE))
    assert POWER_GUESS["rest"] < idle < 0.3
    assert 0.7 < busy < 1


def test_longer_steps_of_the_same_work_draw_less() -> None:
    layout = OperationTable([(workload(LARGE), H100)])
    found = step_times(layout, GUESS)
    draws = [power_shares(layout, found, k * found.step_s, POWER_GUESS)[0] for k in (1, 2, 100)]
    assert draws[0] > draws[1] > draws[2]
    assert draws[2] == pytest.approx(POWER_GUESS["rest"], rel=0.15)


def test_gpus_that_train_together_draw_more() -> None:
    small = workload(replace(COPY, bytes=8.0, count=9999))
    alone, together = shares(small, replace(small, devices=2))
    assert together - alone == pytest.approx(0.05, rel=0.05)


# ------------------------------------------------------------------ several GPUs


def test_gradients_are_copied_into_buckets_and_back() -> None:
    """As torch's DistributedDataParallel does: two launches for each tensor that is trained."""
    one = workload(COPY, parameter_tensors=1000)
    two, rarely = replace(one, devices=2), replace(one, devices=2, accumulate=4)
    alone = times(one, replace(one, accumulate=4)).cpu_s
    together = times(two, rarely).cpu_s
    launches_s = 2 * 1000 * GUESS["call_other_s"]
    assert together - alone == pytest.approx([launches_s, launches_s / 4], rel=1e-9)


def test_each_copy_reads_and_writes_all_gradients() -> None:
    one = workload(COPY, parameters=10**9, trainable_parameters=10**9)
    alone, together = times(one, replace(one, devices=2)).memory_s
    passes_s = 4 * 4e9 / H100.bandwidth_bytes_per_s
    assert together - alone == pytest.approx(passes_s / GUESS["bandwidth_other"], rel=1e-9)


def test_gradients_are_added_to_those_of_the_batches_before() -> None:
    """In three of four batches: a launch for each tensor; two numbers are read, one is written."""
    one = workload(COPY, parameters=10**9, trainable_parameters=10**9, parameter_tensors=1000)
    once, rarely = times(one, replace(one, accumulate=4)).cpu_s
    tensor_s = 1000 * (GUESS["call_tensor_s"] + one.optimizer_states * GUESS["call_state_s"])
    added_s = 1000 * GUESS["call_other_s"]
    assert rarely - once == pytest.approx(0.75 * (added_s - tensor_s), rel=1e-9)
    once, rarely = times(one, replace(one, accumulate=4), optimizer=1.5).memory_s
    rate = H100.bandwidth_bytes_per_s * GUESS["bandwidth_other"]
    updates_s = one.optimizer_bytes * 1.5 / rate
    assert rarely - once == pytest.approx(0.75 * (3 * 4e9 / rate - updates_s), rel=1e-9)


def test_the_typical_machine_has_all_of_the_cpus_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """If all machines take twice as long, that is the usual time, with or without a compiler."""

    def slow(predict: object, measured: object, guesses: dict[str, Any], **_: object) -> Any:
        return {n: 2.0 if n.startswith("host ") else v for n, (v, _) in guesses.items()}

    monkeypatch.setattr("energyest.estimators.pre.roofline_model.fit_parameters", slow)
    pairs = [(replace(w, compiled=i % 2 == 0), g) for i, (w, g) in enumerate(some_runs(1, 12))]
    model = RooflineModel.fit(pairs, np.ones(12), np.full(12, 300.0), hosts=["a", "b"] * 6)
    assert model.hosts == {"a": 1.0, "b": 1.0}
    twice = {n for n, v in model.step.items() if v == pytest.approx(2 * GUESS[n])}
    assert twice == {n for n in GUESS if n.startswith("call_")} | {"compiled_step_s"}
    found = step_times(OperationTable(pairs), model.step).cpu_s
    assert found == pytest.approx(2 * step_times(OperationTable(pairs), GUESS).cpu_s)


def test_the_statistics_of_batch_norms_are_copied_once_the_gradients_were() -> None:
    """torch's DistributedDataParallel leaves it out where it exchanges no gradients."""
    norm = replace(COPY, name="native_batch_norm", count=50, phase="forward")
    back = replace(norm, name="native_batch_norm_backward", phase="backward")
    one = workload(norm, back)
    alone, together, rarely = times(
        one, replace(one, devices=2), replace(one, devices=2, accumulate=4)
    ).cpu_s
    assert together - alone == pytest.approx(150 * GUESS["call_other_s"], rel=1e-9)
    assert rarely - alone == pytest.approx((together - alone) / 4, rel=1e-9)


# ------------------------------------------------------------------ learning


def test_parameters_are_found_again() -> None:
    pairs = some_runs(0, 80)
    layout = OperationTable(pairs)
    truth = {**GUESS, "peak_matmul_fp32": 0.6, "bandwidth_other": 0.9, "call_other_s": 3e-5}
    measured = step_times(layout, truth).step_s
    found = fit_parameters(lambda p: step_times(layout, p).step_s, measured, STEP)
    off = np.log(step_times(layout, found).step_s / measured)
    assert np.abs(off).mean() < 0.02  # the guesses hold a little
    assert found["peak_matmul_fp32"] == pytest.approx(0.6, rel=0.1)
    # Of what the runs say nothing, the guess stays.
    assert found["peak_recurrent"] == pytest.approx(GUESS["peak_recurrent"], rel=1e-3)


def test_machines_are_told_from_models() -> None:
    pairs = some_runs(1, 120)
    layout = OperationTable(pairs)
    hosts = ["slow" if index % 2 else "fast" for index in range(len(pairs))]
    factor = np.array([1.4 if name == "slow" else 1 / 1.4 for name in hosts])
    step_s = step_times(layout, GUESS, factor).step_s
    model = RooflineModel.fit(pairs, step_s, np.full(len(pairs), 300.0), hosts=hosts)
    assert model.hosts["slow"] / model.hosts["fast"] == pytest.approx(1.96, rel=0.15)
    known, unknown = model.predict(pairs, hosts), model.predict(pairs)
    off_known, off_unknown = (np.abs(np.log(q.step_s / step_s)).mean() for q in (known, unknown))
    assert off_known < 0.5 * off_unknown
    assert known.deviation_step.mean() < 0.5 * unknown.deviation_step.mean()


def test_what_was_not_measured_is_less_certain() -> None:
    pairs = some_runs(2, 60)
    step_s = step_times(OperationTable(pairs), GUESS).step_s
    chance = np.random.default_rng(0)
    noisy = step_s * np.exp(chance.normal(0, 0.1, len(pairs)))
    model = RooflineModel.fit(pairs, noisy, np.full(len(pairs), 300.0), hosts=[""] * len(pairs))
    load = pairs[0][0]
    near, far = model.predict([(load, H100)]), model.predict([(load, resolve_gpu("GTX 750 Ti"))])
    assert far.deviation_energy[0] > near.deviation_energy[0] + 0.2


def test_a_duration_is_less_certain_where_only_others_have_timed_steps() -> None:
    """What others have published are durations: the power of those steps is unknown."""
    pairs, a100 = some_runs(2, 60), resolve_gpu("A100")
    step_s = step_times(OperationTable(pairs), GUESS).step_s
    step_s *= np.exp(0.3 * np.sin(np.log(step_s)))  # what the formula does not know
    load = pairs[0][0]

    def deviation(power_of_a100_W: float) -> float:
        power_W = np.array([power_of_a100_W if gpu == a100 else 300.0 for _, gpu in pairs])
        model = RooflineModel.fit(pairs, step_s, power_W, hosts=[""] * len(pairs))
        return float(model.predict([(load, a100)]).deviation_step[0])

    assert deviation(math.nan) > deviation(300.0) + 0.05


def test_power_never_passes_the_boards() -> None:
    pairs = some_runs(3, 40)
    step_s = step_times(OperationTable(pairs), GUESS).step_s
    board_W = np.array([gpu.tdp_W for _, gpu in pairs])
    model = RooflineModel.fit(pairs, step_s, board_W, hosts=[""] * len(pairs))
    assert (model.predict(pairs).power_W <= board_W).all()


def test_a_correction_learns_a_function_and_forgets_it_far_away() -> None:
    chance = np.random.default_rng(0)
    features = chance.uniform(-2, 2, (200, 2))
    truth = 0.5 * np.sin(features[:, 0])
    found = Correction.fit(features, truth + chance.normal(0, 0.05, 200))
    mean, deviation = found.at(features)
    assert np.abs(mean - truth).mean() < 0.05
    assert found.noise == pytest.approx(0.05, rel=0.3)
    far, far_deviation = found.at(np.array([[60.0, 60.0]]))
    assert abs(far[0]) < 0.05
    assert far_deviation[0] > 2 * deviation.mean()
    assert far_deviation[0] == pytest.approx(math.hypot(found.signal, found.noise), rel=0.05)


def test_what_trainings_on_one_gpu_have_shown_corrects_no_other() -> None:
    core = packaged().core
    correction = core.step_correction
    longer = replace(correction, left_over=np.full_like(correction.left_over, 0.3), noise=0.01)
    corrected, plain = (
        replace(core, step_correction=replace(longer, left_over=share * longer.left_over))
        for share in (1, 0)
    )

    def longer_on(gpu: str) -> float:
        pair = workload(*[LARGE, COPY] * 20), resolve_gpu(gpu)
        return math.log(corrected.predict([pair]).step_s[0] / plain.predict([pair]).step_s[0])

    assert longer_on("H200") > 0.15
    assert 0.4 < longer_on("B200") / longer_on("H200") < 0.8
    for gpu in ("A100", "L4", "RTX 4090"):
        assert abs(longer_on(gpu)) < 0.01, gpu


def test_a_correction_of_less_correlated_rows() -> None:
    """The deviation of a normal variable, given another one."""
    chance = np.random.default_rng(2)
    features = chance.uniform(-2, 2, (100, 2))
    found = Correction.fit(features, 0.5 * np.sin(features[:, 0]) + chance.normal(0, 0.05, 100))
    _, deviation = found.at(features)
    whole = np.ones(100)
    assert (found.not_carried(deviation, whole) == 0).all()
    most = np.hypot(deviation, found.not_carried(deviation, 0 * whole))
    assert most == pytest.approx(np.full(100, math.hypot(found.signal, found.noise)))
    between = np.hypot(deviation, found.not_carried(deviation, 0.5 * whole))
    assert between**2 == pytest.approx(0.25 * deviation**2 + 0.75 * most**2)


def test_a_model_fitted_to_own_trainings_corrects_them() -> None:
    """On the GPU that they ran on, which the packaged model has not seen."""
    a100 = resolve_gpu("A100")
    pairs = [(w, a100) for w, _ in some_runs(5, 12)]
    usual = packaged().predict(pairs)
    runs = [
        TrainedRun(w, gpu, 2 * s, p, f"net {i}")
        for i, ((w, gpu), s, p) in enumerate(zip(pairs, usual.step_s, usual.power_W, strict=True))
    ]
    found = PreModel().fit(runs).predict(pairs)
    assert np.abs(np.log(found.step_s / (2 * usual.step_s))).mean() < 0.1


def test_a_stored_correction_says_the_same() -> None:
    chance = np.random.default_rng(1)
    features = chance.normal(size=(50, 3))
    found = Correction.fit(features, features[:, 0] * 0.2 + chance.normal(0, 0.05, 50))
    again = Correction.from_dict(found.to_dict(), features)
    asked = chance.normal(size=(20, 3))
    for one, other in zip(found.at(asked), again.at(asked), strict=True):
        assert one == pytest.approx(other, abs=1e-4)
