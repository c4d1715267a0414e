"""Where the benchmarks find their data, and the message if a file is missing.

`PACKAGED` is part of the repository. `FOLDER` holds other data: it is `../shared/data` next to the
checkout, or the folder named by the environment variable ENERGYEST_DATA.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGED = REPOSITORY / "benchmarks" / "data"
FOLDER = Path(os.environ.get("ENERGYEST_DATA", REPOSITORY.parent / "shared" / "data"))


def missing(*names: str) -> str | None:
    """A message about what is missing to read these files; None if nothing is.

    Args:
        names: paths below `FOLDER`.
    """
    absent = [str(FOLDER / name) for name in names if not (FOLDER / name).exists()]
    if absent:
        return (
            f"missing: {', '.join(absent)}. Put the data there, or name their folder in the "
            "environment variable ENERGYEST_DATA (benchmarks/README.md says where they come from)"
        )
    if any(name.endswith(".parquet") for name in names) and find_spec("pyarrow") is None:
        return "missing: the package pyarrow, which reads .parquet files: pip install pyarrow"
    return None


def require(*names: str) -> None:
    """End the process with status 2 and a message if one of these files cannot be read."""
    message = missing(*names)
    if message is not None:
        _end(message)


def require_packages(*names: str) -> None:
    """End the process with status 2 and a message if one of these packages is not installed."""
    absent = [name for name in names if find_spec(name) is None]
    if absent:
        _end(f"missing: pip install {' '.join(absent)}")


def _end(message: str) -> NoReturn:
    print(f"{Path(sys.argv[0]).stem}: {message}", file=sys.stderr)
    sys.exit(2)
