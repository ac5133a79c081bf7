"""Our names for the columns of a foreign table: renamed, computed by an expression, or read by a pattern."""

from collections.abc import Mapping, Sequence

import pandas as pd
import pyarrow as pa
import pyarrow.compute as compute

from sweeper.errors import ConfigError, TableError
from sweeper.fits.losses import BoolArray
from sweeper.table.cells import Column, Table, numbers_as_such
from sweeper.table.columns import require
from sweeper.table.rowwise import column_expression, distinct_rows

NAMED = 3
"""Values that a note names one by one."""


def mapped(table: Table, mapping: Mapping[str, str], where: str = "the table") -> Table:
    """The table with our columns: `{"tokens": "D"}` renames, `{"tokens": "bs * 2048 * steps"}` computes.

    Where the whole right side is the name of a column, that column is meant. An expression is of `sweeper.expressions`,
    over the columns of the file; it may replace a column that it reads (`{"tokens": "tokens * 1e9"}`). A row that
    misses a value it reads misses the result.

    Raises:
        ConfigError: An expression cannot be read or evaluated.
        TableError: No such column, or our name is that of another one.
    """
    renamed = {ours: theirs for ours, theirs in mapping.items() if theirs in table.columns}
    made: dict[str, Column] = {}
    free = set(renamed.values())  # names that ours may take: their column gets another, or is what we compute from
    for ours, theirs in mapping.items():
        if theirs.isidentifier():
            require(table, theirs, where)
        if ours not in renamed:
            made[ours], reads = computed(table, theirs, f"--map {ours}")
            free |= reads & {ours}
    for ours, theirs in mapping.items():
        if ours in table.columns and ours not in free:
            raise TableError(
                f"{where}: a column {ours!r} is there already, so {theirs!r} cannot take its name; drop one"
            )
    first = {theirs: ours for ours, theirs in reversed(renamed.items())}
    again = {ours: table[theirs] for ours, theirs in renamed.items() if first[theirs] != ours}
    return table.rename(columns=first).assign(**again, **made)


def computed(table: Table, text: str, where: str) -> tuple[Column, frozenset[str]]:
    """The column that an expression makes of others, and those that it reads.

    Raises:
        ConfigError: It cannot be read, or a row's values admit no result.
    """
    expression = column_expression(table, text, where)
    rows = distinct_rows(table, sorted(expression.names))
    values: list[object] = []
    for row in rows.values:
        if None in row.values():
            values.append(None)
            continue
        try:
            value = expression(row)
        except ConfigError as error:
            at = ", ".join(f"{name} {seen!r}" for name, seen in row.items())
            raise ConfigError(f"{error} at {at}; leave such rows out of the file" if at else str(error)) from error
        if isinstance(value, list | tuple):
            raise ConfigError(f"{where}: {text!r} gives a list, {value!r}; a cell holds one value")
        values.append(value)
    column = pd.Series(values, dtype=None if values else object).take(rows.codes).set_axis(table.index)
    return column, expression.names


def extracted(table: Table, column: str, pattern: str, where: str = "the table") -> tuple[Table, tuple[str, ...]]:
    """The table with a column for each named group of a regular expression over the text of `column`, and what to say.

    Google's RE2 does the matching, in time linear in the text: no pattern can hang on any name. It has neither
    lookaround nor backreferences, and its groups are all named: `(?:…)` is one that is not kept.

    Raises:
        TableError: No such column, a pattern that cannot be read, or one that no row matches.
    """
    require(table, column, where)
    option = f"--pattern {column}"
    text = pa.array([None if pd.isna(cell) else str(cell) for cell in table[column].astype(object)], type=pa.string())
    try:
        found = compute.extract_regex(text, pattern)
    except pa.ArrowInvalid as error:
        raise TableError(f"{option}: {_pattern_error(str(error))}") from error
    groups = [field.name for field in found.type]
    if not groups:
        raise TableError(f"{option}: {pattern!r} has no named group; name what it finds: '(?P<lr>[0-9.e-]+)'")
    for name in groups:
        if groups.count(name) > 1 or name in table.columns:
            why = "twice in the pattern" if groups.count(name) > 1 else "a column already"
            raise TableError(f"{option}: the group {name!r} is {why}; give it another name")
    matched = found.is_valid().to_numpy(zero_copy_only=False)
    if not matched.any():
        seen = next((repr(cell) for cell in text.to_pylist() if cell is not None), "nothing")
        raise TableError(f"{option}: no row matches {pattern!r}; the first value is {seen}")
    added = {name: _present(compute.struct_field(found, name), table) for name in groups}
    made = numbers_as_such(table.assign(**added))
    return made, _unmatched(table, column, matched, option)


def _present(texts: pa.Array, table: Table) -> Column:
    cells = texts.to_pandas().astype(object)
    there: Column = cells.where(cells.notna() & (cells != ""), None)
    return there.set_axis(table.index)


def _unmatched(table: Table, column: str, matched: BoolArray, option: str) -> tuple[str, ...]:
    missed = table[column][~matched]
    if missed.empty:
        return ()
    named = ", ".join(repr(cell) for cell in missed.head(NAMED))
    more = ", …" if len(missed) > NAMED else ""
    return (f"{option}: {len(missed)} of {len(table)} rows do not match and miss its columns: {named}{more}",)


def _pattern_error(reason: str) -> str:
    if "unnamed groups" in reason:
        return "the pattern has a group without a name; name it (?P<name>…), or write (?:…) to keep nothing"
    if "perl operator" in reason:
        return f"{reason[0].lower()}{reason[1:]}; lookaround and backreferences are not known, name groups (?P<name>…)"
    return f"{reason[0].lower()}{reason[1:]}; mend the pattern"


def pairs(options: Sequence[str], option: str, example: str) -> tuple[tuple[str, str], ...]:
    """Each "left=right" as typed, both sides non-empty.

    Raises:
        TableError: Another form.

    >>> pairs(["tokens=D"], "--map", "tokens=D")
    (('tokens', 'D'),)
    """
    found = []
    for text in options:
        left, equals, right = (part.strip() for part in text.partition("="))
        if not (left and equals and right):
            raise TableError(f"{option} {text!r}: expected a name, an equals sign and its value, such as {example}")
        found.append((left, right))
    return tuple(found)
