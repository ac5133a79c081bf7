"""The runs of a table as fits see them, and the name and reason of each one that they leave out."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sweeper.fits.losses import BoolArray, Key, Losses, StrArray, make_losses, plain
from sweeper.table.cells import Table, hashable
from sweeper.table.columns import is_numeric, lr_column, numbers, require, row_number

NOT_A_NUMBER = "loss not a number"
"""Why fits leave out a run whose loss is text; a missing one is another matter."""

RATE_NOT_A_NUMBER = "learning rate not a number"

LOSS_MISSING, RATE_MISSING = "loss missing", "learning rate missing"
"""What `make_losses` calls a loss and a rate that are NaN, whatever stood in the table."""

DUPLICATE = "duplicate row"

UNFINISHED = frozenset({"crashed", "failed", "killed", "running", "pending", "preempting", "preempted"})
"""States of a run without a final loss, as Weights & Biases calls them (docs.wandb.ai, "Run states")."""

NAME_COLUMNS = ("run_id", "run_name", "name", "Name", "exp_name", "imported_from")
"""Where the name of a run may stand, the first that has one."""

IMPORTED_FROM = "imported_from"
"""Column that says which row of which file an imported run without a name was; it sets no two runs apart."""

MOST_NAMED = 1_000
"""Runs left out that are named one by one; all of them are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """One run that the fits leave out."""

    reason: str
    """As `Losses.excluded` puts it: "diverged", "loss missing", …"""
    run: str
    """Its name, else its row in the file, such as "row 17" (the header is row 1)."""
    group: dict[str, Key]
    """The values of its group; a missing one is left out."""


def losses(
    table: Table, by: tuple[str, ...] = ("tokens",), *, lr: str = "", loss: str = "loss", state: str = "state"
) -> Losses:
    """What fits see of a table: rates, losses, the columns `by`, and each run that is left out with its reason.

    Rows that repeat another one to the last column are left out as duplicates. Runs that differ anywhere, in a seed, a
    name or only in their loss, are repeats.

    Args:
        by: Columns of groups, numbers or text.
        lr: Column of the learning rate; `lr_peak`, else `lr`, when empty.
        loss: Column of the loss.
        state: Column that says `diverged`, or that a run has not finished, if there is one.

    Raises:
        TableError: A column is missing or holds no numbers.
    """
    rate = lr or lr_column(table)
    rates, values = numbers(table, rate), numbers(table, loss)
    for name in by:
        require(table, name)
    states = _states(table, state)
    diverged = states.pop("diverged", np.zeros(len(table), dtype=np.bool_))
    made = make_losses(
        rates,
        values,
        diverged=diverged,
        covariates={name: numbers(table, name) for name in by if is_numeric(table, name)},
        labels={name: _text(table, name) for name in by if not is_numeric(table, name)},
    )
    for missing, spelled, name in ((LOSS_MISSING, NOT_A_NUMBER, loss), (RATE_MISSING, RATE_NOT_A_NUMBER, rate)):
        if not is_numeric(table, name):
            there = np.asarray(table[name].notna())
            made = _also_left_out(made, {spelled: np.asarray(made.excluded == missing) & there})
    if states:
        weaker = np.isin(made.excluded, ("", LOSS_MISSING, "loss infinite", NOT_A_NUMBER))
        made = _also_left_out(made, {f"state {name}": rows & weaker for name, rows in states.items()})
    apart = table.drop(columns=IMPORTED_FROM, errors="ignore")
    return _also_left_out(made, {DUPLICATE: np.asarray(hashable(apart).duplicated()) & made.used})


def _also_left_out(runs: Losses, reasons: Mapping[str, BoolArray]) -> Losses:
    """The runs with a reason, stronger than any they have, where one holds."""
    excluded = runs.excluded
    for reason, holds in reasons.items():
        if holds.any():
            excluded = np.where(holds, reason, excluded)
    return dataclasses.replace(runs, excluded=excluded)


def _states(table: Table, name: str) -> dict[str, BoolArray]:
    """The rows of each state that has no final loss, "diverged" among them, by its name in lower case."""
    if name not in table.columns:
        return {}
    codes, seen = pd.factorize(table[name])
    words = [str(state).lower() for state in seen]
    return {
        word: np.asarray(np.isin(codes, [code for code, other in enumerate(words) if other == word]))
        for word in sorted({"diverged", *UNFINISHED} & set(words))
    }


def left_out(table: Table, runs: Losses, by: tuple[str, ...], most: int = MOST_NAMED) -> tuple[LeftOut, ...]:
    """The runs that fits leave out, each with its name and group, in the order of the table.

    Args:
        table: The table that `runs` was made of.
        by: Columns of groups.
        most: More than that are not named: of every reason the first ones are.
    """
    reasons = runs.reasons()
    each = most // max(len(reasons), 1)
    places = sorted(int(place) for reason in reasons for place in np.flatnonzero(runs.excluded == reason)[:each])
    return tuple(
        LeftOut(reason=str(runs.excluded[place]), run=_name(table, place), group=_group(table, place, by))
        for place in places
    )


def _name(table: Table, place: int) -> str:
    for name in NAME_COLUMNS:
        if name in table.columns and pd.notna(cell := table[name].iloc[place]) and str(cell):
            return str(cell)
    return f"row {row_number(table, place)}"


def _group(table: Table, place: int, by: tuple[str, ...]) -> dict[str, Key]:
    cells = {name: table[name].iloc[place] for name in by}
    return {
        name: plain(cell) if is_numeric(table, name) else str(cell) for name, cell in cells.items() if pd.notna(cell)
    }


def _text(table: Table, name: str) -> StrArray:
    return np.asarray(table[name].astype(object).where(table[name].notna(), "").astype(str), dtype=np.str_)
