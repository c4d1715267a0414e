"""Terminals and files that the command line writes to."""

from __future__ import annotations

import io
import re
import sys

import pytest

from energyest.cli import main


class Terminal(io.StringIO):
    """Text of a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    @property
    def text(self) -> str:
        """Without colours and movements of the cursor."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue())

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()


def on_terminal(monkeypatch: pytest.MonkeyPatch, *arguments: str, columns: int = 80) -> Terminal:
    """What a command shows on a terminal of that width."""
    shown = Terminal()
    with monkeypatch.context() as patch:
        patch.setenv("COLUMNS", str(columns))
        patch.setenv("TERM", "xterm-256color")
        for name in ("NO_COLOR", "FORCE_COLOR"):
            patch.delenv(name, raising=False)
        patch.setattr(sys, "stdout", shown)
        main(arguments)
    return shown
