"""Exports of Weights & Biases as plain tables: settings and results of each run as columns, its state in our words.

Three forms are recognised by their columns:

- the CSV of the runs table in the web interface: `Name`, `State`, `Created` or `Runtime`, then settings and results;
- runs of the public API as JSON: `config` and `summary` objects, a setting as its value or as `{"value": …}`;
- the CSV of the documentation's snippet (docs.wandb.ai, "Import and export data"): `summary`, `config` and `name`,
  whose cells are Python dictionaries as `str` writes them.
"""

import ast
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from sweeper.errors import TableError
from sweeper.table.cells import Column, Table

CONFIG = "config"
SUMMARIES = ("summary", "summary_metrics", "summaryMetrics")
FINISHED = "finished"
"""Its word for `done`."""
MOST_TEXT = 1_000_000
"""Characters of one cell that are read as a dictionary."""


def flattened(table: Table) -> tuple[Table, tuple[str, ...]]:
    """The table with a column per setting and result if it is an export, as it is otherwise, and what was recognised.

    Nested settings get dotted names (`optimizer.lr`); a name that is both a setting and a result, or another column's,
    keeps its origin (`config.loss`, `summary.loss`). Private entries (`_wandb`) are left out. `state` is in lower case,
    `done` for what finished.

    Raises:
        TableError: A cell of `config` or `summary` holds no dictionary.
    """
    names = set(table.columns)
    summary = next((name for name in SUMMARIES if name in names), None)
    if CONFIG in names and summary is not None and _holds_objects(table[CONFIG]) and _holds_objects(table[summary]):
        return _recognised(_unpacked(table, summary), "runs of the Weights & Biases API", "state")
    if {"Name", "State"} <= names and {"Created", "Runtime"} & names:
        return _recognised(table, "a runs table of Weights & Biases", "State")
    return table, ()


def _recognised(table: Table, what: str, state: str) -> tuple[Table, tuple[str, ...]]:
    if state not in table.columns:
        return table, (f"read as {what}: {len(table)} runs without a state",)
    words = table[state].map(_our_word)
    counts = ", ".join(f"{number} {word}" for word, number in Counter(words.dropna()).most_common())
    if state != "state" and "state" in table.columns:
        return table, (
            f"read as {what} whose settings have a 'state' of their own: map a column state to leave runs out",
        )
    return table.assign(state=words), (f"read as {what}: {len(table)} runs, {counts}",)


def _our_word(state: object) -> object:
    if not isinstance(state, str):
        return None
    return "done" if state.lower() == FINISHED else state.lower()


def _holds_objects(column: Column) -> bool:
    """Whether the first cell is an object or the text of one."""
    first = next((cell for cell in column if isinstance(cell, Mapping | str)), None)
    return isinstance(first, Mapping) or (isinstance(first, str) and first.lstrip().startswith("{"))


def _unpacked(table: Table, summary: str) -> Table:
    settings = [_flat(_values(cell)) for cell in _objects(table, CONFIG)]
    results = [_flat(cell) for cell in _objects(table, summary)]
    rest = table.drop(columns=[CONFIG, summary])
    of_settings, of_results = _names(settings), _names(results)
    taken = Counter([*map(str, rest.columns), *of_settings, *of_results])

    def named(rows: list[dict[str, Any]], origin: str) -> list[dict[str, Any]]:
        return [
            {name if taken[name] == 1 else f"{origin}.{name}": value for name, value in row.items()} for row in rows
        ]

    parts = (named(settings, CONFIG), named(results, "summary"))
    return pd.concat([rest, *(pd.DataFrame(part, index=rest.index) for part in parts)], axis="columns")


def _objects(table: Table, name: str) -> Iterable[Mapping[str, Any]]:
    for place, cell in enumerate(table[name]):
        try:
            found = read_object(cell)
        except ValueError as error:
            raise TableError(
                f"row {place + 2}: the column {name!r} holds {str(cell)[:40]!r}, which is no dictionary ({error}); "
                "export the runs anew, or drop the row"
            ) from error
        yield found


def read_object(cell: object) -> Mapping[str, Any]:
    """The dictionary in a cell: as it is, or as JSON or Python writes it; nothing in it is ever evaluated.

    Raises:
        ValueError: It holds something else.

    >>> read_object("{'lr': 0.01, 'loss': nan, 'shape': (2, -inf)}")
    {'lr': 0.01, 'loss': nan, 'shape': [2, -inf]}
    """
    if isinstance(cell, Mapping):
        return cell
    if cell is None or (isinstance(cell, float) and cell != cell):
        return {}
    if not isinstance(cell, str) or len(cell) > MOST_TEXT:
        raise ValueError("too long" if isinstance(cell, str) else f"a {type(cell).__name__}")
    try:
        found = json.loads(cell)
    except ValueError:
        try:
            found = _literal(ast.parse(cell.strip(), mode="eval").body)
        except (SyntaxError, MemoryError, RecursionError) as error:
            raise ValueError(f"cannot be read: {getattr(error, 'msg', type(error).__name__)}") from error
    if not isinstance(found, dict):
        raise ValueError(f"a {type(found).__name__}")
    return found


_WORDS: Mapping[str, float] = {"nan": float("nan"), "inf": float("inf"), "NaN": float("nan"), "Infinity": float("inf")}


def _literal(node: ast.expr) -> Any:
    """As `ast.literal_eval`, which knows neither nan nor inf."""
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=word) if word in _WORDS:
            return _WORDS[word]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            value = _literal(operand)
            if isinstance(value, int | float):
                return -value
        case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items):
            return [_literal(item) for item in items]
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return {str(_literal(key)): _literal(value) for key, value in zip(keys, values, strict=True) if key}
    raise ValueError(f"{ast.unparse(node)[:40]!r} is no plain value")


def _values(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without what the interface keeps beside each value."""
    return {
        name: entry["value"]
        if isinstance(entry, Mapping) and "value" in entry and {*entry} <= {"value", "desc"}
        else entry
        for name, entry in config.items()
    }


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested objects as dotted names, private entries left out."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if str(name).startswith("_wandb") or name == "wandb_version":
            continue
        if isinstance(value, Mapping):
            found |= _flat(value, f"{above}{name}.")
        else:
            found[f"{above}{name}"] = value
    return found


def _names(rows: Iterable[Mapping[str, Any]]) -> set[str]:
    return {name for row in rows for name in row}
