"""`describe_workload`: a step in numbers, true to hand counts and to real steps on the CPU."""

from __future__ import annotations

import copy
import json
import pickle
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
import pytorch_lightning
import torch
import torch.utils.checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from energyest.errors import WorkloadError
from energyest.profiling.describe import count_flops, describe_workload
from energyest.records.workload import Operation, Workload
from tests.support.cost import costs_at_most
from tests.support.models import (
    Attention,
    Lazy,
    Locked,
    Net,
    Noisy,
    Raises,
    Sneaky,
    assert_same,
    state_of,
)

X, Y = torch.randn(4, 8), torch.zeros(4, dtype=torch.long)
T = torch.randn(2, 7, 16)  # batch, positions, width
F1, F2 = 2 * 8 * 16, 2 * 16 * 3  # of the layers of `mlp`, for one sample


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


MLP_STEP = 4 * (2 * F1 + 3 * F2)  # the first layer's input needs no gradient


def flops(workload: Workload, phase: str) -> float:
    return sum(o.flops * o.count for o in workload.operations if o.phase == phase)


def named(workload: Workload, name: str, phase: str = "forward") -> list[Operation]:
    return [o for o in workload.operations if o.phase == phase and o.name == name]


def only(workload: Workload, name: str, phase: str = "forward") -> Operation:
    (operation,) = named(workload, name, phase)
    return operation


# ---------------------------------------------------------------------- FLOPs are right


CONVOLUTIONS = {
    # model, shape of a sample, multiply-adds of a sample
    "stride": (nn.Conv2d(3, 8, 3, stride=2, padding=1), (3, 10, 10), 27 * 8 * 25),
    "dilation": (nn.Conv2d(3, 8, 3, dilation=2), (3, 10, 10), 27 * 8 * 36),
    "groups": (nn.Conv2d(4, 6, 3, groups=2, bias=False), (4, 9, 9), 2 * 9 * 6 * 49),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4), (4, 9, 9), 9 * 8 * 49),
    "1d": (nn.Conv1d(4, 6, 5), (4, 20), 4 * 5 * 6 * 16),
    "3d": (nn.Conv3d(2, 4, 3), (2, 5, 5, 5), 2 * 27 * 4 * 27),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2), (4, 5, 5), 4 * 9 * 6 * 25),
    "transposed, groups": (nn.ConvTranspose2d(4, 6, 3, groups=2), (4, 5, 5), 4 * 9 * 3 * 25),
}


@pytest.mark.parametrize(("model", "shape", "adds"), CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_convolutions(model: nn.Module, shape: tuple[int, ...], adds: int) -> None:
    batch = torch.randn(3, *shape)
    workload = describe_workload(model, batch)
    # The first layer has no gradient of its input to compute.
    assert flops(workload, "forward") == flops(workload, "backward") == 3 * 2 * adds
    assert workload.forward_flops_per_sample == 2 * adds
    behind = (
        describe_workload(nn.Sequential(nn.Conv2d(shape[0], shape[0], 1), model), batch)
        if (len(shape) == 3)
        else None
    )
    if behind is not None:
        assert sum(o.flops for o in named(behind, "convolution_backward", "backward")) == (
            3 * 2 * (2 * adds + shape[0] ** 2 * shape[1] * shape[2])
        )
    forward = only(workload, "convolution")
    product = forward.rows * forward.columns * forward.depth * forward.groups
    assert 2 * product == forward.flops
    assert forward.groups == model.groups


def test_linear_layers() -> None:
    workload = describe_workload(mlp(), (X, Y))
    assert flops(workload, "forward") == 4 * (F1 + F2)
    assert flops(workload, "backward") == 4 * (F1 + 2 * F2)
    assert workload.flops_per_step == MLP_STEP
    first = named(workload, "addmm")[0]
    assert (first.rows, first.columns, first.depth, first.groups) == (4, 16, 8, 1)
    assert first.bytes == 4 * (4 * 8 + 8 * 16 + 16 + 4 * 16)


def test_batched_products_and_products_with_a_vector() -> None:
    class Products(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix, self.vector = nn.Parameter(torch.ones(2, 16, 5)), nn.Parameter(X[0])

        def forward(self, x: Tensor) -> Tensor:
            return torch.bmm(x, self.matrix).sum() + X @ self.vector

    workload = describe_workload(Products(), T)
    assert only(workload, "bmm").flops == 2 * (2 * 7 * 16 * 5)
    assert only(workload, "bmm").groups == 2
    assert only(workload, "mv").flops == 2 * 4 * 8  # torch's own counter has no rule for it


@pytest.mark.parametrize("causal", [False, True])
def test_fused_attention(causal: bool) -> None:
    class Masked(Attention):
        def forward(self, x: Tensor) -> Tensor:
            query, key, value = self.qkv(x).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
            return functional.scaled_dot_product_attention(
                query, key, value, is_causal=causal, dropout_p=0.1
            )

    full = 2 * 2 * (2 * 2 * 7 * 7 * 8)  # two products of two heads and two samples
    workload = describe_workload(Masked(), T)
    assert only(workload, "attention").flops == (full / 2 if causal else full)
    # q kᵀ again, and two products for each of the two.
    backward = only(workload, "attention_backward", "backward")
    assert backward.flops == (full / 2 if causal else full) * 5 / 2


def encoder(**options: Any) -> nn.Module:
    return nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, **options)


class SelfAttention(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(16, 2, batch_first=True)
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.inner(x, x, x, **self.options)[0]
        return output


MASK = torch.ones(7, 7, dtype=torch.bool).triu(1)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        pytest.param(mlp(), (4, 8), id="mlp"),
        pytest.param(
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3, 2)),
            (2, 3, 9, 9),
            id="convolutions",
        ),
        pytest.param(Attention(), (2, 7, 16), id="attention"),
        pytest.param(encoder(), (2, 7, 16), id="encoder"),
        pytest.param(encoder(dropout=0.0, norm_first=True), (2, 7, 16), id="norm first"),
        pytest.param(SelfAttention(need_weights=True), (2, 7, 16), id="weights"),
        pytest.param(SelfAttention(need_weights=False, attn_mask=MASK), (2, 7, 16), id="mask"),
        pytest.param(nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 3)), None, id="embedding"),
    ],
)
def test_agrees_with_real_steps(model: nn.Module, shape: tuple[int, ...] | None) -> None:
    batch = torch.zeros(4, 5, dtype=torch.long) if shape is None else torch.randn(shape)
    workload = describe_workload(model, batch)
    real = copy.deepcopy(model).train()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        output = real(batch)
        forward = counter.get_total_flops()
        output.sum().backward()
    assert flops(workload, "forward") == forward
    # A fused attention computes q kᵀ once more.
    again = sum(o.flops / 5 for o in named(workload, "attention_backward", "backward"))
    assert flops(workload, "backward") - again == counter.get_total_flops() - forward
    counted = count_flops(model, batch)
    assert workload.forward_flops_per_sample == counted.per_sample


class Recurrent(nn.Module):
    """A recurrent layer and a head on its output, or on its final state."""

    def __init__(
        self, kind: type[nn.RNNBase], *, final: bool = False, packed: bool = False, **options: Any
    ) -> None:
        super().__init__()
        self.inner = kind(8, 16, **options)
        self.final, self.packed = final, packed

    def forward(self, x: Tensor) -> Tensor:
        inputs: Any = x
        if self.packed:
            lengths = torch.tensor([5, 3])
            inputs = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        output, state = self.inner(inputs)
        if self.final:
            last: Tensor = (state[0] if isinstance(state, tuple) else state)[-1]
            return last
        return output.data if self.packed else output


SEQUENCE = torch.randn(2, 5, 8)
KINDS = {"lstm": (nn.LSTM, 4), "gru": (nn.GRU, 3), "rnn_tanh": (nn.RNN, 1)}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_recurrent_layers(name: str, final: bool, packed: bool) -> None:
    kind, gates = KINDS[name]
    model = Recurrent(kind, final=final, packed=packed, batch_first=True)
    workload = describe_workload(model, SEQUENCE)
    tokens = 5 + 3 if packed else 2 * 5
    weights = gates * 16 * (8 + 16)
    operation = only(workload, name)
    assert operation.flops == 2 * tokens * weights
    assert only(workload, f"{name}_backward", "backward").flops == 2 * operation.flops
    assert (operation.count, operation.steps, operation.columns) == (1, 5, gates * 16)


@pytest.mark.parametrize("batch_first", [True, False])
def test_stacked_and_bidirectional_layers(batch_first: bool) -> None:
    inner = nn.LSTM(8, 16, num_layers=2, bidirectional=True, batch_first=batch_first, dropout=0.2)

    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.inner(x)[0]
            return output

    workload = describe_workload(Stack(), SEQUENCE)
    operation = only(workload, "lstm")
    weights = 2 * 4 * 16 * ((8 + 16) + (2 * 16 + 16))
    assert operation.flops == 2 * 10 * weights
    steps = 5 if batch_first else 2
    assert operation.steps == (steps + 2 - 1) * 2  # a layer follows a step behind the other
    assert workload.parameters == sum(p.numel() for p in inner.parameters())


def test_an_encoder_learns_through_the_state_that_it_hands_over() -> None:
    class Translator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.LSTM(8, 16, batch_first=True)
            self.decoder = nn.LSTM(8, 16, batch_first=True)
            self.head = nn.Linear(16, 3)

        def forward(self, source: Tensor, target: Tensor) -> Tensor:
            _, state = self.encoder(source)
            output: Tensor = self.head(self.decoder(target, state)[0])
            return output

    batch = ((torch.randn(2, 5, 8), torch.randn(2, 6, 8)), torch.zeros(2, 6, dtype=torch.long))
    workload = describe_workload(Translator(), batch)
    assert len(named(workload, "lstm")) == 2
    assert len(named(workload, "lstm_backward", "backward")) == 2
    assert flops(workload, "backward") == 2 * flops(workload, "forward")


def test_a_frozen_recurrent_layer_passes_gradients_on() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.inner = nn.Linear(8, 8), nn.GRU(8, 16, batch_first=True)
            self.inner.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.inner(self.first(x))[0]
            return output

    workload = describe_workload(Frozen(), SEQUENCE)
    gradient = only(workload, "gru_backward", "backward")
    assert gradient.flops == only(workload, "gru").flops


def test_checkpointed_layers_run_twice() -> None:
    class Checkpointed(nn.Module):
        def __init__(self, inner: nn.Module, again: bool, reentrant: bool) -> None:
            super().__init__()
            self.first, self.inner = nn.Linear(16, 16), inner
            self.again, self.reentrant = again, reentrant

        def forward(self, x: Tensor) -> Any:
            x = self.first(x)
            if self.again:
                x = torch.utils.checkpoint.checkpoint(self.inner, x, use_reentrant=self.reentrant)
            else:
                x = self.inner(x)
            return x[0] if isinstance(x, tuple) else x

    # Dropout and recurrent layers are recorded in a form of their own, there and here.
    for inner in (encoder(dropout=0.1), nn.LSTM(16, 16, batch_first=True)):
        once = describe_workload(Checkpointed(inner, False, False), T)
        # With "reentrant" checkpoints, all of it; without, as far as something was saved.
        for reentrant in (True, False):
            twice = describe_workload(Checkpointed(inner, True, reentrant), T)
            assert flops(twice, "forward") == flops(once, "forward")
            rest = only(once, "addmm") if isinstance(inner, nn.LSTM) else None
            inside = flops(once, "forward") - (rest.flops if rest else 2 * 14 * 16 * 16)
            added = flops(twice, "backward") - flops(once, "backward")
            assert 0 < added <= inside
            assert added == inside or not reentrant
            assert twice.saved_bytes < once.saved_bytes / 2
            assert not [o for o in twice.operations if o.name.startswith("bernoulli")]


# ---------------------------------------------------------------------- bytes are right


def test_elementwise_operations() -> None:
    class Sums(Net):
        def forward(self, x: Tensor) -> Tensor:
            wide = x[:, :1].expand(-1, 1000)  # as large as what lies behind it
            return self.layer(x).sum() + (x.exp() + x[:1]).sum() + wide.sin().sum()

    workload = describe_workload(Sums(), X)
    assert only(workload, "exp").bytes == 2 * 4 * 32
    assert only(workload, "sin").bytes == 4 * (32 + 4000)
    assert 4 * (32 + 8 + 32) in [o.bytes for o in named(workload, "add")]


class LookUp(nn.Module):
    """Reads 6 entries for each sample, of a table of 1,000 entries of 8 numbers."""

    def __init__(self, look: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(1000, 8))
        self.look = look
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.look(self.table, x))


@pytest.mark.parametrize(
    ("name", "look", "read"),
    [
        ("embedding", lambda table, x: functional.embedding(x, table), 24),
        ("_embedding_bag", lambda table, x: functional.embedding_bag(x, table), 24),
        ("index", lambda table, x: table[x], 24),
        ("index_select", lambda table, x: table.index_select(0, x.flatten()), 24),
        ("gather", lambda table, x: table.gather(0, x[:, :1].expand(-1, 8)), 4),
        ("embedding", lambda table, x: functional.embedding(x.repeat(1, 100), table), 1000),
    ],
)
def test_of_a_table_a_lookup_reads_what_it_returns(
    name: str, look: Callable[[Tensor, Tensor], Tensor], read: int
) -> None:
    indices = torch.zeros(4, 6, dtype=torch.long)
    (found,) = named(describe_workload(LookUp(look), indices, loss=torch.sum), name)
    returned = {"_embedding_bag": 4, "gather": 4}.get(name, 24 if read == 24 else 2400)
    numbers = (read + returned) * 8 * 4
    # Beside them, the indices and what a bag says of itself.
    assert numbers < found.bytes <= numbers + (2400 if read == 1000 else 100) * 8


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_sparse_gradients_of_tables(kind: Callable[..., nn.Module]) -> None:
    """A step touches the entries that it looks up, whatever the size of the table."""

    def step_of(entries: int, *, sparse: bool) -> Workload:
        with torch.device("meta"):
            model = nn.Sequential(kind(entries, 8, sparse=sparse), nn.Linear(8, 3))
        indices = torch.zeros(4, 6, dtype=torch.long)
        return describe_workload(model, indices, optimizer="adam", loss=torch.sum)

    small, large = (step_of(entries, sparse=True) for entries in (1000, 10**8))
    assert large.bytes_per_step == small.bytes_per_step
    assert large.optimizer_bytes == small.optimizer_bytes == 27 * 4 * 18
    assert large.parameters == 8 * 10**8 + 27
    assert large.trainable_parameters == 27
    assert large.parameter_tensors == 3
    assert any("800,000,000 parameters have sparse gradients" in note for note in large.notes)
    dense = step_of(10**8, sparse=False)
    assert dense.trainable_parameters == dense.parameters
    assert dense.bytes_per_step > 8 * 10**8 * 4
    assert not dense.notes


class Tied(nn.Module):
    """A table whose entries are read, and that is also a layer's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(1000, 8, sparse=True)
        self.head = nn.Linear(8, 1000, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.table(x)).mean(1)


def test_gradients_count_as_sparse_if_they_are() -> None:
    """Whatever a module says: the dense gradient of a layer makes the sum dense."""
    indices = torch.zeros(4, 6, dtype=torch.long)
    tied = describe_workload(Tied(), indices, loss=torch.sum)
    assert tied.trainable_parameters == 8000
    assert not tied.notes
    functional_one = LookUp(lambda table, x: functional.embedding(x, table, sparse=True))
    described = describe_workload(functional_one, indices, loss=torch.sum)
    assert described.trainable_parameters == 27
    assert "8,000 parameters have sparse gradients" in described.notes[0]


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_sparse_gradients_of_bags_have_an_entry_for_each_index(mode: str) -> None:
    model = nn.Sequential(nn.EmbeddingBag(1000, 8, sparse=True, mode=mode), nn.Linear(8, 3))
    indices = torch.zeros(4, 6, dtype=torch.long)
    described = describe_workload(model, indices, loss=torch.sum)
    (found,) = named(described, "_embedding_bag_backward", "backward")
    entries = 24 * (8 * 4 + 8)
    # Beside them, the gradient of the output, and what says which indices belong together.
    assert entries < found.bytes <= entries + 4 * 8 * 4 + 4 * 24 * 8


def test_norms_are_limited_for_the_entries_that_are_read() -> None:
    model = nn.Sequential(nn.Embedding(1000, 8, max_norm=1.0), nn.Flatten(), nn.Linear(48, 3))
    described = describe_workload(model, torch.zeros(4, 6, dtype=torch.long), loss=torch.sum)
    (found,) = named(described, "embedding_renorm_")
    assert found.bytes == 24 * (2 * 8 * 4 + 8)


class Factors(nn.Module):
    """Factors of a matrix of ratings: a lookup for each side, multiplied entry by entry."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(50, 8), nn.Embedding(60, 8)

    def forward(self, x: Tensor) -> Tensor:
        return (self.users(x[:, 0]) * self.items(x[:, 1])).sum(1)


def test_a_model_without_any_product_is_described_by_its_memory_traffic(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_values: list[Any] = []  # shapes suffice
    walk = "energyest.profiling.walk.walk._walk_with_values"
    monkeypatch.setattr(walk, lambda *given: with_values.append(given))
    batch = (torch.zeros(4, 2, dtype=torch.long), torch.rand(4))
    described = describe_workload(Factors(), batch)
    assert described.flops_per_step == 0
    assert described.bytes_per_step > 110 * 8 * 4
    assert {o.name for o in described.operations} >= {"embedding", "embedding_dense_backward"}
    assert described.notes == (
        "no matrix product or convolution was found in the step: memory traffic alone counts",
    )
    assert not with_values


def test_half_precision_halves_activations_and_adds_casts() -> None:
    full = describe_workload(mlp(), (X, Y))
    for precision in ("bf16", "fp16"):
        half = describe_workload(mlp(), (X, Y), precision=precision)
        assert half.precision == precision
        assert only(half, "relu").bytes == only(full, "relu").bytes / 2
        assert [o.bytes for o in named(half, "addmm")] == [
            o.bytes / 2 for o in named(full, "addmm")
        ]
        assert half.flops_per_step == full.flops_per_step
        assert named(half, "_to_copy")
        assert not named(full, "_to_copy")
        assert half.kernels > full.kernels
    tf32 = describe_workload(mlp(), (X, Y), precision="tf32")
    assert tf32.operations == full.operations


def test_views_and_marks_are_not_kernels() -> None:
    class Views(Net):
        def forward(self, x: Tensor) -> Tensor:
            with torch.profiler.record_function("mark"):
                x = x.view(2, 16).t().t().reshape(4, 8)[:, :]
                return self.layer(x.unsqueeze(0).squeeze(0).detach())

    plain, views = describe_workload(Net(), X), describe_workload(Views(), X)
    assert views.kernels == plain.kernels
    assert views.operations == plain.operations
    assert views.forward_calls > plain.forward_calls


def kept_by_a_real_step(model: nn.Module, batch: Tensor) -> int:
    """What autograd keeps in memory between forward and backward, but for weights and batch."""
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(batch)
    held = {t.untyped_storage().data_ptr() for t in [*model.parameters(), batch]}
    size = sum(size for place, size in kept.items() if place not in held)
    output.sum().backward()
    return size


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (mlp(), (4, 8)),
        (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.Flatten()),
            (2, 3, 9, 9),
        ),
        (nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 2)), (5, 16)),
    ],
)
def test_kept_memory_is_that_of_a_real_step(model: nn.Module, shape: tuple[int, ...]) -> None:
    batch = torch.randn(shape)
    workload = describe_workload(model, batch)
    assert workload.saved_bytes == kept_by_a_real_step(model, batch)
    assert workload.input_bytes == batch.numel() * 4
    # Weights and gradients; the batch is not counted twice, though the first layer keeps it.
    parameters = 2 * 4 * sum(p.numel() for p in model.parameters())
    assert workload.memory_bytes == parameters + workload.saved_bytes + workload.input_bytes


# ---------------------------------------------------------------------- counts are right


def test_parameters_are_counted_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(9, 8), nn.Linear(8, 9, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.head(self.embedding(x))
            return output

    workload = describe_workload(Tied(), torch.zeros(2, 5, dtype=torch.long), optimizer="adamw")
    assert (workload.parameters, workload.parameter_tensors) == (72, 1)
    assert workload.optimizer_bytes == 72 * 4 * 20
    assert workload.module_calls == 3


def test_frozen_layers_have_no_backward_pass() -> None:
    model = mlp()
    model[0].requires_grad_(False)
    workload = describe_workload(model, (X, Y))
    assert flops(workload, "backward") == 4 * F2
    assert (workload.parameters, workload.trainable_parameters) == (195, 16 * 3 + 3)
    assert workload.parameter_tensors == 2
    frozen = describe_workload(model.requires_grad_(False), (X, Y))
    assert frozen.flops_per_step == 4 * (F1 + F2)
    assert frozen.trainable_parameters == frozen.backward_calls == frozen.optimizer_bytes == 0
    assert frozen.notes == ("no parameter is trainable: the step trains nothing",)


def test_modules_called_again_and_again() -> None:
    layer = nn.Linear(8, 8)
    workload = describe_workload(nn.Sequential(layer, layer, layer), X)
    operation = only(workload, "addmm")  # the same size each time: one entry
    assert operation.count == 3
    assert workload.module_calls == 4
    assert workload.parameters == 72
    assert workload.flops_per_step == 4 * 2 * 64 * (3 + 3 + 2)
    # The same size in the other phase is another entry.
    assert {o.phase for o in workload.operations} == {"forward", "backward"}


def test_a_long_loop_is_one_entry() -> None:
    class Loop(Net):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(1000):
                x = x * 1.01
            return self.layer(x)

    with costs_at_most(20):
        workload = describe_workload(Loop(), X)
    assert only(workload, "mul").count == 1000


@given(st.integers(1, 9), st.integers(2, 5), st.sampled_from(["fp32", "bf16"]))
@settings(max_examples=12, deadline=None)
def test_linear_in_the_batch(samples: int, times: int, precision: str) -> None:
    model = nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(18, 4))
    small = describe_workload(model, torch.zeros(samples, 2, 8), precision=precision)
    large = describe_workload(model, torch.zeros(times * samples, 2, 8), precision=precision)
    assert large.flops_per_step == times * small.flops_per_step
    assert large.forward_flops_per_sample == small.forward_flops_per_sample
    assert only(large, "relu").bytes == times * only(small, "relu").bytes
    assert large.input_bytes == times * small.input_bytes
    weights = 2 * (3 * 2 * 3 + 18 * 4) if precision == "bf16" else 0  # copies in half precision
    kept = small.saved_bytes, large.saved_bytes
    assert times * kept[0] - kept[1] <= (times - 1) * weights
    assert large.kernels == small.kernels
    assert (large.forward_calls, large.backward_calls, large.module_calls) == (
        small.forward_calls,
        small.backward_calls,
        small.module_calls,
    )
    assert Workload.from_dict(json.loads(json.dumps(large.to_dict()))) == large


# ---------------------------------------------------------------------- it leaves no trace


def flags() -> dict[str, Any]:
    return {
        "mkldnn": torch.backends.mkldnn.enabled,
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "attention": (
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.math_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(),
        ),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "anomaly": torch.is_anomaly_enabled(),
        "modes": (torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()),
        "filters": list(warnings.filters),
    }


class Exits(Net):
    def forward(self, x: Tensor) -> Tensor:
        raise KeyboardInterrupt


LEFT_ALONE = [Net, Noisy, Raises, Locked, Sneaky, Exits]


@pytest.mark.parametrize("kind", LEFT_ALONE)
@pytest.mark.parametrize("batch", [X, (X, Y), {"x": X}, "text"], ids=["x", "xy", "dict", "text"])
@pytest.mark.parametrize("grad", [True, False])
def test_model_generators_and_flags_are_left_alone(
    kind: Callable[[], nn.Module], batch: Any, grad: bool
) -> None:
    model = kind()
    before, set_before, values = state_of(model), flags(), X.clone()
    with torch.set_grad_enabled(grad):
        for precision in ("fp32", "bf16"):
            with suppress(WorkloadError, KeyboardInterrupt):
                describe_workload(model, batch, precision=precision)
    assert_same(before, state_of(model))
    assert set_before == flags()
    assert torch.equal(values, X)


def test_a_noisy_model_is_walked_through_and_stays_picklable() -> None:
    model = Noisy()
    assert describe_workload(model, X).module_calls == 6
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
    model[0].weight.grad = torch.ones(8, 8)
    describe_workload(model, X)
    assert model[0].weight.grad.equal(torch.ones(8, 8))
    assert model[1].num_batches_tracked == 0
    assert pickle.loads(pickle.dumps(model))[0].weight.equal(model[0].weight)


def test_inputs_that_a_model_changes() -> None:
    class Changes(Net):
        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return self.layer(batch.pop("x").zero_().add_(1))

    batch = {"x": torch.randn(4, 8), "y": Y}
    before = batch["x"].clone()
    workload = describe_workload(Changes(), batch)
    assert workload.flops_per_step == 2 * 4 * Net.LAYER_FLOPS
    assert list(batch) == ["x", "y"]
    assert batch["x"].equal(before)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_wherever_the_caller_builds_tensors(precision: str) -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.places = nn.Linear(8, 3), nn.Embedding(9, 8)

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.layer(x + self.places(torch.arange(len(x))))
            return output

    model = Positions()
    expected = describe_workload(model, X, precision=precision)
    with torch.device("meta"):
        assert describe_workload(model, X, precision=precision) == expected
        on_meta = Positions()
        assert describe_workload(on_meta, X, precision=precision) == expected
    with torch.inference_mode():
        assert describe_workload(model, X.clone(), precision=precision) == expected
    with torch.autocast("cpu", torch.bfloat16):
        assert describe_workload(model, X, precision=precision) == expected
    assert describe_workload(on_meta, X.to("meta"), precision=precision) == expected


# ---------------------------------------------------------------------- kinds of models


class Lit(pytorch_lightning.LightningModule):
    """Logs, and returns its loss in one of several ways."""

    def __init__(self, how: str = "tensor") -> None:
        super().__init__()
        self.net, self.how = mlp(), how

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("loss", loss, prog_bar=True)
        self.log_dict({"again": loss})
        return {"loss": loss, "inputs": batch[0]} if self.how == "dict" else loss


class LitForward(Lit):
    def forward(self, x: Tensor) -> Any:
        return self.net(x)


@pytest.mark.parametrize("how", ["tensor", "dict"])
def test_lightning_modules(how: str, recwarn: pytest.WarningsRecorder) -> None:
    workload = describe_workload(Lit(how), [X, Y])
    assert workload.loop == "lightning"
    assert workload.flops_per_step == MLP_STEP
    assert workload.operations == describe_workload(mlp(), (X, Y)).operations
    assert not list(recwarn)


@dataclass
class Output:
    loss: Tensor | None
    logits: Tensor


class WithLoss(nn.Module):
    """As language models do it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Output:
        logits = self.net(x)
        loss = None if labels is None else functional.cross_entropy(logits, labels)
        return Output(loss, logits)


class Inputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, one: Tensor, other: Tensor) -> Any:
        return self.net(one + other)


def scripted() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(mlp())


def compiled() -> nn.Module:
    model = mlp()
    model.compile()
    return model


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return mlp()


class Branch(nn.Module):
    """Its forward looks at values."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.net, self.how = mlp(), how

    def forward(self, x: Tensor) -> Any:
        if self.how == "if":
            return self.net(x * 2 if x.sum() > 0 else x)
        if self.how == "item":
            return self.net(x * x.mean().item())
        return self.net(x[torch.nonzero(x[:, 0] ** 2 >= 0).squeeze(1)])


MODELS: dict[str, tuple[Any, Any]] = {
    "target of classes": (mlp, (X, Y)),
    "target of numbers": (mlp, (X, torch.randn(4, 3))),
    "another target": (mlp, (X, ["a", "b", "c", "d"])),
    "no target": (mlp, X),
    "list": (mlp, [X, Y]),
    "output with a loss": (WithLoss, {"x": X, "labels": Y}),
    "inputs": (Inputs, (X, X)),
    "inputs in a tuple": (Inputs, ((X, X), Y)),
    "inputs as torch collates them": (Inputs, [[X, X], Y]),
    "inputs by name": (Inputs, {"one": X, "other": X, "labels": Y}),
    "if": (lambda: Branch("if"), X),
    "item": (lambda: Branch("item"), X),
    "nonzero": (lambda: Branch("nonzero"), X),
    "if on meta": (lambda: Branch("if").to("meta"), X.to("meta")),
    "item on meta": (lambda: Branch("item").to("meta"), X.to("meta")),
    "nonzero on meta": (lambda: Branch("nonzero").to("meta"), X.to("meta")),
    "compiled": (lambda: torch.compile(mlp()), X),
    "compiled in place": (compiled, X),
    "scripted": (scripted, X),
    "a scripted part": (lambda: nn.Sequential(scripted()), X),
    "data parallel": (lambda: nn.DataParallel(mlp()), X),
    "on meta": (on_meta, X.to("meta")),
    "evaluated": (lambda: mlp().eval(), X),
    "double": (lambda: mlp().double(), X.double()),
    "half": (lambda: mlp().half(), X.half()),
    "bfloat16": (lambda: mlp().bfloat16(), X.bfloat16()),
}


@pytest.mark.filterwarnings("ignore:.*jit.script")
@pytest.mark.parametrize("name", MODELS)
def test_kinds_of_models(name: str) -> None:
    build, batch = MODELS[name]
    workload = describe_workload(build(), batch)
    assert workload.flops_per_step == MLP_STEP
    assert (workload.batch_size, workload.parameters, workload.loop) == (4, 195, "plain")
    assert workload.forward_flops_per_sample == F1 + F2


def test_weights_of_other_types_are_taken_as_they_are_or_noted() -> None:
    plain = describe_workload(mlp(), X)
    assert plain.notes == ()
    double = describe_workload(mlp().double(), X.double())
    assert double.operations == plain.operations
    assert double.notes == ("parameters of torch.float64 are taken as torch.float32",)
    for dtype, precision in ((torch.float16, "fp16"), (torch.bfloat16, "bf16")):
        half = describe_workload(mlp().to(dtype), X.to(dtype))
        assert half.flops_per_step == plain.flops_per_step
        assert half.bytes_per_step < 0.6 * plain.bytes_per_step
        assert (half.precision, half.parameter_bytes, half.notes) == (precision, 2, ())
    # These refuse inputs of another type than their weights.
    for model in (nn.Conv1d(7, 4, 3), nn.LSTM(16, 8)):
        assert describe_workload(model.half(), T.half()).flops_per_step > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_batch_is_taken_in_the_weights_format(dtype: torch.dtype) -> None:
    """Torch refuses most layers otherwise; Lightning's "bf16-true" converts batches as well."""
    images, heat = torch.randn(2, 3, 9, 9), torch.randn(2, 8, 7, 7)

    class Mixed(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            assert x.dtype == torch.bfloat16  # the one of the two that CPUs compute in
            return super().forward(x)

    for model in (Mixed(3, 8, 3).to(dtype), nn.Conv2d(3, 8, 3).to(dtype)):
        as_loaded = describe_workload(model, (images, heat))
        matching = describe_workload(model, (images.to(dtype), heat.to(dtype)))
        assert as_loaded == matching
        assert as_loaded.notes == ()
        assert as_loaded.input_bytes == 2 * (images.numel() + heat.numel())


class Adapted(nn.Module):
    """A frozen layer in a two-byte format, and a trained correction of low rank, as LoRA's."""

    def __init__(self, dtype: torch.dtype, adapters: torch.dtype) -> None:
        super().__init__()
        self.base = nn.Linear(64, 64, bias=False, dtype=dtype).requires_grad_(False)
        self.down = nn.Linear(64, 2, bias=False, dtype=adapters)
        self.up = nn.Linear(2, 64, bias=False, dtype=adapters)

    def forward(self, x: Tensor) -> Tensor:
        base = self.base(x)
        return base + self.up(self.down(x.to(self.down.weight.dtype))).to(base.dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_frozen_model_in_half_with_adapters_in_single_precision(dtype: torch.dtype) -> None:
    batch = torch.zeros(4, 64)
    found = describe_workload(Adapted(dtype, torch.float32), batch, optimizer="adamw")
    assert found.precision == ("fp16" if dtype == torch.float16 else "bf16")
    assert (found.parameter_bytes, found.frozen_parameter_bytes, found.notes) == (4, 2, ())
    kept = 2 * 64 * 64 + 2 * (2 * 64) * 4 * (1 + 1 + 2)
    assert found.memory_bytes == kept + found.saved_bytes + found.input_bytes
    base, down, _ = named(found, "mm")
    assert base.bytes == 2 * (4 * 64 + 64 * 64 + 4 * 64)
    assert down.bytes == 4 * (4 * 64 + 2 * 64 + 4 * 2)
    # With mixed precision, the adapters' products are in half too.
    mixed = describe_workload(Adapted(dtype, torch.float32), batch, precision="bf16")
    assert named(mixed, "mm")[1].bytes == down.bytes / 2
    assert mixed.parameter_bytes == 4
    alike = describe_workload(Adapted(dtype, dtype), batch)
    assert (alike.parameter_bytes, alike.frozen_parameter_bytes) == (2, None)
    # The format of most weights decides.
    single = describe_workload(Adapted(torch.float32, dtype), batch)
    assert (single.precision, single.parameter_bytes) == ("fp32", 4)
    assert single.notes == (f"parameters of {dtype} are taken as torch.float32",)


@pytest.mark.filterwarnings("ignore")
def test_normalised_weights() -> None:
    for norm in (
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
    ):
        model = nn.Sequential(norm(nn.Linear(8, 8)), nn.Linear(8, 3))
        workload = describe_workload(model, X)
        products = [o for o in workload.operations if o.name in ("mm", "addmm")]
        assert sum(o.flops * o.count for o in products) == 4 * 2 * (2 * 64 + 3 * 24)


def test_what_is_not_counted_is_noted() -> None:
    class Spectrum(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.layer(torch.fft.fft(x).real)

    workload = describe_workload(Spectrum(), X)
    assert workload.notes == ("the arithmetic of _fft_r2c is not counted",)


@pytest.mark.parametrize(
    "change",
    [
        functional.normalize,
        lambda x: x.norm(),
        lambda x: torch.linalg.cross(x[:, :3], x[:, 1:]),
        lambda x: x if x.layout == torch.strided else -x,
        lambda x: x * torch.ops.prims.add(x.detach(), x.detach()),
    ],
    ids=["normalize", "norm", "cross", "layout", "add"],
)
def test_arithmetic_on_single_numbers_is_not_noted(change: Callable[[Tensor], Any]) -> None:
    class Changed(Net):
        def forward(self, x: Tensor) -> Any:
            return change(self.layer(x))

    assert not describe_workload(Changed(), X).notes


@pytest.mark.filterwarnings("ignore")
def test_complex_and_sparse_parameters() -> None:
    sparse = nn.Sequential(nn.Embedding(9, 8, sparse=True), nn.Linear(8, 3))
    assert describe_workload(sparse, torch.zeros(4, 5, dtype=torch.long)).parameters == 99
    model = nn.Linear(8, 3).to(torch.complex64)
    workload = describe_workload(model, X.to(torch.complex64), loss=lambda out: out.abs().sum())
    assert workload.backward_calls > 0


def test_one_sample_and_no_parameters() -> None:
    assert describe_workload(mlp(), X[:1]).flops_per_step == MLP_STEP / 4

    class Product(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ x.T

    workload = describe_workload(Product(), X)
    assert (workload.parameters, workload.flops_per_step) == (0, 2 * 4 * 4 * 8)


def test_a_loss_of_ones_own() -> None:
    seen: list[Any] = []

    def loss(output: Tensor, target: Tensor) -> dict[str, Tensor]:
        seen.append((output.shape, target.shape))
        return {"loss": functional.cross_entropy(output, target)}

    workload = describe_workload(mlp(), (X, Y), loss=loss)
    assert seen == [((4, 3), (4,))]
    assert workload.flops_per_step == MLP_STEP
    assert describe_workload(mlp(), X, loss=lambda out: out.square()).flops_per_step == MLP_STEP
    # It takes the place of a LightningModule's own.
    assert describe_workload(LitForward(), (X, Y), loss=loss).loop == "lightning"


@pytest.mark.long
def test_two_billion_parameters_take_seconds_and_no_memory() -> None:
    width, layers, positions, words = 2560, 26, 1024, 50_000
    with torch.device("meta"):
        layer = nn.TransformerEncoderLayer(width, 32, 4 * width, batch_first=True)
        body = nn.TransformerEncoder(layer, layers)
        model = nn.Sequential(nn.Embedding(words, width), body, nn.Linear(width, words))
        batch = torch.zeros(8, positions, dtype=torch.long)
    with costs_at_most(30):
        workload = describe_workload(model, batch, precision="bf16", optimizer="adamw")
    assert workload.parameters > 2.2e9
    attention = layers * 2 * 2 * positions**2 * width
    dense = 2 * positions * (layers * 12 * width**2 + width * words)
    norms = layers * 2 * 5 * positions * width  # 5 for each number, as fvcore counts
    assert workload.forward_flops_per_sample == dense + attention + norms
    assert workload.memory_bytes > 16 * workload.parameters
    assert {p.device.type for p in model.parameters()} == {"meta"}


# ---------------------------------------------------------------------- refusals


class NoGradient(Net):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Reader(Net):
    """Takes a number from a generator at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = (number for number in range(9))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * next(self.numbers)


REFUSED: dict[str, tuple[Any, Any, dict[str, Any], str]] = {
    "no module": (lambda: print, X, {}, "model is a builtin_function.*torch.nn.Module"),
    "a class": (lambda: nn.Linear, X, {}, "model is a type"),
    "lazy": (Lazy, X, {}, "Lazy has parameters without a shape yet: run it once"),
    "no sample": (mlp, X[:0], {}, "example_batch holds no samples"),
    "text": (mlp, "text", {}, "no tensors were found in example_batch .str.: give"),
    "texts": (mlp, ["text"], {}, "no tensors were found in example_batch .list"),
    "nothing": (mlp, None, {}, "no tensors were found in example_batch .NoneType"),
    "no agreement": (mlp, (X, X[:3]), {}, r"tuple with .* \[4, 8\], \[3, 8\].* is not clear"),
    "samples": (mlp, X, {"samples": 0}, "samples=0 must be a whole number of 1 or more"),
    "precision": (mlp, X, {"precision": "fp8"}, "precision='fp8' must be one of fp32"),
    "precision none": (mlp, X, {"precision": None}, "precision=None must be one of"),
    "optimizer": (mlp, X, {"optimizer": "magic"}, "optimizer='magic' must be one of sgd"),
    "optimizer class": (mlp, X, {"optimizer": torch.optim.SGD}, "is a type: it must be one of sgd"),
    "optimizer itself": (
        *(mlp, X, {"optimizer": torch.optim.SGD([torch.ones(1)], lr=0.1)}),
        "^optimizer is a SGD: it must be one of sgd",
    ),
    "loss": (mlp, (X, Y), {"loss": 3}, "loss is a int: it must be callable"),
    "loss of text": (mlp, (X, Y), {"loss": lambda *_: "text"}, "a str, not a loss"),
    "loss of one": (mlp, (X, Y), {"loss": lambda _: None}, "takes 1 positional argument"),
    "detached": (mlp, X, {"loss": lambda o: o.detach()}, "depends on no trainable parameter"),
    "no gradient": (NoGradient, X, {}, "depends on no trainable parameter"),
    "raises": (Raises, X, {}, "Raises could not be walked through: RuntimeError: no forward"),
    "no copy": (Reader, X, {}, "the step uses Reader.numbers, a generator, which cannot be copied"),
    "wrong shape": (mlp, torch.zeros(4, 9), {}, "Sequential could not be walked through"),
    "no product": (nn.ReLU, X, {}, "no matrix product or convolution"),
    "a norm of one": (lambda: nn.BatchNorm1d(8), X[:1], {}, "more than 1 value per channel"),
    "calls the original": (Sneaky, X, {}, "Sneaky could not be walked through"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_thing_and_the_rule(name: str) -> None:
    build, batch, options, why = REFUSED[name]
    with pytest.raises(WorkloadError, match=why) as error:
        describe_workload(build(), batch, **options)
    assert "\n" not in str(error.value)


def test_an_example_input_does_not_stand_in_for_the_batch() -> None:
    class WithExample(nn.Linear):
        example_input_array = torch.zeros(1, 8)

    with_example, without = WithExample(8, 4), nn.Linear(8, 4)
    batch = torch.zeros(32, 8)
    flops = [describe_workload(m, batch).flops_per_step for m in (with_example, without)]
    assert flops[0] == flops[1] > 0


def test_a_score_and_a_class_of_two_for_each_sample() -> None:
    net = nn.Sequential(nn.Linear(8, 1), nn.Flatten(0))
    found = describe_workload(net, (torch.zeros(16, 8), torch.zeros(16, dtype=torch.long)))
    assert any("binary_cross_entropy" in o.name for o in found.operations)


def test_an_output_that_is_a_dataclass() -> None:
    @dataclass
    class Output:
        logits: Tensor
        loss: None = None

    class Net(nn.Linear):
        def forward(self, x: Tensor) -> Output:  # type: ignore[override]
            return Output(super().forward(x))

    batch = (torch.zeros(16, 8), torch.zeros(16, dtype=torch.long))
    plain, wrapped = (describe_workload(net(8, 3), batch) for net in (nn.Linear, Net))
    assert plain.flops_per_step == wrapped.flops_per_step


def test_the_number_of_samples_is_found_or_given() -> None:
    boxes = (torch.zeros(4, 3, 9, 9), torch.zeros(37, 6))
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten())
    found = describe_workload(model, boxes)
    assert found.batch_size == 4
    assert found.notes == (
        "the batch, with tensors of the shapes [4, 3, 9, 9], [37, 6], is taken as 4 samples: if it"
        " has another number, pass samples=",
    )
    given = describe_workload(model, boxes, samples=4)
    assert given.notes == ()
    assert given.operations == found.operations
    # Sequences in columns: nothing says which dimension is that of the samples.
    words = (torch.zeros(35, 20, dtype=torch.long), torch.zeros(700, dtype=torch.long))
    table = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 9), nn.Flatten(0, 1))
    given = describe_workload(table, words, samples=20)
    assert given.forward_flops_per_sample == 35 * 2 * 8 * 9
    with pytest.raises(WorkloadError, match=r"\[35, 20\], \[700\]\) is not clear: pass samples="):
        describe_workload(table, words)
    count = count_flops(table, words)
    assert count.per_sample is None
    assert count.note == "the number of samples in the batch is not known"
    assert count_flops(table, words, 20).per_sample == given.forward_flops_per_sample
