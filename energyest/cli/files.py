"""Files that a user asks for: nothing that is there already is replaced unasked."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

from energyest.errors import ConfigurationError


def check_output(path: str, force: bool) -> Path:
    """Where to write a file, before the work begins.

    Raises:
        ConfigurationError: there is a file already, or no such folder.
    """
    target = Path(path)
    if target.is_dir():
        raise ConfigurationError(f"{path} is a folder: --output names a file")
    if not target.absolute().parent.is_dir():
        raise ConfigurationError(f"there is no folder {target.absolute().parent} to write to")
    if target.is_file() and not force:
        raise ConfigurationError(f"{path} is there already: --force replaces it")
    return target


def write(target: Path, save: Callable[[io.BytesIO], object]) -> None:
    """Write a file as a whole: an old one stays if the new one cannot be made.

    Args:
        target: the file.
        save: writes its bytes.

    Raises:
        OSError: it cannot be written.
    """
    content = io.BytesIO()
    save(content)
    if target.exists() and not target.is_file():  # a pipe
        target.write_bytes(content.getvalue())
        return
    place = Path(os.path.realpath(target))
    draft = place.with_name(f".{place.name[:40]}.{os.getpid()}")
    try:
        draft.write_bytes(content.getvalue())
        draft.replace(place)
    finally:
        draft.unlink(missing_ok=True)
