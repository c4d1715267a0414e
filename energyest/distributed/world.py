"""Whether this process is one of several that train together."""

from __future__ import annotations

import os
import sys


def is_one_of_several() -> bool:
    """Whether torch.distributed, or the launcher of this process, knows of other processes."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_world_size()) > 1
    launched = os.environ.get("WORLD_SIZE", "")  # by torchrun
    return launched.isdecimal() and int(launched) > 1
