"""How programs print their epochs, and whether such a line begins or ends one."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from energyest.errors import ConfigurationError

Edge = Literal["begins", "ends"]

# Longer lines are read only up to here.
_LONGEST_LINE = 4096
_LINE_END = re.compile(rb"[\r\n]")
# Colours and movements of the cursor.
_ESCAPE = re.compile(rb"\x1b\[[0-9;?]*[ -/]*[@-~]")


@dataclass(frozen=True)
class EpochPattern:
    """How a line names an epoch.

    Attributes:
        name: the framework that prints the line.
        regex: has a group `epoch`, the epoch's number; may have one of the groups `epochs`, the
            planned number of epochs, and `last`, the number of the last epoch.
        edge: whether the first line with an epoch's number begins or ends the epoch.
        first: number of the first epoch; None to infer it: 0 if a 0 comes first, else 1.
    """

    name: str
    regex: re.Pattern[str]
    edge: Edge
    first: int | None


class SeenEpoch(NamedTuple):
    """An epoch that a line names.

    Attributes:
        number: its number, counted from 0.
        epochs: planned number of epochs; None if the line does not state it.
        edge: whether the line begins or ends it.
        pattern: name of the pattern that matched.
    """

    number: int
    epochs: int | None
    edge: Edge
    pattern: str


BUILT_IN = (
    # The tqdm bar appears with the first batch, and is redrawn with each.
    EpochPattern(
        "lightning", re.compile(r"^Epoch (?P<epoch>\d+):\s+(?:\d+%\||\d+it \[)"), "begins", None
    ),
    # The rich bar has the last epoch's number after the slash. A full one begins nothing: into a
    # file or a pipe, rich writes only the last bar, when the training is over.
    EpochPattern(
        "lightning",
        re.compile(
            r"^\s*Epoch (?P<epoch>\d+)/(?P<last>\d+)\s+[━╸╺ ]+\s(?!(?P<all>\d+)/(?P=all) )\d+/"
        ),
        "begins",
        0,
    ),
    # A line of its own before the epoch.
    EpochPattern("keras", re.compile(r"^Epoch (?P<epoch>\d+)/(?P<epochs>\d+)\s*$"), "begins", 1),
    # A bar from the first batch on, with the GPU's memory next.
    EpochPattern(
        "ultralytics",
        re.compile(r"^\s+(?P<epoch>\d+)/(?P<epochs>\d+)\s+\d+(?:\.\d+)?[GM]\s"),
        "begins",
        1,
    ),
    # The examples of PyTorch: a line every few batches, from the first on.
    EpochPattern("pytorch", re.compile(r"^Train Epoch: (?P<epoch>\d+) \["), "begins", 1),
    # Logged every few steps and at the end of an epoch: the number of completed epochs, with a
    # fraction. Newer versions write numbers as text.
    EpochPattern(
        "huggingface",
        re.compile(r"^\{'.*'epoch': '?(?P<epoch>\d+(?:\.\d+)?(?:e[+-]\d+)?)'?[,}]"),
        "ends",
        1,
    ),
)
# Hugging Face's Trainer shows its steps: the first bar is the training's.
_STEPS = re.compile(r"^\s*\d+%\|.*\| (?P<step>\d+)/(?P<steps>\d+) \[")
# A log rounds its number of epochs: this close to a whole number, that number is meant.
_NEAR = 0.01


def users_pattern(regex: str, edge: Edge) -> EpochPattern:
    """Make a pattern from a user's regular expression.

    Raises:
        ConfigurationError: it is not a regular expression, or has no group `epoch`.
    """
    try:
        compiled = re.compile(regex)
    except re.error as error:
        raise ConfigurationError(f"epoch pattern {regex!r}: {error}") from error
    if "epoch" not in compiled.groupindex:
        raise ConfigurationError(
            f"epoch pattern {regex!r} has no group named epoch, such as in 'epoch (?P<epoch>\\d+)'"
        )
    return EpochPattern("user", compiled, edge, None)


class EpochReader:
    """Reads epochs from a program's lines; the first pattern that matches is used from then on.

    Args:
        patterns: the patterns to try.
    """

    def __init__(self, patterns: Sequence[EpochPattern] = BUILT_IN) -> None:
        self._patterns = tuple(patterns)
        self._first: int | None = None
        self._steps = 0
        # What a log said since the bar was last drawn: the epoch, and how many are over.
        self._told: tuple[SeenEpoch, float] | None = None

    def read(self, line: str) -> SeenEpoch | None:
        """The epoch that a line names, again where a later line says how many there will be."""
        if bar := _STEPS.match(line):
            return self._see_steps(int(bar["step"]), int(bar["steps"]))
        for pattern in self._patterns:
            if found := pattern.regex.search(line):
                try:
                    number = float(found["epoch"])
                    seen = self._seen(pattern, number, found.groupdict())
                except (TypeError, ValueError, OverflowError):
                    continue  # a group of the user's pattern does not hold a number
                self._patterns = (pattern,)
                return seen
        return None

    def _seen(
        self, pattern: EpochPattern, number: float, groups: dict[str, str | None]
    ) -> SeenEpoch | None:
        if self._first is None:
            self._first = int(number >= 1) if pattern.first is None else pattern.first
        first = self._first
        epochs: int | None = None
        if groups.get("epochs"):
            epochs = int(float(groups["epochs"] or 0))
        elif groups.get("last"):
            epochs = int(groups["last"] or 0) - first + 1
        index = math.floor(number) - first
        if index < 0:
            return None
        seen = SeenEpoch(index, epochs, pattern.edge, pattern.name)
        if pattern.name == "huggingface":
            self._told = seen, number
        return seen

    def _see_steps(self, step: int, steps: int) -> SeenEpoch | None:
        """The bar of the training is drawn late, but drawn anew below each line of the log."""
        self._steps = self._steps or steps
        if steps != self._steps or not step or self._told is None:
            return None
        (seen, done), self._told = self._told, None
        epochs = done * steps / step
        whole = round(epochs)
        return seen._replace(epochs=whole) if abs(epochs - whole) <= _NEAR * whole else None


class LineReader:
    """Splits a program's output into lines; a redrawn bar is a line each time."""

    def __init__(self) -> None:
        self._open = b""

    def feed(self, data: bytes) -> Iterator[str]:
        """The lines that end in the next bytes, and the bar at their end, if any."""
        *ended, rest = _LINE_END.split(data)
        for part in ended:
            yield _text(self._open + part[:_LONGEST_LINE])
            self._open = b""
        self._open = (self._open + rest)[:_LONGEST_LINE]
        # A bar is written at once, but its line ends only when it is redrawn.
        if b"%" in self._open:
            yield _text(self._open)


def _text(line: bytes) -> str:
    return _ESCAPE.sub(b"", line).decode("utf-8", "replace")
