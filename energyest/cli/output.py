"""What commands print: text and tables that suit any terminal, and JSON.

Names come from files that somebody else wrote. They are shown as text: neither control characters
nor rich's markup count, and what the terminal's encoding lacks is shown as a question mark.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from textwrap import fill
from typing import TYPE_CHECKING, Any, TextIO

from energyest.display import printable

if TYPE_CHECKING:
    from rich.console import Console

Cell = object
# Of a longer table, a terminal shows the beginning and the end.
_MOST_ROWS, _FIRST_ROWS, _LAST_ROWS = 40, 5, 20
# Spaces between columns.
_GAP = 2


def say(text: object, *, error: bool = False) -> None:
    """Print text on stdout, or on stderr."""
    stream = _Encodable(sys.stderr if error else sys.stdout)
    stream.write(f"{printable(str(text))}\n")


def print_exactly(text: str) -> None:
    """Print text for another program; on a terminal, it is shown like all other text."""
    stream = _Encodable(sys.stdout)
    stream.write(printable(text) if stream.isatty() else text)


def say_line(text: str, *, indent: str = "  ", error: bool = False) -> None:
    """Print a sentence: one line, which a terminal shows between words where it is too long.

    Args:
        text: the sentence.
        indent: of its further lines.
        error: whether it goes to stderr.
    """
    stream = sys.stderr if error else sys.stdout
    line = one_line(text)
    if _is_terminal(stream):
        width = max(20, shutil.get_terminal_size().columns)
        line = fill(line, width, subsequent_indent=indent, break_on_hyphens=False)
    say(line, error=error)


def say_written(file: str, rows: int, kind: str, *, error: bool) -> None:
    """Say that a table was written to a file, such as one of 3 rows of runs."""
    say(f"written: {file} ({rows} rows of {kind})", error=error)


def note(text: object) -> None:
    """Say on stderr what qualifies an answer."""
    say_line(f"note: {text}", error=True)


def one_line(text: str) -> str:
    """Text that stays within its line."""
    return printable(text).replace("\n", "?")


@contextmanager
def warnings_as_notes(*replacements: tuple[str, str]) -> Iterator[None]:
    """What the library warns of inside becomes notes.

    Args:
        *replacements: words of the library for which the command line has others.
    """

    def show(message: Warning | str, category: type[Warning], *more: Any, **others: Any) -> None:
        if not issubclass(category, UserWarning):
            shown(message, category, *more, **others)
            return
        text = str(message)
        for old, new in replacements:
            text = text.replace(old, new)
        note(text)

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        shown, warnings.showwarning = warnings.showwarning, show
        yield


@contextmanager
def no_warnings() -> Iterator[None]:
    """What the library warns of inside is not said."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


@contextmanager
def notes_of_library(*replacements: tuple[str, str]) -> Iterator[None]:
    """What the library logs and warns of inside becomes notes; see `warnings_as_notes`."""
    log, handler = logging.getLogger("energyest"), _Notes(logging.WARNING)
    log.addHandler(handler)
    try:
        with warnings_as_notes(*replacements):
            yield
    finally:
        log.removeHandler(handler)


class _Notes(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        note(record.getMessage().removeprefix("energyest: "))


# ---------------------------------------------------------------------- JSON


def print_json(content: Mapping[str, object], *, indent: int | None = 2) -> None:
    """Print an object; a number that is not known is null.

    Args:
        content: text, numbers, booleans, sequences and mappings.
        indent: None for one line.
    """
    # ASCII suits every encoding; DEL is ASCII too, and steers terminals.
    text = json.dumps(as_plain(content), indent=indent, allow_nan=False)
    print(text.replace("\x7f", "\\u007f"), flush=indent is None)


def as_plain(value: Any) -> Any:
    """The same in types that JSON has; NaN and infinity are None."""
    if isinstance(value, Mapping):
        return {str(name): as_plain(one) for name, one in value.items()}
    if isinstance(value, str | bool | int | None):
        return value
    if hasattr(value, "tolist"):  # of numpy
        return as_plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Sequence):
        return [as_plain(one) for one in value]
    return str(value)


# ---------------------------------------------------------------------- tables


def print_table(
    columns: Mapping[str, Sequence[Cell]],
    *,
    optional: Sequence[str] = (),
    number: str = "",
    every_row: bool = True,
) -> None:
    """Print a table. A file or a pipe gets all of it; a terminal what it has room for.

    Args:
        columns: cells by the name of their column, all of one length.
        optional: columns to leave out where the terminal is too narrow, the first one first.
        number: how fractional numbers are written, such as ".1f"; by default with four digits.
        every_row: whether a terminal shows all rows of a long table.
    """
    texts = {
        one_line(name): [_text(cell, number) for cell in cells] for name, cells in columns.items()
    }
    is_number = [all(not isinstance(cell, str) for cell in cells) for cells in columns.values()]
    justified = dict(zip(texts, is_number, strict=True))
    if not _is_terminal(sys.stdout):
        _print_whole(texts, justified)
        return
    count = len(next(iter(texts.values()), []))
    is_cut = not every_row and count > _MOST_ROWS
    if is_cut:
        texts = {n: [*c[:_FIRST_ROWS], "...", *c[-_LAST_ROWS:]] for n, c in texts.items()}
    console = make_console()
    left_out = []
    for name in optional:
        if sum(_widths(texts)) + _GAP * (len(texts) - 1) <= console.width:
            break
        if texts.pop(one_line(name), None) is not None:
            left_out.append(name)
    _print_folded(console, texts, justified)
    if is_cut:
        say_line(f"{count} rows; --all shows each of them")
    if left_out:
        say_line(f"too wide for this terminal: {', '.join(left_out)}")


def _print_whole(columns: Mapping[str, Sequence[str]], is_number: Mapping[str, bool]) -> None:
    """However wide it is; of many rows, in far less time than rich takes."""
    from rich.cells import cell_len

    widths = _widths(columns)
    numeric = [is_number[name] for name in columns]
    gap = " " * _GAP
    for row in (tuple(columns), *zip(*columns.values(), strict=True)):
        cells = []
        for text, width, is_right in zip(row, widths, numeric, strict=True):
            space = " " * (width - cell_len(text))
            cells.append(space + text if is_right else text + space)
        say(gap.join(cells).rstrip())


def _widths(columns: Mapping[str, Sequence[str]]) -> list[int]:
    from rich.cells import cell_len

    return [max(map(cell_len, (name, *cells))) for name, cells in columns.items()]


def _print_folded(
    console: Console, columns: Mapping[str, Sequence[str]], is_number: Mapping[str, bool]
) -> None:
    """Within the terminal: what is too long for its column goes on in the next line."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for name in columns:
        table.add_column(
            Text(name), justify="right" if is_number[name] else "left", overflow="fold"
        )
    for row in zip(*columns.values(), strict=True):
        table.add_row(*map(Text, row))
    for line in console.render_lines(table, pad=False):
        shown = Text.assemble(*((segment.text, segment.style or "") for segment in line))
        shown.rstrip()
        console.print(shown, soft_wrap=True)


def _text(cell: Cell, number: str) -> str:
    """A cell: numbers with few digits, and a dash for what is not known."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "-"
    if isinstance(cell, float):
        # Whole joules of a large run, not a power of ten.
        return f"{cell:.0f}" if 1e4 <= abs(cell) < 1e12 else format(cell, number or ".4g")
    return one_line(str(cell))


# ---------------------------------------------------------------------- where it goes


def make_console(*, error: bool = False) -> Console:
    """A console of rich that shows text as it is."""
    from rich.console import Console  # slow to import

    stream: Any = _Encodable(sys.stderr if error else sys.stdout)
    return Console(file=stream, markup=False, highlight=False, emoji=False)


def printable_lines(*lines: str) -> list[Any]:
    """Lines for rich, without the empty ones."""
    from rich.text import Text

    return [Text(one_line(line)) for line in lines if line]


def is_terminal() -> bool:
    """Whether somebody looks at stdout."""
    return _is_terminal(sys.stdout)


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


class _Encodable:
    """A stream that writes what its encoding lacks as question marks; nothing, if it is closed."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        shown = text.encode(self.encoding, "replace").decode(self.encoding)
        return len(text) if self._stream is None else self._stream.write(shown)

    def flush(self) -> None:
        if self._stream is not None:
            self._stream.flush()

    def isatty(self) -> bool:
        return _is_terminal(self._stream)

    def fileno(self) -> int:
        if self._stream is None:
            raise OSError("the stream is closed")
        return self._stream.fileno()
