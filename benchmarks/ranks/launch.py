"""Starts a function in several processes that train together, as `torchrun` does."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.common.gpu_counter import (
    ConstantCounter,
    Counter,
    GpuCounter,
    uuid_of_current_gpu,
)
from benchmarks.overhead.children import Child, ChildError, Children

# How long the others may take once one of several processes has failed.
_AFTER_FAILURE_S = 10.0


@dataclass(frozen=True)
class Machine:
    """What the ranks run on.

    Attributes:
        ranks: the most processes at a time: one per GPU.
        is_simulated: whether they run on the CPU over gloo, each with a simulated GPU.
    """

    ranks: int
    is_simulated: bool

    @property
    def is_crowded(self) -> bool:
        """Whether there are more ranks than cores, so that they wait for each other's time."""
        return self.ranks > len(os.sched_getaffinity(0))

    def environments(self, ranks: int, nodes: int = 1) -> list[dict[str, str]]:
        """The environment of each rank.

        Args:
            ranks: their number, a multiple of `nodes`.
            nodes: groups of ranks; each is told to be a node, and sees only its own GPUs.
        """
        each = ranks // nodes
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        common |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(each)}
        if self.is_simulated:
            common["OMP_NUM_THREADS"] = "1"
        gpus = visible_gpus()
        found = []
        for rank in range(ranks):
            node, local = divmod(rank, each)
            own = [] if self.is_simulated else gpus[node * each : (node + 1) * each]
            numbers = {"RANK": rank, "NODE_RANK": node, "GROUP_RANK": node, "LOCAL_RANK": local}
            names = {name: str(number) for name, number in numbers.items()}
            found.append({**common, **names, "CUDA_VISIBLE_DEVICES": ",".join(own)})
        return found


def visible_gpus() -> list[str]:
    """The GPUs that torch sees, by names for `CUDA_VISIBLE_DEVICES`."""
    import torch

    count = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named[:count] if len(named) >= count else [str(number) for number in range(count)]


def own_counter() -> Counter:
    """The counter of this process's GPU, or of its simulated one."""
    import torch

    if torch.cuda.is_available():
        return GpuCounter(uuid_of_current_gpu())
    from simulation.ranks import Gpu

    return ConstantCounter(Gpu(int(os.environ.get("RANK", "0"))).watts)


@dataclass
class Answer:
    """What became of a rank.

    Attributes:
        value: what its function returned; None if it failed.
        error: why it failed; empty if it did not.
        told: the facts that it told before.
    """

    value: Any
    error: str
    told: list[dict[str, Any]]


def run_ranks(
    children: Children,
    function: Callable[..., Any],
    environments: list[dict[str, str]],
    /,
    *,
    timeout_s: float,
    on_fact: Callable[[dict[str, Any]], None] | None = None,
    **options: Any,
) -> list[Answer]:
    """Run a function in a process for each environment; none of them outlives the call.

    Args:
        children: starts the processes.
        function: a module-level function.
        environments: that of each rank.
        timeout_s: after this time, all are ended.
        on_fact: is called with each fact that the first rank tells, as soon as it does.
        options: the function's keyword arguments.
    """
    started = start_ranks(children, function, environments, **options)
    ends_s = time.monotonic() + timeout_s
    try:
        pending, shown = list(started), 0
        while pending and time.monotonic() < ends_s:
            for child in list(pending):
                if child.has_ended(0.05):
                    pending.remove(child)
                    if answer_of(child).error:
                        ends_s = min(ends_s, time.monotonic() + _AFTER_FAILURE_S)
            if on_fact is not None:
                for fact in started[0].told[shown:]:
                    on_fact(fact)
                shown = len(started[0].told)
        answers = [answer_of(child) for child in started]
        for answer in answers:
            children.keep(function, [*options.items()], [answer.value, answer.told])
        return answers
    finally:
        for child in started:
            child.end()


def start_ranks(
    children: Children,
    function: Callable[..., Any],
    environments: list[dict[str, str]],
    **options: Any,
) -> list[Child]:
    """Start them; the caller has to end every one."""
    return [children.start(function, environment=one, **options) for one in environments]


def answer_of(child: Child) -> Answer:
    """What became of it so far."""
    try:
        return Answer(child.result(0.0), "", child.told)
    except ChildError as error:
        return Answer(None, str(error), child.told)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
