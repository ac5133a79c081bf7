"""The laws of a table: power laws through optima or columns, what moves the optimum, and the published ones."""

from collections.abc import Callable

import numpy as np

from sweeper.analysis.optima import optima_along
from sweeper.analysis.question import named_error, rate_of
from sweeper.errors import FitError, TableError
from sweeper.fits.dependence import Dependence, fit_dependence
from sweeper.fits.losses import Key
from sweeper.fits.optimum import Optimum, members, settings
from sweeper.fits.power_law import PowerLawFit, Space, earns_its_place, fit_optimum_law, fit_power_law
from sweeper.laws.arrays import FloatArray
from sweeper.laws.power import REFERENCES, PowerLaw
from sweeper.spec import Question
from sweeper.table import Table, is_numeric, numbers, require, split
from sweeper.typed import did_you_mean

SPACES: tuple[Space, ...] = ("linear", "log")


def optimum_laws(
    table: Table, optima: tuple[Optimum, ...], rate: str, x: str, question: Question, failed: list[FitError]
) -> list[PowerLawFit]:
    """Both conventions for each setting of `per`; a setting that admits no law adds its error to `failed`."""
    require(table, x)
    made: list[PowerLawFit] = []
    for per in settings(optima, question.per):
        try:
            placed = optima_along(table, members(optima, per), x)

            def fit(
                space: Space,
                irreducible: bool,
                placed: tuple[Optimum, ...] = placed,
                per: dict[str, Key] = per,
            ) -> PowerLawFit:
                return fit_optimum_law(placed, x=x, space=space, irreducible=irreducible, y_name=rate, per=per)

            made += _in_both_spaces(fit, question.irreducible)
        except FitError as error:
            failed.append(named_error(per, error))
    return made


def column_laws(
    table: Table, y: str, x: str, question: Question, rate: str, failed: list[FitError]
) -> list[PowerLawFit]:
    """As `optimum_laws`, of two columns as they are."""
    if y not in table.columns and rate in table.columns:
        raise TableError(
            f"the table: no column {y!r}; {did_you_mean(y, map(str, table.columns))} "
            f"(the law of the optima is written '{rate} ~ {x}')"
        )
    made: list[PowerLawFit] = []
    for per, part in split(table, question.per):
        xs, ys = numbers(part, x), numbers(part, y)
        there = np.isfinite(xs) & np.isfinite(ys)

        def fit(
            space: Space,
            irreducible: bool,
            x_P: FloatArray = xs[there],
            y_P: FloatArray = ys[there],
            per: dict[str, Key] = per,
        ) -> PowerLawFit:
            return fit_power_law(x_P, y_P, space=space, irreducible=irreducible, x_name=x, y_name=y, per=per)

        try:
            made += _in_both_spaces(fit, question.irreducible)
        except FitError as error:
            failed.append(named_error(per, error))
    return made


def _in_both_spaces(fit: Callable[[Space, bool], PowerLawFit], irreducible: bool) -> list[PowerLawFit]:
    """The law in both conventions, each followed by the one with an irreducible part where leave-one-out prefers it."""
    made = []
    for space in SPACES:
        made.append(fit(space, False))
        if irreducible and made[-1].points > len(SPACES):
            offset = fit(space, True)
            made += [offset] if earns_its_place(offset, made[-1]) else []
    return made


def dependences(table: Table, optima: tuple[Optimum, ...], rate: str, question: Question) -> tuple[Dependence, ...]:
    """What moves the optimum along the numeric columns of `by`, for each setting of `per`.

    Published exponents are of the peak rate: those of the question's reference, else HyperP's, whose rule predictions
    transfer by.
    """
    covariates = tuple(name for name in question.by if is_numeric(table, name))
    base = rate == "lr" and "lr_peak" in table.columns
    reference = REFERENCES[question.reference or "hyperp"]
    published = {} if base else {axis: law.b for axis, law in reference.laws.items()}
    return tuple(
        row
        for per in settings(optima, question.per)
        for row in fit_dependence(members(optima, per), covariates, y_name=rate, per=per, published=published)
    )


def published_law(table: Table, question: Question, fit: PowerLawFit) -> tuple[str, PowerLaw] | None:
    """Name and law of the question's reference for a fitted law, if it has one: references are of the peak rate."""
    base = fit.y == "lr" and "lr_peak" in table.columns
    reference = REFERENCES.get(question.reference)
    if reference is None or base or rate_of(table, fit.y, fit.y) is None or fit.x not in reference.laws:
        return None
    return reference.title, reference.laws[fit.x]


def off_published(table: Table, question: Question, fit: PowerLawFit) -> str | None:
    published = published_law(table, question, fit)
    if published is None or fit.space != "log" or fit.b_low is None or fit.b_high is None:
        return None
    title, law = published
    if fit.b_low <= law.b <= fit.b_high:
        return None
    which = f" of {' '.join(map(str, fit.per.values()))}" if fit.per else ""
    return (
        f"the exponent {fit.b:.3f} ({fit.b_low:.3f} to {fit.b_high:.3f}){which} excludes {title}'s {law.b}; "
        f"transfer along {fit.x} with this one"
    )
