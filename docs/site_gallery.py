"""What the site shows of the gallery's files: code, output, and the cells of the notebook."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[1]
_STORED = _ROOT / "docs/gallery"
# A line such as `[resume.py](../examples/resume.py), [its output](gallery/resume.txt)`.
_EXAMPLE = re.compile(r"^\[[\w.]+\]\(\.\./(?P<script>examples/[\w/]+\.py)\), \[its .*$", re.M)
NOTEBOOK = "examples/tradeoff.ipynb"
NOTEBOOK_PAGE = "gallery/tradeoff.md"


def with_examples(markdown: str) -> str:
    """The gallery, with code and output of each example below the links to them."""
    runs = json.loads((_STORED / "runs.json").read_text(encoding="utf-8"))

    def shown(match: re.Match[str]) -> str:
        script = _ROOT / match["script"]
        run = runs[script.stem]
        versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
        parts = [
            match[0],
            _fenced(script.read_text(encoding="utf-8"), f'python title="{match["script"]}"'),
            f"Run on {run['date']}, with {versions}:",
            _fenced((_STORED / f"{script.stem}.txt").read_text(encoding="utf-8"), "text"),
        ]
        return "\n\n".join(parts)

    return _EXAMPLE.sub(shown, markdown).replace(
        f"[tradeoff.ipynb](../{NOTEBOOK})", f"[the notebook, with its outputs]({NOTEBOOK_PAGE})"
    )


def notebook() -> tuple[str, dict[str, bytes]]:
    """The notebook as a page, and its pictures by name."""
    cells = json.loads((_ROOT / NOTEBOOK).read_text(encoding="utf-8"))["cells"]
    parts, pictures = [], {}
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            # Its links lead from examples/; those of the page, from docs/gallery/.
            source = source.replace("](../docs/", "](../").replace(
                "](data/", "](../../examples/data/"
            )
            parts.append(source)
            continue
        parts.append(_fenced(source, "python"))
        for output in cell["outputs"]:
            if "image/png" in output.get("data", {}):
                name = f"tradeoff-{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode(output["data"]["image/png"])
                parts.append(f"![What the code above draws]({name})")
            else:
                parts.append(_fenced(_text(output), "text"))
    return "\n\n".join(parts) + "\n", pictures


def _text(output: dict[str, Any]) -> str:
    text: str | list[str] = output.get("data", {}).get("text/plain", output.get("text", ""))
    return "".join(text)


def _fenced(text: str, language: str) -> str:
    return f"```` {language}\n{text.strip(chr(10))}\n````"
