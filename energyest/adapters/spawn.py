"""Tells the parent process where a training in spawned processes wrote its trace.

With Lightning's `strategy="ddp_spawn"` or `"ddp_notebook"`, and in accelerate's
`notebook_launcher`, a training runs in child processes, with copies of the callbacks. The path is
passed back through memory that a monitor shares with its copies.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch

log = logging.getLogger("energyest")

# The maximum length of a path on Linux.
_MOST_BYTES = 4096


class SharedPath:
    """A path that a child process writes and its parent reads."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._bytes: torch.Tensor | None = None
        try:
            self._bytes = torch.zeros(_MOST_BYTES, dtype=torch.uint8).share_memory_()
        except (RuntimeError, OSError) as error:  # no shared memory on this machine
            log.debug("energyest: traces of spawned processes will not be found: %s", error)

    def write(self, path: Path | None) -> None:
        """Store the path for the parent; in a process that was not spawned, clear it instead."""
        if self._bytes is not None:
            name = b"" if path is None or not self._is_spawned else os.fsencode(path.absolute())
            padded = name[:_MOST_BYTES].ljust(_MOST_BYTES, b"\0")
            self._bytes.copy_(torch.frombuffer(bytearray(padded), dtype=torch.uint8))

    def read(self) -> Path | None:
        """The path stored by a child; None if there is none, and in the child itself."""
        # Check the first byte only: some call this at every batch, and mostly there is no path.
        if self._bytes is None or not self._bytes[0] or self._is_spawned:
            return None
        return Path(os.fsdecode(bytes(self._bytes.tolist()).rstrip(b"\0")))

    @property
    def _is_spawned(self) -> bool:
        return os.getpid() != self._pid
