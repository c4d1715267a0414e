"""`Budget`: what a training may cost, in kWh, in kg CO2e or in hours, and what happens beyond."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from energyest.carbon import Intensity, co2e_kg
from energyest.checks import check_positive, short
from energyest.display import JOULES_PER_KWH
from energyest.errors import ConfigurationError

OnExceed: TypeAlias = Literal["warn", "stop"]

_SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True)
class Limit:
    """One bound of a budget.

    Attributes:
        amount: how much may be spent, in `unit`.
        unit: such as `kWh`.
        size: joules in one of the unit or, of a duration, seconds.
        is_duration: whether time is bounded, and not energy.
    """

    amount: float
    unit: str
    size: float
    is_duration: bool = False

    @property
    def most(self) -> float:
        """The amount in joules or, of a duration, in seconds."""
        return self.amount * self.size

    def text(self, value: float) -> str:
        """Joules, or seconds, in the unit of the budget."""
        return f"{value / self.size:.4g} {self.unit}"

    def __str__(self) -> str:
        return f"{self.amount:g} {self.unit}"


@dataclass(frozen=True)
class Budget:
    """What a training may cost.

    Attributes:
        limits: its bounds; each counts by itself. Without any, there is no budget.
        stops: whether a training ends where one is exceeded; if not, that is only warned of.
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
        """The budget that the arguments of a monitor make.

        Args:
            kWh: of energy at the machine.
            kg: of CO2e; joules are converted by `energyest.carbon.co2e_kg`.
            hours: of training, pauses left out.
            on_exceed: "warn" or "stop".
            intensity: carbon intensity of the electricity; None if none is set.
            pue: power usage effectiveness of the data centre; it counts for kg alone.

        Raises:
            ConfigurationError: an argument is out of its range, or kg has no carbon intensity.
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
                    f"budget_kg={kg:g} needs a carbon intensity: give carbon_intensity=, such as "
                    '"DE" or a number in g CO2e per kWh, or set ENERGYEST_CARBON_INTENSITY'
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
        """What the trace's meta says of it before anything is exceeded."""
        amounts = {limit.unit: limit.amount for limit in self.limits}
        return {"limits": amounts, "on_exceed": "stop" if self.stops else "warn"}
