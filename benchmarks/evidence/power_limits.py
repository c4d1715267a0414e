"""How well is the effect of a power limit known, and which limit would one choose?

On trainings that the authors of Zeus measured at all limits of a V100, an RTX 6000 and a P100: the
error of time and energy at limits that were not measured, computed alone and with one or two
further limits measured; and by how much the chosen limit is worse than the best one, by Zeus's cost
(eta x energy + (1 - eta) x the highest limit x time). Zeus's optimiser finds the best limit by
measuring all of them. Exits with 2 if data are missing.

    python -m benchmarks.evidence.power_limits
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from benchmarks.common.data_folder import FOLDER, require
from benchmarks.common.head import print_head
from benchmarks.common.older_trainings import FILES, GPUS
from energyest.estimators.pre.fitted import packaged
from energyest.estimators.pre.limits import clock_at, drawn_at, drawn_share
from energyest.estimators.pre.power_limits import Point, Response
from energyest.gpus import resolve_gpu

# Below this share of the power at the highest limit, a limit is assumed to slow a training down.
HELD_BACK = 0.97
ETAS = (0.0, 0.5, 1.0)
Effect = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def trainings() -> Iterator[tuple[list[Point], float]]:
    """The steps of each training by ascending limit, and the power of its GPU at rest."""
    for short, name in FILES.items():
        rest_W = float(packaged().rest_W([resolve_gpu(GPUS[short])])[0])
        table = pd.read_csv(FOLDER / name)
        for _, rows in table.groupby(["dataset", "network", "batch_size", "optimizer"]):
            ordered = rows.sort_values("power_limit")
            points = [
                Point(row.power_limit, row.time_per_epoch, row.average_power)
                for row in ordered.itertuples()
            ]
            held = sum(p.power_W < HELD_BACK * points[-1].power_W for p in points)
            if held >= 3:
                yield points, rest_W


def computed(points: list[Point], rest_W: float) -> Effect:
    """The effect without a measurement at another limit, as `power_limits` computes it."""
    free_W = points[-1].power_W
    share = drawn_share(free_W, points[-1].limit_W)

    def effect(limits_W: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        drawn_W = drawn_at(limits_W, free_W, rest_W, share=share)
        return 1 / clock_at(drawn_W, free_W, rest_W), drawn_W / free_W

    return effect


def ways(points: list[Point], rest_W: float) -> dict[str, tuple[Effect, set[int]]]:
    """Name -> effect of a limit, and the positions of the measurements that it used."""
    last, middle = len(points) - 1, len(points) // 2
    chosen = {"lowest limit measured": [0, last], "and one in between": [0, middle, last]}
    found: dict[str, tuple[Effect, set[int]]] = {
        "computed alone": (computed(points, rest_W), {last})
    }
    for name, places in chosen.items():
        response = Response.fitted([points[place] for place in places], rest_W)
        found[name] = response.at, set(places)
    return found


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    require(*FILES.values())
    print_head(__file__, "numpy", "scipy")
    off: dict[str, list[tuple[float, float]]] = {}
    worse: dict[tuple[str, float], list[float]] = {}
    number = 0
    for points, rest_W in trainings():
        number += 1
        limits_W = np.array([p.limit_W for p in points])
        step_s, power_W = (np.array([getattr(p, n) for p in points]) for n in ("step_s", "power_W"))
        for name, (effect, used) in ways(points, rest_W).items():
            time, power = effect(limits_W)
            found_s, found_W = points[-1].step_s * time, points[-1].power_W * power
            for i, point in enumerate(points):
                if i not in used and point.power_W < HELD_BACK * points[-1].power_W:
                    energy = found_s[i] * found_W[i] / (step_s[i] * power_W[i])
                    off.setdefault(name, []).append((found_s[i] / step_s[i], energy))
            for eta in ETAS:
                by_found = eta * found_W * found_s + (1 - eta) * limits_W[-1] * found_s
                cost = eta * power_W * step_s + (1 - eta) * limits_W[-1] * step_s
                regret = cost[np.argmin(by_found)] / cost.min() - 1
                worse.setdefault((name, eta), []).append(float(regret))
                worse.setdefault(("no limit", eta), []).append(float(cost[-1] / cost.min() - 1))
    print(f"\n{number} trainings; error at limits that were not measured, mean and median in %")
    for name, pairs in off.items():
        error = 100 * np.abs(np.array(pairs) - 1)
        time, energy = error.T
        print(
            f"  {name:<24}{len(pairs):5} limits; time {time.mean():5.1f} {np.median(time):5.1f};"
            f" energy {energy.mean():5.1f} {np.median(energy):5.1f}"
        )
    print("\ncost of the chosen limit above that of the best, mean and 90th percentile in %")
    for name in ("no limit", *off):
        parts = [100 * np.array(worse[name, eta]) for eta in ETAS]
        texts = [
            f"eta {eta:g}: {part.mean():5.1f} {np.quantile(part, 0.9):5.1f}"
            for eta, part in zip(ETAS, parts, strict=True)
        ]
        print(f"  {name:<24}{'; '.join(texts)}")


if __name__ == "__main__":
    main()
