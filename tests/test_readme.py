"""What the README promises beside its snippets, which `test_documentation.py` runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.markdown import blocks

README = Path(__file__).parents[1] / "README.md"
PROJECT = README.with_name("pyproject.toml")
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


@needs_readme
@pytest.mark.skipif(not PROJECT.exists(), reason="the tests run without pyproject.toml")
def test_the_oldest_versions_are_those_of_the_project() -> None:
    project = PROJECT.read_text()
    (python,) = re.findall(r'requires-python = ">=([\d.]+)"', project)
    (torch,) = re.findall(r'"torch>=([\d.]+)"', project)
    (lightning,) = re.findall(r'"pytorch-lightning>=([\d.]+),', project)
    text = " ".join(README.read_text().split())
    assert (
        f"needs Python {python} or newer, torch {torch} or newer and Lightning {lightning} or newer"
    ) in text
