"""What stands in the cells of a table: numbers as numbers, lists and objects as their text."""

from collections.abc import Hashable
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

Table = pd.DataFrame
Column: TypeAlias = "pd.Series[Any]"

MISSING = (
    *("", "NaN", "nan", "-NaN", "-nan", "NA", "N/A", "n/a", "<NA>", "None", "null", "NULL"),
    *("#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "1.#IND", "1.#QNAN"),
)
"""Text that means "no number"; pandas' `read_csv` knows the same words, so that every format agrees."""

LOOKED_AT = 100
"""Cells that tell most columns of text from columns of numbers, before all of them are read."""


def plain_cells(table: Table) -> Table:
    """The table with hashable cells, column names of text, and numbers where a column spells nothing else."""
    return numbers_as_such(hashable(table))


def hashable(table: Table) -> Table:
    """Lists and objects as their text, so that cells can be compared; column names as text."""
    nested = [
        name
        for name in table.columns
        if table[name].dtype == object and not table[name].map(lambda cell: isinstance(cell, Hashable)).all()
    ]

    def text(cell: object) -> object:
        return cell if isinstance(cell, Hashable) else repr(cell.tolist() if isinstance(cell, np.ndarray) else cell)

    return table.assign(**{name: table[name].map(text) for name in nested}).rename(columns=str)


def numbers_as_such(table: Table) -> Table:
    """Columns of text (or decimals, or categories) that spell nothing but numbers as numbers."""
    found = {}
    for name in table.columns:
        column = table[name].astype(object) if isinstance(table[name].dtype, pd.CategoricalDtype) else table[name]
        if is_text(column):
            found[name] = _spelled(column)
    return table.assign(**found) if found else table


def _spelled(column: Column) -> Column:
    """The numbers that a column spells, or the column itself where it holds anything else."""
    there = column[column.notna()]
    if not _all_numbers(there.head(LOOKED_AT)):
        return column
    return as_numbers(column) if _all_numbers(there) else column


def _all_numbers(cells: Column) -> bool:
    unread = cells[as_numbers(cells).isna()]
    return len(cells) > 0 and len(unread) < len(cells) and bool(unread.isin(MISSING).all())


def as_numbers(column: Column) -> Column:
    """Each cell as a number, NaN where it is none; true and false are none."""
    if column.dtype == object:
        column = column.mask(column.map(is_bool))
    try:
        return pd.to_numeric(column, errors="coerce")
    except (TypeError, ValueError, OverflowError):  # whole numbers beyond 64 bits, dates
        return column.map(_number).astype(np.float64)


def _number(cell: object) -> float:
    try:
        return float(cell)  # type: ignore[arg-type]
    except OverflowError:
        return float("inf")
    except (TypeError, ValueError):
        return float("nan")


def is_text(column: Column) -> bool:
    """Whether a column holds text or objects of several kinds."""
    return bool(pd.api.types.is_object_dtype(column) or pd.api.types.is_string_dtype(column))


def is_bool(value: object) -> bool:
    return isinstance(value, bool | np.bool_)
