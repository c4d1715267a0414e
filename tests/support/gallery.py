"""The form of what an example prints, which is the same in every run and on every machine."""

from __future__ import annotations

import re
from collections.abc import Iterable

# An estimate, or None while there is none.
_ESTIMATE = re.compile(r"\d[\d.,]* \w+ \([^)]*\) for .*?\]|\bNone\b")
# What a machine can measure, and notes on what it cannot.
_OF_A_MACHINE = re.compile(r"\s*(?:gpu|cpu|ram|system):\d|note: ")
_BUDGET = re.compile(r"the budget of .*")
_UNIT = r"(?:[nµmkMG]?(?:J|Wh|W|s|g)|min|h|%)"
_NUMBER = re.compile(rf"(?<![\w.])-?\d[\d,.]*(?:e[+-]?\d+)?(?: ?{_UNIT}(?!\w))?|\bnan\b")


def form(text: str, devices: Iterable[str]) -> list[str]:
    """The lines of a text, with numbers, estimates and names of devices replaced.

    Of a row of a table, only the first cell counts; its head counts whole. Rows that follow each
    other and differ in numbers only count as one, and so do the lines of a log, each of them a
    mapping: how many there are, and which of them have a projection, may differ.

    Args:
        text: what an example has printed.
        devices: the names of what was measured or modelled there.
    """
    lines: list[str] = []
    for line in text.strip("\n").splitlines():
        if _OF_A_MACHINE.match(line):
            continue
        changed = _BUDGET.sub("(budget)", _ESTIMATE.sub("(estimate)", line))
        for name in devices:
            changed = changed.replace(name, "(device)")
        changed = _NUMBER.sub("#", changed).strip()
        first, *cells = re.split(r"\s{2,}", changed)
        if {"#", "-"} & {first, *cells}:  # a row of a table
            changed = f"{first} (cells)"
        changed = re.sub(r"^\{.*\}$", "(log)", changed)
        changed = re.sub(r"\(device\)(?:, \(device\))+", "(device)", re.sub(r"\s+", " ", changed))
        if not lines or changed != lines[-1]:
            lines.append(changed)
    return lines
