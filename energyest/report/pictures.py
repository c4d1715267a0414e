"""Pictures of the report, each with the same said in words."""

from __future__ import annotations

import math

import numpy as np

from energyest.display import format_both, format_energy
from energyest.errors import EnergyestError
from energyest.estimators.step.regimes import find_regimes
from energyest.markup import Markup, element, paragraph
from energyest.plots.svg import as_svg
from energyest.plots.training.trace import plot_trace
from energyest.records.trace import EnergyTrace


def picture_of(trace: EnergyTrace) -> Markup:
    """Power, energy by epoch and the projection, as inline SVG, with a text alternative."""
    try:
        drawn = as_svg(plot_trace(trace), "trace")
    except EnergyestError as error:  # matplotlib may be missing, too
        return paragraph(f"There is no picture: {error}.")
    words = words_of(trace)
    image = element("div", Markup(drawn), role="img", aria_label=words)
    scrolled = element(
        "div", image, class_="picture", tabindex="0", role="region", aria_label="picture"
    )
    return element("figure", scrolled, element("figcaption", words))


def words_of(trace: EnergyTrace) -> str:
    """What the picture shows, for whoever does not see it."""
    energy_J, unit = trace.column("energy_J"), trace.unit
    known = energy_J[np.isfinite(energy_J)]
    sentences = []
    power_W = trace.power_columns["power_W"]
    power_W = power_W[np.isfinite(power_W)]
    if len(power_W):
        count = len(set(trace.power_columns["device"]))
        sentences.append(
            f"Power of {count} device{'s' * (count != 1)} over time, up to {power_W.max():.4g} W"
        )
    if not len(known):
        return "; ".join([*sentences, f"the energy of no {unit} was measured"]) + "."
    lowest, highest = format_energy(float(known.min())), format_energy(float(known.max()))
    sentences.append(f"energy of {len(energy_J)} {unit}s, from {lowest} to {highest} each")
    if len(known) < len(energy_J):
        sentences.append(f"{len(energy_J) - len(known)} of them not measured")
    levels = [
        f"{format_energy(one.mean_J)} from {unit} {one.start} on" for one in find_regimes(trace)
    ]
    if levels:
        sentences.append(f"stable levels: {', '.join(levels)}")
    total_J = float(np.sum(energy_J))
    if math.isfinite(total_J):
        sentences.append(f"cumulative energy, up to {format_both(total_J)}")
    text = "; ".join(sentences)
    return f"{text[0].upper()}{text[1:]}."
