"""Expressions over the columns of a table, each evaluated once per distinct combination of the values that it reads."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sweeper.errors import ConfigError
from sweeper.expressions import Expression, compile_expression
from sweeper.fits.losses import IntArray
from sweeper.table.cells import Table
from sweeper.typed import did_you_mean

_QUOTED = re.compile(r"""('[^']*'|"[^"]*")|`([^`]*)`""")
"""Text of an expression, which is left alone, or the name of a column in backquotes."""
_PLACE = "column_in_backquotes_{}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DistinctRows:
    """The distinct combinations of values of some columns of a table."""

    values: list[dict[str, object]]
    """Each combination by column, a missing value as None, in order of appearance."""
    codes: IntArray
    """Which of them each row of the table holds, shape (rows,)."""


def distinct_rows(table: Table, names: list[str]) -> DistinctRows:
    """The distinct combinations of the columns `names`: one, of nothing, when there are none."""
    if not names:
        return DistinctRows(values=[{}], codes=np.zeros(len(table), dtype=np.intp))
    read = table[names]
    codes = read.groupby(names, sort=False, dropna=False).ngroup().to_numpy().astype(np.intp)
    first = np.flatnonzero(~read.duplicated().to_numpy())
    ordered = first[np.argsort(codes[first], kind="stable")]
    columns = []
    for name in names:
        column = read[name].iloc[ordered].astype(object)
        columns.append(column.where(column.notna(), None).tolist())
    return DistinctRows(values=[dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)], codes=codes)


def column_expression(table: Table, text: str, where: str) -> Expression:
    """An expression of `sweeper.expressions` whose names are columns; one that is no word stands in backquotes.

    Raises:
        ConfigError: It cannot be read, or names an unknown column.
    """
    quoted: dict[str, str] = {}

    def placed(match: re.Match[str]) -> str:
        if match[1] is not None:
            return match[1]
        place = _PLACE.format(len(quoted))
        quoted[place] = match[2]
        return place

    def column(name: str) -> str:
        name = quoted.get(name, name)
        if name not in table.columns:
            raise ConfigError(f"{where}: unknown column {name!r} in {text!r}; {_hint(name, text, table)}")
        return name

    try:
        return compile_expression(_QUOTED.sub(placed, text), where, column)
    except ConfigError as error:
        hint = _backquotes(text, table)
        message = _as_typed(str(error), quoted)
        raise ConfigError(message if not hint or hint in message else f"{message}; {hint}") from error


def _as_typed(message: str, quoted: Mapping[str, str]) -> str:
    for place, name in quoted.items():
        message = message.replace(place, f"`{name}`")
    return message


def _hint(name: str, text: str, table: Table) -> str:
    columns = [str(column) for column in table.columns]
    near = difflib.get_close_matches(text.strip(), columns, n=1, cutoff=0.8)
    return _backquotes(text, table) or (f"did you mean {near[0]!r}?" if near else did_you_mean(name, columns))


def _backquotes(text: str, table: Table) -> str:
    """What to do about a column in the text whose name is no word, if there is one outside of backquotes."""
    bare = _QUOTED.sub("", text)
    odd = [str(name) for name in table.columns if not str(name).replace(".", "_").isidentifier() and str(name) in bare]
    return f"write a column whose name is no word in backquotes: `{max(odd, key=len)}`" if odd else ""
