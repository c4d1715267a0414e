"""The check of prose finds what is planted, and nothing in good text."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.source import ROOT

pytest.importorskip("harper")
if not (ROOT / "prose").exists():
    pytest.skip("the tests run without the check of prose", allow_module_level=True)

from prose.check import RULES, check
from prose.python_text import text_of_module

LONG = " ".join(["The energy of a run is the sum of what its devices draw"] * 4) + "."
PLANTED = {
    "We foretell the energy of the whole run.": "PlainWords",
    "It is measured whilst the model trains.": "PlainWords",
    "The power is read often so as to miss nothing.": "PlainWords",
    "A larger GPU is dearer.": "PlainWords",
    "Energyest measures each epoch.": "Energyest",
    "The monitor finds the gpu by itself.": "Gpu",
    "Both gpus are measured.": "Gpus",
    "The run took 3 kwh in all.": "KilowattHours",
    "It causes 2 kg CO2 per run.": "CarbonDioxide",
    "The epoch took 3kWh in all.": "NumberAndUnit",
    "A board draws 700W at most.": "NumberAndUnit",
    "It measures the the whole run.": "RepeatedWords",
    "It gives a estimate of the energy.": "AnA",
    LONG: "LongSentences",
}
GOOD = """# Measuring with energyest

`energyest` reads the power of each GPU ten times a second. What was not measured is NaN, and is
marked as such. The run took 3 kWh, which is 1.2 kg CO2e, on an H100 80GB. Two GPUs were used,
and `gpu_energy_J` is the sum of both.

```python
whilst = "the the gpu draws 3kWh"
```
"""


def rules_found(text: str, folder: Path, name: str = "page.md") -> list[tuple[int, str]]:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return [(finding.line, finding.rule) for finding in check([file])]


def test_what_is_planted_is_found(tmp_path: Path) -> None:
    lines = list(PLANTED)
    found = rules_found("\n\n".join(lines) + "\n", tmp_path)
    assert found == [(2 * at + 1, PLANTED[line]) for at, line in enumerate(lines)]


def test_each_rule_of_ours_has_a_planted_sentence() -> None:
    assert {rule.stem for rule in RULES.glob("*.weir")} <= set(PLANTED.values())


def test_nothing_is_found_in_good_text(tmp_path: Path) -> None:
    assert rules_found(GOOD, tmp_path) == []


def test_docstrings_and_messages_of_a_module(tmp_path: Path) -> None:
    module = '''"""What is read whilst a model trains."""

whilst = gpu = 1  # names and comments are not text

def read(epochs, *, folder):
    """Read a run, so as to project it.

    Args:
        epochs: number of the the epochs.
        folder: where the trace is; amid others.

    Examples:
        >>> read(epochs=3)  # whilst it trains
    """
    raise ValueError(f"there is no trace in {folder} without without rows")
'''
    found = rules_found(module, tmp_path, "module.py")
    assert found == [
        (1, "PlainWords"),
        (6, "PlainWords"),
        (9, "RepeatedWords"),
        (10, "PlainWords"),
        (15, "RepeatedWords"),
    ]


def test_lines_stay_where_they_are() -> None:
    source = (ROOT / "prose" / "check.py").read_text(encoding="utf-8")
    assert len(text_of_module(source).splitlines()) == len(source.splitlines())


@pytest.mark.parametrize(("text", "status"), [(GOOD, 0), ("It draws 3kWh.\n", 1)])
def test_the_command_fails_if_it_finds_something(text: str, status: int, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "prose.check", str(page)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == status
    if status:
        assert "NumberAndUnit: 'kWh'" in ended.stdout
