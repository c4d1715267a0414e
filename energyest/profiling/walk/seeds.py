"""Fixed seeds for the random numbers of a walk."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from energyest.profiling.copies.model_copy import names_within_reach


@contextmanager
def seeded(duplicate: nn.Module) -> Iterator[Callable[[], bool]]:
    """Seed all generators, those of torch on the CPU alone; within `generators_restored`.

    Args:
        duplicate: the copy; Python's and numpy's generators within reach of its code are seeded.

    Yields:
        whether a generator of Python or numpy has been drawn from.
    """
    kinds = (random.Random, np.random.RandomState, np.random.Generator)
    reached = (v for _, v in names_within_reach(duplicate) if isinstance(v, kinds))
    own: list[Any] = [v for v in reached if not isinstance(v, random.SystemRandom)]
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.default_generator.manual_seed(0)
    for generator in own:
        if isinstance(generator, random.Random):
            generator.seed(0)
        else:
            bits: Any = _bits_of(generator)
            bits.state = type(bits)(0).state
    before = _states(own)
    yield lambda: _states(own) != before


def _states(own: Sequence[Any]) -> list[str]:
    """What distinguishes the states of Python's and numpy's generators."""
    global_ones = random.getstate(), np.random.get_state(legacy=False)  # noqa: NPY002
    with np.printoptions(threshold=sys.maxsize):
        return [repr(global_ones), *(repr(_state_of(generator)) for generator in own)]


def _state_of(generator: Any) -> Any:
    is_python = isinstance(generator, random.Random)
    return generator.getstate() if is_python else _bits_of(generator).state


def _bits_of(generator: Any) -> Any:
    """What numpy's generators draw from."""
    is_new = isinstance(generator, np.random.Generator)
    return generator.bit_generator if is_new else generator._bit_generator
