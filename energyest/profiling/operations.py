"""The operations of forward and backward, as torch dispatches them, with their FLOPs and bytes."""

from __future__ import annotations

import functools
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from energyest.display import in_a_line
from energyest.profiling.flop_rules import (
    arithmetic,
    base_name,
    flops_by_fvcore,
    has_rule,
    is_unknown,
    plain_name,
    product_of,
)
from energyest.records.workload import Operation, Workload

# They reserve memory or ask for an attribute: no work for a GPU, and none to speak of for the CPU.
_NO_WORK = {"device", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
_NO_PRODUCT = (0, 0, 0, 1, 1)
_NO_CALL = {"device", "detach"}
# Messages between processes.
_NO_ARITHMETIC = {"c10d", "_c10d_functional", "c10d_functional", "profiler"}
# Where the backward pass cannot be counted: it computes gradients of inputs and of weights, each
# about as much as the forward pass. Kaplan et al., "Scaling laws for neural language models"
# (arXiv 2001.08361), section 2.1.
TRAINING_TO_FORWARD = 3.0


@dataclass(frozen=True)
class FlopCount:
    """The arithmetic of one forward pass.

    As fvcore counts it, a multiply and an add as two; normalisation as in inference.

    Attributes:
        per_sample: floating-point operations for one sample; None if they could not be counted.
        note: why not, or what was left out.
        uncounted: operations that may do arithmetic and have no rule, and how often they occur.
        training_to_forward: FLOPs of forward and backward ÷ FLOPs of forward; where the backward
            pass was not counted, `TRAINING_TO_FORWARD`.
    """

    per_sample: float | None
    note: str = ""
    uncounted: Mapping[str, int] = field(default_factory=dict)
    training_to_forward: float = TRAINING_TO_FORWARD

    def training_flops(self, samples: float) -> float:
        """FLOPs of forward and backward for that many samples; NaN if not counted."""
        if self.per_sample is None:
            return math.nan
        return self.training_to_forward * self.per_sample * samples

    def as_meta(self) -> dict[str, Any]:
        """What the meta of a trace says of it."""
        return {
            "forward_flops_per_sample": self.per_sample,
            "flops_note": self.note or "2 per multiply-add",
            "training_to_forward_flops": self.training_to_forward,
            "flops_uncounted": dict(self.uncounted),
        }

    @staticmethod
    def of_workload(workload: Workload) -> FlopCount:
        """The count that a described workload holds."""
        forward = workload.forward_flops_per_sample * workload.batch_size
        backward = sum(o.flops * o.count for o in workload.operations if o.phase == "backward")
        return FlopCount(
            workload.forward_flops_per_sample,
            training_to_forward=1 + backward / forward if forward else 1.0,
        )


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
        )


class Seen(NamedTuple):
    """An operation that has run.

    Attributes:
        name: of the operation.
        func: what was dispatched.
        args: its arguments.
        inputs: the tensors among all of them.
        outputs: the tensors that it gave.
        made: those that lie where no input lies.
        flops: of a product; 0 for anything else.
    """

    name: str
    func: Any
    args: Any
    inputs: list[Tensor]
    outputs: list[Tensor]
    made: list[Tensor]
    flops: float = 0.0


class OperationLog(TorchDispatchMode):
    """Records what is dispatched while it is entered; the operations run as without it.

    Args:
        describes: record each operation, and not only what has FLOPs.

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

    def __init__(self, *, describes: bool = True) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.describes = describes
        self.calls: Counter[str] = Counter()
        self.flops: defaultdict[str, float] = defaultdict(float)
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
            forward_flops=self.flops["forward"],
            backward_flops=self.flops["backward"],
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
        product: Sequence[int] = _NO_PRODUCT,
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
        self.flops[phase] += flops if by_fvcore is None else by_fvcore
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
        kind = _kind_of(func)
        if kind.is_silent or not (self.describes or kind.has_rule or kind.is_unknown):
            return
        inputs, outputs = tensors_of(args), tensors_of(out)
        if kwargs:
            inputs += tensors_of(kwargs)
        if not (inputs or outputs):  # such as a mark for a profiler
            return
        made = _made(inputs, outputs)
        if not kind.is_work or (outputs and not made and not kind.writes):  # a view
            self.calls[self.phase] += 1
            self.notice(Seen(kind.name, func, args, inputs, outputs, made))
            return
        name, flops, by_fvcore, product = kind.name, 0.0, 0.0, _NO_PRODUCT
        if kind.has_rule:
            name = plain_name(func, args)
            product = product_of(func, args, out)
            flops = arithmetic(name, func, args, kwargs, out, product)
            by_fvcore = flops_by_fvcore(func, args, kwargs, out, flops)
        elif kind.is_unknown:
            self.uncounted[name] += 1
        # Norms are no products.
        seen = Seen(name, func, args, inputs, outputs, made, by_fvcore if flops else 0.0)
        self.notice(seen)
        self.add(name, flops, sum(map(bytes_of, inputs + outputs)), product, by_fvcore)

    def notice(self, seen: Seen) -> None:
        """An operation has run; for those who want to know more of it."""


class _Kind(NamedTuple):
    """What an operation is, whatever it is called with."""

    name: str
    is_silent: bool
    is_work: bool
    has_rule: bool
    is_unknown: bool
    writes: bool


@functools.cache
def _kind_of(func: Any) -> _Kind:
    name = base_name(func)
    has_schema = hasattr(func, "_schema")
    return _Kind(
        name=name,
        is_silent=name in _NO_CALL or getattr(func, "namespace", "") in _NO_ARITHMETIC,
        is_work=name not in _NO_WORK,
        has_rule=has_rule(func),
        is_unknown=is_unknown(func, name),
        writes=not has_schema or bool(func._schema.is_mutable),
    )


def tensors_of(value: Any) -> list[Tensor]:
    """The tensors among the arguments of an operation, or in what it gave."""
    if isinstance(value, Tensor):
        return [value]
    found: list[Tensor] = []
    items = value.values() if isinstance(value, dict) else value
    if isinstance(items, list | tuple) or items is not value:
        for item in items:
            if isinstance(item, Tensor):
                found.append(item)
            elif isinstance(item, list | tuple | dict):
                found += tensors_of(item)
    return found


def bytes_of(tensor: Tensor) -> int:
    """What has to be read or written of a tensor: an expanded one is no larger than its storage."""
    size = tensor.numel() * tensor.element_size()
    try:
        return min(size, tensor.untyped_storage().nbytes())
    except (NotImplementedError, RuntimeError):  # sparse and other tensors without a storage
        return size


def _made(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> list[Tensor]:
    """What an operation gave that does not lie where an input lies."""
    try:
        places = {tensor.untyped_storage()._cdata for tensor in inputs}
        return [tensor for tensor in outputs if tensor.untyped_storage()._cdata not in places]
    except (NotImplementedError, RuntimeError):  # as of sparse tensors
        return list(outputs)
