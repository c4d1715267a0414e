"""Which kernels run an operation: rules for convolutions, sizes of products, recurrent layers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from energyest import describe_workload
from energyest.estimators.pre.physics.alignment import alignment, tokens_of
from energyest.estimators.pre.physics.convolutions import (
    first_ones,
    has_three_by_three,
    inputs_per_output,
    is_native,
    is_pointwise,
    kernels_of_groups,
    sizes,
)
from energyest.estimators.pre.physics.kinds import CONV, DEPTHWISE, GROUPED, MATMUL, kind_of
from energyest.estimators.pre.physics.operation_table import OperationTable
from energyest.estimators.pre.physics.recurrent import kernels_of_steps, layers
from energyest.estimators.pre.physics.roofline import operation_times, step_times
from energyest.records.workload import Operation, Workload
from tests.support.roofline_runs import GUESS, H100, workload


def described(*modules: nn.Module, side: int = 16, layout: str = "contiguous") -> Workload:
    """Images of four channels through these convolutions; the first one makes 64 of them."""
    first = nn.Conv2d(4, 64, 3, padding=1)
    model = nn.Sequential(first, *modules, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found = describe_workload(model, torch.rand(16, 4, side, side), precision="fp16")
    return replace(found, layout=layout)


def of_kind(found: Workload, kind: int, phase: str) -> list[Operation]:
    return [o for o in found.operations if kind_of(o) == kind and o.phase == phase]


def seconds(operation: Operation, **settings: str) -> float:
    table = OperationTable([(replace(workload(operation), **settings), H100)])
    return float(operation_times(table, GUESS)[0])


# ------------------------------------------------------------------ filters


@pytest.mark.parametrize(
    ("filter_size", "stride", "pointwise", "three"),
    [(1, 1, True, False), (3, 1, False, True), (3, 2, False, True), (4, 4, True, False)],
)
def test_a_filter_is_seen_in_bytes_and_sizes(
    filter_size: int, stride: int, pointwise: bool, three: bool
) -> None:
    found = described(nn.Conv2d(64, 32, filter_size, stride, padding=filter_size // 3))
    for phase in ("forward", "backward"):
        (operation,) = (o for o in of_kind(found, CONV, phase) if o.columns == 32)
        assert is_pointwise(operation, found) == pointwise
        assert has_three_by_three(operation, found) == three


def test_the_first_convolution_needs_no_gradient_of_its_input() -> None:
    """Neither does one after layers that are frozen, but its channels are many."""
    images = torch.rand(2, 3, 16, 16)
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 32, 1), nn.Flatten())
    first = first_ones(describe_workload(model, images).operations)
    assert first == {(2 * 14 * 14, 64, 27)}
    model[0].requires_grad_(False)
    assert first_ones(describe_workload(model, images).operations) == set()


def test_filters_of_one_position_do_not_waste_what_they_fetch() -> None:
    plain = Operation("forward", "convolution", 1, 1.0, 1e9, 2_000_000, 16, 16)
    pointwise = replace(plain, bytes=2 * 2_000_000 * 32.0)
    filters = replace(plain, depth=9 * 16, bytes=2 * 2_000_000 * 32.0)
    settings = {"precision": "fp16", "layout": "channels_last"}
    assert seconds(pointwise, **settings) < 0.6 * seconds(filters, **settings)


def convolution(depth: int, phase: str = "forward") -> Operation:
    """One of many images, limited by arithmetic, with the gradient of its weights alone."""
    rows = 1_000_000
    return Operation(phase, "convolution", 1, 2.0 * rows * 512 * depth, 1e6, rows, 512, depth)


def math_s(*operations: Operation, precision: str) -> float:
    """Time of the first one's arithmetic in a training with all of them."""
    described = replace(workload(*operations), precision=precision)
    return float(operation_times(OperationTable([(described, H100)]), GUESS)[0])


def test_the_first_convolution_uses_little_of_tensor_units() -> None:
    stem, gradient = convolution(3 * 16**2), convolution(3 * 16**2, "backward")
    slower = math_s(stem, gradient, precision="bf16") / math_s(stem, precision="bf16")
    assert slower == pytest.approx(1 / GUESS["first_conv"], rel=0.1)
    assert math_s(stem, gradient, precision="fp32") == math_s(stem, precision="fp32")


def test_winograds_algorithm_helps_filters_of_nine_taps_alone() -> None:
    nine, eight = convolution(9 * 512), convolution(8 * 512)
    per_flop = [math_s(o, precision="fp32") / o.flops for o in (nine, eight)]
    assert per_flop[1] / per_flop[0] > 1.15 / 1.05  # `plain_conv` is 0.8
    half = [math_s(o, precision="bf16") / o.flops for o in (nine, eight)]
    assert half[1] / half[0] == pytest.approx(1, abs=0.02)


# ------------------------------------------------------------------ depthwise


def depthwise(stride: int, width: int = 64, size: int = 3) -> Workload:
    module = nn.Conv2d(64, width, size, stride, padding=size // 2, groups=64)
    return described(module)


@pytest.mark.parametrize("stride", [1, 2])
def test_inputs_per_output_are_those_of_the_stride(stride: int) -> None:
    found = depthwise(stride)
    for phase in ("forward", "backward"):
        (operation,) = of_kind(found, DEPTHWISE, phase)
        assert inputs_per_output(operation, found) == pytest.approx(stride**2, rel=0.05)


def test_cudnn_runs_depthwise_convolutions_as_torchs_rule_says() -> None:
    (one,), (two,) = (of_kind(depthwise(stride), DEPTHWISE, "forward") for stride in (1, 2))
    (large,) = of_kind(depthwise(1, size=7), DEPTHWISE, "forward")
    fp16 = depthwise(1)
    assert not is_native(one, fp16)
    assert is_native(two, fp16)  # with few channels
    assert is_native(large, fp16)
    assert is_native(one, replace(fp16, precision="bf16"))
    assert not is_native(one, replace(fp16, precision="bf16", layout="channels_last"))
    assert not is_native(replace(two, groups=512), fp16)
    assert is_native(replace(one, rows=16 * 36), fp16)  # images of 6 x 6


def test_torchs_kernel_visits_all_inputs_of_a_strided_convolution() -> None:
    one, two = depthwise(1), depthwise(2)
    gradients = [of_kind(found, DEPTHWISE, "backward")[0] for found in (one, two)]
    many = [
        replace(o, rows=1000 * o.rows, flops=1e3 * o.flops, bytes=1e3 * o.bytes) for o in gradients
    ]
    taken_s = [seconds(o, precision="bf16") / o.flops for o in many]
    # Of the gradients, that of the input takes four times as long per FLOP, and the other as long.
    assert taken_s[1] / taken_s[0] == pytest.approx((4 + 1) / 2, rel=0.02)


# ------------------------------------------------------------------ groups


@pytest.mark.parametrize(
    ("inputs", "size", "layout", "forward", "backward"),
    [
        (16, 1, "contiguous", 1, 5),
        (16, 1, "channels_last", 3, 5),
        (4, 1, "contiguous", 0, 5),
        (16, 3, "contiguous", 0, 0),
        (16, 3, "channels_last", 0, 0),
    ],
)
def test_grouped_convolutions_have_kernels_for_each_group(
    inputs: int, size: int, layout: str, forward: int, backward: int
) -> None:
    """About as in `benchmarks/data/kernel_counts.csv`."""
    groups = 64 // inputs
    module = nn.Conv2d(64, 64, size, padding=size // 2, groups=groups)
    found = described(module, layout=layout)
    for phase, a_group in (("forward", forward), ("backward", backward)):
        (operation,) = of_kind(found, GROUPED, phase)
        assert kernels_of_groups(operation, found) == a_group * groups


def test_several_outputs_of_each_input_have_kernels_for_each_group() -> None:
    found = replace(depthwise(1, width=128), layout="channels_last")
    (forward,), (backward,) = (of_kind(found, GROUPED, p) for p in ("forward", "backward"))
    assert kernels_of_groups(forward, found) == 64
    assert kernels_of_groups(backward, found) == 0
    assert kernels_of_groups(forward, replace(found, precision="fp32")) == 0
    assert kernels_of_groups(forward, replace(found, layout="contiguous")) == 0


def test_large_filters_on_tiny_images_have_kernels_for_each_channel() -> None:
    module = nn.Conv2d(64, 64, 5, padding=2, groups=64)
    tiny = described(module, side=2, layout="channels_last")
    (operation,) = of_kind(tiny, DEPTHWISE, "forward")
    assert kernels_of_groups(operation, tiny) == 64
    assert kernels_of_groups(operation, replace(tiny, layout="contiguous")) == 0
    small = described(module, side=4, layout="channels_last")
    assert kernels_of_groups(of_kind(small, DEPTHWISE, "forward")[0], small) == 0


def test_kernels_of_groups_take_the_time_of_cpu_and_gpu() -> None:
    operation = Operation("forward", "convolution", 1, 1e6, 153_600.0, 16, 16, 16, groups=100)
    found = [replace(workload(operation), precision=p) for p in ("fp16", "fp32")]
    half, single = (OperationTable([(w, H100)]) for w in found)
    assert half.kernels.sum() == 100
    assert single.kernels.sum() == 0
    cpu_s = step_times(half, GUESS).cpu_s[0] - 100 * GUESS["call_group_s"]
    scaler_s = GUESS["call_scaler_s"]
    assert cpu_s - scaler_s == pytest.approx(step_times(single, GUESS).cpu_s[0])


# ------------------------------------------------------------------ sizes of products


def products(width: int) -> Workload:
    model = nn.Sequential(nn.Linear(64, 128), nn.Linear(128, width))
    return describe_workload(model, torch.rand(25, 64), precision="bf16")


@pytest.mark.parametrize(
    ("width", "expected"), [(64, (False, False)), (30522, (True, False)), (125, (True, True))]
)
def test_features_that_do_not_fill_tensor_units_are_seen(
    width: int, expected: tuple[bool, bool]
) -> None:
    found = products(width)
    tokens = tokens_of(found.operations)
    assert tokens == {25}
    concerned = [o for o in found.operations if kind_of(o) == MATMUL]
    seen = {alignment(o, tokens, found) for o in concerned if width in sizes(o)}
    assert seen == {expected}
    others = {alignment(o, tokens, found) for o in concerned if width not in sizes(o)}
    assert others <= {(False, False)}


def test_how_many_pixels_a_convolution_has_does_not_matter_for_alignment() -> None:
    found = described(nn.Conv2d(64, 64, 3, padding=1), side=7)
    operations = [o for o in of_kind(found, CONV, "backward") if o.depth == 9 * 64]
    for rows in (4 * 49, 8 * 49):
        assert alignment(replace(operations[0], rows=rows), set(), found) == (False, False)
    assert alignment(replace(operations[0], columns=60), set(), found) == (True, False)


def test_unaligned_products_take_longer_on_tensor_units_alone() -> None:
    even, two, odd = (
        Operation("forward", "mm", 1, 2.0 * 8192 * 4096 * n, 1e6, 8192, 4096, n)
        for n in (4096, 4098, 4097)
    )
    half = [seconds(o, precision="bf16") for o in (even, two, odd)]
    assert half[1] / half[0] == pytest.approx(1 / GUESS["unaligned_matmul"], rel=0.25)
    assert half[2] > 1.3 * half[1]
    single = [seconds(o, precision="fp32") for o in (even, two, odd)]
    assert single[2] == pytest.approx(single[0], rel=0.01)


def test_several_products_in_one_kernel_reach_less_of_the_peak() -> None:
    one = Operation("forward", "mm", 1, 2.0 * 8192 * 4096 * 4096, 1e6, 8192, 4096, 4096)
    grouped = seconds(replace(one, name="_grouped_mm"), precision="bf16")
    assert grouped / seconds(one, precision="bf16") == pytest.approx(
        1 / GUESS["grouped_matmul"], rel=0.25
    )


def test_the_gradient_of_a_layer_normalisation_sums_rows_one_after_another() -> None:
    few, many = (
        Operation("backward", "native_layer_norm_backward", 1, 0.0, 1e5, groups=rows)
        for rows in (65_536, 65_537)
    )
    clocks_per_s = H100.peak_flops_per_s["fp32"] / (2 * 128) / (H100.cuda_cores / 128)
    summed_s = 65_536 * GUESS["gradient_row_clocks"] / clocks_per_s
    assert seconds(few) - seconds(many) == pytest.approx(summed_s, rel=0.01)


# ------------------------------------------------------------------ recurrent layers


def recurrent(name: str, width: int, *, layers: int = 1, steps: int = 100) -> Operation:
    phase = "backward" if name.endswith("backward") else "forward"
    flops = layers * 4.0 * 8 * steps * 4 * width * width * (1 + (phase == "backward"))
    return Operation(phase, name, 1, flops, 1.0, 8, 4 * width, width, steps=steps)


@pytest.mark.parametrize(
    ("operation", "of_fp32", "of_half"),
    [
        (recurrent("lstm", 64), 0, 0),
        (recurrent("lstm", 192), 0, 0),
        (recurrent("lstm_backward", 192), 200, 200),
        (recurrent("lstm", 384), 200, 0),
        (recurrent("lstm", 384, layers=2), 400, 400),
        (recurrent("lstm", 1280), 200, 200),
        (recurrent("lstm", 400), 200, 200),
        (recurrent("gru", 384, steps=50), 100, 100),
    ],
)
def test_time_steps_have_kernels_of_their_own(
    operation: Operation, of_fp32: int, of_half: int
) -> None:
    """The numbers are those of `benchmarks/data/kernel_counts.csv`, without the first few."""
    fp32, bf16 = (replace(workload(operation), precision=p) for p in ("fp32", "bf16"))
    assert kernels_of_steps(operation, fp32) == of_fp32
    assert kernels_of_steps(operation, bf16) == of_half
    whole = replace(bf16, parameter_bytes=2)
    assert kernels_of_steps(operation, whole) == 2 * operation.steps * layers(operation)


def test_time_steps_take_the_time_of_cpu_and_gpu() -> None:
    one, many = recurrent("lstm", 192), recurrent("lstm", 193)
    tables = [OperationTable([(workload(lstm), H100)]) for lstm in (one, many)]
    fast_s, slow_s = (operation_times(table, GUESS)[0] for table in tables)
    assert slow_s - fast_s == pytest.approx(
        200 * GUESS["start_kernel_s"] - 100 * GUESS["step_recurrent_s"], rel=0.1
    )
    cpu_s = [step_times(table, GUESS).cpu_s[0] for table in tables]
    assert cpu_s[1] - cpu_s[0] == pytest.approx(200 * GUESS["call_time_step_s"], rel=0.01)


def test_layers_and_directions_are_seen_in_the_arithmetic() -> None:
    for number in (1, 2, 3):
        for name in ("lstm", "lstm_backward"):
            assert layers(recurrent(name, 512, layers=number)) == number
