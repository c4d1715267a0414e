"""The files of the package, and what they import."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import energyest

ROOT = Path(__file__).parents[2]
PACKAGE = Path(energyest.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))


@cache
def nodes_of(path: Path) -> list[ast.AST]:
    """All nodes of a file's syntax tree."""
    return [*ast.walk(ast.parse(path.read_text(encoding="utf-8")))]


def imports_of(path: Path) -> set[str]:
    """Full names of all modules that a file imports, also inside functions."""
    found: set[str] = set()
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def strings_of(path: Path) -> set[str]:
    """All strings of a file that may name a module or a script."""
    constants = (node for node in nodes_of(path) if isinstance(node, ast.Constant))
    return {node.value for node in constants if isinstance(node.value, str)}
