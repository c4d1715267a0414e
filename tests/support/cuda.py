"""A torch that uses CUDA, on a machine without a GPU."""

from __future__ import annotations

import pytest


def use_cuda(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Make torch use a number of GPUs without giving any information about them."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    monkeypatch.setattr(torch._C, "_cuda_getDeviceCount", lambda: count, raising=False)
