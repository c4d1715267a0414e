"""`probe_host`: measure how fast this machine's CPU launches operations, without a GPU."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor, nn

from energyest.profiling.copies.model_copy import generators_restored
from energyest.records.probe import HostProbe

# Size of the network: so small that Python, torch's dispatcher and autograd take nearly all the
# time, and steps so short that most have their core to themselves even on a busy machine. If you
# change it, measure `records.probe.USUAL_HOST_STEP_S` again.
_BLOCKS, _WIDTH, _BATCH = 3, 8, 4
# An idle core is slow at first; one that shares circuits with a busy core is slow for tenths of a
# second.
_WARM_S, _TIMED_S = 0.1, 0.8
_FEWEST = 50
# The quantile of an undisturbed step among hundreds; the very quickest is chance.
_UNDISTURBED = 0.02


def probe_host() -> HostProbe:
    """Measure for a second how fast this machine launches operations.

    Times forward, backward and the optimizer step of a tiny network on the CPU, in this process and
    one thread. Nearly all of that time is spent in Python, torch's dispatcher and autograd, which
    also limit a small training on a GPU. No GPU is used. Run it on the machine of the training,
    with the same versions of Python and torch, and pass the result to
    `estimate_pre(..., probe=...)`.

    The states of random generators and torch's settings are left unchanged.

    Examples:
        >>> from energyest.profiling import probe_host
        >>> probe_host().factor > 0
        True
    """
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(generators_restored())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast("cpu", enabled=False))
        stack.enter_context(torch.device("cpu"))  # whatever the default device is
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)  # else layers may split even a few numbers, and wait for threads
        step = _step()
        _repeat(step, _WARM_S)
        taken_s = _repeat(step, _TIMED_S)
    return HostProbe(len(taken_s), float(np.quantile(taken_s, _UNDISTURBED)))


def _repeat(step: Callable[[], None], seconds: float) -> list[float]:
    """Take steps for a time; return the seconds of each."""
    taken_s: list[float] = []
    now_s = began_s = time.perf_counter()
    while now_s - began_s < seconds or len(taken_s) < _FEWEST:
        step()
        last_s, now_s = now_s, time.perf_counter()
        taken_s.append(now_s - last_s)
    return taken_s


def _step() -> Callable[[], None]:
    """A training step of a network with layers of several kinds, each on a few numbers."""
    model = _Net().float()
    inputs, target = torch.ones(_BATCH, _WIDTH).float(), torch.zeros(_BATCH, _WIDTH).float()
    optimizer = torch.optim.SGD(model.parameters(), 1e-4, 0.9, foreach=False)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs), target).backward()
        optimizer.step()

    return step


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(_WIDTH, _WIDTH), nn.LayerNorm(_WIDTH), nn.ReLU())
            for _ in range(_BLOCKS)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x
