"""`Advice`: the result of `advise`, as a table that can be read, queried and plotted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from energyest.display import as_text, format_duration, format_energy
from energyest.errors import RunsError
from energyest.estimators.pre.estimate import GPU_ALONE
from energyest.markup import as_html
from energyest.tradeoff.metrics import Mode
from energyest.tradeoff.pareto import cheapest_within

COLUMNS = (
    *("model", "gpu", "batch_size", "precision"),
    *("energy_J", "energy_lower_J", "energy_upper_J"),
    *("duration_s", "mean_power_W", "quality"),
    *("basis", "on_front", "may_be_on_front", "note"),
)
# At most this many rows are shown as text.
_MOST_SHOWN = 12


@dataclass(frozen=True, eq=False, repr=False)
class Advice:
    """The expected cost of training each model on each GPU, and which pairs to consider.

    Attributes:
        table: one row per pair of model and GPU, with the front first, then by energy:

            - `model`, `gpu`, `batch_size`;
            - `precision`: the precision that the GPU computes in;
            - `energy_J`, with the interval `energy_lower_J` to `energy_upper_J`: energy of the GPU
              for the whole training; `duration_s`; `mean_power_W`;
            - `quality`: the expected quality given by the caller, or NaN;
            - `basis`: "interpolation" between measured trainings, "extrapolation" beyond them,
              "probe", or "probe elsewhere" (the same model on another GPU); NaN if the pair cannot
              be trained;
            - `on_front`: whether no other pair is expected to beat it in energy, time and quality;
            - `may_be_on_front`: whether it may be on the front, given the uncertainty;
            - `note`: why it is an extrapolation, or cannot be trained.
        confidence: probability used for the intervals and for `may_be_on_front`.
        mode: "max" if higher quality is better, "min" if lower is; None without qualities.
    """

    table: pd.DataFrame
    confidence: float
    mode: Mode | None = None

    @property
    def front(self) -> pd.DataFrame:
        """The rows of the table that are on the front, lowest energy first."""
        rows: pd.DataFrame = self.table[self.table["on_front"]]
        return rows

    def cheapest_within(self, within: float) -> pd.DataFrame:
        """The pair with the lowest expected energy among those close enough to the best quality.

        The best quality is the best of all pairs that can be trained.

        Args:
            within: how much worse than the best the quality may be, in its own unit.

        Returns:
            One row of the table, or several if they cost the same, with `behind`: how much worse
            than the best the quality is.

        Raises:
            RunsError: there are no qualities, no pair can be trained, or as
                `tradeoff.cheapest_within`.
        """
        if self.mode is None:
            raise RunsError("there are no qualities: pass quality={name: value, ...} to advise()")
        possible = self.table.dropna(subset=["energy_J"])
        if not len(possible):
            raise RunsError("no pair can be trained: see the notes in the table")
        return cheapest_within(possible, within, quality="quality", mode=self.mode)

    def __str__(self) -> str:
        # Notes are too long for a line, and the same for many rows.
        shown = _readable(self.front.head(_MOST_SHOWN).assign(note=""))
        left = len(self.front) - len(shown)
        more = [f"{left} more pairs are on the front"] if left else []
        return as_text(self._heading(), [shown] if len(shown) else [], [*more, *self._notes()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return as_html(self._heading(), [_readable(self.table)], self._notes())

    def _heading(self) -> str:
        possible = int(self.table["energy_J"].notna().sum())
        if not possible:
            return f"none of {len(self.table)} pairs can be trained: see the notes in the table"
        costs = "energy and time" if self.mode is None else "energy, time and quality"
        others = int(self.table["may_be_on_front"].sum()) - len(self.front)
        least, fastest = self.front.iloc[0], self.front.sort_values("duration_s").iloc[0]
        text = (
            f"{len(self.front)} of {possible} pairs are on the front of {costs}, and {others} more "
            f"may be; lowest energy: {_pair(least)}"
        )
        same = least.name == fastest.name
        return f"{text}, also the fastest" if same else f"{text}; fastest: {_pair(fastest)}"

    def _notes(self) -> list[str]:
        notes = [GPU_ALONE, f"intervals have a coverage of {100 * self.confidence:.6g} %"]
        beyond = int((self.front["basis"] == "extrapolation").sum())
        if beyond:
            notes.append(
                f"extrapolations on the front: {beyond}; their notes say beyond what; a probe is "
                "more accurate"
            )
        impossible = int(self.table["energy_J"].isna().sum())
        if impossible:
            notes.append(
                f"{impossible} of {len(self.table)} pairs cannot be trained: see their notes"
            )
        return notes


def _pair(row: pd.Series) -> str:
    energy, duration = format_energy(row["energy_J"]), format_duration(row["duration_s"])
    return f"{row['model']} on {row['gpu']} ({energy} in {duration})"


def _readable(rows: pd.DataFrame) -> pd.DataFrame:
    """The table with units in its cells and without empty columns."""

    def cells(name: str, text: Callable[[float], str]) -> list[str]:
        return ["" if math.isnan(value) else text(value) for value in rows[name]]

    front = rows["on_front"].map({True: "yes", False: ""})
    table = pd.DataFrame(
        {
            "model": rows["model"],
            "gpu": rows["gpu"],
            "batch": rows["batch_size"],
            "precision": rows["precision"],
            "energy": cells("energy_J", format_energy),
            "from": cells("energy_lower_J", format_energy),
            "to": cells("energy_upper_J", format_energy),
            "time": cells("duration_s", format_duration),
            "power": cells("mean_power_W", "{:.0f} W".format),
            "quality": cells("quality", "{:.4g}".format),
            "basis": rows["basis"].fillna("cannot be trained"),
            "front": front.mask(~rows["on_front"] & rows["may_be_on_front"], "may be"),
            "note": rows["note"],
        }
    )
    shown: pd.DataFrame = table.loc[:, (table != "").any()]
    return shown
