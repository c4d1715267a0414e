"""What older releases of torch and Lightning cannot do, where the package says so instead."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from packaging.version import Version

needs_watching = pytest.mark.skipif(
    Version(version("torch")).release < (2, 9),
    reason="before torch 2.9, steps cannot be watched, so their FLOPs are not counted",
)
# Before 2.6, Lightning looks at the methods of its callbacks before one of them can speak.
LIGHTNING_ASKS_FIRST = Version(version("pytorch-lightning")).release < (2, 6)
