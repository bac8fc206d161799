"""Tables for people: as wide as the terminal, and every cell whole and as it is."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, width: int | None = None) -> None:
    """Print cells under their columns; one that is too long goes on in the next line, since people copy them.

    Names in it are other people's: square brackets in them are no markup, and what is not printable is replaced.

    Args:
        columns: their headings.
        rows: a cell for each column.
        width: of a line; by default the terminal's, and unlimited where the output is none.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(printable(str(cell)) for cell in row))
    if width is None and not sys.stdout.isatty():
        width = 10_000
    Console(width=width, markup=False, highlight=False, emoji=False).print(table)


def printable(text: str) -> str:
    """Text that steers no terminal, wherever it came from."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
