"""`match_gpu`: known crossings, Fieller's interval, and refusals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from energyest.errors import RunsError
from energyest.tradeoff import match_gpu
from energyest.tradeoff.crossing import gpu_crossing, line_crossing
from tests.support import reference_effects as reference


def test_fieller_of_a_published_calibration() -> None:
    known = reference.CHAMBER_FIELLER
    x = np.array(reference.CHAMBER_DIAL, float)
    y = np.array(reference.CHAMBER_TEMPERATURE) - reference.CHAMBER_TARGET
    found = line_crossing(x, y, np.zeros_like(x), known["confidence"])
    assert round(found.x, 1) == known["estimate"]
    assert round(found.lower, 2) == known["lower"]
    assert round(found.upper, 2) == known["upper"]


@pytest.mark.parametrize("count", [3, 5, 9])
def test_fieller_holds_as_often_as_it_says(count: int) -> None:
    rng = np.random.default_rng(count)
    held = 0
    for _ in range(1000):
        x = rng.uniform(-2, 2, count)
        y = 0.5 * (x - 0.3) + rng.normal(0, 0.2, count)
        found = line_crossing(x, y, np.zeros(count), 0.9)
        held += found.lower <= 0.3 <= found.upper
    # The interval is exact, but where it is the outside of two ends, it is taken for all.
    low, high = stats.binom.ppf([0.001, 0.999], 1000, 0.9)
    assert low <= held <= high


def test_fieller_at_its_ends_and_without_any() -> None:
    x, y = np.array([0.0, 1, 2, 3]), np.array([-1.1, -0.2, 0.4, 1.3])
    found = line_crossing(x, y, np.zeros(4), 0.9)
    fit = stats.linregress(x, y)
    left = y - fit.intercept - fit.slope * x
    for end in (found.lower, found.upper):
        spread = 1 / 4 + (end - x.mean()) ** 2 / np.sum((x - x.mean()) ** 2)
        error = math.sqrt(spread * (left @ left) / 2)
        assert abs(fit.intercept + fit.slope * end) == pytest.approx(stats.t.ppf(0.95, 2) * error)
    noise = line_crossing(x, np.array([1.0, -1, -1, 1.001]), np.zeros(4), 0.9)
    assert (noise.lower, noise.upper) == (-math.inf, math.inf)
    two = line_crossing(np.array([0.0, 1]), np.array([-1.0, 1]), np.array([0.01, 0.01]), 0.9)
    assert two.x == pytest.approx(0.5)
    assert two.lower == pytest.approx(0.5 - (two.upper - 0.5))


@pytest.mark.parametrize(
    ("at", "noise", "given"),
    [
        (1.5, 0.02, ["lower", "upper"]),
        (1.8, 0.4, ["lower"]),
        (1.2, 0.4, ["upper"]),
        (1.5, 0.5, []),
    ],
)
def test_ends_beyond_the_measured_complexities_are_not_given(
    at: float, noise: float, given: list[str]
) -> None:
    x = np.array([0.0, 1, 2, 3])
    ratio = x - at + noise * np.array([1.0, -1, -1, 1])
    line = line_crossing(x, ratio, np.zeros(4), 0.9)
    assert math.isfinite(line.lower)
    inside = {"lower": line.lower >= 0, "upper": line.upper <= 3}
    assert [end for end, is_inside in inside.items() if is_inside] == given
    row = gpu_crossing(x, ratio, np.zeros(4), ("small", "large"), 0.9)
    if not given:
        assert row["reason"] == (
            "both ends of its interval lie outside the complexities measured on both"
        )
        assert np.isnan([row["crossing"], row["crossing_lower"], row["crossing_upper"]]).all()
        assert (row["cheaper_below"], row["cheaper_above"]) == ("", "")
        return
    assert row["crossing"] == pytest.approx(math.exp(at))
    for end in ("lower", "upper"):
        value = row[f"crossing_{end}"]
        assert value == pytest.approx(
            math.exp(getattr(line, end)) if end in given else math.nan, nan_ok=True
        )
        assert (f"the {end} end lies outside" in str(row["reason"])) == (end not in given)


# Energy per sample of a small and a large GPU: a fixed part, and one for each GFLOP.
SIZES = {"a": 0.1, "b": 0.4, "c": 1.5, "d": 6.0, "e": 20.0}
FIXED = {"small": 0.02, "large": 0.08}
EACH = {"small": 0.05, "large": 0.02}
LIMITS = {"small": 150.0, "large": 700.0}
CROSSING = 2.0  # 0.02 + 0.05 x = 0.08 + 0.02 x


def runs(
    models: str = "abcde", *, count: int = 7, own: float = 0.0, spread: float = 0.02, **columns: Any
) -> pd.DataFrame:
    """Repetitions on both GPUs; `own` is by how much models are peculiar, on both GPUs alike."""
    rng = np.random.default_rng(0)
    rows = []
    for model in models:
        peculiar = math.exp(rng.normal(0, own))
        for gpu, fixed_J in FIXED.items():
            energy_J = peculiar * (fixed_J + EACH[gpu] * SIZES[model])
            for step in np.linspace(-spread, spread, count):
                rows.append(
                    {
                        "run": len(rows),
                        "model": model,
                        "gpu": gpu,
                        "flops_per_sample": 1e9 * SIZES[model],
                        "energy_per_sample_J": energy_J * (1 + step),
                        "power_limit_W": LIMITS[gpu],
                        "utilization": min(1.0, 0.2 + 0.1 * SIZES[model] * FIXED[gpu] / 0.02),
                        "mean_power_W": LIMITS[gpu] * (0.3 + 0.03 * SIZES[model]),
                    }
                )
    return pd.DataFrame(rows).assign(**columns)


def only(match: Any) -> Any:
    assert len(match.crossings) == 1
    return match.crossings.iloc[0]


@pytest.mark.parametrize("own", [0.0, 0.5])
def test_a_known_crossing(own: float) -> None:
    found = match_gpu(runs(own=own))
    row = only(found)
    assert (row.smaller, row.larger, row.models) == ("small", "large", 5)
    assert (row.cheaper_below, row.cheaper_above) == ("small", "large")
    # What is peculiar to a model does not matter; that the ratio is no line widens the interval.
    assert row.crossing == pytest.approx(CROSSING * 1e9, rel=0.35)
    assert row.crossing_lower < CROSSING * 1e9 < row.crossing_upper
    assert (row.covered_from, row.covered_to) == pytest.approx((1e8, 2e10))
    assert row.reason == ""
    said = f"large against small (5 models): large is cheaper above {row.crossing / 1e9:.3g}"
    assert str(found).startswith(said)
    ends = f"{row.crossing_lower / 1e9:.3g} to {row.crossing_upper / 1e9:.3g}"
    assert f"(90 % interval {ends})" in str(found)
    assert "<table" in found._repr_html_()


def test_the_points_are_medians() -> None:
    found = match_gpu(runs())
    point = found.points.set_index(["model", "gpu"]).loc[("c", "large")]
    assert point.energy_per_sample_J == pytest.approx(0.08 + 0.02 * 1.5)
    assert point.power_share == pytest.approx(0.3 + 0.045)
    assert point.runs == 7
    relations = found.relations.set_index(["gpu", "quantity"])
    row = relations.loc[("small", "energy_per_sample_J")]
    assert row.spearman_rho == pytest.approx(1)
    assert row.p_value < 0.05
    few = match_gpu(runs("abc")).relations
    assert few["p_value"].isna().all()
    assert few["spearman_rho"].notna().all()


def test_energy_and_samples_do_as_well() -> None:
    table = runs()
    energy = table.pop("energy_per_sample_J")
    table = table.assign(samples=500, energy_J=500 * energy)
    pd.testing.assert_frame_equal(match_gpu(table).crossings, match_gpu(runs()).crossings)


def test_two_models_say_little() -> None:
    row = only(match_gpu(runs("bd")))
    assert row.crossing_lower < row.crossing < row.crossing_upper
    assert "does not show how others would deviate" in row.reason
    single = only(match_gpu(runs("bd", count=2)))
    assert single.crossing == pytest.approx(row.crossing, rel=0.01)
    assert math.isnan(single.crossing_lower)
    assert math.isnan(single.crossing_upper)
    assert "too few repetitions" in single.reason


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (runs("ab"), "small is cheaper for all models measured on both"),
        (runs("de"), "large is cheaper for all models measured on both"),
        (runs("c"), "1 complexity was measured on both"),
        (
            pd.concat([runs("ab").query("gpu == 'small'"), runs("de").query("gpu == 'large'")]),
            "0 complexity was measured on both",
        ),
    ],
)
def test_no_crossing_is_made_up(table: pd.DataFrame, reason: str) -> None:
    row = only(match_gpu(table.assign(run=range(len(table)))))
    assert math.isnan(row.crossing)
    assert math.isnan(row.crossing_lower)
    assert reason in row.reason


def test_noise_is_not_a_crossing() -> None:
    table = runs("abcd")
    odd = {"a": 1.3, "b": 0.7, "c": 1.4, "d": 0.8}
    level = table.groupby("model")["energy_per_sample_J"].transform("mean")
    table["energy_per_sample_J"] = np.where(
        table["gpu"] == "large", level * table["model"].map(odd), level
    ) * (1 + 0.001 * (table["run"] % 7))
    row = only(match_gpu(table))
    assert math.isnan(row.crossing)
    assert "deviate too much" in row.reason or "no complexity" in row.reason


@pytest.mark.parametrize("limits_W", [(700.0, 150.0), (300.0, 300.0), (np.nan, 300.0)])
def test_a_crossing_does_not_depend_on_power_limits(limits_W: tuple[float, float]) -> None:
    table = runs()
    table["power_limit_W"] = table["gpu"].map(dict(zip(("small", "large"), limits_W, strict=True)))
    row, expected = only(match_gpu(table)), only(match_gpu(runs()))
    assert (row.smaller, row.larger) == ("large", "small")  # or by name
    for name in ("crossing", "crossing_lower", "crossing_upper", "cheaper_below", "cheaper_above"):
        assert row[name] == pytest.approx(expected[name]), name


def test_refusals_give_the_ratio_at_both_ends() -> None:
    # 0.08 + 0.02 x over 0.02 + 0.05 x: 3.28 at 0.1 GFLOPs, 2.2 at 0.4.
    assert (
        "large needs 3.28 times the energy of small for the simplest model, 2.2 times for the most"
        in (only(match_gpu(runs("ab"))).reason)
    )


def test_variances_of_both_gpus_count() -> None:
    """Two models: the interval is wider by the spread of either GPU's repetitions."""
    widths = []
    for noisy in (None, "small", "large"):
        table = runs("bd", count=9, spread=0.001)
        if noisy:
            steps = np.tile(np.linspace(-0.2, 0.2, 9), 4)
            own = 1 + np.where(table["gpu"] == noisy, steps, 0.0)
            table["energy_per_sample_J"] *= own
        row = only(match_gpu(table))
        widths.append(math.log(row.crossing_upper / row.crossing_lower))
    assert widths[1] > 20 * widths[0]
    assert widths[2] > 20 * widths[0]


def test_a_crossing_whose_ends_are_not_covered_is_refused() -> None:
    table = runs("bcd", own=0.0)
    # Models that deviate, each on one GPU alone.
    odd = {"b": 0.75, "c": 1.5, "d": 0.8}
    table["energy_per_sample_J"] *= np.where(table["gpu"] == "large", table["model"].map(odd), 1.0)
    row = only(match_gpu(table))
    assert math.isnan(row.crossing)
    assert row.reason.startswith(("both ends", "the models deviate", "each is cheaper"))


def test_power_share_and_unknown_quantities() -> None:
    table = runs(count=5)
    table.loc[table["gpu"] == "small", "utilization"] = np.nan
    table.loc[table["gpu"] == "large", "power_limit_W"] = np.nan
    points = match_gpu(table).points.set_index(["model", "gpu"])
    assert np.isnan(points["utilization"].xs("small", level="gpu")).all()
    assert points["utilization"].xs("large", level="gpu").notna().all()
    assert np.isnan(points["power_share"].xs("large", level="gpu")).all()
    # What was recorded goes before the data sheet.
    known = runs().replace({"gpu": {"small": "NVIDIA A10", "large": "NVIDIA H100 80GB HBM3"}})
    limits = match_gpu(known.assign(power_limit_W=[99.0] * len(known))).points["power_limit_W"]
    assert set(limits) == {99.0}


def test_limits_of_known_gpus() -> None:
    table = runs().drop(columns="power_limit_W")
    table["gpu"] = table["gpu"].map({"small": "NVIDIA A10", "large": "NVIDIA H100 80GB HBM3"})
    assert only(match_gpu(table)).smaller == "NVIDIA A10"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[t["gpu"] == "small"], "all runs are on one gpu"),
        (lambda t: t.drop(columns="flops_per_sample"), "lacks 'flops_per_sample'"),
        (lambda t: t.drop(columns="energy_per_sample_J"), "lacks 'energy_J', 'samples'"),
        (lambda t: t.assign(flops_per_sample=0.0), "must be above 0"),
        (lambda t: t.assign(flops_per_sample=1e9 + 1e8 * t["run"]), "must be the same on all GPUs"),
        (lambda t: t.assign(utilization=57), "share of time from 0 to 1"),
        (lambda t: t.assign(power_limit_W="300 W"), "power_limit_W must hold numbers"),
        (lambda t: t.assign(power_limit_W=0.0), "power_limit_W must be above 0"),
        (lambda t: t.rename(columns={"model": "runs"}), "lacks 'model'"),
        (lambda t: t.assign(model=None), "model is not known"),
    ],
)
def test_tables_that_cannot_be_matched(change: Any, message: str) -> None:
    with pytest.raises(RunsError, match=message):
        match_gpu(change(runs()))
