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
    has_equal_groups,
    has_three_by_three,
    inputs_per_output,
    is_like_channels_last,
    is_native,
    is_pointwise,
    is_strided,
    kernels_of_groups,
    sizes,
    uses_per_number,
)
from energyest.estimators.pre.physics.kinds import CONV, DEPTHWISE, GROUPED, MATMUL, kind_of
from energyest.estimators.pre.physics.operation_table import OperationTable
from energyest.estimators.pre.physics.recurrent import kernels_of_steps, layers
from energyest.estimators.pre.physics.roofline import operation_times, step_times
from energyest.gpus import resolve_gpu
from energyest.records.workload import Operation, Workload
from tests.support.roofline_runs import GUESS, H100, workload

A100 = resolve_gpu("A100")


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
        replace(o, rows=1000 * o.rows, flops=1e3 * o.flops, bytes=1e3 * o.bytes, bias=False)
        for o in gradients
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


def test_several_outputs_of_each_input_are_depthwise_and_have_kernels_for_each_group() -> None:
    found = replace(depthwise(1, width=128), layout="channels_last")
    (forward,), (backward,) = (of_kind(found, DEPTHWISE, p) for p in ("forward", "backward"))
    assert not is_native(forward, found)
    assert is_native(forward, replace(found, layout="contiguous"))  # cuDNN has no such kernel
    assert kernels_of_groups(forward, found) == 64
    assert kernels_of_groups(backward, found) == 0
    assert kernels_of_groups(forward, replace(found, precision="fp32")) == 0
    assert kernels_of_groups(forward, replace(found, layout="contiguous")) == 0
    of_one_position = replace(depthwise(1, width=128, size=1), layout="channels_last")
    (forward,) = of_kind(of_one_position, DEPTHWISE, "forward")
    assert kernels_of_groups(forward, of_one_position) == 0


def test_groups_of_many_inputs_are_not_depthwise() -> None:
    for channels, outputs, size in ((9, 9, 1), (3, 12, 3), (25, 25, 3)):
        convolution = Operation(
            "forward", "convolution", 1, 1.0, 1.0, 1000, outputs, channels * size**2, 4
        )
        assert kind_of(convolution) == GROUPED


def test_large_filters_on_tiny_images_have_kernels_for_each_channel() -> None:
    module = nn.Conv2d(64, 64, 5, padding=2, groups=64)
    tiny = described(module, side=2, layout="channels_last")
    (operation,) = of_kind(tiny, DEPTHWISE, "forward")
    assert kernels_of_groups(operation, tiny) == 64
    assert kernels_of_groups(operation, replace(tiny, layout="contiguous")) == 0
    for side in (1, 4):
        other = described(module, side=side, layout="channels_last")
        assert kernels_of_groups(of_kind(other, DEPTHWISE, "forward")[0], other) == 0
    strided = nn.Conv2d(64, 64, 5, stride=2, padding=2, groups=64)
    to_one = described(strided, side=2, layout="channels_last")  # from 2 x 2 positions
    assert kernels_of_groups(of_kind(to_one, DEPTHWISE, "forward")[0], to_one) == 64


@pytest.mark.parametrize(
    ("width", "outputs", "groups", "size", "equal"),
    [
        (8, 8, 32, 3, True),  # as in ResNeXt
        (64, 64, 2, 5, True),
        (8, 8, 4, 3, False),  # 32 channels in all
        (24, 24, 8, 3, False),  # as in RegNet
        (32, 64, 2, 3, False),  # as in ResNeSt
        (16, 16, 8, 1, False),
        (2, 2, 32, 3, True),
    ],
)
def test_groups_as_wide_as_a_power_of_two_have_kernels_for_all(
    width: int, outputs: int, groups: int, size: int, equal: bool
) -> None:
    sizes_ = (width * groups, outputs * groups, size, 1, size // 2)
    model = nn.Sequential(nn.Conv2d(*sizes_, groups=groups))
    found = describe_workload(model, torch.rand(2, width * groups, 8, 8), precision="fp16")
    (forward,) = (o for o in found.operations if kind_of(o) == GROUPED and o.phase == "forward")
    assert has_equal_groups(forward, found) == equal


def test_groups_of_two_have_kernels_of_their_own_in_nhwc() -> None:
    """As in `benchmarks/data/kernel_counts.csv`: 33 kernels for 32 groups."""
    module = nn.Conv2d(64, 64, 3, padding=1, groups=32)
    last = described(module, layout="channels_last")
    (forward,), (backward,) = (of_kind(last, GROUPED, p) for p in ("forward", "backward"))
    assert not has_equal_groups(forward, last)
    assert kernels_of_groups(forward, last) == 32
    assert kernels_of_groups(backward, last) == 0
    assert kernels_of_groups(forward, replace(last, layout="contiguous")) == 0
    assert kernels_of_groups(forward, replace(last, precision="tf32")) == 0


def test_other_groups_reach_less_of_tensor_units_alone() -> None:
    """With 2^20 positions; 16 and 24 channels, as many inputs as outputs."""

    def per_flop(width: int, precision: str) -> float:
        rows, depth = 2**20, 9 * width
        flops = 2.0 * rows * width * depth * 8
        operation = Operation("forward", "convolution", 1, flops, 1e3, rows, width, depth, groups=8)
        thick = width / (width + GUESS["thin_columns_grouped"])
        thick *= depth / (depth + GUESS["thin_depth"])
        return seconds(operation, precision=precision) / flops * thick

    # Neither is as slow as fp32, which bounds both.
    slower = per_flop(24, "bf16") / per_flop(16, "bf16")
    assert slower == pytest.approx(1 / GUESS["other_groups"], rel=0.1)
    assert per_flop(24, "fp32") == pytest.approx(per_flop(16, "fp32"), rel=0.02)


def test_tiles_of_a_grouped_convolution_are_as_narrow_as_its_groups_in_both_passes() -> None:
    sizes_ = (1e3, 10**6, 4, 36)
    flops = 2.0 * 10**6 * 4 * 36 * 64
    forward = Operation("forward", "convolution", 1, flops, *sizes_, groups=64)
    backward = Operation("backward", "convolution", 1, 2 * flops, *sizes_, groups=64)
    per_flop = [seconds(o, precision="bf16") / o.flops for o in (forward, backward)]
    # The gradient of the weights sums over images, which are many.
    thick = 36 / (36 + GUESS["thin_depth"])
    slower = GUESS["gradient_grouped"] * 2 / (1 + thick)
    assert per_flop[0] / per_flop[1] == pytest.approx(slower, rel=0.03)


def of_sizes(
    taps: int, *, groups: int = 1, images: float = 10**5, stem: bool = False
) -> tuple[Operation, ...]:
    """A convolution of square filters on 64 channels each; a stem has three and no gradient."""
    inputs, outputs = (3, 512) if stem else (512 // groups, 512 // groups)
    rows, depth = int(images), taps * inputs
    read = rows * (depth if stem and taps > 49 else inputs) * groups  # a stem of patches
    moved = 2.0 * (read + rows * outputs * groups + depth * outputs * groups)
    sizes_ = (moved, rows, outputs, depth, groups)
    flops = 2.0 * rows * outputs * depth * groups
    forward = Operation("forward", "convolution", 1, flops, *sizes_)
    if not stem:
        return (forward,)
    return forward, replace(forward, phase="backward")


@pytest.mark.parametrize(
    ("name", "affected", "precision", "layout", "factor"),
    [
        ("pointwise_conv", of_sizes(1), "bf16", "channels_last", 1),
        ("pointwise_conv", of_sizes(1), "fp32", "channels_last", 0),
        ("pointwise_conv", of_sizes(9), "bf16", "channels_last", 0),
        ("patches", of_sizes(256, stem=True), "bf16", "channels_last", 1),
        ("patches", of_sizes(9, stem=True), "bf16", "channels_last", 0),
        ("patches", of_sizes(1), "bf16", "channels_last", 0),
        ("channels_last_tf32", of_sizes(9), "tf32", "channels_last", 1),
        ("channels_last_tf32", of_sizes(9), "tf32", "contiguous", 0),
        ("channels_last_tf32", of_sizes(9), "bf16", "channels_last", 0),
        ("start_pointwise", of_sizes(1, images=8), "bf16", "channels_last", -1),
        ("start_pointwise", of_sizes(9, images=8), "bf16", "channels_last", 0),
        ("start_depthwise", of_sizes(9, groups=512, images=8), "bf16", "channels_last", -1),
        ("start_depthwise", of_sizes(9, images=8), "bf16", "channels_last", 0),
        ("unaligned_conv_bytes", of_sizes(9, stem=True), "bf16", "channels_last", 0),
    ],
)
def test_parameters_of_convolutions_affect_those_that_they_are_for(
    name: str, affected: tuple[Operation, ...], precision: str, layout: str, factor: int
) -> None:
    """Half a parameter doubles the time (1), halves it (-1), or has nothing to do with it (0)."""
    asked = replace(workload(*affected), precision=precision, layout=layout)
    table = OperationTable([(asked, H100)])
    # Far from any bound.
    low = dict.fromkeys(("peak_conv_half", "peak_conv_tf32", "peak_conv_fp32"), 0.02)
    guess = GUESS | (low if factor > 0 else {})  # far from bounds and from memory's limit
    usual, halved = (
        float(operation_times(table, guess | {name: share * guess[name]})[0]) for share in (1, 0.5)
    )
    assert halved / usual == pytest.approx(2.0**factor, rel=0.1 if factor else 1e-12)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_kernels_of_groups_reach_more_of_narrower_units(precision: str) -> None:
    """An A100's multiprocessors do half as much per clock as those of an H100."""
    (grouped,) = of_sizes(9, groups=8, images=10**6)
    table = OperationTable([(replace(workload(grouped), precision=precision), A100)])
    name = "narrow_grouped"
    with_it, without = (
        float(operation_times(table, GUESS | {name: value})[0]) for value in (0.5, 1e-9)
    )
    assert without / with_it == pytest.approx(2**0.5, rel=0.1)


@pytest.mark.parametrize(("precision", "factor"), [("fp16", 2.0), ("fp32", 1.0)])
def test_tensor_units_of_turing_are_fed_at_half_the_rate(precision: str, factor: float) -> None:
    """Its multiprocessors do as much per clock as Volta's, but their shared memory is slower."""
    (one,) = of_sizes(9, images=10**6)
    tables = [
        OperationTable([(replace(workload(one), precision=precision), resolve_gpu(name))])
        for name in ("Quadro RTX 8000", "Tesla V100-SXM2-32GB")
    ]
    turing, volta = (float(table.width[0]) for table in tables)
    assert turing / volta == pytest.approx(factor, rel=0.02)
    # Wider units reach less of their peak.
    p = GUESS | {"peak_conv_half": 0.02, "peak_conv_fp32": 0.02, "clock": 0.0}
    name = "narrow_conv_half" if precision == "fp16" else "narrow_conv_fp32"
    (with_it, without), (usual, flat) = (
        [float(operation_times(table, p | {name: value})[0]) for value in (0.5, 1e-9)]
        for table in tables
    )
    assert (with_it / without) / (usual / flat) == pytest.approx(factor**0.5, rel=0.02)


PRODUCT = Operation("forward", "mm", 1, 2 * 8192.0**3, 12 * 8192.0**2, 8192, 8192, 8192)


@pytest.mark.parametrize(
    ("name", "operation", "precision", "factor"),
    [
        ("older_tensor", PRODUCT, "fp16", 2),
        ("older_tensor", of_sizes(9)[0], "fp16", 2),
        ("older_tensor", of_sizes(9, groups=8)[0], "fp16", 2),
        ("older_tensor", PRODUCT, "fp32", 1),
        ("older_winograd", of_sizes(9)[0], "fp32", 2),
        ("older_winograd", of_sizes(1)[0], "fp32", 1),
        ("older_winograd", of_sizes(9)[0], "fp16", 1),
        ("older_matmul", PRODUCT, "fp32", 2),
        ("older_matmul", PRODUCT, "fp16", 1),
        ("older_matmul", of_sizes(1)[0], "fp32", 1),
    ],
)
def test_gpus_before_ampere_have_shares_of_their_own(
    name: str, operation: Operation, precision: str, factor: float
) -> None:
    low = {
        f"peak_{kind}_{number}": 0.01
        for kind in ("matmul", "conv", "grouped")
        for number in ("fp32", "half")
    }  # far from bounds
    asked = replace(workload(operation), precision=precision)
    for gpu, expected in (("Tesla V100-SXM2-32GB", factor), ("A100", 1.0)):
        table = OperationTable([(asked, resolve_gpu(gpu))])
        usual, halved = (
            float(operation_times(table, GUESS | low | {name: value})[0]) for value in (1.0, 0.5)
        )
        assert halved / usual == pytest.approx(expected, rel=0.05 if expected > 1 else 1e-12)


def test_a_board_with_less_power_per_flop_than_others_of_its_chip_lowers_its_clock() -> None:
    """Quadro RTX 8000 and RTX 2080 Ti: 260 W for 16.3, and 250 W for 13.4 TFLOP/s."""
    for name, watts in (("Quadro RTX 8000", 260 / 16.3 / 18.7), ("GeForce RTX 2080 Ti", 1.0)):
        table = OperationTable([(workload(*of_sizes(9)), resolve_gpu(name))])
        assert table.watts == pytest.approx(watts, rel=0.01)


# ------------------------------------------------------------------ layouts


@pytest.mark.parametrize(
    ("side", "inputs", "size", "stride", "like"),
    [
        (16, 64, 1, 1, True),  # 256 positions
        (14, 64, 1, 1, False),  # 196 of them do not fill groups of eight
        (1, 64, 1, 1, True),
        (32, 64, 1, 2, False),  # 256 positions are read from 1,024
        (16, 36, 1, 1, False),
        (16, 64, 3, 1, False),
    ],
)
def test_filters_of_one_position_are_products_of_whole_images(
    side: int, inputs: int, size: int, stride: int, like: bool
) -> None:
    model = nn.Sequential(nn.Conv2d(inputs, 32, size, stride, padding=size // 2))
    found = describe_workload(model, torch.rand(4, inputs, side, side), precision="bf16")
    (forward,) = (o for o in found.operations if kind_of(o) == CONV and o.phase == "forward")
    assert is_like_channels_last(forward, found) == like
    assert not is_like_channels_last(forward, replace(found, precision="fp32"))
    assert is_like_channels_last(forward, replace(found, layout="channels_last"))


@pytest.mark.parametrize(
    ("size", "stride", "strided"),
    [
        *((1, 1, False), (1, 2, True), (3, 1, False), (3, 2, True), (7, 2, True), (2, 2, False)),
        *(((1, 7), 1, False), ((3, 1), 1, False)),
    ],
)
def test_a_stride_is_seen_in_bytes_and_sizes(
    size: int | tuple[int, int], stride: int, strided: bool
) -> None:
    padding = "same" if stride == 1 else size // 2 if size != 2 else 0
    model = nn.Sequential(nn.Conv2d(64, 32, size, stride, padding=padding))
    found = describe_workload(model, torch.rand(4, 64, 64, 64), precision="bf16")
    convolutions = [o for o in found.operations if kind_of(o) == CONV]
    assert [is_strided(o, found) for o in convolutions] == [strided] * len(convolutions)


@pytest.mark.parametrize("needs_gradient", [False, True])
def test_inputs_are_counted_without_the_weights(needs_gradient: bool) -> None:
    """Few images, so that the weights are a large part of the bytes."""
    convolution = nn.Conv2d(48, 64, 3, padding=1)
    before = [nn.Conv2d(48, 48, 1)] if needs_gradient else []
    model = nn.Sequential(*before, convolution, nn.ReLU())
    found = describe_workload(model, torch.rand(2, 48, 8, 8))
    used = [
        uses_per_number(o, found)
        for o in found.operations
        if kind_of(o) == CONV and o.depth == 9 * 48
    ]
    assert used == pytest.approx([9.0, 9.0], rel=0.03)


def test_gradients_of_strided_convolutions_take_longer() -> None:
    rows, depth = 10**5, 9 * 512
    flops = 4.0 * rows * 512 * depth
    inputs = 512 * rows
    plain, strided = (
        # The input, the gradient of the output, that of the input, and the weights.
        replace(convolution(depth, "backward"), flops=flops, rows=rows, bytes=2.0 * moved)
        for moved in (3 * inputs + 2 * 512 * depth, (2 * 4 + 1) * inputs + 2 * 512 * depth)
    )
    slower = math_s(strided, precision="bf16") / math_s(plain, precision="bf16")
    assert slower == pytest.approx(1 / GUESS["gradient_strided"], rel=0.1)


def test_channels_that_are_padded_make_a_convolution_slower_on_tensor_units_alone() -> None:
    aligned, padded = (
        Operation("forward", "convolution", 1, 1e6, 4e8, 10**5, 512, depth)
        for depth in (9 * 64, 9 * 64 + 1)
    )
    for precision, factor in (("bf16", 1 / GUESS["unaligned_conv_bytes"]), ("fp32", 1.0)):
        slower = seconds(padded, precision=precision) / seconds(aligned, precision=precision)
        assert slower == pytest.approx(factor, rel=0.1)


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


def test_torch_copies_what_it_fills_by_a_mask() -> None:
    other, fill = (Operation("forward", name, 1, 0.0, 1e9) for name in ("mul", "masked_fill"))
    assert seconds(fill) - GUESS["start_s"] == pytest.approx(
        2 * (seconds(other) - GUESS["start_s"]), rel=1e-3
    )
    assert seconds(replace(fill, name="masked_fill_")) == seconds(other)


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
    assert kernels_of_steps(operation, fp32, H100, 132) == of_fp32
    assert kernels_of_steps(operation, bf16, H100, 132) == of_half
    whole = replace(bf16, parameter_bytes=2)
    assert kernels_of_steps(operation, whole, H100, 132) == 2 * operation.steps * layers(operation)


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
