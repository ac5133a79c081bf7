"""Imported rows on the terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape

from sweeper.terminal import console, show, table

if TYPE_CHECKING:
    from sweeper.table import Import


def print_import(kept: "Import", name: str, new: bool) -> None:
    """What was imported, or that it had been before."""
    if not new:
        console.print(
            f"{kept.source} is import {kept.number} of {name} already, with the same columns: nothing to do",
            soft_wrap=True,
            markup=False,
        )
        return
    console.print(f"import {kept.number} of {name}: {kept.rows} rows of {kept.source}", soft_wrap=True, markup=False)
    console.print(f"next: sweeper fit {name}", soft_wrap=True, markup=False)


def print_imports(known: Sequence["Import"], name: str) -> None:
    """A row per import."""
    if not known:
        console.print(f"nothing is imported to {name}", soft_wrap=True, markup=False)
        return
    made = table(f"Imported to {name}")
    for column in ("import", "rows", "file", "columns", "where", "sha256"):
        made.add_column(column, justify="right" if column in ("import", "rows") else "left")
    for found in known:
        columns = [*(f"{ours}={theirs}" for ours, theirs in found.mapping), *(name for name, _ in found.patterns)]
        cells = (str(found.number), str(found.rows), found.source, ", ".join(columns), found.where, found.sha256[:12])
        made.add_row(*map(escape, cells))
    show(made)
