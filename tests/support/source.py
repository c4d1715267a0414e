"""The files of the package, and what they import."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import energyest

ROOT = Path(__file__).parents[2]
PACKAGE = Path(energyest.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports_of(path: Path) -> frozenset[str]:
    """Full names of all modules that a file imports, also inside functions."""
    return _names_in(path)[0]


def strings_of(path: Path) -> frozenset[str]:
    """All strings of a file that may name a module or a script."""
    return _names_in(path)[1]


@cache
def _names_in(path: Path) -> tuple[frozenset[str], frozenset[str]]:
    """Imports and strings: of hundreds of files, their trees would fill the memory."""
    imports: set[str] = set()
    strings: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imports |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            imports.add(node.module or "")
            imports |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            strings.add(node.value)
    return frozenset(imports), frozenset(strings)
