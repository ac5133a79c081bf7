"""What a table of results answers: optima, laws, curves and the rest of a `FitReport`."""

from collections.abc import Sequence
from dataclasses import dataclass

from sweeper.analysis.comparisons import comparisons_of, seeds_of
from sweeper.analysis.curves import curve_doubts, fit_curves, fit_leverages
from sweeper.analysis.laws import column_laws, dependences, off_published, optimum_laws
from sweeper.analysis.optima import optima_of
from sweeper.analysis.question import RATES, mixed_columns, mixed_shapes, named_error, rate_of, separate_arms, sides_of
from sweeper.analysis.surfaces import joints_of, surfaces_of
from sweeper.errors import FitError, TableError
from sweeper.fits.comparison import Comparison, SeedComparison
from sweeper.fits.dependence import Dependence
from sweeper.fits.joint import JointFit
from sweeper.fits.loss_curve import Leverage, LossCurveFit
from sweeper.fits.losses import Losses
from sweeper.fits.optimum import Method, Optimum
from sweeper.fits.power_law import PowerLawFit
from sweeper.fits.sensitivity import MOST, Sensitivity, fit_sensitivity
from sweeper.fits.surface import SurfaceFit
from sweeper.laws.published import PAPERS, PublishedTable
from sweeper.laws.published_tables import tables_beside
from sweeper.spec import Question
from sweeper.table import LeftOut, Table, distinct, left_out, lr_column, not_numbers, require

SCHEMA_VERSION = 1
SUBSETS = 2000
"""Subsets of learning rates of one size that are fitted over all groups: seconds, however many groups there are."""
SHOWN = 3
"""Rows of a kind that warnings name one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitReport:
    """Everything that `fit` prints; `asdict` of it is the object that `--json` prints."""

    schema_version: int = SCHEMA_VERSION
    runs: int
    """Rows of the table."""
    rate: str
    """Column of the learning rate that the optima are of; empty without optima."""
    method: Method
    """Estimator of the optima."""
    excluded: dict[str, int]
    """Runs left out of the optima, by reason."""
    left_out: tuple[LeftOut, ...] = ()
    """Each of them by its name, the first 1,000."""
    optima: tuple[Optimum, ...]
    laws: tuple[PowerLawFit, ...]
    curves: tuple[LossCurveFit, ...]
    leverage: tuple[Leverage, ...]
    dependence: tuple[Dependence, ...] = ()
    """What moves the optimum: one row per covariate and setting of `per`."""
    comparisons: tuple[Comparison, ...] = ()
    seeds: tuple[SeedComparison, ...] = ()
    """The same over shared seeds, where there are several."""
    """Each arm against the baseline."""
    surfaces: tuple[SurfaceFit, ...] = ()
    joint: tuple[JointFit, ...] = ()
    sensitivity: tuple[Sensitivity, ...] = ()
    published: tuple[PublishedTable, ...] = ()
    """What the question's reference prints on the same subject."""
    warnings: tuple[str, ...]


def fit_question(
    table: Table,
    question: Question,
    *,
    method: Method = "linex",
    lr: str = "",
    loss: str = "loss",
    title: str = "the table",
    told: Sequence[str] = (),
) -> FitReport:
    """Answer a question with a table of results.

    A law whose left side is a learning rate (`lr`, `lr_peak`, the column `lr`) goes through the optima of that rate;
    any other relates two columns. What cannot be fitted is a warning as long as something else can be shown.

    Args:
        table: One row per run.
        question: Groups, laws, curves and baseline.
        method: Of the optima.
        lr: Column of the rate whose optima are shown; when empty the left side of the first law of one, else `lr_peak`,
            else `lr`.
        loss: Column of the loss.
        title: What warnings call the table.
        told: Warnings that reading the table gave already; they come first.

    Raises:
        TableError: A column is missing, or there are no rows.
        FitError: Nothing that was asked for can be fitted.
    """
    if table.empty:
        raise TableError("the table has no runs; launch the sweep, or give a file with one row per run")
    question = separate_arms(table, question)
    rate = lr or _first_rate(table, question)
    if lr:
        require(table, lr)
    by = tuple(dict.fromkeys((*question.per, *question.by)))
    runs, optima = optima_of(table, question, method=method, lr=rate, loss=loss)
    warnings = list(told)
    if runs is not None:
        warnings += [*mixed_shapes(table, question), *mixed_columns(table, question, rate, loss)]
    if loss in table.columns:
        bad = not_numbers(table, loss)
        warnings += [f"{title} row {row}: {loss} {value!r} is not a number" for row, value in bad[:SHOWN]]
        warnings += [f"… and {len(bad) - SHOWN} more rows without a number"] if len(bad) > SHOWN else []
    failed: list[FitError] = []
    if runs is not None and not optima:
        failed.append(FitError(f"none of the {len(table)} runs has a value of {' and '.join(question.by)}"))
    optima_by_rate = {rate: optima}
    made: list[PowerLawFit] = []
    for law in question.laws:
        y, x = sides_of(law)
        column = rate_of(table, y, rate)
        if column is None or runs is None:
            made += column_laws(table, y, x, question, rate, failed)
            continue
        if column not in optima_by_rate:
            optima_by_rate[column] = optima_of(table, question, method=method, lr=column, loss=loss)[1]
        made += optimum_laws(table, optima_by_rate[column], column, x, question, failed)
    curves = [fit for curve in question.curves for fit in fit_curves(table, curve, question, optima, failed)]
    surfaces, unfitted = surfaces_of(table, question, optima)
    joint, unjoined = joints_of(table, question, lr=rate, loss=loss)
    comparisons, uncompared = comparisons_of(question, optima)
    if failed and not (optima or made or curves or surfaces or joint):
        raise failed[0]
    # Without a curve it may be about losses and rates alone.
    compared = bool(question.curves) or not (comparisons or uncompared)
    leverage = fit_leverages(table, question, optima, curves) if question.baseline and compared else ()
    warnings += [*map(str, failed), *unfitted, *unjoined, *uncompared]
    warnings += [warning for surface in surfaces for warning in _of(surface)]
    warnings += [warning for fit in joint for warning in _of(fit)]
    warnings += [warning for one in curves for warning in curve_doubts(table, one, question, optima)]
    warnings += [warning for fit in made if (warning := off_published(table, question, fit)) is not None]
    return FitReport(
        runs=len(table),
        rate=rate if optima else "",
        method=method,
        excluded=runs.reasons() if runs is not None else {},
        left_out=left_out(table, runs, by) if runs is not None else (),
        optima=optima,
        laws=tuple(made),
        curves=tuple(curves),
        leverage=leverage,
        dependence=dependences(table, optima, rate, question) if optima else (),
        comparisons=tuple(comparisons),
        seeds=seeds_of(table, question, optima, lr=rate, loss=loss),
        surfaces=tuple(surfaces),
        joint=tuple(joint),
        sensitivity=_sensitivity(runs, by, method, len(optima)) if question.sensitivity and runs is not None else (),
        published=_published(table, question, tuned=any(optimum.status != "too_few" for optimum in optima)),
        warnings=tuple(warnings),
    )


def _published(table: Table, question: Question, *, tuned: bool) -> tuple[PublishedTable, ...]:
    """The tables of the question's reference along its columns and on its arms."""
    if question.reference not in PAPERS:
        return ()
    arms = map(str, distinct(table, "arm")) if "arm" in table.columns else ()
    along = (sides_of(law)[1] for law in question.laws)
    figures = (*question.figures, *(["sensitivity"] if question.sensitivity else []))
    names = frozenset((*question.by, *question.per, *along, *arms, *figures))
    return tables_beside(PAPERS[question.reference], names, tuned=tuned)


def _sensitivity(runs: Losses, by: tuple[str, ...], method: Method, groups: int) -> tuple[Sensitivity, ...]:
    """As `fit_sensitivity`, with fewer subsets of each size where there are many groups."""
    return fit_sensitivity(runs, by, method, most=max(10, min(MOST, SUBSETS // max(groups, 1))))


def _of(fit: SurfaceFit | JointFit) -> list[str]:
    """The warnings of a fit, each with the setting that it is of."""
    return [str(named_error(fit.per, FitError(warning))) for warning in fit.warnings]


def _first_rate(table: Table, question: Question) -> str:
    sides = [sides_of(law)[0] for law in question.laws]
    return next((y for y in sides if y in RATES and y in table.columns), lr_column(table))
