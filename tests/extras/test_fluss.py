"""The paper's method of segmentation, with stumpy (extra `fluss`)."""

from __future__ import annotations

import numpy as np
import pytest

from energyest import EnergyTrace
from energyest.errors import EstimateError
from energyest.estimators import find_stable_epoch

pytest.importorskip("stumpy")


def test_change_of_a_pattern_is_found() -> None:
    # Power that swings slowly, then quickly: a change of shape, which is what FLUSS looks for.
    rng = np.random.default_rng(0)
    time = np.arange(0, 600.0)
    period = np.where(time < 200, 40, 11)
    power = 200 + 50 * np.sin(2 * np.pi * time / period) + rng.normal(0, 2, 600)
    trace = EnergyTrace.from_power(time, power, np.arange(20, 600, 20.0))
    assert find_stable_epoch(trace, method="fluss") in (9, 10)  # 200 s is the edge of the two


def test_too_short() -> None:
    trace = EnergyTrace.from_power(np.arange(0, 40.0), np.ones(40), [20, 39])
    with pytest.raises(EstimateError, match="needs 70 s of readings; the trace holds 39"):
        find_stable_epoch(trace, method="fluss")
    with pytest.raises(EstimateError, match="needs power readings"):
        find_stable_epoch(EnergyTrace.from_epochs(energy_J=[1, 1]), method="fluss")
