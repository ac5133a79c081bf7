"""The results of a sweep: records and cells to one row per run, and that table on the disk."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from sweeper.columns import COLUMNS
from sweeper.files import replacing
from sweeper.records import RunRecord
from sweeper.spec import RunSpec
from sweeper.table.cells import Table


def results(records: Iterable[RunRecord], specs: Iterable[RunSpec]) -> Table:
    """One row per run of the expansion that has a record, in the order of the expansion, with the columns of `COLUMNS`.

    The axes follow, then what the trainer reported beside its loss (ours the stability of the last step, averaged over
    layers); a name that is taken becomes `result.NAME`. Where a command's model is not described, `width` and its
    companions are values of its own, or empty.

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
        one_type_per_column(table).to_parquet(partial, index=False)
    return path


def one_type_per_column(table: Table) -> Table:
    """Parquet wants one type per column; an axis that holds numbers in one arm and text in another becomes text."""
    mixed = [name for name in table.columns if table[name].dtype == object and table[name].map(type).nunique() > 1]
    return table.assign(**{name: table[name].map(lambda v: None if v is None else str(v)) for name in mixed})
