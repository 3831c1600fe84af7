"""Tables for people: plain text, columns aligned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

#: Of a measurement, as it is written to a file and read back.
Result = dict[str, Any]


def number(value: float) -> str:
    """Three significant digits, never an exponent; a dash for what does not exist."""
    if math.isnan(value):
        return "–"
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{value:.{min(digits, 6)}f}"


def cell(value: object) -> str:
    """A value as a table shows it."""
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "NO"
        case float():
            return number(value)
        case _:
            return str(value)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lines of columns: the first to the left, figures to the right."""
    lines = [list(head), *([cell(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            text.rjust(width) if place else text.ljust(width)
            for place, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def percent(share: float | None) -> str:
    """Whole percents, and tenths of small ones."""
    if share is None or math.isnan(share):
        return "–"
    return f"{share:.0%}" if share >= 0.1 else f"{share:.1%}"


@dataclass(frozen=True)
class Section:
    """One table with its title, and what is to be said below it."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]
    note: str = ""

    def text(self) -> str:
        lines = [self.title, table(self.head, self.rows)]
        return "\n".join([*lines, self.note] if self.note else lines) + "\n"
