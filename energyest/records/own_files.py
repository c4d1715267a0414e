"""Files that this process creates in a folder: it replaces no others and follows no links."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from io import FileIO
from itertools import islice
from pathlib import Path, PurePath

# Lines encoded and written at a time.
_BATCH = 1000
# A new file: it must not exist yet and may not be a link. Flags that a system lacks are 0.
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_CREATE |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
_HAS_HANDLES = {os.open, os.stat, os.unlink, os.rename, os.link} <= os.supports_dir_fd


class OwnFiles:
    """The files that one object owns in a folder, which may hold other files.

    The object keeps working on the folder it opened, even if that is moved or replaced. A file is
    written to a draft with an unpredictable name, which then replaces the old file, so nobody sees
    it half written.

    Args:
        path: the folder, which must exist; it may be reached through a link.

    Raises:
        OSError: the folder cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # None if the system has no folder handles: paths are used instead.
        self._handle = os.open(path, _FOLDER) if _HAS_HANDLES else None
        self._folder = os.stat(path) if self._handle is None else os.fstat(self._handle)
        # Kept open: otherwise the system could reuse a removed file's inode number for another.
        self._made: dict[str, FileIO] = {}
        self._adopted: dict[str, os.stat_result] = {}
        # Some network file systems give a file a new inode number at each look-up.
        self._can_tell = os.path.samestat(os.stat(path), self._folder)

    def create(self, name: str) -> None:
        """Create an empty file.

        Raises:
            FileExistsError: the file exists, even if only as a broken link.
            OSError: it cannot be created.
        """
        self._made[name] = self._create(name)
        self._can_tell = self._can_tell and self.is_own(name)

    def append(self, name: str, lines: Iterable[str]) -> None:
        """Append to a file that this object created, without buffering.

        Raises:
            OSError: it cannot be written.
        """
        for batch in _batches(lines):
            write(self._made[name], batch)

    def replace(self, name: str, lines: Iterable[str]) -> None:
        """Replace the whole content of a file, or create it.

        Raises:
            FileExistsError: the file exists and is not this object's.
            OSError: it cannot be written.
        """
        draft = f".{name[:40]}.{secrets.token_hex(8)}"
        file = self._create(draft)
        try:
            for batch in _batches(lines):
                write(file, batch)
            self._take_place(draft, name)
        except BaseException:
            _close(file)
            self._unlink(draft)
            raise
        self._let_go(name)
        self._made[name] = file

    def remove(self, name: str) -> None:
        """Remove a file if this object owns it."""
        if self.is_own(name):
            os.unlink(self._at(name), dir_fd=self._handle)
        self._let_go(name)

    def adopt(self, name: str) -> None:
        """Treat an existing file, such as one of an earlier process, as this object's own."""
        there = self._stat(name)
        if there is not None:
            self._adopted[name] = there

    def exists(self, name: str) -> bool:
        """Whether the folder holds anything with this name."""
        return self._stat(name) is not None

    def is_own(self, name: str) -> bool:
        """Whether this object created what the folder holds under this name."""
        there, file = self._stat(name), self._made.get(name)
        made = self._adopted.get(name) if file is None else os.fstat(file.fileno())
        if there is None or made is None or not stat.S_ISREG(there.st_mode):
            return False
        return not self._can_tell or os.path.samestat(there, made)

    def is_foreign(self, name: str) -> bool:
        """Whether the folder holds something under this name that this object does not own."""
        return self.exists(name) and not self.is_own(name)

    def is_at(self, path: Path) -> bool:
        """Whether a path still leads to the folder."""
        try:
            there = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        if not self._can_tell:
            return stat.S_ISDIR(there.st_mode)
        return os.path.samestat(there, self._folder)

    def close(self) -> None:
        """Close the folder and its files; nothing is lost, because nothing is buffered."""
        for name in list(self._made):
            self._let_go(name)
        handle, self._handle = self._handle, None
        if handle is not None:
            with contextlib.suppress(OSError):
                os.close(handle)

    # ------------------------------------------------------------------ inside

    def _at(self, name: str) -> str:
        return name if self._handle is not None else os.path.join(self.path, name)

    def _create(self, name: str) -> FileIO:
        return FileIO(os.open(self._at(name), _CREATE, 0o666, dir_fd=self._handle), "w")

    def _let_go(self, name: str) -> None:
        _close(self._made.pop(name, None))
        self._adopted.pop(name, None)

    def _stat(self, name: str) -> os.stat_result | None:
        try:
            return os.stat(self._at(name), dir_fd=self._handle, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _take_place(self, draft: str, name: str) -> None:
        """Give a draft its name, in one step."""
        old, new = self._at(draft), self._at(name)
        handles = {"src_dir_fd": self._handle, "dst_dir_fd": self._handle}
        if not self.exists(name):
            # Linking fails if the name exists, so it is safe against concurrent writers.
            try:
                os.link(old, new, **handles, follow_symlinks=False)
            except FileExistsError:
                raise
            except (OSError, NotImplementedError):
                pass  # a file system without links
            else:
                self._unlink(draft)
                return
        if self.is_foreign(name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self.path / name))
        os.replace(old, new, **handles)

    def _unlink(self, name: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._at(name), dir_fd=self._handle)


def save_file(path: str | PurePath, text: str, is_ours: Callable[[Path], bool]) -> None:
    """Write a file atomically: a concurrent reader sees the old content.

    Args:
        path: where to write; links are followed.
        text: the content.
        is_ours: returns whether an existing file may be replaced.

    Raises:
        FileExistsError: there is a file that may not be replaced.
        OSError: it cannot be written.
    """
    target = Path(os.path.realpath(path))
    own = OwnFiles(target.parent)
    try:
        own.adopt(target.name)
        if own.exists(target.name) and not is_ours(target):
            reason = "the file exists, was not written by energyest, and is not replaced"
            raise FileExistsError(errno.EEXIST, reason, str(path))
        own.replace(target.name, [text])
    finally:
        own.close()


def write(file: FileIO, text: str) -> None:
    """Write a whole text as UTF-8, without buffering."""
    data = memoryview(text.encode())
    while data:  # a disk that is nearly full accepts only part
        data = data[file.write(data) :]


def _close(file: FileIO | None) -> None:
    if file is not None:
        with contextlib.suppress(OSError):
            file.close()


def _batches(lines: Iterable[str]) -> Iterator[str]:
    rest = iter(lines)
    while batch := "".join(islice(rest, _BATCH)):
        yield batch
