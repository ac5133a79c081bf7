"""What a table of results answers: the optima, laws, curves, leverage and predictions that a `Question` asks for."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from sweeper.errors import FitError, TableError
from sweeper.fits.loss_curve import Leverage, LossCurveFit, fit_leverage, fit_loss_curve
from sweeper.fits.losses import Key, Losses
from sweeper.fits.optimum import Method, Optimum, fit_lr_optima, members, settings
from sweeper.fits.power_law import PowerLawFit, Space, fit_optimum_law, fit_power_law
from sweeper.fits.prediction import LrPrediction, predict_lr
from sweeper.laws.arrays import FloatArray
from sweeper.laws.transfer import TOKEN_EXPONENT, Transfer
from sweeper.spec import Question
from sweeper.table import Table, distinct, is_numeric, losses, lr_column, numbers, require, split
from sweeper.typed import did_you_mean

SCHEMA_VERSION = 1
SPACES: tuple[Space, ...] = ("linear", "log")
RATES = ("lr", "lr_peak")
SHAPE = ("width", "depth", "batch_tokens", "tokens", "top_k", "sparsity")
"""Axes that move the optimum: a group that mixes their values has no single one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitReport:
    """Everything that `fit` prints; `asdict` of it is the object that `--json` prints."""

    schema_version: int = SCHEMA_VERSION
    runs: int
    """Rows of the table."""
    excluded: dict[str, int]
    """Runs left out of the optima, by reason."""
    optima: tuple[Optimum, ...]
    laws: tuple[PowerLawFit, ...]
    curves: tuple[LossCurveFit, ...]
    leverage: tuple[Leverage, ...]
    warnings: tuple[str, ...]


def file_question(
    table: Table,
    *,
    by: tuple[str, ...] = (),
    per: tuple[str, ...] = (),
    laws: tuple[str, ...] = (),
    curves: tuple[str, ...] = (),
    baseline: str = "",
    lr: str = "",
) -> Question:
    """The question to a table that has no sweep file: what was typed, and what follows from its columns.

    Without `by`, groups are formed by `tokens` where there is such a column. With neither a law nor a curve asked for,
    the law of the rate along the only numeric column of `by` is.
    """
    rate = lr or lr_column(table)
    if rate not in table.columns and not (laws or curves):
        require(table, rate)
    chosen = by or (("tokens",) if rate in table.columns and "tokens" in table.columns else ())
    numeric = [name for name in chosen if name in table.columns and is_numeric(table, name)]
    if not laws and not curves and len(numeric) == 1 and len(distinct(table, numeric[0])) > 1:
        laws = (f"{rate} ~ {numeric[0]}",)
    return Question(by=chosen, per=per, laws=laws, curves=curves, baseline=baseline)


def fit_question(
    table: Table, question: Question, *, method: Method = "linex", lr: str = "", loss: str = "loss"
) -> FitReport:
    """Answer a question with a table of results.

    A law whose left side is the learning rate goes through the optima of the groups; any other relates two columns.
    What cannot be fitted is a warning as long as something else can be shown.

    Args:
        table: One row per run.
        question: Groups, laws, curves and baseline.
        method: Of the optima.
        lr: Column of the rate; `lr_peak`, else `lr`, when empty.
        loss: Column of the loss.

    Raises:
        TableError: A column is missing, or there are no rows.
        FitError: Nothing that was asked for can be fitted.
    """
    if table.empty:
        raise TableError("the table has no runs; launch the sweep, or give a file with one row per run")
    question = _separate_arms(table, question)
    rate = lr or lr_column(table)
    runs, optima = optima_of(table, question, method=method, lr=rate, loss=loss)
    warnings = list(_mixed_shapes(table, question)) if runs is not None else []
    failed: list[FitError] = []
    made = [fit for law in question.laws for fit in _laws(table, law, question, optima, rate, failed)]
    curves = [fit for curve in question.curves for fit in _curves(table, curve, question, failed)]
    if failed and not (optima or made or curves):
        raise failed[0]
    leverage = _leverage(table, question, curves) if question.baseline else ()
    warnings += [str(error) for error in failed]
    through_optima = [fit for fit in made if _is_rate(fit.y, rate)] if optima else []
    warnings += [warning for fit in through_optima if (warning := _off_published(fit)) is not None]
    return FitReport(
        runs=len(table),
        excluded=runs.reasons() if runs is not None else {},
        optima=optima,
        laws=tuple(made),
        curves=tuple(curves),
        leverage=leverage,
        warnings=tuple(warnings),
    )


def optima_of(
    table: Table, question: Question, *, method: Method = "linex", lr: str = "", loss: str = "loss"
) -> tuple[Losses | None, tuple[Optimum, ...]]:
    """The runs as fits see them and the optimum of each group; nothing for a table of finished optima or of curves."""
    rate = lr or lr_column(table)
    wanted = any(_is_rate(_sides(law)[0], rate) for law in question.laws) or not (question.laws or question.curves)
    if not wanted and (rate not in table.columns or loss not in table.columns):
        return None, ()
    if rate not in table.columns and all(_sides(law)[0] in table.columns for law in question.laws):
        return None, ()
    by = tuple(dict.fromkeys((*question.per, *question.by)))
    runs = losses(table, by, lr=rate, loss=loss)
    return runs, fit_lr_optima(runs, by, method)


def predict_question(
    table: Table,
    question: Question,
    target: Mapping[str, float],
    *,
    transfer: Transfer,
    method: Method = "linex",
    lr: str = "",
    loss: str = "loss",
) -> tuple[LrPrediction, ...]:
    """The peak learning rate at a target, one prediction per combination of values of `question.per`.

    The law runs along the target axis among `question.by`; every other target axis is carried by the transfer rule.

    Raises:
        TableError: A column is missing, or there are no rows.
        FitError: No law can be had, or an axis cannot be transferred.
    """
    if table.empty:
        raise TableError("the table has no runs; launch the sweep, or give a file with one row per run")
    question = _separate_arms(table, question)
    for axis in target:
        require(table, axis)
    along = [name for name in question.by if is_numeric(table, name)]
    if len(along) != 1:
        raise FitError(
            f"a prediction needs a law along one axis, but groups are formed by {', '.join(question.by) or 'nothing'}; "
            "choose one with --by and the others with --where"
        )
    x = along[0]
    measured = {name: _single(table, name) for name in target if name != x and len(distinct(table, name)) == 1}
    rate = lr or lr_column(table)
    _, optima = optima_of(table, replace(question, laws=(), curves=()), method=method, lr=rate, loss=loss)
    _, observed = optima_of(table, replace(question, laws=(), curves=()), method="argmin", lr=rate, loss=loss)
    return tuple(
        predict_lr(
            members(optima, per),
            x=x,
            target=target,
            measured=measured,
            transfer=transfer,
            observed=members(observed, per),
            per=per,
        )
        for per in settings(optima, question.per)
    )


def curve_points(
    table: Table, x: str, y: str = "loss", per: tuple[str, ...] = ()
) -> tuple[tuple[dict[str, Key], FloatArray, FloatArray], ...]:
    """The lowest y at each x, per combination of `per`: (values of per, x ascending, y), diverged runs left out."""
    points = []
    for key, part in split(table, per):
        xs, ys = numbers(part, x), numbers(part, y)
        usable = np.isfinite(xs) & np.isfinite(ys)
        if "state" in part.columns:
            usable &= np.asarray(part["state"] != "diverged")
        budgets = np.unique(xs[usable])
        best = np.array([ys[usable & (xs == budget)].min() for budget in budgets], dtype=np.float64)
        points.append((key, budgets, best))
    return tuple(points)


def _laws(
    table: Table, law: str, question: Question, optima: tuple[Optimum, ...], rate: str, failed: list[FitError]
) -> list[PowerLawFit]:
    """Both conventions for each setting of `per`; a setting that admits no law adds its error to `failed`."""
    y, x = _sides(law)
    through_optima = _is_rate(y, rate) and bool(optima)
    if through_optima and x not in question.by:
        groups = ", ".join(question.by) or "nothing"
        raise FitError(f"the law {law!r} needs one optimum per {x}, but groups are formed by {groups}; add --by {x}")
    made: list[PowerLawFit] = []
    if through_optima:
        for per in settings(optima, question.per):
            group = members(optima, per)
            try:
                made += [fit_optimum_law(group, x=x, space=space, y_name=y, per=per) for space in SPACES]
            except FitError as error:
                failed.append(_of(per, error))
        return made
    for per, part in split(table, question.per):
        xs, ys = numbers(part, x), numbers(part, y)
        there = np.isfinite(xs) & np.isfinite(ys)
        try:
            made += [fit_power_law(xs[there], ys[there], space=space, x_name=x, y_name=y, per=per) for space in SPACES]
        except FitError as error:
            failed.append(_of(per, error))
    return made


def _curves(table: Table, curve: str, question: Question, failed: list[FitError]) -> list[LossCurveFit]:
    y, x = _sides(curve)
    made = []
    for per, C, L in curve_points(table, x, y, question.per):
        try:
            made.append(fit_loss_curve(C, L, per=per, x_name=x, y_name=y))
        except FitError as error:
            failed.append(_of(per, error))
    return made


def _of(per: Mapping[str, Key], error: FitError) -> FitError:
    return FitError(f"{', '.join(f'{name} {value}' for name, value in per.items())}: {error}") if per else error


def _leverage(table: Table, question: Question, curves: list[LossCurveFit]) -> tuple[Leverage, ...]:
    arms = {curve.arm: curve for curve in curves}
    if question.baseline not in arms:
        raise FitError(f"no curve of the baseline {question.baseline!r}; {did_you_mean(question.baseline, arms)}")
    y, x = _sides(question.curves[0])
    points = {tuple(per.values()): (C, L) for per, C, L in curve_points(table, x, y, question.per)}
    baseline = arms[question.baseline]
    return tuple(
        row
        for curve in curves
        if (curve.x, curve.y) == (x, y) and curve is not baseline
        for row in fit_leverage(
            curve,
            baseline,
            new_points=points[tuple(curve.per.values())],
            baseline_points=points[tuple(baseline.per.values())],
        )
    )


def _sides(law: str) -> tuple[str, str]:
    """Left and right side of "y ~ x"."""
    sides = [side.strip() for side in law.split("~")]
    if len(sides) != 2 or not all(side.replace(".", "_").replace(" ", "_").isidentifier() for side in sides):
        raise FitError(f"cannot read the law {law!r}; write two columns, such as 'lr_peak ~ tokens'")
    return sides[0], sides[1]


def _is_rate(y: str, rate: str) -> bool:
    return y in (*RATES, rate)


def _separate_arms(table: Table, question: Question) -> Question:
    """Arms are never mixed in a group or a curve, whether the question says so or not."""
    if "arm" not in table.columns or "arm" in (*question.per, *question.by) or len(distinct(table, "arm")) < 2:
        return question
    return replace(question, per=("arm", *question.per))


def _single(table: Table, name: str) -> float:
    value = distinct(table, name)[0]
    if isinstance(value, str):
        raise FitError(f"the column {name!r} holds text such as {value!r}; a target needs numbers")
    return float(value)


def _mixed_shapes(table: Table, question: Question) -> tuple[str, ...]:
    known = {*question.by, *question.per}
    mixed = [name for name in SHAPE if name in table.columns and name not in known and len(distinct(table, name)) > 1]
    return tuple(
        f"{name} has {len(distinct(table, name))} values but does not set groups apart; add it with --by or choose one "
        f"with --where"
        for name in mixed
        if _varies_within_groups(table, name, (*question.per, *question.by))
    )


def _varies_within_groups(table: Table, name: str, by: tuple[str, ...]) -> bool:
    return any(len(distinct(part, name)) > 1 for _, part in split(table, by))


def _off_published(fit: PowerLawFit) -> str | None:
    if fit.x != "tokens" or fit.space != "log":
        return None
    if fit.b_low is None or fit.b_high is None or fit.b_low <= TOKEN_EXPONENT <= fit.b_high:
        return None
    which = f" of {' '.join(map(str, fit.per.values()))}" if fit.per else ""
    return (
        f"the exponent {fit.b:.3f} ({fit.b_low:.3f} to {fit.b_high:.3f}){which} excludes HyperP's {TOKEN_EXPONENT}; "
        "transfer along tokens with this one"
    )
