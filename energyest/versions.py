"""The versions of the software that a run uses."""

from __future__ import annotations

import contextlib
import platform
import sys


def versions() -> dict[str, str]:
    """Versions of this package, of Python, and of the libraries that are loaded."""
    from energyest import __version__  # noqa: PLC0415  (the package is initialised by now)

    found = {"energyest": __version__, "python": platform.python_version()}
    for name in ("torch", "pytorch_lightning", "lightning", "transformers"):
        # Python 3.13.0 raises SystemError where a module lacks a name and the working directory is
        # gone, as transformers does until it is asked for its version.
        with contextlib.suppress(KeyError, AttributeError, SystemError):
            found[name] = str(sys.modules[name].__version__)
    torch = sys.modules.get("torch")
    if torch is not None and torch.version.cuda:
        found["cuda"] = str(torch.version.cuda)
    return found
