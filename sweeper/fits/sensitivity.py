"""How far the optimum moves when a sweep has fewer learning rates: HyperP's experiment E11 on any data."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sweeper.errors import FitError
from sweeper.fits.linex import Pool
from sweeper.fits.losses import IntArray, Key, Losses, groups
from sweeper.fits.optimum import MIN_RATES, Method, Optimum, fit_lr_optima, pool_of

MOST = 200
"""Subsets of one size that are fitted; of 8 rates there are 70 at most."""
MOST_SIZES = 10
"""Sizes that are tried by themselves, spaced evenly in ln n; 8 rates have five, as in HyperP's table 14."""
SUBSET = "subset"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """The optima of all subsets of n learning rates of one group against the optimum of all of them."""

    group: dict[str, Key]
    rates: int
    """n, the learning rates of each subset."""
    of: int
    """Learning rates of the group."""
    subsets: int
    """Subsets that were fitted: all of them, or a sample of the many."""
    settled: int
    """Those of them that have an optimum; the others see a bound, a hill or nothing, and enter no mean."""
    lr_error: float | None
    """Mean |η*_n / η* − 1| over the settled subsets; None where there are none."""
    loss_error: float | None
    """Mean |L*_n / L* − 1|."""


def fit_sensitivity(
    losses: Losses,
    by: tuple[str, ...] = ("tokens",),
    method: Method = "parabola",
    *,
    sizes: Sequence[int] | None = None,
    most: int = MOST,
    pool: Pool | None = None,
    rng: np.random.Generator | None = None,
) -> tuple[Sensitivity, ...]:
    """The error of the optimum with n learning rates against that with all m of its group, for n = 3 … m − 1.

    Every subset of n of the m distinct rates is fitted by itself, with all repeats of its rates. What all m say is
    taken for the truth, so that the errors leave out what all rates get wrong together.

    Args:
        losses: Runs of any number of groups.
        by: Columns that tell groups apart.
        method: Of the optima; HyperP's is `parabola`, its rule about R² included. `linex` knows the pooled constants
            (without their uncertainty, which only widens intervals): the skew and the prior of the curvature stay
            those of all rates, as they would for one more sweep beside many.
        sizes: n; when left out every one up to ten of them.
        most: Subsets of one size; a sample where there are more.
        pool: The constants of `linex`; pooled over these groups when left out.
        rng: Draws the samples; the same for the same data when left out.

    Returns:
        One row per group and n, in ascending order. A group whose own optimum is a bound or none has no rows, nor has
        one of fewer than four rates.

    Raises:
        FitError: No runs at all, no such column, or an n below 3.

    Source: HyperP, appendix, table 14 and figure 11 (arXiv 2603.28743).
    """
    if any(n < MIN_RATES for n in sizes or ()):
        raise FitError(f"a subset needs at least {MIN_RATES} learning rates, got {min(sizes or ())}; ask for more")
    if losses.lr.size == 0:
        raise FitError("there are no runs to fit; collect results first")
    rng = rng or np.random.default_rng(0)
    used = losses.take(losses.used)
    parts = list(groups(used, by))
    if method == "linex":
        pool = pool or pool_of([runs for _, runs in parts])
        pool = None if pool is None else replace(pool, draws=(pool.best,), weights=np.ones(1))
    rows = []
    wholes = fit_lr_optima(used, by, method, pool=pool) if parts else ()
    for (group, runs), whole in zip(parts, wholes, strict=True):
        rates, rate_of_run = np.unique(runs.lr, return_inverse=True)
        for n in sizes or _sizes(len(rates)):
            if whole.settled and n < len(rates):
                chosen = _subsets(len(rates), n, most, rng)
                optima = fit_lr_optima(_stacked(runs, rate_of_run, chosen), (SUBSET,), method, pool=pool)
                rows.append(_compared(group, len(rates), n, whole, optima))
    return tuple(rows)


def _sizes(rates: int) -> tuple[int, ...]:
    if rates <= MIN_RATES:
        return ()
    return tuple(int(n) for n in np.unique(np.geomspace(MIN_RATES, rates - 1, MOST_SIZES).round()))


def _subsets(rates: int, n: int, most: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """All combinations of n rates, or as many different ones as are wanted."""
    count = math.comb(rates, n)
    if count <= 10 * most:
        everyone = list(itertools.combinations(range(rates), n))
        picked = range(count) if count <= most else np.sort(rng.choice(count, most, replace=False))
        return [everyone[i] for i in picked]
    found: dict[tuple[int, ...], None] = {}
    while len(found) < most:  # of more than ten times as many, so that few are drawn twice
        found[tuple(int(i) for i in np.sort(rng.choice(rates, n, replace=False)))] = None
    return list(found)


def _stacked(runs: Losses, rate_of_run: IntArray, subsets: list[tuple[int, ...]]) -> Losses:
    """The runs of each subset, one after another, with the subset's number as a covariate."""
    members = [np.flatnonzero(np.isin(rate_of_run, subset)) for subset in subsets]
    number = np.repeat(np.arange(len(subsets)), [len(rows) for rows in members])
    taken = runs.take(np.concatenate(members))
    return replace(taken, covariates={SUBSET: number.astype(np.float64)}, labels={})


def _compared(group: dict[str, Key], of: int, n: int, whole: Optimum, optima: tuple[Optimum, ...]) -> Sensitivity:
    settled = [o for o in optima if o.settled]
    return Sensitivity(
        group=group,
        rates=n,
        of=of,
        subsets=len(optima),
        settled=len(settled),
        lr_error=_mean_error([o.lr for o in settled], whole.lr),
        loss_error=_mean_error([o.loss for o in settled], whole.loss),
    )


def _mean_error(values: Sequence[float | None], truth: float | None) -> float | None:
    if not values or truth is None:
        return None
    return float(np.mean(np.abs(np.array(values, dtype=np.float64) / truth - 1)))
