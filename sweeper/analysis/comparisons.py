"""Arms side by side: what a question's baseline is compared with, and what could not be compared."""

from sweeper.errors import FitError
from sweeper.fits.comparison import SEED, Comparison, SeedComparison, compare_arms, compare_seeds
from sweeper.fits.loss_curve import name_of
from sweeper.fits.losses import Key
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
    theirs = next(members(optima, s) for s in settings(optima, question.per) if name_of(s) == question.baseline)
    there = [_without(optimum, question.per) for optimum in theirs]
    warnings = []
    for setting in settings(optima, question.per):
        arm = name_of(setting)
        groups = len(members(optima, setting))
        compared = sum(row.arm == arm for row in rows)
        if arm == question.baseline or compared == groups:
            continue
        alone = [group for o in members(optima, setting) if (group := _without(o, question.per)) not in there]
        if alone:
            first = " ".join(f"{name} = {value}" for name, value in alone[0].items())
            warnings.append(
                f"{arm}: {len(alone)} of {groups} groups are not compared, as {question.baseline} has none with "
                f"{first}; run it there, or leave the column out of --by"
            )
        rest = groups - compared - len(alone)
        if rest > 0:
            warnings.append(
                f"{arm}: {rest} of {groups} groups are not compared with {question.baseline}, as one of "
                "the two has no optimum there; widen the learning rates or run the same groups"
            )
    return list(rows), warnings


def _without(optimum: Optimum, per: tuple[str, ...]) -> dict[str, Key]:
    """The group of an optimum without the columns that set arms apart."""
    return {name: value for name, value in optimum.group.items() if name not in per}


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
