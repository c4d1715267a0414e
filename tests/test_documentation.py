"""The code in README and documentation runs, prints what it says, and no link is broken."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from energyest import cli
from tests.conftest import skipped_without_torch
from tests.faults import load_cases
from tests.support import snippet_names
from tests.support.markdown import ROOT, Block, anchors, blocks, links, name_of, pages

PAGES = [page for page in pages() if page.exists()]
if not PAGES:
    pytest.skip("the tests run without the documentation", allow_module_level=True)
with_code = [page for page in PAGES if any(b.language in {"python", "bash"} for b in blocks(page))]
every_page = [*PAGES, *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"))]
# A number that stands by itself, as 403.1 or 1,281,167.
_NUMBER = re.compile(r"(?<![\w.])\d+(?:,\d{3})*(?:\.\d+)?")


@pytest.fixture(scope="module", autouse=True)
def _runs(tmp_path_factory: pytest.TempPathFactory) -> None:
    snippet_names.unpacked.where = tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize("page", with_code, ids=name_of)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_the_code_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_DISABLED", "true")
    with skipped_without_torch():
        _run_page(page)


def _run_page(page: Path) -> None:
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page):
        for name, what in block.given:
            _give(name, what, names)
        if block.not_run:
            continue
        where = f"{name_of(page)}:{block.line}"
        if block.language == "python":
            _run_python(block, names, where)
        elif block.language == "bash":
            _run_commands(block, where)


@pytest.mark.parametrize("page", every_page, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    if not page.exists():
        pytest.skip("the tests run without it")
    made = set(_figures())
    for link in links(page):
        path, _, anchor = link.partition("#")
        if re.match(r"\w+:", path):
            continue
        target = (page.parent / path).resolve() if path else page
        if target.suffix == ".svg" and target.parent == ROOT / "docs/figures":
            assert target.stem in made, f"{link}: docs/figures.py makes no such picture"
            continue
        assert target.exists(), f"{link}: no such file"
        # The site has a copy of each file that a page links to, but none of a folder.
        is_on_site = ROOT / "docs" in page.parents
        assert target.is_file() or not is_on_site, f"{link}: not a file"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{link}: no such heading"


def test_the_page_on_faults_is_of_these_cases() -> None:
    page = (ROOT / "docs/explanation/reliability.md").read_text(encoding="utf-8")
    for case in load_cases().values():
        assert f"| {case.fault} | {case.training} | {case.trace} |" in page


def test_what_is_not_run_has_a_reason() -> None:
    for page in PAGES:
        for block in blocks(page):
            where = f"{name_of(page)}:{block.line}"
            assert not block.not_run or len(block.not_run.split()) > 1, where


def _figures() -> list[str]:
    """Names of the pictures that the build makes."""
    source = ast.parse((ROOT / "docs/figures.py").read_text(encoding="utf-8"))
    return [node.name for node in source.body if isinstance(node, ast.FunctionDef)]


def _give(name: str, what: str, names: dict[str, Any]) -> None:
    make = getattr(snippet_names, what)
    if what.endswith(("_file", "_folder")):
        make(name)
    else:
        names[name] = make()


def _run_python(block: Block, names: dict[str, Any], where: str) -> None:
    """Run it, statement by statement, and compare numbers in comments with what comes of it."""
    lines = block.code.splitlines()
    first = block.line - 1
    tree = ast.parse("\n" * first + block.code, filename=where)
    for node in tree.body:
        output = io.StringIO()
        value = None
        with contextlib.redirect_stdout(output):
            if isinstance(node, ast.Expr):
                value = eval(compile(ast.Expression(node.value), where, "eval"), names)
            else:
                exec(compile(ast.Module([node], []), where, "exec"), names)
        said = _comment(lines[(node.end_lineno or 0) - 1 - first], node.end_col_offset or 0)
        if isinstance(node, ast.Expr) and said:
            _compare(said, f"{output.getvalue()} {value}", f"{where}: {ast.unparse(node)}")


def _comment(line: str, column: int) -> str:
    """What a comment at the end of a line says."""
    rest = line.encode()[column:].decode().strip()
    return rest[1:].strip() if rest.startswith("#") else ""


def _compare(said: str, found: str, where: str) -> None:
    there = _NUMBER.findall(found)
    for number in _NUMBER.findall(said):
        assert number in there, f"{where}\nsays {number}, but it is {found}"


def _run_commands(block: Block, where: str) -> None:
    """Run its lines that call energyest; all others are for the reader's machine."""
    for line in block.code.replace("\\\n", " ").splitlines():
        if not line.startswith("energyest "):
            continue
        code, _, said = line.partition("  #")
        status, found = _called(shlex.split(code))
        assert status == 0, f"{where}: {line}\n{found}"
        _compare(said, found, f"{where}: {line}")


def _called(command: list[str]) -> tuple[int, str]:
    """Exit status and output of a command; `run`, which passes signals on, in its own process."""
    if command[1] == "run":
        command = [sys.executable, "-m", "energyest", *command[1:]]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        ended = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment
        )
        return ended.returncode, ended.stdout + ended.stderr
    output = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
    ):
        patch.setattr(sys, "argv", command)
        try:
            status = cli.main()
        except SystemExit as end:
            status = int(end.code or 0)
    return status or 0, output.getvalue()
