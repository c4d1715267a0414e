"""The versions of the software that a run uses."""

from __future__ import annotations

import platform
import sys


def versions() -> dict[str, str]:
    """Versions of this package, of Python, and of the libraries that are loaded."""
    from energyest import __version__  # noqa: PLC0415  (the package is initialised by now)

    found = {"energyest": __version__, "python": platform.python_version()}
    for name in ("torch", "pytorch_lightning", "lightning", "transformers"):
        module = sys.modules.get(name)
        if module is not None and hasattr(module, "__version__"):
            found[name] = str(module.__version__)
    torch = sys.modules.get("torch")
    if torch is not None and torch.version.cuda:
        found["cuda"] = str(torch.version.cuda)
    return found
