"""Energy to emissions, and the table of carbon intensities."""

from __future__ import annotations

import csv
import math
import re
from importlib import resources

import numpy as np
import pandas as pd
import pytest

from energyest.carbon import CarbonIntensity, carbon_intensity, co2e_kg, known_countries
from energyest.errors import EstimateError
from energyest.estimate import Estimate
from energyest.records.trace import EnergyTrace

TABLE = resources.files("energyest") / "data" / "carbon_intensity.csv"
ROWS = list(csv.DictReader(TABLE.read_text(encoding="utf-8").splitlines()))

KWH = 3.6e6
PLANT = CarbonIntensity(50, "our own roof", 2025, "the meter")

# ------------------------------------------------------------------ the table


def test_every_row_is_whole() -> None:
    assert len(ROWS) >= 120
    for row in ROWS:
        assert 2022 <= int(row["year"]) <= 2024, row
        assert "Ember" in row["source"], row
        # From water and uranium alone to oil in old stations, over their lives.
        assert 15 < float(row["g_CO2e_per_kWh"]) < 1000, row
        if row["name"] != "World":
            assert re.fullmatch("[A-Z]{2}", row["alpha2"]), row
            assert re.fullmatch("[A-Z]{3}", row["alpha3"]), row


def test_every_code_and_name_belongs_to_one_country() -> None:
    names = [
        name.casefold()
        for row in ROWS
        for name in (row["alpha2"], row["alpha3"], row["name"], *row["aliases"].split(";"))
        if name
    ]
    assert len(names) == len(set(names))
    assert [row["name"] for row in ROWS] == sorted(row["name"] for row in ROWS)
    assert known_countries() == tuple(row["name"] for row in ROWS)
    for row in ROWS:
        for name in (row["alpha2"], row["alpha3"], row["name"], *row["aliases"].split(";")):
            if name:
                assert carbon_intensity(name).country == row["name"]


def test_the_world_lies_between_clean_and_coal() -> None:
    def of(country: str) -> float:
        return carbon_intensity(country).g_per_kWh

    assert of("SE") < of("FR") < of("GB") < of("DE") < of("World") < of("PL") < of("ZA")


# ------------------------------------------------------------------ looking up


@pytest.mark.parametrize("name", ["DE", "de", "DEU", "deu", "Germany", " germany "])
def test_a_country_by_code_or_name(name: str) -> None:
    assert carbon_intensity(name) == CarbonIntensity(
        344.14, "Germany", 2024, "Ember Yearly Electricity Data (2025) via Our World in Data"
    )


@pytest.mark.parametrize(
    ("name", "country"),
    [
        ("UK", "United Kingdom"),
        ("U.S.A.", "United States"),
        ("south-korea", "South Korea"),
        ("Côte d'Ivoire", "Cote d'Ivoire"),
        ("Türkiye", "Turkey"),
        ("WORLD", "World"),
    ],
)
def test_what_people_say(name: str, country: str) -> None:
    assert carbon_intensity(name).country == country


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("Germny", "Germany"),
        ("America", "United States"),
        ("Sweeden", "Sweden"),
        ("Federal Republic of Germany", "Germany"),
    ],
)
def test_an_unknown_country_names_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(EstimateError, match=f"unknown country '{name}'.*closest.*{nearest}"):
        carbon_intensity(name)


@pytest.mark.parametrize("name", ["", "東京", "Xqzv", "EU"])
def test_nothing_near(name: str) -> None:
    with pytest.raises(EstimateError, match=r"unknown country .*known_countries\(\)") as caught:
        carbon_intensity(name)
    assert "closest" not in str(caught.value)


def test_a_country_must_be_text() -> None:
    with pytest.raises(EstimateError, match="country=49 must be the code or the name"):
        carbon_intensity(49)  # type: ignore[arg-type]


def test_text_of_an_intensity() -> None:
    assert str(PLANT) == "50 g CO2e/kWh (our own roof, 2025; the meter)"


# ------------------------------------------------------------------ emissions


def test_by_hand() -> None:
    # 2 kWh at 400 g are 800 g; a data centre of PUE 1.5 draws 3 kWh for them.
    assert co2e_kg(2 * KWH, 400) == pytest.approx(0.8)
    assert co2e_kg(2 * KWH, 400, pue=1.5) == pytest.approx(1.2)
    assert co2e_kg(10 * KWH, "Germany") == pytest.approx(3.4414)
    assert co2e_kg(1 * KWH, PLANT) == pytest.approx(0.05)
    assert co2e_kg(KWH, 0) == 0
    assert co2e_kg(0, "DE") == 0
    assert type(co2e_kg(np.float32(KWH), 1000)) is float


def test_what_was_not_measured_is_nan() -> None:
    assert math.isnan(co2e_kg(math.nan, "DE"))
    assert math.isnan(co2e_kg(None, "DE"))
    np.testing.assert_allclose(co2e_kg([KWH, None, math.nan], 1000), [1, math.nan, math.nan])


def test_arrays_keep_their_length() -> None:
    emissions = co2e_kg(np.array([0, 1, 2]) * KWH, 500, pue=2)
    assert isinstance(emissions, np.ndarray)
    np.testing.assert_allclose(emissions, [0, 1, 2])


@pytest.mark.parametrize("dtype", ["float64", "Float64", "Int64", "object"])
def test_the_column_of_a_table(dtype: str) -> None:
    runs = pd.DataFrame({"energy_J": pd.Series([KWH, None, 3 * KWH], dtype=dtype)})
    runs.index = pd.Index(["a", "b", "c"], name="run")
    expected = pd.Series([0.1, math.nan, 0.3], index=runs.index, name="co2e_kg")
    pd.testing.assert_series_equal(co2e_kg(runs["energy_J"], 100), expected)


def test_estimate_and_its_interval() -> None:
    estimate = Estimate(7.2e6, 3.6e6, 10.8e6, 0.9)
    assert estimate.co2e_kg(400) == pytest.approx(0.8)
    assert estimate.co2e_kg(intensity_g_per_kWh=400) == pytest.approx(0.8)
    assert estimate.co2e_kg("FRA", pue=1.1) == pytest.approx(2 * 1.1 * 0.04418)
    interval = co2e_kg([estimate.lower_J, estimate.upper_J], 400)
    np.testing.assert_allclose(interval, [0.4, 1.2])
    without = Estimate(7.2e6)
    assert np.isnan(co2e_kg([without.lower_J, without.upper_J], 400)).all()


def test_trace() -> None:
    trace = EnergyTrace.from_epochs(energy_J=[KWH, 3 * KWH])
    assert trace.co2e_kg(250) == pytest.approx(1)
    assert trace.co2e_kg(PLANT, pue=2) == pytest.approx(0.4)
    assert trace.total_J == 4 * KWH  # neither PUE nor intensity has entered it
    np.testing.assert_allclose(co2e_kg(trace.epochs["energy_J"], 250), [0.25, 0.75])
    lost = EnergyTrace({"epoch": np.arange(2.0), "energy_J": np.array([KWH, math.nan])})
    assert math.isnan(lost.co2e_kg(250))


@pytest.mark.parametrize("pue", [0.99, 0, -1, math.nan, math.inf, "1.2", None])
def test_a_pue_is_1_or_more(pue: object) -> None:
    with pytest.raises(EstimateError, match=r"pue=.* must be 1 or more"):
        co2e_kg(KWH, 400, pue=pue)  # type: ignore[arg-type]


@pytest.mark.parametrize("intensity", [-1, math.nan, math.inf, None, [400]])
def test_an_intensity_is_0_or_more(intensity: object) -> None:
    with pytest.raises(
        EstimateError,
        match=r"intensity_g_per_kWh=.* must be a finite number of 0 or more \(g CO2e per kWh\)",
    ):
        co2e_kg(KWH, intensity)  # type: ignore[arg-type]


def test_an_own_intensity_is_checked_as_well() -> None:
    with pytest.raises(EstimateError, match="intensity_g_per_kWh=-5 must be"):
        CarbonIntensity(-5, "nowhere", 2024, "")


@pytest.mark.parametrize(
    "energy",
    [
        pd.DataFrame({"energy_J": [1.0]}),
        Estimate(1.0),
        EnergyTrace.from_epochs(energy_J=[1.0]),
    ],
    ids=lambda energy: type(energy).__name__,
)
def test_objects_that_hold_an_energy_get_advice(energy: object) -> None:
    with pytest.raises(EstimateError, match=f"{type(energy).__name__}, not joules.*column"):
        co2e_kg(energy, "DE")  # type: ignore[call-overload]


@pytest.mark.parametrize("energy", ["5", ["1", "2"], pd.Series(["1"])])
def test_text_is_not_an_energy(energy: object) -> None:
    with pytest.raises(EstimateError, match="energy_J must hold numbers"):
        co2e_kg(energy, "DE")  # type: ignore[call-overload]
