"""The learning rate of a run that was never made: a fitted law, transfer factors for the rest, and its reach.

What should temper trust in it comes along: an interval in which the law may scatter and bend and the transfer rule may
be off, the spread over forms of the law, the loss that missing the optimum is expected to cost, how far the target lies
beyond the data, and which runs would narrow the interval most.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from sweeper.errors import FitError
from sweeper.fits.design import OCTAVE, START
from sweeper.fits.extrapolation import UNKNOWN_SD, Extrapolation, extrapolate
from sweeper.fits.losses import Key
from sweeper.fits.optimum import Optimum
from sweeper.fits.power_law import earns_its_place, fit_optimum_law
from sweeper.laws.arrays import FloatArray
from sweeper.laws.transfer import Transfer, batch_factor, depth_factor, token_factor

WIDE, UNKNOWN = 1.5, 6.0
"""Half widths of an interval, octaves, beyond which a prediction warns, and beyond which it is none."""
FAR = 8.0
"""Extrapolation beyond which a prediction warns."""
EXPONENT_SD: Mapping[str, float] = {"tokens": 0.1, "batch_tokens": 0.06, "depth": 0.1}
"""What a transfer factor's exponent may be off by. Tokens: −0.32 (HyperP), −0.18 and −0.24 (public MuonH and Muon
sweeps); batch: 0.5 by the rule, 0.558 fitted (HyperP table 8); depth: optima of HyperP's table 6, with the rule, still
move as d^0.08 to d^0.16 (arXiv 2603.28743)."""
OTHER_SD = 0.05
"""The same for axes that move nothing by the rule, such as width (HyperP theorem 2)."""
UNRULED_SD = 0.3
"""The same where a rule leaves out tokens, batch or depth: fitted exponents lie between −0.7 and 0.6."""
NEXT_RUNS = 4
"""Runs that the adaptive design needs for one more optimum."""
BEYOND = 2.0
"""Factor between budgets that are proposed."""
SHOWN = 3
"""Proposals of next runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NextRuns:
    """One more optimum, and what it is expected to do for a prediction."""

    x: str
    value: Key
    """Where along the law's axis."""
    lrs: tuple[float, ...]
    """The first three rates of the adaptive design; `suggest` chooses the fourth from their losses."""
    half_width: float
    """Of the prediction's interval with it, octaves."""
    flops: float | None
    """What its four runs cost; None where the table has no FLOPs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LrPrediction:
    """A peak learning rate with everything that should temper trust in it."""

    target: dict[str, Key]
    per: dict[str, Key]
    lr: float
    """Peak rate of the hidden matrices (`lr_peak`): the median of `fits.extrapolation` times the factors."""
    lr_low: float | None
    """90 % interval of the optimum at the target: errors and scatter of the optima, bend of the law, and what the
    exponents of the transfer rule may be off by."""
    lr_high: float | None
    half_width: float
    """Half the interval, octaves."""
    forms: dict[str, float]
    """The rate by each form of the law: `bend`, which is `lr`; the plain laws `log`, `linear`, `irreducible` (linear
    with a constant, where leave-one-out prefers it) and `argmin` (through the best observed rates)."""
    spread: float
    """Largest over smallest of the forms, minus 1."""
    regret: float | None
    """Loss that missing the optimum is expected to cost at `lr`, nats per token; None without a fitted curve."""
    lr_least_regret: float | None
    """The rate at which that expectation is least: a little below `lr`, since losses rise faster above the optimum."""
    x: str
    """Axis of the law; empty where no law could be fitted and the only optimum was transferred."""
    extrapolation: float
    """How many times beyond the measured range the target lies: 1 inside it."""
    factors: dict[str, float]
    """Transfer factor of each axis that the fit does not contain."""
    rule: str
    """Transfer rule of those factors."""
    warnings: tuple[str, ...]
    next_runs: tuple[NextRuns, ...] = ()
    """What would narrow the interval most, best first."""
    exponents: dict[str, float] = field(default_factory=dict)
    """Of the axes beside `x` along which the runs themselves say how the optimum moves."""
    lr_base: float | None = None
    """Base rate η₀ that the sweep's own transfer rule turns into `lr` at the target; None without a sweep, or where its
    runs have several shapes."""


def predict_lr(
    optima: tuple[Optimum, ...],
    *,
    x: str,
    target: Mapping[str, float],
    measured: Mapping[str, float],
    transfer: Transfer,
    observed: tuple[Optimum, ...] = (),
    per: Mapping[str, Key] | None = None,
    flops: Callable[[float], float] | None = None,
    carried_sd: float = 0.0,
) -> LrPrediction:
    """The peak learning rate at a target, from optima along one axis.

    Transfer factors multiply only for axes that the fit does not contain (else T^−0.32 would count twice), and only
    where the rule has them: depth √(d/d′), batch √(B′/B), tokens (T′/T)^−0.32; HyperP has none for width.

    Args:
        optima: One per value of `x`.
        x: Column of the fitted law.
        target: Value of every axis that is asked for, `x` among them.
        measured: The one value that each other axis has in the runs.
        transfer: Rule and switches of these runs.
        observed: Optima by `argmin` of the same groups, for the spread over forms.
        per: What sets these optima apart.
        flops: Cost of one run at a value of `x`, for the proposals.
        carried_sd: Standard error of ln η* that carrying the optima to the target's other axes has brought already.

    Raises:
        FitError: No settled optimum, no target for `x`, or a target for an axis without one measured value.
    """
    if x not in target:
        raise FitError(f"the law is fitted along {x}; say which {x} to predict for")
    for axis, value in target.items():
        if not (math.isfinite(value) and value > 0):
            raise FitError(f"the target {axis} must be a positive number, got {value:g}")
    factors = {axis: _factor(axis, measured, value, transfer) for axis, value in target.items() if axis != x}
    settled = [optimum for optimum in optima if optimum.settled and optimum.lr is not None]
    if not settled:
        raise FitError("no group has an optimum inside its grid; widen the learning rates and run again")
    values = [float(optimum.group[x]) for optimum in settled]
    reach = max(1.0, target[x] / max(values), min(values) / target[x])
    warnings = _warnings(reach, factors, target, measured, transfer, x)
    alone = len(set(values)) == 1
    if alone:
        factors |= {x: _factor(x, {x: values[0]}, target[x], transfer)}
        measured = {**measured, x: values[0]}
        warnings = (f"only one {x} has an optimum, so its law is the transfer rule's, not measured", *warnings)
    scale = math.prod(factors.values())
    try:
        found = _mean_of(settled) if alone else _at(settled, x, target[x])
        forms = {"transfer": math.exp(found.mean)} if alone else _forms(optima, observed, x, target[x])
    except OverflowError as error:
        raise FitError(
            f"{x} = {target[x]:.3g} is beyond what floats can follow; give a target nearer to the runs"
        ) from error
    widened = _widened(found, math.hypot(_rule_sd(factors, target, measured), carried_sd))
    ends = widened.interval()
    half = (ends[1] - ends[0]) / (2 * OCTAVE)
    if half > UNKNOWN:
        raise FitError(
            f"the data do not determine a learning rate at {x} = {target[x]:.3g}: its 90 % interval spans ±{half:.3g} "
            f"octaves ({len(settled)} of {len(optima)} groups have an optimum); add runs, or give a nearer target"
        )
    if half > WIDE:
        warnings = (*warnings, f"the data hardly determine this rate: its interval spans ±{half:.1f} octaves")
    low, high = (math.exp(end) * scale for end in ends)
    middle = math.exp(widened.quantile(0.5)) * scale
    if not alone:
        forms = {"bend": math.exp(widened.quantile(0.5)), **forms}
    every = [value * scale for value in forms.values()]
    regret, lower = _regret(settled, x, target[x], widened.sd)
    return LrPrediction(
        target=_plain(target),
        per=dict(per or {}),
        lr=middle,
        lr_low=low,
        lr_high=high,
        half_width=half,
        forms=dict(zip(forms, every, strict=True)),
        spread=max(every) / min(every) - 1,
        regret=regret,
        lr_least_regret=None if lower is None else middle * math.exp(-lower),
        x="" if alone else x,
        extrapolation=reach,
        factors=factors,
        rule=transfer.rule,
        warnings=warnings,
        next_runs=_next_runs(settled, x, target[x], _rule_sd(factors, target, measured, but=x), transfer, flops),
    )


def _rule_sd(
    factors: Mapping[str, float], target: Mapping[str, float], measured: Mapping[str, float], but: str = ""
) -> float:
    """Standard error of ln η* that the transfer factors bring, all but that of one axis."""

    def exponent_sd(axis: str) -> float:
        ruled = factors[axis] != 1
        return (EXPONENT_SD[axis] if ruled else UNRULED_SD) if axis in EXPONENT_SD else OTHER_SD

    return math.hypot(*(exponent_sd(axis) * math.log(target[axis] / measured[axis]) for axis in factors if axis != but))


def _points(optima: list[Optimum], x: str) -> tuple[FloatArray, FloatArray, FloatArray]:
    """x, ln η* and its standard error, each of shape (optima,)."""
    sds = [optimum.log_sd for optimum in optima]
    return (
        np.array([float(optimum.group[x]) for optimum in optima]),
        np.log(np.array([optimum.lr for optimum in optima], dtype=np.float64)),
        np.array([sd if sd is not None and sd > 0 else UNKNOWN_SD for sd in sds]),
    )


def _at(optima: list[Optimum], x: str, at: float) -> Extrapolation:
    return extrapolate(*_points(optima, x), at)


def _mean_of(optima: list[Optimum]) -> Extrapolation:
    """The optimum of one budget: with an error, but no scatter about a law."""
    log_lr = np.log(np.array([optimum.lr for optimum in optima], dtype=np.float64))
    sds = np.array([optimum.log_sd or UNKNOWN_SD for optimum in optima])
    weights = 1 / sds**2
    return Extrapolation(
        means=np.array([np.average(log_lr, weights=weights)]),
        sds=np.array([1 / math.sqrt(weights.sum())]),
        weights=np.ones(1),
    )


def _widened(found: Extrapolation, sd: float) -> Extrapolation:
    return Extrapolation(means=found.means, sds=np.hypot(found.sds, sd), weights=found.weights)


def _regret(optima: list[Optimum], x: str, at: float, sd: float) -> tuple[float | None, float | None]:
    """Expected loss above the optimum, and by how much ln η should be lower than its median for the least of it.

    For u ~ N(0, sd²) and L = κ·2(e^{su} − 1 − su)/s²: E L = κ·2(e^{s²sd²/2} − 1)/s², least at −s·sd²/2. κ follows its
    own power law along x where there are three optima, since valleys flatten with the budget.
    """
    curved = [(float(o.group[x]), o.curvature, o.skew or 0.0) for o in optima if o.curvature]
    if not curved:
        return None, None
    xs, kappas, skews = (np.array(column, dtype=np.float64) for column in zip(*curved, strict=True))
    log_kappa = float(np.log(kappas).mean())
    if len(np.unique(xs)) >= 3:
        slope, level = np.polyfit(np.log(xs), np.log(kappas), deg=1)
        log_kappa = float(level + slope * math.log(at))
    skew = float(skews.mean())
    if skew * sd < 1e-3:
        return math.exp(log_kappa) * sd**2, 0.0
    return math.exp(log_kappa) * 2 * math.expm1(min(skew**2 * sd**2 / 2, 50.0)) / skew**2, skew * sd**2 / 2


def _next_runs(
    optima: list[Optimum],
    x: str,
    at: float,
    rule_sd: float,
    transfer: Transfer,
    flops: Callable[[float], float] | None,
) -> tuple[NextRuns, ...]:
    """One more optimum at each budget that is there or on the way to the target, those that narrow it most first.

    On the way, only budgets whose four runs cost less than one run at the target, where costs are known.
    """
    xs, log_lr, sds = _points(optima, x)
    rows = []
    for value in (*sorted(set(xs)), *_on_the_way(xs, at)):
        cost = None if flops is None else NEXT_RUNS * flops(value)
        if value not in xs and cost is not None and flops is not None and cost > flops(at):
            continue
        if len(set(xs)) > 1:
            there = extrapolate(xs, log_lr, sds, value).mean
        else:
            there = float(log_lr.mean()) + math.log(_factor(x, {x: float(xs[0])}, value, transfer))
        more = np.append(xs, value), np.append(log_lr, there), np.append(sds, float(np.median(sds)))
        if len(set(more[0])) > 1:
            low, high = _widened(extrapolate(*more, at), rule_sd).interval()
            rows.append(
                NextRuns(
                    x=x,
                    value=int(value) if float(value).is_integer() else float(value),
                    lrs=tuple(float(f"{math.exp(there) * 2**step:.4g}") for step in (-START, 0.0, START)),
                    half_width=(high - low) / (2 * OCTAVE),
                    flops=cost,
                )
            )
    return tuple(sorted(rows, key=lambda row: row.half_width)[:SHOWN])


def _on_the_way(xs: FloatArray, at: float) -> list[float]:
    """Budgets from the outermost one towards the target, each twice (or half) the one before."""
    edge, factor = (float(xs.max()), BEYOND) if at > xs.max() else (float(xs.min()), 1 / BEYOND)
    steps = [edge * factor**step for step in range(1, 9)]
    return [step for step in steps if (step < at if factor > 1 else step > at)]


def _forms(optima: tuple[Optimum, ...], observed: tuple[Optimum, ...], x: str, at: float) -> dict[str, float]:
    forms = {
        "log": fit_optimum_law(optima, x=x, space="log").law.at(at),
        "linear": fit_optimum_law(optima, x=x, space="linear").law.at(at),
    }
    if len({o.group[x] for o in optima if o.settled}) > 3:
        offset = fit_optimum_law(optima, x=x, space="linear", irreducible=True)
        if earns_its_place(offset, fit_optimum_law(optima, x=x, space="linear")):
            forms["irreducible"] = offset.law.at(at)
    if len({o.group[x] for o in observed if o.settled}) >= 2:
        forms["argmin"] = fit_optimum_law(observed, x=x, space="log").law.at(at)
    return forms


def _factor(axis: str, measured: Mapping[str, float], value: float, transfer: Transfer) -> float:
    if axis not in measured:
        raise FitError(
            f"the runs have no single {axis} to transfer from; group by it (--by) or choose one {axis} (--where)"
        )
    start = measured[axis]
    if start == value or transfer.rule == "none":
        return 1.0
    hyperp = transfer.rule == "hyperp"
    if axis == "depth" and transfer.depth:
        return depth_factor(round(value), round(start))
    if axis == "batch_tokens" and transfer.batch and hyperp:
        return batch_factor(value, start, transfer.batch_exponent)
    if axis == "tokens" and hyperp:
        return token_factor(value, start, transfer.token_exponent)
    return 1.0


def _warnings(
    reach: float,
    factors: Mapping[str, float],
    target: Mapping[str, float],
    measured: Mapping[str, float],
    transfer: Transfer,
    x: str,
) -> tuple[str, ...]:
    found = []
    if reach > FAR:
        found.append(f"{x} = {target[x]:.3g} lies {reach:.4g} times beyond the measured range")
    for axis, factor in factors.items():
        ratio = max(target[axis] / measured[axis], measured[axis] / target[axis])
        if ratio > FAR:
            found.append(f"{axis} = {target[axis]:g} lies {ratio:.4g} times from the measured {measured[axis]:g}")
        if ratio > 1 and factor == 1 and (transfer.rule == "none" or axis != "width"):
            found.append(f"the rule {transfer.rule!r} has no factor for {axis}: the rate is used as it is")
    return tuple(found)


def _plain(target: Mapping[str, float]) -> dict[str, Key]:
    return {axis: int(value) if float(value).is_integer() else value for axis, value in target.items()}
