"""How long STEP takes, compared with stumpy and ruptures on the same signals.

The signals are synthetic: a cold first epoch, a change of level, noise. Each time is the median of
repeated calls in one process, after a first call that compiles and imports.

Exits with 1 if a time misses its goal, with 2 if stumpy or ruptures is not installed.

    python -m benchmarks.evidence.step_speed
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import pandas as pd

from benchmarks.common.head import print_head
from energyest import EnergyTrace, estimate_step
from energyest.estimators import find_stable_epoch

EPOCHS, READINGS = 1000, 100_000
ESTIMATE_AIM_S, STABILITY_AIM_S = 1e-3, 50e-3


def epochs_J(kind: str) -> np.ndarray:
    rng = np.random.default_rng(1)
    energy_J = np.full(EPOCHS, 100.0)
    if kind == "changed":
        energy_J[: EPOCHS // 3] = 60
        energy_J[0] = 900
    if kind == "checkpoints":
        energy_J[4::5] += 40
    return energy_J * (1 + 0.01 * rng.standard_normal(EPOCHS))


def trace_of(kind: str) -> EnergyTrace:
    energy_J = epochs_J(kind)
    validation_J = np.where(np.arange(EPOCHS) % 5 == 4, 20.0, 0.0)
    if kind != "validation":
        return EnergyTrace.from_epochs(energy_J, np.full(EPOCHS, 2.0))
    return EnergyTrace.from_epochs(
        energy_J + validation_J, np.full(EPOCHS, 2.0), validation_energy_J=validation_J
    )


def readings() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times, power with a change after a third, and the ends of 1,000 epochs."""
    rng = np.random.default_rng(2)
    time_s = np.arange(READINGS) * 0.1
    power_W = np.where(time_s < time_s[-1] / 3, 200.0, 300.0) + rng.normal(0, 20, READINGS)
    return time_s, power_W, np.linspace(0, time_s[-1], EPOCHS + 1)[1:]


def median_s(call: Callable[[], object], repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def peers(power_W: np.ndarray, energy_J: np.ndarray) -> dict[str, tuple[Callable[[], int], int]]:
    """Functions that search for one change and return its position, with their repetitions."""
    import ruptures as rpt
    import stumpy

    def fluss() -> int:
        profile = stumpy.stump(power_W, m=10)
        return int(stumpy.fluss(profile[:, 1], L=10, n_regimes=2, excl_factor=3)[1][0])

    def binary(signal: np.ndarray) -> int:
        return int(rpt.Binseg(model="l2").fit(signal).predict(n_bkps=1)[0])

    def pelt() -> int:
        penalty = 3 * np.log(EPOCHS) * np.var(np.diff(energy_J)) / 2
        return int(rpt.KernelCPD(kernel="linear").fit(energy_J).predict(pen=penalty)[-2])

    return {
        f"ruptures Binseg, {READINGS:,} readings": (lambda: binary(power_W), 3),
        f"stumpy stump + FLUSS, {READINGS:,} readings": (fluss, 1),
        f"ruptures Binseg, {EPOCHS:,} epochs": (lambda: binary(energy_J), 5),
        f"ruptures KernelCPD (PELT), {EPOCHS:,} epochs": (pelt, 20),
    }


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    if not (find_spec("stumpy") and find_spec("ruptures")):
        print("step_speed: missing: pip install stumpy ruptures", file=sys.stderr)
        sys.exit(2)
    warnings.simplefilter("ignore")
    print_head(__file__, "stumpy", "ruptures", "numpy")
    rows: dict[str, dict[str, object]] = {}
    slowest_s = 0.0
    for kind in ("constant", "changed", "checkpoints", "validation"):
        trace = trace_of(kind)
        took_s = median_s(lambda trace=trace: estimate_step(trace, 2 * EPOCHS), 200)
        slowest_s = max(slowest_s, took_s)
        start = estimate_step(trace, 2 * EPOCHS).stable_epoch
        rows[f"estimate_step, {EPOCHS:,} epochs, {kind}"] = {"ms": 1e3 * took_s, "change at": start}
    ends_by_s = 2.0 * EPOCHS + 1e4
    took_s = median_s(lambda: estimate_step(trace, duration_s=ends_by_s), 50)
    rows[f"the same, {kind}, until the clock ends it"] = {"ms": 1e3 * took_s, "change at": start}
    time_s, power_W, ends_s = readings()

    def stability() -> int:
        return find_stable_epoch(EnergyTrace.from_power(time_s, power_W, ends_s))

    stability_s = median_s(stability, 20)
    rows[f"from_power + find_stable_epoch, {READINGS:,} readings"] = {
        "ms": 1e3 * stability_s,
        "change at": stability(),
    }
    for name, (search, repeats) in peers(power_W, epochs_J("changed")).items():
        rows[name] = {"ms": 1e3 * median_s(search, repeats), "change at": search()}
    print(pd.DataFrame.from_dict(rows, orient="index").to_string(float_format="%.2f"))
    reached = slowest_s <= ESTIMATE_AIM_S and stability_s <= STABILITY_AIM_S
    print(
        f"\nestimate in {1e3 * slowest_s:.2f} ms (aim {1e3 * ESTIMATE_AIM_S:g}), stability in "
        f"{1e3 * stability_s:.1f} ms (aim {1e3 * STABILITY_AIM_S:g}): "
        f"{'reached' if reached else 'MISSED'}"
    )
    sys.exit(0 if reached else 1)


if __name__ == "__main__":
    main()
