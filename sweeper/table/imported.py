"""Foreign rows kept beside a sweep: `runs/NAME/imported/<k>.parquet`, each with where it came from; never records."""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from uuid import uuid4

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet

from sweeper.errors import DiskError, SweeperError, TableError
from sweeper.table.cells import Column, Table, plain_cells
from sweeper.table.runs import IMPORTED_FROM, NAME_COLUMNS
from sweeper.typed import build

ARM = "imported"
"""Arm of foreign rows that name none, so that no group mixes them with a sweep's own."""
_KEY = b"sweeper.import"


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """Where imported rows came from, and how they got our names."""

    number: int
    """k of `<k>.parquet`; 0 before it is stored."""
    source: str
    """Name of the file."""
    sha256: str
    """Of its bytes."""
    mapping: tuple[tuple[str, str], ...] = ()
    patterns: tuple[tuple[str, str], ...] = ()
    where: str = ""
    rows: int
    """Rows that were kept."""

    @property
    def origin(self) -> tuple[object, ...]:
        """What decides the rows: two imports that agree on it are one."""
        return self.sha256, sorted(self.mapping), self.patterns, self.where


def imports(folder: Path) -> tuple[Import, ...]:
    """What has been imported into the folder of a sweep, by number.

    Raises:
        SweeperError: A file is not one that `add_imported` wrote.
    """
    return tuple(_origin(path) for path in _paths(folder))


def imported_rows(folder: Path) -> Table:
    """Every imported row in the folder of a sweep, in the order of the imports; a table without rows where none is."""
    tables = [parquet.read_table(path).to_pandas() for path in _paths(folder)]
    return plain_cells(pd.concat(tables, ignore_index=True)) if tables else pd.DataFrame()


def add_imported(folder: Path, table: Table, origin: Import) -> tuple[Import, bool]:
    """Keep rows in the folder of a sweep; returns their import and whether it is new.

    The same content with the same mapping is kept once.

    Raises:
        DiskError: The folder cannot be written.
    """
    for known in imports(folder):
        if known.origin == origin.origin:
            return known, False
    stored = _named(table, origin.source)
    number = max((known.number for known in imports(folder)), default=0)
    home = folder / "imported"
    partial = home / f".{uuid4().hex[:8]}.partial"
    try:
        home.mkdir(parents=True, exist_ok=True)
        while True:
            number += 1
            _write(partial, stored, replace(origin, number=number, rows=len(stored)))
            with suppress(FileExistsError):  # another import took the number
                os.link(partial, home / f"{number}.parquet")
                return replace(origin, number=number, rows=len(stored)), True
    except OSError as error:
        raise DiskError(f"{home}: cannot be written ({error.strerror or error}); choose another --runs") from error
    finally:
        with suppress(OSError):
            partial.unlink()


def remove_import(folder: Path, number: int) -> Import:
    """Forget one import; returns what it was.

    Raises:
        TableError: There is none of that number.
    """
    known = {found.number: found for found in imports(folder)}
    if number not in known:
        there = f"there are {', '.join(map(str, known))}" if known else "nothing is imported"
        raise TableError(f"{folder}: no import {number}; {there}")
    (folder / "imported" / f"{number}.parquet").unlink()
    return known[number]


def joined(own: Table, foreign: Table) -> Table:
    """A sweep's own results, then imported rows.

    Of the imported rows, one without an `arm` is of the arm `imported` where the sweep's results have arms, and one
    without an `lr_peak` has that of its `lr` where they have it: no rule of ours transferred a foreign rate.
    """
    added = {}
    if "arm" in own.columns:
        added["arm"] = foreign["arm"].fillna(ARM) if "arm" in foreign.columns else ARM
    if "lr_peak" in own.columns and "lr" in foreign.columns:
        added["lr_peak"] = foreign["lr_peak"].fillna(foreign["lr"]) if "lr_peak" in foreign.columns else foreign["lr"]
    foreign = foreign.assign(**added)
    if own.empty:
        return foreign.reindex(columns=[*own.columns, *(name for name in foreign.columns if name not in own.columns)])
    return plain_cells(pd.concat([own, foreign], ignore_index=True))


def _paths(folder: Path) -> Iterator[Path]:
    found = [path for path in (folder / "imported").glob("*.parquet") if path.stem.isdigit()]
    yield from sorted(found, key=lambda path: int(path.stem))


def _origin(path: Path) -> Import:
    try:
        metadata = parquet.read_schema(path).metadata or {}
        return build(Import, json.loads(metadata[_KEY]), str(path))
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise SweeperError(f"{path}: not an import of ours ({error}); move it away") from error


def _named(table: Table, source: str) -> Table:
    """The rows, each of which can be named: by a column of its own, else by its place in the file."""
    if any(name in table.columns for name in NAME_COLUMNS):
        return table
    return table.assign(**{IMPORTED_FROM: [f"{source} row {label + 2}" for label in table.index]})


def _write(path: Path, table: Table, origin: Import) -> None:
    columns = {name: _column(table[name]) for name in table.columns}
    made = pa.table(columns).replace_schema_metadata({_KEY: json.dumps(asdict(origin))})
    parquet.write_table(made, path)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _column(column: Column) -> pa.Array:
    """A column as Parquet holds it: what has no one type becomes text."""
    try:
        return pa.array(column, from_pandas=True)
    except (pa.ArrowException, OverflowError, ValueError, TypeError):
        return pa.array(column.map(lambda cell: None if pd.isna(cell) else str(cell)), from_pandas=True)
