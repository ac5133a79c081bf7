"""The lowest losses of a table against compute: the points of a curve, its fit, its doubts, and leverage."""

from dataclasses import dataclass

import numpy as np

from sweeper.analysis.question import named_error, sides_of
from sweeper.errors import FitError
from sweeper.fits.loss_curve import CONSTANTS, Leverage, LossCurveFit, fit_leverage, fit_loss_curve, name_of
from sweeper.fits.losses import BoolArray, IntArray, Key
from sweeper.fits.optimum import Optimum
from sweeper.laws.arrays import FloatArray
from sweeper.spec import Question
from sweeper.table import UNFINISHED, Table, numbers, split
from sweeper.typed import did_you_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoints:
    """What a loss curve goes through: the lowest y at each x, shapes (budgets,), x ascending."""

    per: dict[str, Key]
    x: FloatArray
    y: FloatArray
    settled: BoolArray
    """False where the learning rates of the best run's group hold no optimum: a wider grid may have a lower y."""

    @property
    def fitted(self) -> tuple[FloatArray, FloatArray]:
        """x and y of the settled budgets."""
        return self.x[self.settled], self.y[self.settled]


def curve_points(
    table: Table, x: str, y: str = "loss", per: tuple[str, ...] = (), optima: tuple[Optimum, ...] = ()
) -> tuple[CurvePoints, ...]:
    """The lowest y at each x, per combination of `per`, diverged runs left out.

    Args:
        optima: Of the same table; they tell which budgets are settled, all when there are none.
    """
    points = []
    table = table.reset_index(drop=True)
    settled = rows_with_optimum(table, optima)
    for key, part in split(table, per):
        xs, ys = numbers(part, x), numbers(part, y)
        best = lowest_rows(ys, xs, among=rows_with_loss(part, xs, ys))
        rows = np.asarray(part.index, dtype=np.intp)[best]
        points.append(CurvePoints(per=key, x=xs[best], y=ys[best], settled=settled[rows]))
    return tuple(points)


def rows_with_loss(table: Table, *columns: FloatArray) -> BoolArray:
    """Which rows have a final loss and a number in each of these columns of theirs, shape (runs,)."""
    usable = np.all(np.isfinite(columns), axis=0)
    if "state" in table.columns:
        states = table["state"].astype(str).str.lower()
        usable &= ~np.asarray(states.isin(["diverged", *UNFINISHED]))
    return np.asarray(usable, dtype=np.bool_)


def lowest_rows(y: FloatArray, *columns: FloatArray, among: BoolArray) -> IntArray:
    """The row of the lowest y at each combination of values of the columns, in ascending order of these."""
    rows = np.flatnonzero(among)
    rows = rows[np.lexsort((y[rows], *(column[rows] for column in reversed(columns))))]
    first = np.ones(rows.size, dtype=np.bool_)
    first[1:] = np.any([np.diff(column[rows]) != 0 for column in columns], axis=0)
    return rows[first]


def rows_with_optimum(table: Table, optima: tuple[Optimum, ...]) -> BoolArray:
    """Which rows belong to no group whose optimum lies at an edge of its grid or nowhere, shape (runs,)."""
    settled = np.ones(len(table), dtype=np.bool_)
    unknown = {tuple(o.group.values()) for o in optima if o.status in ("edge_low", "edge_high", "no_minimum")}
    if unknown:
        for key, part in split(table, tuple(optima[0].group)):
            settled[np.asarray(part.index, dtype=np.intp)] = tuple(key.values()) not in unknown
    return settled


def fit_curves(
    table: Table, curve: str, question: Question, optima: tuple[Optimum, ...], failed: list[FitError]
) -> list[LossCurveFit]:
    y, x = sides_of(curve)
    made = []
    for points in curve_points(table, x, y, question.per, optima):
        try:
            made.append(fit_loss_curve(*points.fitted, per=points.per, x_name=x, y_name=y))
        except FitError as error:
            left = int((~points.settled).sum())
            why = f" ({left} left out: the best rate at an edge of its grid, or no minimum)" if left else ""
            failed.append(named_error(points.per, FitError(f"{error}{why}")))
    return made


def curve_doubts(table: Table, fit: LossCurveFit, question: Question, optima: tuple[Optimum, ...]) -> list[str]:
    """What a reader of a fitted curve must know."""
    who = ", ".join(f"{name} {value}" for name, value in fit.per.items())
    curve = f"{who}: the curve {fit.y} ~ {fit.x}" if who else f"the curve {fit.y} ~ {fit.x}"
    left = sum(
        int((~points.settled).sum())
        for points in curve_points(table, fit.x, fit.y, question.per, optima)
        if points.per == fit.per
    )
    found = []
    if left:
        found.append(
            f"{curve} leaves out {left} of {left + fit.points} values of {fit.x}, whose best rate lies at an edge of "
            "its grid or nowhere; widen the learning rates"
        )
    if fit.points < CONSTANTS + 2:
        found.append(
            f"{curve} has {fit.points} points for {CONSTANTS} constants: b and E are barely determined; add budgets"
        )
    if fit.E == 0 and fit.irreducible:
        found.append(f"{curve} puts E at its bound 0, so that b is a pure power law's; add budgets to separate the two")
    if fit.loo_error is not None and fit.loo_error > 1:
        found.append(f"{curve} misses a point that it has not seen by more than the loss itself: do not extrapolate it")
    return found


def fit_leverages(
    table: Table, question: Question, optima: tuple[Optimum, ...], curves: list[LossCurveFit]
) -> tuple[Leverage, ...]:
    """Along the first curve of the question; none where the baseline's own cannot be fitted, which a warning says."""
    if not question.curves:
        raise FitError(f"leverage over {question.baseline!r} needs a curve; add --curve 'loss ~ flops'")
    y, x = sides_of(question.curves[0])
    points = {name_of(part.per): part.fitted for part in curve_points(table, x, y, question.per, optima)}
    if question.baseline not in points:
        known = did_you_mean(question.baseline, points) if question.per else "the table holds a single curve"
        raise FitError(f"no curve of the baseline {question.baseline!r}; {known}")
    fitted = {curve.arm: curve for curve in curves if (curve.y, curve.x) == (y, x)}
    baseline = fitted.pop(question.baseline, None)
    if baseline is None:
        return ()
    return tuple(
        row
        for arm, curve in fitted.items()
        for row in fit_leverage(curve, baseline, new_points=points[arm], baseline_points=points[question.baseline])
    )
