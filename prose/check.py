"""Check the text of the repository: `python -m prose.check [FILE ...]`.

Harper, a grammar checker, reads README, documentation, docstrings and messages, with its own rules
and those in `prose/rules`. Without files, it reads all of them. The exit status is 1 if it has
found something.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from prose.python_text import text_of_module

ROOT = Path(__file__).parents[1]
RULES = Path(__file__).parent / "rules"
TEXTS = ("*.md", "docs/**/*.md", "examples/**/*.md", "benchmarks/*.md")
MODULES = ("energyest/**/*.py", "examples/**/*.py")
# Rules of Harper that are not ours, or that are often wrong about technical text.
NOT_OURS = "not_ours.txt"
# Ours, of words that are written in one way.
WORDS_OF_OURS = {"CarbonDioxide", "Energyest", "Gpu", "Gpus", "KilowattHours"}
# What stands beside a word that is part of a name, as in `gpu_energy_J`.
_IN_NAMES = set("_./:=\"'`")
# What inserts the documentation of a module into a page.
_DIRECTIVE = re.compile(r"^:::.*$", re.M)
MANIFEST = {"author": "energyest", "version": "1", "description": "House rules", "license": ""}


class Finding(NamedTuple):
    """Something to mend.

    Attributes:
        file: where it is.
        line: counted from 1.
        rule: of Harper, or the name of a file in `prose/rules`.
        words: what it is about.
        message: what is wrong with them.
    """

    file: Path
    line: int
    rule: str
    words: str
    message: str

    def __str__(self) -> str:
        words = self.words if len(self.words) < 80 else f"{self.words[:77]}..."
        return f"{self.file}:{self.line}: {self.rule}: {words!r}: {self.message}"


def check(files: Iterable[Path]) -> list[Finding]:
    """What Harper finds in texts in Markdown, and in docstrings and messages of modules."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rules = _packed_rules(folder)
        # Harper answers with names of files alone, so each gets a name of its own.
        copies = {}
        for number, file in enumerate(files):
            copies[f"{number}.md"] = file
            (folder / f"{number}.md").write_text(_text(file), encoding="utf-8")
        for entry in _harper(rules, [str(folder / copy) for copy in copies]):
            file = copies[entry["file"]]
            text = _text(file)
            for lint in entry["lints"]:
                if _is_found(lint, text, is_module=file.suffix == ".py"):
                    words = " ".join(lint["matched_text"].split())
                    found.append(Finding(file, lint["line"], lint["rule"], words, lint["message"]))
    return sorted(found)


def _text(file: Path) -> str:
    """What there is to read in a file, each line where it is."""
    text = file.read_text(encoding="utf-8")
    return text_of_module(text) if file.suffix == ".py" else _DIRECTIVE.sub("", text)


def _is_found(lint: dict[str, Any], text: str, *, is_module: bool) -> bool:
    """Whether it is something to mend; our own rules see neither case nor what stands beside."""
    start, end = lint["span"]["char_start"], lint["span"]["char_end"]
    before, after = text[:start][-1:], text[end:][:1]
    if lint["rule"] == "NumberAndUnit":
        return before.isdigit()
    if lint["rule"] in WORDS_OF_OURS:
        is_name = before in _IN_NAMES or after in _IN_NAMES
        # In modules, `gpu` is a kind of device and the name of many a parameter.
        return not (
            is_name
            or f"“{lint['matched_text']}”" in "".join(lint["suggestions"])
            or (is_module and lint["rule"] in {"Gpu", "Gpus"})
        )
    return True


def _packed_rules(folder: Path) -> Path:
    """Our rules, in the one file that Harper takes."""
    packed = folder / "rules.weirpack"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("manifest.json", json.dumps(MANIFEST))
        for rule in sorted(RULES.glob("*.weir")):
            archive.write(rule, rule.name)
    return packed


def _harper(rules: Path, files: list[str]) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "harper", "lint", "--quiet", "--format", "json"]
    # Several rules may have something to say about one word.
    command += ["--keep-overlapping-lints"]
    lines = (RULES / NOT_OURS).read_text(encoding="utf-8").splitlines()
    not_ours = [name for line in lines if not line.startswith("#") for name in line.split()]
    command += ["--dialect", "gb", "--weirpacks", str(rules), "--ignore", ",".join(not_ours)]
    answer = subprocess.run([*command, *files], capture_output=True, text=True, check=False)
    try:
        answers: list[dict[str, Any]] = json.loads(answer.stdout)
    except ValueError:
        sys.exit(f"harper: {answer.stderr}")
    return answers


def main(names: list[str]) -> int:
    """Check these files, or all, and print what is found."""
    patterns = [*TEXTS, *MODULES]
    files = [Path(name) for name in names] or sorted(
        path.relative_to(ROOT) for pattern in patterns for path in ROOT.glob(pattern)
    )
    found = check(files)
    for finding in found:
        print(finding)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
