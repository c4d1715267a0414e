"""`Workload`: what it derives, and that a stored one comes back whole or not at all."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from energyest.errors import EnergyestError, WorkloadError
from energyest.records.workload import (
    OPTIMIZERS,
    PRECISIONS,
    Operation,
    Workload,
    check_optimizer_name,
    check_precision_name,
)

MATMUL = Operation("forward", "addmm", 3, 640.0, 96.0, 4, 5, 16)
RELU = Operation("backward", "threshold_backward", 2, 0.0, 48.0)
WORKLOAD = Workload(
    model="Net",
    batch_size=4,
    precision="bf16",
    optimizer="adamw",
    parameters=100,
    trainable_parameters=80,
    parameter_tensors=4,
    forward_flops_per_sample=480.0,
    operations=(MATMUL, RELU),
    forward_calls=5,
    backward_calls=2,
    module_calls=3,
    saved_bytes=1000.0,
    input_bytes=128.0,
    loop="lightning",
    notes=("the arithmetic of _fft_r2c is not counted",),
)
STORED = WORKLOAD.to_dict()


# ---------------------------------------------------------------------- derived quantities


def test_sums_over_operations() -> None:
    assert WORKLOAD.flops_per_step == 3 * 640
    assert WORKLOAD.bytes_per_step == 3 * 96 + 2 * 48
    assert WORKLOAD.kernels == 5
    nothing = replace(WORKLOAD, operations=())
    assert nothing.flops_per_step == nothing.bytes_per_step == nothing.kernels == 0


@pytest.mark.parametrize(
    ("optimizer", "states"),
    [("sgd", 0), ("sgd_momentum", 1), ("rmsprop", 1), ("lion", 1), ("adam", 2), ("adamw", 2)],
)
def test_what_an_optimizer_keeps(optimizer: str, states: int) -> None:
    workload = replace(WORKLOAD, optimizer=optimizer)
    assert workload.optimizer_states == states
    # All weights; of those that are trained the gradient and the states; what forward keeps.
    assert workload.memory_bytes == 4 * (100 + 80 * (1 + states)) + 1000 + 128


class Traffic(TorchDispatchMode):
    """Counts the numbers that operations on lists of tensors read and write."""

    moved = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.__name__.startswith("_foreach_"):
            lists = [arg for arg in args if isinstance(arg, list)]
            read = {id(t): t.numel() for each in lists for t in each if _is_large(t)}
            written = [t for t in (args[0] if out is None else out) if _is_large(t)]
            self.moved += sum(read.values()) + sum(t.numel() for t in written)
        return out


def _is_large(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() > 1


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("sgd", torch.optim.SGD, {}),
        ("sgd_momentum", torch.optim.SGD, {"momentum": 0.9}),
        ("nesterov", torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        ("rmsprop", torch.optim.RMSprop, {}),
        ("adagrad", torch.optim.Adagrad, {}),
        ("adam", torch.optim.Adam, {}),
        ("adamw", torch.optim.AdamW, {}),
        ("nadam", torch.optim.NAdam, {}),
        ("radam", torch.optim.RAdam, {}),
        ("adamax", torch.optim.Adamax, {}),
        ("adadelta", torch.optim.Adadelta, {}),
    ],
)
def test_an_optimizer_moves_what_torchs_implementation_for_gpus_does(
    name: str, kind: Any, options: dict[str, Any]
) -> None:
    parameters = [nn.Parameter(torch.ones(8, 5)), nn.Parameter(torch.ones(40))]
    optimizer = kind(parameters, lr=0.1, foreach=True, **options)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    for _ in range(6):  # states are made in the first step; RAdam rectifies from the sixth on
        with Traffic() as traffic:
            optimizer.step()
    asked = replace(WORKLOAD, optimizer=name, trainable_parameters=80, parameters=80)
    assert asked.optimizer_bytes == 4 * traffic.moved


def test_every_optimizer_is_known() -> None:
    for optimizer in OPTIMIZERS:
        assert replace(WORKLOAD, optimizer=optimizer).optimizer_bytes > 0
        assert check_optimizer_name(optimizer.upper()) == optimizer


def test_it_is_a_value() -> None:
    assert replace(WORKLOAD) == WORKLOAD
    assert hash(replace(WORKLOAD)) == hash(WORKLOAD)
    with pytest.raises(FrozenInstanceError):
        WORKLOAD.batch_size = 8  # type: ignore[misc]


# ---------------------------------------------------------------------- to disk and back


def test_round_trip_through_json() -> None:
    assert Workload.from_dict(STORED) == WORKLOAD
    assert Workload.from_dict(json.loads(json.dumps(STORED, allow_nan=False))) == WORKLOAD


def test_no_operations_and_what_a_newer_version_adds() -> None:
    bare = replace(WORKLOAD, operations=(), notes=())
    assert Workload.from_dict(bare.to_dict()) == bare
    assert Workload.from_dict({**STORED, "weather": "fine"}) == WORKLOAD


numbers = st.floats(0, 1e20, allow_nan=False)
counts = st.integers(1, 10**12)
operations = st.builds(
    Operation,
    phase=st.sampled_from(["forward", "backward"]),
    name=st.text(max_size=5),
    count=counts,
    flops=numbers,
    bytes=numbers,
    rows=st.integers(0, 9),
    columns=st.integers(0, 9),
    depth=st.integers(0, 9),
    groups=counts,
    steps=counts,
)


@given(st.lists(operations, max_size=4), st.sampled_from(PRECISIONS), st.lists(st.text()))
@settings(max_examples=50, deadline=None)
def test_any_workload_survives_a_round_trip(
    some: list[Operation], precision: str, notes: list[str]
) -> None:
    workload = replace(WORKLOAD, operations=tuple(some), precision=precision, notes=tuple(notes))
    back = Workload.from_dict(json.loads(json.dumps(workload.to_dict())))
    assert back == workload
    assert back.memory_bytes == workload.memory_bytes
    assert math.isfinite(back.flops_per_step + back.bytes_per_step)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
PATHS = [(name,) for name in STORED] + [("operations", name) for name in STORED["operations"]]


@given(json_values)
@settings(max_examples=100, deadline=None)
def test_any_json_is_read_or_refused_in_words(content: Any) -> None:
    with pytest.raises(WorkloadError, match="not a stored workload"):
        Workload.from_dict(content)


@given(st.sampled_from(PATHS), json_values | st.just(10**400) | st.lists(json_values, min_size=2))
@settings(max_examples=100, deadline=None)
def test_damage_anywhere_is_read_or_refused_in_words(path: tuple[str, ...], value: Any) -> None:
    content = copy.deepcopy(STORED)
    place = content
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    try:
        workload = Workload.from_dict(content)
    except WorkloadError:
        return
    # What is let in can be computed with, and stored again.
    assert Workload.from_dict(workload.to_dict()) == workload
    derived = (workload.memory_bytes, workload.optimizer_bytes, workload.flops_per_step)
    assert all(math.isfinite(number) and number >= 0 for number in derived)


# Fields that were added later have a value where they are missing.
LATER = {
    *((name,) for name in ("layout", "compiled", "accumulate", "devices", "parameter_bytes")),
    ("frozen_parameter_bytes",),
    *(("operations", name) for name in ("layout", "bias", "precision")),
}


@pytest.mark.parametrize("path", [p for p in PATHS if p not in LATER], ids=".".join)
def test_nothing_may_be_missing(path: tuple[str, ...]) -> None:
    content = copy.deepcopy(STORED)
    place = content
    for name in path[:-1]:
        place = place[name]
    del place[path[-1]]
    with pytest.raises(WorkloadError, match=path[-1]):
        Workload.from_dict(content)


DAMAGE = {
    "batch_size": (0, -1, 2.5, True, "4", None, math.nan, math.inf, 10**400),
    "parameters": (-1, 1.5, 10),  # the last is fewer than are trained
    "trainable_parameters": (-1, 101),
    "forward_flops_per_sample": (-1.0, math.nan, math.inf, "1", 1e300),
    "saved_bytes": (-0.5, math.nan, None),
    "frozen_parameter_bytes": (-1.0, math.nan, "2", True),
    "precision": ("fp8", None, ["fp32"], 32),
    "optimizer": ("magic", "AdamW", None, 3),
    "loop": ("keras", None, 1),
    "model": (None, 3, ["Net"]),
    "notes": ("text", None, [1], {"a": 1}, 7),
    "operations": (None, [], 3, "text", {}),
}


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in DAMAGE.items() for value in values],
    ids=lambda value: str(value)[:20],
)
def test_damaged_field_is_refused(name: str, value: Any) -> None:
    with pytest.raises(WorkloadError):
        Workload.from_dict({**STORED, name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("phase", "sideways"),
        ("phase", None),
        ("name", 3),
        ("count", 0),
        ("count", 1.5),
        ("flops", -1.0),
        ("flops", math.nan),
        ("bytes", "9"),
        ("rows", -1),
        ("groups", 0),
        ("steps", 0),
        ("steps", 10**400),
    ],
)
def test_damaged_operation_is_refused(name: str, value: Any) -> None:
    content = copy.deepcopy(STORED)
    content["operations"][name][1] = value
    with pytest.raises(WorkloadError):
        Workload.from_dict(content)


def test_columns_of_different_lengths_and_long_ones() -> None:
    content = copy.deepcopy(STORED)
    content["operations"]["count"].append(1)
    with pytest.raises(WorkloadError, match="not a stored workload"):
        Workload.from_dict(content)
    content["operations"]["count"] = [1] * 1_000_000
    with pytest.raises(WorkloadError, match="not a stored workload"):
        Workload.from_dict(content)


def test_messages_name_the_thing_and_the_rule() -> None:
    with pytest.raises(WorkloadError, match=r"batch_size=0 must be a whole number of 1 or more"):
        replace(WORKLOAD, batch_size=0)
    with pytest.raises(WorkloadError, match=r"addmm\.flops=nan must be a number of 0 or more"):
        replace(WORKLOAD, operations=(replace(MATMUL, flops=math.nan),))
    with pytest.raises(WorkloadError, match="precision='fp8' must be one of fp32, tf32"):
        check_precision_name("fp8")
    with pytest.raises(WorkloadError, match=r"optimizer='magic' must be one of sgd, .*adamw"):
        check_optimizer_name("magic")
    with pytest.raises(WorkloadError, match="loop='keras' must be one of plain, lightning"):
        replace(WORKLOAD, loop="keras")
    with pytest.raises(WorkloadError) as error:
        replace(WORKLOAD, batch_size=10**4000)
    assert len(str(error.value)) < 300
    assert isinstance(error.value, EnergyestError)
    assert isinstance(error.value, ValueError)


def test_every_number_is_checked() -> None:
    for field in fields(Workload):
        if field.type in ("int", "float"):
            with pytest.raises(WorkloadError, match=field.name):
                replace(WORKLOAD, **{field.name: -1})


def test_printed_it_is_a_few_lines() -> None:
    workload = replace(WORKLOAD, model="Net\x1b[31m", notes=("one operation was not counted",))
    first, *facts, note = str(workload).splitlines()
    assert first == "One training step of Net?[31m"  # it does not steer the terminal
    assert note == "  note: one operation was not counted"
    assert f"  batch size: {WORKLOAD.batch_size}" in facts
    assert len(facts) < 12
    assert "GPUs" not in str(workload)
    assert "  GPUs: 4" in str(replace(workload, devices=4))


def test_in_a_notebook_it_has_units_and_its_notes() -> None:
    html = replace(WORKLOAD, model="<Net>", notes=("a<b was not counted",))._repr_html_()
    assert "One training step of &lt;Net&gt;" in html
    assert "100 (80 trainable)" in html
    assert "1.92 kFLOP" in html
    assert "a&lt;b was not counted" in html


def test_frozen_parameters_may_have_a_format_of_their_own() -> None:
    content = {**STORED, "parameters": 100, "trainable_parameters": 10, "optimizer": "adamw"}
    alike = Workload.from_dict(content)
    other = Workload.from_dict({**content, "frozen_parameter_bytes": 2.0})
    assert alike.memory_bytes - other.memory_bytes == 90 * 2
    assert other.optimizer_bytes == alike.optimizer_bytes
    assert other.gradient_bytes == alike.gradient_bytes
