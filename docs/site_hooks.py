"""What the build of the site adds: pictures, files outside of `docs/`, and formulas as MathML."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import figures
import site_gallery
from latex2mathml.converter import convert
from mkdocs.structure.files import File

_ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"(\]\(|^\[[^\]]+\]: )((?:\.\./)+[\w./-]+)", re.M)
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.S)
_PICTURES = ("trace", "front", "savings")


def on_files(files: Any, config: Any) -> Any:
    """Add the pictures, and each file of the repository that a page links to."""
    for name in _PICTURES:
        picture = figures.svg(getattr(figures, name)())
        files.append(File.generated(config, f"figures/{name}.svg", content=picture))
    page, pictures = site_gallery.notebook()
    files.append(File.generated(config, site_gallery.NOTEBOOK_PAGE, content=page))
    for name, content in pictures.items():
        files.append(File.generated(config, f"gallery/{name}", content=content))
    for page in list(files.documentation_pages()):
        for path in _outside(page.content_string, page.src_uri):
            uri = _uri(path)
            if files.get_file_from_path(uri) is None:
                files.append(File.generated(config, uri, abs_src_path=str(_ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Show the examples of the gallery, and let links to these files lead to their copies."""
    if page.file.src_uri == "gallery.md":
        markdown = site_gallery.with_examples(markdown)

    def to_copy(match: re.Match[str]) -> str:
        path = _path(match[2], page.file.src_uri)
        if path is None:
            return match[0]
        start = os.path.dirname(page.file.src_uri)
        return match[1] + os.path.relpath(_uri(path), start).replace(os.sep, "/")

    return _LINK.sub(to_copy, markdown)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Turn TeX into MathML, which browsers show without a script."""

    def to_mathml(match: re.Match[str]) -> str:
        tex = match[2].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
        display = "block" if match[1] == "div" else "inline"
        return str(convert(tex.strip(), display=display))

    return _FORMULA.sub(to_mathml, html)


def _outside(markdown: str, page: str) -> set[str]:
    found = (_path(match[2], page) for match in _LINK.finditer(markdown))
    return {path for path in found if path is not None}


def _path(link: str, page: str) -> str | None:
    """The file outside of `docs/` that a link leads to, from the root of the repository."""
    target = Path(os.path.normpath(Path("docs") / Path(page).parent / link))
    return None if target.parts[0] == "docs" else target.as_posix()


def _uri(path: str) -> str:
    """Where its copy is; Markdown stays text, for it is no page of the site."""
    return f"repository/{path}" + (".txt" if path.endswith(".md") else "")
