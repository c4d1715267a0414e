"""Watching a step: what is recorded, and that the step is not affected."""

from __future__ import annotations

import types
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack
from torch.utils.flop_counter import FlopCounterMode

from energyest import EnergyMonitor, describe_workload
from energyest.profiling import operations
from energyest.profiling.describe import count_flops
from energyest.profiling.operations import WatchedStep
from energyest.profiling.step_watch import StepWatch, why_unwatched
from energyest.tracking.flop_watch import FlopWatch
from energyest.tracking.trainable_changes import trainable_names
from simulation.setups import SETUPS, outcome
from tests.support.trainers import lightning_warns, monitor_of

pytestmark = lightning_warns
X = torch.randn(6, 8)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


FORWARD = 2 * 6 * (8 * 16 + 16 * 4)
BACKWARD = 2 * 6 * (8 * 16 + 2 * 16 * 4)


def watched(model: nn.Module, optimizer: Any = None) -> WatchedStep:
    watch = StepWatch(model)
    watch.begin()
    try:
        model(X).square().sum().backward()
        if optimizer is not None:
            optimizer.step()
    finally:
        step = watch.end()
    return step


def test_hand_count() -> None:
    step = watched(net())
    assert (step.forward_flops, step.backward_flops) == (FORWARD, BACKWARD)
    assert step.module_calls == 4
    assert step.problem == ""
    assert not _get_current_dispatch_mode_stack()


@pytest.mark.parametrize(("sparse", "expected"), [(True, 400), (False, 0)])
def test_sparse_gradients_are_seen_before_the_optimizer_steps(sparse: bool, expected: int) -> None:
    model = nn.Sequential(nn.Embedding(100, 4, sparse=sparse), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters())
    watch = StepWatch(model)
    watch.begin()
    model(torch.zeros(3, dtype=torch.long)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    assert watch.end().sparse_parameters == expected


def test_flops_alone() -> None:
    model = net()
    watch = StepWatch(model, describes=False)
    watch.begin()
    model(X).square().sum().backward()
    step = watch.end()
    assert (step.forward_flops, step.backward_flops) == (FORWARD, BACKWARD)
    assert step.gradients is None


def test_what_forward_leaves_for_backward() -> None:
    step = watched(nn.Sequential(nn.Linear(8, 16), nn.Sigmoid(), nn.Linear(16, 4)))
    sigmoid, output, square, loss = 6 * 16, 6 * 4, 6 * 4, 1
    # The first layer's output is gone; the square and its sum are there until they are replaced.
    kept = 4 * (sigmoid + output)
    assert kept <= step.saved_bytes <= kept + 4 * (square + 2 * loss)


class WithProducts(torch.optim.Optimizer):
    """Its step multiplies matrices, as those of Muon and Shampoo do."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.ndim == 2:
                    p.sub_(1e-3 * (p.grad @ p.grad.T @ p.grad))


def test_optimizers_are_left_out() -> None:
    model = net()
    plain = watched(model)
    model.zero_grad()
    with_optimizer = watched(model, WithProducts(model.parameters()))
    assert with_optimizer.flops == plain.flops
    assert with_optimizer.operations == plain.operations


def test_a_rule_that_fails_is_a_problem_of_the_count_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    def fail(*_: Any) -> Any:
        raise ZeroDivisionError("a rule")

    monkeypatch.setattr(operations, "arithmetic", fail)
    step = watched(net())
    assert step.problem == "ZeroDivisionError: a rule"
    monitor = monitor_of(None)
    made = outcome(SETUPS["perceptron"], pytorch_lightning, tmp_path, monitor)
    assert made["steps"] == 12
    assert "a rule" in monitor.trace.meta["flops_note"]
    assert monitor.trace.epochs.flops.isna().all()


class Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def test_modes_that_are_entered_later_stay() -> None:
    watch, mode = StepWatch(net()), Mode()
    watch.begin()
    mode.__enter__()
    watch.end()
    assert _get_current_dispatch_mode_stack() == [mode]
    mode.__exit__(None, None, None)
    assert not _get_current_dispatch_mode_stack()


def test_an_error_of_the_step_passes() -> None:
    watch = StepWatch(net())
    watch.begin()
    try:
        with pytest.raises(RuntimeError, match="shapes"):
            net()(X[:, :3])
    finally:
        watch.end()
    assert not _get_current_dispatch_mode_stack()
    assert not nn.modules.module._global_forward_pre_hooks


def test_what_is_not_watched() -> None:
    class Special(Tensor):
        pass

    assert why_unwatched(net()) == ""
    special = net()
    data = torch.zeros(4, 16).as_subclass(Special)
    special[2].weight = nn.Parameter(data, requires_grad=False)
    # As DTensor and quantised tensors have it.
    Special.__torch_dispatch__ = classmethod(lambda *_: None)  # type: ignore[method-assign]
    assert why_unwatched(special) == "2.weight is a Special"
    graphed = net()
    graphed.forward = types.FunctionType(  # type: ignore[assignment]
        (lambda x: x).__code__, {"__name__": "torch.cuda.graphs"}
    )
    assert "CUDA graph" in why_unwatched(graphed)
    with FlopCounterMode(display=False):
        assert why_unwatched(net()) == "another dispatch mode is active"


def test_a_compiled_function_far_from_the_module_is_found() -> None:
    twice = torch.compile(lambda x: x * 2, backend="eager")

    def outer(x: Tensor) -> Tensor:
        return twice(x)

    class Uses(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return outer(x)

    assert why_unwatched(Uses()) == "twice is compiled"


@pytest.mark.skipif(not hasattr(torch, "_grouped_mm"), reason="this torch has no grouped product")
def test_grouped_products_count_as_their_parts() -> None:
    ends = torch.tensor([16, 48, 64], dtype=torch.int32)
    x, w = torch.randn(64, 32, dtype=torch.bfloat16), torch.randn(3, 32, 16, dtype=torch.bfloat16)
    log = operations.OperationLog()
    with log:
        torch._grouped_mm(x, w, offs=ends)
    assert log.flops["forward"] == 2 * 64 * 32 * 16


def test_causal_attention_counts_in_full_and_is_computed_by_half() -> None:
    query, key, value = torch.randn(3, 2, 4, 16, 8)
    products = 2 * 2 * (2 * 4 * 16 * 8) * 16
    for is_causal, computed in ((False, products), (True, products / 2)):
        log = operations.OperationLog()
        with log, torch.no_grad():
            nn.functional.scaled_dot_product_attention(query, key, value, is_causal=is_causal)
        step = log.as_step(0, 0.0)
        assert step.forward_flops == products
        assert sum(operation.flops for operation in step.operations) == computed


OWN = np.random.default_rng(0)


def test_describing_draws_nothing_from_the_users_generators() -> None:
    own_torch = torch.Generator()

    class Draws(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 4)
            self.random = np.random.RandomState(0)

        def forward(self, x: Tensor) -> Tensor:
            scale = OWN.random() + self.random.rand() + torch.rand((), generator=own_torch)
            return self.layer(x) * scale

    model = Draws()
    before = OWN.bit_generator.state, own_torch.get_state(), model.random.get_state()[1].copy()
    describe_workload(model, X)
    assert count_flops(model, X).per_sample == 64
    assert OWN.bit_generator.state == before[0]
    assert torch.equal(own_torch.get_state(), before[1])
    assert np.array_equal(model.random.get_state()[1], before[2])


@pytest.mark.parametrize(
    ("name", "forward", "ratio"),
    [
        ("perceptron", 2 * (8 * 16 + 16 + 16 * 3), 1 + 2 * (8 * 16 + 2 * 16 * 3) / 384),
        # Its gradients do not need those of the backbone.
        ("features without gradients", 384, 1 + 2 * 16 * 3 / 384),
        # Four of five layers are computed again in the backward pass.
        ("checkpointed layers", 384, (832 + 2 * 8 * 16 + 2 * 16) / 384),
        # Three evaluations in the first step, each with its backward pass.
        ("closure several times", 3 * 384, 832 / 384),
        ("manual optimisation", 384, 832 / 384),
        # Every second step has no loss.
        ("skipped steps", 384, (832 + 384) / 2 / 384),
    ],
)
def test_trainings(name: str, forward: float, ratio: float, tmp_path: Any) -> None:
    monitor = monitor_of(None)
    outcome(SETUPS[name], pytorch_lightning, tmp_path, monitor)
    meta = monitor.trace.meta
    assert meta["forward_flops_per_sample"] == pytest.approx(forward)
    assert meta["training_to_forward_flops"] == pytest.approx(ratio)


def test_an_error_in_a_training_leaves_no_mode(tmp_path: Any) -> None:
    def build(pl: Any, world: Any) -> Any:
        made = SETUPS["perceptron"](pl, world)
        made.module.validation_step = lambda *_: 1 / 0
        made.options["num_sanity_val_steps"] = 0
        return made

    with pytest.raises(ZeroDivisionError):
        outcome(build, pytorch_lightning, tmp_path, monitor_of(None))
    assert not _get_current_dispatch_mode_stack()
    assert not nn.modules.module._global_forward_pre_hooks


def test_ratios_after_a_choice_that_was_known_came_back() -> None:
    def watch(watch: FlopWatch) -> None:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in now)
        watch.begin_step(model)
        model(X).square().sum().backward()
        watch.end_step(6)

    model = net()
    every, head = trainable_names(model), frozenset({"2.weight", "2.bias"})
    bias = frozenset({"2.bias"})
    # The first layer computes no gradient of its input; with the head alone, there is one product.
    expected = (FORWARD + 2 * 6 * 16 * 4) / (FORWARD + BACKWARD)
    session: Any = SimpleNamespace(set_flops=lambda count: None)
    flops = FlopWatch(session, is_on=True)
    now = every
    watch(flops)
    assert flops.ratio(head, every) == pytest.approx(expected)
    flops.change(every, head)
    now = head
    watch(flops)
    assert flops.ratio(head, every) == pytest.approx(expected)
    flops.change(head, every)
    assert flops.ratio(head, every) == pytest.approx(expected)
    assert flops.ratio(bias, every) == pytest.approx(FORWARD / (FORWARD + BACKWARD))


def test_validation_is_counted_as_it_happens(tmp_path: Any) -> None:
    monitor = monitor_of(None)
    outcome(SETUPS["validates rarely"], pytorch_lightning, tmp_path, monitor)
    flops = monitor.trace.column("flops")
    assert flops[0] == 24 * 832
    assert flops[1] == 24 * (832 + 384)


def test_nothing_seen_is_not_zero(tmp_path: Any) -> None:
    monitor = monitor_of(None)
    outcome(SETUPS["nested tensors"], pytorch_lightning, tmp_path, monitor)
    assert monitor.trace.epochs.flops.isna().all()


def test_without_counting_nothing_is_watched(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StepWatch, "begin", lambda self: pytest.fail("watched"))
    monitor = EnergyMonitor(count_flops=False, sensors=[])
    outcome(SETUPS["perceptron"], pytorch_lightning, tmp_path, monitor)
    assert monitor.trace.epochs.flops.isna().all()
