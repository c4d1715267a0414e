"""`power_limits`: what a lower power limit of the GPU would do to time and energy."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from energyest.arrays import FloatArray
from energyest.checks import check_positive, short
from energyest.errors import EstimateError
from energyest.estimators.pre.estimate import DEFAULT_GPU, estimate_pre, fitted_of
from energyest.estimators.pre.limits import clock_at, drawn_at
from energyest.gpus import Gpu, resolve_gpu
from energyest.records.probe import Probe
from energyest.records.workload import Workload

if TYPE_CHECKING:
    import pandas as pd

    from energyest.estimators.pre.model import PreModel

# Limits that are shown by default, as shares of the board's.
_SHARES = np.arange(10, 3, -1) / 10
# Below this share of the power without a limit, a limit is taken to hold a training back.
_HELD_BACK = 0.97


@dataclass(frozen=True)
class Point:
    """A training step, as measured at a power limit.

    Attributes:
        limit_W: power limit of the GPU.
        step_s: duration of a step, or of anything that is the same at all limits.
        power_W: mean power of the GPU.
    """

    limit_W: float
    step_s: float
    power_W: float


def power_limits(
    workload: Workload,
    gpu: str | Gpu | None = None,
    limits_W: Iterable[float] | None = None,
    *,
    epochs: float,
    train_samples: int,
    measured: Mapping[float, Probe] | None = None,
    model: PreModel | None = None,
    **training: Any,
) -> pd.DataFrame:
    """Time and energy of a training at several power limits of its GPU.

    The effect of a limit is computed: a GPU that is held back lowers its clock, and power above
    that at rest grows with the third power of the clock. With probes at two or more limits, the
    effect is fitted to them. This function sets no limit; a probe is made at another limit by
    setting it first (`nvidia-smi -pl`, as root), and setting it back afterwards.

    Args:
        workload: from `describe_workload`.
        gpu: as for `estimate_pre`.
        limits_W: limits in watts; by default 100 % to 40 % of the board's.
        epochs: number of epochs.
        train_samples: training samples per epoch.
        measured: limit in watts -> a probe of this workload on this GPU, made at that limit; two or
            more.
        model: a `PreModel` of your own; by default the one that comes with the package.
        **training: further arguments of `estimate_pre`, such as `devices`.

    Returns:
        One row per limit, the highest first: `power_limit_W`, `duration_s`, `energy_J`,
        `mean_power_W`; `slowdown` and `saving`, shares relative to the board's limit or, with
        probes, to the highest limit of a probe. Energies are those of the GPUs alone.

    Raises:
        EstimateError: a limit is not positive or below the power at rest, there is only one probe,
            the probes are of other GPUs or workloads, or an argument of `estimate_pre` is invalid.

    Examples:
        >>> import torch
        >>> from energyest import describe_workload
        >>> from energyest.estimators import power_limits
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(64, 64, 3), torch.nn.Conv2d(64, 64, 3))
        >>> workload = describe_workload(net, torch.randn(256, 64, 64, 64))
        >>> table = power_limits(workload, 'A100', [400, 250], epochs=10, train_samples=50_000)
        >>> bool(table.energy_J[1] < table.energy_J[0])
        True
    """
    import pandas as pd  # noqa: PLC0415  (keeps `import energyest` fast)

    for name in ("power_limit_W", "probe"):
        if name in training:
            raise EstimateError(f"power_limits takes limits_W and measured, and no {name}")
    probes = measured or {}
    points, best = _points(probes)
    chosen = resolve_gpu(gpu or (best.gpu if best is not None else DEFAULT_GPU))
    if any(probe.gpu.name != chosen.name for probe in probes.values()):
        raise EstimateError(f"the probes must be of {chosen.name}, like the training")
    options = {"epochs": epochs, "train_samples": train_samples, "model": model, **training}
    free = estimate_pre(workload, chosen, probe=best, **options)
    if limits_W is None:
        most_W = points[-1].limit_W if points else chosen.tdp_W
        limits_W = np.round(_SHARES * most_W, 1)
    wanted_W = _checked(limits_W)
    settings: list[dict[str, Any]] = [{"power_limit_W": limit_W} for limit_W in wanted_W]
    if best is not None:
        # The estimate is that of the highest limit; the others follow from the probes.
        response = Response.fitted(points, float(fitted_of(model).rest_W([chosen])[0]))
        if wanted_W[-1] < response.rest_W:
            raise EstimateError(
                f"limits_W holds {wanted_W[-1]:g}, and no limit brings the {chosen.name} below the "
                f"{response.rest_W:.0f} W that it draws at rest"
            )
        settings = [
            {"probe": replace(best, step_s=best.step_s * time, power_W=best.power_W * power)}
            for time, power in zip(*response.at(wanted_W), strict=True)
        ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the estimate above has said what there is to say
        found = [estimate_pre(workload, chosen, **setting, **options) for setting in settings]
    energy_J = np.array([estimate.energy_J for estimate in found])
    duration_s = np.array([estimate.duration_s for estimate in found], float)
    assert free.duration_s is not None
    devices = training.get("devices") or workload.devices
    table: pd.DataFrame = pd.DataFrame(
        {
            "power_limit_W": wanted_W,
            "duration_s": duration_s,
            "energy_J": energy_J,
            "mean_power_W": energy_J / duration_s / devices,
            "slowdown": duration_s / free.duration_s - 1,
            "saving": 1 - energy_J / free.energy_J,
        }
    )
    return table


def _checked(limits_W: Iterable[float]) -> FloatArray:
    """The limits, the highest first."""
    if not isinstance(limits_W, Iterable):
        raise EstimateError(f"limits_W={short(limits_W)} must be a list of limits in watts")
    wanted_W = [check_positive(limit_W, "limits_W", EstimateError) for limit_W in limits_W]
    if not wanted_W:
        raise EstimateError("limits_W is empty: give a limit in watts")
    found: FloatArray = -np.sort(-np.unique(wanted_W))
    return found


@dataclass(frozen=True)
class Response:
    """How a training responds to a power limit, from steps measured at two or more.

    Attributes:
        points: the measured steps, by ascending limit.
        rest_W: power at rest that explains them best.
        drawn: power under a limit, as a share of the limit.
    """

    points: tuple[Point, ...]
    rest_W: float
    drawn: float

    @classmethod
    def fitted(cls, points: Sequence[Point], rest_W: float) -> Response:
        """Fit the power at rest.

        Args:
            points: two or more, by ascending limit.
            rest_W: power at rest of such a GPU, if no limit holds the training back.
        """
        from scipy.optimize import minimize_scalar  # noqa: PLC0415  (slow to import)

        free = points[-1]
        held = [point for point in points if point.power_W < _HELD_BACK * free.power_W]
        if not held:
            return cls(tuple(points), min(rest_W, free.power_W), 1.0)
        seen_W = np.array([point.power_W for point in held])
        slower = np.log([point.step_s / free.step_s for point in held])

        def loss(rest_W: float) -> float:
            return float(np.sum((slower + np.log(clock_at(seen_W, free.power_W, rest_W))) ** 2))

        best = minimize_scalar(loss, bounds=(0.0, 0.98 * float(seen_W.min())), method="bounded")
        drawn = float(np.mean([point.power_W / point.limit_W for point in held]))
        return cls(tuple(points), float(best.x), drawn)

    def at(self, limits_W: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Time and power at limits, relative to those at the highest limit that was measured.

        At the measured limits, they are as measured.
        """
        measured_W = np.array([point.limit_W for point in self.points])
        time, power = self._computed(limits_W)
        at_points, power_at_points = self._computed(measured_W)
        free = self.points[-1]
        off = np.log([p.step_s / free.step_s for p in self.points] / at_points)
        off_power = np.log([p.power_W / free.power_W for p in self.points] / power_at_points)
        return (
            time * np.exp(np.interp(limits_W, measured_W, off)),
            power * np.exp(np.interp(limits_W, measured_W, off_power)),
        )

    def _computed(self, limits_W: FloatArray) -> tuple[FloatArray, FloatArray]:
        free_W = self.points[-1].power_W
        drawn_W = drawn_at(limits_W, free_W, self.rest_W, share=self.drawn)
        return 1 / clock_at(drawn_W, free_W, self.rest_W), drawn_W / free_W


def _points(measured: Mapping[float, Probe]) -> tuple[list[Point], Probe | None]:
    """The measured steps by ascending limit, and the probe at the highest limit."""
    if not measured:
        return [], None
    for limit, probe in measured.items():
        if not isinstance(probe, Probe):
            raise EstimateError(f"measured holds {short(probe)}: it must map a limit to a Probe")
        check_positive(limit, "a limit in measured", EstimateError)
    if len(measured) < 2:
        raise EstimateError("measured needs probes at two or more limits, of which one is high")
    ordered = sorted(measured.items())
    points = [Point(float(w), probe.step_s, probe.power_W) for w, probe in ordered]
    if any(math.isclose(a.limit_W, b.limit_W) for a, b in pairwise(points)):
        raise EstimateError("measured holds two probes at the same limit")
    return points, ordered[-1][1]
