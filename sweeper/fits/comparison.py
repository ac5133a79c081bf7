"""Arms side by side: what each gains over the baseline where both have an optimum."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import ndtri, stdtrit

from sweeper.errors import FitError
from sweeper.fits.loss_curve import name_of
from sweeper.fits.losses import Key, Losses, groups
from sweeper.fits.optimum import LEVEL, Optimum, fit_lr_optima, members, settings
from sweeper.laws.arrays import FloatArray
from sweeper.typed import did_you_mean

Verdict = Literal["lower", "higher", "no difference", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """An arm against the baseline, each at its own best learning rate, in one group that both have."""

    arm: str
    """The values that set the arm apart, in one word."""
    group: dict[str, Key]
    """What both share: the group without the columns that set arms apart."""
    loss_difference: float
    """L*(arm) − L*(baseline), nats per token: negative where the arm is better."""
    loss_low: float | None
    """90 % interval of the difference; None where an optimum has no error."""
    loss_high: float | None
    lr_shift: float
    """log2 η*(arm)/η*(baseline), octaves."""
    lr_shift_low: float | None
    lr_shift_high: float | None
    verdict: Verdict
    """Of the loss: `lower` and `higher` where the interval excludes 0; `unknown` without an interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """The mean difference of runs that share what their losses have in common."""

    difference: float
    """Nats per token: negative where ours are better."""
    low: float | None
    """90 % interval (Student's t); None for a single pair."""
    high: float | None
    pairs: int


def compare_arms(optima: Iterable[Optimum], *, per: tuple[str, ...], baseline: str) -> tuple[Comparison, ...]:
    """Each arm against the baseline in every group where both have a settled optimum, in order of arm and group.

    The standard error of a difference is √(s² + s′²) of the two optima, its interval normal at 90 %: the arms' runs are
    independent but for the noise level, which `linex` pools over them.

    Args:
        optima: Of one fit, grouped by `per` among other columns.
        per: Columns that set arms apart.
        baseline: An arm in one word: its values of `per`, joined by spaces.

    Raises:
        FitError: No column sets arms apart, or none of them is the baseline.
    """
    optima = tuple(optima)
    if not per:
        raise FitError(
            f"differences from {baseline!r} need a column that sets arms apart; add --per, such as --per arm"
        )
    arms = {name_of(setting): members(optima, setting) for setting in settings(optima, per)}
    if baseline not in arms:
        hint = did_you_mean(baseline, arms) if arms else "there are no optima; add --by"
        raise FitError(f"no optima of the baseline {baseline!r}; {hint}")
    theirs = {_shared(optimum, per): optimum for optimum in arms[baseline]}
    return tuple(
        _compared(arm, optimum, theirs[shared], per)
        for arm, own in arms.items()
        if arm != baseline
        for optimum in own
        if (shared := _shared(optimum, per)) in theirs and optimum.settled and theirs[shared].settled
    )


def paired_difference(ours: Losses, theirs: Losses, on: tuple[str, ...] = ("seed",)) -> PairedDifference:
    """The mean of L(ours) − L(theirs) over pairs of runs with one learning rate and one value of each column `on`.

    Runs with one order of the data share much of their noise, which a difference of pairs cancels. Repeats within a
    pair are averaged first. The interval is of the mean over the pairs given, normal differences assumed.

    Args:
        ours, theirs: Used runs of the two arms at the rates that are to be compared.
        on: Columns that pairs agree on besides the rate.

    Raises:
        FitError: No such column, or no pair.
    """
    means, others = _mean_losses(ours, on), _mean_losses(theirs, on)
    shared = sorted(means.keys() & others.keys(), key=str)
    if not shared:
        raise FitError(
            f"no two runs share a learning rate and {', '.join(on) or 'nothing else'}; "
            "repeat both arms with the same seeds and rates"
        )
    return _mean_of(np.array([means[key] - others[key] for key in shared]))


SEED = "seed"


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedComparison:
    """An arm against the baseline over the seeds that both have: what they share of the noise cancels."""

    arm: str
    """The values that set the arm apart, in one word."""
    group: dict[str, Key]
    """What both share: the group without the columns that set arms apart."""
    lr: float
    """The rate of the grid nearest to the baseline's optimum."""
    at_lr: PairedDifference | None
    """Of the losses there; None where the arm has no run there."""
    tuned: PairedDifference | None
    """Of the losses at each seed's own optima; None where no seed has both."""


def compare_seeds(
    losses: Losses, optima: Iterable[Optimum], *, by: tuple[str, ...], per: tuple[str, ...], baseline: str
) -> tuple[SeedComparison, ...]:
    """Each arm against the baseline seed by seed, at the baseline's best rate and each at its own.

    Half of what an arm loses or gains may be an effect of the rate: the two differences tell.

    Args:
        losses: With the columns `by` and `seed`; nothing is compared where no group has two seeds.
        optima: Of all seeds together, grouped by `by`; their method fits those of each seed too.
        by: Columns that tell groups apart, `per` among them.
        per: Columns that set arms apart.
        baseline: An arm in one word.

    Raises:
        FitError: As `fit_lr_optima`.
    """
    optima = tuple(optima)
    if not optima or SEED in by or len(np.unique(losses.column(SEED))) < 2:
        return ()
    whole = {tuple(optimum.group.items()): optimum for optimum in optima}
    alone: dict[tuple[tuple[str, Key], ...], dict[Key, Optimum]] = {}
    for optimum in fit_lr_optima(losses, (*by, SEED), optima[0].method):
        rest = {name: value for name, value in optimum.group.items() if name != SEED}
        alone.setdefault(tuple(rest.items()), {})[optimum.group[SEED]] = optimum
    runs = {tuple(group.items()): members for group, members in groups(losses, by)}
    found = []
    for key, optimum in whole.items():
        theirs = next((k for k, o in whole.items() if _is_baseline(o, optimum, per, baseline)), None)
        arm = name_of({name: value for name, value in optimum.group.items() if name in per})
        if theirs is None or arm == baseline or whole[theirs].lr is None:
            continue
        at, same = _at_nearest(runs[key], runs[theirs], whole[theirs].lr)
        found.append(
            SeedComparison(
                arm=arm,
                group=dict(_shared(optimum, per)),
                lr=at,
                at_lr=same,
                tuned=_tuned(alone.get(key, {}), alone.get(theirs, {})),
            )
        )
    return tuple(one for one in found if one.at_lr or one.tuned)


def _is_baseline(one: Optimum, other: Optimum, per: tuple[str, ...], baseline: str) -> bool:
    """Whether `one` is the baseline's optimum in the group of `other`."""
    arm = name_of({name: value for name, value in one.group.items() if name in per})
    return arm == baseline and _shared(one, per) == _shared(other, per)


def _at_nearest(ours: Losses, theirs: Losses, lr: float | None) -> tuple[float, PairedDifference | None]:
    """The rate nearest to `lr` that the baseline was run at, and the difference there."""
    assert lr is not None  # noqa: S101
    used = theirs.take(theirs.used)
    at = float(used.lr[np.argmin(np.abs(np.log(used.lr / lr)))])
    try:
        return at, paired_difference(ours.take(ours.lr == at), theirs.take(theirs.lr == at))
    except FitError:
        return at, None


def _tuned(ours: Mapping[Key, Optimum], theirs: Mapping[Key, Optimum]) -> PairedDifference | None:
    both = [seed for seed in ours if seed in theirs and ours[seed].settled and theirs[seed].settled]
    differences = np.array([_values(ours[seed])[0] - _values(theirs[seed])[0] for seed in both])
    return _mean_of(differences) if both else None


def _mean_of(differences: FloatArray) -> PairedDifference:
    """The mean with Student's interval."""
    mean, pairs = float(differences.mean()), len(differences)
    if pairs == 1:
        return PairedDifference(difference=mean, low=None, high=None, pairs=1)
    reach = float(stdtrit(pairs - 1, (1 + LEVEL) / 2) * differences.std(ddof=1)) / math.sqrt(pairs)
    return PairedDifference(difference=mean, low=mean - reach, high=mean + reach, pairs=pairs)


def _mean_losses(losses: Losses, on: tuple[str, ...]) -> Mapping[tuple[object, ...], float]:
    used = losses.take(losses.used)
    columns = [used.column(name).tolist() for name in on]
    found: dict[tuple[object, ...], list[float]] = {}
    for loss, *key in zip(used.loss.tolist(), used.lr.tolist(), *columns, strict=True):
        found.setdefault(tuple(key), []).append(loss)
    return {key: float(np.mean(values)) for key, values in found.items()}


def _shared(optimum: Optimum, per: tuple[str, ...]) -> tuple[tuple[str, Key], ...]:
    return tuple((name, value) for name, value in optimum.group.items() if name not in per)


def _compared(arm: str, ours: Optimum, theirs: Optimum, per: tuple[str, ...]) -> Comparison:
    (loss, lr), (other_loss, other_lr) = _values(ours), _values(theirs)
    difference = loss - other_loss
    loss_low, loss_high = _interval(difference, ours.loss_sd, theirs.loss_sd)
    shift = math.log(lr / other_lr)
    shift_low, shift_high = _interval(shift, ours.log_sd, theirs.log_sd)
    verdict: Verdict = "no difference"
    if loss_low is None or loss_high is None:
        verdict = "unknown"
    elif loss_high < 0:
        verdict = "lower"
    elif loss_low > 0:
        verdict = "higher"
    return Comparison(
        arm=arm,
        group=dict(_shared(ours, per)),
        loss_difference=difference,
        loss_low=loss_low,
        loss_high=loss_high,
        lr_shift=shift / math.log(2),
        lr_shift_low=None if shift_low is None else shift_low / math.log(2),
        lr_shift_high=None if shift_high is None else shift_high / math.log(2),
        verdict=verdict,
    )


def _values(settled: Optimum) -> tuple[float, float]:
    """Loss and rate, which a settled optimum has."""
    assert settled.loss is not None  # noqa: S101
    assert settled.lr is not None  # noqa: S101
    return settled.loss, settled.lr


def _interval(difference: float, sd: float | None, other_sd: float | None) -> tuple[float, float] | tuple[None, None]:
    if sd is None or other_sd is None:
        return None, None
    reach = float(ndtri((1 + LEVEL) / 2)) * math.hypot(sd, other_sd)
    return difference - reach, difference + reach
