"""An address that fsspec opens, such as `s3://bucket/runs`: what changed is fetched and read."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from energyest.errors import MissingDependencyError, RunsError, TraceError
from energyest.records import storage
from energyest.records.places.base import (
    RANK,
    SETTLED_AFTER_S,
    Found,
    Known,
    Listing,
    NeedsReadings,
    signature_of,
)

# What changes with a file, under the names that file systems of fsspec have for it.
_CHECKSUMS = ("ETag", "etag", "md5Hash", "content_md5")
_TIMES = ("mtime", "LastModified", "last_modified", "modified", "updated", "created")
_CHANGES = (*_CHECKSUMS, *_TIMES)
_MOST_BYTES = {
    storage.META_FILE: storage.MOST_META_BYTES,
    storage.LATEST_FILE: storage.MOST_META_BYTES,
    storage.EPOCHS_FILE: storage.MOST_EPOCHS_BYTES,
    storage.POWER_FILE: storage.MOST_POWER_BYTES,
}


class RemotePlace:
    """A folder that fsspec opens.

    Args:
        address: such as `s3://bucket/runs` or `memory://runs`.

    Raises:
        RunsError: nothing opens addresses of this kind.
        MissingDependencyError: fsspec, or the package that it needs for this kind, is not
            installed.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        try:
            from fsspec.core import url_to_fs  # noqa: PLC0415  (optional)

            self._fs, root = url_to_fs(address)
        except ImportError as error:
            raise MissingDependencyError(
                f"{address} needs a package that is not installed: {error} (pip install fsspec, "
                "and s3fs, gcsfs or adlfs for S3, Google Cloud or Azure)"
            ) from error
        except Exception as error:  # whatever that file system raises
            raise RunsError(f"{address} cannot be opened: {error}") from error
        self._root = str(root).rstrip("/")

    def look(self, known: Known) -> Listing:
        """See `Place`. All files are listed each time, in as few requests as it takes."""
        try:
            self._fs.invalidate_cache()  # what was listed before may have changed
            files: dict[str, Any] = self._fs.find(self._root, detail=True)
        except Exception as error:
            raise RunsError(f"{self._address} cannot be listed: {error}") from error
        if not files:
            raise RunsError(f"there is no folder {self._address}, or it is empty")
        settled_s = time.time() - SETTLED_AFTER_S
        listing = Listing()
        for name, infos in _by_trace(files, len(self._root) + 1).items():
            stamps = {file: _stamp(info) for file, info in infos.items()}
            before, signature = known.runs.get(name, ((), ""))
            now = signature_of([stamps.get(file) for file in before])
            # Readings that did not count do not count now.
            is_new = any(not file.endswith(storage.POWER_FILE) for file in stamps.keys() - before)
            if signature and signature == now and not is_new:
                listing.unchanged.append(name)
            else:
                is_settled = all(_is_settled(info, settled_s) for info in infos.values())
                listing.found.append(Found(name, stamps, is_settled))
        return listing

    @contextmanager
    def open(self, found: Found, needs_readings: NeedsReadings) -> Iterator[Path]:
        """See `Place`. Readings are fetched only if they are needed."""
        metas = [file for file in found.stamps if file.endswith(storage.META_FILE)]
        contents = self._fetch(found, metas)
        ended = [file for file, data in contents.items() if not needs_readings(data)]
        skipped = {f"{file.removesuffix(storage.META_FILE)}{storage.POWER_FILE}" for file in ended}
        contents |= self._fetch(found, [f for f in found.stamps if f not in {*metas, *skipped}])
        with tempfile.TemporaryDirectory(prefix="energyest-") as folder:
            for file, data in contents.items():
                target = Path(folder, file)
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(data)
            yield Path(folder)

    def has(self, found: Found) -> bool:
        """See `Place`."""
        try:
            self._fs.invalidate_cache()
            return bool(self._fs.exists(self._at(found.name, storage.META_FILE)))
        except Exception:
            return False

    def label(self, name: str) -> str:
        """See `Place`."""
        return self._root.rpartition("/")[2] if name == "." else name

    def read(self, name: str, most_bytes: int) -> bytes | None:
        """See `Place`."""
        path = self._at(".", name)
        try:
            size = self._fs.info(path)["size"]
            if size > most_bytes:
                raise ValueError(f"it is larger than {most_bytes} bytes")
            data: bytes = self._fs.cat_file(path)
            return data
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            raise
        except Exception as error:
            raise OSError(str(error)) from error

    def replace(self, name: str, text: str) -> None:
        """See `Place`. Object stores show a file only when it is whole."""
        try:
            self._fs.pipe_file(self._at(".", name), text.encode())
        except Exception as error:
            raise OSError(str(error)) from error

    # ------------------------------------------------------------------ inside

    def _at(self, name: str, file: str) -> str:
        return f"{self._root}/{file}" if name == "." else f"{self._root}/{name}/{file}"

    def _fetch(self, found: Found, files: list[str]) -> dict[str, bytes]:
        for file in files:
            size, most = found.stamps[file][0], _MOST_BYTES[file.rpartition("/")[2]]  # type: ignore[index]
            if size > most:
                raise TraceError(f"{self._at(found.name, file)} is larger than {most} bytes")
        if not files:
            return {}
        paths = {self._at(found.name, file): file for file in files}
        try:
            contents: Mapping[str, bytes] = self._fs.cat(list(paths), on_error="raise")
        except OSError:
            raise
        except Exception as error:
            raise OSError(f"{self._address}: {error}") from error
        if isinstance(contents, bytes):  # of a single path
            contents = {next(iter(paths)): contents}
        return {paths[path]: data for path, data in contents.items() if path in paths}


def _by_trace(files: Mapping[str, Any], skipped: int) -> dict[str, dict[str, Any]]:
    """Name of a trace -> its files, those in the folders of ranks included.

    Args:
        files: what is known of each file, by its path.
        skipped: characters of each path that lead to the place.
    """
    folders: dict[str, dict[str, Any]] = {}
    for path in sorted(files):
        folder, _, file = path[skipped:].rpartition("/")
        if file in storage.FILES:
            folders.setdefault(folder, {})[file] = files[path]
    traces: dict[str, dict[str, Any]] = {}
    for folder, inside in folders.items():
        above, _, last = folder.rpartition("/")
        if RANK.fullmatch(last) and storage.META_FILE in folders.get(above, ()):
            traces[above or "."] |= {f"{last}/{file}": info for file, info in inside.items()}
        elif storage.META_FILE in inside:
            traces[folder or "."] = dict(inside)
    return traces


def _stamp(info: Mapping[str, Any]) -> tuple[int, str]:
    """The size of a file, and what else changes with it."""
    return int(info.get("size") or 0), repr([info[name] for name in _CHANGES if name in info])


def _is_settled(info: Mapping[str, Any], since_s: float) -> bool:
    """Whether a change from now on will show: the last one is some time ago, or is a checksum."""
    if any(name in info for name in _CHECKSUMS):
        return True
    times = [info[name] for name in _TIMES if info.get(name) is not None]
    return bool(times) and all(_seconds(time) < since_s for time in times)


def _seconds(when: object) -> float:
    """Seconds since 1970; the future, if the time is in no known form."""
    try:
        if isinstance(when, str):
            when = datetime.fromisoformat(when.replace("Z", "+00:00"))
        if isinstance(when, datetime):
            zoned = when if when.tzinfo else when.replace(tzinfo=timezone.utc)
            return zoned.timestamp()
        return float(when)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.inf
