"""The text of a module: its docstrings and messages as Markdown, each on the line where it is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

# Parts of a docstring, and what begins an item in one of them.
_SECTION = re.compile(r"(Args|Returns|Raises|Yields|Attributes|Examples?):")
_ITEM = re.compile(r"[\w.*]+(, [\w.*]+)*( \([^)]*\))?: ")
# What looks like a sentence, and not like code, HTML or a pattern.
_MESSAGE = re.compile(r"[\w'`\"(][^<>{}\\=|#]*")
_LEAST_WORDS = 4
_STEP = 4  # spaces by which an item of a part is indented


def text_of_module(source: str) -> str:
    """Docstrings without their examples and code, and messages of four words or more.

    Each line stands where it is in the module, so a finding has the module's line.
    """
    tree = ast.parse(source)
    lines = [""] * len(source.splitlines())
    left_out = set()
    for node in _docstrings(tree):
        left_out.add(id(node))
        for at, line in enumerate(_prose(node.value), node.lineno - 1):
            lines[at] = line
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            left_out |= {id(part) for part in node.values}
        if id(node) not in left_out and (text := _message(node)):
            # As a sentence, for what stands on the next line is another one.
            lines[node.lineno - 1] += f" {text}{'' if text[-1] in '.:!?' else '.'}"
    return "\n".join(lines) + "\n"


def _docstrings(tree: ast.AST) -> Iterator[ast.Constant]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            value = first.value if isinstance(first, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value


def _prose(docstring: str) -> Iterator[str]:
    """The lines of a docstring, empty where they are code."""
    first, *others = docstring.splitlines() or [""]
    base = min((_indent(line) for line in others if line.strip()), default=0)
    yield first.strip()
    section, is_code = "", False
    for line in others:
        text, indent = line.strip(), _indent(line) - base
        if text and indent <= 0:
            found = _SECTION.fullmatch(text)
            section = found[1] if found else ""
            text = "" if found else text
        is_code = bool(text) and (is_code or text.startswith((">>>", "python ")))
        if is_code or (indent > 0 and section in {"", "Example", "Examples"}):
            yield ""
        else:
            item = _ITEM.sub("", text, count=1) if section and indent == _STEP else text
            # Conditions that are listed are sentences of their own.
            yield item.replace(";", ".") if section else item


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _message(node: ast.AST) -> str:
    """The text of a string that reads like a sentence; what it is filled with, as code."""
    text = ""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        text = node.value
    elif isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else "`x`" for part in node.values]
        text = "".join(map(str, parts))
    text = " ".join(re.sub(r"%[sd]|%\.\d\w", "`x`", text).split())
    return text if len(text.split()) >= _LEAST_WORDS and _MESSAGE.fullmatch(text) else ""
