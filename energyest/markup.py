"""Pieces of HTML that notebooks and the report share. All text is escaped here, and only here."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from energyest.display import format_duration, format_energy, format_mass, printable

if TYPE_CHECKING:
    import pandas as pd  # results that hold no table do without it

NOT_KNOWN = "–"
# How numbers of a column are written, by the ending of its name.
_FORMATS = {"J": format_energy, "s": format_duration, "kg": format_mass, "W": "{:.4g} W".format}
# Columns that are shares, and are written in per cent; and their titles.
_SHARES = {
    "share": "share",
    "error": "relative error",
    "saving": "saving",
    "saving_lower": "saving, lower",
    "saving_upper": "saving, upper",
}
# Of one text, such as a hyperparameter that holds a whole file.
_MOST_CHARACTERS = 2000
# As in every cell: notebooks have rules of their own, and differ.
_LEFT = "text-align:left"
# A cell of a table of so many characters is not broken.
_SHORT = 24


class Markup(str):
    """Text that is HTML already, and is not escaped again."""

    __slots__ = ()


def escaped(value: object) -> Markup:
    """Text for HTML. What steers a terminal or turns the direction of writing is a `?`."""
    if isinstance(value, Markup):
        return value
    text = printable(str(value))
    if len(text) > _MOST_CHARACTERS:
        text = f"{text[:_MOST_CHARACTERS]} …"
    return Markup(html.escape(text))


def element(name: str, *content: object, **attributes: object) -> Markup:
    """An element with what is in it; what is no `Markup` is escaped.

    Args:
        name: of the element.
        *content: what is in it, in order.
        **attributes: `class_` for `class`, `aria_label` for `aria-label`.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"'
        for key, value in attributes.items()
    )
    return Markup(f"<{name}{given}>{''.join(map(escaped, content))}</{name}>")


def joined(parts: Iterable[object]) -> Markup:
    """Several pieces, one after another."""
    return Markup("".join(map(escaped, parts)))


def _data(value: object) -> Markup:
    """A cell; what is short, such as a number and its unit, stays in one line."""
    is_short = len(str(value)) <= _SHORT
    return element("td", value, style=f"{_LEFT};white-space:nowrap" if is_short else _LEFT)


def listing(notes: Iterable[object]) -> Markup:
    """A list with an item for each note; nothing where there is none."""
    items = [element("li", note) for note in notes]
    return element("ul", *items) if items else Markup()


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str = "") -> Markup:
    """A table with the names of its columns; the first cell of each row is the row's name."""
    names = element("tr", *(element("th", name, scope="col", style=_LEFT) for name in head))
    body = [element("tr", _row_name(row[0]), *(_data(value) for value in row[1:])) for row in rows]
    parts = [element("caption", caption)] if caption else []
    # A wide table is scrolled by itself, with the keyboard too.
    return element(
        "div",
        element("table", *parts, element("thead", names), element("tbody", *body)),
        style="overflow-x:auto",
        tabindex="0",
        role="region",
        aria_label=caption or "table",
    )


def facts(pairs: Mapping[str, object], *, caption: str = "") -> Markup:
    """A table of names and what is known of them; what is None is left out."""
    rows = [
        element("tr", _row_name(name), element("td", value))
        for name, value in pairs.items()
        if value is not None
    ]
    parts = [element("caption", caption)] if caption else []
    return element("table", *parts, element("tbody", *rows)) if rows else Markup()


def paragraph(text: object) -> Markup:
    """A paragraph, which keeps the lines of its text."""
    lines = {"style": "white-space:pre-line"} if "\n" in str(text) else {}
    return element("p", text, **lines)


def _row_name(name: object) -> Markup:
    return element("th", name, scope="row", style=_LEFT)


def of_frame(frame: pd.DataFrame, *, caption: str = "") -> Markup:
    """A DataFrame as a table: units beside the numbers, three or four digits, no text cut off.

    An index that has a name is the first column.
    """
    if frame.index.name is not None:
        frame = frame.reset_index()
    names = [str(name) for name in frame.columns]
    rows = (
        [cell(value, name) for name, value in zip(names, row, strict=True)]
        for row in frame.itertuples(index=False, name=None)
    )
    return table([column_title(name) for name in names], rows, caption=caption)


def with_unit_of(value: str, frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """A frame to show: `columns` are in the unit that the name of `value` ends in, if in any."""
    _, _, ending = value.rpartition("_")
    known = {name: f"{name}_{ending}" for name in columns} if ending in _FORMATS else {}
    shown: pd.DataFrame = frame.rename(columns=known)
    return shown


def column_title(name: str) -> str:
    """The name of a column without the unit that its cells have."""
    stem, _, ending = name.rpartition("_")
    return _SHARES.get(name, (stem if stem and ending in _FORMATS else name).replace("_", " "))


def cell(value: object, column: str = "") -> str:
    """A value as text, with the unit that its column's name ends in."""
    if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"):  # numpy's too
        return "yes" if value else "no"
    if not isinstance(value, Real):
        return NOT_KNOWN if value is None else str(value)
    number = float(value)
    ending = column.rpartition("_")[2] if "_" in column else ""
    if math.isnan(number):
        text = NOT_KNOWN
    elif column in _SHARES:
        text = f"{100 * number:.3g} %"
    elif ending in _FORMATS:
        text = _FORMATS[ending](number)
    else:
        text = str(value) if isinstance(value, Integral) else f"{number:.4g}"
    return text


def as_html(heading: str, tables: Sequence[Any] = (), notes: Sequence[str] = ()) -> str:
    """A result in a notebook: a heading, tables below it, and notes as a list.

    Colours are the notebook's own, so that it can be read in light and dark themes.

    Args:
        heading: one line or more.
        tables: DataFrames, or `Markup`.
        notes: one sentence each.
    """
    shown = (one if isinstance(one, Markup) else of_frame(one) for one in tables)
    return str(joined([paragraph(heading), *shown, listing(notes)]))
