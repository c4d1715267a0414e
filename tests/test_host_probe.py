"""The probe of the CPU alone: what it measures, what it leaves alone, what `estimate_pre` does."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import torch

from energyest.errors import EstimateError
from energyest.estimators.pre import roofline_model
from energyest.estimators.pre.estimate import estimate_pre
from energyest.estimators.pre.fitted import packaged
from energyest.estimators.pre.roofline_model import _HOSTS, HOST_PROBE_DEVIATION
from energyest.gpus import resolve_gpu
from energyest.profiling import probe_host
from energyest.profiling.probes import host_probe
from energyest.records.probe import USUAL_HOST_STEP_S, HostProbe
from energyest.records.workload import Operation, Workload
from simulation.synthetic_pre import small_model, workload

H100 = resolve_gpu("H100")
# A thousand operations of nothing, and one operation of a second's work.
LAUNCH_BOUND = workload(
    operations=(
        Operation("forward", "add", 500, 0.0, 1e4),
        Operation("backward", "add", 500, 0.0, 1e4),
    )
)
GPU_BOUND = workload(
    operations=(
        Operation("forward", "mm", 1, 2 * 2e13, 1e9, 100_000, 10_000, 10_000),
        Operation("backward", "mm", 2, 2 * 2e13, 1e9, 100_000, 10_000, 10_000),
    )
)


def host(factor: float) -> HostProbe:
    return HostProbe(500, factor * USUAL_HOST_STEP_S)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_probe, "_WARM_S", 0.01)
    monkeypatch.setattr(host_probe, "_TIMED_S", 0.02)


# ---------------------------------------------------------------------- the record


def test_the_usual_machine_is_the_one_of_the_packaged_model() -> None:
    """A new fit of the model needs a new evaluation of the stored test of the CPU."""
    path = Path(__file__).parents[1] / "benchmarks" / "results" / "launch_rate.json"
    report = json.loads(path.read_text(encoding="utf-8"))
    assert report["host_factor"] == packaged().core.hosts[report["host"]]
    assert report["usual_s"] == pytest.approx(USUAL_HOST_STEP_S, rel=0.01)


def test_the_factor_is_relative_to_the_usual_machine() -> None:
    found = HostProbe(300, 1.5 * USUAL_HOST_STEP_S)
    assert found.factor == pytest.approx(1.5)
    assert "1.5 times as long as usual" in str(found)
    assert "300 steps" in str(found)


@pytest.mark.parametrize("step_s", [0, -1e-3, math.nan, math.inf, "1", None, True])
def test_what_is_not_a_time_is_refused(step_s: float) -> None:
    with pytest.raises(EstimateError, match=r"step_s=.* of a probe must be a number above 0"):
        HostProbe(300, step_s)


# ---------------------------------------------------------------------- the measurement


class Machine:
    """A clock that advances only in steps, by scripted durations."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, taken_s: Iterator[float]) -> None:
        self.now_s, self.taken_s = 0.0, taken_s
        monkeypatch.setattr(host_probe.time, "perf_counter", lambda: self.now_s)
        monkeypatch.setattr(host_probe, "_step", lambda: self.step)

    def step(self) -> None:
        self.now_s += next(self.taken_s)


def test_it_measures_steps_that_nothing_disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine steps in ten wait for their core, and one in a thousand is impossibly quick."""
    chance = np.random.default_rng(0)
    disturbed = 2e-3 * (1 + chance.exponential(1, 1000))
    taken_s = np.where(chance.random(1000) < 0.9, disturbed, 1e-3)
    taken_s[0] = 1e-9
    Machine(monkeypatch, cycle(taken_s.tolist()))
    assert probe_host().step_s == pytest.approx(1e-3, rel=1e-6)


def test_a_machine_that_is_slower_has_a_larger_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    factors = []
    for step_s in (1e-3, 3e-3):
        Machine(monkeypatch, cycle([step_s]))
        factors.append(probe_host().factor)
    assert factors[1] == pytest.approx(3 * factors[0])


def test_the_start_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A core may run fast for a moment, in a power burst, or slowly before it wakes."""
    Machine(monkeypatch, iter([1e-4] * 100 + [1e-3] * 5000))
    assert probe_host().step_s == pytest.approx(1e-3)


def test_steps_that_are_slow_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, cycle([1.0]))
    found = probe_host()
    assert (found.steps, found.step_s) == (host_probe._FEWEST, pytest.approx(1.0))


def test_it_takes_about_a_second_and_tells_of_this_machine() -> None:
    found = probe_host()
    assert found.steps >= host_probe._FEWEST
    # A step has some hundred operations, each taking at least a tenth of a microsecond.
    assert 1e-5 < found.step_s < 0.5


@pytest.mark.usefixtures("short")
def test_nothing_is_changed() -> None:
    torch.manual_seed(3)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    python_before = np.random.get_state()[1].tolist()  # noqa: NPY002
    probe_host()
    assert torch.equal(torch.get_rng_state(), before)
    assert np.random.get_state()[1].tolist() == python_before  # noqa: NPY002
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()
    assert torch.get_default_device() == torch.device("cpu")


@pytest.mark.usefixtures("short")
def test_threads_are_as_before_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("no step")

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        monkeypatch.setattr(host_probe, "_step", lambda: broken)
        with pytest.raises(RuntimeError, match="no step"):
            probe_host()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


@pytest.mark.usefixtures("short")
def test_whatever_the_user_has_set() -> None:
    """Other defaults would make it another test: doubles, mixed precision, another device."""
    device = torch.get_default_device()
    seen = []
    original = host_probe._Net.forward

    def watched(self: host_probe._Net, x: torch.Tensor) -> torch.Tensor:
        found = original(self, x)
        product = self.blocks[0](x)
        seen.append((product.dtype, found.device.type, found.requires_grad))
        return found

    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    host_probe._Net.forward = watched  # type: ignore[method-assign]
    try:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            assert probe_host().step_s > 0
    finally:
        host_probe._Net.forward = original  # type: ignore[method-assign]
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(device)
    assert set(seen) == {(torch.float32, "cpu", True)}


# ---------------------------------------------------------------------- the estimate


def duration_s(load: Workload, probe: HostProbe | None = None) -> float:
    found = estimate_pre(load, "H100", epochs=1, train_samples=32_000, probe=probe)
    assert found.duration_s is not None
    return found.duration_s


def test_what_launching_bounds_takes_so_many_times_as_long() -> None:
    usual = duration_s(LAUNCH_BOUND, host(1))
    assert duration_s(LAUNCH_BOUND, host(2)) == pytest.approx(2 * usual, rel=0.15)
    assert duration_s(LAUNCH_BOUND, host(0.7)) == pytest.approx(0.7 * usual, rel=0.15)
    assert usual == pytest.approx(duration_s(LAUNCH_BOUND))


def test_what_the_gpu_bounds_takes_as_long_as_before() -> None:
    assert duration_s(GPU_BOUND, host(2)) == pytest.approx(duration_s(GPU_BOUND), rel=0.02)


def test_how_much_less_is_unknown_follows_from_the_stated_deviation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pairs = [(LAUNCH_BOUND, H100), (GPU_BOUND, H100)]
    unknown = packaged().predict(pairs).deviation_energy
    found = {}
    for deviation in (0.0, HOST_PROBE_DEVIATION, _HOSTS):
        monkeypatch.setattr(roofline_model, "HOST_PROBE_DEVIATION", deviation)
        found[deviation] = packaged().predict(pairs, factor=1.0).deviation_energy
    # As uncertain as before if the factor is, and by so much less as it is known.
    assert found[_HOSTS] == pytest.approx(unknown)
    removed = np.sqrt(unknown**2 - found[HOST_PROBE_DEVIATION] ** 2)
    assert removed[0] == pytest.approx(math.sqrt(_HOSTS**2 - HOST_PROBE_DEVIATION**2), rel=0.05)
    assert removed[1] < 0.01
    assert (found[0.0] <= found[HOST_PROBE_DEVIATION]).all()
    # A machine that is slow for sure is no less certain than any.
    slow = packaged().predict(pairs, factor=2.0).deviation_energy
    assert slow == pytest.approx(found[_HOSTS], rel=0.1)


def test_the_interval_is_narrower_and_the_estimate_says_why() -> None:
    plain = estimate_pre(LAUNCH_BOUND, "H100", epochs=1, train_samples=3200)
    found = estimate_pre(LAUNCH_BOUND, "H100", epochs=1, train_samples=3200, probe=host(1))
    for estimate in (plain, found):
        assert estimate.lower_J
        assert estimate.upper_J
    assert found.upper_J / found.lower_J < plain.upper_J / plain.lower_J  # type: ignore[operator]
    assert found.method.startswith("PRE with a probe of the CPU: ")
    assert any("1 times as long as usual" in text for text in found.assumptions)
    assert found.energy_J == pytest.approx(plain.energy_J)


def test_by_default_it_is_an_h100() -> None:
    asked = {"epochs": 1, "train_samples": 3200, "probe": host(1.2)}
    assert estimate_pre(LAUNCH_BOUND, **asked) == estimate_pre(LAUNCH_BOUND, "H100", **asked)  # type: ignore[arg-type]


def test_memory_is_still_watched() -> None:
    """Unlike a probe on the GPU, it does not show what fits into its memory."""
    large = workload(operations=LAUNCH_BOUND.operations, saved_bytes=1e12)
    with pytest.warns(UserWarning, match="unlikely to fit"):
        estimate_pre(large, "H100", epochs=1, train_samples=3200, probe=host(1))


def test_a_model_of_ones_own_has_learnt_its_machines() -> None:
    with pytest.raises(EstimateError, match="probe of the CPU needs the packaged model"):
        estimate_pre(
            LAUNCH_BOUND, "H100", epochs=1, train_samples=32, probe=host(1), model=small_model()
        )
