"""What the README promises beside its snippets, which `test_documentation.py` runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.markdown import blocks

README = Path(__file__).parents[1] / "README.md"
needs_readme = pytest.mark.skipif(not README.exists(), reason="the tests run without the README")


@needs_readme
def test_the_hugging_face_example_is_short() -> None:
    python = [block.code for block in blocks(README) if block.language == "python"]
    (code,) = [code for code in python if "EnergyCallback" in code]
    assert len([line for line in code.splitlines() if line]) <= 8


@needs_readme
@pytest.mark.parametrize("session", ["demo", "tests"])
def test_a_command_for_everything(session: str) -> None:
    command = f"python -m pip install nox && python -m nox -s {session}"
    assert command in [block.code.strip() for block in blocks(README)]
