"""FLOPs of a forward pass: against hand counts and torch's own counter, and leaving no trace."""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from energyest.profiling.describe import count_flops
from energyest.profiling.operations import FlopCount
from energyest.profiling.samples import batch_size
from tests.support.models import (
    Attention,
    Lazy,
    Locked,
    Net,
    Noisy,
    Raises,
    Sneaky,
    StepOnly,
    assert_same,
    state_of,
)


def by_torch(model: nn.Module, *inputs: Tensor) -> int:
    """What torch counts for one sample; it leaves out normalisation and elementwise operations."""
    # Through plain matrix products: it does not count the fused attention of a CPU.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        copy.deepcopy(model).eval()(*inputs)
    return counter.get_total_flops()


# ---------------------------------------------------------------------- the count is right


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        (nn.Linear(8, 4), (8,), 2 * 8 * 4),
        (nn.Linear(8, 4, bias=False), (5, 8), 5 * 2 * 8 * 4),
        (nn.Conv2d(3, 8, 3, padding=1), (3, 10, 10), 2 * (3 * 3 * 3) * 8 * 100),
        (nn.Conv2d(4, 8, 3, groups=4, bias=False), (4, 10, 10), 2 * (3 * 3) * 8 * 64),
        (nn.ConvTranspose2d(4, 8, 2, stride=2), (4, 5, 5), 2 * (2 * 2) * 4 * 8 * 25),
        # In eval mode: a multiply and an add for each element.
        (nn.BatchNorm2d(3), (3, 4, 4), 2 * 48),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_hand_count(model: nn.Module, shape: tuple[int, ...], expected: int) -> None:
    assert count_flops(model, torch.randn(6, *shape)).per_sample == expected


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        pytest.param(
            nn.Sequential(
                nn.Conv2d(3, 8, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Conv2d(8, 16, 3, dilation=2),
                nn.AdaptiveMaxPool2d(2),
                nn.Flatten(),
                nn.Linear(64, 10),
            ),
            (3, 24, 24),
            id="conv net",
        ),
        pytest.param(
            nn.Sequential(nn.Linear(20, 30), nn.GELU(), nn.Dropout(0.1), nn.Linear(30, 5)),
            (20,),
            id="MLP",
        ),
        pytest.param(Attention(), (7, 16), id="attention"),
    ],
)
def test_agrees_with_torch(model: nn.Module, shape: tuple[int, ...]) -> None:
    batch = torch.randn(4, *shape)
    assert count_flops(model, batch).per_sample == by_torch(model, batch[:1])


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
def test_transformer_agrees_with_torch_but_for_the_norms(grad: bool) -> None:
    # Without gradients torch would take a fused path whose attention nobody can count.
    length, width, layers = 7, 16, 2
    model = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(width, 2, 32, batch_first=True), layers
    )
    batch = torch.randn(4, length, width)
    expected = by_torch(model, batch[:1]) + layers * 2 * 5 * length * width  # fvcore: 5 an element
    with torch.set_grad_enabled(grad):
        assert count_flops(model, batch).per_sample == expected


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_layers(kind: type[nn.RNNBase], gates: int) -> None:
    steps, features, hidden = 11, 8, 16
    model = kind(features, hidden, num_layers=2, bidirectional=True, batch_first=True)
    # Both directions of a layer read the same input; the second layer reads both directions.
    weights = 2 * gates * hidden * ((features + hidden) + (2 * hidden + hidden))
    batch = torch.randn(3, steps, features)
    assert count_flops(model, batch).per_sample == 2 * steps * weights


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_precision_does_not_matter(dtype: torch.dtype) -> None:
    # Half precision would fail on a CPU that lacks it; the copy is in single precision.
    model = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4)).to(dtype)
    batch = torch.randn(4, 8, dtype=dtype)
    assert count_flops(model, batch).per_sample == 64 + 2 * 4
    assert {p.dtype for p in model.parameters()} == {dtype}


@pytest.mark.parametrize("samples", [1, 2, 7])
def test_count_is_for_one_sample(samples: int) -> None:
    assert count_flops(Net(), torch.randn(samples, 8)).per_sample == Net.LAYER_FLOPS


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        return {"logits": self.layer(ids) * mask, "name": "an output object"}


X, MASK, Y = torch.randn(5, 8), torch.ones(5, 1), torch.zeros(5, dtype=torch.long)


@pytest.mark.parametrize(
    ("model", "batch"),
    [
        pytest.param(Net(), X, id="tensor"),
        pytest.param(Net(), (X, Y), id="tuple with a target"),
        pytest.param(Net(), [X, Y], id="list with a target"),
        pytest.param(TwoInputs(), {"ids": X, "mask": MASK}, id="dict"),
        pytest.param(TwoInputs(), {"labels": Y, "mask": MASK, "ids": X}, id="dict with labels"),
        pytest.param(TwoInputs(), ({"ids": X, "mask": MASK}, Y), id="dict and a target"),
    ],
)
def test_shapes_of_batches(model: nn.Module, batch: Any) -> None:
    assert count_flops(model, batch).per_sample == Net.LAYER_FLOPS


class WithTarget(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.layer(x), target)


def test_a_forward_that_takes_the_whole_batch() -> None:
    assert count_flops(WithTarget(), (X, Y)).per_sample == Net.LAYER_FLOPS


def test_example_input_array_is_preferred_to_the_batch() -> None:
    model = Net()
    model.example_input_array = torch.randn(2, 3, 8)  # three positions a sample
    assert count_flops(model, "no tensor").per_sample == 3 * Net.LAYER_FLOPS


@pytest.mark.parametrize("how", ["outside", "submodule", "forward", "in place"])
def test_compiled_models(how: str) -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    compiled: nn.Module = model
    if how == "outside":
        compiled = torch.compile(model, backend="eager")
    elif how == "submodule":
        model[0] = torch.compile(model[0], backend="eager")
    elif how == "forward":  # as Lightning does with a compiled LightningModule
        model.forward = torch.compile(model.forward, backend="eager")
    else:
        model.compile(backend="eager")
    assert count_flops(compiled, X).per_sample == 64 + 2 * 4 + 16
    # The copy was traced, not the model that a compiled call is bound to.
    assert model[1].num_batches_tracked == 0


def test_shared_and_normalised_weights() -> None:
    model = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)), nn.Linear(8, 8), nn.Linear(8, 8)
    )
    model[2].weight = model[1].weight  # counted each time it is used
    assert count_flops(model, X).per_sample == 3 * 2 * 8 * 8


def test_data_dependent_control_flow_counts_the_path_taken() -> None:
    class Branch(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) if x.sum() == 0 else self.layer(self.layer(x) @ self.layer.weight)

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the tracer warns of every such `if`
        count = count_flops(Branch(), torch.zeros(4, 8))
    assert count.per_sample == Net.LAYER_FLOPS


def test_what_is_left_out_is_named() -> None:
    class Fourier(Net):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.rfft(self.layer(x)).abs()

    count = count_flops(Fourier(), X)
    assert count.per_sample == Net.LAYER_FLOPS
    assert count.uncounted == {"_fft_r2c": 1, "_fft_c2c": 1}  # forward and backward


def test_training_is_three_forward_passes() -> None:
    assert FlopCount(10.0).training_flops(32) == 3 * 10 * 32
    assert math.isnan(FlopCount(None, "why").training_flops(32))


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (X, 5),
        ((X[:3], Y), None),  # they contradict each other
        ({"name": "a", "x": X}, 5),
        ([[X[:2]], Y[:2]], 2),
        # Images of different sizes, as for detection: a list of them is the batch.
        (([torch.zeros(3, 8, 9), torch.zeros(3, 5, 6)], [{"boxes": Y}, {"boxes": Y}]), 2),
        ({"img": [b"0" * 9, b"1" * 9], "y": Y}, 5),
        ({"img": [b"0" * 9, b"1" * 9]}, 2),
        (torch.tensor(1.0), 1),
        ("text", None),
        ([], None),
        (None, None),
    ],
)
def test_batch_size(batch: Any, expected: int | None) -> None:
    assert batch_size(batch) == expected


# ---------------------------------------------------------------------- it fails in words


class NothingToCount(Net):
    def forward(self, x: Tensor) -> Tensor:
        return x


FAILURES = {
    "forward raises": (Raises, X, "no forward today"),
    "uninitialised": (Lazy, X, "uninitialized parameter"),
    "nothing to count": (NothingToCount, X, "no matrix product"),
    "wrong shape": (Net, torch.randn(5, 9), "shape"),
    "text": (Net, "text", "no input"),
    "nothing": (Net, None, "no input"),
    "empty list": (Net, [], "no input"),
    "list of text": (Net, ["text"], "must be Tensor"),
    "empty dict": (Net, {}, "forward"),
}


@pytest.mark.parametrize(("kind", "batch", "why"), FAILURES.values(), ids=FAILURES)
def test_failures_are_notes(kind: type[Net], batch: Any, why: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        count = count_flops(kind(), batch)
    assert count.per_sample is None
    assert why in count.note
    assert "\n" not in count.note


def test_a_reason_is_not_hidden_by_a_later_attempt() -> None:
    # The second attempt passes the target as well, which forward does not take.
    assert "no forward today" in count_flops(Raises(), (X, Y)).note


# ---------------------------------------------------------------------- it leaves no trace


@pytest.mark.parametrize("kind", [Net, Noisy, Raises, Locked, NothingToCount, Sneaky])
@pytest.mark.parametrize("batch", [X, (X, Y), {"x": X}, "text"], ids=["x", "xy", "dict", "text"])
def test_model_and_generators_are_left_alone(kind: type[nn.Module], batch: Any) -> None:
    model = kind()
    before = state_of(model)
    count_flops(model, batch)
    assert_same(before, state_of(model))


def test_noisy_model_is_counted_and_stays_picklable() -> None:
    # Guards the test above: its model must really be traced. fvcore leaves hooks on what it fails
    # to trace, and a hook is a local object, which cannot be pickled.
    assert count_flops(Noisy(), X).per_sample == 2 * 8 * 8 + 2 * 8 + 2 * 8 * 4
    model = Raises()
    count_flops(model, X)
    assert pickle.loads(pickle.dumps(model)).layer.weight.equal(model.layer.weight)


def test_module_without_forward_is_counted_through_its_training_step(
    recwarn: pytest.WarningsRecorder,
) -> None:
    count = count_flops(StepOnly(), [torch.zeros(5, 8), torch.zeros(5)])
    assert count.per_sample == 2 * (8 * 3 + 3 * 8), count.note
    assert not [w for w in recwarn if "self.log" in str(w.message)]


def test_samples_that_cannot_be_cut_are_divided_out() -> None:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, images: list[Tensor]) -> list[Tensor]:
            return [self.conv(image) for image in images]

    images = [torch.zeros(3, 8, 9), torch.zeros(3, 5, 6)]
    count = count_flops(Detector(), (images, [{}, {}]))
    assert count.per_sample == 2 * 3 * 4 * (8 * 9 + 5 * 6) / 2, count.note
