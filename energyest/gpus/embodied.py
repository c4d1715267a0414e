"""`embodied_kg`: a training's share of the emissions of making its hardware."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources

from energyest.checks import check_not_negative, check_positive, check_share
from energyest.errors import EstimateError
from energyest.gpus.gpu import Gpu
from energyest.gpus.lookup import resolve_gpu

_HOURS_PER_YEAR = 365.0 * 24


@dataclass(frozen=True)
class Embodied:
    """What making a GPU and its part of a server emitted.

    Attributes:
        gpu: name of the GPU, as in `energyest.gpus`.
        gpu_kg: kg CO2e of making the GPU.
        server_kg: kg CO2e of making the rest of the server, per GPU.
        source: where the figures were published.
    """

    gpu: str
    gpu_kg: float
    server_kg: float
    source: str


def known_embodied() -> tuple[Embodied, ...]:
    """The GPUs with published figures, and the figures.

    Examples:
        >>> from energyest.gpus import known_embodied
        >>> sorted(row.gpu for row in known_embodied())[0]
        'A100-PCIE-40GB'
    """
    return tuple(_table().values())


def embodied_kg(
    gpu: str | Gpu | Embodied,
    gpu_hours: float,
    *,
    lifetime_years: float = 6.0,
    use: float = 0.85,
) -> float:
    """A training's share of the emissions of making its GPUs and servers, in kg CO2e.

    The emissions are divided by the hours for which the hardware is in use over its life:
    (GPU + server) / (lifetime × use) × GPU hours. This is a line of its own in a report: it does
    not depend on the energy, and PUE does not apply.

    Args:
        gpu: a GPU of `known_embodied()`, or figures of your own as an `Embodied`.
        gpu_hours: hours of the training, times the number of GPUs.
        lifetime_years: years until the hardware is replaced.
        use: share of this time in which it is in use, above 0. The defaults of both are those of
            Luccioni, Viguier, Ligozat, "Estimating the Carbon Footprint of BLOOM", Journal of
            Machine Learning Research 24 (253), 2023, section 4.1.

    Raises:
        EstimateError: the GPU is unknown, there are no figures for it, or an argument is out of
            its range.

    Examples:
        >>> from energyest.gpus import embodied_kg
        >>> round(embodied_kg('A100', 1_082_990) / 1000, 1)  # BLOOM: 11.2 t
        11.2
    """
    known = gpu if isinstance(gpu, Embodied) else _figures_of(resolve_gpu(gpu))
    gpu_hours = check_not_negative(gpu_hours, "gpu_hours", EstimateError)
    years = check_positive(lifetime_years, "lifetime_years", EstimateError)
    share = check_positive(check_share(use, "use", EstimateError), "use", EstimateError)
    return (known.gpu_kg + known.server_kg) * gpu_hours / (years * _HOURS_PER_YEAR * share)


def _figures_of(gpu: Gpu) -> Embodied:
    known = _table().get(gpu.name)
    if known is None:
        raise EstimateError(
            f"no published figure for making a {gpu.name}: there are some for "
            f"{', '.join(_table())}; pass figures of your own as an Embodied"
        )
    return known


@cache
def _table() -> dict[str, Embodied]:
    table = resources.files("energyest") / "data" / "embodied_carbon.csv"
    return {
        row["gpu"]: Embodied(
            row["gpu"], float(row["gpu_kg_CO2e"]), float(row["server_kg_CO2e"]), row["source"]
        )
        for row in csv.DictReader(table.read_text(encoding="utf-8").splitlines())
    }
