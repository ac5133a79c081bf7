"""What is asked of a table: the columns that a question names, and what follows from them where it names none."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from sweeper.columns import STABILITY_COLUMNS, law_sides
from sweeper.errors import FitError
from sweeper.fits.losses import Key
from sweeper.spec import Question
from sweeper.table import Table, distinct, is_numeric, lr_column, numbers, require, split

RATES = ("lr", "lr_peak")
RESULTS = (
    "train_loss",
    "flops",
    "wall_time_s",
    "tokens_per_s",
    "attempts",
    "world_size",
    "stack",
    "device",
    "state",
    "seed",
    "steps",
    "params",
    "params_total",
    "lr",
    "lr_peak",
    "run_id",
    "run_name",
    "name",
    "source",
    "fingerprint",
    *STABILITY_COLUMNS,
)
"""Columns that follow from a run or name it: they mix nothing."""
FEW = 40
"""Values of a column that may set groups apart."""
SEEDS = 0.003
"""Scatter of losses at equal rates, over the loss, that seeds do not reach: HyperP's repeats agree to 0.0004."""
MANY = 200_000
"""Rows beyond which mixed columns are not looked for."""
SHAPE = ("width", "depth", "batch_tokens", "tokens", "top_k", "sparsity")
"""Axes that move the optimum: a group that mixes their values has no single one."""


def file_question(
    table: Table,
    *,
    by: tuple[str, ...] = (),
    per: tuple[str, ...] = (),
    laws: tuple[str, ...] = (),
    curves: tuple[str, ...] = (),
    surfaces: tuple[str, ...] = (),
    baseline: str = "",
    lr: str = "",
) -> Question:
    """The question to a table that has no sweep file: what was typed, and what follows from its columns.

    Without `by`, groups are formed by `tokens` where there is such a column. With neither a law, a curve nor a surface
    asked for, the law of the rate along the only numeric column of `by` is.
    """
    rate = lr or lr_column(table)
    if rate not in table.columns and not (laws or curves or surfaces):
        require(table, rate)
    chosen = by or (("tokens",) if rate in table.columns and "tokens" in table.columns else ())
    numeric = [name for name in chosen if name in table.columns and is_numeric(table, name)]
    if not (laws or curves or surfaces) and len(numeric) == 1 and len(distinct(table, numeric[0])) > 1:
        laws = (f"{rate} ~ {numeric[0]}",)
    return Question(by=chosen, per=per, laws=laws, curves=curves, surfaces=surfaces, baseline=baseline)


def of_rate(question: Question, lr: str) -> Question:
    """The question with its laws of `lr` or `lr_peak` asked of the one that is named; another name changes nothing."""
    if lr not in RATES:
        return question
    sides = [sides_of(law) for law in question.laws]
    return replace(question, laws=tuple(f"{lr if y in RATES else y} ~ {x}" for y, x in sides))


def sides_of(law: str) -> tuple[str, str]:
    """Left and right side of "y ~ x"."""
    try:
        return law_sides(law)
    except ValueError as error:
        raise FitError(str(error)) from error


def is_rate(y: str, rate: str) -> bool:
    return y in (*RATES, rate)


def rate_of(table: Table, y: str, rate: str) -> str | None:
    """The column of the learning rate that the left side of a law means; None where it means no rate.

    `lr_peak` in a table that has only a column `rate` means that one.
    """
    if not is_rate(y, rate):
        return None
    return y if y in table.columns else rate


def separate_arms(table: Table, question: Question) -> Question:
    """Arms are never mixed in a group or a curve, whether the question says so or not."""
    if "arm" not in table.columns or "arm" in (*question.per, *question.by) or len(distinct(table, "arm")) < 2:
        return question
    return replace(question, per=("arm", *question.per))


def mixed_shapes(table: Table, question: Question) -> tuple[str, ...]:
    known = {*question.by, *question.per}
    mixed = [name for name in SHAPE if name in table.columns and name not in known and len(distinct(table, name)) > 1]
    return tuple(
        f"{name} has {len(distinct(table, name))} values but does not set groups apart; add it with --by or choose one "
        f"with --where"
        for name in mixed
        if _varies_within_groups(table, name, (*question.per, *question.by))
    )


def mixed_groups(table: Table, question: Question, lr: str = "", loss: str = "loss") -> tuple[str, ...]:
    """Warnings of whatever keeps the groups of a question from having one optimum each."""
    question = separate_arms(table, question)
    return (*mixed_shapes(table, question), *mixed_columns(table, question, lr or lr_column(table), loss))


def mixed_columns(table: Table, question: Question, rate: str, loss: str) -> tuple[str, ...]:
    """A warning where groups mix runs of several sweeps, such as two optimisers, and have no single optimum.

    A column sets sweeps apart that takes few values, several of them in one group, each with three rates of its own,
    while losses at equal rates differ by more than seeds do.
    """
    by = tuple(name for name in (*question.per, *question.by) if name in table.columns)
    if rate not in table.columns or loss not in table.columns or len(table) > MANY:
        return ()
    losses = numbers(table, loss)
    finite = table[np.isfinite(losses)].reset_index(drop=True)
    if finite.empty:
        return ()
    scatter = _scatter(finite, (*by, rate), loss) / (abs(float(np.median(numbers(finite, loss)))) or 1.0)
    known = {*by, *SHAPE, *RESULTS, rate, loss}
    # Numbers may be seeds, which scatter a little; words are choices.
    names = [str(name) for name in finite.columns if str(name) not in known]
    names = [name for name in names if scatter > (SEEDS if is_numeric(finite, name) else SEEDS / 10)]
    few = [name for name in names if 2 <= len(distinct(finite, name)) <= FEW]
    found = [name for name in few if _sweeps_apart(finite, by, name, rate)]
    if not found:
        return ()
    also = f" (so do {', '.join(found[1:4])})" if len(found) > 1 else ""
    return (
        f"{found[0]} varies within groups and their losses with it{also}: such optima mix several sweeps; add it with "
        "--by or --per, or choose one with --where",
    )


def _scatter(table: Table, cells: tuple[str, ...], loss: str) -> float:
    """Root mean square of losses about the mean of their cell, over cells of two runs and more; 0 without any."""
    parts = [numbers(part, loss) for _, part in split(table, cells) if len(part) > 1]
    if not parts:
        return 0.0
    return float(np.sqrt(np.mean(np.concatenate([values - values.mean() for values in parts]) ** 2)))


def _sweeps_apart(table: Table, by: tuple[str, ...], name: str, rate: str) -> bool:
    """Whether some group holds two values of the column that each have three rates."""
    return any(
        sum(len(distinct(own, rate)) >= 3 for key, own in split(part, (name,)) if key) >= 2
        for _, part in split(table, by)
        if len(distinct(part, name)) > 1
    )


def _varies_within_groups(table: Table, name: str, by: tuple[str, ...]) -> bool:
    return any(len(distinct(part, name)) > 1 for _, part in split(table, by))


def named_error(per: Mapping[str, Key], error: FitError) -> FitError:
    return FitError(f"{', '.join(f'{name} {value}' for name, value in per.items())}: {error}") if per else error
