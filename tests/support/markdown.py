"""Pages in Markdown: their blocks of code, links and headings."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^ *```", re.M | re.S)
_GIVEN = re.compile(r"<!-- given: (?P<given>.*?) -->", re.S)
_NOT_RUN = re.compile(r"<!-- not run: (?P<reason>.*?) -->\s*\Z", re.S)
_LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)|^\[[^\]]+\]: (?P<named>\S+)", re.M)
_HEADING = re.compile(r"^#{1,6} +(?P<text>.+?) *$", re.M)


@dataclass(frozen=True)
class Block:
    """A fenced block of code.

    Attributes:
        language: as the fence names it.
        code: without its indentation.
        line: of the page, counted from 1, on which the code begins.
        given: names that the page says are there: (name in the code, what it is).
        not_run: why it cannot be run by a test; empty if it can.
    """

    language: str
    code: str
    line: int
    given: tuple[tuple[str, str], ...]
    not_run: str


def pages() -> list[Path]:
    """The README and the pages of the documentation, but for drafts in `docs/new`."""
    found = [page for page in (ROOT / "docs").rglob("*.md") if "new" not in page.parts]
    return [ROOT / "README.md", *sorted(found)]


def name_of(page: Path) -> str:
    """A page, from the root of the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of code of a page, in order.

    `<!-- given: model = lightning_model, data -->` before a block says what the reader brings,
    `<!-- not run: REASON -->`, right before it, that no test can run it.
    """
    text, end = page.read_text(encoding="utf-8"), 0
    for fence in _FENCE.finditer(text):
        between = text[end : fence.start()]
        given = []
        for comment in _GIVEN.finditer(between):
            for item in comment["given"].split(","):
                name, _, what = (part.strip() for part in item.partition("="))
                given.append((name, what or name))
        reason = _NOT_RUN.search(between)
        indent = len(fence["indent"])
        code = "".join(line[indent:] or "\n" for line in fence["code"].splitlines(keepends=True))
        line = text.count("\n", 0, fence.start("code")) + 1
        not_run = " ".join(reason["reason"].split()) if reason else ""
        yield Block(fence["language"], code, line, tuple(given), not_run)
        end = fence.end()


def links(page: Path) -> Iterator[str]:
    """Targets of links and pictures, as they stand on the page."""
    for match in _LINK.finditer(_without_code(page)):
        yield match["target"] or match["named"]


def anchors(page: Path) -> set[str]:
    """What `#...` may follow a link to the page, as Python-Markdown makes them of headings."""
    return {_slug(match["text"]) for match in _HEADING.finditer(_without_code(page))}


def _slug(heading: str) -> str:
    plain = re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading)
    plain = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


def _without_code(page: Path) -> str:
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return re.sub(r"`[^`\n]+`(?!\])", "", text) if page.suffix != ".md" else text
