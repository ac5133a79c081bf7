"""The optima of a table's groups, and where they lie along another column."""

from dataclasses import replace

from sweeper.analysis.question import is_rate, sides_of
from sweeper.errors import FitError
from sweeper.fits.losses import Losses
from sweeper.fits.optimum import Method, Optimum, fit_lr_optima
from sweeper.spec import Question
from sweeper.table import Table, distinct, losses, lr_column, require, split


def optima_of(
    table: Table, question: Question, *, method: Method = "linex", lr: str = "", loss: str = "loss"
) -> tuple[Losses | None, tuple[Optimum, ...]]:
    """The runs as fits see them and the optimum of each group; nothing for a table of finished optima or of curves."""
    rate = lr or lr_column(table)
    wanted = any(is_rate(sides_of(law)[0], rate) for law in question.laws) or not (
        question.laws or question.curves or question.surfaces
    )
    if not wanted and (rate not in table.columns or loss not in table.columns):
        return None, ()
    if not wanted and not (question.by or question.per):  # one group of everything has no optimum of its own
        return None, ()
    if rate not in table.columns and question.laws and all(sides_of(law)[0] in table.columns for law in question.laws):
        return None, ()
    by = tuple(dict.fromkeys((*question.per, *question.by)))
    runs = losses(table, by, lr=rate, loss=loss)
    return runs, fit_lr_optima(runs, by, method)


def optima_along(table: Table, optima: tuple[Optimum, ...], x: str) -> tuple[Optimum, ...]:
    """The optima, each with the value of the column `x` in its group: the runs of a group must agree on it.

    Raises:
        TableError: No such column.
        FitError: The runs of a group differ in x or have none.
    """
    require(table, x)
    if not optima or x in optima[0].group:
        return optima
    values = {tuple(key.values()): distinct(part, x) for key, part in split(table, tuple(optima[0].group))}
    placed = []
    for optimum in optima:
        found = values[tuple(optimum.group.values())]
        if len(found) != 1:
            group = ", ".join(f"{name} {value}" for name, value in optimum.group.items()) or "the only group"
            seen = f"{len(found)} ({found[0]} to {found[-1]})" if found else "none"
            raise FitError(f"a law along {x} needs one {x} per optimum, but {group} has {seen}; add --by {x}")
        placed.append(replace(optimum, group=optimum.group | {x: found[0]}))
    return tuple(placed)
