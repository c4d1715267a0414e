"""FLOPs of forward and backward: exact for small networks by hand, and leaving no trace."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
import pytorch_lightning
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from energyest.profiling.describe import count_flops
from energyest.profiling.step_watch import StepWatch
from energyest.profiling.walk import walk
from tests.support.models import (
    Attention,
    Net,
    Noisy,
    Raises,
    Sneaky,
    StepOnly,
    assert_same,
    state_of,
)

F0, F2, F4 = 2 * 8 * 16, 2 * 16 * 16, 2 * 16 * 4  # of the layers of `mlp`
FORWARD = F0 + F2 + F4
X = torch.randn(5, 8)


def mlp() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)
    )


def names(model: nn.Module, *prefixes: str) -> dict[str, bool]:
    """Only what begins like this is trainable."""
    return {name: name.startswith(prefixes) for name, _ in model.named_parameters()}


def freeze(model: nn.Module, trainable: dict[str, bool]) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trainable[name])


def ratios_of(model: nn.Module, batch: Any, choices: list[dict[str, bool]]) -> list[float]:
    """FLOPs of a step ÷ those of its forward pass, by one real step and what it shows of others."""
    watch = StepWatch(model)
    watch.begin()
    end = model(batch).sum()
    if end.requires_grad:
        end.backward()
    step = watch.end()
    assert step.problem == ""
    named = dict(model.named_parameters(remove_duplicate=False))
    now = {name: parameter.requires_grad for name, parameter in named.items()}

    def backward(trainable: dict[str, bool]) -> float:
        chosen = [name for name, on in {**now, **trainable}.items() if on]
        return float(step.gradients.backward_flops(chosen))

    assert backward({}) == pytest.approx(step.backward_flops)
    return [1 + backward(choice) / step.forward_flops for choice in choices]


# A trained layer computes the gradient of its weights, and all layers behind it that of their
# input; each costs what the layer's forward pass costs.
CASES = {
    "all": (("0", "2", "4"), F0 + F2 + F4 + (F2 + F4)),
    "first frozen": (("2", "4"), F2 + F4 + F4),
    "last only": (("4",), F4),
    "first only": (("0",), F0 + (F2 + F4)),
    "middle only": (("2",), F2 + F4),
    "first bias only": (("0.bias",), F2 + F4),
    "last bias only": (("4.bias",), 0),
    "none": (("nothing",), 0),
}


@pytest.mark.parametrize(("trainable", "backward"), CASES.values(), ids=CASES)
def test_hand_count(trainable: tuple[str, ...], backward: int) -> None:
    model = mlp()
    freeze(model, names(model, *trainable))
    count = count_flops(model, X)
    assert count.note == ""
    assert count.per_sample == FORWARD
    assert count.training_flops(10) == pytest.approx(10 * (FORWARD + backward), rel=1e-12)


def test_known_before_it_happens() -> None:
    model = mlp()
    freeze(model, names(model, "4"))
    choices = [names(model, *trainable) for trainable, _ in CASES.values()]
    ratios = ratios_of(model, X, [*choices, {}, {"2.weight": True, "no such": True}])
    expected = [FORWARD + backward for _, backward in CASES.values()]
    # Those that are not named keep what they have: the last layer is trained.
    expected += [FORWARD + F4, FORWARD + F4 + (F2 + F4)]
    assert [ratio * FORWARD for ratio in ratios] == pytest.approx(expected, rel=1e-12)
    for choice, ratio in zip(choices, ratios, strict=False):
        freeze(model, choice)
        assert count_flops(model, X).training_to_forward == pytest.approx(ratio, rel=1e-12)


C0, C1, C2 = 2 * 3 * 9 * 8 * 100, 2 * 9 * 8 * 100, 2 * 8 * 4 * 4 * 100  # see the model below


@pytest.mark.parametrize(
    ("trainable", "backward"),
    [
        (("0", "1", "2", "3"), C0 + 2 * C1 + 2 * C2),
        (("2", "3"), C1 + 2 * C2),
        (("3",), C2),
    ],
    ids=["all", "backbone frozen", "head only"],
)
def test_convolutions(trainable: tuple[str, ...], backward: int) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),  # torch's own rule takes it for a full one
        nn.ConvTranspose2d(8, 4, 2, stride=2),
    )
    freeze(model, names(model, *trainable))
    count = count_flops(model, torch.randn(2, 3, 10, 10))
    forward = C0 + C1 + C2 + 2 * 8 * 100  # batch norm: a multiply and an add for each number
    assert count.training_to_forward == pytest.approx(1 + backward / forward, rel=1e-12)
    everything = {name: True for name, _ in model.named_parameters()}
    expected = C0 + 2 * C1 + 2 * C2
    ratio = ratios_of(model, torch.randn(2, 3, 10, 10), [everything])
    assert ratio == [pytest.approx(1 + expected / forward, rel=1e-12)]


def transformer() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)


@pytest.mark.parametrize("kind", [transformer, Attention], ids=["transformer", "attention"])
@pytest.mark.parametrize("frozen", ["layers.0", "nothing"])
def test_agrees_with_a_real_backward_pass(kind: Any, frozen: str) -> None:
    model = kind()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen))
    real = copy.deepcopy(model).train()  # in training, torch does not fuse the layers
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        output = real(torch.randn(1, 7, 16))
        forward = counter.get_total_flops()
        output.sum().backward()
    count = count_flops(model, torch.randn(4, 7, 16))
    # A fused attention computes q kᵀ once more where anything before it is trained; and there are
    # two norms in each layer of a transformer, 5 for each number.
    products = 2 * 7 * 7 * 16
    layers = 2 if kind is transformer else 1
    again = products * (layers - (frozen == "layers.0" and kind is transformer))
    norms = 2 * 2 * 5 * 7 * 16 if kind is transformer else 0
    expected = 1 + (counter.get_total_flops() - forward + again) / (forward + norms)
    assert count.training_to_forward == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers(kind: type[nn.RNNBase]) -> None:
    steps, features, hidden = 50, 8, 16
    model = kind(features, hidden, batch_first=True)
    count = count_flops(model, torch.randn(3, steps, features))
    # cuDNN computes the gradients of the input whether or not they are asked for.
    assert count.training_to_forward == 3


class StopsGradients(nn.Module):
    """A backbone that is trainable by its flags, though nothing differentiates it."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.backbone(x)
        return self.head(x)


def test_what_forward_does_not_differentiate_is_not_counted() -> None:
    count = count_flops(StopsGradients(), X)
    assert count.training_to_forward == pytest.approx(1 + F4 / (F0 + F4))


class LooksAtValues(Net):
    """Keeps what it has once computed, which must not be without values the second time."""

    cache: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.cache = x + 1 if self.cache is None else self.cache
        return self.layer(x) if x.sum() == 0 else self.layer(self.cache)


def test_a_forward_that_looks_at_values_gets_some(monkeypatch: pytest.MonkeyPatch) -> None:
    assert count_flops(LooksAtValues(), X).training_to_forward == 2
    # Without being computed, of whatever size.
    monkeypatch.setattr(walk, "_MOST_PARAMETERS_WITH_VALUES", 10)
    count = count_flops(LooksAtValues(), X)
    assert count.training_to_forward == 2
    assert "looks at values of the batch" in count.note


def test_training_step_tied_weights_and_compiled_parts() -> None:
    batch = [torch.zeros(5, 8), torch.zeros(5)]
    assert count_flops(StepOnly(), batch).training_to_forward == pytest.approx(2.5)

    tied = mlp()
    tied[2].weight = nn.Parameter(torch.zeros(16, 16))
    tied.append(nn.Linear(4, 4, bias=False)).append(nn.Linear(4, 4, bias=False))
    tied[6].weight = tied[5].weight
    # Either name will do: the same weight twice, and the gradient of the last input.
    for name in ("5.weight", "6.weight"):
        ratios = ratios_of(tied, X, [{**names(tied, "none"), name: True}])
        assert ratios == [pytest.approx(1 + 3 * 32 / (FORWARD + 2 * 32))]

    part = mlp()
    part[2] = torch.compile(part[2], backend="eager")
    assert "2._orig_mod.weight" in names(part)
    for compiled, middle in ((part, "2"), (torch.compile(mlp(), backend="eager"), "_orig_mod.2")):
        freeze(compiled, names(compiled, middle))
        ratio = count_flops(compiled, X).training_to_forward
        assert ratio == pytest.approx(1 + (F2 + F4) / FORWARD)


# ---------------------------------------------------------------------- it falls back in words


class NoGradients(Net):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Classes(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).argmax(-1)


class Unused(Net):
    def __init__(self) -> None:
        super().__init__()
        self.layer.requires_grad_(False)
        self.other = nn.Linear(8, 4)


class NormAlone(Net):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.BatchNorm1d(8)


@pytest.mark.parametrize("kind", [NoGradients, Unused])
def test_where_no_gradient_is_asked_for_it_is_a_note(kind: Any) -> None:
    model = kind()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        count = count_flops(model, X)
    assert count.per_sample == Net.LAYER_FLOPS
    assert count.training_to_forward == 3
    assert count.training_flops(2) == 6 * count.per_sample
    assert "3 times the forward pass" in count.note
    assert "depends on no trainable parameter" in count.note
    model.requires_grad_(False)
    assert count_flops(model, X).training_to_forward == 1


def test_norms_alone() -> None:
    count = count_flops(NormAlone(), X)
    assert (count.per_sample, count.training_to_forward) == (2 * 8, 1)


def test_a_scripted_part_is_counted() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.script(nn.Linear(8, 4))
    for model in (script, nn.Sequential(nn.Linear(8, 8), script)):
        count = count_flops(model, X)
        assert count.per_sample in (64, 64 + 128)


def test_nothing_to_learn_from_is_not_counted() -> None:
    class Set(Net):
        def forward(self, x: Tensor) -> Any:
            return {self.layer(x)}

    for model in (Set(), Classes()):
        count = count_flops(model, X)
        assert count.per_sample is None
        assert "without floating-point tensors" in count.note


@pytest.mark.parametrize(
    "batch", [X[:, :3], "text", None, [], {}], ids=["tensor", "text", "None", "list", "dict"]
)
def test_no_input_no_count(batch: Any) -> None:
    count = count_flops(mlp(), batch)
    assert count.per_sample is None
    assert count.note


# ---------------------------------------------------------------------- it leaves no trace


class Hooked(Net):
    """Its backward hooks must not take the copy for the model."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.layer.register_full_backward_hook(lambda *_: self.count())
        self.layer.register_full_backward_pre_hook(lambda *_: self.count())
        self.layer.weight.register_hook(lambda _: self.count())
        self.layer.weight.grad = torch.ones(4, 8)

    def count(self) -> None:
        self.calls += 1


class CallsTheOriginal(Sneaky):
    """Trainable layers of its own, and layers that its copy shares with it."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.own(super().forward(x))


@pytest.mark.parametrize(
    "kind", [Net, Noisy, Raises, Sneaky, Hooked, CallsTheOriginal, NoGradients, LooksAtValues]
)
@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
def test_model_and_generators_are_left_alone(kind: type[nn.Module], grad: bool) -> None:
    model = kind()
    before = state_of(model)
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    with torch.set_grad_enabled(grad):
        count_flops(model, X)
    assert_same(before, state_of(model))
    assert_same(grads, [p.grad for p in model.parameters()])


def test_model_stays_picklable() -> None:
    model = Raises()
    count_flops(model, X)
    assert pickle.loads(pickle.dumps(model)).layer.weight.equal(model.layer.weight)


def test_anomaly_detection_stays_on_and_is_not_disturbed() -> None:
    class DividesByZero(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = self.layer(x)
            return x / x.norm()  # 0 / 0, as the copy's parameters are 0

    with torch.autograd.set_detect_anomaly(True):
        assert count_flops(DividesByZero(), X).training_to_forward == 2
        assert torch.is_anomaly_enabled()


def test_the_models_warnings_are_not_repeated(recwarn: pytest.WarningsRecorder) -> None:
    class Warns(Net):
        def forward(self, x: Tensor) -> Tensor:
            warnings.warn("use another model", stacklevel=1)
            return self.layer(x)

    assert count_flops(Warns(), X).training_to_forward == 2
    assert not recwarn.list


def test_lightning_module_with_a_frozen_backbone() -> None:
    class Module(pytorch_lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = nn.Linear(8, 16), nn.Linear(16, 4)
            self.backbone.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.backbone(x) + torch.zeros(16, device=self.device))

    module, batch = Module(), (X, torch.zeros(5))
    count = count_flops(module, batch)
    assert count.training_to_forward == pytest.approx(1 + F4 / (F0 + F4))
    after = ratios_of(module, X, [{n: True for n, _ in module.named_parameters()}])
    assert after == [pytest.approx(1 + (F0 + 2 * F4) / (F0 + F4))]
