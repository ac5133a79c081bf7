"""Arms side by side: what a question's baseline is compared with, and what could not be compared."""

from sweeper.errors import FitError
from sweeper.fits.comparison import SEED, Comparison, SeedComparison, compare_arms, compare_seeds
from sweeper.fits.loss_curve import name_of
from sweeper.fits.optimum import Optimum, members, settings
from sweeper.spec import Question
from sweeper.table import Table, distinct, losses


def comparisons_of(question: Question, optima: tuple[Optimum, ...]) -> tuple[list[Comparison], list[str]]:
    """Each arm against the baseline in every group, and which groups could not be compared.

    A question without a baseline, or whose arms nothing sets apart, asks for none.

    Raises:
        FitError: None of the arms is the baseline.
    """
    if not (question.baseline and question.per and optima):
        return [], []
    rows = compare_arms(optima, per=question.per, baseline=question.baseline)
    warnings = []
    for setting in settings(optima, question.per):
        arm = name_of(setting)
        groups = len(members(optima, setting))
        compared = sum(row.arm == arm for row in rows)
        if arm != question.baseline and compared < groups:
            warnings.append(
                f"{arm}: {groups - compared} of {groups} groups are not compared with {question.baseline}, as one of "
                "the two has no optimum there; widen the learning rates or run the same groups"
            )
    return list(rows), warnings


def seeds_of(
    table: Table, question: Question, optima: tuple[Optimum, ...], *, lr: str, loss: str
) -> tuple[SeedComparison, ...]:
    """Each arm against the baseline over shared seeds, where runs were repeated with several."""
    by = tuple(dict.fromkeys((*question.per, *question.by)))
    if not (question.baseline and question.per and optima) or SEED in by or SEED not in table.columns:
        return ()
    if len(distinct(table, SEED)) < 2:
        return ()
    runs = losses(table, (*by, SEED), lr=lr, loss=loss)
    try:
        return compare_seeds(runs, optima, by=by, per=question.per, baseline=question.baseline)
    except FitError:  # no seed alone has enough rates
        return ()
