"""The losses of a table over size and data, and over data and learning rate: surfaces and joint fits."""

from dataclasses import dataclass

import numpy as np

from sweeper.analysis.curves import lowest_rows, rows_with_loss, rows_with_optimum
from sweeper.analysis.question import named_error
from sweeper.columns import surface_sides
from sweeper.errors import FitError
from sweeper.fits.joint import JointFit, fit_joint
from sweeper.fits.losses import BoolArray, Key
from sweeper.fits.optimum import Optimum
from sweeper.fits.surface import SurfaceFit, fit_surface
from sweeper.laws.arrays import FloatArray
from sweeper.spec import Question
from sweeper.table import Table, losses, lr_column, numbers, require, split

SHOWN = 3
"""Settings without a fit that warnings name one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SurfacePoints:
    """What a surface goes through: the lowest loss at each pair of size and data, shapes (pairs,), pairs ascending."""

    per: dict[str, Key]
    N: FloatArray
    D: FloatArray
    y: FloatArray
    settled: BoolArray
    """False where the learning rates of the best run's group hold no optimum: a wider grid may have a lower y."""

    @property
    def fitted(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """N, D and y of the settled pairs."""
        return self.N[self.settled], self.D[self.settled], self.y[self.settled]


def surface_points(
    table: Table, surface: str, per: tuple[str, ...] = (), optima: tuple[Optimum, ...] = ()
) -> tuple[SurfacePoints, ...]:
    """The lowest loss at each pair of size and data, per combination of `per`; runs without a final loss left out.

    Args:
        surface: Its columns, such as "loss ~ params + tokens".
        optima: Of the same table; they tell which pairs are settled, all when there are none.

    Raises:
        FitError: The surface cannot be read.
        TableError: A column is missing or holds no numbers.
    """
    y_name, N_name, D_name = _sides(surface)
    table = table.reset_index(drop=True)
    settled = rows_with_optimum(table, optima)
    points = []
    for key, part in split(table, per):
        N, D, y = numbers(part, N_name), numbers(part, D_name), numbers(part, y_name)
        best = lowest_rows(y, N, D, among=rows_with_loss(part, N, D, y))
        here = settled[np.asarray(part.index, dtype=np.intp)[best]]
        points.append(SurfacePoints(per=key, N=N[best], D=D[best], y=y[best], settled=here))
    return tuple(points)


def surfaces_of(
    table: Table, question: Question, optima: tuple[Optimum, ...] = ()
) -> tuple[list[SurfaceFit], list[str]]:
    """The surfaces that a question asks for, one per setting of `per`, and what was left out or could not be fitted.

    What a reader of a surface's constants must know stands in its own `warnings`.

    Raises:
        FitError: A surface cannot be read.
        TableError: A column is missing or holds no numbers.
    """
    made: list[SurfaceFit] = []
    warnings: list[str] = []
    for surface in question.surfaces:
        y, N, D = _sides(surface)
        failed: list[FitError] = []
        for points in surface_points(table, surface, question.per, optima):
            left = int((~points.settled).sum())
            try:
                made.append(fit_surface(*points.fitted, per=points.per, N_name=N, D_name=D, y_name=y))
            except FitError as error:
                why = f" ({left} left out: the best rate at an edge of its grid, or no minimum)" if left else ""
                failed.append(named_error(points.per, FitError(f"{error}{why}")))
                continue
            if left:
                doubt = FitError(
                    f"the surface {y} ~ {N} + {D} leaves out {left} of {points.y.size} pairs, whose best rate lies at "
                    "an edge of its grid or nowhere; widen the learning rates"
                )
                warnings.append(str(named_error(points.per, doubt)))
        warnings += _some(failed, f"settings without a surface {surface}")
    return made, warnings


def joints_of(
    table: Table, question: Question, *, lr: str = "", loss: str = "loss"
) -> tuple[list[JointFit], list[str]]:
    """The joint fits along each column of `question.joint`, and what could not be fitted.

    There is one per setting of `per` and of the other columns that groups are formed by, such as the depth of
    `by = tokens, depth`: the form knows no third axis.

    Args:
        lr: Column of the learning rate; `lr_peak`, else `lr`, when empty.
        loss: Column of the loss.

    Raises:
        TableError: A column is missing or holds no numbers.
    """
    made: list[JointFit] = []
    warnings: list[str] = []
    rate = lr or lr_column(table)
    for x in question.joint:
        require(table, x)
        apart = tuple(name for name in dict.fromkeys((*question.per, *question.by)) if name != x)
        failed: list[FitError] = []
        for per, part in split(table, apart):
            try:
                made.append(fit_joint(losses(part, (x,), lr=rate, loss=loss), x=x, per=per, rate=rate, y_name=loss))
            except FitError as error:
                failed.append(named_error(per, error))
        warnings += _some(failed, f"settings without a joint fit along {x}")
    return made, warnings


def _sides(surface: str) -> tuple[str, str, str]:
    try:
        return surface_sides(surface)
    except ValueError as error:
        raise FitError(str(error)) from error


def _some(failed: list[FitError], rest: str) -> list[str]:
    """The first errors, and how many more there are."""
    more = [f"… and {len(failed) - SHOWN} more {rest}"] if len(failed) > SHOWN else []
    return [str(error) for error in failed[:SHOWN]] + more
