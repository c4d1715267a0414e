"""Where traces lie: a folder of this machine, or an address that fsspec opens."""

from __future__ import annotations

from pathlib import Path

from energyest.records.places.base import Found, Known, Listing, Place, in_order, is_inside
from energyest.records.places.local import LocalPlace

__all__ = ["Found", "Known", "Listing", "Place", "in_order", "is_inside", "place_of"]


def place_of(source: str | Path) -> Place:
    """The place that a path or an address names.

    Raises:
        RunsError: there is no such folder, or nothing opens addresses of its kind.
        MissingDependencyError: the address needs a package that is not installed.
    """
    text = str(source)
    if isinstance(source, str) and "://" in text and not text.startswith(("file://", "local://")):
        from energyest.records.places.remote import RemotePlace  # noqa: PLC0415  (imports fsspec)

        return RemotePlace(text)
    return LocalPlace(Path(text.partition("://")[2] or text) if "://" in text else Path(source))
