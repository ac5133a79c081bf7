"""What is asked of the columns of a table: their numbers, their values, and the rows they choose."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from sweeper.errors import TableError
from sweeper.expressions import holds
from sweeper.fits.losses import Key, plain
from sweeper.laws.arrays import FloatArray
from sweeper.table.cells import Table, as_numbers
from sweeper.table.rowwise import column_expression, distinct_rows
from sweeper.typed import did_you_mean


def require(table: Table, name: str, where: str = "the table") -> None:
    """Raise `TableError` unless the table has the column."""
    if name not in table.columns:
        raise TableError(f"{where}: no column {name!r}; {did_you_mean(name, map(str, table.columns))}")


def where(table: Table, condition: str, aliases: Mapping[str, str] | None = None) -> Table:
    """The rows that satisfy a condition of `sweeper.expressions`, such as "depth_mup == 'with' and lr > 0.01".

    A column whose name is no word stands in backquotes. `aliases` are further names of columns: those that a file
    gives to the ones that were renamed.

    Raises:
        ConfigError: The condition cannot be read or names an unknown column.
        TableError: No row satisfies it.
    """
    others = {
        name: ours for name, ours in (aliases or {}).items() if name not in table.columns and ours in table.columns
    }
    known = table.assign(**{name: table[ours] for name, ours in others.items()})
    chosen = column_expression(known, condition, "--where")
    rows = distinct_rows(known, sorted(chosen.names))
    kept = np.array([holds(chosen, row) for row in rows.values], dtype=np.bool_)[rows.codes]
    if not kept.any():
        raise TableError(f"--where: none of the {len(table)} rows satisfies {condition!r}; loosen it")
    return table[kept]


def split(table: Table, per: tuple[str, ...]) -> Iterator[tuple[dict[str, Key], Table]]:
    """The rows of each combination of values of the columns `per`, in order of appearance; all when it is empty."""
    for name in per:
        require(table, name)
    if not per:
        yield {}, table
        return
    numeric = {name: is_numeric(table, name) for name in per}
    for key, part in table.groupby(list(per), sort=False, dropna=False):
        yield {name: plain(v) if numeric[name] else str(v) for name, v in zip(per, key, strict=True)}, part


def distinct(table: Table, name: str) -> tuple[Key, ...]:
    """The different values of a column, ascending, missing ones left out."""
    require(table, name)
    values = table[name].dropna().unique()
    return tuple(sorted(plain(v) if is_numeric(table, name) else str(v) for v in values))


def numbers(table: Table, name: str) -> FloatArray:
    """A column as numbers, NaN where it holds none, shape (rows,).

    Raises:
        TableError: No such column, or one without a single number.
    """
    require(table, name)
    column = table[name]
    if is_numeric(table, name):
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    values = as_numbers(column.astype(object))
    if len(table) and values.isna().all() and column.notna().any():
        raise TableError(
            f"the column {name!r} holds no numbers but values such as {column.dropna().tolist()[0]!r}; name another"
        )
    return np.asarray(values, dtype=np.float64)


def not_numbers(table: Table, name: str) -> tuple[tuple[int, object], ...]:
    """The cells of a column that hold something but no number, each with its row (the header is row 1)."""
    if is_numeric(table, name):
        return ()
    bad = np.isnan(numbers(table, name)) & np.asarray(table[name].notna())
    return tuple((row_number(table, int(place)), table[name].iloc[place]) for place in np.flatnonzero(bad))


def row_number(table: Table, place: int) -> int:
    """The row of a file that a row of its table was, counted from the header, which is row 1."""
    label = table.index[place]
    return int(label) + 2 if isinstance(label, int | np.integer) else place + 2


def is_numeric(table: Table, name: str) -> bool:
    require(table, name)
    return bool(pd.api.types.is_numeric_dtype(table[name])) and not pd.api.types.is_bool_dtype(table[name])


def lr_column(table: Table) -> str:
    """`lr_peak` where the table has it, else `lr`."""
    return "lr_peak" if "lr_peak" in table.columns else "lr"
