"""A torch that uses CUDA, on a machine without a GPU."""

from __future__ import annotations

import pytest


def use_cuda(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Let torch use so many GPUs of which it tells nothing."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    monkeypatch.setattr(torch._C, "_cuda_getDeviceCount", lambda: count, raising=False)
