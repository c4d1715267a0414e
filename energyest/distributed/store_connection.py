"""A connection to torch.distributed's store that can be cut while a thread waits for its answer.

The training's own connection cannot be cut: a thread that waits in it returns only when the store
answers, and if Python is exiting by then, the whole process is aborted. (Python ends such a thread
by unwinding its stack, which the store's C++ code does not allow.) A separate connection also
leaves the training's free, because a store answers one query of a connection after the other.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

# The training reached this store a moment ago, or it would not be running.
_CONNECT_S = 2.0
# The open files of a process, on Linux and macOS.
_OPEN_FILES = Path("/dev/fd")


class Store(Protocol):
    """The methods used of a store of torch.distributed."""

    def set(self, key: str, value: str) -> None: ...  # noqa: D102
    def check(self, keys: list[str]) -> bool: ...  # noqa: D102
    def get(self, key: str) -> bytes: ...  # noqa: D102
    def delete_key(self, key: str) -> bool: ...  # noqa: D102


class StoreConnection:
    """A store for use by one thread, which another thread may cut off.

    Args:
        store: the training's store. A store that answers over a network (a `TCPStore`, even inside
            other stores) is reached over a separate connection; any other is used as it is.

    Raises:
        Exception: the store cannot be reached.
    """

    def __init__(self, store: Any) -> None:
        self._sockets: list[socket.socket] = []
        self._is_cut = False
        tcp = _tcp_store(store)
        self._store = store if tcp is None else self._connect(tcp)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        ask = getattr(self._store, name)

        def asked(*args: Any, **kwargs: Any) -> Any:
            if self._is_cut:
                raise ConnectionAbortedError("the process is ending")
            return ask(*args, **kwargs)

        return asked

    def cut(self) -> None:
        """Make waiting and further queries fail."""
        self._is_cut = True
        for connection in self._sockets:
            with contextlib.suppress(OSError):  # it is closed already
                connection.shutdown(socket.SHUT_RDWR)

    def _connect(self, store: Any) -> Any:
        before = {inode for inode, _ in _connections(store.port)}
        own = type(store)(
            store.host,
            store.port,
            is_master=False,
            timeout=timedelta(seconds=_CONNECT_S),
            wait_for_workers=False,
        )
        for inode, number in _connections(store.port):
            if inode not in before:
                with contextlib.suppress(OSError):
                    self._sockets.append(socket.socket(fileno=os.dup(number)))
        return own


def _tcp_store(store: Any) -> Any:
    """The `TCPStore` that a store is or leads to; None if there is none."""
    distributed = sys.modules.get("torch.distributed")
    kind = getattr(distributed, "TCPStore", None)
    while hasattr(store, "underlying_store"):  # a prefix before the keys
        store = store.underlying_store
    return store if kind is not None and isinstance(store, kind) else None


def _connections(port: int) -> list[tuple[int, int]]:
    """Inode and file descriptor of each open connection of this process to a port."""
    found = []
    with contextlib.suppress(OSError):
        for name in os.listdir(_OPEN_FILES):
            with contextlib.suppress(OSError, ValueError):
                status = os.fstat(int(name))
                if stat.S_ISSOCK(status.st_mode):
                    with socket.socket(fileno=os.dup(int(name))) as copy:
                        is_network = copy.family in (socket.AF_INET, socket.AF_INET6)
                        if is_network and copy.getpeername()[1] == port:
                            found.append((status.st_ino, int(name)))
    return found
