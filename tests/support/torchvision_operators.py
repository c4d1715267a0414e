"""torchvision's operators, where its build is for another torch: many libraries import it."""

from __future__ import annotations

import contextlib
from importlib.util import find_spec

import torch
from torch import Tensor

# Kept, as an operator lives as long as its library.
_made: list[torch.library.Library] = []


def complete() -> None:
    """Let `import torchvision` work, and suppress boxes that overlap; to be called before it."""
    if _made or find_spec("torchvision") is None:
        return
    with contextlib.suppress(RuntimeError):  # an operator that does not exist
        import torchvision  # noqa: F401

        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):  # the one that does
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            library.impl(name, _kept, "CPU")
    _made.append(library)
    from torchvision import extension

    extension._has_ops = lambda: True


def _kept(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices of boxes that overlap with none of a higher score, best first."""
    kept, left = [], scores.argsort(descending=True)
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        low = torch.maximum(boxes[best, :2], boxes[left, :2])
        high = torch.minimum(boxes[best, 2:], boxes[left, 2:])
        common = (high - low).clamp(min=0).prod(1)
        areas = [(box[..., 2:] - box[..., :2]).prod(-1) for box in (boxes[best], boxes[left])]
        left = left[common <= iou_threshold * (areas[0] + areas[1] - common)]
    return torch.stack(kept) if kept else left
