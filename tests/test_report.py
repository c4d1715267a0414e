"""The report of a training, and what results show in a notebook: complete, escaped, and small."""

from __future__ import annotations

import math
import re
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from energyest import EnergyTrace, compare_estimators, detect, estimate_step, track
from energyest.display import format_energy, format_mass
from energyest.errors import ConfigurationError, EnergyestError, TraceError
from energyest.estimators import score_estimators
from energyest.frames import ResultTable
from energyest.markup import Markup, as_html, cell, element, escaped, of_frame
from energyest.measure.sensors.detection import Detection
from energyest.readers import read_table
from energyest.report import report_html, write_report
from energyest.summary import summary_of
from energyest.tradeoff import cheapest_within, compare_groups, interaction, pareto_front, savings
from tests.support.pictures import CHANGES, runs, training

DEVICES = [
    {"device": "gpu:0", "kind": "gpu", "name": "NVIDIA A40", "source": "measured",
     "method": "NVML's energy counter", "energy_J": 7e6, "missing_s": 12.5},
    {"device": "ram", "kind": "ram", "name": "512 GB", "source": "modelled",
     "method": "0.375 W per GB", "energy_J": 1e6},
]  # fmt: skip
META = {
    "run_id": "version_3",
    "status": "finished",
    "start_time": "2026-11-29T10:00:00+00:00",
    "duration_s": 1230.0,
    "total_J": 8.3e6,
    "devices": DEVICES,
    "model": {"name": "ResNet50", "parameters": 25_557_032},
    "hparams": {"lr": 0.001},
    "versions": {"torch": "2.13.0"},
    "host": "node17",
    "notes": ["RAPL may be read by root alone"],
}
# What names may hold that others have chosen.
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "]]><svg onload=alert(1)>",
    "a\u202egnp.exe",
    "\x1b]0;owned\x07\x00\x9b31m",
    "lone \ud800 surrogate",
    "$\\frac{$ &amp; <!-- --> </style>",
    "L" * 5000,
]


class Page(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def finished() -> EnergyTrace:
    return training(planned_epochs=20, **META)


@cache
def finished_page() -> str:
    return finished().to_html()


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ENERGYEST_CARBON_INTENSITY", raising=False)


def test_it_says_what_was_trained_and_what_it_cost() -> None:
    text = Page(finished_page()).text
    for said in (
        *("ResNet50", "25,557,032", "node17", "version_3", "NVIDIA A40", "20 min 30 s"),
        *("8.3 MJ (2.306 kWh)", "7 MJ (1.944 kWh)", "84.3 %", "12 %"),
        # What is modelled and what is missing.
        *("ram is modelled: 0.375 W per GB", "gpu:0 was not measured for 12.5 s"),
        *("RAPL may be read by root alone", "torch", "2.13.0", "lr", "0.001"),
        "ENERGYEST_CARBON_INTENSITY",
    ):
        assert said in text, said


@pytest.mark.parametrize("table", ["time_s,power_W\n0,300\n1,300\n2,300\n", ""])
def test_where_values_come_from_is_claimed_only_if_known(table: str, tmp_path: Path) -> None:
    trace = EnergyTrace.from_epochs([5100, 4020, 4010], duration_s=[30, 24, 24])
    if table:
        (tmp_path / "power.csv").write_text(table)
        trace = read_table(tmp_path / "power.csv")
    assert "modelled" not in summary_of(trace)
    text = Page(report_html(trace)).text
    assert "what was measured and what was modelled is not known" in text
    assert "Nothing is modelled" not in text


def test_a_log_without_epochs_has_no_time_of_0_s(tmp_path: Path) -> None:
    (tmp_path / "power.csv").write_text("time_s,power_W\n0,300\n1,300\n2,300\n")
    trace = read_table(tmp_path / "power.csv")
    assert summary_of(trace).startswith("0 epochs, 600 J")
    assert "0 epochs, 600 J" in trace._repr_html_()
    assert "duration" not in Page(report_html(trace)).text.split("Energy", 2)[1]


def test_a_modelled_share_is_shown_where_a_device_is_modelled() -> None:
    measured = {"device": "gpu:0", "source": "measured", "energy_J": 90.0}
    modelled = {"device": "ram:0", "source": "modelled", "energy_J": 10.0}
    unknown = {"device": "cpu:0", "energy_J": 10.0}
    for devices, is_shown in (
        ([measured, modelled], True),
        ([measured], False),
        ([measured, modelled, unknown], False),
    ):
        trace = EnergyTrace.from_epochs([100.0], [1.0], meta={"devices": devices})
        assert ("modelled 10 %" in summary_of(trace)) == is_shown
        assert ("modelled" in summary_of(trace)) == is_shown
        known = "is not known" not in Page(report_html(trace)).text.split("and what is missing")[1]
        assert known == (unknown not in devices)
    only = EnergyTrace.from_epochs([100.0], [1.0], meta={"devices": [measured]})
    assert "Nothing is modelled, and nothing is missing." in report_html(only)


def test_a_resumed_run_names_its_parts() -> None:
    part = {"host": "node3", "gpus": {"NVIDIA A40": 2}, "start_time": "2026-11-28T10:00:00+00:00"}
    parts = [
        {**part, "run_id": "version_1", "rows": 3, "total_J": 4e5},
        {**part, "run_id": "version_2", "rows": 5, "total_J": None},
    ]
    trace = EnergyTrace.from_epochs([1e5] * 8, [10] * 8, meta={**META, "earlier_parts": parts})
    page = report_html(trace)
    table = page[page.index("Parts of the run") :]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in table.split("</tr>")[1:4]]
    assert [row[-2:] for row in rows] == [
        ["3", "400 kJ (0.1111 kWh)"],
        ["2", "–"],  # it is not known what this part drew, nor therefore the next
        ["3", "–"],
    ]
    assert "2 x NVIDIA A40" in table
    assert "Energy by device, since the checkpoint" in page
    shares = re.findall(r"(\d[\d.]*) %", page[page.index("Energy by device") :])
    assert [float(share) for share in shares[:2]] == [87.5, 12.5]  # of what these devices drew
    assert "Parts of the run" not in report_html(EnergyTrace.from_epochs([1e5], meta=META))


def test_projection_is_compared_with_the_outcome() -> None:
    trace = finished()
    text = Page(finished_page()).text
    outcome_J = trace.column("energy_J").sum()
    for observed in (5, 10, 15):
        estimate = estimate_step(trace.head(observed), 20)
        assert format_energy(estimate.energy_J) in text
        error = 100 * (estimate.energy_J / outcome_J - 1)
        assert f"{error:.3g} %" in text
    assert "2 (10 %)" in text
    assert "not stable yet" in text  # two epochs are too few
    assert "in the interval" in text


def test_an_unfinished_run_has_its_projection() -> None:
    trace = training(planned_epochs=60, planned_changes=CHANGES, **{**META, "status": "running"})
    text = Page(trace.to_html()).text
    estimate = estimate_step(trace)
    ends = f"{estimate.lower_J / 1e6:.4g} MJ to {estimate.upper_J / 1e6:.4g} MJ"
    assert f"{estimate.energy_J / 1e6:.4g} MJ" in text
    assert ends in text
    assert "after 20 of 60 epochs" in text
    assert "assumed: the backbone is unfrozen at epoch 30" in text


def test_other_estimators_stand_beside() -> None:
    trace = finished()
    table = compare_estimators(trace, 20, observed=10)
    text = Page(finished_page()).text
    assert "Estimates of the whole training after 10 of 20 epochs" in text
    for method, note in table["note"].items():
        assert str(method) in text
        assert note in text  # whole


def test_emissions_where_an_intensity_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = training(1, **META)
    kg = trace.co2e_kg(500, pue=1.5)
    assert format_mass(kg) in Page(report_html(trace, carbon_intensity=500, pue=1.5)).text
    monkeypatch.setenv("ENERGYEST_CARBON_INTENSITY", "DE")
    assert "Germany" in Page(trace.to_html()).text
    with pytest.raises(EnergyestError, match="carbon_intensity"):
        report_html(trace, carbon_intensity=-1)
    with pytest.raises(ConfigurationError, match="pue"):
        report_html(trace, pue=0.5)


def test_what_was_not_measured_is_never_0() -> None:
    energy_J = np.full(20, 4e5)
    energy_J[7] = math.nan
    text = Page(EnergyTrace.from_epochs(energy_J, np.full(20, 60.0)).to_html()).text
    assert "1 of 20 epochs were not measured" in text
    assert "whole run–" in text
    assert not re.search(r"\b0 J", text)


@pytest.mark.parametrize(
    "trace",
    [
        EnergyTrace.from_epochs([]),
        EnergyTrace.from_epochs([math.nan] * 4),
        EnergyTrace.from_epochs([5.0]),
        training(3, interval_steps=50, planned_epochs=10),
    ],
)
def test_traces_that_have_little_to_tell(trace: EnergyTrace) -> None:
    page = Page(trace.to_html())
    assert len(page.named("h1")) == 1
    assert trace._repr_html_()


def test_it_is_one_accessible_page_without_outside_resources() -> None:
    html = finished_page()
    page = Page(html)
    names = {name for name, _ in page.elements}
    assert not names & {"script", "img", "iframe", "object", "embed", "form", "base"}
    for name, attributes in page.elements:
        for key, value in attributes.items():
            assert not key.startswith("on")
            if key in ("src", "href", "xlink:href", "action", "data"):
                assert str(value).startswith(("#", "data:,")), (name, key, value)
    assert not re.search(r"url\((?!#)|@import", html)
    assert page.named("html")[0]["lang"] == "en"
    assert page.named("meta")[1]["charset"] == "utf-8"
    assert all(cell["scope"] in ("col", "row") for cell in page.named("th"))
    levels = [int(name[1]) for name, _ in page.elements if re.fullmatch("h[1-6]", name)]
    assert levels == [1] + [2] * 9
    (image,) = [a for _, a in page.elements if a.get("role") == "img"]
    assert "Power of 3 devices over time" in str(image["aria-label"])
    assert "stable levels: " in str(image["aria-label"])
    assert page.named("svg")[0]["aria-hidden"] == "true"


def test_hostile_names_are_harmless(tmp_path: Path) -> None:
    every = "".join(HOSTILE[:-1])
    meta = {
        **META,
        "devices": [{**DEVICES[0], "device": n, "name": n, "method": n} for n in HOSTILE],
        "model": {"name": every},
        "notes": HOSTILE,
        "hparams": {name: name for name in HOSTILE},
        "versions": {name: name for name in HOSTILE},
        "planned_changes": [{"epoch": 2 + i / 10, "reason": n} for i, n in enumerate(HOSTILE)],
        **dict.fromkeys(("run_id", "status", "start_time", "host", "precision"), every),
    }
    plain = training(4, gpus=len(HOSTILE))
    power, columns = dict(plain.power_columns), {**plain.epoch_columns, "acc": np.ones(4)}
    names = {f"gpu:{i}": f"gpu:{name}" for i, name in enumerate(HOSTILE)}
    power["device"] = np.array([names.get(d, d) for d in power["device"]], dtype=object)
    trace = EnergyTrace(columns, power, meta)
    written = write_report(trace, tmp_path / "it.html").read_text(encoding="utf-8")
    for html in (written, trace._repr_html_()):
        page = Page(html)
        assert not {tag for tag, _ in page.elements} & {"script", "img"}
        assert not [key for _, attributes in page.elements for key in attributes if key[:2] == "on"]
        assert len(page.named("svg")) == (html is written)
        assert len(html) < 400_000
        html.encode()  # no lone surrogate
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", html)
        assert "<script>alert(1)</script>" in page.text  # it is still told, as text


def test_a_report_of_a_long_run_is_small() -> None:
    rng = np.random.default_rng(0)
    trace = EnergyTrace.from_epochs(400 + rng.normal(0, 4, 100_000), np.ones(100_000))
    html = trace.to_html()
    assert len(html) < 400_000
    assert "97500 to 99999" in html
    assert len(trace._repr_html_()) < 10_000


def test_it_is_written_to_a_file_or_a_folder(tmp_path: Path) -> None:
    trace = training(1)
    file = write_report(trace, tmp_path)
    assert file == tmp_path / "report.html"
    assert file.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert write_report(trace, str(file)) == file  # its own, again
    other = tmp_path / "mine.html"
    other.write_text("<p>mine")
    with pytest.raises(TraceError, match="not replaced"):
        write_report(trace, other)
    assert other.read_text() == "<p>mine"
    with pytest.raises(TraceError, match="cannot be written"):
        write_report(trace, tmp_path / "nowhere" / "it.html")
    with pytest.raises(TraceError, match="is a str"):
        report_html("trace")


def test_without_matplotlib_there_is_a_report_without_a_picture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "energyest.plots.picture", raising=False)
    page = Page(finished().to_html())
    assert not page.named("svg")
    assert "pip install matplotlib" in page.text


# ---------------------------------------------------------------------- pieces


def test_pieces_escape_what_is_not_markup() -> None:
    assert element("p", "<b>", class_='a"b') == '<p class="a&quot;b">&lt;b&gt;</p>'
    assert element("p", Markup("<b>")) == "<p><b></p>"
    assert escaped("a\u202eb\ud800") == "a?b?"
    assert as_html("one\ntwo") == '<p style="white-space:pre-line">one\ntwo</p>'


@pytest.mark.parametrize(
    ("value", "column", "text"),
    [
        (491_999.0, "energy_J", "492 kJ"),
        (3723.0, "duration_s", "1 h 02 min"),
        (0.0573, "co2e_kg", "57.3 g"),
        (0.123456, "error", "12.3 %"),
        (0.123456, "val_acc", "0.1235"),
        (251.23456, "mean_power_W", "251.2 W"),
        (12345, "epochs", "12345"),
        (np.int64(3), "J", "3"),
        (np.bool_(True), "on_front", "yes"),
        (math.nan, "energy_J", "–"),
        (None, "note", "–"),
        ("a note", "note", "a note"),
    ],
)
def test_cells_have_units_and_few_digits(value: object, column: str, text: str) -> None:
    assert cell(value, column) == text


# ---------------------------------------------------------------------- notebooks


def test_a_trace_in_a_notebook() -> None:
    html = finished()._repr_html_()
    text = Page(html).text
    assert "20 epochs in 20 min 30 s, 8.3 MJ (2.306 kWh)" in text
    assert "NVIDIA A40" in text
    assert "gpu:0 was not measured for 12.5 s" in text
    assert "19" in re.findall(r'<th scope="row"[^>]*>(\d+)</th>', html)
    assert "blocks of neighbours" not in text  # of 20 epochs, each has a row
    assert "color" not in html  # the notebook's own, dark or light


def test_blocks_of_epochs_hold_two_or_more() -> None:
    for epochs in (21, 41, 1000):
        trace = training(epochs)
        for html, most in ((trace._repr_html_(), 20), (report_html(trace), 40)):
            assert ("blocks of neighbours" in html) == (epochs > most)
            table = html.split("blocks of neighbours")[-1].split("</table>")[0]
            names = re.findall(r'<th scope="row"[^>]*>([^<]*)</th>', table)
            if epochs > most:
                assert len(names) == min(most, epochs // 2)
                assert all(re.fullmatch(r"\d+ to \d+", name) for name in names)


def test_a_run_in_a_notebook() -> None:
    assert "has not started" in track()._repr_html_()
    with track(gpus=[]) as run:
        for _ in run.epochs(2):
            pass
    assert "2 epochs" in run._repr_html_()


def test_what_can_be_measured_in_a_notebook() -> None:
    found = detect(gpus=[])
    text = Page(found._repr_html_()).text
    for sensor in found:
        assert sensor.device.method in text
    for note in found.notes:
        assert note in text
    found.close()
    assert "Nothing can be measured" in Detection((), notes=("<b>",))._repr_html_()
    assert "&lt;b&gt;" in Detection((), notes=("<b>",))._repr_html_()


def test_tables_in_a_notebook_cut_no_note_off() -> None:
    table = compare_estimators(finished(), 20, observed=10)
    assert isinstance(table, ResultTable)
    assert type(table[["energy_J"]]) is pd.DataFrame  # what is made of it is a plain one
    text = Page(table._repr_html_()).text
    assert max(map(len, table["note"])) > 50  # where pandas would end it
    for note in table["note"]:
        assert note in text
    assert "MJ" in text
    assert "e+06" not in text


def test_comparisons_in_a_notebook_have_units() -> None:
    found = interaction(runs())
    text = Page(found._repr_html_()).text
    for number in (*found.cells["mean"], *found.cells["median"]):
        assert format_energy(number) in text
    assert "std of logarithm" in text
    plain = interaction(runs(), log=False)
    text = Page(plain._repr_html_()).text
    assert all(format_energy(number) in text for number in plain.cells["std"])
    assert "of logarithm" not in text
    compared = compare_groups(runs())
    text = Page(compared._repr_html_()).text
    for number in (*compared.groups["mean"], *compared.groups["std"], *compared.pairs.difference):
        assert format_energy(number) in text
    # The unit of an accuracy is not known.
    accuracy = compare_groups(runs(), "val_acc")
    assert cell(accuracy.groups["mean"][0]) in Page(accuracy._repr_html_()).text


def test_savings_in_a_notebook() -> None:
    table = savings(runs())
    text = Page(table._repr_html_()).text
    assert f"{100 * table['saving'][0]:.3g} %" in text
    assert table["from_model"][0] in text
    long = ResultTable({"energy_J": np.ones(1000)})
    assert "940 more rows" in long._repr_html_()


@pytest.mark.parametrize("by", [None, ["model", "gpu"]])
def test_fronts_in_a_notebook_have_units(by: list[str] | None) -> None:
    for table in (pareto_front(runs(), by=by), cheapest_within(runs(), 0.05, by=by)):
        text = Page(table._repr_html_()).text
        assert len(table)
        for energy_J, model in zip(table["energy_J"], table["model"], strict=True):
            assert format_energy(energy_J) in text
            assert model in text  # no name is cut off


def test_scores_in_a_notebook_are_escaped() -> None:
    trace = EnergyTrace.from_epochs([3.0, *[1.0] * 19], np.ones(20))
    html = score_estimators({"<b>": trace})._repr_html_()
    assert "<b>" not in html
    assert 'scope="col"' in html


def test_a_named_index_is_the_first_column() -> None:
    frame = pd.DataFrame({"energy_J": [1e3]}, index=pd.Index(["<a>"], name="method"))
    assert Page(of_frame(frame)).text == "methodenergy<a>1 kJ"
