"""Plots of the trade-off analysis: what they show, with units, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from energyest import plots
from energyest.errors import RunsError
from energyest.tradeoff import interaction, match_gpu, pareto_front, savings


def runs(count: int = 6) -> pd.DataFrame:
    """Two models and a third on two GPUs; one run of the smallest failed."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "run": f"{model}-{gpu}-{i}",
            "model": model,
            "gpu": gpu,
            "energy_J": 1e3 * cost * share * np.exp(rng.normal(0, 0.05)),
            "val_acc": acc + rng.normal(0, 0.002),
            "flops_per_sample": 1e9 * flops,
            "samples": 1000,
            "power_limit_W": limit,
            "utilization": 0.5,
            "mean_power_W": 0.6 * limit,
        }
        for model, cost, acc, flops in (("a", 2, 0.8, 0.1), ("b", 9, 0.9, 1), ("c", 40, 0.93, 8))
        for gpu, share, limit in (("A40", 1.0, 300.0), ("H100", 1.4 - 0.2 * np.log10(cost), 700.0))
        for i in range(count)
    ]
    table = pd.DataFrame(rows)
    table.loc[0, "val_acc"] = 0.1
    return table


def labels(figure: Figure) -> list[str]:
    axes = figure.get_axes()
    return [text for a in axes for text in (a.get_xlabel(), a.get_ylabel()) if text]


def texts(figure: Figure) -> str:
    found = [t.get_text() for a in figure.get_axes() for t in a.texts]
    legends = [*figure.legends, *(a.get_legend() for a in figure.get_axes())]
    found += [t.get_text() for legend in legends if legend for t in legend.get_texts()]
    return "\n".join(found)


def test_front(tmp_path: Path) -> None:
    table = runs()
    figure = plots.plot_front(table)
    assert labels(figure) == ["energy (kJ)", "val_acc (higher is better)"]
    assert figure.axes[0].xaxis.get_major_formatter()(2e3) == "2"
    shown = texts(figure)
    assert all(name in shown for name in ("Pareto front", "A40", "H100", "a", "b", "c"))
    assert "1 run lies outside" in shown
    front = pareto_front(table, by=["model", "gpu"])
    line = next(line for line in figure.axes[0].lines if line.get_label() == "Pareto front")
    np.testing.assert_allclose(line.get_xdata(), front["energy_J"])
    np.testing.assert_allclose(line.get_ydata(), front["val_acc"])
    framed = [line for line in figure.axes[0].lines if line.get_markersize() == 10]
    on_front = [line.get_xdata()[0] for line in framed if len(line.get_xdata())]
    np.testing.assert_allclose(sorted(on_front), front["energy_J"])
    figure.savefig(tmp_path / "front.png")
    one = plots.plot_front(table[table["gpu"] == "A40"], by="model")
    assert "Pareto front" in texts(one)


def test_a_notebook_shows_it() -> None:
    picture = plots.plot_front(runs())
    assert picture._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("odd", ["$\\frac{$ $x^$ $ \\$ $a$ a\x00b \x1b[31m a\nb"])
def test_names_are_not_formulas(odd: str, tmp_path: Path) -> None:
    table = runs().rename(columns={"val_acc": f"acc{odd}"})
    table = table.assign(model=table["model"] + odd, gpu=table["gpu"] + odd)
    quality = f"acc{odd}"
    drawn = (
        plots.plot_front(table, quality=quality, mode="max"),
        plots.plot_savings(savings(table, quality=quality)),
        plots.plot_groups(table, "energy_J", by="model"),
        plots.plot_interaction(interaction(table)),
        plots.plot_match(match_gpu(table)),
    )
    for figure in drawn:
        figure.savefig(tmp_path / "it.svg")
        figure.savefig(tmp_path / "it.png", bbox_inches="tight")
    # Formulas of the user's own, added later, are drawn as formulas.
    drawn[0].axes[0].set_title("$R^2$")
    drawn[0].savefig(tmp_path / "it.png")
    drawn[0].axes[0].set_title("$\\frac{$")  # which the user sees, if it is none
    with pytest.raises(ValueError, match="frac"):
        drawn[0].savefig(tmp_path / "it.png")


def test_colour_is_never_all() -> None:
    axes = plots.plot_front(runs()).axes[0]
    large = [line for line in axes.lines if line.get_markersize() >= 7 and len(line.get_xdata())]
    looks = {(line.get_color(), line.get_marker()) for line in large}
    assert len(looks) == 6
    lines = plots.plot_match(match_gpu(runs())).axes[0].lines
    looks = {
        (line.get_marker(), line.get_linestyle()) for line in lines if line.get_label()[0] != "_"
    }
    assert len(looks) == 2


def test_savings_and_their_intervals(tmp_path: Path) -> None:
    table = savings(runs())
    figure = plots.plot_savings(table, most=4)
    assert labels(figure) == ["saving", "change of quality (in its own unit)"]
    assert figure.axes[0].xaxis.get_major_formatter().format_pct(0.8, 0.5) == "80 %"
    ticks = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert (
        ticks[-1] == "c, A40 → a, A40" if table.from_gpu[0] == "A40" else ticks[-1].startswith("c")
    )
    assert len(ticks) == 4
    figure.savefig(tmp_path / "savings.png")
    assert len(plots.plot_savings(savings(runs(), quality=None)).axes) == 1
    assert plots.plot_savings(savings(runs(count=2))).axes
    with pytest.raises(RunsError, match="lacks 'saving'"):
        plots.plot_savings(runs())
    with pytest.raises(RunsError, match="most=0 must be"):
        plots.plot_savings(table, most=0)


def test_groups(tmp_path: Path) -> None:
    figure = plots.plot_groups(runs().query("gpu == 'A40'"))
    assert labels(figure)[0] == "energy (kJ)"
    assert "Cliff" in figure.axes[1].get_title()
    assert "1.00*" in texts(figure)
    figure.savefig(tmp_path / "groups.png")


def test_interaction_and_shares(tmp_path: Path) -> None:
    result = interaction(runs())
    figure = plots.plot_interaction(result)
    assert labels(figure) == ["model", "median energy", "share of the sum of squares"]
    heights = [bar.get_height() for bar in figure.axes[1].patches]
    np.testing.assert_allclose(heights, result.effects["share"])
    assert sum(heights) == pytest.approx(1)
    figure.savefig(tmp_path / "interaction.png")
    plain = interaction(runs(), "val_acc", log=False)
    assert "median val_acc" in labels(plots.plot_interaction(plain))


def test_match(tmp_path: Path) -> None:
    match = match_gpu(runs())
    figure = plots.plot_match(match)
    assert labels(figure)[1::2] == [
        "energy per sample",
        "utilisation (share of time)",
        "power (share of the limit)",
    ]
    figure.savefig(tmp_path / "match.png")
    assert not figure.axes[0].texts  # no crossing
    bare = runs().drop(columns=["utilization", "mean_power_W"])
    assert len(plots.plot_match(match_gpu(bare)).axes) == 1


def test_a_crossing_is_drawn_with_the_cheaper_gpu_on_either_side() -> None:
    table = runs()
    gain = (table["flops_per_sample"] / 1e9) ** -0.2  # the H100 gains with complexity
    table["energy_J"] *= np.where(table["gpu"] == "H100", 0.7 * gain, 1.0)
    match = match_gpu(table)
    crossing = match.crossings.iloc[0]
    assert 1e8 < crossing["crossing"] < 8e9
    axes = plots.plot_match(match).axes[0]
    assert [text.get_text() for text in axes.texts] == ["A40", "H100"]
    assert [text.get_ha() for text in axes.texts] == ["right", "left"]
    assert axes.texts[0].get_position()[0] == crossing["crossing"]
    band = axes.patches[0].get_extents().transformed(axes.transData.inverted())
    ends = np.where(
        np.isnan(crossing[["crossing_lower", "crossing_upper"]].to_numpy(float)),
        crossing[["covered_from", "covered_to"]].to_numpy(float),
        crossing[["crossing_lower", "crossing_upper"]].to_numpy(float),
    )
    np.testing.assert_allclose((band.x0, band.x1), ends)


@pytest.mark.parametrize("plot", [plots.plot_interaction, plots.plot_match, plots.plot_advice])
def test_other_things_are_refused(plot: Any) -> None:
    with pytest.raises(RunsError, match="is a DataFrame: it must be one of"):
        plot(runs())
