"""What a table of results answers: the optima, laws, curves, leverage and predictions that a `Question` asks for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from model.shape import model_shape
from sweeper.columns import law_sides
from sweeper.errors import FitError, TableError
from sweeper.fits.loss_curve import CONSTANTS, Leverage, LossCurveFit, fit_leverage, fit_loss_curve, name_of
from sweeper.fits.losses import BoolArray, Key, Losses, plain
from sweeper.fits.optimum import Method, Optimum, fit_lr_optima, members, settings
from sweeper.fits.power_law import PowerLawFit, Space, fit_optimum_law, fit_power_law
from sweeper.fits.prediction import LrPrediction, predict_lr
from sweeper.laws.arrays import FloatArray
from sweeper.laws.power import REFERENCES, PowerLaw
from sweeper.laws.transfer import Transfer, rates
from sweeper.spec import Question, RunSpec
from sweeper.table import Table, distinct, is_numeric, losses, lr_column, not_numbers, numbers, require, split
from sweeper.typed import did_you_mean

SCHEMA_VERSION = 1
SPACES: tuple[Space, ...] = ("linear", "log")
RATES = ("lr", "lr_peak")
SHOWN = 3
"""Rows of a kind that warnings name one by one."""
SHAPE = ("width", "depth", "batch_tokens", "tokens", "top_k", "sparsity")
"""Axes that move the optimum: a group that mixes their values has no single one."""


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


def of_rate(question: Question, lr: str) -> Question:
    """The question with its laws of `lr` or `lr_peak` asked of the one that is named; another name changes nothing."""
    if lr not in RATES:
        return question
    sides = [_sides(law) for law in question.laws]
    return replace(question, laws=tuple(f"{lr if y in RATES else y} ~ {x}" for y, x in sides))


def fit_question(
    table: Table,
    question: Question,
    *,
    method: Method = "linex",
    lr: str = "",
    loss: str = "loss",
    title: str = "the table",
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

    Raises:
        TableError: A column is missing, or there are no rows.
        FitError: Nothing that was asked for can be fitted.
    """
    if table.empty:
        raise TableError("the table has no runs; launch the sweep, or give a file with one row per run")
    question = _separate_arms(table, question)
    rate = lr or _first_rate(table, question)
    runs, optima = optima_of(table, question, method=method, lr=rate, loss=loss)
    warnings = list(_mixed_shapes(table, question)) if runs is not None else []
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
        y, x = _sides(law)
        column = _rate_of(table, y, rate)
        if column is None or runs is None:
            made += _column_laws(table, y, x, question, rate, failed)
            continue
        if column not in optima_by_rate:
            optima_by_rate[column] = optima_of(table, question, method=method, lr=column, loss=loss)[1]
        made += _optimum_laws(table, optima_by_rate[column], column, x, question, failed)
    curves = [fit for curve in question.curves for fit in _curves(table, curve, question, optima, failed)]
    if failed and not (optima or made or curves):
        raise failed[0]
    leverage = _leverage(table, question, optima, curves) if question.baseline else ()
    warnings += [str(error) for error in failed]
    warnings += [warning for fit in curves for warning in _doubts(table, fit, question, optima)]
    warnings += [warning for fit in made if (warning := _off_published(table, question, fit)) is not None]
    return FitReport(
        runs=len(table),
        rate=rate if optima else "",
        method=method,
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
    if rate not in table.columns and question.laws and all(_sides(law)[0] in table.columns for law in question.laws):
        return None, ()
    by = tuple(dict.fromkeys((*question.per, *question.by)))
    runs = losses(table, by, lr=rate, loss=loss)
    return runs, fit_lr_optima(runs, by, method)


def predict_question(
    table: Table,
    question: Question,
    target: Mapping[str, float],
    *,
    specs: Sequence[RunSpec] = (),
    method: Method = "linex",
    lr: str = "",
    loss: str = "loss",
) -> tuple[LrPrediction, ...]:
    """The peak learning rate at a target, one prediction per combination of values of `question.per`.

    The law runs along the one numeric axis of `question.by`, or, where there are several, along the column that the
    question's law of the rate names, such as `params` over groups by width and depth. Every target axis that groups are
    not formed by is carried by the transfer rule that the runs of the prediction themselves follow.

    Args:
        target: Columns with their values. The `params` of a law along it may be left out where `specs` can tell them
            from a width or a depth.
        specs: The cells of the sweep, which know their transfer rule and shape; none for a file, where HyperP's rule
            applies.

    Raises:
        TableError: A column is missing, or there are no rows.
        FitError: No law can be had, or an axis cannot be transferred.
    """
    if table.empty:
        raise TableError("the table has no runs; launch the sweep, or give a file with one row per run")
    rate = lr or lr_column(table)
    if specs and rate != "lr_peak":
        raise FitError(f"a sweep's prediction is of lr_peak and shows the base rate beside it; leave out --lr {rate}")
    question = _separate_arms(table, question)
    for axis in target:
        require(table, axis)
    x = _law_axis(table, question, rate)
    bare = replace(question, laws=(), curves=())
    _, optima = optima_of(table, bare, method=method, lr=rate, loss=loss)
    _, observed = optima_of(table, bare, method="argmin", lr=rate, loss=loss)
    if not optima:
        raise FitError(f"none of the {len(table)} runs has a value of {' and '.join(question.by)}")
    rows = {tuple(per.values()): part for per, part in split(table, question.per)}
    return tuple(
        _predict(
            rows[tuple(per.values())],
            question,
            target,
            x=x,
            optima=members(optima, per),
            observed=members(observed, per),
            specs=specs,
            per=per,
        )
        for per in settings(optima, question.per)
    )


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


def published_law(table: Table, question: Question, fit: PowerLawFit) -> tuple[str, PowerLaw] | None:
    """Name and law of the question's reference for a fitted law, if it has one: references are of the peak rate."""
    base = fit.y == "lr" and "lr_peak" in table.columns
    reference = REFERENCES.get(question.reference)
    if reference is None or base or _rate_of(table, fit.y, fit.y) is None or fit.x not in reference.laws:
        return None
    return reference.title, reference.laws[fit.x]


def curve_points(
    table: Table, x: str, y: str = "loss", per: tuple[str, ...] = (), optima: tuple[Optimum, ...] = ()
) -> tuple[CurvePoints, ...]:
    """The lowest y at each x, per combination of `per`, diverged runs left out.

    Args:
        optima: Of the same table; they tell which budgets are settled, all when there are none.
    """
    points = []
    table = table.reset_index(drop=True)
    settled = _rows_with_optimum(table, optima)
    for key, part in split(table, per):
        xs, ys = numbers(part, x), numbers(part, y)
        usable = np.isfinite(xs) & np.isfinite(ys)
        if "state" in part.columns:
            usable &= np.asarray(part["state"] != "diverged")
        budgets = np.unique(xs[usable])
        best = np.array([np.argmin(np.where(usable & (xs == budget), ys, np.inf)) for budget in budgets], dtype=np.intp)
        rows = np.asarray(part.index, dtype=np.intp)[best]
        points.append(CurvePoints(per=key, x=budgets, y=ys[best], settled=settled[rows]))
    return tuple(points)


def _rows_with_optimum(table: Table, optima: tuple[Optimum, ...]) -> BoolArray:
    """Which rows belong to no group whose optimum lies at an edge of its grid or nowhere, shape (runs,)."""
    settled = np.ones(len(table), dtype=np.bool_)
    unknown = {tuple(o.group.values()) for o in optima if o.status in ("edge_low", "edge_high", "no_minimum")}
    if unknown:
        for key, part in split(table, tuple(optima[0].group)):
            settled[np.asarray(part.index, dtype=np.intp)] = tuple(key.values()) not in unknown
    return settled


def _optimum_laws(
    table: Table, optima: tuple[Optimum, ...], rate: str, x: str, question: Question, failed: list[FitError]
) -> list[PowerLawFit]:
    """Both conventions for each setting of `per`; a setting that admits no law adds its error to `failed`."""
    require(table, x)
    made: list[PowerLawFit] = []
    for per in settings(optima, question.per):
        try:
            placed = optima_along(table, members(optima, per), x)
            made += [fit_optimum_law(placed, x=x, space=space, y_name=rate, per=per) for space in SPACES]
        except FitError as error:
            failed.append(_of(per, error))
    return made


def _column_laws(
    table: Table, y: str, x: str, question: Question, rate: str, failed: list[FitError]
) -> list[PowerLawFit]:
    """As `_optimum_laws`, of two columns as they are."""
    if y not in table.columns and rate in table.columns:
        raise TableError(
            f"the table: no column {y!r}; {did_you_mean(y, map(str, table.columns))} "
            f"(the law of the optima is written '{rate} ~ {x}')"
        )
    made: list[PowerLawFit] = []
    for per, part in split(table, question.per):
        xs, ys = numbers(part, x), numbers(part, y)
        there = np.isfinite(xs) & np.isfinite(ys)
        try:
            made += [fit_power_law(xs[there], ys[there], space=space, x_name=x, y_name=y, per=per) for space in SPACES]
        except FitError as error:
            failed.append(_of(per, error))
    return made


def _curves(
    table: Table, curve: str, question: Question, optima: tuple[Optimum, ...], failed: list[FitError]
) -> list[LossCurveFit]:
    y, x = _sides(curve)
    made = []
    for points in curve_points(table, x, y, question.per, optima):
        try:
            made.append(fit_loss_curve(*points.fitted, per=points.per, x_name=x, y_name=y))
        except FitError as error:
            left = int((~points.settled).sum())
            why = f" ({left} left out: the best rate at an edge of its grid, or no minimum)" if left else ""
            failed.append(_of(points.per, FitError(f"{error}{why}")))
    return made


def _doubts(table: Table, fit: LossCurveFit, question: Question, optima: tuple[Optimum, ...]) -> list[str]:
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
    if fit.E == 0:
        found.append(f"{curve} puts E at its bound 0, so that b is a pure power law's; add budgets to separate the two")
    if fit.loo_error is not None and fit.loo_error > 1:
        found.append(f"{curve} misses a point that it has not seen by more than the loss itself: do not extrapolate it")
    return found


def _of(per: Mapping[str, Key], error: FitError) -> FitError:
    return FitError(f"{', '.join(f'{name} {value}' for name, value in per.items())}: {error}") if per else error


def _leverage(
    table: Table, question: Question, optima: tuple[Optimum, ...], curves: list[LossCurveFit]
) -> tuple[Leverage, ...]:
    """Along the first curve of the question; none where the baseline's own cannot be fitted, which a warning says."""
    if not question.curves:
        raise FitError(f"leverage over {question.baseline!r} needs a curve; add --curve 'loss ~ flops'")
    y, x = _sides(question.curves[0])
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


def _law_axis(table: Table, question: Question, rate: str) -> str:
    """The column that a prediction's law runs along."""
    numeric = [name for name in question.by if is_numeric(table, name)]
    if len(numeric) == 1:
        return numeric[0]
    named = [x for y, x in map(_sides, question.laws) if _is_rate(y, rate) and x not in numeric]
    if named:
        require(table, named[0])
        return named[0]
    raise FitError(
        f"a prediction needs a law along one axis, but groups are formed by {', '.join(question.by) or 'nothing'}; "
        f"choose one with --by and the others with --where, or name a column they agree on: --law '{rate} ~ params'"
    )


def _with_params(target: Mapping[str, float], specs: Sequence[RunSpec]) -> dict[str, float]:
    """The target with the parameters of the runs' own model at its width and depth.

    Raises:
        FitError: Neither is given, no sweep knows the model, it does not fit together, or its runs differ otherwise.
    """
    asked = {name: round(target[name]) for name in ("width", "depth") if name in target}
    specs = [spec for spec in specs if spec.trainer.models]  # a command's own model is unknown
    if not specs or not asked:
        among = " (or --width and --depth)" if specs else ""
        raise FitError(f"the law is fitted along params; say which params to predict for: --params 1e9{among}")
    try:
        counts = {
            model_shape(
                replace(model, width=asked.get("width", model.width), depth=asked.get("depth", model.depth))
            ).params
            for model in (spec.train.model for spec in specs)
        }
    except ValueError as error:
        shape = ", ".join(f"{name} {value}" for name, value in asked.items())
        raise FitError(f"the sweep's model has no {shape} ({error}); give another, or --params") from error
    if len(counts) > 1:
        others = [name for name in ("width", "depth") if name not in asked] or ["params"]
        raise FitError(
            f"the runs' models have {len(counts)} counts of params at the target ({min(counts)} to {max(counts)}); "
            f"give --{' and --'.join(others)} too"
        )
    return {**target, "params": float(counts.pop())}


def _predict(
    table: Table,
    question: Question,
    target: Mapping[str, float],
    *,
    x: str,
    optima: tuple[Optimum, ...],
    observed: tuple[Optimum, ...],
    specs: Sequence[RunSpec],
    per: dict[str, Key],
) -> LrPrediction:
    """The prediction of one setting of `per`, whose runs are the rows of the table."""
    cells = {*zip(table["arm"], table["run_id"], strict=True)} if specs else set()
    own = [spec for spec in specs if (spec.arm, spec.run_id) in cells]
    measured = {name: _single(table, name) for name in target if name != x and len(distinct(table, name)) == 1}
    try:
        if x == "params" and x not in target:
            target = _with_params(target, own)
        prediction = predict_lr(
            optima_along(table, optima, x),
            x=x,
            # The law contains the axes that its groups are formed by: they have no factor of their own.
            target={name: value for name, value in target.items() if name == x or name not in question.by},
            measured=measured,
            transfer=_rule(own),
            observed=optima_along(table, observed, x),
            per=per,
        )
    except FitError as error:
        raise _of(per, error) from error
    return replace(
        prediction,
        target={name: plain(value) for name, value in target.items()},
        lr_base=_base_rate(prediction.lr, own, target),
        warnings=(*prediction.warnings, *_mixed_shapes(table, question)),
    )


def _rule(specs: Sequence[RunSpec]) -> Transfer:
    rules = tuple(dict.fromkeys(spec.transfer for spec in specs))
    if len(rules) > 1:
        raise FitError(
            f"the runs follow {len(rules)} transfer rules ({', '.join(sorted({rule.rule for rule in rules}))}), and "
            "none carries all of them; set them apart with --per or choose with --where"
        )
    return rules[0] if rules else Transfer()


def _base_rate(peak: float, specs: Sequence[RunSpec], target: Mapping[str, float]) -> float | None:
    """The base rate η₀ whose peak at the target is `peak`; None where runs of several shapes disagree about it."""
    factors = {
        rates(
            spec.transfer,
            lr=1.0,
            depth=round(target.get("depth", spec.train.model.depth)),
            tokens=target.get("tokens", spec.train.tokens),
            batch_tokens=target.get("batch_tokens", spec.train.batch_tokens),
        ).hidden
        for spec in specs
    }
    if not factors or max(factors) > min(factors) * (1 + 1e-9):
        return None
    return peak / min(factors)


def _sides(law: str) -> tuple[str, str]:
    """Left and right side of "y ~ x"."""
    try:
        return law_sides(law)
    except ValueError as error:
        raise FitError(str(error)) from error


def _is_rate(y: str, rate: str) -> bool:
    return y in (*RATES, rate)


def _rate_of(table: Table, y: str, rate: str) -> str | None:
    """The column of the learning rate that the left side of a law means; None where it means no rate.

    `lr_peak` in a table that has only a column `rate` means that one.
    """
    if not _is_rate(y, rate):
        return None
    return y if y in table.columns else rate


def _first_rate(table: Table, question: Question) -> str:
    sides = [_sides(law)[0] for law in question.laws]
    return next((y for y in sides if y in RATES and y in table.columns), lr_column(table))


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


def _off_published(table: Table, question: Question, fit: PowerLawFit) -> str | None:
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
