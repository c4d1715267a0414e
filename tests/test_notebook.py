"""The notebook runs, on real traces, and its stored outputs are there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

NOTEBOOK = Path(__file__).parents[1] / "examples" / "tradeoff.ipynb"


@pytest.fixture
def cells() -> list[dict[str, Any]]:
    if not NOTEBOOK.exists():
        pytest.skip("the tests run without the examples")
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return [cell for cell in content["cells"] if cell["cell_type"] == "code"]


@pytest.mark.long
def test_it_runs(cells: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(NOTEBOOK.parent)
    names: dict[str, Any] = {}
    pictures = 0
    for cell in cells:
        *statements, last = "".join(cell["source"]).rstrip().rsplit("\n", 1)
        try:
            value = compile(last, "cell", "eval")
        except SyntaxError:
            exec("".join(cell["source"]), names)
            continue
        exec("\n".join(statements), names)
        pictures += isinstance(eval(value, names), Figure)
    assert pictures == sum("plots.plot_" in "".join(cell["source"]) for cell in cells) == 7
    assert len(names["runs"]) == 72
    # What its text says.
    advised = names["predicted"]
    assert (advised["energy_lower_J"] < advised["measured_J"]).all()
    assert (advised["measured_J"] < advised["energy_upper_J"]).all()
    order = advised.groupby("model")[["energy_J", "measured_J"]].mean().rank()
    assert (order["energy_J"] - order["measured_J"]).abs().sort_values().to_list() == [0] * 4 + [
        1,
        1,
    ]


def test_its_outputs_are_stored(cells: list[dict[str, Any]]) -> None:
    for cell in cells[1:]:
        kinds = [output["output_type"] for output in cell["outputs"]]
        assert kinds, "".join(cell["source"])
        assert "error" not in kinds
    text = json.dumps(cells)
    assert text.count('"image/png"') == 7
    assert "stderr" not in text
