"""The operations of forward and backward, as torch dispatches them, with their FLOPs and bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from energyest.profiling.flop_rules import (
    arithmetic,
    flops_by_fvcore,
    is_unknown,
    plain_name,
    product_of,
)
from energyest.profiling.flops import FlopCount
from energyest.records.workload import Operation

# They reserve memory or ask for an attribute: no work for a GPU, and none to speak of for the CPU.
_NO_WORK = {"device", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
_NO_CALL = {"device", "detach"}
# Messages between processes.
_NO_ARITHMETIC = {"c10d", "_c10d_functional", "c10d_functional", "profiler"}


@dataclass(frozen=True)
class WatchedStep:
    """What a step was seen to compute.

    Attributes:
        forward_flops, backward_flops: as fvcore counts them, a multiply and an add as two.
        uncounted: operations without a rule, and how often they occurred.
        operations: all of them but those of optimizers.
        forward_calls, backward_calls: of operations, views among them.
        module_calls: of modules.
        saved_bytes: what the forward pass left for the backward pass.
        gradients: the `GradientCosts`, if they were followed.
        problem: why the step was not seen as a whole; empty if it was.
    """

    forward_flops: float
    backward_flops: float
    uncounted: Mapping[str, int] = field(default_factory=dict)
    operations: tuple[Operation, ...] = ()
    forward_calls: int = 0
    backward_calls: int = 0
    module_calls: int = 0
    saved_bytes: float = 0.0
    gradients: Any = None
    problem: str = ""

    @property
    def flops(self) -> float:
        """FLOPs of forward and backward."""
        return self.forward_flops + self.backward_flops

    def flop_count(self, samples: int) -> FlopCount:
        """The FLOPs for each of that many samples."""
        if not self.forward_flops:
            return FlopCount(None, "no operation to count was found", self.uncounted)
        return FlopCount(
            self.forward_flops / samples,
            "",
            self.uncounted,
            training_to_forward=self.flops / self.forward_flops,
            is_training_counted=True,
        )


class OperationLog(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records what is dispatched while it is entered; the operations run as without it.

    Attributes:
        calls: phase, "forward" or "backward" -> number of calls, views among them.
        flops: phase -> FLOPs as fvcore counts them, a multiply and an add as two.
        uncounted: operations whose arithmetic is not counted, and how often they occur.
        failure: what went wrong while an operation was recorded, which is then missing.
    """

    # Functions that are compiled on their first call are compiled as without this mode, and what
    # takes functions for arguments runs in it.
    supports_higher_order_operators = True

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """What is compiled is not looked into."""
        return True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[str] = Counter()
        self.flops: Counter[str] = Counter()
        self.uncounted: Counter[str] = Counter()
        self.failure: Exception | None = None
        self._sizes: Counter[tuple[Any, ...]] = Counter()

    @property
    def phase(self) -> str:
        """What runs now: "forward" or "backward"."""
        is_backward = torch._C._current_graph_task_id() != -1
        return "backward" if is_backward else "forward"

    def as_step(self, module_calls: int, saved_bytes: float) -> WatchedStep:
        """What was recorded, as one step; its operations as each first occurred."""
        return WatchedStep(
            forward_flops=float(self.flops["forward"]),
            backward_flops=float(self.flops["backward"]),
            uncounted=dict(self.uncounted),
            operations=tuple(
                Operation(phase, name, count, *sizes)
                for (phase, name, *sizes), count in self._sizes.items()
            ),
            forward_calls=self.calls["forward"],
            backward_calls=self.calls["backward"],
            module_calls=module_calls,
            saved_bytes=saved_bytes,
            problem="" if self.failure is None else in_a_line(self.failure),
        )

    def add(
        self,
        name: str,
        flops: float,
        moved: float,
        product: Sequence[int] = (0, 0, 0, 1, 1),
        by_fvcore: float | None = None,
    ) -> None:
        """Record an operation.

        Args:
            name: of the operation.
            flops: what a GPU's matrix units compute.
            moved: bytes.
            product: rows, columns, depth, groups and steps.
            by_fvcore: FLOPs as fvcore counts them, if not the same.
        """
        phase = self.phase
        self.calls[phase] += 1
        self.flops[phase] += flops if by_fvcore is None else by_fvcore  # type: ignore[assignment]
        sizes = (phase, name, float(flops), float(moved), *product)
        self._sizes[sizes] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and record it."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        try:
            self.record(func, args, kwargs, out)
        except Exception as error:  # of a rule: what runs must not notice
            self.failure = self.failure or error
        return out

    def record(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        """Record an operation that has run."""
        name = plain_name(func, args)
        inputs = list(tensors_of([args, kwargs]))
        outputs = list(tensors_of(out))
        is_silent = name in _NO_CALL or getattr(func, "namespace", "") in _NO_ARITHMETIC
        if is_silent or not (inputs or outputs):  # such as a mark for a profiler
            return
        if name in _NO_WORK or is_view(func, inputs, outputs):
            self.calls[self.phase] += 1
            return
        moved = sum(bytes_of(tensor) for tensor in [*inputs, *outputs])
        product = product_of(func, args, out)
        flops = arithmetic(func, args, kwargs, out, product)
        by_fvcore = flops_by_fvcore(func, args, kwargs, out, product)
        if not by_fvcore and is_unknown(func, name):
            self.uncounted[name] += 1
        self.add(name, flops, moved, product, by_fvcore)


def in_a_line(error: Exception) -> str:
    """An error for a note."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def tensors_of(value: Any) -> Iterator[Tensor]:
    """The tensors among the arguments of an operation, or in what it gave."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_of(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_of(item)


def bytes_of(tensor: Tensor) -> int:
    """What has to be read or written of a tensor: an expanded one is no larger than its storage."""
    size = tensor.numel() * tensor.element_size()
    try:
        return min(size, tensor.untyped_storage().nbytes())
    except (NotImplementedError, RuntimeError):  # sparse and other tensors without a storage
        return size


def is_view(func: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> bool:
    """Whether the result lies where an input lies, and nothing was written."""
    if not hasattr(func, "_schema") or func._schema.is_mutable or not outputs:
        return False
    try:
        places = {tensor.untyped_storage()._cdata for tensor in inputs}
        return all(tensor.untyped_storage()._cdata in places for tensor in outputs)
    except (NotImplementedError, RuntimeError):
        return False
