"""What a model may hold: tensors wherever they are kept, and objects that cannot be copied."""

from __future__ import annotations

import functools
import gc
import itertools
import queue
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from tempfile import TemporaryFile
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from energyest.errors import WorkloadError
from energyest.profiling import describe
from energyest.profiling.copies.model_copy import bare_copy
from energyest.profiling.describe import describe_workload

X = torch.randn(4, 8)
DEVICES = pytest.mark.parametrize("device", ["cpu", "meta"])


class Holding(nn.Module):
    """Keeps something in an attribute.

    Args:
        kept: makes it.
        get: takes a tensor of 8 numbers, or of two positions, out of it.
    """

    def __init__(self, kept: Any, get: Callable[[Any], Any] = lambda _: 1.0) -> None:
        super().__init__()
        self.layer, self.kept, self.get = nn.Linear(8, 8), kept, get

    def forward(self, x: Tensor) -> Any:
        return self.layer(x) * self.get(self.kept)


class Plain:
    """An object with an attribute."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Slots:
    """An object without a dictionary."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def scaled(self) -> Any:
        return self.value


KEPT: dict[str, tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]] = {
    "list": (lambda t: [t], lambda k: k[0]),
    "dict": (lambda t: {"a": [t]}, lambda k: k["a"][0]),
    "tuple": (lambda t: (1, t), lambda k: k[1]),
    "deque": (lambda t: deque([t]), lambda k: k[0]),
    "namespace": (lambda t: SimpleNamespace(a=t), lambda k: k.a),
    "partial": (lambda t: functools.partial(torch.mul, t), lambda k: k(2.0)),
    "object": (Plain, lambda k: k.value),
    "slots": (Slots, lambda k: k.value),
    "method": (lambda t: Slots(t).scaled, lambda k: k()),
    "function": (lambda t: lambda: t, lambda k: k()),
    "parameter": (lambda t: [nn.Parameter(t)], lambda k: k[0]),
    "computed": (lambda t: {"a": nn.Parameter(t) * 2}, lambda k: k["a"]),
}


@DEVICES
@pytest.mark.parametrize("name", KEPT)
def test_tensors_are_found_wherever_they_are_kept(name: str, device: str) -> None:
    keep, get = KEPT[name]
    with torch.device(device):
        model = Holding(keep(torch.ones(8)), get)
    workload = describe_workload(model, X)
    assert workload.flops_per_step == 2 * 4 * 2 * 8 * 8
    assert not workload.notes
    assert get(model.kept).device.type == device


def test_whole_numbers_in_containers_keep_their_values() -> None:
    model = Holding({"at": [torch.tensor([3])]}, lambda kept: torch.ones(int(kept["at"][0])).sum())
    assert not describe_workload(model, X).notes


def test_what_contains_itself() -> None:
    kept: dict[str, Any] = {"a": torch.ones(8)}
    kept["self"] = [kept]
    assert describe_workload(Holding(kept, lambda k: k["self"][0]["a"]), X).flops_per_step


def test_a_model_that_has_run_and_keeps_features() -> None:
    model = Holding({})
    model.get = lambda kept: kept.setdefault("features", X[0])
    features = model.layer(X)
    model.kept["features"] = features
    for large in (False, True):
        if large:  # too large to be run with values
            model.far = nn.Linear(8000, 8000, device="meta")
        assert describe_workload(model, X).flops_per_step
    assert model.kept["features"] is features


# ---------------------------------------------------------------------- objects that have no copy


class Unfriendly:
    """Says how it is copied, and that fails."""

    def __reduce__(self) -> Any:
        return Unfriendly, (1, 2)


class Closing:
    def __del__(self) -> None:
        pass


UNUSED: dict[str, Callable[[], Any]] = {
    "module": lambda: np,
    "lock": threading.RLock,
    "locks": lambda: {"a": [threading.Lock()]},
    "generator": lambda: (i for i in range(3)),
    "stream": lambda: sys.stdout,
    "file": TemporaryFile,
    "thread pool": lambda: ThreadPoolExecutor(1),
    "thread": lambda: threading.Thread(target=print),
    "event": threading.Event,
    "keys": {}.keys,
    "count": itertools.count,
    "deleted with care": lambda: [Closing()],
    "unfriendly": Unfriendly,
}


@pytest.mark.parametrize("name", UNUSED)
def test_what_a_step_does_not_need(name: str) -> None:
    kept = UNUSED[name]()
    model = Holding(kept)
    assert describe_workload(model, X).flops_per_step == 2 * 4 * 2 * 8 * 8
    assert model.kept is kept


def test_a_step_may_use_modules_and_locks() -> None:
    def get(kept: Any) -> float:
        with kept["lock"]:
            return float(kept["math"].ones(1)[0])

    model = Holding({"math": np, "lock": threading.Lock()}, get)
    assert describe_workload(model, X).flops_per_step
    assert not model.kept["lock"].locked()


LEAKING: dict[str, tuple[Callable[[], Any], Callable[[Any, Tensor], Any]]] = {
    "queue": (queue.SimpleQueue, lambda kept, y: kept.put(y.detach())),
    "local": (threading.local, lambda kept, y: setattr(kept, "seen", y)),
    "variable": (lambda: ContextVar("seen", default=None), lambda kept, y: kept.set(y)),
    "proxy": (lambda: MappingProxyType({"a": nn.Linear(8, 8)}), lambda kept, y: kept["a"](y)),
    "values": ({"a": nn.Linear(8, 8)}.values, lambda kept, y: next(iter(kept))(y)),
    "pool": (
        lambda: ThreadPoolExecutor(1),
        lambda kept, y: kept.submit(torch.mul, y, 2.0).result(),
    ),
}


class Leaking(Holding):
    def forward(self, x: Tensor) -> Any:
        y = self.layer(x)
        self.get(self.kept, y)
        return y


@pytest.mark.parametrize("name", LEAKING)
def test_what_would_keep_tensors_without_values_is_refused_by_name(name: str) -> None:
    keep, use = LEAKING[name]
    kept = keep()
    model = Leaking(kept, use)
    model.far = nn.Linear(8000, 8000, device="meta")  # so that no values are at hand
    with pytest.raises(WorkloadError, match=r"the step uses Leaking\.kept, a .* cannot be copied"):
        describe_workload(model, X)
    assert model.kept is kept
    assert not getattr(kept, "seen", None)
    assert not isinstance(kept, queue.SimpleQueue) or kept.empty()


def test_a_copy_that_is_deleted_releases_nothing() -> None:
    class Owner(Holding):
        def __del__(self) -> None:
            self.kept.clear()

    open_now: dict[str, Any] = {"pool": 1}
    model = Owner(open_now)
    model.shared = released = []

    class Releases(nn.Linear):
        def __del__(self) -> None:
            released.append(1)

    model.layer = Releases(8, 8)
    assert describe_workload(model, X).flops_per_step == 2 * 4 * 2 * 8 * 8
    gc.collect()
    assert open_now == {"pool": 1}
    assert not released


def test_descriptions_side_by_side() -> None:
    """They change settings of the process one after another, and leave them as they were."""
    usual = nn.Module._apply
    enabled = torch.backends.mkldnn.enabled
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: describe_workload(model, X), range(12)))
    assert all(workload == found[0] for workload in found)
    assert nn.Module._apply is usual
    assert torch.backends.mkldnn.enabled == enabled


def test_no_walk_begins_before_the_one_before_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a model is walked through, none of its parameters seems to be trained."""
    calls: list[int] = []
    second, done = threading.Event(), threading.Event()

    def get(_: Any) -> float:
        calls.append(1)
        if len(calls) == 2:
            second.set()
            done.wait(5)
        return 1.0

    usual = describe.workload_of

    def late(*arguments: Any) -> Any:
        second.wait(0.3)
        return usual(*arguments)

    monkeypatch.setattr(describe, "workload_of", late)
    model = Holding(None, get)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(describe_workload, model, X)
        other = pool.submit(describe_workload, model, X)
        found = first.result()
        done.set()
        assert found == other.result()
    assert found.trainable_parameters == 72


def test_weights_keep_their_layout() -> None:
    model = nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)
    for device in ("cpu", "meta"):
        copied = bare_copy(model, torch.device(device))
        assert copied.weight.stride() == model.weight.stride()
        assert copied.weight.device.type == device
    assert not bare_copy(model, torch.device("cpu")).weight.any()


def test_small_arrays_may_be_written_to() -> None:
    def get(kept: Any) -> float:
        kept[0] += 1
        return 1.0

    model = Holding(np.zeros(3), get)
    assert describe_workload(model, X).flops_per_step
    assert model.kept[0] == 0


# ---------------------------------------------------------------------- hooks


class Adapted(nn.Module):
    """A layer, and an adapter that a hook adds."""

    def __init__(self, hook: Callable[[Adapted], Any] | None = None) -> None:
        super().__init__()
        self.layer, self.adapter = nn.Linear(8, 8), nn.Linear(8, 8)
        if hook is not None:
            self.layer.register_forward_hook(hook(self))

    def adapt(self, _: Any, inputs: Any, output: Tensor) -> Tensor:
        return output + self.adapter(inputs[0])

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def test_a_hook_that_is_left_out_is_noted() -> None:
    as_method = describe_workload(Adapted(lambda model: model.adapt), X)
    as_function = describe_workload(
        Adapted(lambda model: lambda *call: model.adapt(*call)),  # noqa: PLW0108
        X,
    )
    assert as_method.flops_per_step == 2 * as_function.flops_per_step
    assert not as_method.notes
    (note,) = as_function.notes
    assert "hooks of Adapted.layer are left out" in note


def test_a_hook_that_only_watches_is_not_noted() -> None:
    def watch(*_: Any) -> None:
        pass

    watch.__module__ = "energyest.profiling.step_watch"
    assert not describe_workload(Adapted(lambda _: watch), X).notes


def test_a_refusal_names_hooks_that_were_left_out() -> None:
    class Needs(Adapted):
        def forward(self, x: Tensor) -> Tensor:
            self.layer(x)
            return self.features

    model = Needs(lambda model: lambda *call: setattr(model, "features", call[-1]))
    with pytest.raises(WorkloadError, match=r"no attribute 'features'.*hooks of Needs\.layer are"):
        describe_workload(model, X)
