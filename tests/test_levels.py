"""The present level of a sequence: known changes, and a plain implementation to compare with."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energyest.estimators.step.changepoint import last_change
from energyest.estimators.step.level import current_level
from tests.support.plain_levels import log_evidence, weights


def draws(seed: int = 11) -> np.random.Generator:
    """Random numbers of a test's own, whatever tests ran before it."""
    return np.random.default_rng(seed)


def start_of(values) -> int:
    change = last_change(np.asarray(values, dtype=float))
    return int(change.starts[change.best(3)])


def follows_single(values) -> bool:
    change = last_change(np.asarray(values, dtype=float))
    best = change.best(3)
    return bool(change.ages[best] > len(values) - change.starts[best])


# ---------------------------------------------------------------------- the plain version

_values = st.lists(st.floats(0.01, 1000), min_size=1, max_size=24)


@given(values=_values)
def test_equals_the_plain_version(values: list[float]) -> None:
    change = last_change(np.array(values))
    np.testing.assert_array_equal(change.starts, np.arange(len(values)))
    np.testing.assert_allclose(change.weights, weights(values), rtol=1e-6, atol=1e-9)


@settings(max_examples=10, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4).filter(lambda x: sum(x) > 40),
    seed=st.integers(0, 100),
)
def test_nearly_equals_the_plain_version_of_long_runs(lengths: list[int], seed: int) -> None:
    # Of a long run, not every start is a candidate; the mean over all of them hardly changes.
    rng = np.random.default_rng(seed)
    levels = np.repeat(rng.uniform(50, 150, len(lengths)), lengths)
    values = levels * (1 + 0.01 * rng.standard_normal(len(levels)))
    plain = np.array(weights(list(values)))
    counts = np.arange(len(values), 0, -1)
    means = np.cumsum(values[::-1])[::-1] / counts
    expected = float(plain @ means)
    change = last_change(values)
    mean = float(change.weights @ means[change.starts])
    assert mean == pytest.approx(expected, rel=0.003)


def test_the_evidence_is_a_density() -> None:
    # Integrated over all pairs of values, it is 1: for the near part; the far one has density 1
    # over the logarithm of the level, so that its integral is the width of the range.
    grid = np.linspace(-1.5, 1.5, 121)
    step = grid[1] - grid[0]
    total = sum(np.exp(log_evidence([float(x)])) * step for x in grid)
    from energyest.estimators.step.changepoint import FAR

    assert total == pytest.approx((1 - FAR) * 1.0 + FAR * 3.0, abs=0.05)


# ---------------------------------------------------------------------- signals with known changes


@pytest.mark.parametrize("at", [10, 33, 100, 333, 700])
@pytest.mark.parametrize("factor", [0.3, 0.9, 1.1, 3.0])
def test_a_step_is_found_to_the_epoch(at: int, factor: float) -> None:
    values = 100 * (1 + 0.005 * draws().standard_normal(1000))
    values[:at] /= factor
    for size in (at + 8, at + 40, 1000):
        if size <= 1000:
            assert abs(start_of(values[:size]) - at) <= 1  # the first may pass for a single one


@pytest.mark.parametrize(
    ("noise", "share"), [(0.001, 0.95), (0.01, 0.9), (0.05, 0.75), (0.1, 0.75)]
)
def test_no_change_in_constant_noise(noise: float, share: float) -> None:
    found = []
    for seed in range(10):
        values = 100 * (1 + noise * draws(seed).standard_normal(100))
        found += [start_of(values[:size]) == 0 for size in range(5, 100, 5)]
    assert np.mean(found) >= share


def test_cold_first_epoch_and_cold_epoch_after_a_change() -> None:
    cold = np.concatenate([[3400], 100 + draws().normal(0, 1, 9)])
    assert start_of(cold) == 1
    assert follows_single(cold)
    changed = np.concatenate([np.full(10, 100.0), [700], 200 + draws().normal(0, 1, 5)])
    assert start_of(changed) == 11
    assert follows_single(changed)
    assert not follows_single(np.repeat([100.0, 200.0], [10, 5]))


def test_exponential_warm_up() -> None:
    # The level is close to its end value, and the early epochs are not part of it.
    values = 100 - 30 * np.exp(-np.arange(40) / 3) + draws().normal(0, 0.3, 40)
    level = current_level(values)
    assert level.mean == pytest.approx(100, rel=0.01)
    assert 4 <= level.start <= 20


def test_a_ramp_is_followed() -> None:
    # No level at all: the newest epochs say more than the mean of all, and the drift shows.
    values = np.linspace(100, 200, 60) + draws().normal(0, 1, 60)
    level = current_level(values)
    assert level.mean > 1.1 * values.mean()
    assert level.drift > 0.02


def test_a_sawtooth_is_one_level() -> None:
    values = 100 + np.tile([0.0, 3, 6, 9], 30) + draws().normal(0, 0.5, 120)
    level = current_level(values)
    assert level.start == 0
    assert level.mean == pytest.approx(104.5, rel=0.005)


def test_heavy_tails_hardly_cost_accuracy() -> None:
    # Of the mean of all epochs, which is the best there is here, and of a fixed window.
    off: dict[str, list[float]] = {"level": [], "all": [], "last five": []}
    for seed in range(60):
        noise = np.random.default_rng(seed).standard_t(2, 100)
        values = 100 * (1 + 0.01 * np.clip(noise, -20, 20))
        off["level"].append(abs(current_level(values).mean - 100))
        off["all"].append(abs(values.mean() - 100))
        off["last five"].append(abs(values[-5:].mean() - 100))
    median = {name: np.median(errors) for name, errors in off.items()}
    assert median["level"] <= 1.3 * median["all"]
    assert median["level"] <= 0.6 * median["last five"]


def test_autocorrelated_noise_keeps_its_level() -> None:
    off = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        noise = np.zeros(200)
        for i in range(1, 200):
            noise[i] = 0.7 * noise[i - 1] + rng.normal(0, 0.5)
        level = current_level(100 + noise)
        off.append(level.mean / 100 - 1)
    assert np.sqrt(np.mean(np.square(off))) < 0.006


def test_zero_and_huge_values() -> None:
    assert current_level(np.zeros(6)).mean == 0
    assert current_level(np.array([0.0, 0, 5, 5, 5, 5])).mean == pytest.approx(5, rel=0.01)
    assert current_level(np.full(5, 1e300)).mean == pytest.approx(1e300)


@given(
    values=st.lists(st.floats(1, 1000), min_size=1, max_size=60),
    exponent=st.integers(-30, 30),
)
def test_scale_does_not_matter(values: list[float], exponent: int) -> None:
    plain = current_level(np.array(values))
    scaled = current_level(np.array(values) * 2.0**exponent)
    assert scaled.start == plain.start
    assert scaled.mean == pytest.approx(plain.mean * 2.0**exponent)
    assert scaled.uncertainty == pytest.approx(plain.uncertainty, abs=1e-15)
    assert scaled.drift == pytest.approx(plain.drift, abs=1e-12)


@given(values=st.lists(st.just(0.0) | st.floats(1e-6, 1000), min_size=1, max_size=60))
def test_shares_are_a_mean(values: list[float]) -> None:
    level = current_level(np.array(values))
    assert level.shares.sum() == pytest.approx(1)
    assert (level.shares >= -1e-12).all()
    assert min(values) * (1 - 1e-9) <= level.mean <= max(values) * (1 + 1e-9)
    assert level.uncertainty >= 0
    assert level.spread >= 0
