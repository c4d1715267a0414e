"""Times of single operations: kinds, batch normalisations by channels, and fits to known truths."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from energyest import describe_workload
from energyest.errors import EstimateError
from energyest.estimators.pre.fitted import packaged
from energyest.estimators.pre.model import PreModel, core_of
from energyest.estimators.pre.physics.kinds import KINDS, kind_of
from energyest.estimators.pre.physics.norms import with_channels
from energyest.estimators.pre.physics.operation_fit import TimedOperations
from energyest.estimators.pre.physics.operation_table import OperationTable
from energyest.estimators.pre.physics.roofline import operation_times, step_times
from energyest.estimators.pre.roofline_model import RooflineModel
from energyest.estimators.pre.training_data import TrainedRun
from energyest.profiling.flop_rules import product_of
from energyest.records.workload import Operation, Workload
from tests.support.roofline_runs import COPY, GUESS, H100, LARGE, some_runs, workload


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("native_batch_norm_backward", "batch_norm"),
        ("native_layer_norm", "layer_norm"),
        ("native_group_norm", "layer_norm"),
        ("linalg_vector_norm", "sum"),
        ("sum", "sum"),
        ("_softmax_backward_data", "softmax"),
        ("_log_softmax", "softmax"),
        ("max_pool2d_with_indices_backward", "pooling"),
        ("_adaptive_avg_pool2d", "average_pooling"),
        ("embedding_dense_backward", "lookup"),
        ("index_put", "lookup"),
        ("clone", "reordering"),
        ("cat", "reordering"),
        ("slice_backward", "reordering"),
        ("_to_copy", "other"),
        ("relu_", "other"),
        ("native_dropout", "other"),
        ("maximum", "other"),
    ],
)
def test_operations_that_move_data_have_kinds(name: str, kind: str) -> None:
    assert KINDS[kind_of(replace(COPY, name=name))] == kind


@pytest.mark.parametrize(
    ("phase", "name", "is_sorted"),
    [
        ("backward", "embedding_dense_backward", True),
        ("backward", "index_put", True),
        ("backward", "index_put_", True),
        ("forward", "index_put_", False),
        ("backward", "index_select", False),
        ("backward", "scatter_add", False),
        ("forward", "embedding", False),
    ],
)
def test_indices_are_sorted_where_gradients_of_the_same_entry_are_summed(
    phase: str, name: str, is_sorted: bool
) -> None:
    asked = workload(replace(COPY, phase=phase, name=name, bytes=8.0))
    table = OperationTable([(asked, H100)])
    once, twice = (
        float(operation_times(table, GUESS | {"start_sort_s": value})[0]) for value in (1.0, 2.0)
    )
    assert twice / once == pytest.approx(2.0 if is_sorted else 1.0)


def test_times_of_operations_add_up_to_the_gpus_time() -> None:
    both = (replace(LARGE, count=3), replace(COPY, count=5), LARGE)
    table = OperationTable([(workload(*both), H100), (workload(COPY), H100)])
    gap = {**GUESS, "gap_s": 0.0}
    single_s = operation_times(table, gap)
    assert single_s.shape == (4,)
    whole_s = step_times(table, gap).gpu_s
    assert single_s[:3] @ [3, 5, 1] == pytest.approx(whole_s[0] - _optimizer_s(table, gap, 0))
    assert single_s[3] == pytest.approx(whole_s[1] - _optimizer_s(table, gap, 1))


def _optimizer_s(table: OperationTable, p: dict[str, float], index: int) -> float:
    return float(table.optimizer_s[index] * p["optimizer"] / p["bandwidth_other"])


def test_both_gradients_of_a_convolution_are_one_operation() -> None:
    convolution = Operation("backward", "convolution_backward", 1, 4e9, 1e6, 1000, 1000, 1000)
    table = OperationTable([(workload(convolution), H100)])
    assert operation_times(table, GUESS).shape == (1,)


# ------------------------------------------------------------------ normalisations


def _norm_s(
    channels: int, layout: str, phase: str = "forward", precision: str = "fp16", **changed: float
) -> float:
    norm = Operation(phase, "native_batch_norm", 1, 0.0, 1e9, groups=channels)
    described = replace(workload(norm), layout=layout, precision=precision)
    p = GUESS | changed
    return float(operation_times(OperationTable([(described, H100)]), p)[0]) - p["start_norm_s"]


def test_few_channels_keep_few_multiprocessors_busy() -> None:
    assert _norm_s(16, "contiguous") == pytest.approx(2 * _norm_s(32, "contiguous"), rel=0.05)
    assert _norm_s(2048, "contiguous") == pytest.approx(_norm_s(4096, "contiguous"), rel=0.05)


def test_few_channels_keep_few_lanes_busy_in_nhwc() -> None:
    thin = GUESS["thin_batch_norm"]
    slower = _norm_s(8, "channels_last") / _norm_s(4096, "channels_last")
    assert slower == pytest.approx((8 + thin) / 8, rel=0.02)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(
    ("phase", "name"),
    [("forward", "batch_norm_bf16"), ("backward", "gradient_batch_norm_bf16")],
)
def test_each_pass_of_a_batch_normalisation_has_its_own_speed_in_bf16(
    layout: str, phase: str, name: str
) -> None:
    asked = (4096, layout, phase, "bf16")
    once, twice = (_norm_s(*asked, **{name: value}) for value in (0.3, 0.6))
    assert once / twice == pytest.approx(2, rel=0.01)
    fp16 = (4096, layout, phase, "fp16")
    assert _norm_s(*fp16, **{name: 0.3}) == _norm_s(*fp16)


def test_gradients_of_batch_normalisations_have_their_own_speed_in_nhwc() -> None:
    name = "channels_last_gradient_batch_norm"
    for layout, phase, factor in (
        ("channels_last", "backward", 0.5),
        ("channels_last", "forward", 1.0),
        ("contiguous", "backward", 1.0),
    ):
        once, twice = (_norm_s(4096, layout, phase, **{name: value}) for value in (0.4, 0.8))
        assert twice / once == pytest.approx(factor, rel=0.02)


def test_a_normalisation_notes_how_many_means_it_computes() -> None:
    model = nn.Sequential(
        *(nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.GroupNorm(4, 12)),
        *(nn.Flatten(), nn.LayerNorm(12 * 36), nn.Linear(12 * 36, 5)),
    )
    found = describe_workload(model, torch.rand(7, 3, 8, 8))
    groups = {(o.name, o.phase): o.groups for o in found.operations if "norm" in o.name}
    assert groups == {
        ("native_batch_norm", "forward"): 12,
        ("native_batch_norm_backward", "backward"): 12,
        ("native_group_norm", "forward"): 4 * 7,
        ("native_group_norm_backward", "backward"): 4 * 7,
        ("native_layer_norm", "forward"): 7,
        ("native_layer_norm_backward", "backward"): 7,
    }


def _network() -> Workload:
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 32), (32, 64), (64, 128)):
        convolution = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 64, 10))
    return describe_workload(model, torch.rand(8, 3, 64, 64))


def test_channels_of_old_descriptions_are_those_of_the_convolution_before() -> None:
    new = _network()
    norms = [o for o in new.operations if "batch_norm" in o.name]
    assert sorted({o.groups for o in norms}) == [32, 64, 128]
    old = replace(
        new,
        operations=tuple(
            replace(o, groups=1) if "batch_norm" in o.name else o for o in new.operations
        ),
    )
    assert with_channels(old) == new.operations
    assert with_channels(new) is new.operations


def test_without_a_convolution_of_that_size_the_channels_stay_unknown() -> None:
    norm = Operation("forward", "native_batch_norm", 1, 0.0, 1e8)
    assert with_channels(workload(norm, LARGE)) == (norm, LARGE)


def test_a_layer_normalisation_takes_time_for_each_row() -> None:
    """With short rows, the rows limit it, and not their bytes."""
    few, many = (
        Operation("forward", "native_layer_norm", 1, 0.0, 1e6, groups=rows)
        for rows in (10_000, 1_000_000)
    )
    table = OperationTable([(workload(few, many), H100)])
    few_s, many_s = operation_times(table, GUESS)
    clocks_per_s = H100.peak_flops_per_s["fp32"] / (2 * 128)
    row_s = GUESS["row_clocks"] / clocks_per_s
    assert many_s - GUESS["start_norm_s"] == pytest.approx(1_000_000 * row_s)
    assert few_s < 0.1 * many_s


# ------------------------------------------------------------------ recurrent layers


@pytest.mark.parametrize("is_batch_first", [False, True])
def test_cudnns_recurrent_layer_is_a_product_for_each_step(is_batch_first: bool) -> None:
    """cuDNN takes the matrices of an LSTM as parts of one vector."""
    batch, steps, inputs, width = 5, 7, 16, 32
    shape = (batch, steps, inputs) if is_batch_first else (steps, batch, inputs)
    sizes = (4 * width * inputs, 4 * width * width)
    weights = [torch.empty(size, 1, device="meta") for size in sizes]
    state = torch.empty(1, batch, width, device="meta")
    lstm = 2
    arguments = (
        *(torch.empty(shape, device="meta"), weights, 2, None, state, state),
        *(lstm, width, 0, 1, is_batch_first, 0.0, True, False, [], None),
    )
    found = product_of(torch.ops.aten._cudnn_rnn.default, arguments, None)
    assert found == (batch, 4 * width, width, 1, steps)


# ------------------------------------------------------------------ the fit


def test_timed_operations_determine_their_parameters() -> None:
    true = {**GUESS, "bandwidth_other": 0.5, "peak_matmul_fp32": 0.55, "start_s": 4e-6}
    operations = [replace(COPY, bytes=10.0**e) for e in range(3, 10)]
    operations += [replace(LARGE, rows=n, flops=2.0 * n * 8192**2) for n in (128, 1024, 8192)]
    asked = workload(*operations)
    seconds = operation_times(OperationTable([(asked, H100)]), true)
    # So often that all take equally long: operations count by the time that they take.
    operations = [
        replace(o, count=max(int(0.1 / s), 1)) for o, s in zip(operations, seconds, strict=True)
    ]
    timed = tuple(zip(operations, seconds.tolist(), strict=True))
    # Whole steps, of which the first thirty have their operations timed.
    pairs = [*[(asked, H100)] * 30, *some_runs(1, 20)]
    whole = step_times(OperationTable(pairs), true)
    power_W = np.full(len(pairs), 300.0)
    hosts = [""] * len(pairs)
    steps = [TimedOperations(asked, H100, timed, 1.0)] * 30
    model = RooflineModel.fit(pairs, whole.step_s, power_W, hosts=hosts, timed=steps)
    again = operation_times(OperationTable([(asked, H100)]), model.step)
    assert np.abs(np.log(again / seconds)).max() < 0.15
    without = RooflineModel.fit(pairs, whole.step_s, power_W, hosts=hosts)
    before = operation_times(OperationTable([(asked, H100)]), without.step)
    assert np.abs(np.log(before / seconds)).max() > 0.2  # whole steps alone do not show it


def test_operations_of_a_step_matter_by_their_time_and_single_ones_equally() -> None:
    long, often = replace(LARGE, count=1), replace(COPY, count=6)
    pairs = ((long, 3e-3), (often, 0.5e-3))
    asked = workload(long, often)
    of_step = TimedOperations(asked, H100, pairs, 6e-3)
    alone = TimedOperations(asked, H100, pairs)
    assert of_step.weights[0] == pytest.approx(of_step.weights[1])
    often_less = replace(of_step, operations=((long, 9e-3), (often, 0.5e-3)))
    assert often_less.weights[0] == pytest.approx(3 * often_less.weights[1])
    assert alone.weights[0] == alone.weights[1]
    assert alone.weights.sum() == pytest.approx(of_step.weights.sum())


def test_operations_matter_less_while_the_gpu_waits_for_the_cpu() -> None:
    pairs = ((replace(LARGE, count=1), 3e-3), (replace(COPY, count=6), 0.5e-3))
    asked = workload(*(operation for operation, _ in pairs))
    busy, waiting = (TimedOperations(asked, H100, pairs, s) for s in (6e-3, 24e-3))
    assert waiting.weights == pytest.approx(busy.weights / 4)
    # A profiled step can be longer than those that were measured.
    assert TimedOperations(asked, H100, pairs, 5e-3).weights == pytest.approx(busy.weights)


def test_single_operations_are_learnt_from_without_a_training() -> None:
    """A run without a step has a part in the parameters of operations, and in nothing else."""
    chance = np.random.default_rng(0)
    true = {**GUESS, "bandwidth_other": 0.5}
    copies = [replace(COPY, bytes=10.0**e) for e in range(5, 10)]
    asked = workload(*copies)
    seconds = operation_times(OperationTable([(asked, H100)]), true)
    timed = tuple(zip(copies, seconds.tolist(), strict=True))
    alone = TrainedRun(asked, H100, math.nan, math.nan, "copies", operations_s=timed)
    assert not alone.has_step
    assert not alone.has_power
    pairs = some_runs(1, 30)
    step_s = step_times(OperationTable(pairs), true).step_s * np.exp(chance.normal(0, 0.05, 30))
    runs = [
        TrainedRun(w, gpu, s, 300.0, f"net {i % 6}")
        for i, ((w, gpu), s) in enumerate(zip(pairs, step_s, strict=True))
    ]
    fitted = PreModel(start=None).fit([*runs, *[alone] * 20]).fitted_
    assert fitted.core.step["bandwidth_other"] == pytest.approx(0.5, rel=0.03)
    assert len(fitted.deviations) == 30
    with pytest.raises(EstimateError, match="step_s"):
        TrainedRun(asked, H100, math.nan, math.nan, "copies")


def single_operations(name: str = "copies") -> TrainedRun:
    timed = tuple((replace(COPY, bytes=10.0**e), 10.0**e / 3e12) for e in range(6, 10))
    return TrainedRun(workload(COPY), H100, math.nan, math.nan, name, operations_s=timed)


def made_up(count: int, models: int) -> list[TrainedRun]:
    pairs = some_runs(1, count)
    step_s = step_times(OperationTable(pairs), GUESS).step_s
    return [
        TrainedRun(w, gpu, s, 300.0, f"net {i % models}")
        for i, ((w, gpu), s) in enumerate(zip(pairs, step_s, strict=True))
    ]


def test_a_few_trainings_and_many_single_operations_are_no_reason_for_an_own_calibration() -> None:
    alone = [single_operations(f"copies {i}") for i in range(20)]
    fitted = PreModel().fit([*made_up(6, 2), *alone]).fitted_
    assert (fitted.deviations == packaged().deviations).all()


def test_only_trainings_are_cross_validated() -> None:
    runs = made_up(30, 6)
    found = PreModel(start=None).cross_validate([*runs, single_operations(), *runs[:1]])
    assert len(found.table) == 31
    assert set(found.table.model) == {f"net {i}" for i in range(6)}
    one_model = [replace(run, model="net") for run in runs]
    with pytest.raises(EstimateError, match="model"):
        PreModel(start=None).cross_validate([*one_model, single_operations()])


def test_single_operations_of_a_group_are_left_out_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    learnt: list[set[str]] = []

    def noted(runs: list[TrainedRun], **_: object) -> RooflineModel:
        learnt.append({run.model for run in runs})
        return packaged().core

    monkeypatch.setattr("energyest.estimators.pre.model.core_of", noted)
    own = replace(single_operations(), model="net 1")
    PreModel().cross_validate([*made_up(12, 2), own, single_operations("others")])
    assert learnt == [{"net 1", "others"}, {"net 0", "others"}]


def test_a_model_is_not_fitted_to_single_operations_alone() -> None:
    with pytest.raises(EstimateError, match="no run has both step_s and power_W"):
        PreModel().fit([single_operations()])
    with pytest.raises(EstimateError, match="no run has a step_s"):
        core_of([single_operations()])


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf])
def test_times_of_operations_are_positive_and_finite(seconds: float) -> None:
    with pytest.raises(EstimateError, match=r"operations_s\[1\]"):
        replace(single_operations(), operations_s=((COPY, 1e-3), (COPY, seconds)))
