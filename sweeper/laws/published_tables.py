"""What a paper prints on the subject of a question, as tables to be read beside our own."""

from collections.abc import Iterable, Sequence

from sweeper.laws.published import (
    Paper,
    PublishedCurve,
    PublishedOptima,
    PublishedSensitivity,
    PublishedSweep,
    PublishedTable,
)

LADDER = "depth"
"""The axis of a ladder: curves against compute are compared along it alone."""


def tables_beside(paper: Paper, names: frozenset[str], *, tuned: bool) -> tuple[PublishedTable, ...]:
    """The tables of a paper that belong to a question.

    Args:
        names: The columns that form the question's groups and that its laws go along, its arms, its figures.
        tuned: Whether the question looks for best rates; optima along an axis are of no use to it otherwise.

    Returns:
        Optima along the same axes, the best of the sweeps along them, the arms of the same names, then the curves of a
        ladder and the sensitivities where the question draws them.
    """
    tables = [item for item in paper.tables if names & {*item.beside} and names >= {item.along} - {""}]
    covered = {name for item in tables for name in item.beside}
    made = []
    if tuned:
        made += [_optima(item) for item in paper.optima if item.axis in names]
        made += [_best(sweeps) for sweeps in _by_title(paper.sweeps) if sweeps[0].axis in names - covered]
    made += tables
    if {LADDER, "flops"} <= names and paper.curves:
        made.append(_curves(paper.curves))
    if "sensitivity" in names and paper.sensitivity:
        made.append(_sensitivity(paper.sensitivity))
    return tuple(made)


def _optima(item: PublishedOptima) -> PublishedTable:
    law = f", η* = {item.law.a:g} · x^{item.law.b:g}" if item.law else ""
    return PublishedTable(
        title=item.title,
        setting=item.setting + law,
        columns=(item.axis, "lr_peak", "loss"),
        rows=tuple(zip(item.x, item.lr, item.loss, strict=True)),
        beside=(item.axis,),
    )


def _by_title(sweeps: Iterable[PublishedSweep]) -> list[list[PublishedSweep]]:
    made: dict[str, list[PublishedSweep]] = {}
    for sweep in sweeps:
        made.setdefault(sweep.title, []).append(sweep)
    return list(made.values())


def _best(sweeps: Sequence[PublishedSweep]) -> PublishedTable:
    rows = []
    for sweep in sweeps:
        loss, rate = min(zip(sweep.loss, sweep.lr, strict=True))
        rows.append((sweep.x, rate, loss))
    first = sweeps[0]
    return PublishedTable(
        title=first.title,
        setting=f"{first.setting}, best of the grid",
        columns=(first.axis, first.rates[0], "loss"),
        rows=tuple(rows),
        beside=(first.axis,),
    )


def _curves(curves: Sequence[PublishedCurve]) -> PublishedTable:
    """A row per arm: its loss at either end of the ladder, its curve, its leverage at the end."""
    return PublishedTable(
        title=" and ".join(dict.fromkeys(curve.title for curve in curves)),
        setting="L = A · C^−b + E, leverage over the first at the arm's last budget",
        columns=("arm", "first flops", "loss there", "last flops", "loss at the end", "b", "E", "leverage"),
        rows=tuple(
            (
                curve.arm,
                curve.flops[0],
                curve.loss[0],
                curve.flops[-1],
                curve.loss[-1],
                curve.curve.b,
                curve.curve.E,
                curve.leverage[-1] if curve.leverage else "–",
            )
            for curve in curves
        ),
        beside=("flops",),
    )


def _sensitivity(items: Sequence[PublishedSensitivity]) -> PublishedTable:
    return PublishedTable(
        title=items[0].title,
        setting="error of the rate in percent with so many rates",
        columns=("group", *(f"{rates} rates" for rates in items[0].rates)),
        rows=tuple((item.group, *(round(100 * error, 2) for error in item.lr_error)) for item in items),
        beside=("sensitivity",),
    )
