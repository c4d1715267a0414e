"""Waiting for the GPU at the edges of an epoch."""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace

import pytest

from energyest.tracking import sync


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
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=stand_in))
    monkeypatch.setattr(sync, "_ended_s", 0.0)
    return stand_in


def test_an_end_and_a_beginning_right_after_it_wait_once(cuda: Cuda) -> None:
    sync.cuda_synchronize()
    assert cuda.waits == 1
    sync._ended_s = time.monotonic() + 1.0  # however slow this machine is
    sync.cuda_synchronize()
    assert cuda.waits == 1
    sync._ended_s = time.monotonic() - 0.001
    sync.cuda_synchronize()
    assert cuda.waits == 2


def test_nothing_is_waited_for_where_no_gpu_is_in_use(
    cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda.is_in_use = False
    sync.cuda_synchronize()
    monkeypatch.delitem(sys.modules, "torch")
    sync.cuda_synchronize()
    assert cuda.waits == 0


def test_an_error_of_the_trainings_own_kernels_is_left_to_it(cuda: Cuda) -> None:
    cuda.fails = True
    sync.cuda_synchronize()
    cuda.fails = False
    sync.cuda_synchronize()  # a wait that has failed is none
    assert cuda.waits == 1
