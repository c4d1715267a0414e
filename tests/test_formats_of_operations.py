"""Products in another number format than the training's, and groups of products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from energyest import describe_workload, estimate_pre
from energyest.errors import EstimateError, WorkloadError
from energyest.estimators.pre.physics.grouped_products import groups_one_by_one
from energyest.estimators.pre.physics.operation_rows import rows_of
from energyest.estimators.pre.physics.operation_table import OperationTable
from energyest.estimators.pre.physics.parameters import POWER
from energyest.estimators.pre.physics.power import power_shares
from energyest.estimators.pre.physics.roofline import operation_times, step_times
from energyest.gpus import resolve_gpu, supports
from energyest.profiling.tf32 import tf32
from energyest.records.workload import Operation, Workload
from tests.support.roofline_runs import GUESS, H100, workload

WIDTH, TOKENS, EXPERTS = 32, 64, 4
HAS_GROUPS = pytest.mark.skipif(
    not hasattr(torch, "_grouped_mm"), reason="this torch has no grouped product"
)


class Experts(nn.Module):
    """A layer in the training's format, and one expert for each quarter of the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.experts = nn.Parameter(torch.zeros(EXPERTS, WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        ends = torch.arange(1, EXPERTS + 1, dtype=torch.int32) * (TOKENS // EXPERTS)
        # As transformers does: autocast does not cast for this operation.
        x = self.layer(x).to(self.experts.dtype)
        return torch._grouped_mm(x, self.experts, offs=ends)


class Applies(nn.Module):
    """A layer, and a function of its output."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.function = nn.Linear(WIDTH, WIDTH), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer(x))


def precisions(found: Workload) -> dict[str, set[str]]:
    """The formats of the products, by name."""
    names = {o.name for o in found.operations if o.flops}
    return {n: {o.precision for o in found.operations if o.name == n} for n in names}


def described(model: nn.Module, precision: str, batch: Tensor | None = None) -> Workload:
    batch = torch.randn(TOKENS, WIDTH) if batch is None else batch
    return describe_workload(model, batch, precision=precision)


# ------------------------------------------------------------------ descriptions


@HAS_GROUPS
@pytest.mark.parametrize("allowed", [True, False])
def test_what_autocast_leaves_alone_multiplies_in_single_precision(allowed: bool) -> None:
    with tf32(allowed):
        workload_ = described(Experts(), "bf16")
    single = "tf32" if allowed else "fp32"
    (note,) = workload_.notes
    # Three products of the experts; two of the layer, whose input needs no gradient.
    assert note == (f"60% of the arithmetic (_grouped_mm) is in {single}, not in bf16")
    found = precisions(workload_)
    assert found.pop("_grouped_mm") == {single}
    assert set().union(*found.values()) == {""}


@HAS_GROUPS
@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_single_precision_is_the_trainings_own(precision: str) -> None:
    found = described(Experts(), precision)
    assert set().union(*precisions(found).values()) == {""}
    assert not found.notes


@HAS_GROUPS
def test_weights_in_half_precision_are_multiplied_so() -> None:
    found = described(Experts().to(torch.bfloat16), "bf16")
    assert found.parameter_bytes == 2
    assert set().union(*precisions(found).values()) == {""}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_parts_without_autocast(device: str) -> None:
    def squares(x: Tensor) -> Tensor:
        with torch.autocast(device, enabled=False):
            x = x.float()
            return x @ x.T

    with tf32(allowed=False):
        found = described(Applies(squares), "fp16")
    # Of the products, one of the layer's gradients alone is in the training's format.
    assert precisions(found) == {"addmm": {""}, "mm": {"", "fp32"}}
    assert not torch.is_autocast_enabled("cpu")
    with torch.autocast("cuda", enabled=False) as unchanged:
        assert unchanged.device == "cuda"


def test_convolutions_and_products_have_settings_of_their_own_for_tf32() -> None:
    """By torch's defaults, convolutions are in TF32, and products are not."""
    signals = nn.Conv1d(1, 1, 3)

    def convolved(x: Tensor) -> Tensor:
        with torch.autocast("cuda", enabled=False):
            x = x.float()
            return signals((x @ x.T)[:, None])

    with tf32(allowed=False):
        torch.backends.cudnn.allow_tf32 = True
        found = precisions(described(Applies(convolved), "bf16"))
    assert found["convolution"] == {"tf32"}
    assert "fp32" in found["mm"]


@pytest.mark.parametrize("dtype", [torch.float16, None])
def test_parts_with_autocast_of_their_own(dtype: torch.dtype | None) -> None:
    def squares(x: Tensor) -> Tensor:
        with torch.autocast("cuda", dtype):
            return (x @ x.T).float()

    found = described(Applies(squares), "fp32")
    assert precisions(found) == {"addmm": {""}, "mm": {"", "bf16"}}


def test_recurrent_layers_and_learned_masks_have_formats() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.lstm = nn.Linear(WIDTH, WIDTH), nn.LSTM(WIDTH, WIDTH)
            self.mask = nn.Parameter(torch.zeros(TOKENS, TOKENS))

        def forward(self, x: Tensor) -> Tensor:
            x = self.layer(x).reshape(1, 1, TOKENS, WIDTH)
            x = scaled_dot_product_attention(x, x, x, self.mask)[0, 0]
            with torch.autocast("cuda", enabled=False):
                x = x.float()
                attended = scaled_dot_product_attention(x[None, None], x[None], x[None], self.mask)
                return self.lstm(x + attended[0, 0])[0]

    with tf32(allowed=False):
        found = precisions(described(Recurrent(), "bf16"))
    assert found["lstm"] == found["lstm_backward"] == {"fp32"}
    assert found["attention"] == found["attention_backward"] == {"", "fp32"}
    mixed = precisions(described(Applies(lambda x: nn.LSTM(WIDTH, 4)(x)[0]), "bf16"))
    assert mixed["lstm"] == {""}


def test_products_in_half_precision_within_a_training_in_single() -> None:
    def squares(x: Tensor) -> Tensor:
        x = x.to(torch.bfloat16)
        return (x @ x.T).float()

    found = described(Applies(squares), "fp32")
    assert "bf16" in precisions(found)["mm"]
    assert precisions(found)["addmm"] == {""}


@pytest.mark.parametrize("shape", [(4, 16, WIDTH), (2, 2, 2, 8, WIDTH)])
def test_attention_without_four_dimensions_is_computed_in_single_precision(
    shape: tuple[int, ...],
) -> None:
    """torch has no fused kernel for it; its own code multiplies half precision as fp32."""

    def attend(x: Tensor) -> Tensor:
        x = x.reshape(shape)
        return scaled_dot_product_attention(x, x, x)

    with tf32(allowed=False):
        found = described(Applies(attend), "bf16")
    assert precisions(found)["bmm"] == {"fp32"}


@pytest.mark.parametrize("single", ["fp32", "tf32"])
def test_adapters_in_single_precision_on_a_model_in_half(single: str) -> None:
    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = nn.Linear(WIDTH, WIDTH, dtype=torch.bfloat16).requires_grad_(False)
            self.down, self.up = nn.Linear(WIDTH, 4, bias=False), nn.Linear(4, WIDTH, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.base(x) + self.up(self.down(x.float())).to(torch.bfloat16)

    with tf32(allowed=False):
        found = describe_workload(Adapted(), torch.randn(TOKENS, WIDTH), precision=single)
    of_base = [o for o in found.operations if o.flops and {o.columns, o.depth} == {WIDTH}]
    of_adapter = [o for o in found.operations if o.flops and 4 in (o.rows, o.columns, o.depth)]
    assert found.precision == "bf16"
    assert {o.precision for o in of_base} == {""}
    assert of_adapter
    assert not found.notes
    assert {o.precision for o in of_adapter} == {single}


def test_the_format_of_an_operation_is_stored_and_checked() -> None:
    operation = product(precision="fp32")
    stored = workload(operation)
    assert Workload.from_dict(stored.to_dict()) == stored
    with pytest.raises(WorkloadError, match=r"precision='fp64' must be one of fp32, tf32"):
        replace(stored, operations=(replace(operation, precision="fp64"),))
    content = stored.to_dict()
    del content["operations"]["precision"]
    assert Workload.from_dict(content).operations[0].precision == ""


# ------------------------------------------------------------------ times


def product(name: str = "mm", *, groups: int = 1, precision: str = "") -> Operation:
    rows, columns, depth = 4096, 4096, 4096
    flops = 2.0 * rows * columns * depth * groups
    moved = 4.0 * (rows * columns + rows * depth + columns * depth) * groups
    return Operation(
        "forward", name, 1, flops, moved, rows, columns, depth, groups, precision=precision
    )


def gpu_s(operation: Operation, precision: str, gpu: str = "H100") -> float:
    table = OperationTable([(replace(workload(operation), precision=precision), resolve_gpu(gpu))])
    return float(operation_times(table, GUESS)[0])


@pytest.mark.parametrize("gpu", ["H100", "A100", "RTX 2080 Ti"])
@pytest.mark.parametrize("other", ["fp32", "tf32"])
def test_a_product_takes_as_long_as_in_a_training_of_its_format(gpu: str, other: str) -> None:
    alone = gpu_s(product(), other, gpu)
    assert gpu_s(product(precision=other), "fp16", gpu) == pytest.approx(alone, rel=1e-9)
    assert alone > 1.5 * gpu_s(product(), "fp16", gpu)


def test_a_product_draws_as_much_power_as_in_a_training_of_its_format() -> None:
    guess = {name: value for name, (value, _) in POWER.items()}
    trainings = [
        (product(), "fp32"),
        (product(precision="fp32"), "bf16"),
        (product(), "bf16"),
    ]
    shares = []
    for operation, precision in trainings:
        table = OperationTable([(replace(workload(operation), precision=precision), H100)])
        times = step_times(table, GUESS)
        # In steps of three times the GPU's work: the board's limit does not matter.
        shares.append(power_shares(table, times, 3 * times.gpu_s, guess)[0])
    assert shares[0] == pytest.approx(shares[1], rel=1e-9)
    assert shares[2] != pytest.approx(shares[1], rel=0.01)


@pytest.mark.parametrize("lacks", ["the instructions", "a known peak"])
@pytest.mark.parametrize("name", ["bf16", "tf32"])
def test_a_format_that_a_gpu_lacks_counts_as_single_precision(lacks: str, name: str) -> None:
    gpu = resolve_gpu("V100" if lacks == "the instructions" else "H100")
    gpu = replace(gpu, peak_flops_per_s={"fp32": 1.5e13, "fp16": 1e14})

    def seconds(operation: Operation, precision: str) -> float:
        found = replace(workload(operation), precision=precision)
        return float(operation_times(OperationTable([(found, gpu)]), GUESS)[0])

    for precision in ("fp32", "fp16"):
        assert seconds(product(precision=name), precision) == seconds(product(), "fp32")
    with pytest.raises(EstimateError, match="bf16"):
        seconds(product(), "bf16")


@pytest.mark.parametrize(
    ("gpu", "precision", "apart"),
    [
        ("H100", "bf16", 1),
        ("B200", "bf16", 1),
        ("B300", "bf16", 1),
        ("H100", "fp16", 8),
        ("A100", "bf16", 8),
        ("RTX 5090", "bf16", 8),
        ("H100", "fp32", 8),
    ],
)
def test_which_groups_have_one_kernel(gpu: str, precision: str, apart: int) -> None:
    operation = product("_grouped_mm", groups=8)
    described_ = replace(workload(operation), precision=precision)
    assert groups_one_by_one(operation, described_, resolve_gpu(gpu)) == apart
    assert groups_one_by_one(product("bmm", groups=8), described_, resolve_gpu(gpu)) == 1


def test_groups_one_by_one_take_as_long_as_products_of_their_own() -> None:
    grouped, eight = product("_grouped_mm", groups=8), replace(product(), count=8)
    tables = [
        OperationTable([(replace(workload(o), precision="fp16"), H100)]) for o in (grouped, eight)
    ]
    # For one occurrence each.
    assert operation_times(tables[0], GUESS)[0] == pytest.approx(
        8 * operation_times(tables[1], GUESS)[0]
    )
    times = [step_times(table, GUESS) for table in tables]
    assert times[0].gpu_s[0] == pytest.approx(times[1].gpu_s[0])
    assert times[0].cpu_s[0] == pytest.approx(times[1].cpu_s[0])
    # The CPU waits for the sizes of the groups, and the GPU for the CPU.
    assert times[1].step_s[0] < times[0].step_s[0]
    assert times[0].step_s[0] < times[0].gpu_s[0] + times[0].cpu_s[0]


@HAS_GROUPS
def test_a_mixture_of_experts_in_autocast_takes_longer_than_in_half_precision() -> None:
    class Mixture(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.Parameter(torch.empty(8, 4096, 4096))

        def forward(self, x: Tensor) -> Tensor:
            ends = torch.arange(1, 9, dtype=torch.int32) * (len(x) // 8)
            return torch._grouped_mm(x.to(self.experts.dtype), self.experts, offs=ends)

    with torch.device("meta"), tf32(allowed=False):
        mixed = described(Mixture(), "bf16", torch.empty(32768, 4096))
        half = described(Mixture().to(torch.bfloat16), "bf16", torch.empty(32768, 4096))
    seconds = [
        estimate_pre(found, "H100", epochs=1, train_samples=32768 * 100).duration_s
        for found in (mixed, half)
    ]
    # At most as much as the peaks differ.
    peaks = H100.peak_flops_per_s
    assert 3 < seconds[0] / seconds[1] < peaks["bf16"] / peaks["fp32"]


# ------------------------------------------------------------------ recurrent layers


def lstm(
    name: str, width: int, batch: int, *, steps: int = 100, inputs: int | None = None
) -> Operation:
    gates = {"lstm": 4, "gru": 3}.get(name.removesuffix("_backward"), 1) * width
    phase = "backward" if name.endswith("backward") else "forward"
    flops = 2.0 * batch * steps * gates * (width + (width if inputs is None else inputs))
    flops *= 2 if phase == "backward" else 1
    return Operation(phase, name, 1, flops, 1.0, batch, gates, width, 1, steps)


@pytest.mark.parametrize(
    ("operation", "gpu", "is_one"),
    [
        # torch's rules for batches: multiples of 8 up to 128 from Ampere on.
        (lstm("lstm", 768, 8), "H200", True),
        (lstm("lstm", 768, 4), "H200", False),
        (lstm("lstm", 768, 128), "A100", True),
        (lstm("lstm", 768, 136), "A100", False),
        (lstm("lstm", 768, 64), "RTX 3090", False),
        (lstm("lstm", 768, 64), "RTX 4090", True),
        (lstm("lstm", 768, 64), "A30", False),  # too few multiprocessors
        (lstm("lstm", 768, 64), "T4", False),
        (lstm("lstm", 768, 64), "V100", True),
        (lstm("lstm", 768, 80), "V100", False),
        (lstm("lstm", 768, 64, steps=9), "V100", False),
        (lstm("lstm", 768, 128, steps=30), "V100", False),
        (lstm("gru", 768, 64), "A100", False),
        (lstm("gru", 768, 64), "V100", True),
        (lstm("rnn_tanh", 1024, 64), "A100", True),
        (lstm("rnn_tanh", 1024, 96), "A100", False),
        (lstm("rnn_tanh", 896 - 128, 96), "A100", True),
        # The width of the inputs matters, too.
        (lstm("lstm", 512, 32, inputs=256), "H100", True),
        (lstm("lstm", 512, 32, inputs=300), "H100", False),
        (lstm("lstm_backward", 512, 32, inputs=256), "H100", True),
        (lstm("lstm_backward", 512, 32, inputs=80), "H100", False),
        (lstm("rnn_tanh_backward", 257, 3), "H100", False),
        (lstm("rnn_tanh_backward", 256, 3), "H100", True),
        # Small layers: without gates up to 384, others up to 192; not before Pascal.
        (lstm("rnn_tanh", 380, 4), "P100", True),
        (lstm("lstm", 190, 4), "P100", True),
        (lstm("lstm", 200, 4), "P100", False),
        (lstm("lstm", 190, 4), "K80", False),
    ],
)
def test_layers_whose_steps_run_in_one_kernel(operation: Operation, gpu: str, is_one: bool) -> None:
    found = resolve_gpu(gpu)
    precision = "fp16" if supports(found, "fp16") else "fp32"
    (row,) = rows_of(replace(workload(operation), precision=precision), found)
    assert row.kernels == (0 if is_one else 2 * operation.steps)
