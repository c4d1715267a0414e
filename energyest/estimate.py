"""`Estimate`, the result of every estimator, and `NotStableError`, which may carry one."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from energyest.carbon import CarbonSeries, Intensity, co2e_kg
from energyest.carbon.emissions import check_pue
from energyest.carbon.series import seconds_of
from energyest.display import JOULES_PER_KWH, format_both, format_duration, format_energy
from energyest.errors import EnergyestError, EstimateError
from energyest.markup import as_html

if TYPE_CHECKING:
    from datetime import datetime

    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Estimate:
    """The estimated energy of a whole training.

    Attributes:
        energy_J: total energy in joules.
        lower_J: lower end of the prediction interval; None where the method gives none.
        upper_J: upper end of the prediction interval; None where the method gives none.
        confidence: nominal coverage probability of the interval; None without an interval.
        duration_s: projected duration of the whole training in seconds; None if unknown.
        duration_lower_s: lower end of the prediction interval of `duration_s`, at the same
            confidence; None where the method gives none.
        duration_upper_s: upper end of that interval.
        epochs_lower: lower end of the prediction interval of `epochs`, at the same confidence, if
            the number of epochs is itself estimated; None if it is given.
        epochs_upper: upper end of that interval.
        measured_J: the part of `energy_J` that was measured, not estimated; None if not known.
        epochs: the number of epochs (or intervals, for a trace of intervals) that the estimate
            covers; None if it is not about epochs.
        method: the method, in a few words.
        assumptions: the assumptions that the estimate relies on, one sentence each.
        stable_epoch: first epoch of the level that the estimate projects from; None if there is
            no such level.
        unit: what `epochs` counts.

    Examples:
        >>> from energyest import Estimate
        >>> estimate = Estimate(energy_J=7.2e6, lower_J=6.9e6, upper_J=7.6e6, confidence=0.9)
        >>> estimate.energy_kWh
        2.0
        >>> round(estimate.co2e_kg(350), 3)  # at 350 g CO2e per kWh
        0.7
    """

    energy_J: float
    lower_J: float | None = None
    upper_J: float | None = None
    confidence: float | None = None
    duration_s: float | None = None
    measured_J: float | None = None
    epochs: float | None = None
    method: str = ""
    assumptions: tuple[str, ...] = ()
    stable_epoch: int | None = None
    unit: str = "epoch"
    duration_lower_s: float | None = None
    duration_upper_s: float | None = None
    epochs_lower: float | None = None
    epochs_upper: float | None = None

    @property
    def energy_kWh(self) -> float:
        """Total energy in kilowatt-hours."""
        return self.energy_J / JOULES_PER_KWH

    def co2e_kg(
        self,
        intensity_g_per_kWh: Intensity,
        *,
        pue: float = 1.0,
        start: datetime | str | None = None,
    ) -> float:
        """Emissions in kg CO2e. For an interval, see `energyest.carbon.co2e_kg`.

        Args:
            intensity_g_per_kWh: carbon intensity of the electricity where and when the training
                runs: a number in g CO2e per kWh, a country, a `CarbonIntensity` or a
                `CarbonSeries`.
            pue: power usage effectiveness of the data centre; see `energyest.carbon.co2e_kg`.
            start: for a series, when the training starts, with a time zone; now by default. The
                energy is spread evenly over `duration_s`.

        Raises:
            EstimateError: the country is unknown, the intensity is negative or not finite, the PUE
                is below 1 or not finite; or the series does not cover the training, or its
                duration is unknown.
        """
        if not isinstance(intensity_g_per_kWh, CarbonSeries):
            return co2e_kg(self.energy_J, intensity_g_per_kWh, pue=pue)
        if not self.duration_s:
            raise EstimateError("emissions by a series need the duration of the training")
        begin_s = time.time() if start is None else seconds_of(start, "start")
        time_s = np.array([begin_s, begin_s + self.duration_s])
        return check_pue(pue) * intensity_g_per_kWh.co2e_kg(time_s, np.array([0.0, self.energy_J]))

    def plot(self) -> Figure:
        """Plot the energy as a bar with its interval; see `energyest.plots.plot_estimate`.

        Raises:
            MissingDependencyError: matplotlib is not installed.
        """
        import energyest  # noqa: PLC0415  (a local import: plots depend on estimates)

        return energyest.plots.plot_estimate(self)

    def __str__(self) -> str:
        text = format_both(self.energy_J)
        if self.epochs is not None:
            text += f" for {self.epochs:.6g} {self.unit}{'s' * (self.epochs != 1)}"
            if self.epochs_lower is not None and self.epochs_upper is not None:
                text += f" ({self.epochs_lower:.6g} to {self.epochs_upper:.6g})"
        if self.duration_s is not None:
            text += f" in {format_duration(self.duration_s)}"
        if self.lower_J is not None and self.upper_J is not None:
            ends = f"{format_energy(self.lower_J)} to {format_energy(self.upper_J)}"
            text += f", {100 * (self.confidence or 0):.6g} % interval {ends}"
            if self.duration_lower_s is not None and self.duration_upper_s is not None:
                least, most = self.duration_lower_s, self.duration_upper_s
                text += f" and {format_duration(least)} to {format_duration(most)}"
        if self.method:
            text += f" [{self.method}]"
        return text

    def _repr_html_(self) -> str:
        measured_J = self.measured_J
        known = [] if measured_J is None else [f"measured so far: {format_energy(measured_J)}"]
        return as_html(str(self), notes=[*known, *self.assumptions])


class NotStableError(EnergyestError):
    """The training has not yet reached a stable level to project from.

    Attributes:
        reason: the reason, without the advice that `str()` of the error adds.
        estimate: the best estimate from the epochs so far, without a guarantee; None if no epoch
            was measured.
        missing_epochs: the least number of further epochs that have to be measured.

    Examples:
        >>> from energyest import EnergyTrace, NotStableError, estimate_step
        >>> try:
        ...     estimate_step(EnergyTrace.from_epochs([5100, 4020]), epochs=100)
        ... except NotStableError as error:
        ...     print(error.missing_epochs)
        1
    """

    def __init__(
        self, message: str, *, estimate: Estimate | None = None, missing_epochs: int = 1
    ) -> None:
        super().__init__(message)
        self.reason = message
        self.estimate = estimate
        self.missing_epochs = missing_epochs

    def __str__(self) -> str:
        if self.estimate is None:
            return self.reason
        return f"{self.reason}. The error's .estimate holds the best guess so far"

    def __reduce__(self) -> tuple[object, ...]:
        # By default, unpickling would pass only the message to __init__ and lose the estimate.
        return (_rebuild, (self.reason, self.estimate, self.missing_epochs))


def _rebuild(message: str, estimate: Estimate | None, missing_epochs: int) -> NotStableError:
    return NotStableError(message, estimate=estimate, missing_epochs=missing_epochs)
