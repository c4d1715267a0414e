"""Models as people train them, walked through on shapes: values, loops, batches, wrappers."""

from __future__ import annotations

import importlib
import resource
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.distributed
import torch.utils.checkpoint
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from energyest.errors import WorkloadError
from energyest.profiling.describe import count_flops, describe_workload
from energyest.profiling.walk import fake_tensors
from energyest.records.workload import Workload
from tests.support.cost import costs_at_most

X, Y = torch.randn(4, 8), torch.zeros(4, dtype=torch.long)
TOKENS, LENGTHS = torch.ones(4, 6, dtype=torch.long), torch.tensor([6, 5, 4, 3])
LAYER = 2 * 8 * 8  # FLOPs for one sample
DEVICES = pytest.mark.parametrize("device", ["cpu", "meta"])


def described(build: Callable[[], nn.Module], batch: Any, device: str = "cpu") -> Workload:
    with torch.device(device):
        model = build()
    on_device = torch.utils._pytree.tree_map_only(Tensor, lambda t: t.to(device), batch)
    return describe_workload(model, on_device)


def forward_flops(workload: Workload) -> float:
    return sum(o.flops * o.count for o in workload.operations if o.phase == "forward")


def has_cross_entropy(workload: Workload) -> bool:
    return any(o.name == "nll_loss_forward" for o in workload.operations)


class Layers(nn.Module):
    """Layers of 8 × 8."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.layer(x))


# ---------------------------------------------------------------------- values


class Decoder(nn.Module):
    """Looks at masks and positions as decoders without a cache do."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.layer = nn.Embedding(9, 8), nn.Linear(8, 8)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        positions = torch.arange(ids.shape[1]).expand(ids.shape)
        if (positions.diff(dim=-1) != 1).any():
            raise RuntimeError("packed sequences")
        x = self.words(ids)
        is_causal = mask is None or bool(mask.all())
        visible = None if is_causal else mask[:, None, None, :].bool()  # type: ignore[index]
        query = self.layer(x)[:, None]
        return functional.scaled_dot_product_attention(
            query, query, query, attn_mask=visible, is_causal=is_causal
        )


def attention_of(workload: Workload) -> float:
    return sum(o.flops for o in workload.operations if o.name == "attention")


@DEVICES
def test_masks_and_positions_are_looked_at(device: str) -> None:
    whole = 2 * 2 * 4 * 6 * 6 * 8
    assert attention_of(described(Decoder, {"ids": TOKENS}, device)) == whole / 2
    full = {"ids": TOKENS, "mask": torch.ones_like(TOKENS)}
    workload = described(Decoder, full, device)
    assert attention_of(workload) == whole / 2
    assert "looks at values of the batch" in workload.notes[0]
    assert "test_walk.py:" in workload.notes[0]
    padded = full["mask"].clone()
    padded[1, 4:] = 0
    workload = described(Decoder, {"ids": TOKENS, "mask": padded}, device)
    # Without values, it is a batch without padding, and the note says so.
    assert attention_of(workload) == (whole if device == "cpu" else whole / 2)
    assert ("to have no padding" in workload.notes[0]) == (device == "meta")


class Loop(Layers):
    def forward(self, x: Tensor) -> Any:
        for _ in range(28):
            x = self.layer(x)
            if x.sum() > 0:
                break
        return x


@DEVICES
def test_a_loop_that_is_left_by_a_value_is_noted(device: str) -> None:
    workload = described(Loop, X, device)
    assert forward_flops(workload) == 28 * 4 * LAYER
    (note,) = workload.notes
    assert "test_walk.py:" in note
    assert f"{4 * 2 * LAYER:.3g} to {workload.flops_per_step:.3g} FLOPs" in note
    assert note in count_flops(Loop(), X).note


@DEVICES
@pytest.mark.parametrize("until", ["small", "large"])
@pytest.mark.parametrize("rounds", [50, pytest.param(None, marks=pytest.mark.long)])
def test_a_loop_without_an_end_of_its_own_is_refused(
    device: str, until: str, rounds: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if rounds is not None:  # as many as it goes on in earnest take seconds
        monkeypatch.setattr(fake_tensors, "_MOST_QUESTIONS", rounds)

    class Endless(Layers):
        def forward(self, x: Tensor) -> Any:
            x = self.layer(x)
            while x.norm() > 1e-3 if until == "small" else not x.norm() > 1e3:
                x = x * 2
            return x

    with pytest.raises(WorkloadError, match=r"loop at test_walk.py:\d+ .* fixed number"):
        described(Endless, X, device)


@DEVICES
def test_no_number_is_a_nan(device: str) -> None:
    class Checks(Layers):
        def forward(self, x: Tensor) -> Any:
            x = super().forward(x)
            for is_bad in (x.isnan(), x.isinf(), x != x):
                if is_bad.any():
                    raise RuntimeError("training has diverged")
            return x

    assert forward_flops(described(Checks, X, device)) == 2 * 4 * LAYER


@DEVICES
def test_experts_get_equally_many_tokens(device: str) -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.router = nn.Linear(8, 4, bias=False)
            self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            weights, chosen = self.router(x).softmax(-1).topk(2)
            out = torch.zeros_like(x)
            hit = functional.one_hot(chosen, 4).permute(2, 1, 0)
            for expert in (hit.sum((-1, -2)) > 0).nonzero().flatten().tolist():
                place, token = torch.where(hit[expert])
                got = self.experts[expert](x[token]) * weights[token, place, None]
                out = out.index_add(0, token, got)
            return out

    workload = described(Experts, torch.randn(16, 8), device)
    products = [o for o in workload.operations if (o.name, o.phase) == ("addmm", "forward")]
    assert [(o.rows, o.count) for o in products] == [(8, 4)]  # 16 tokens, 2 of 4 experts each
    assert "values that shapes do not determine" in workload.notes[0]


@DEVICES
def test_values_that_are_read_as_a_list_are_noted(device: str) -> None:
    class Lists(Layers):
        def forward(self, x: Tensor) -> Any:
            x = self.layer(x)
            for index in x.argmax(-1).tolist():
                x = x + index
            return x

    (note,) = described(Lists, X, device).notes
    assert "values that shapes do not determine (test_walk.py:" in note


@DEVICES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_grouped_products_of_any_type(device: str, dtype: torch.dtype) -> None:
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.Parameter(torch.zeros(4, 16, 32, dtype=dtype))

        def forward(self, x: Tensor) -> Any:
            ends = torch.arange(1, 5, dtype=torch.int32) * 8
            return torch._grouped_mm(x.to(self.experts.dtype), self.experts, offs=ends)

    workload = described(Grouped, torch.randn(32, 16, dtype=dtype), device)
    assert forward_flops(workload) == 2 * 32 * 16 * 32
    assert workload.flops_per_step == 2 * forward_flops(workload)


@DEVICES
def test_masks_of_what_is_computed_choose_all(device: str) -> None:
    class Chooses(Layers):
        def forward(self, x: Tensor) -> Any:
            x = self.layer(x)
            return self.head(x[x.mean(-1) > 0]).sum() + x.masked_select(x > 0).sum()

    workload = described(Chooses, X, device)
    assert forward_flops(workload) == 2 * 4 * LAYER
    assert "values that shapes do not determine" in workload.notes[0]


@torch.library.custom_op("energyest_tests::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    return x * 2


twice.register_autograd(lambda _, gradient: gradient * 2)
_LIBRARY = torch.library.Library("energyest_tests_b", "DEF")
_LIBRARY.define("of_a_gpu(Tensor x) -> Tensor")


@DEVICES
def test_operators_without_a_rule_for_shapes(device: str) -> None:
    class Custom(Layers):
        def forward(self, x: Tensor) -> Any:
            return self.head(twice(self.layer(x)))

    workload = described(Custom, X, device)
    assert forward_flops(workload) == 2 * 4 * LAYER
    assert workload.notes == ("the arithmetic of twice is not counted",)

    class OfGpu(Layers):
        def forward(self, x: Tensor) -> Any:
            return self.head(torch.ops.energyest_tests_b.of_a_gpu(self.layer(x)))

    with pytest.raises(WorkloadError, match=r"of_a_gpu.*torch.library.register_fake"):
        described(OfGpu, X, device)


def test_flex_attention_that_is_imported_in_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    class Imports(Layers):
        def forward(self, x: Tensor) -> Any:
            flex = importlib.import_module("torch.nn.attention.flex_attention")
            query = self.layer(x)[None, None]
            return flex.flex_attention(query, query, query)

    monkeypatch.delitem(sys.modules, "torch.nn.attention.flex_attention")
    assert attention_of(described(Imports, X, "meta")) == 2 * 2 * 4 * 4 * 8


@DEVICES
@pytest.mark.parametrize("causal", [False, True])
def test_flex_attention(device: str, causal: bool) -> None:
    class Flex(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(32, 96)

        def forward(self, x: Tensor) -> Any:
            query, key, value = self.qkv(x).unflatten(-1, (3, 2, 16)).permute(2, 0, 3, 1, 4)
            positions = x.shape[1]
            # Without its device, the mask would be on a GPU if torch is built for one.
            mask = create_block_mask(
                lambda b, h, i, j: i >= j, None, None, positions, positions, device=x.device
            )
            return flex_attention(query, key, value, block_mask=mask if causal else None)

    workload = described(Flex, torch.randn(2, 256, 32), device)
    pairs = 2 * 2 * 256 * 256 * (0.75 if causal else 1)  # three of four blocks
    assert attention_of(workload) == 2 * pairs * (16 + 16)
    backward = [o.flops for o in workload.operations if o.name == "attention_backward"]
    assert backward == [2.5 * attention_of(workload)]


class Branches(Layers):
    """Decides, and repeats, by torch's operators."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Any:
        x = self.layer(x)
        if self.how == "cond":
            return torch.cond(x.sum() > 0, lambda y: self.head(self.head(y)), torch.sin, (x,))
        if self.how == "while":
            return while_loop(
                lambda n, _: n < 2, lambda n, y: (n + 1, self.head(y)), (torch.tensor(0), x)
            )[1]
        return scan(lambda state, row: (self.head(state), row.clone()), x, x[:2])[0]


@DEVICES
@pytest.mark.parametrize("how", ["cond", "while", "scan"])
def test_control_flow_by_operators(how: str, device: str) -> None:
    workload = described(lambda: Branches(how), X, device)
    assert forward_flops(workload) == 3 * 4 * LAYER
    if how == "cond":
        (note,) = workload.notes
        assert f"it has {2 * 4 * LAYER:.3g} to {8 * 4 * LAYER:.3g} FLOPs" in note


class Physics(nn.Module):
    """The derivative of a network by its input."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.net, self.how = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)), how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "autograd":
            x = x.requires_grad_()
            return torch.autograd.grad(self.net(x).sum(), x, create_graph=True)[0]
        if self.how == "vjp":
            return torch.func.vjp(self.net, x)[1](torch.ones(len(x), 1))[0]
        derive = {"grad": torch.func.grad, "jacrev": torch.func.jacrev}[self.how]
        return torch.func.vmap(derive(lambda one: self.net(one)[0]))(x)


@DEVICES
@pytest.mark.parametrize("how", ["grad", "jacrev", "vjp"])
def test_derivatives_by_torch_func(how: str, device: str) -> None:
    plain = described(lambda: Physics("autograd"), X, device)
    workload = described(lambda: Physics(how), X, device)
    # The plain way computes the gradient of the input once more.
    assert workload.flops_per_step == plain.flops_per_step - 4 * 2 * 8 * 16
    assert not plain.notes
    (note,) = workload.notes
    assert "the memory of activations is not counted" in note


@DEVICES
@pytest.mark.parametrize(
    "convert",
    [
        lambda layer, x: layer.to(x.device),
        lambda layer, _: layer.to(torch.float64).float(),
        lambda layer, _: layer.float(),
    ],
    ids=["device", "type", "float"],
)
def test_layers_that_are_converted_in_a_step(convert: Any, device: str) -> None:
    class Converted(Layers):
        def forward(self, x: Tensor) -> Any:
            return self.head(convert(self.layer, x)(x))

    workload = described(Converted, X, device)
    assert workload.flops_per_step == described(Layers, X).flops_per_step
    assert not workload.notes


@pytest.mark.parametrize("hides", ["values", "nothing"])
def test_only_small_models_and_steps_are_run_with_values(hides: str) -> None:
    class Hidden(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.layer = nn.Linear(width, width)

        def forward(self, x: Tensor) -> Any:
            x = self.layer(x)
            return x + float(x.detach().numpy().sum()) if hides == "values" else x

    small = describe_workload(Hidden(8), X)
    assert any("run with values" in note for note in small.notes) == (hides == "values")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with costs_at_most(10):
        if hides == "values":
            with torch.device("meta"):
                large = Hidden(8192)
            with pytest.raises(WorkloadError, match="numpy"):
                describe_workload(large, torch.empty(4, 8192))
            with pytest.raises(WorkloadError, match=r"million parameters .* smaller model"):
                describe_workload(Hidden(8192), torch.empty(4, 8192))
            with pytest.raises(WorkloadError, match="smaller batch"):
                describe_workload(Hidden(4096), torch.empty(40_000, 4096))
        else:
            describe_workload(Hidden(8192), torch.empty(40_000, 8192))
    # The layer of 8192 × 8192 is of 0.27 GB, the batches are never written to.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 3e6


# ---------------------------------------------------------------------- checkpoints


@DEVICES
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_around_what_looks_at_values(device: str, reentrant: bool) -> None:
    class Checkpointed(Layers):
        def forward(self, x: Tensor) -> Any:
            x = self.layer(x)
            for _ in range(3):
                x = torch.utils.checkpoint.checkpoint(self.part, x, use_reentrant=reentrant)
            return x

        def part(self, x: Tensor) -> Tensor:
            rows = torch.arange(len(x))
            if (rows.diff() != 1).any():
                raise RuntimeError
            return self.head(x).relu()

    workload = described(Checkpointed, X, device)
    assert forward_flops(workload) == 4 * 4 * LAYER
    # Two products for each of three parts, which are run once more, and one for the first layer.
    assert workload.flops_per_step == 4 * LAYER * (4 + 3 * 3 + 1)


# ---------------------------------------------------------------------- batches


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 3)

    def forward(self, a: Tensor, b: Tensor) -> Any:
        return self.layer(a + b)


class One(Two):
    def forward(self, x: Tensor) -> Any:  # type: ignore[override]
        return self.layer(x)


class AnyName(Two):
    """As Hugging Face's, it takes more names than it knows."""

    def forward(self, x: Tensor, labels: Tensor | None = None, **kwargs: Any) -> Any:  # type: ignore[override]
        if set(kwargs) - {"scale"}:
            raise TypeError(f"unexpected {list(kwargs)}")
        return self.layer(x)


class Padded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.layer = nn.Embedding(9, 8), nn.LSTM(8, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Any:
        packed = nn.utils.rnn.pack_padded_sequence(
            self.words(tokens), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        return self.head(self.layer(packed)[1][0][-1])


class Mapped(Two):
    def forward(self, batch: Mapping[str, Tensor]) -> Any:  # type: ignore[override]
        return self.layer(batch["image"])


LABELS = ("labels", "label", "target", "targets", "y", "label_ids", "whatever")
BATCHES: dict[str, tuple[type[nn.Module], Any]] = {
    "x1, x2, y": (Two, [X, X, Y]),
    "x, y, index": (One, (X, Y, torch.arange(4))),
    "tokens, lengths, y": (Padded, (TOKENS, LENGTHS, Y)),
    "(tokens, lengths), y": (Padded, ((TOKENS, LENGTHS), Y)),
    "a whole mapping": (Mapped, {"image": X, "label": Y}),
    "names that forward does not know": (One, {"image": X, "label": Y}),
    "inputs by name in a pair": (Two, ({"a": X, "b": X}, Y)),
    **{f"label as {key}": (One, {"x": X, key: Y}) for key in LABELS},
    **{
        f"any name, label as {key}": (AnyName, {"x": X, key: Y})
        for key in LABELS
        if key != "labels"
    },
}


@DEVICES
@pytest.mark.parametrize("name", BATCHES)
def test_batches(name: str, device: str) -> None:
    kind, batch = BATCHES[name]
    workload = described(kind, batch, device)
    assert workload.batch_size == 4
    assert has_cross_entropy(workload)


@DEVICES
def test_lengths_are_looked_at(device: str) -> None:
    workload = described(Padded, (TOKENS, LENGTHS), device)
    (layer,) = (o for o in workload.operations if o.name == "lstm")
    tokens = int(LENGTHS.sum()) if device == "cpu" else TOKENS.numel()
    assert layer.flops == 2 * tokens * 4 * 8 * 16


class Reads(nn.Module):
    """Cuts sequences to their lengths."""

    def __init__(self, cut: Any) -> None:
        super().__init__()
        self.words, self.layer, self.cut = nn.Embedding(9, 8), nn.Linear(8, 8), cut

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        return torch.stack([self.layer(x).sum() for x in self.cut(self.words(ids), lengths)])


CUTS = {
    "list": lambda x, lengths: [row[:n] for row, n in zip(x, lengths.tolist(), strict=True)],
    "longest": lambda x, lengths: x[:, : lengths.max()],
    "numbers": lambda x, lengths: [row[: int(n)] for row, n in zip(x, lengths, strict=True)],
    "several": lambda x, lengths: x.repeat_interleave(2, 0)[:, : int(lengths[0])].split(4)[:1],
}


@pytest.mark.parametrize("name", CUTS)
@pytest.mark.parametrize("batch", [((TOKENS, LENGTHS), Y), {"ids": TOKENS, "lengths": LENGTHS}])
def test_lengths_without_values_are_full(name: str, batch: Any) -> None:
    workload = described(lambda: Reads(CUTS[name]), batch, "meta")
    assert forward_flops(workload) == 4 * 6 * LAYER
    (note,) = workload.notes
    assert "taken to have no padding" in note


def test_labels_without_values_are_no_lengths() -> None:
    def loss(output: Tensor, classes: Tensor) -> Tensor:
        assert classes.tolist() == [1] * 4
        return output.sum()

    with torch.device("meta"):
        model = Layers()
    batch = (X.to("meta"), Y.to("meta"))
    assert describe_workload(model, batch, loss=loss).flops_per_step


def test_a_refusal_without_values_says_what_to_do() -> None:
    class Matches(Layers):
        def forward(self, x: Tensor) -> Any:
            return self.head(x) * float(x.detach().numpy()[0, 0])

    with pytest.raises(WorkloadError, match=r"give a batch on the CPU.*build the model there"):
        described(Matches, X, "meta")


def test_a_graph() -> None:
    class Data:
        """As PyTorch Geometric's, in short."""

        def __init__(self) -> None:
            self.x, self.y = X, Y
            self.edge_index, self.num_graphs = torch.tensor([[0, 1], [1, 2]]), 4

        def to_dict(self) -> dict[str, Any]:
            return dict(vars(self))

        def apply(self, change: Callable[[Any], Any]) -> Data:
            for name, value in vars(self).items():
                if isinstance(value, Tensor):
                    setattr(self, name, change(value))
            return self

        def size(self) -> None: ...

    class Graphs(Two):
        def forward(self, data: Data) -> Any:  # type: ignore[override]
            source, end = data.edge_index
            x = torch.zeros_like(data.x).index_add(0, end, data.x[source])
            return self.layer(x)

    data = Data()
    workload = describe_workload(Graphs(), data)
    assert workload.batch_size == 4
    assert forward_flops(workload) == 4 * 2 * 8 * 3
    assert has_cross_entropy(workload)
    assert data.x is X


# ---------------------------------------------------------------------- wrappers


@pytest.fixture
def process_group() -> Any:
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=store)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_wrappers_for_several_gpus() -> None:
    plain = describe_workload(One(), (X, Y))
    for wrap in (nn.DataParallel, nn.parallel.DistributedDataParallel):
        workload = describe_workload(wrap(One()), (X, Y))
        assert workload.operations == plain.operations
        assert workload.model == "One"
        assert f"{wrap.__name__} is described as on one GPU" in workload.notes[0]
    sharded = fully_shard(One(), mesh=init_device_mesh("cpu", (1,)))
    inside = nn.Sequential(nn.parallel.DistributedDataParallel(One()))
    for model, name in ((sharded, "FSDPModule"), (inside, "DistributedDataParallel in part")):
        with pytest.raises(WorkloadError, match=f"{name}: describe the model before it is wrap"):
            describe_workload(model, (X, Y))


@pytest.mark.long
def test_a_billion_parameters_take_seconds_and_no_memory() -> None:
    with torch.device("meta"):
        layers = [
            nn.TransformerEncoderLayer(1536, 12, 6144, batch_first=True, norm_first=True)
            for _ in range(33)
        ]
        model = nn.Sequential(nn.Embedding(32000, 1536), *layers, nn.Linear(1536, 32000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with costs_at_most(10):
        workload = describe_workload(model, torch.zeros(8, 1024, dtype=torch.long))
    assert workload.parameters > 1e9
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 0.5e6
