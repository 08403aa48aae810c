"""Tables for people: aligned columns, shortened to the terminal where there is one, whole where the output is piped on."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from penstock.cli.terminal import Style
from penstock.observe.text import printable

_GAP = "  "
_NARROWEST = 12


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    :ivar shrinks: gives way where the terminal is too narrow.
    :ivar yields: is left out where the terminal is too narrow even then; the last such column first.
    :ivar paint: colors a cell after it was aligned.
    """

    title: str
    align: Literal["left", "right"] = "left"
    shrinks: bool = False
    yields: bool = False
    paint: Callable[[str], str] | None = None


def table(
    columns: Sequence[Column], rows: Iterable[Sequence[str]], style: Style, width: int | None, indent: str = ""
) -> list[str]:
    """The lines of a table, its titles first. Cells are made printable here.

    :param width: columns of the terminal; None shortens nothing.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [
        max(cell_width(text) for text in (column.title, *(row[index] for row in cells))) for index, column in enumerate(columns)
    ]
    if width is not None:
        room = width - len(indent)
        kept = _kept(columns, widths, room)
        columns, widths = [columns[i] for i in kept], [widths[i] for i in kept]
        cells = [[row[i] for i in kept] for row in cells]
        _shrink(columns, widths, room - len(_GAP) * (len(columns) - 1))
    titles = _line([column.title for column in columns], columns, widths)
    lines = [indent + style.dim(titles)]
    for row in cells:
        lines.append(indent + _line(row, columns, widths, painted=style.color))
    return lines


def _kept(columns: Sequence[Column], widths: Sequence[int], room: int) -> list[int]:
    """Which columns there is room for."""
    kept = list(range(len(columns)))
    least = [min(_NARROWEST, width) if column.shrinks else width for column, width in zip(columns, widths, strict=True)]
    for index in reversed([i for i, column in enumerate(columns) if column.yields]):
        if sum(least[i] for i in kept) + len(_GAP) * (len(kept) - 1) > room:
            kept.remove(index)
    return kept


def _shrink(columns: Sequence[Column], widths: list[int], room: int) -> None:
    for index in [i for i, column in enumerate(columns) if column.shrinks]:
        excess = sum(widths) - room
        if excess > 0:
            widths[index] = max(min(_NARROWEST, widths[index]), widths[index] - excess)


def _line(row: Sequence[str], columns: Sequence[Column], widths: Sequence[int], *, painted: bool = False) -> str:
    parts = []
    for index, (text, column, width) in enumerate(zip(row, columns, widths, strict=True)):
        text = fit(text, width)
        space = " " * (width - cell_width(text))
        last = index == len(columns) - 1 and column.align == "left"
        shown = column.paint(text) if painted and column.paint else text
        parts.append(space + shown if column.align == "right" else shown + ("" if last else space))
    return _GAP.join(parts).rstrip()


def fit(text: str, width: int) -> str:
    """The text in at most `width` columns, `…` standing for what was cut."""
    if cell_width(text) <= width:
        return text
    kept, used = [], 0
    for character in text:
        used += cell_width(character)
        if used > width - 1:
            break
        kept.append(character)
    return "".join(kept) + "…"


def cell_width(text: str) -> int:
    """Columns that the text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )
