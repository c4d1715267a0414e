"""The figures in the README are those that its code gives."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from energyest import EnergyTrace, PlannedChange, estimate_step
from energyest.display import format_energy

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.skipif(not README.exists(), reason="the tests run without the README")
def test_figures_of_the_notebook_example() -> None:
    text = README.read_text(encoding="utf-8")
    made = re.search(r"^trace = (EnergyTrace\.from_epochs\(.*\))$", text, re.MULTILINE)
    assert made is not None
    trace = eval(made[1], {"EnergyTrace": EnergyTrace})
    shown = re.findall(r"^(estimate_step\(trace, .*\))  # (.*)$", text, re.MULTILINE)
    assert len(shown) == 2
    names = {"estimate_step": estimate_step, "trace": trace, "PlannedChange": PlannedChange}
    for code, comment in shown:
        estimate = eval(code, names)
        assert comment.startswith(format_energy(estimate.energy_J))
        if "interval" in comment:
            low, high = format_energy(estimate.lower_J), format_energy(estimate.upper_J)
            assert comment.endswith(f"90 % interval {low} to {high}")
