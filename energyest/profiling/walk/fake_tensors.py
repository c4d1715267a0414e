"""Run a model on shapes alone, without leaving tensors without values behind."""

from __future__ import annotations

import math
import os
import sys
from collections import Counter
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    UnsupportedOperatorException,
)
from torch.multiprocessing import reductions
from torch.utils._pytree import tree_map_only

from energyest.display import in_a_line
from energyest.errors import WorkloadError
from energyest.profiling.operations import bytes_of, tensors_of
from energyest.profiling.sparse_tensors import hand_on_entries, is_sparse
from energyest.profiling.walk.assumed_values import (
    LARGEST_ASSUMED,
    assumed_values,
    extreme_number,
    stand_ins,
)
from energyest.profiling.walk.shape_rules import as_index, grouped_product, laid_out, without_view

# Larger tensors have no values; this is a causal mask of floats for 5,800 positions.
_LARGEST_KNOWN_bytes = 2**27
# A loop that asks more often in one place waits for a value that never comes.
_MOST_QUESTIONS = 2000
_ATEN = torch.ops.aten
_LIFT = _ATEN.lift_fresh
_INDEXED = {_ATEN.index, _ATEN.index_put, _ATEN.index_put_, _ATEN._index_put_impl_}
_SCALAR = _ATEN._local_scalar_dense
# Operations whose results do not depend on the values of their arguments.
_FILLED = {
    *(_ATEN.zeros_like, _ATEN.ones_like, _ATEN.full_like),
    *(_ATEN.new_zeros, _ATEN.new_ones, _ATEN.new_full),
}
# The name of an attribute of sparse tensors that have values.
_ORIGIN = "_energyest_origin"
_CONVOLUTIONS = {_ATEN.convolution, _ATEN.convolution_backward}
_NOT_TOLD = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
)
_TORCH = str(Path(torch.__file__).parent) + os.sep
_OWN = str(Path(__file__).parents[2]) + os.sep
_WALK = str(Path(__file__).with_name("walk.py"))


class Origin(IntEnum):
    """The origin of a tensor's values; a tensor computed from several has the highest of theirs."""

    CONSTANT = 0
    BATCH = 1
    BATCH_WITHOUT_VALUES = 2  # of "meta": taken as ones, which is a mask without padding
    RANDOM = 3  # several random numbers, drawn from a fixed seed
    ASSUMED = 4


class ShapesAlone(FakeTensorMode):
    """torch's mode of tensors without values, in which some tensors have values nevertheless.

    - **Constants.** A function that a model shares with its copy may cache its results, as
      `functools.lru_cache` does for masks and tables of positions. A training that got a tensor
      without values from such a cache would fail. Tensors made from no other tensor, or only from
      such constants, are therefore computed.
    - **Integers and truth values**, on which shapes and branches may depend. Those of the batch are
      given. Those that follow from tensors without values are assumed: indices, as from `topk`,
      occur equally often; numbers are neither equal nor NaN; any other comparison gives `answer`.
    - **Random numbers.** A single one is the least or the greatest that there is, by `answer`.

    If the model looks at an unknown value, it gets an assumed one.

    Args:
        answer: the result assumed if nothing else is more likely.

    Attributes:
        keeps_constants: whether constants have values now; at first, no tensor has.
        questions: where the model looked at values other than constants, as (origin, file and
            line), and how often.
    """

    def __init__(self, *, answer: bool = True) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.answer = answer
        self.keeps_constants = False
        self.questions: Counter[tuple[Origin, str]] = Counter()
        # By the address of a storage; the weak reference keeps the address from being reused.
        self._origins: dict[int, tuple[Any, Origin]] = {}
        self._is_inside = False
        # Operations for which torch has no shape rule, or one that needs values.
        self._rules: dict[Any, Callable[..., Any]] = {
            _ATEN._local_scalar_dense: lambda tensor: self._assumed(tensor).flatten()[0].item(),
            _ATEN.equal: lambda one, other: one is other,
            _ATEN._pack_padded_sequence: self._packed,
            getattr(_ATEN, "_grouped_mm", None): grouped_product,
        }

    def gives(self, tensor: Tensor, origin: Origin) -> None:
        """Register a tensor as having values."""
        if tensor.layout != torch.strided:
            setattr(tensor, _ORIGIN, origin)
            return
        storage = tensor.untyped_storage()
        make: Any = reductions.StorageWeakRef
        self._origins[storage._cdata] = (make(storage), origin)

    def looked_at(self, tensor: Tensor) -> None:
        """Note that a tensor with values is read without an operation, as by `tolist`."""
        origin = self._known(tensor)
        if origin is not None and origin is not Origin.CONSTANT:
            self._asked(origin)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute an operation on known values; for others, find the shape of the result."""
        kwargs = kwargs or {}
        if self._is_inside or not self.keeps_constants or not hasattr(func, "_schema"):
            return super().__torch_dispatch__(func, types, args, kwargs)
        origin = self._origin_of(func, args, kwargs)
        if origin is None:
            return self._unknown(func, types, args, kwargs)
        if origin is not Origin.CONSTANT and _looks_at_values(func, args):
            self._asked(origin)
        return self._computed(origin, func, types, args, kwargs)

    def _computed(self, origin: Origin, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func.overloadpacket is _SCALAR and origin is Origin.RANDOM and not _is_whole(args[0]):
            return self.answer  # one of several decisions
        if func._schema.is_mutable:
            out = func(*args, **kwargs)  # no larger than what it writes to
        else:
            if func.overloadpacket is not _SCALAR:
                shapes = self._shapes_if_told(func, types, args, kwargs)
                if sum(map(bytes_of, tensors_of(shapes))) > _LARGEST_KNOWN_bytes:
                    return shapes
            try:
                out = func(*args, **kwargs)
            except Exception:  # such as one for a GPU that is not there
                return self._shapes(func, types, args, kwargs)
        for tensor in tensors_of(out):
            is_one = tensor.numel() == 1 and torch.Tag.nondeterministic_seeded in func.tags
            chosen = extreme_number(func, args, self.answer) if is_one else None
            if chosen is not None:
                tensor.fill_(chosen)
            self.gives(tensor, origin if chosen is None else Origin.ASSUMED)
        return out

    def _unknown(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """An operation on numbers without values."""
        args, kwargs = tree_map_only(Tensor, self._on_cpu, (args, kwargs))
        packet = func.overloadpacket
        if _looks_at_values(func, args):
            self._asked(self._origin_of_question(args))
        if packet in self._rules:
            return self._rules[packet](*args, **kwargs)
        if packet in _FILLED and _is_small_and_whole(*args, **kwargs):
            filled = func(*stand_ins(args), **kwargs)
            self.gives(filled, Origin.CONSTANT)
            return filled
        if packet is _ATEN.masked_select:
            packet, func, args = _ATEN.index, _ATEN.index.Tensor, as_index(*args)
        if packet in _INDEXED:
            args = (args[0], self._places(args[1]), *args[2:])
        if func._schema.is_mutable:
            self._forget_written(func, args, kwargs)
        try:
            out = self._shapes(func, types, args, kwargs)
        except Exception as error:
            if not isinstance(error, _NOT_TOLD) and func.namespace in ("aten", "prims"):
                raise
            return self._from_stand_ins(func, args, kwargs, error)
        if packet in _CONVOLUTIONS:
            out = laid_out(packet, args, out)
        return self._with_assumed(func, args, out)

    def _on_cpu(self, tensor: Tensor) -> Tensor:
        """The tensor, or one without values if it is of another device, as in a closure."""
        if isinstance(tensor, FakeTensor) or tensor.device.type == "cpu":
            return tensor
        options = {"dtype": tensor.dtype, "device": torch.device("cpu")}
        made: Tensor = self._shapes(_ATEN.empty.memory_format, (), (tensor.shape,), options)
        return made

    def _shapes(self, func: Any, types: Any, *given: Any) -> Any:
        """The result without values; torch may decompose the operation and call back here."""
        inputs = tensors_of(given)
        if any(map(is_sparse, inputs)):
            given = tree_map_only(Tensor, without_view, given)
        self._is_inside = True
        try:
            out = super().__torch_dispatch__(func, types, *given)
        finally:
            self._is_inside = False
        if any(map(is_sparse, tensors_of(out))):
            hand_on_entries(inputs, tensors_of(out))
        return out

    def _shapes_if_told(self, *call: Any) -> Any:
        try:
            return self._shapes(*call)
        except _NOT_TOLD:
            return ()  # not larger than its inputs, or unknown

    def _origin_of(self, func: Any, args: Any, kwargs: Any) -> Origin | None:
        """The origin of an operation's result; None if it has no values."""
        if func.overloadpacket is _LIFT:  # of torch.tensor([1.0, 2.0])
            return None if isinstance(args[0], FakeTensor) else Origin.CONSTANT
        if kwargs.get("generator") is not None or str(kwargs.get("device", "")) == "meta":
            return None
        is_random = torch.Tag.nondeterministic_seeded in func.tags
        origin = Origin.RANDOM if is_random else Origin.CONSTANT
        for tensor in tensors_of([args, kwargs]):
            known = self._known(tensor)
            if known is None:
                return None
            origin = max(origin, known)
        return origin

    def _known(self, tensor: Tensor) -> Origin | None:
        if isinstance(tensor, FakeTensor):
            return None
        if tensor.layout != torch.strided:
            return getattr(tensor, _ORIGIN, None)
        found = self._origins.get(tensor.untyped_storage()._cdata)
        return found[1] if found else None

    def _origin_of_question(self, args: Any) -> Origin:
        """The origin of the values looked at: of indices or a mask if there are any."""
        known = [self._known(tensor) for tensor in tensors_of(args[1:])]
        return max((origin for origin in known if origin is not None), default=Origin.ASSUMED)

    def _asked(self, origin: Origin) -> None:
        place = _place_of_question()
        self.questions[origin, place] += 1
        if origin >= Origin.RANDOM and self.questions[origin, place] > _MOST_QUESTIONS:
            raise WorkloadError(
                f"the end of the loop at {place} depends on a value that shapes do not determine:"
                " describe the model with a fixed number of iterations"
            )

    def _forget_written(self, func: Any, args: Any, kwargs: Any) -> None:
        """Forget the values of tensors that an operation overwrites."""
        for place, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                given = args[place] if place < len(args) else kwargs.get(argument.name)
                for tensor in tensors_of([given]):
                    if self._known(tensor) is None:
                        continue
                    if tensor.layout != torch.strided:
                        delattr(tensor, _ORIGIN)
                    else:
                        del self._origins[tensor.untyped_storage()._cdata]

    def _places(self, indices: Any) -> list[Any]:
        """Replace truth values among indices by the positions where they are true."""
        places: list[Any] = []
        for index in indices:
            if index is None or index.dtype not in (torch.bool, torch.uint8):
                places.append(index)
                continue
            origin = self._known(index)
            found = (index if origin is not None else self._assumed(index)).nonzero()
            for column in found.unbind(1):
                self.gives(column, Origin.ASSUMED if origin is None else origin)
                places.append(column)
        return places

    def _packed(self, tensor: Tensor, lengths: Tensor, batch_first: bool) -> Any:
        """A padded sequence without its padding."""
        origin = self._known(lengths)
        if origin is None or origin >= Origin.BATCH_WITHOUT_VALUES:
            longest = tensor.shape[1 if batch_first else 0]
            lengths = torch.full(lengths.shape, longest, dtype=torch.long)
        narrow = torch.ones(()).expand(*tensor.shape[:2], 1)
        data, sizes = _ATEN._pack_padded_sequence(narrow, lengths, batch_first)
        self.gives(sizes, Origin.ASSUMED if origin is None else origin)
        return tensor.new_empty((data.shape[0], *tensor.shape[2:])), sizes

    def _from_stand_ins(self, func: Any, args: Any, kwargs: Any, error: Exception) -> Any:
        """Compute a result whose shape is undetermined, with ones for unknown values."""
        used = tensors_of([args, kwargs])
        size = sum(t.numel() * t.element_size() for t in used if isinstance(t, FakeTensor))
        advice = f"torch has no shape rule for {func}: add one with torch.library.register_fake"
        if size > _LARGEST_KNOWN_bytes:
            raise RuntimeError(advice) from error
        try:
            made = func(*stand_ins(args), **stand_ins(kwargs))
        except Exception as failure:
            raise RuntimeError(f"{advice}; on the CPU: {in_a_line(failure)}") from error
        return self._without_numbers(made)

    def _without_numbers(self, made: Any) -> Any:
        if isinstance(made, list | tuple):
            return type(made)(self._without_numbers(item) for item in made)
        if not isinstance(made, Tensor):
            return made
        if made.is_floating_point() or made.is_complex() or made.layout != torch.strided:
            return self.from_tensor(made)
        self.gives(made, Origin.ASSUMED)
        return made

    def _with_assumed(self, func: Any, args: Any, out: Any) -> Any:
        """Assume values for the integers and truth values in an operation's result."""
        if func._schema.is_mutable:
            return out
        if any(r.alias_info is not None for r in func._schema.returns):  # views
            return out
        if isinstance(out, Tensor):
            return self._with_assumed_values(func, args, out)
        if isinstance(out, tuple):
            return tuple(
                self._with_assumed_values(func, args, item) if isinstance(item, Tensor) else item
                for item in out
            )
        return out

    def _with_assumed_values(self, func: Any, args: Any, out: Tensor) -> Tensor:
        values = assumed_values(func, args, out, self.answer)
        if values is None:
            return out
        self.gives(values, Origin.ASSUMED)
        return values

    def _assumed(self, tensor: Tensor) -> Tensor:
        """The assumed values of a tensor."""
        return torch.full((), self.answer, dtype=tensor.dtype).expand(tensor.shape)


def _looks_at_values(func: Any, args: Any) -> bool:
    """Whether an operation's result in Python, or its shape, depends on values."""
    if func.overloadpacket in _INDEXED:
        return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
    tags = func.tags
    return torch.Tag.data_dependent_output in tags or torch.Tag.dynamic_output_shape in tags


def _place_of_question() -> str:
    """The file and line outside of torch that is running."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file == _WALK and frame.f_code.co_name == "__init__":  # where the step began
            break
        if not file.startswith((_TORCH, _OWN, "<frozen", "<string")):
            return f"{Path(file).name}:{frame.f_lineno}"
        frame = frame.f_back
    return "the backward pass"


def _is_whole(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def _is_small_and_whole(
    tensor: Tensor, size: Any = None, *_: Any, dtype: torch.dtype | None = None, **__: Any
) -> bool:
    """Whether a tensor like this one, perhaps of another size, is small and of integers."""
    shape = size if isinstance(size, list | tuple) else tensor.shape
    dtype = dtype or tensor.dtype
    is_whole = not (dtype.is_floating_point or dtype.is_complex)
    return is_whole and math.prod(shape) <= LARGEST_ASSUMED
