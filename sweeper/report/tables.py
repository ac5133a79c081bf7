"""Tables of a report: from results and from the dataclasses of fits to columns and cells, and from these to markup."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.columns import COLUMNS
from sweeper.report.cells import (
    COLUMN_FORMS,
    NOTHING,
    Cell,
    Column,
    Form,
    cell_of,
    decimals,
    form_of,
    interval_cell,
    plain_number,
    power_of_ten,
    share,
    significant,
)
from sweeper.report.html import Html, join, tag
from sweeper.table import Table
from sweeper.terminal.fit import STATUS_WORDS

PAGE_ROWS = 100
"""Rows of a long table that a page shows at a time: a browser lays out no more than these."""

Row = Mapping[Column, Cell]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A table as it is shown."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    same: tuple[tuple[Column, Cell], ...] = ()
    """What every row has in common: said once instead of in a column."""


def make_grid(rows: Sequence[Row], *, keep: Iterable[str] = ()) -> Grid:
    """The rows under the union of their columns; empty columns are dropped, those of a single value said once.

    Args:
        keep: Names of columns that stay whatever they hold.
    """
    columns = tuple(dict.fromkeys(column for row in rows for column in row))
    cells = {column: [row.get(column, NOTHING) for row in rows] for column in columns}
    stay, shown, same = set(keep), [], []
    for column in columns:
        values = {cell.text for cell in cells[column]}
        if column.name in stay or len(values) > 1 or (len(rows) == 1 and values != {NOTHING.text}):
            shown.append(column)
        elif values != {NOTHING.text}:
            same.append((column, cells[column][0]))
    table = tuple(zip(*(cells[column] for column in shown), strict=True)) if shown else ()
    return Grid(columns=tuple(shown), rows=table, same=tuple(same))


# ── results ────────────────────────────────────────────────────────────────────────────────────────────────────────


def results_rows(table: Table, *, loss: str = "loss") -> list[Row]:
    """A table of results, row by row; a column of losses under another name is written as one."""
    made: list[tuple[Column, list[Cell]]] = []
    for name in map(str, table.columns):
        form = COLUMN_FORMS["loss"][0] if name == loss else form_of(name)
        missing = table[name].isna().tolist()
        values = table[name].tolist()
        cells = [NOTHING if gone else cell_of(value, form) for value, gone in zip(values, missing, strict=True)]
        made.append((results_column(name), cells))
    return [{column: cells[place] for column, cells in made} for place in range(len(table))]


def results_column(name: str) -> Column:
    """The head of a column of results."""
    return Column(name=name, unit=COLUMN_FORMS[name][1] if name in COLUMN_FORMS else "", meaning=COLUMNS.get(name, ""))


# ── dataclasses of fits ────────────────────────────────────────────────────────────────────────────────────────────

LABELS: Mapping[str, str] = {
    "Optimum.lr": "η*",
    "Optimum.points": "runs",
    "Optimum.excluded": "left out",
    "Optimum.curvature": "curvature κ",
    "Optimum.r2": "R²",
    "Optimum.loss_sd": "s.e. of the loss",
    "Sensitivity.rates": "rates",
    "Leverage.value": "its own fit inverted",
    "Leverage.value_baseline_fit": "the baseline's fit inverted",
    "Comparison.loss": "ΔL",
    "Comparison.loss_difference": "ΔL",
    "Comparison.lr_shift": "shift of η*",
    "LrPrediction.lr": "peak rate",
    "LrPrediction.lr_base": "base rate",
    "LrPrediction.x": "law along",
    "LrPrediction.lr_least_regret": "rate of least regret",
    "Dependence.b": "exponent b",
    "Dependence.beside": "held constant",
    "LeftOut.run": "run",
    "b_boot": "b, bootstrap",
    "size_exponent": "the size exponent",
    "rolling_error": "rolling-origin error",
    "robust": "robust twin",
    "alpha": "α",
    "beta": "β",
    "kappa": "κ",
    "loo_error": "leave-one-out error",
    "lr_error": "error of η*",
    "loss_error": "error of L*",
    "rmse": "RMS error",
    "b_se": "standard error of b",
    "x_centre": "centre of x",
    "log_y_se": "standard error of ln y",
    "condition": "condition number",
}
"""Heads of the columns, by field or by class and field; other fields are called by their names."""

FORMS: Mapping[str, Form] = {
    "Optimum.loss": decimals(4),
    "Optimum.loss_sd": decimals(4),
    "Optimum.curvature": decimals(4),
    "Optimum.r2": decimals(4),
    "Leverage.value": lambda value: f"{value:.3f} ×",
    "Leverage.value_baseline_fit": lambda value: f"{value:.3f} ×",
    "Comparison.loss": decimals(4),
    "Comparison.loss_difference": decimals(4),
    "Comparison.lr_shift": decimals(2),
    "LrPrediction.half_width": decimals(2),
    "LrPrediction.regret": decimals(4),
    "LrPrediction.extrapolation": lambda value: f"{significant(value, 3)} ×",
    "b": decimals(4),
    "b_boot": decimals(4),
    "size_exponent": decimals(4),
    "alpha": decimals(4),
    "beta": decimals(4),
    "E": decimals(4),
    "skew": decimals(2),
    "spread": share,
    "loo_error": share,
    "rolling_error": share,
    "lr_error": share,
    "loss_error": share,
    "published": decimals(3),
    "condition": power_of_ten,
}
"""How their numbers are written; four digits where nothing else is said."""

UNITS: Mapping[str, str] = {
    "Optimum.loss": "nats/token",
    "Comparison.loss_difference": "nats/token",
    "Comparison.lr_shift": "octaves",
    "LrPrediction.half_width": "octaves",
    "LrPrediction.regret": "nats/token",
    "rmse": "nats/token",
}
KEYS = ("group", "per", "target")
"""Mappings whose keys are columns of results."""
AXIS_OF: Mapping[str, str] = {"x": "x", "x_centre": "x", "N_range": "N", "D_range": "D"}
"""Fields that hold values of a column, by the field that names it."""
SPANS: Mapping[str, str] = {"x": "range of x", "N_range": "range of N", "D_range": "range of D"}
"""Pairs of numbers that bound data, not a constant."""
BASE_OF: Mapping[str, str] = {"loss": "loss_difference"}
"""Fields whose interval is named otherwise."""


def rows_of(items: Iterable[Any], *, skip: Iterable[str] = (), at: str = "") -> list[Row]:
    """Dataclasses of fits, whichever fields they have, row by row.

    A mapping of columns (`group`, `per`) becomes a column per key, a pair `b_low`, `b_high` the interval behind `b`;
    `warnings` have a place of their own.

    Args:
        skip: Fields to leave out.
        at: Column whose values a field `at` holds.
    """
    return [dict(_cells(item, {*skip, "warnings"}, at)) for item in items]


def _cells(item: Any, skip: set[str], at: str) -> Iterable[tuple[Column, Cell]]:
    kind = type(item).__name__
    names = [field.name for field in dataclasses.fields(item)]
    bounds = {name.removesuffix("_low") for name in names if name.endswith("_low")}
    owners = {base: BASE_OF[base] if BASE_OF.get(base) in names else base for base in bounds}
    for name in names:
        if name in skip or name.endswith(("_low", "_high")):
            continue
        if name == "at" and at:
            yield results_column(at), cell_of(item.at, form_of(at))
        else:
            yield from _field_cells(kind, name, item)
        for base in (base for base, owner in owners.items() if owner == name):
            yield _interval(kind, base, item, name)
    for base in sorted(base for base, owner in owners.items() if owner not in names or owner in skip):
        if base not in skip:
            yield _interval(kind, base, item, base)


def _field_cells(kind: str, name: str, item: Any) -> Iterable[tuple[Column, Cell]]:
    value = getattr(item, name)
    if isinstance(value, Mapping) and name in KEYS:
        for key, inner in value.items():
            yield results_column(str(key)), cell_of(inner, form_of(str(key)))
        return
    column = Column(name=_known(LABELS, kind, name) or name.replace("_", " "), unit=_known(UNITS, kind, name) or "")
    form = _form(kind, name, item)
    if kind == "Optimum" and name == "status":
        yield column, cell_of(STATUS_WORDS.get(value, value))
    elif isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(end, int | float) for end in value):
        yield Column(name=SPANS.get(name, column.name)), interval_cell(value[0], value[1], form)
    elif isinstance(value, Mapping):
        yield column, cell_of(", ".join(f"{key} {cell_of(inner, form).text}" for key, inner in value.items()))
    elif dataclasses.is_dataclass(value):
        parts = (f"{part.name} {cell_of(getattr(value, part.name), form).text}" for part in dataclasses.fields(value))
        yield column, cell_of(", ".join(parts))
    elif isinstance(value, tuple | list) and any(dataclasses.is_dataclass(part) for part in value):
        return  # results of their own
    elif isinstance(value, tuple | list):
        yield column, cell_of(", ".join(map(str, value)))
    elif isinstance(value, int) and not isinstance(value, bool):
        yield column, cell_of(value, plain_number)
    else:
        yield column, cell_of(value, form)


def _interval(kind: str, base: str, item: Any, owner: str) -> tuple[Column, Cell]:
    form = _form(kind, owner, item)
    label = _known(LABELS, kind, owner) or owner.replace("_", " ")
    column = Column(name=SPANS.get(base, f"90 % interval of {label}"), unit=_known(UNITS, kind, owner) or "")
    low, high = getattr(item, f"{base}_low"), getattr(item, f"{base}_high", None)
    return column, interval_cell(low, high, form)


def _form(kind: str, name: str, item: Any) -> Form:
    """How the numbers of a field are written: those of a column as in the table of results."""
    axis = getattr(item, AXIS_OF[name], None) if name in AXIS_OF else None
    return form_of(axis) if isinstance(axis, str) else _known(FORMS, kind, name) or significant


def _known(words: Mapping[str, Any], kind: str, name: str) -> Any:
    return words.get(f"{kind}.{name}", words.get(name))


# ── markup ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def render_grid(grid: Grid, name: str, label: str, *, filtered: bool = False) -> Html:
    """A table that sorts; a long one shows a page of its rows at a time and carries the rest as data.

    Args:
        name: Its id.
        label: What it is called by a screen reader.
        filtered: Whether it has a field to filter its rows by.
    """
    numeric = [any(isinstance(row[place].value, float) for row in grid.rows) for place in range(len(grid.columns))]
    long = len(grid.rows) > PAGE_ROWS
    table = tag(
        "table",
        tag("thead", tag("tr", map(_head, grid.columns, numeric))),
        tag("tbody", (_row(row, numeric) for row in grid.rows[:PAGE_ROWS])),
        id=name,
        class_="sortable",
        aria_label=label,
        data_rows=PAGE_ROWS if long else None,
    )
    return join(
        _same(grid),
        _controls(name, len(grid.rows), filtered=filtered, paged=long),
        tag("div", table, class_="scroll", tabindex=0, role="region", aria_label=f"{label}, scrolls sideways"),
        _data(grid, name) if long else None,
    )


def _head(column: Column, numeric: bool) -> Html:
    unit = tag("span", column.unit, class_="unit") if column.unit else None
    button = tag("button", tag("span", column.name, class_="name"), unit, type="button", title=column.meaning or None)
    return tag("th", button, scope="col", aria_sort="none", class_="number" if numeric else None)


def _row(row: Sequence[Cell], numeric: Sequence[bool]) -> Html:
    first = tag("th", row[0].text, scope="row", **_attributes(row[0], numeric[0]))
    return tag("tr", first, map(_cell, row[1:], numeric[1:]))


def _cell(cell: Cell, numeric: bool) -> Html:
    return tag("td", cell.text, **_attributes(cell, numeric))


def _attributes(cell: Cell, numeric: bool) -> dict[str, Any]:
    classes = [name for name, holds in (("number", numeric), ("missing", cell.value is None)) if holds]
    value = cell.value if isinstance(cell.value, float) else None
    long_text = cell.text if isinstance(cell.value, str) and len(cell.text) > 24 else None
    return {"class_": " ".join(classes) or None, "data_value": value, "title": cell.exact or long_text}


def _same(grid: Grid) -> Html | None:
    """What all rows share, as one line."""
    if not grid.same:
        return None
    pairs = (
        tag("span", tag("b", column.name, title=column.meaning or None), " ", _value(column, cell), class_="pair")
        for column, cell in grid.same
    )
    return tag("p", "In every row: ", _separated(pairs), class_="same")


def _separated(items: Iterable[Html]) -> Html:
    return Html(", ".join(items))


def _value(column: Column, cell: Cell) -> Html:
    unit = f" {column.unit}" if column.unit and isinstance(cell.value, float) else ""
    return tag("span", f"{cell.text}{unit}", title=cell.exact or None)


def _controls(name: str, rows: int, *, filtered: bool, paged: bool) -> Html | None:
    if not (filtered or paged):
        return None
    field = tag(
        "input",
        type="search",
        placeholder="Filter rows",
        aria_label="Filter rows: every word must occur",
        data_filters=name,
        autocomplete="off",
        spellcheck="false",
    )
    pager = (
        tag("button", "Previous", type="button", data_turns=name, data_by=-1),
        tag("button", "Next", type="button", data_turns=name, data_by=1),
    )
    told = tag("output", f"{rows} rows", data_counts=name, aria_live="polite")
    return tag("div", field if filtered else None, told, pager if paged else None, class_="controls", hidden=True)


def _data(grid: Grid, name: str) -> Html:
    """All rows as JSON, which is no script and needs no leave to run: text, or text, number and every digit."""
    rows = [
        [[cell.text, cell.value, cell.exact] if isinstance(cell.value, float) else cell.text for cell in row]
        for row in grid.rows
    ]
    text = json.dumps(rows, ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Html(f'<script type="application/json" id="{name}-data">{text}</script>')
