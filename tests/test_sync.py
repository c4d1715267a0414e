"""Waiting for the GPU at the edges of an epoch."""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace

import pytest

from energyest import track
from energyest.tracking import sync
from tests.support.sensors import Constant


class Cuda:
    """torch's CUDA part, as far as it is asked."""

    def __init__(self) -> None:
        self.waits = 0
        self.is_in_use = True
        self.fails = False

    def is_initialized(self) -> bool:
        return self.is_in_use

    def synchronize(self) -> None:
        if self.fails:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        self.waits += 1


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    stand_in = Cuda()
    monkeypatch.setitem(
        sys.modules, "torch", SimpleNamespace(cuda=stand_in, version=SimpleNamespace(cuda=None))
    )
    monkeypatch.setattr(sync, "_ended_s", 0.0)
    return stand_in


class Jax:
    """JAX, as far as it is asked."""

    def __init__(self) -> None:
        self.arrays = ["weights", "loss"]
        self.waited_for: list[list[str]] = []

    def live_arrays(self) -> list[str]:
        return self.arrays

    def block_until_ready(self, arrays: list[str]) -> None:
        self.waited_for.append(list(arrays))


@pytest.fixture
def jax(monkeypatch: pytest.MonkeyPatch) -> Jax:
    stand_in = Jax()
    monkeypatch.setitem(sys.modules, "jax", stand_in)
    monkeypatch.delitem(sys.modules, "jax._src.xla_bridge", raising=False)
    monkeypatch.setattr(sync, "_ended_s", 0.0)
    return stand_in


def test_an_end_and_a_beginning_right_after_it_wait_once(cuda: Cuda) -> None:
    sync.synchronize()
    assert cuda.waits == 1
    sync._ended_s = time.monotonic() + 1.0  # however slow this machine is
    sync.synchronize()
    assert cuda.waits == 1
    sync._ended_s = time.monotonic() - 0.001
    sync.synchronize()
    assert cuda.waits == 2


def test_nothing_is_waited_for_where_no_gpu_is_in_use(
    cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda.is_in_use = False
    sync.synchronize()
    monkeypatch.delitem(sys.modules, "torch")
    sync.synchronize()
    assert cuda.waits == 0


def test_an_error_of_the_trainings_own_kernels_is_left_to_it(cuda: Cuda) -> None:
    cuda.fails = True
    sync.synchronize()
    cuda.fails = False
    sync.synchronize()  # a failed wait does not count
    assert cuda.waits == 1


def test_jax_is_waited_for_where_it_is_loaded(jax: Jax) -> None:
    assert sync.synchronize() == {"jax"}
    assert jax.waited_for == [["weights", "loss"]]


def test_jax_is_not_initialised_by_waiting(jax: Jax, monkeypatch: pytest.MonkeyPatch) -> None:
    bridge = SimpleNamespace(backends_are_initialized=lambda: False)
    monkeypatch.setitem(sys.modules, "jax._src.xla_bridge", bridge)
    assert sync.synchronize() == frozenset()
    assert not jax.waited_for


def test_the_real_jax(monkeypatch: pytest.MonkeyPatch) -> None:
    jax = pytest.importorskip("jax")
    power = jax.jit(lambda matrix: matrix @ matrix @ matrix)
    ones = jax.numpy.ones((1000, 1000))
    power(ones).block_until_ready()
    monkeypatch.setattr(sync, "_ended_s", 0.0)
    result = power(ones)
    assert "jax" in sync.synchronize()
    assert result.is_ready()


def test_a_run_says_what_it_waits_for(jax: Jax, cuda: Cuda) -> None:
    with track(sensors=[Constant(1)]) as run:
        for _ in run.epochs(2):
            time.sleep(0.01)
        waits = cuda.waits
        assert waits >= 2
    assert len(jax.waited_for) >= 3
    assert run.trace.meta["synchronized"] == ["jax", "torch.cuda"]


def test_a_run_that_waits_for_nothing_says_nothing(
    cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda.is_in_use = False
    monkeypatch.delitem(sys.modules, "jax", raising=False)
    with track(sensors=[Constant(1)]) as run:
        pass
    assert "synchronized" not in run.trace.meta
