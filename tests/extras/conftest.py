"""What the libraries that are tested here need before they are imported."""

from __future__ import annotations

import os

from tests.support.torchvision_operators import complete

os.environ["KERAS_BACKEND"] = "torch"
complete()
