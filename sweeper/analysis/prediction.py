"""The learning rate of a run that was never made, from a table, the question to it and the cells of its sweep."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from model.shape import model_shape
from sweeper.analysis.optima import optima_along, optima_of
from sweeper.analysis.question import is_rate, mixed_shapes, named_error, separate_arms, sides_of
from sweeper.errors import FitError, TableError
from sweeper.fits.dependence import carried
from sweeper.fits.losses import Key, plain
from sweeper.fits.optimum import Method, Optimum, members, settings
from sweeper.fits.power_law import fit_power_law
from sweeper.fits.prediction import LrPrediction, predict_lr
from sweeper.laws.transfer import Transfer, rates
from sweeper.spec import Question, RunSpec
from sweeper.table import Table, distinct, is_numeric, lr_column, numbers, require, split


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

    The law runs along the one numeric axis of `question.by`. Where there are several, it runs along the column that the
    question's law of the rate names, such as `params` over groups by width and depth, or else along the axis that
    reaches furthest, the optima carried along the others by the exponents of the runs themselves. Every target axis
    that groups are not formed by is carried by the transfer rule that the runs of the prediction themselves follow.

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
    question = separate_arms(table, question)
    for axis in target:
        require(table, axis)
    x = _law_axis(table, question, rate, target)
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


def _axes(table: Table, question: Question) -> list[str]:
    return [name for name in question.by if is_numeric(table, name)]


def _beyond(table: Table, name: str, at: float) -> float:
    """How many times beyond the values of a column a target lies; less than 1 inside them."""
    values = [float(value) for value in distinct(table, name)]
    return max(at / max(values), min(values) / at) if at > 0 else 1.0


def _law_axis(table: Table, question: Question, rate: str, target: Mapping[str, float]) -> str:
    """The column that a prediction's law runs along."""
    numeric = _axes(table, question)
    if len(numeric) == 1:
        return numeric[0]
    named = [x for y, x in map(sides_of, question.laws) if is_rate(y, rate) and x not in numeric]
    if named:
        require(table, named[0])
        return named[0]
    varied = [name for name in numeric if len(distinct(table, name)) > 1]
    if varied:  # along the one that reaches furthest; the runs say how the optimum moves along the others
        missing = [name for name in varied if name not in target]
        if missing:
            raise FitError(
                f"the optimum is measured along {', '.join(varied)}; say which {' and '.join(missing)} to predict for "
                f"(--at {missing[0]}=…), choose one with --where, or name a column they share: --law '{rate} ~ params'"
            )
        return max(varied, key=lambda name: _beyond(table, name, target[name]))
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
        own_optima, own_observed = optima_along(table, optima, x), optima_along(table, observed, x)
        beside = {name: target[name] for name in _axes(table, question) if name != x and name in target}
        exponents: dict[str, float] = {}
        carried_sd = 0.0
        if beside and x in question.by:
            own_optima, exponents, carried_sd = carried(own_optima, x, {x: target[x], **beside})
            own_observed = carried(own_observed, x, {x: target[x], **beside})[0]
        prediction = predict_lr(
            own_optima,
            x=x,
            # The law contains the axes that its groups are formed by: they have no factor of their own.
            target={name: value for name, value in target.items() if name == x or name not in question.by},
            measured=measured,
            transfer=_rule(own),
            observed=own_observed,
            per=per,
            flops=None if exponents else _cost(table, x),
            carried_sd=carried_sd,
        )
    except FitError as error:
        raise named_error(per, error) from error
    return replace(
        prediction,
        target={name: plain(value) for name, value in target.items()},
        exponents=exponents,
        next_runs=() if exponents else prediction.next_runs,
        lr_base=_base_rate(prediction.lr, own, target),
        warnings=(*prediction.warnings, *mixed_shapes(table, question)),
    )


def _cost(table: Table, x: str) -> Callable[[float], float] | None:
    """FLOPs of one run along x, by a power law through the runs; None where the table does not tell."""
    if "flops" not in table.columns or len(distinct(table, x)) < 2:
        return None
    xs, flops = numbers(table, x), numbers(table, "flops")
    known = np.isfinite(xs) & np.isfinite(flops) & (xs > 0) & (flops > 0)
    if len(np.unique(xs[known])) < 2:
        return None
    return fit_power_law(xs[known], flops[known]).law.at


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


def _single(table: Table, name: str) -> float:
    value = distinct(table, name)[0]
    if isinstance(value, str):
        raise FitError(f"the column {name!r} holds text such as {value!r}; a target needs numbers")
    return float(value)
