"""Running a model on shapes alone, without leaving anything behind that is a shape alone."""

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils.weak import WeakIdKeyDictionary

from energyest.profiling.operations import tensors_of

# Constants of more numbers than this have no values: it is a causal mask of 4096 positions.
_LARGEST_CONSTANT = 2**24
_LIFT = torch.ops.aten.lift_fresh


class ShapesAlone(FakeTensorMode):
    """torch's mode of tensors without values, in which constants have values nevertheless.

    A function that a model shares with its copy may keep what it made, as `functools.lru_cache`
    does for masks and tables of positions. A training that was handed a tensor without values from
    there would fail. What is made from no other tensor, and what is made from such constants alone,
    is therefore computed.

    Attributes:
        keeps_constants: whether that is so now, as it is not at first; else nothing has values.
    """

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.keeps_constants = False
        self._constants: Any = WeakIdKeyDictionary()
        self._is_inside = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute an operation on constants; of others, find the shape of what comes out."""
        kwargs = kwargs or {}
        if self._is_inside or not self.keeps_constants:
            return super().__torch_dispatch__(func, types, args, kwargs)
        if not self._is_of_constants(func, args, kwargs):
            return self._shapes(func, types, args, kwargs)
        if func._schema.is_mutable:
            return func(*args, **kwargs)  # no larger than what it writes to
        shapes = self._shapes(func, types, args, kwargs)
        if any(t.numel() > _LARGEST_CONSTANT for t in tensors_of(shapes)):
            return shapes
        try:
            out = func(*args, **kwargs)
        except Exception:  # such as one for a GPU that is not there
            return shapes
        for tensor in tensors_of(out):
            self._constants[tensor] = True
        return out

    def _shapes(self, *call: Any) -> Any:
        """What comes out, without values; torch may take the operation apart and come back here."""
        self._is_inside = True
        try:
            return super().__torch_dispatch__(*call)
        finally:
            self._is_inside = False

    def _is_of_constants(self, func: Any, args: Any, kwargs: Any) -> bool:
        if func.overloadpacket is _LIFT:  # of torch.tensor([1.0, 2.0])
            return not isinstance(args[0], FakeTensor)
        if kwargs.get("generator") is not None or str(kwargs.get("device", "")) == "meta":
            return False
        return all(tensor in self._constants for tensor in tensors_of([args, kwargs]))
