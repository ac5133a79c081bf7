"""Records, or anyone's CSV, as a table of results: one row per run, one documented column each; alone knows pandas."""

import csv
import dataclasses
import gzip
import json
import zlib
from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TextIO, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from sweeper.columns import COLUMNS
from sweeper.errors import TableError
from sweeper.expressions import compile_expression, select
from sweeper.files import replacing
from sweeper.fits.losses import Key, Losses, make_losses, plain
from sweeper.laws.arrays import FloatArray
from sweeper.records import RunRecord
from sweeper.spec import RunSpec
from sweeper.typed import did_you_mean

Table = pd.DataFrame

NOT_A_NUMBER = "loss not a number"
"""Why fits leave out a run whose loss is text; a missing one is another matter."""


# ── a sweep's own results ──────────────────────────────────────────────────────────────────────────────────────────


def results(records: Iterable[RunRecord], specs: Iterable[RunSpec]) -> Table:
    """One row per run of the expansion that has a record, in the order of the expansion, with the columns of `COLUMNS`.

    The axes follow, then what a command reported beside its loss; a name that is taken becomes `result.NAME`. Where a
    command's model is not described, `width` and its companions are values of its own, or empty.

    Records of other expansions are left out: ask for their cells to see them.
    """
    found = {record.run_id: record for record in records}
    rows = [_row(found[spec.run_id], spec) for spec in specs if spec.run_id in found]
    return pd.DataFrame(rows, columns=None if rows else list(COLUMNS))


def _row(record: RunRecord, spec: RunSpec) -> dict[str, object]:
    axes = dict(spec.axes)
    known: dict[str, object] = {
        field.name: getattr(record, field.name) for field in dataclasses.fields(record) if field.name in COLUMNS
    }
    # The expansion names the arm and the axes: one run may serve two arms, or be a cell of another sweep file.
    known["arm"] = spec.arm
    described: object = spec.train.model if spec.trainer.models else None
    own = dict(spec.trainer.values)
    known |= {name: getattr(described, name, own.get(name)) for name in ("width", "depth", "top_k", "sparsity")}
    if described is None:  # nothing counts what it does not report itself
        known |= {name: known[name] or None for name in ("params", "params_total", "flops")}
    row = {name: known[name] for name in COLUMNS} | {name: v for name, v in axes.items() if name not in COLUMNS}
    return row | {f"result.{name}" if name in row else name: value for name, value in record.extra.items()}


def write_results(table: Table, folder: Path) -> Path:
    """Write `results.csv` and `results.parquet` into the folder, each whole or not at all; returns the CSV's path.

    Raises:
        DiskError: The folder cannot be written.
    """
    path = folder / "results.csv"
    with replacing(path) as partial:
        table.to_csv(partial, index=False)
    with replacing(folder / "results.parquet") as partial:
        _one_type_per_column(table).to_parquet(partial, index=False)
    return path


def _one_type_per_column(table: Table) -> Table:
    """Parquet wants one type per column; an axis that holds numbers in one arm and text in another becomes text."""
    mixed = [name for name in table.columns if table[name].dtype == object and table[name].map(type).nunique() > 1]
    return table.assign(**{name: table[name].map(lambda v: None if v is None else str(v)) for name in mixed})


# ── anyone's table ─────────────────────────────────────────────────────────────────────────────────────────────────


def read_table(path: Path, mapping: Mapping[str, str] | None = None) -> Table:
    """A CSV, JSONL or Parquet file with one row per run.

    The same rows give the same table whatever the format: text that spells numbers becomes numbers, a list or an object
    its text.

    Args:
        path: Its suffix tells the format: .csv, .tsv, .jsonl, .parquet (.gz is unpacked).
        mapping: Our name for a column by its name there: `{"tokens": "D"}`.

    Raises:
        TableError: The file is missing, empty, unreadable, names a column twice, or lacks a mapped one.
    """
    table = _numbers_as_such(_hashable(_read(path)))
    for ours, theirs in (mapping or {}).items():
        require(table, theirs, str(path))
        if ours != theirs and ours in table.columns:
            raise TableError(
                f"{path}: a column {ours!r} is there already, so {theirs!r} cannot take its name; drop one"
            )
    table = table.rename(columns={theirs: ours for ours, theirs in (mapping or {}).items()})
    if table.empty:
        raise TableError(f"{path}: the table has a header but no rows; give a file with one row per run")
    return table


def _read(path: Path) -> Table:
    kind = next((suffix for suffix in reversed(path.suffixes) if suffix != ".gz"), "")
    try:
        if path.is_dir():
            raise TableError(f"{path}: a folder, not a file; name the file of results in it")
        if path.stat().st_size == 0:
            raise TableError(f"{path}: the file is empty; give a table with one row per run")
        if kind in (".csv", ".tsv"):
            return _read_csv(path, "," if kind == ".csv" else "\t")
        if kind in (".jsonl", ".ndjson"):
            return _read_jsonl(path)
        if kind == ".parquet":
            return pd.read_parquet(path)
    except FileNotFoundError as error:
        raise TableError(f"{path}: no such file; check the name") from error
    except (OSError, EOFError, zlib.error, ValueError) as error:  # pandas' parser errors are ValueErrors
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TableError(f"{path}: not a readable {kind or 'table'} file ({reason}); check its format") from error
    raise TableError(
        f"{path}: the format {kind or 'without a suffix'} is not known; use .csv, .tsv, .jsonl or .parquet"
    )


def _read_csv(path: Path, separator: str) -> Table:
    with _open(path) as file:
        header = [name.strip() for name in next(csv.reader(file, delimiter=separator, skipinitialspace=True), [])]
    for name in header:
        if header.count(name) > 1:
            raise TableError(f"{path}: the column {name!r} is there {header.count(name)} times; rename or drop one")
    if len(header) == 1 and set(header[0]) & {",", ";", "\t"}:
        raise TableError(
            f"{path}: its header {header[0]!r} is a single column; separate columns by commas (.csv) or tabs (.tsv)"
        )
    with _open(path) as file:
        table = pd.read_csv(file, sep=separator, skipinitialspace=True)
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes the first values for names of rows
        raise TableError(f"{path}: its rows hold more values than its header names columns; name each or drop the rest")
    return table.set_axis(header, axis="columns")


def _read_jsonl(path: Path) -> Table:
    """One JSON object per line; pandas' own reader would turn true into 1 and numbers into dates."""
    rows = []
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            row = json.loads(line) if line.strip() else {}
            if not isinstance(row, dict):
                raise TableError(f"{path}: line {number} is {line.strip()[:40]!r}; give an object per line")
            rows += [row] if row else []
    return pd.DataFrame(rows)


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return cast(TextIO, gzip.open(path, "rt", encoding="utf-8-sig", newline=""))
    return path.open(encoding="utf-8-sig", newline="")


def _hashable(table: Table) -> Table:
    """Lists and objects as their text, so that cells can be compared; column names as text."""
    nested = [
        name
        for name in table.columns
        if table[name].dtype == object and not table[name].map(lambda cell: isinstance(cell, Hashable)).all()
    ]

    def text(cell: object) -> object:
        return cell if isinstance(cell, Hashable) else repr(cell.tolist() if isinstance(cell, np.ndarray) else cell)

    return table.assign(**{name: table[name].map(text) for name in nested}).rename(columns=str)


def _numbers_as_such(table: Table) -> Table:
    """Columns of text (or decimals, or categories) that spell nothing but numbers as numbers."""
    found = {}
    for name in table.columns:
        column = table[name].astype(object) if isinstance(table[name].dtype, pd.CategoricalDtype) else table[name]
        if pd.api.types.is_object_dtype(column) or pd.api.types.is_string_dtype(column):
            spelled = pd.to_numeric(column.mask(column.map(_is_bool)), errors="coerce")
            found[name] = spelled if spelled.notna().equals(column.notna()) and column.notna().any() else column
    return table.assign(**found)


def _is_bool(value: object) -> bool:
    return isinstance(value, bool | np.bool_)


# ── questions to a table ───────────────────────────────────────────────────────────────────────────────────────────


def require(table: Table, name: str, where: str = "the table") -> None:
    """Raise `TableError` unless the table has the column."""
    if name not in table.columns:
        raise TableError(f"{where}: no column {name!r}; {did_you_mean(name, map(str, table.columns))}")


def where(table: Table, condition: str) -> Table:
    """The rows that satisfy a condition of `sweeper.expressions`, such as "depth_mup == 'with' and lr > 0.01".

    Raises:
        ConfigError: The condition cannot be read or names an unknown column.
        TableError: No row satisfies it.
    """
    read = compile_expression(condition, "--where").names
    columns: dict[str, list[object]] = {str(name): [] for name in table.columns}
    for name in read & columns.keys():
        column = table[name].astype(object)
        columns[name] = cast(list[object], column.where(column.notna(), None).tolist())
    kept = select(condition, columns, "--where")
    if not any(kept):
        raise TableError(f"--where: none of the {len(table)} rows satisfies {condition!r}; loosen it")
    return table[np.array(kept)]


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
    values = pd.to_numeric(column.astype(object).mask(column.map(_is_bool)), errors="coerce")
    if len(table) and values.isna().all() and column.notna().any():
        raise TableError(
            f"the column {name!r} holds no numbers but values such as {column.dropna().tolist()[0]!r}; name another"
        )
    return np.asarray(values, dtype=np.float64)


def not_numbers(table: Table, name: str) -> tuple[tuple[int, object], ...]:
    """The cells of a column that hold something but no number, each with its row (the header is row 1)."""
    bad = np.isnan(numbers(table, name)) & np.asarray(table[name].notna())
    rows = [row + 2 if isinstance(row, int) else place for place, row in enumerate(table.index, 2)]
    return tuple((rows[place], table[name].iloc[place]) for place in np.flatnonzero(bad))


def is_numeric(table: Table, name: str) -> bool:
    require(table, name)
    return bool(pd.api.types.is_numeric_dtype(table[name])) and not pd.api.types.is_bool_dtype(table[name])


def lr_column(table: Table) -> str:
    """`lr_peak` where the table has it, else `lr`."""
    return "lr_peak" if "lr_peak" in table.columns else "lr"


def losses(
    table: Table, by: tuple[str, ...] = ("tokens",), *, lr: str = "", loss: str = "loss", state: str = "state"
) -> Losses:
    """What fits see of a table: rates, losses, the columns `by`, and each run that is left out with its reason.

    Rows that repeat another one to the last column are left out as duplicates; runs that differ in a seed are not.

    Args:
        by: Columns of groups, numbers or text.
        lr: Column of the learning rate; `lr_peak`, else `lr`, when empty.
        loss: Column of the loss.
        state: Column that says `diverged`, if there is one.

    Raises:
        TableError: A column is missing or holds no numbers.
    """
    rates, values = numbers(table, lr or lr_column(table)), numbers(table, loss)
    for name in by:
        require(table, name)
    diverged = np.asarray(table[state] == "diverged") if state in table.columns else np.zeros(len(table), np.bool_)
    made = make_losses(
        rates,
        values,
        diverged=diverged,
        covariates={name: numbers(table, name) for name in by if is_numeric(table, name)},
        labels={name: _text(table, name) for name in by if not is_numeric(table, name)},
    )
    spelled = np.isnan(values) & (made.excluded == "loss missing") & np.asarray(table[loss].notna())
    made = dataclasses.replace(made, excluded=np.where(spelled, NOT_A_NUMBER, made.excluded))
    repeated = np.asarray(_hashable(table).duplicated())
    return dataclasses.replace(made, excluded=np.where(repeated & made.used, "duplicate row", made.excluded))


def _text(table: Table, name: str) -> npt.NDArray[np.str_]:
    return np.asarray(table[name].astype(object).where(table[name].notna(), "").astype(str), dtype=np.str_)
