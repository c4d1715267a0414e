"""With a monitor, a training is the same bit for bit; all set-ups are in `tests/long`."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning

from simulation.setups import SETUPS
from tests.support.setups import check_unchanged
from tests.support.trainers import lightning_warns

pytestmark = lightning_warns
SOME = (
    *("perceptron", "transformer", "numpy generator", "counter and queue", "rejection sampling"),
    *("hooks", "metrics in the module", "gradient penalty", "adversarial", "several loaders"),
    *("compiled function", "another mode in a callback", "bf16 mixed"),
)


@pytest.mark.parametrize("name", SOME)
def test_a_training_is_the_same(name: str, tmp_path: Path) -> None:
    check_unchanged(SETUPS[name], pytorch_lightning, tmp_path)
