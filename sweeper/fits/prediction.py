"""The learning rate of a run that was never made: a fitted law, transfer factors for the rest, and its reach."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from sweeper.errors import FitError
from sweeper.fits.losses import Key
from sweeper.fits.optimum import Optimum
from sweeper.fits.power_law import PowerLawFit, fit_optimum_law
from sweeper.laws.transfer import Transfer, batch_factor, depth_factor, token_factor

FAR = 8.0
"""Extrapolation beyond which a prediction warns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LrPrediction:
    """A peak learning rate with everything that should temper trust in it."""

    target: dict[str, Key]
    per: dict[str, Key]
    lr: float
    """Peak rate of the hidden matrices (`lr_peak`): the log-space law times the factors."""
    lr_low: float | None
    """90 % interval of the law at the target, scatter of the optima included; None where two budgets leave no error."""
    lr_high: float | None
    forms: dict[str, float]
    """The rate by each form of the law: `log`, `linear`, and `argmin` (log-space, through the best observed rates)."""
    spread: float
    """Largest over smallest of the forms, minus 1."""
    x: str
    """Axis of the law; empty where no law could be fitted and the only optimum was transferred."""
    extrapolation: float
    """How many times beyond the measured range the target lies: 1 inside it."""
    factors: dict[str, float]
    """Transfer factor of each axis that the fit does not contain."""
    rule: str
    """Transfer rule of those factors."""
    warnings: tuple[str, ...]
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
    if len(set(values)) == 1:
        token = {x: _factor(x, {x: values[0]}, target[x], transfer)}
        scale = math.prod((factors | token).values())
        only = settled[0]
        assert only.lr is not None  # noqa: S101  (settled optima have one)
        return LrPrediction(
            target=_plain(target),
            per=dict(per or {}),
            lr=only.lr * scale,
            lr_low=None if only.lr_low is None else only.lr_low * scale,
            lr_high=None if only.lr_high is None else only.lr_high * scale,
            forms={"transfer": only.lr * scale},
            spread=0.0,
            x="",
            extrapolation=reach,
            factors=factors | token,
            rule=transfer.rule,
            warnings=(f"only one {x} has an optimum, so its law is the transfer rule's, not measured", *warnings),
        )
    scale = math.prod(factors.values())
    forms, log = _forms(optima, observed, x, target[x])
    interval = log.interval(target[x])
    return LrPrediction(
        target=_plain(target),
        per=dict(per or {}),
        lr=forms["log"] * scale,
        lr_low=None if interval is None else interval[0] * scale,
        lr_high=None if interval is None else interval[1] * scale,
        forms={name: value * scale for name, value in forms.items()},
        spread=max(forms.values()) / min(forms.values()) - 1,
        x=x,
        extrapolation=reach,
        factors=factors,
        rule=transfer.rule,
        warnings=warnings,
    )


def _forms(
    optima: tuple[Optimum, ...], observed: tuple[Optimum, ...], x: str, at: float
) -> tuple[dict[str, float], PowerLawFit]:
    log = fit_optimum_law(optima, x=x, space="log")
    forms = {"log": log.law.at(at), "linear": fit_optimum_law(optima, x=x, space="linear").law.at(at)}
    if len({o.group[x] for o in observed if o.settled}) >= 2:
        forms["argmin"] = fit_optimum_law(observed, x=x, space="log").law.at(at)
    return forms, log


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
        found.append(f"{x} = {target[x]:.3g} lies {reach:.1f} times beyond the measured range")
    for axis, factor in factors.items():
        ratio = max(target[axis] / measured[axis], measured[axis] / target[axis])
        if ratio > FAR:
            found.append(f"{axis} = {target[axis]:g} lies {ratio:.1f} times from the measured {measured[axis]:g}")
        if ratio > 1 and factor == 1 and (transfer.rule == "none" or axis != "width"):
            found.append(f"the rule {transfer.rule!r} has no factor for {axis}: the rate is used as it is")
    return tuple(found)


def _plain(target: Mapping[str, float]) -> dict[str, Key]:
    return {axis: int(value) if float(value).is_integer() else value for axis, value in target.items()}
