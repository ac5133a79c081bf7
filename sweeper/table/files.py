"""Files with one row per run to tables: CSV, TSV, JSON, JSON lines and Parquet, as anyone writes them."""

import csv
import gzip
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, cast

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet

from sweeper.errors import TableError
from sweeper.table.cells import Table, plain_cells
from sweeper.table.mapping import extracted, mapped
from sweeper.table.wandb import flattened

FORMATS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")

HINT = f"use {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignTable:
    """A table that somebody else wrote, with our names for its columns."""

    table: Table
    notes: tuple[str, ...] = ()
    """What was recognised in it, one sentence each."""
    warnings: tuple[str, ...] = ()
    """What could not be read in it, one sentence each."""


def read_table(path: Path, mapping: Mapping[str, str] | None = None, patterns: Sequence[tuple[str, str]] = ()) -> Table:
    """A file with one row per run as a table; `read_foreign` says what it is and raises."""
    return read_foreign(path, mapping, patterns).table


def read_foreign(
    path: Path, mapping: Mapping[str, str] | None = None, patterns: Sequence[tuple[str, str]] = ()
) -> ForeignTable:
    """A CSV, JSON, JSON lines or Parquet file with one row per run, or an export of Weights & Biases.

    The same rows give the same table whatever the format: text that spells numbers becomes numbers, a list or an object
    its text.

    Args:
        path: Its suffix tells the format, one of `FORMATS` (.gz is unpacked).
        mapping: Our names for columns, or what computes them: `{"tokens": "D * 1e9"}` (`mapping.mapped`).
        patterns: A column with a regular expression whose named groups become columns (`mapping.extracted`), read
            before the mapping; without one nothing is read out of names.

    Raises:
        TableError: The file is missing, empty, unreadable, names a column twice, or lacks a mapped one.
        ConfigError: An expression of the mapping cannot be read or evaluated.
    """
    raw, notes = flattened(_read(path))
    table = plain_cells(raw)
    _refuse_twins([str(name) for name in table.columns], path)
    if table.empty:
        raise TableError(f"{path}: the table has a header but no rows; give a file with one row per run")
    warnings = _index_twins(table)
    for column, pattern in patterns:
        table, unmatched = extracted(table, column, pattern, str(path))
        warnings += unmatched
    return ForeignTable(table=mapped(table, mapping or {}, str(path)), notes=notes, warnings=warnings)


def _read(path: Path) -> Table:
    kind = next((suffix.lower() for suffix in reversed(path.suffixes) if suffix != ".gz"), "")
    if kind not in FORMATS and path.is_file():
        raise TableError(f"{path}: the format {kind or 'without a suffix'} is not known; {HINT}")
    try:
        if path.is_dir():
            raise TableError(f"{path}: a folder, not a file; name the file of results in it")
        if path.stat().st_size == 0:
            raise TableError(f"{path}: the file is empty; give a table with one row per run")
        if kind in (".csv", ".tsv"):
            return _read_csv(path, "," if kind == ".csv" else "\t")
        if kind == ".parquet":
            return _read_parquet(path)
        return _read_json(path) if kind == ".json" else _read_jsonl(path)
    except FileNotFoundError as error:
        raise TableError(f"{path}: no such file; check the name") from error
    except UnicodeDecodeError as error:
        raise TableError(f"{path}: not a readable {kind} file ({_encoding(path, error)}); save it as UTF-8") from error
    except RecursionError as error:
        raise TableError(f"{path}: not a readable {kind} file (values too deep in one another); flatten it") from error
    # pandas' parser errors are ValueErrors, csv's are not.
    except (OSError, EOFError, zlib.error, ValueError, OverflowError, csv.Error, pa.ArrowException) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "integer string conversion" in reason:  # Python's advice is about a setting of its own
            reason = "a whole number of thousands of digits"
        raise TableError(f"{path}: not a readable {kind or 'table'} file ({reason}); check its format") from error


def _encoding(path: Path, error: UnicodeDecodeError) -> str:
    start = path.read_bytes()[:2] if path.suffix != ".gz" else b""
    if start in (b"\xff\xfe", b"\xfe\xff"):
        return "it is UTF-16, or no text at all"
    return f"byte {error.start} is no UTF-8 text"


def _read_csv(path: Path, separator: str) -> Table:
    with _open(path) as file:
        lines = csv.reader(file, delimiter=separator, skipinitialspace=True)
        header = [name.strip() for name in next((line for line in lines if line), [])]
    if not any(header):
        raise TableError(f"{path}: its first line names no columns; give a header and one row per run")
    if any("\0" in name for name in header):
        raise TableError(f"{path}: not text (its header holds NUL bytes); export it as CSV")
    # pandas writes an index into a column without a name.
    names = [name or f"column {place}" for place, name in enumerate(header, 1)]
    _refuse_twins(names, path)
    if len(header) == 1 and set(header[0]) & {",", ";", "\t"}:
        raise TableError(
            f"{path}: its header {header[0]!r} is a single column; separate columns by commas (.csv) or tabs (.tsv)"
        )
    with _open(path) as file:
        table = pd.read_csv(file, sep=separator, skipinitialspace=True, low_memory=False)
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes the first values for names of rows
        raise TableError(f"{path}: its rows hold more values than its header names columns; name each or drop the rest")
    return table.set_axis(names, axis="columns")


def _read_parquet(path: Path) -> Table:
    _refuse_twins(parquet.read_schema(path).names, path)
    table = pd.read_parquet(path)
    named = [name for name in table.index.names if name is not None and name not in table.columns]
    return table.reset_index(level=named).reset_index(drop=True) if named else table.reset_index(drop=True)


def _read_json(path: Path) -> Table:
    """A list of objects, one per run."""
    with _open(path) as file:
        text = file.read()
    try:
        rows = json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            raise TableError(f"{path}: more than one JSON value; give a list of objects, or call it .jsonl") from error
        raise
    if not isinstance(rows, list):
        raise TableError(f"{path}: holds {_short(rows)}; give a list with an object per run: [{{…}}, {{…}}]")
    return _of_objects(rows, path, "item")


def _read_jsonl(path: Path) -> Table:
    """One JSON object per line; pandas' own reader would turn true into 1 and numbers into dates."""
    with _open(path) as file:
        return _of_objects((json.loads(line, object_pairs_hook=_once) if line.strip() else {} for line in file), path)


def _of_objects(rows: Iterable[Any], path: Path, unit: str = "line") -> Table:
    objects = []
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise TableError(f"{path}: {unit} {number} is {_short(row)}; give an object per {unit}")
        objects += [row] if row else []
    return pd.DataFrame(objects)


def _once(members: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(members)
    if len(row) < len(members):
        twice = next(name for name, _ in members if sum(name == other for other, _ in members) > 1)
        raise ValueError(f"an object has {twice!r} twice")
    return row


def _index_twins(table: Table) -> tuple[str, ...]:
    """Says so where rows are equal but for a running number: fits take them for repeats."""
    first = table.columns[0]
    if len(table) < 2 or not pd.api.types.is_integer_dtype(table[first]) or table[first].diff().iloc[1:].ne(1).any():
        return ()
    twins = int(table.drop(columns=first).duplicated().sum())
    if not twins:
        return ()
    return (
        f"rows that equal another one but for their number in {first!r} count as repeats ({twins} of {len(table)}): "
        "drop them if they are copies",
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def _refuse_twins(names: Sequence[str], path: Path) -> None:
    for name in names:
        if names.count(name) > 1:
            raise TableError(f"{path}: the column {name!r} is there {names.count(name)} times; rename or drop one")


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return cast(TextIO, gzip.open(path, "rt", encoding="utf-8-sig", newline=""))
    return path.open(encoding="utf-8-sig", newline="")
