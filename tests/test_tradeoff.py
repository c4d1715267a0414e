"""The front, the cheapest that is good enough, savings, and tables that allow no conclusion."""

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from energyest import EnergyTrace, plots
from energyest.errors import RunsError
from energyest.tradeoff import (
    cheapest_within,
    collect_runs,
    compare_groups,
    interaction,
    match_gpu,
    pareto_front,
    resample,
    savings,
)
from energyest.tradeoff.metrics import direction
from energyest.tradeoff.pareto import undominated
from energyest.tradeoff.resample import (
    choices_of,
    fewest_repetitions,
    interval,
    medians_of_resamples,
)
from tests.support.cost import costs_at_most


def table(*rows: tuple[str, float, float], **columns: Any) -> pd.DataFrame:
    found = pd.DataFrame(rows, columns=["model", "energy_J", "val_acc"])
    return found.assign(gpu="A40", run=range(len(rows)), **columns)


RUNS = table(
    ("small", 10, 0.80),
    ("middle", 20, 0.90),
    ("twin", 20, 0.90),
    ("bad", 25, 0.85),
    ("big", 90, 0.91),
)


def test_front_with_ties() -> None:
    front = pareto_front(RUNS)
    assert list(front["model"]) == ["small", "middle", "twin", "big"]
    assert list(front.columns) == list(RUNS.columns)


def test_front_of_several_costs() -> None:
    runs = RUNS.assign(duration_s=[5.0, 9.0, 8.0, 1.0, 3.0])
    # Among twins the faster one; the bad one is the fastest.
    front = pareto_front(runs, ["energy_J", "duration_s"])
    assert list(front["model"]) == ["small", "twin", "bad", "big"]
    assert list(pareto_front(runs, ["duration_s", "energy_J"], None)["model"]) == ["bad", "small"]


def test_less_of_a_loss_is_better() -> None:
    runs = RUNS.assign(val_loss=1 - RUNS["val_acc"])
    assert list(pareto_front(runs, quality="val_loss")["model"]) == list(
        pareto_front(RUNS)["model"]
    )
    by_name = pareto_front(runs.rename(columns={"val_loss": "x"}), quality="x", mode="min")
    assert list(by_name["model"]) == list(pareto_front(RUNS)["model"])
    assert list(pareto_front(RUNS, mode="min")["model"]) == ["small"]


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 3).flatmap(
        lambda n: st.lists(st.tuples(*[st.integers(0, 4)] * n), min_size=1, max_size=15)
    )
)
def test_front_against_its_definition(rows: list[tuple[int, ...]]) -> None:
    costs = np.array(rows, dtype=float)
    beaten = [
        any(all(b <= a for a, b in zip(row, other, strict=True)) and other != row for other in rows)
        for row in rows
    ]
    assert list(undominated(costs)) == [not b for b in beaten]


def repeated(
    medians: dict[str, tuple[float, float]], count: int = 9, spread: float = 0.01
) -> pd.DataFrame:
    """Repetitions of each model, symmetric around its energy and accuracy."""
    steps = np.linspace(-spread, spread, count)
    rows = [
        (model, energy_J * (1 + step), acc + step / 10)
        for model, (energy_J, acc) in medians.items()
        for step in steps
    ]
    return table(*rows)


def test_front_of_choices() -> None:
    runs = repeated({"small": (10, 0.8), "big": (90, 0.9), "bad": (95, 0.85)})
    front = pareto_front(runs, by=["model", "gpu"])
    assert list(front["model"]) == ["small", "big"]
    assert list(front["runs"]) == [9, 9]
    assert list(front["front_share"]) == [1.0, 1.0]
    assert front["energy_J"].to_list() == pytest.approx([10, 90])
    # A rival that is hardly better: the draws say how sure the front is.
    close = repeated({"small": (10, 0.8), "rival": (10.01, 0.8001)}, spread=0.1)
    cheapest = pareto_front(close, quality=None, by="model")
    assert list(cheapest["model"]) == ["small"]
    assert 0.45 < cheapest["front_share"][0] < 0.65
    few = repeated({"small": (10, 0.8), "big": (90, 0.9)}, count=4)
    assert pareto_front(few, by="model")["front_share"].isna().all()


def test_cheapest_within_points() -> None:
    assert list(cheapest_within(RUNS, 0)["model"]) == ["big"]
    near = cheapest_within(RUNS, 0.01)
    assert list(near["model"]) == ["middle", "twin"]
    assert near["behind"].to_list() == pytest.approx([0.01, 0.01])
    assert list(cheapest_within(RUNS, 0.2)["model"]) == ["small"]
    percent = RUNS.assign(val_acc=100 * RUNS["val_acc"])
    assert list(cheapest_within(percent, 1)["model"]) == ["middle", "twin"]
    timed = RUNS.assign(duration_s=[5.0, 9.0, 8.0, 1.0, 3.0])
    assert list(cheapest_within(timed, 0.01, ["energy_J", "duration_s"])["model"]) == ["twin"]
    loss = RUNS.assign(val_loss=1 - RUNS["val_acc"])
    assert list(cheapest_within(loss, 0.01, quality="val_loss")["model"]) == ["middle", "twin"]
    runs = repeated({"small": (10, 0.8), "big": (90, 0.9)})
    assert list(cheapest_within(runs, 0.11, by=["model", "gpu"])["model"]) == ["small"]


def test_within_in_percent_of_shares() -> None:
    with pytest.raises(RunsError, match=r"two percentage points are 0\.02"):
        cheapest_within(RUNS, 2)


# ---------------------------------------------------------------------- savings


def test_savings_by_hand() -> None:
    runs = repeated({"small": (20, 0.8), "big": (100, 0.9), "middle": (50, 0.95)})
    found = savings(runs)
    pairs = list(zip(found["from_model"], found["to_model"], strict=True))
    assert pairs == [("big", "small"), ("middle", "small"), ("big", "middle")]
    assert found["saving"].to_list() == pytest.approx([0.8, 0.6, 0.5])
    assert found["quality_change"].to_list() == pytest.approx([-0.1, -0.15, 0.05])
    for name in ("saving", "quality_change"):
        assert (found[f"{name}_lower"] < found[name]).all()
        assert (found[f"{name}_upper"] > found[name]).all()
    assert list(found["from_gpu"]) == ["A40"] * 3
    assert list(found["from_runs"]) == [9] * 3
    assert "quality_change" not in savings(runs, quality=None)
    pd.testing.assert_frame_equal(found, savings(runs.sample(frac=1, random_state=1)), rtol=0.02)


@pytest.mark.long
def test_intervals_hold_the_truth() -> None:
    """Of log-normal repetitions, the ratio of medians is known."""
    rng = np.random.default_rng(3)
    held = {}
    for count in (5, 15):
        inside = []
        for seed in range(120):
            logs = rng.normal([[0.0], [-0.7]], 0.15, (2, count))
            rows = [("ab"[i], np.exp(x), 0.5) for i in range(2) for x in logs[i]]
            row = savings(table(*rows), quality=None, by="model", seed=seed).iloc[0]
            inside.append(row.saving_lower <= 1 - np.exp(-0.7) <= row.saving_upper)
        held[count] = int(np.sum(inside))
    # 90 % of 120; the ends are what chance gives in 1 of 1000 cases to either side.
    low, high = stats.binom.ppf([0.001, 0.9999], 120, 0.9)
    assert all(low <= count <= high for count in held.values()), held


def test_too_few_repetitions_have_no_interval() -> None:
    assert [fewest_repetitions(c) for c in (0.5, 0.9, 0.95, 0.99)] == [2, 5, 6, 8]
    runs = pd.concat(
        [repeated({"small": (20, 0.8)}, count=4), repeated({"big": (90, 0.9)})], ignore_index=True
    ).assign(run=range(13))
    row = savings(runs).iloc[0]
    assert np.isnan([row.saving_lower, row.saving_upper, row.quality_change_lower]).all()
    assert row.saving == pytest.approx(1 - 20 / 90)
    assert savings(runs, confidence=0.8)["saving_lower"].notna().all()


def test_one_choice_saves_nothing() -> None:
    with pytest.raises(RunsError, match="all runs belong to one choice"):
        savings(repeated({"small": (20, 0.8)}))


# ---------------------------------------------------------------------- arguments

NO_CONFIDENCE = [0, 1, -0.1, 2, "0.9", True, None, float("nan")]
NO_COUNT = [-1, 0.5, "0", None, True]
NO_COLUMNS = [[], None, 3, ["model", "model"], ["model", 3]]


@pytest.mark.parametrize(
    ("function", "argument", "values"),
    [
        (pareto_front, "cost", NO_COLUMNS),
        (pareto_front, "quality", [3, ["val_acc"]]),
        (pareto_front, "by", [[], 3, ["model", "model"]]),
        (pareto_front, "mode", ["best", 3]),
        (pareto_front, "seed", NO_COUNT),
        (cheapest_within, "within", [-0.1, float("nan"), "0.1", None, True]),
        (cheapest_within, "cost", NO_COLUMNS),
        (cheapest_within, "mode", ["best", 3]),
        (savings, "by", NO_COLUMNS),
        (savings, "confidence", NO_CONFIDENCE),
        (savings, "seed", NO_COUNT),
        (compare_groups, "by", NO_COLUMNS),
        (compare_groups, "value", [3, None, ["energy_J"]]),
        (compare_groups, "confidence", NO_CONFIDENCE),
        (interaction, "factors", [*NO_COLUMNS, ["model"], ["model", "gpu", "x"]]),
        (interaction, "confidence", NO_CONFIDENCE),
        (match_gpu, "model", NO_COLUMNS),
        (match_gpu, "gpu", [3, None, "model"]),
        (match_gpu, "flops", [3, None, ["flops"]]),
        (match_gpu, "confidence", NO_CONFIDENCE),
        (collect_runs, "model", [3, ["arch"]]),
        (collect_runs, "monitor", [3, ["val_acc"]]),
        (collect_runs, "mode", ["best", 3]),
        (plots.plot_groups, "confidence", NO_CONFIDENCE),
        (plots.plot_front, "mode", ["best", 3]),
    ],
)
def test_a_bad_argument_is_named(function: Any, argument: str, values: list[Any]) -> None:
    given = {"within": 0.1} if function is cheapest_within else {}
    runs = [EnergyTrace.from_epochs([1.0])] if function is collect_runs else RUNS
    for value in values:
        with pytest.raises(RunsError, match=rf"\b{argument}\b[\w, ]*=.* must "):
            function(runs, **{**given, argument: value})
    if argument == "mode" and function is pareto_front:  # where it is not needed, too
        with pytest.raises(RunsError, match="mode='best' must"):
            pareto_front(RUNS, quality=None, mode="best")  # type: ignore[arg-type]


# ---------------------------------------------------------------------- tables


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (list, "runs is a list: it must be a DataFrame"),
        (lambda t: t[:0], "has no row"),
        (lambda t: t.drop(columns="val_acc"), "lacks 'val_acc'; it has 'model', 'energy_J'"),
        (lambda t: t.assign(val_acc=[0.8, np.nan, 0.9, 0.9, 0.9]), r"known for 1 of 5 runs \(1\)"),
        (lambda t: t.assign(energy_J=np.nan, energy_kWh=1.0), "there is also 'energy_kWh'"),
        (lambda t: t.assign(energy_J=["10 kJ", "9", "8", "7", "6"]), "'10 kJ' in row 0 is not"),
        (lambda t: t.assign(energy_J=[0.0, 1, 2, 3, 4]), "must be above 0: 0"),
        (lambda t: t.assign(val_acc=[0.8, 90, 0.9, 85, 91]), "mixes shares and percentages: 0.9"),
        (lambda t: pd.concat([t, t]), "10 duplicate rows"),
        (lambda t: pd.concat([t, t[:1]]), r"2 duplicate rows \(0, 0\)"),
        (lambda t: t.rename(columns={"gpu": "run"}), "two columns named 'run'"),
    ],
)  # fmt: skip
def test_tables_that_allow_no_conclusion(change: Any, message: str) -> None:
    for analysis in (pareto_front, lambda t: cheapest_within(t, 0.01), savings):
        with pytest.raises(RunsError, match=message):
            analysis(change(RUNS))


def test_mixed_units_of_repetitions() -> None:
    runs = repeated({"small": (20, 0.8), "big": (100, 0.9)})
    runs.loc[3, "energy_J"] /= 1000
    with pytest.raises(
        RunsError,
        match=r"energy_J of small, A40 is 0\.0199. or less in some runs and 19\.8 or more",
    ):
        savings(runs)
    # A whole choice in other units, as two people's tables have it, shows by power and time.
    runs = repeated({"small": (20, 0.8), "big": (100, 0.9)})
    runs = runs.assign(duration_s=10.0, mean_power_W=runs["energy_J"] / 10)
    savings(runs)
    runs.loc[runs["model"] == "big", "energy_J"] /= 3.6e6
    with pytest.raises(RunsError, match="times mean_power_W × duration_s in row"):
        savings(runs)


def test_other_settings_are_not_repetitions() -> None:
    runs = repeated({"small": (20, 0.8), "big": (100, 0.9)}).assign(batch_size=32)
    runs.loc[0, "batch_size"] = 64
    with pytest.warns(UserWarning, match="small, A40 differ in batch_size"):
        savings(runs)
    assert len(savings(runs, by=["model", "gpu", "batch_size"])) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        savings(runs.assign(batch_size=math.nan))  # unknown in all of them
        savings(runs.assign(batch_size=None, precision=None))
    some = runs.assign(batch_size=[32.0, *[math.nan] * (len(runs) - 1)])
    with pytest.warns(UserWarning, match="small, A40 differ in batch_size"):
        savings(some)


def test_precision_may_be_a_metric() -> None:
    runs = repeated({"small": (20, 0.8), "big": (100, 0.9)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(savings(runs.assign(precision=runs["val_acc"]))) == 1
    runs.loc[3, "energy_J"] /= 1000
    with pytest.raises(RunsError, match="energy_J of small"):
        savings(runs.assign(precision=runs["val_acc"]))


def test_columns_are_named_once() -> None:
    with pytest.raises(RunsError, match="must be one column name or several different ones"):
        savings(RUNS, by=["model", "energy_J"])


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *((n, "max") for n in ("val_acc", "valAccTop5", "test/f1-score", "AUC", "mIoU", "r2")),
        *((n, "max") for n in ("exact_answer", "auc_cancer", "top1", "quality", "bleu4")),
        *((n, "min") for n in ("val_loss", "val_mape", "err_rate", "wer_clean", "fid", "crps")),
        *((n, "min") for n in ("perplexity", "val_bpc", "test_RMSE", "error@5")),
    ],
)
def test_direction_of_a_name(name: str, mode: str) -> None:
    assert direction(name, None) == mode
    assert direction(name, "min") == "min"


@pytest.mark.parametrize("name", ["power", "maestro", "x", "acc_loss", "top1_error", ""])
def test_a_name_that_does_not_say_its_direction(name: str) -> None:
    with pytest.raises(RunsError, match="pass mode="):
        direction(name, None)


@pytest.mark.parametrize(("gap", "refused"), [(29.0, False), (31.0, True)])
def test_gaps_between_repetitions(gap: float, refused: bool) -> None:
    runs = table(*[("a", gap if i else 1.0, 0.5) for i in range(6)], ("b", 5.0, 0.5))
    if refused:
        with pytest.raises(RunsError, match="is 1 or less in some runs and 31 or more"):
            savings(runs)
    else:
        assert len(savings(runs)) == 1
    # Without `by`, runs are no repetitions: one may have been a trial of an epoch.
    assert len(pareto_front(runs)) == 1
    # Other settings are other choices.
    assert len(
        savings(
            runs.assign(precision=[*(["fp32"] + 5 * ["bf16"]), "bf16"]), by=["model", "precision"]
        )
    )


@pytest.mark.parametrize(("factor", "refused"), [(2.9, False), (3.1, True), (1 / 3.1, True)])
def test_energy_is_power_times_duration(factor: float, refused: bool) -> None:
    runs = RUNS.assign(duration_s=2.0, mean_power_W=RUNS["energy_J"] / 2 / factor)
    for analysis in (pareto_front, lambda t: savings(t, by="model")):
        if refused:
            with pytest.raises(RunsError, match="times mean_power_W"):
                analysis(runs)
        else:
            assert len(analysis(runs))
    missing = runs.assign(mean_power_W=np.nan)
    assert len(pareto_front(missing)) == 4


def test_shares_and_percentages() -> None:
    failed = RUNS.assign(val_acc=[76.0, 0.1, 75.9, 76.2, 1.0])
    assert len(pareto_front(failed))  # a training that failed is no share
    with pytest.raises(RunsError, match="mixes shares"):
        pareto_front(RUNS.assign(val_acc=[76.0, 0.77, 75.9, 76.2, 71.0]))
    assert len(pareto_front(RUNS.assign(val_bleu=[0.9, 25, 30, 28, 3]), quality="val_bleu"))


@pytest.mark.parametrize(
    "values",
    [
        pd.date_range("2026-01-01", periods=5),
        [True, False, True, True, True],
        np.ones(5) * 1j,
        pd.timedelta_range("1s", periods=5),
    ],
)
def test_what_is_not_a_number(values: Any) -> None:
    with pytest.raises(RunsError, match="must hold numbers in one unit, not"):
        pareto_front(RUNS.assign(energy_J=values))


def test_columns_of_the_result_are_not_overwritten() -> None:
    for column in ("runs", "front_share"):
        renamed = RUNS.rename(columns={"model": column})
        with pytest.raises(RunsError, match=f"'{column}' clashes with"):
            pareto_front(renamed, by=[column, "gpu"])
    with pytest.raises(RunsError, match="'behind' clashes"):
        cheapest_within(RUNS.assign(behind=1), 0.1)
    with pytest.raises(RunsError, match="'runs' clashes"):
        savings(RUNS.rename(columns={"gpu": "runs"}), by=["model", "runs"])


def test_indices_and_types_of_pandas() -> None:
    expected = savings(repeated({"small": (20, 0.8), "big": (100, 0.9)}))
    runs = repeated({"small": (20, 0.8), "big": (100, 0.9)})
    unused = pd.CategoricalDtype(["small", "big", "never"])
    for same in (
        runs.set_index("model", drop=False),
        runs.set_index(["model", "gpu"], drop=False),
        runs.set_axis([0] * len(runs)),
        runs.astype({"model": unused, "energy_J": "Float64", "val_acc": "Float64"}),
    ):
        found = savings(same)
        assert list(found["saving"]) == pytest.approx(list(expected["saving"]))
        assert list(map(str, found["from_model"])) == ["big"]


def test_ends_of_an_interval() -> None:
    lower, upper = interval(np.arange(1001.0), 0.9)
    assert (lower, upper) == pytest.approx((50, 950))


def test_cost_and_quality_of_a_run_are_drawn_together() -> None:
    # Quality is half of the energy in every run: so it is in every draw of medians, of odd numbers.
    runs = repeated({"a": (1.0, 0.5), "b": (1.2, 0.6)}, spread=0.1)
    runs["val_acc"] = runs["energy_J"] / 2
    values = {n: runs[n].to_numpy() for n in ("energy_J", "val_acc")}
    drawn = choices_of(runs, values, ["model"]).draws(confidence=0.9, seed=0)
    np.testing.assert_allclose(drawn["val_acc"], drawn["energy_J"] / 2)


def test_many_choices_are_quick() -> None:
    rng = np.random.default_rng(0)
    rows = [(f"m{i}", np.exp(rng.normal()), rng.uniform()) for i in range(200) for _ in range(5)]
    with costs_at_most(3):
        front = pareto_front(table(*rows), by="model")
    assert len(front) > 1


def test_order_of_rows_does_not_matter() -> None:
    expected = set(pareto_front(RUNS)["model"])
    for order in itertools.islice(itertools.permutations(range(5)), 0, 120, 17):
        assert set(pareto_front(RUNS.iloc[list(order)])["model"]) == expected


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_medians_of_resamples_have_the_distribution_of_all_resamples(n: int) -> None:
    """Every one of the n^n resamples of n values is equally likely."""
    values = np.array([1.0, 10.0, 100.0, 1000.0, 10000.0][:n])[::-1]
    every = [float(np.median(drawn)) for drawn in itertools.product(values, repeat=n)]
    drawn = medians_of_resamples(values, 100_000, np.random.default_rng(0))
    assert set(drawn) <= set(every)
    for median in set(every):
        share = every.count(median) / len(every)
        error = 4 * math.sqrt(share * (1 - share) / len(drawn))
        assert np.mean(drawn == median) == pytest.approx(share, abs=error)


@pytest.mark.parametrize("n", [200, 201])
def test_many_repetitions_give_the_same_intervals(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    table = pd.DataFrame(
        {
            "model": np.repeat(["a", "b"], n),
            "energy_J": np.repeat([100.0, 70.0], n) * np.exp(0.2 * rng.standard_normal(2 * n)),
            "val_acc": rng.uniform(0.6, 0.9, 2 * n),
        }
    )
    quick = savings(table, by="model")
    monkeypatch.setattr(resample, "_MANY", 10**9)
    monkeypatch.setattr(resample, "_MOST_DRAWN", 7 * n)  # in several pieces
    slow = savings(table, by="model")
    ends = [f"{name}_{end}" for name in ("saving", "quality_change") for end in ("lower", "upper")]
    widths = [
        slow[f"{name}_upper"] - slow[f"{name}_lower"] for name in ("saving", "quality_change")
    ]
    assert not quick.equals(slow)
    for name in ends:
        width = float(widths[name.startswith("quality")][0])
        assert quick[name][0] == pytest.approx(slow[name][0], abs=0.1 * width)
