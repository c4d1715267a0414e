"""`Budget`: limits of a training in kWh, kg CO2e or hours, and what happens beyond them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from energyest.carbon import CarbonSeries, Intensity, co2e_kg
from energyest.checks import check_positive, short
from energyest.display import JOULES_PER_KWH
from energyest.errors import ConfigurationError

OnExceed: TypeAlias = Literal["warn", "stop"]

_SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True)
class Limit:
    """One limit of a budget.

    Attributes:
        amount: how much may be spent, in `unit`.
        unit: the unit, such as `kWh`.
        size: joules (for a duration, seconds) per unit.
        is_duration: whether the limit is on time instead of energy.
    """

    amount: float
    unit: str
    size: float
    is_duration: bool = False

    @property
    def most(self) -> float:
        """The amount in joules or, for a duration, in seconds."""
        return self.amount * self.size

    def text(self, value: float) -> str:
        """Joules or seconds, as text in the unit of the limit."""
        return f"{value / self.size:.4g} {self.unit}"

    def __str__(self) -> str:
        return f"{self.amount:g} {self.unit}"


@dataclass(frozen=True)
class Budget:
    """What a training may cost.

    Attributes:
        limits: the limits, each checked independently; empty without a budget.
        stops: whether training ends when a limit is exceeded; if not, there is only a warning.
    """

    limits: tuple[Limit, ...] = ()
    stops: bool = False

    @classmethod
    def of(
        cls,
        *,
        kWh: float | None,
        kg: float | None,
        hours: float | None,
        on_exceed: OnExceed,
        intensity: Intensity | None,
        pue: float,
    ) -> Budget:
        """Build the budget from the arguments of a monitor.

        Args:
            kWh: limit on the energy at the machine.
            kg: limit on CO2e; joules are converted by `energyest.carbon.co2e_kg`.
            hours: limit on the training time, without pauses.
            on_exceed: "warn" or "stop".
            intensity: carbon intensity of the electricity; None if none is set.
            pue: power usage effectiveness of the data centre; it applies to kg only.

        Raises:
            ConfigurationError: an argument is invalid, or kg is given without a carbon intensity.
        """
        if on_exceed not in ("warn", "stop"):
            raise ConfigurationError(f"on_exceed={short(on_exceed)} must be 'warn' or 'stop'")
        limits = []
        if kWh is not None:
            kWh = check_positive(kWh, "budget_kWh", ConfigurationError)
            limits.append(Limit(kWh, "kWh", JOULES_PER_KWH))
        if kg is not None:
            kg = check_positive(kg, "budget_kg", ConfigurationError)
            if intensity is None:
                raise ConfigurationError(
                    f"budget_kg={kg:g} needs a carbon intensity: pass carbon_intensity= (such as "
                    '"DE", or a number in g CO2e per kWh) or set ENERGYEST_CARBON_INTENSITY'
                )
            if isinstance(intensity, CarbonSeries):
                raise ConfigurationError(
                    f"budget_kg={kg:g} needs one carbon intensity, and not a series: pass a number "
                    "or a country as carbon_intensity="
                )
            kg_per_J = co2e_kg(1.0, intensity, pue=pue)
            limits.append(Limit(kg, "kg CO2e", 1 / kg_per_J if kg_per_J > 0 else math.inf))
        if hours is not None:
            hours = check_positive(hours, "budget_hours", ConfigurationError)
            limits.append(Limit(hours, "hours", _SECONDS_PER_HOUR, is_duration=True))
        if on_exceed == "stop" and not limits:
            raise ConfigurationError(
                "on_exceed='stop' needs a budget: budget_kWh=, budget_kg= or budget_hours="
            )
        return cls(tuple(limits), stops=on_exceed == "stop")

    def as_meta(self) -> dict[str, Any]:
        """The entry in the trace's meta before any limit is exceeded."""
        amounts = {limit.unit: limit.amount for limit in self.limits}
        return {"limits": amounts, "on_exceed": "stop" if self.stops else "warn"}
