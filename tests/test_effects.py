"""`compare_groups` and `interaction` against published figures, and what they refuse."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from energyest.errors import MissingDependencyError, RunsError
from energyest.tradeoff import compare_groups, interaction
from energyest.tradeoff.anova import aligned_rank_anova, two_way_anova
from energyest.tradeoff.effect_sizes import cliffs_delta, cliffs_magnitude, eta_magnitude
from tests.support import reference_effects as reference


def by_group(groups: Mapping[str, Sequence[float]]) -> pd.DataFrame:
    rows = [(name, value) for name, values in groups.items() for value in values]
    return pd.DataFrame(rows, columns=["model", "energy_J"])


def by_cell(cells: Mapping[tuple[str, str], Sequence[float]]) -> pd.DataFrame:
    rows = [(*cell, value) for cell, values in cells.items() for value in values]
    return pd.DataFrame(rows, columns=["model", "gpu", "energy_J"])


def p_of(pairs: pd.DataFrame) -> dict[tuple[str, str], float]:
    return dict(zip(zip(pairs["a"], pairs["b"], strict=True), pairs["p_value"], strict=True))


# ---------------------------------------------------------------------- means


def test_means_of_plants() -> None:
    found = compare_groups(by_group(reference.PLANT_GROWTH))
    expected = reference.PLANT_WELCH
    assert found.test == "Welch ANOVA"
    assert found.statistic == pytest.approx(expected["F"], rel=1e-9)
    assert found.degrees == pytest.approx((expected["df_between"], expected["df_within"]), rel=1e-9)
    assert found.p_value == pytest.approx(expected["p"], rel=1e-9)
    assert found.eta_squared == pytest.approx(reference.PLANT_ETA_SQUARED, rel=1e-9)
    assert found.magnitude == "large"
    assert found.levene_W == pytest.approx(reference.PLANT_LEVENE["statistic"], rel=1e-9)
    assert found.levene_p == pytest.approx(reference.PLANT_LEVENE["p"], rel=1e-9)
    for row in found.groups.itertuples():
        known = reference.PLANT_SHAPIRO[row.group]
        assert (row.shapiro_W, row.shapiro_p) == pytest.approx(known, rel=1e-7)
    rounded = {pair: round(p, 3) for pair, p in p_of(found.pairs).items()}
    assert rounded == reference.PLANT_GAMES_HOWELL_P
    assert list(found.pairs["significant"]) == [False, False, True]


def test_means_of_unequal_groups() -> None:
    # Some values are negative, so they are no energies.
    table = by_group(reference.GAMES_HOWELL_GROUPS).rename(columns={"energy_J": "x"})
    found = compare_groups(table, "x")
    expected = reference.GAMES_HOWELL_WELCH
    assert found.statistic == pytest.approx(expected["F"], rel=1e-9)
    assert found.p_value == pytest.approx(expected["p"], rel=1e-9)
    assert found.degrees[1] == pytest.approx(expected["df_within"], rel=1e-9)
    differences = found.pairs["difference"].to_list()
    p_values = found.pairs["p_value"].to_list()
    known = [reference.GAMES_HOWELL[pair] for pair in p_of(found.pairs)]
    assert differences == pytest.approx([row[0] for row in known], abs=1e-8)
    assert p_values == pytest.approx([row[3] for row in known], abs=1e-8)
    assert any("fewer than 8 runs" in note for note in found.notes)


def test_certified_share_of_variance() -> None:
    found = compare_groups(by_group(reference.SIRSTV))
    assert found.eta_squared == pytest.approx(reference.SIRSTV_CERTIFIED["eta_squared"], rel=1e-9)
    # 1 − (1 − η²)(n − 1) ÷ (n − k), the adjusted R².
    adjusted = 1 - (1 - found.eta_squared) * 24 / 20
    assert found.epsilon_squared == pytest.approx(adjusted, rel=1e-9)


# ---------------------------------------------------------------------- ranks


def test_ranks_of_ozone() -> None:
    found = compare_groups(by_group(reference.OZONE))
    assert found.test == "Kruskal-Wallis"
    assert found.statistic == pytest.approx(reference.OZONE_KRUSKAL["H"], rel=1e-9)
    assert found.p_value == pytest.approx(reference.OZONE_KRUSKAL["p"], rel=1e-9)
    assert found.degrees == (4.0,)
    assert found.epsilon_squared == pytest.approx(reference.OZONE_EPSILON_SQUARED, rel=1e-9)
    assert found.eta_squared == pytest.approx(reference.OZONE_ETA_SQUARED_H, rel=1e-9)
    expected = {pair: p for pair, (_, _, p) in reference.OZONE_DUNN_HOLM.items()}
    assert p_of(found.pairs) == pytest.approx(expected, rel=1e-8)
    delta = dict(zip(p_of(found.pairs), found.pairs["cliffs_delta"], strict=True))
    for pair, known in reference.OZONE_CLIFFS_DELTA.items():
        assert delta[pair] == pytest.approx(known, rel=1e-9)
    assert any(note.startswith("not normally distributed: 5, ") for note in found.notes)
    assert "H(4) = 29.27" in str(found)
    assert "<table" in found._repr_html_()


def test_cliffs_delta_and_its_names() -> None:
    delta = cliffs_delta(
        np.array(reference.CLIFF_TREATMENT, float), np.array(reference.CLIFF_CONTROL, float)
    )
    assert delta == pytest.approx(reference.CLIFFS_DELTA)
    assert cliffs_magnitude(delta) == "small"
    assert [cliffs_magnitude(d) for d in (0.1, -0.147, 0.33, -1.0)] == [
        "negligible",
        "small",
        "medium",
        "large",
    ]
    assert [eta_magnitude(s) for s in (-0.02, 0.01, 0.06, 0.14)] == [
        "negligible",
        "small",
        "medium",
        "large",
    ]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(-5, 5), min_size=1, max_size=12),
    st.lists(st.integers(-5, 5), min_size=1, max_size=12),
)
def test_cliffs_delta_counts_pairs(a: list[int], b: list[int]) -> None:
    by_hand = np.mean([np.sign(x - y) for x in a for y in b])
    assert cliffs_delta(np.array(a, float), np.array(b, float)) == pytest.approx(by_hand)


def test_ranks_need_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scikit_posthocs", None)
    with pytest.raises(MissingDependencyError, match="pip install scikit-posthocs"):
        compare_groups(by_group(reference.OZONE))


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"a": [1.0, 2, 3]}, "all runs are in one group"),
        ({"a": [1.0, 2, 3], "b": [2.0]}, "b has 1: repeat these trainings"),
        ({"a": [1.0, 2, 3], "b": [2.0, 3.0], "c": [4.0]}, "b has 2, c has 1"),
        ({"a": [5.0, 5, 5], "b": [5.0, 5, 5]}, "is the same in all runs: there is nothing"),
        ({"a": [5.0, 5, 5], "b": [6.0, 6, 6]}, "without variation, no test"),
        ({"a": [1.0, 2, np.nan], "b": [1.0, 2, 3]}, r"not known for 1 of 6 runs \(2\)"),
        ({"a": [1.0, 2, np.inf], "b": [1.0, 2, 3]}, "not known for 1 of 6"),
    ],
)
def test_no_test_from_nothing(groups: dict[str, list[float]], message: str) -> None:
    runs = by_group(groups).assign(run=range(sum(map(len, groups.values()))))
    with pytest.raises(RunsError, match=message):
        compare_groups(runs)


def test_a_group_of_copies_is_named() -> None:
    runs = by_group({"<a>": [5.0] * 5, "b": [1.0, 2, 4, 7, 9]}).assign(run=range(10))
    found = compare_groups(runs)
    assert found.test == "Kruskal-Wallis"
    assert any("all runs are equal in <a>" in note for note in found.notes)
    page = found._repr_html_()
    assert "<li>all runs are equal in &lt;a&gt;" in page
    assert "<a>" not in page


# ---------------------------------------------------------------------- two factors


def test_unbalanced_sums_of_squares() -> None:
    found = interaction(by_cell(reference.MOORE), log=False).effects
    for name, key in {"model": "status", "gpu": "category", "model:gpu": "interaction"}.items():
        sum_sq, df, _, _ = reference.MOORE_TYPE_II[key]
        assert found["sum_sq"][name] == pytest.approx(sum_sq, rel=1e-8)
        assert found["df"][name] == df
    left = (found["sum_sq"]["residual"], found["df"]["residual"])
    assert left == pytest.approx(reference.MOORE_RESIDUAL, rel=1e-9)


def test_two_way_anova_and_its_types() -> None:
    runs = by_cell(reference.MOORE)
    y, a, b = (runs[n].to_numpy() for n in ("energy_J", "model", "gpu"))
    names = {"a": "status", "b": "category", "a:b": "interaction"}
    second, third = two_way_anova(y, a, b), two_way_anova(y, a, b, typ=3)
    for row, key in names.items():
        known = reference.MOORE_TYPE_II[key][2:]
        assert tuple(second.loc[row, ["F", "p_value"]]) == pytest.approx(known, rel=1e-8)
    for row, key in list(names.items())[:2]:
        known = reference.MOORE_TYPE_III[key]
        assert tuple(third.loc[row, ["F", "p_value"]]) == pytest.approx(known, rel=1e-4)


def test_aligned_ranks() -> None:
    for cells, expected, tolerance in (
        (reference.HIGGINS, {k: v[2:] for k, v in reference.HIGGINS_ART.items()}, 1e-4),
        (reference.MOORE, reference.MOORE_ART_TYPE_III, 1e-8),
    ):
        runs = by_cell(cells)
        y = runs["energy_J"].to_numpy(float)
        for scale in (1.0, 1e8, 1e-7):
            found = aligned_rank_anova(scale * y, runs["model"].to_numpy(), runs["gpu"].to_numpy())
            for row, known in zip(("a", "b", "a:b"), expected.values(), strict=True):
                values = tuple(found.loc[row, ["F", "p_value"]])
                assert values == pytest.approx(known, rel=tolerance, abs=5e-5)


def factorial(
    effect: float = 0.0, count: int = 10, spread: float = 0.1, seed: int = 0
) -> pd.DataFrame:
    """Log energies of two models on two GPUs: main effects 1 and 0.5, and an interaction."""
    rng = np.random.default_rng(seed)
    rows = [
        (f"m{i}", f"g{j}", np.exp(i + 0.5 * j + effect * i * j + rng.normal(0, spread)))
        for i in range(2)
        for j in range(2)
        for _ in range(count)
    ]
    return pd.DataFrame(rows, columns=["model", "gpu", "energy_J"])


def test_shares_of_known_effects() -> None:
    found = interaction(factorial(spread=0.01, count=50))
    # Between: 1²/4 for the models, 0.5²/4 for the GPUs.
    assert found.test == "two-way ANOVA"
    assert found.effects["share"]["model"] == pytest.approx(0.8, abs=0.005)
    assert found.effects["share"]["gpu"] == pytest.approx(0.2, abs=0.005)
    assert found.effects["share"].sum() == pytest.approx(1)
    assert found.effects["p_value"]["model:gpu"] > 0.01
    # That the logarithm is taken matters: products of factors are no interaction.
    assert interaction(factorial(), log=False).effects["p_value"]["model:gpu"] < 1e-6
    assert interaction(factorial(effect=0.3)).effects["p_value"]["model:gpu"] < 1e-6
    assert len(found.cells) == 4
    assert "80 %" in str(found)
    assert "<table" in found._repr_html_()


def test_ranks_where_residuals_are_not_normal() -> None:
    rng = np.random.default_rng(0)
    runs = factorial(count=30)
    runs["energy_J"] *= np.exp(0.25 * rng.choice([-1, 1], len(runs)))
    found = interaction(runs)
    assert found.test == "aligned rank transform"
    assert found.shapiro_p < 0.05 < found.levene_p
    assert any("Shapiro" in note and "aligned ranks" in note for note in found.notes)
    expected = aligned_rank_anova(
        np.log(runs["energy_J"].to_numpy()), runs["model"].to_numpy(), runs["gpu"].to_numpy()
    )
    np.testing.assert_allclose(found.effects["F"][:3], expected["F"][:3])
    plain = smf.ols("np.log(energy_J) ~ C(model) * C(gpu)", runs).fit()
    between = float(np.sum((plain.fittedvalues - plain.fittedvalues.mean()) ** 2))
    assert found.effects["sum_sq"][:3].sum() == pytest.approx(between)
    # At a level that Shapiro and Wilk's test does not reach, nothing deviates.
    assert interaction(runs, confidence=1 - found.shapiro_p / 2).test == "two-way ANOVA"


def test_own_variances_where_spreads_differ() -> None:
    runs = factorial(count=12)
    last = (runs["model"] == "m1") & (runs["gpu"] == "g1")
    rng = np.random.default_rng(1)
    runs.loc[last, "energy_J"] *= np.exp(rng.normal(0, 1.5, 12))
    found = interaction(runs)
    assert found.test == "two-way ANOVA, HC3"
    assert found.levene_p < 0.05
    assert any("Levene" in note and "HC3" in note for note in found.notes)
    # Of one degree of freedom: the contrast of means over its own variance, each with 1 − 1/n.
    logs = np.log(runs["energy_J"]).groupby([runs["model"], runs["gpu"]])
    contrast = logs.mean().to_numpy() @ [1, -1, -1, 1]
    variance = float(sum(np.sum((g - g.mean()) ** 2) / (1 - 1 / 12) ** 2 / 144 for _, g in logs))
    assert found.effects["F"]["model:gpu"] == pytest.approx(contrast**2 / variance)
    expected = contrast**2 / variance / (contrast**2 / variance + 44)
    assert found.effects["partial_eta_squared"]["model:gpu"] == pytest.approx(expected)


@pytest.mark.long
def test_no_interaction_is_seldom_found_where_spreads_differ() -> None:
    """Aligned ranks would find one in two of five (one pair is spread eightfold)."""
    rng = np.random.default_rng(2)
    base = factorial(count=5)[["model", "gpu"]]
    spread = np.where((base["model"] == "m1") & (base["gpu"] == "g1"), 0.8, 0.1)
    tables = [base.assign(energy_J=np.exp(rng.normal(0, spread))) for _ in range(60)]
    found = [interaction(t).effects["p_value"]["model:gpu"] < 0.05 for t in tables]
    assert sum(found) <= 9  # chance gives 10 or more of 60 once in a thousand times at 5 %


def test_spreads_of_few_runs_are_not_compared() -> None:
    for count in (2, 3, 9):
        found = interaction(factorial(count=count, seed=3))
        assert np.isnan(found.levene_p)
        assert found.test == "two-way ANOVA, HC3"
        assert any("fewer than 10 runs" in note for note in found.notes)


def test_the_cells() -> None:
    runs = factorial(count=5).astype({"energy_J": float})
    runs["gpu"] = runs["gpu"].map({"g0": 8, "g1": 128})
    cells = interaction(runs).cells
    assert list(cells["gpu"]) == [8, 128, 8, 128]  # as they are, and in their order
    own = runs[(runs["model"] == "m1") & (runs["gpu"] == 128)]["energy_J"]
    last = cells.iloc[3]
    assert (last["runs"], last["mean"], last["median"]) == (5, own.mean(), own.median())
    assert last["std"] == pytest.approx(np.log(own).std())


def test_unbalanced_pairs_are_noted() -> None:
    found = interaction(factorial(count=6).iloc[:-1])
    assert any("different numbers of runs" in note for note in found.notes)
    assert not any("different numbers" in n for n in interaction(factorial(count=6)).notes)


def test_a_table_of_groups_by_hand() -> None:
    low, high = [1.0, 2.0, 3.0, 6.0], [3.0, 7.0, 8.0, 10.0]
    found = compare_groups(by_group({"a": low, "b": high}), confidence=0.8)
    row = found.groups.iloc[0]
    assert (row["runs"], row["mean"], row["median"]) == (4, 3, 2.5)
    assert row["std"] == pytest.approx(np.sqrt(14 / 3))
    pair = found.pairs.iloc[0]
    assert (pair["a"], pair["b"], pair["difference"]) == ("a", "b", -4)
    assert pair["ratio"] == 3 / 7
    assert pair["cliffs_delta"] == (1 - 14) / 16
    # Two groups: Games and Howell's test is Welch's t.
    assert pair["p_value"] == pytest.approx(
        stats.ttest_ind(low, high, equal_var=False).pvalue, abs=1e-6
    )
    assert 0.05 < found.p_value < 0.2
    assert pair["significant"]
    assert not compare_groups(by_group({"a": low, "b": high})).pairs["significant"][0]
    # Ranks: differences are of medians.
    odd = compare_groups(by_group({"a": [1.0, 1, 1, 1, 9, 1], "b": [2.0, 3, 4, 5, 6, 7]}))
    assert odd.test == "Kruskal-Wallis"
    assert odd.pairs["difference"][0] == -3.5


def test_what_levene_says_of_ranks() -> None:
    rng = np.random.default_rng(0)
    skewed = rng.exponential(1, (2, 30))
    alike = compare_groups(by_group({"a": skewed[0], "b": skewed[1] + 1}))
    assert any("finds no difference in spread" in note for note in alike.notes)
    unlike = compare_groups(by_group({"a": skewed[0], "b": 9 * skewed[1] + 1}))
    assert any("spreads of the groups differ" in note for note in unlike.notes)


def test_groups_of_several_gpus_are_warned_of() -> None:
    runs = factorial(count=4).assign(run=range(16))
    with pytest.warns(UserWarning, match="runs of m0 differ in gpu"):
        compare_groups(runs)


def test_levels_that_read_alike() -> None:
    runs = by_group({"a": [1.0, 2, 3], "b": [1.0, 2, 4], "c": [2.0, 3, 5]})
    runs["model"] = runs["model"].map({"a": 1, "b": "1", "c": 3})
    with pytest.raises(RunsError, match="look alike"):
        compare_groups(runs)
    # Two columns whose values hold commas.
    runs = pd.concat([factorial(count=3), factorial(count=3, seed=1)])
    runs["model"] = ["x"] * 12 + ["x, y"] * 12
    runs["gpu"] = np.tile(["y, z", "z"], 12)
    assert len(compare_groups(runs, by=["model", "gpu"]).groups) == 4


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_scale_does_not_matter(scale: float) -> None:
    groups = {name: [scale * x for x in xs] for name, xs in reference.PLANT_GROWTH.items()}
    found = compare_groups(by_group(groups))
    assert found.eta_squared == pytest.approx(reference.PLANT_ETA_SQUARED, rel=1e-9)


def of_pairs(*pairs: str) -> pd.DataFrame:
    """Three runs of each pair of model and GPU, named by a letter each."""
    rows = [(model, gpu, 1.0 + i) for model, gpu in pairs for i in range(3)]
    return pd.DataFrame(rows, columns=["model", "gpu", "energy_J"]).assign(run=range(len(rows)))


@pytest.mark.parametrize(
    ("pairs", "empty", "remedy"),
    [
        ("ax ay bx by cx", "c on y", "leave out model c"),
        ("ax ay az bx by bz cx", "c on y, c on z", "leave out model c"),
        ("ax bx cx ay by cy az", "b on z, c on z", "leave out gpu z"),
        ("ax ay az bx by bz cx cy", "c on z", "leave out model c or gpu z"),
        ("ax by", "a on y, b on x", "choose levels for which all pairs have runs"),
        ("ax ay bx", "b on y", "choose levels for which all pairs have runs"),
    ],
)
def test_missing_pairs_are_named_with_the_level_to_leave_out(
    pairs: str, empty: str, remedy: str
) -> None:
    runs = of_pairs(*pairs.split())
    with pytest.raises(RunsError) as caught:
        interaction(runs)
    assert f"there is no run of {empty}: " in str(caught.value)
    assert str(caught.value).endswith(f"train the missing ones, or {remedy}")
    # What it says works.
    if remedy.startswith("leave out"):
        for level in remedy.removeprefix("leave out ").split(" or "):
            factor, name = level.split()
            interaction(runs[runs[factor] != name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[t["gpu"] == "g0"], "gpu is 'g0' in all runs"),
        (lambda t: t.drop_duplicates(["model", "gpu"]), "only one run of m0 on g0, m0 on g1"),
        (lambda t: t.assign(energy_J=3.0), "is the same in all runs of each pair"),
        (lambda t: t.assign(energy_J=t["energy_J"] - 2), "must be above 0"),
        (lambda t: t.assign(gpu=t["gpu"].where(t.index > 0)), "gpu is not known for the rows 0"),
        (lambda t: t.drop(columns="gpu"), "lacks 'gpu'"),
        (lambda t: t.to_dict(), "must be a DataFrame"),
    ],
)
def test_no_interaction_from_nothing(change: object, message: str) -> None:
    runs = factorial(count=3).assign(run=range(12))
    with pytest.raises(RunsError, match=message):
        interaction(change(runs))  # type: ignore[operator]
