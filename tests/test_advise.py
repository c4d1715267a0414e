"""`advise`: the numbers of `estimate_pre`, the front, what it says of pairs, what it refuses."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from energyest import estimate_pre
from energyest.errors import RunsError
from energyest.estimators.pre.residual_gp import Correction
from energyest.estimators.pre.totals import with_validation
from energyest.gpus import resolve_gpu
from energyest.plots.advice import plot_advice
from energyest.records.probe import Probe
from energyest.tradeoff.advice import COLUMNS, Advice
from energyest.tradeoff.advisor import advise, surely_beaten
from simulation.synthetic_pre import small_model, workload

MODELS = {
    "small": workload(256, 32),
    "medium": workload(2048, 32),
    "large": workload(4096, 32),
    "large, batch 128": workload(4096, 128),
}
GPUS = ("H100", "V100", "L4")
ASKED: dict[str, Any] = {"epochs": 10, "train_samples": 50_000, "validation_samples": 1000}


def asked(models: Any = MODELS, gpus: Any = GPUS, **changes: Any) -> Advice:
    return advise(models, gpus, **{"model": small_model(), **ASKED, **changes})


def test_numbers_are_those_of_estimate_pre() -> None:
    epochs = {name: 1.5 + i for i, name in enumerate(MODELS)}
    table = asked(epochs=epochs, confidence=0.8).table
    assert tuple(table.columns) == COLUMNS
    assert len(table) == 12
    for row in table.to_dict("records"):
        options = {**ASKED, "epochs": epochs[row["model"]], "confidence": 0.8}
        one = estimate_pre(MODELS[row["model"]], row["gpu"], model=small_model(), **options)
        for column, name in {
            "energy_J": "energy_J",
            "energy_lower_J": "lower_J",
            "energy_upper_J": "upper_J",
            "duration_s": "duration_s",
        }.items():
            assert row[column] == pytest.approx(getattr(one, name), rel=1e-9)
        assert row["mean_power_W"] == pytest.approx(one.energy_J / one.duration_s)  # type: ignore[operator]
        reasons = [text for text in row["note"].split("; ") if text]
        assert set(reasons) <= set(one.assumptions)
        assert bool(reasons) == (row["basis"] == "extrapolation")


def test_a_last_batch_of_validation_takes_the_cpu_as_long_as_any_other() -> None:
    load, gpu = workload(512, 256), resolve_gpu("H100")
    predicted = small_model().predict(with_validation([(load, gpu)]))
    share, step_J = predicted.cpu_share[1], predicted.energy_J[1]
    assert share > 1 / 256
    assert share != pytest.approx(predicted.cpu_share[0], rel=1e-3)
    without, one = (asked(load, gpu, epochs=1, validation_samples=n).table for n in (0, 1))
    more_J = one["energy_J"][0] - without["energy_J"][0]
    assert more_J == pytest.approx(share * step_J, rel=1e-6)


@pytest.mark.parametrize("mode", ["max", "min", None])
def test_the_front_is_what_no_other_pair_beats(mode: Any) -> None:
    quality = {"small": 0.6, "medium": 0.8, "large": 0.7, "large, batch 128": 0.9}
    given = {} if mode is None else {"quality": quality, "mode": mode}
    advice = asked(**given)
    rows = advice.table.to_dict("records")

    def costs(row: dict[Any, Any]) -> tuple[float, float, float]:
        worse = {"max": -1.0, "min": 1.0, None: 0.0}[mode] * (row["quality"] if mode else 0)
        return row["energy_J"], row["duration_s"], worse

    for row in rows:
        beaten = any(
            all(a <= b for a, b in zip(costs(other), costs(row), strict=True))
            and costs(other) != costs(row)
            for other in rows
        )
        assert row["on_front"] == (not beaten)
        assert row["may_be_on_front"] or not row["on_front"]
    order = [(not row["on_front"], row["energy_J"]) for row in rows]
    assert order == sorted(order)
    assert list(advice.front["model"]) == [row["model"] for row in rows if row["on_front"]]


def test_what_is_surely_beaten_lies_apart_by_both_intervals_in_both_costs() -> None:
    energy_J, half = np.array([1.0, 3.0, 5.0, 5.0]), np.full(4, math.log(2))
    apart = 2 ** math.sqrt(2)  # 2.67
    beaten = surely_beaten(energy_J, energy_J, np.zeros(4), half)
    assert beaten.tolist() == [value > apart for value in energy_J]
    # Apart in one of both alone.
    for costs in ([1.0, 2.3], [1.0, 9.0]), ([1.0, 9.0], [1.0, 2.3]):
        assert not surely_beaten(*map(np.array, costs), np.zeros(2), half[:2]).any()
    # As fast as the best one: not beaten in time.
    assert not surely_beaten(energy_J, np.array([1.0, 3, 5, 1]), np.zeros(4), half)[3]
    # Of better quality than the best one.
    assert not surely_beaten(energy_J, energy_J, np.array([0.0, 0, 0, -1]), half)[3]


def test_surely_beaten_is_wrong_no_more_often_than_the_confidence_allows() -> None:
    chance, n = np.random.default_rng(0), 4000
    half = 1.645 * 0.3  # 90 % of a normal distribution
    wrong = 0
    for _ in range(n):
        truth = chance.normal(0, 0.7, (5, 2))
        expected = truth + chance.normal(0, 0.3, (5, 2))
        out = surely_beaten(*np.exp(expected.T), np.zeros(5), np.full(5, half))  # type: ignore[call-arg]
        beaten = [(truth < own).all(axis=1).any() for own in truth]
        wrong += bool((out & ~np.array(beaten)).any())
    assert wrong / n < 0.1


def test_pairs_that_cannot_be_stand_at_the_end_with_the_reason() -> None:
    models = {
        "half": workload(256, 32, precision="bf16"),
        "huge": workload(256, 32, saved_bytes=50e9),
        "fits": workload(256, 32),
        "tf32": workload(256, 32, precision="tf32"),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        advice = asked(models, ["H100", "V100"])
    rows = {(row["model"], row["gpu"][:4]): row for row in advice.table.to_dict("records")}
    for key, reason in {
        ("half", "Tesl"): "lacks bf16; it has fp32, fp16",
        ("huge", "Tesl"): "needs about 50 GB",
    }.items():
        assert reason in rows[key]["note"]
        assert math.isnan(rows[key]["energy_J"])
        assert math.isnan(rows[key]["mean_power_W"])
        assert not rows[key]["may_be_on_front"]
    assert advice.table["energy_J"].isna().tolist() == [False] * 6 + [True] * 2
    assert rows["tf32", "Tesl"]["precision"] == "fp32"
    assert "computes in fp32, because it lacks tf32" in rows["tf32", "Tesl"]["note"]
    assert "2 of 8 pairs cannot be trained" in str(advice)


def test_where_nothing_can_be_trained_the_advice_says_so() -> None:
    advice = asked({"huge": workload(saved_bytes=1e13)}, quality={"huge": 1.0})
    assert "none of 3 pairs can be trained" in str(advice)
    assert not len(advice.front)
    for use in (lambda: advice.cheapest_within(0.1), lambda: plot_advice(advice)):
        with pytest.raises(RunsError, match="no pair can be trained"):
            use()  # type: ignore[no-untyped-call]


def test_basis() -> None:
    known = workload(512, 16)
    odd = workload(512, 16, input_bytes=2e10)  # seconds of copying
    table = asked({"known": known, "odd": odd}, ["H100", "A100"]).table
    found = {(row["model"], row["gpu"][0]): row for row in table.to_dict("records")}
    assert found["known", "H"]["basis"] == "interpolation"
    assert found["known", "H"]["note"] == ""
    assert found["odd", "H"]["note"].startswith("no measured training is similar")
    assert found["known", "A"]["note"].startswith("no training on A100")
    assert found["odd", "A"]["note"].count("; ") == 1


def test_unlike_is_farther_than_measurements_lie_from_each_other() -> None:
    # Hundreds of repetitions of one training would make everything else seem far if each counted.
    features = np.array([[float(i)] for i in range(10)] + [[0.0]] * 300)
    correction = Correction(features, np.zeros(310), 0.1, 1.0, 0.1)
    places = np.array([[0.0], [0.5], [3.3], [9.9], [10.1], [-2.0]])
    assert correction.is_unlike(places).tolist() == [False] * 4 + [True] * 2


def test_the_cheapest_within_a_distance_of_the_best_quality() -> None:
    quality = {"small": 0.6, "medium": 0.795, "large": 0.8, "large, batch 128": 0.7}
    advice = asked(quality=quality)
    cheapest = advice.table.set_index("model")["energy_J"].groupby("model").min()
    assert advice.cheapest_within(0).iloc[0]["model"] == "large"
    found = advice.cheapest_within(0.01)
    assert list(found["model"]) == ["medium"]
    assert found.iloc[0]["energy_J"] == cheapest["medium"]
    assert found.iloc[0]["behind"] == pytest.approx(0.005)
    assert asked(quality=quality, mode="min").cheapest_within(0.1).iloc[0]["model"] == "small"
    with pytest.raises(RunsError, match="pass quality="):
        asked().cheapest_within(0.1)


def test_a_probe_takes_the_place_of_the_estimate() -> None:
    probe = Probe(MODELS["large"], resolve_gpu("V100"), 30, 4e-3, 200.0)
    table = asked(probes=[probe]).table
    row = table[(table["model"] == "large") & (table["basis"] == "probe")].iloc[0]
    one = estimate_pre(MODELS["large"], probe=probe, model=small_model(), **ASKED)
    assert row["energy_J"] == one.energy_J
    assert row["energy_upper_J"] == pytest.approx(one.upper_J)
    assert (table["basis"] == "probe").sum() == 1
    with pytest.raises(RunsError, match=r"probe of Net on .*V100.* matches none of the models"):
        asked(probes=[replace(probe, workload=replace(probe.workload, batch_size=77))])


def test_a_probe_tells_of_the_same_model_on_other_gpus_the_nearest_most() -> None:
    load = MODELS["large"]
    on_v100 = Probe(load, resolve_gpu("V100"), 30, 4e-3, 200.0)
    on_a100 = Probe(load, resolve_gpu("A100"), 30, 9e-3, 300.0)
    table = asked({"it": load}, ["H100", "V100"], probes=[on_v100, on_a100]).table
    rows = table.set_index("gpu")
    near, there = rows.loc["H100 80GB HBM3"], rows.loc[resolve_gpu("V100").name]
    assert (near["basis"], there["basis"]) == ("probe elsewhere", "probe")
    one = estimate_pre(load, "H100", probe=on_a100, model=small_model(), **ASKED)
    assert near["energy_J"] == pytest.approx(one.energy_J)
    assert near["energy_upper_J"] == pytest.approx(one.upper_J)
    assert "probed on A100" in near["note"]


def test_what_is_said_of_a_probed_pair() -> None:
    quiet = workload(512, 16, precision="tf32", saved_bytes=50e9)
    load = replace(quiet, notes=("odd: a loop",))
    probe = Probe(load, resolve_gpu("V100"), 30, 4e-3, 200.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what was probed did fit
        rows = asked({"it": load}, ["V100", "H100"], probes=probe).table.set_index("basis")
    assert rows["precision"]["probe"] == "fp32"
    assert rows["note"]["probe"] == "computes in fp32, because it lacks tf32; odd: a loop"
    # What could not be counted is said, and no reason to call it an extrapolation.
    other, without = (asked(w, "H100").table.iloc[0] for w in (load, quiet))
    assert other["basis"] == without["basis"]
    assert other["note"] == "; ".join(filter(None, [without["note"], "odd: a loop"]))
    with pytest.raises(RunsError, match=r"'it' on Tesla V100.* has two probes"):
        asked({"it": load}, "V100", probes=[probe, replace(probe, power_W=100.0)])


def test_a_workload_that_cannot_be_timed_does_not_end_it() -> None:
    small = MODELS["small"]
    backward = tuple(replace(o, phase="backward") for o in small.operations)
    table = asked({"good": small, "bad": replace(small, operations=backward)}, "H100").table
    assert list(table["model"]) == ["good", "bad"]
    assert table["note"][1] == "its workload has no operations of the forward pass"


def test_shares_beside_percentages() -> None:
    quality = dict.fromkeys(MODELS, 0.9) | {"small": 85.0}
    with pytest.raises(RunsError, match="mixes shares and percentages"):
        asked(quality=quality)
    assert len(asked(quality=quality, mode="min").table) == 12  # of a loss that is right


def test_more_than_a_number_holds() -> None:
    with pytest.raises(RunsError, match=r"overflow: pass fewer epochs"):
        asked(epochs=1e300, train_samples=10**20)


def test_the_heading_counts() -> None:
    advice = asked({"small": MODELS["small"]})
    front, table = advice.front, advice.table
    others = int((table["may_be_on_front"] & ~table["on_front"]).sum())
    text = str(advice)
    assert (
        f"{len(front)} of 3 pairs are on the front of energy and time, and {others} more may be"
        in text
    )
    beyond = (front["basis"] == "extrapolation").sum()
    assert beyond != (table["basis"] == "extrapolation").sum() or len(front) == 3
    assert f"extrapolations on the front: {beyond};" in text
    fastest = front.sort_values("duration_s").iloc[0]
    assert ("also the fastest" in text) == (fastest.name == front.iloc[0].name)
    assert str(fastest["gpu"]) in text.splitlines()[0]


def test_one_model_and_one_gpu_need_no_list() -> None:
    row = asked(MODELS["small"], "H100").table.iloc[0]
    assert (row["model"], row["on_front"]) == ("Net", True)
    assert math.isnan(row["quality"])


def test_text_and_html() -> None:
    advice = asked(quality=dict.fromkeys(MODELS, 0.5))
    text = str(advice)
    assert f"{len(advice.front)} of 12 pairs are on the front of energy, time and quality" in text
    assert "the energy of the GPU alone" in text
    html = advice._repr_html_()
    assert html.count("<tr") == 13
    assert "no training on L4 was measured" in html


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": {}}, "models is empty"),
        ({"models": [MODELS["small"], MODELS["large"]]}, "two workloads have the model 'Net'"),
        ({"models": {"a": 3}}, "models contains a int"),
        ({"gpus": []}, "gpus is empty"),
        ({"gpus": ["H100", "H1000"]}, "unknown GPU 'H1000'.*closest names are"),
        ({"gpus": ["H100", "NVIDIA H100 80GB HBM3"]}, "H100 80GB HBM3 is given twice"),
        ({"epochs": 0}, "epochs=0 must be positive"),
        ({"epochs": {"small": 3}}, "epochs is missing for 'medium', 'large'"),
        (
            {"epochs": {**dict.fromkeys(MODELS, 1), "x": 1}},
            "epochs has a name that is not in models",
        ),
        ({"epochs": {**dict.fromkeys(MODELS, 1), "small": 0}}, "epochs of small=0"),
        ({"train_samples": 0}, "train_samples=0"),
        ({"quality": {"small": 0.5}}, "quality is missing for 'medium', 'large'"),
        ({"quality": 0.5}, "quality is a float: it must be a dict"),
        ({"quality": dict.fromkeys(MODELS, math.nan)}, "quality of 'small' is nan"),
        ({"mode": "best"}, "mode='best' must be 'max' or 'min'"),
        ({"probes": [3]}, "probes: probe is a int"),
        ({"probes": 3}, "probes: probe is a int"),
        ({"model": 3}, "model is a int"),
        ({"confidence": 1}, "confidence=1 must lie between 0 and 1"),
    ],
)
def test_refusals(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RunsError, match=message):
        asked(**changes)


def test_the_plot_shows_every_pair_and_marks_extrapolations() -> None:
    advice = asked()
    figure = plot_advice(advice)
    axes = figure.axes[0]
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert [text.get_text() for text in axes.texts] == list(advice.table["model"])
    hollow = [
        line
        for line in axes.lines
        if len(line.get_xdata()) == 1  # type: ignore[arg-type]
        and line.get_markerfacecolor() == "white"
        and line.get_markersize() == 7
        and line.get_markeredgewidth() > 0
    ]
    assert len(hollow) == (advice.table["basis"] == "extrapolation").sum() > 0
    assert "energy of the GPU" in axes.get_ylabel()
