"""Records, or anyone's table, as one row per run with one documented column each; this package alone knows pandas.

`files` reads formats, `wandb` exports of Weights & Biases, `mapping` gives columns our names, `doubts` checks their
units; `results` makes the table of a sweep, `imported` keeps foreign rows beside it; `columns` and `runs` answer what
fits ask of any of them.
"""

from sweeper.columns import COLUMNS
from sweeper.table.cells import Table
from sweeper.table.columns import (
    distinct,
    is_numeric,
    lr_column,
    not_numbers,
    numbers,
    require,
    split,
    where,
)
from sweeper.table.doubts import unit_doubts
from sweeper.table.files import ForeignTable, read_foreign, read_table
from sweeper.table.imported import Import, add_imported, imported_rows, imports, joined, remove_import
from sweeper.table.mapping import pairs
from sweeper.table.results import results, write_results
from sweeper.table.runs import NOT_A_NUMBER, UNFINISHED, LeftOut, left_out, losses

__all__ = [
    "COLUMNS",
    "NOT_A_NUMBER",
    "UNFINISHED",
    "ForeignTable",
    "Import",
    "LeftOut",
    "Table",
    "add_imported",
    "distinct",
    "imported_rows",
    "imports",
    "is_numeric",
    "joined",
    "left_out",
    "losses",
    "lr_column",
    "not_numbers",
    "numbers",
    "pairs",
    "read_foreign",
    "read_table",
    "remove_import",
    "require",
    "results",
    "split",
    "unit_doubts",
    "where",
    "write_results",
]
