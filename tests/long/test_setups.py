"""With a monitor, a training of any kind is the same bit for bit, in both namespaces."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from simulation.setups import SETUPS
from tests.support.setups import check_unchanged
from tests.support.trainers import lightning_warns

pytestmark = lightning_warns


@pytest.mark.parametrize("name", SETUPS)
def test_a_training_is_the_same(name: str, pl: ModuleType, tmp_path: Path) -> None:
    check_unchanged(SETUPS[name], pl, tmp_path)


def test_there_are_enough() -> None:
    assert len(SETUPS) >= 60
