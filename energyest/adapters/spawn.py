"""What a training in spawned processes leaves to the one that started it: where its trace is.

With Lightning's `strategy="ddp_spawn"` or `"ddp_notebook"`, and in accelerate's
`notebook_launcher`, a training runs in child processes, on copies of the callbacks. A piece of
memory that a monitor shares with its copies carries the answer back.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch

log = logging.getLogger("energyest")

# As long as a path can be on Linux.
_MOST_BYTES = 4096


class SharedPath:
    """A path that a child process writes and its parent reads."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._bytes: torch.Tensor | None = None
        try:
            self._bytes = torch.zeros(_MOST_BYTES, dtype=torch.uint8).share_memory_()
        except (RuntimeError, OSError) as error:  # a machine without shared memory
            log.debug("energyest: the trace of spawned processes will not be found: %s", error)

    def write(self, path: Path | None) -> None:
        """Leave the path to the parent; in a process that was not spawned, forget what was left."""
        if self._bytes is not None:
            name = b"" if path is None or not self._is_spawned else os.fsencode(path.absolute())
            padded = name[:_MOST_BYTES].ljust(_MOST_BYTES, b"\0")
            self._bytes.copy_(torch.frombuffer(bytearray(padded), dtype=torch.uint8))

    def read(self) -> Path | None:
        """The path that a child has left since; None in the child itself."""
        # The first byte tells: a monitor is asked at every batch by some, and mostly holds nothing.
        if self._bytes is None or not self._bytes[0] or self._is_spawned:
            return None
        return Path(os.fsdecode(bytes(self._bytes.tolist()).rstrip(b"\0")))

    @property
    def _is_spawned(self) -> bool:
        return os.getpid() != self._pid
