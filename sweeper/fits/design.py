"""Which learning rates to run next: three points, extended at an edge, then straddling the optimum.

The design of a group starts with a centre and 1.5 octaves on either side of it. While the best rate is the outermost,
it goes 1.5 octaves further; once the optimum lies inside, it adds the one of optimum ± 0.9 octaves that narrows the
interval most, or a rate between those that straddle it, until the interval is as narrow as asked. Simulated beside
fixed grids in tests/benchmarks/fit_accuracy.py: four adaptive runs find what six on a grid do, because they end up
where the optimum is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sweeper.fits.linex import Pool, Sweep, posterior
from sweeper.fits.losses import Key, Losses, groups
from sweeper.fits.optimum import LEVEL, MIN_RATES, Optimum, fit_lr_optima, pool_of
from sweeper.laws.arrays import FloatArray

OCTAVE = math.log(2)
START = 1.5
"""Octaves between the first three rates, and of each step beyond an edge."""
STRADDLE = (0.9, 0.45, 1.35)
"""Octaves from the optimum at which a rate is added, the first that is still free on either side."""
TAKEN = 0.3
"""Octaves within which a rate counts as run already."""
TOLERANCE = 0.15
"""Half width of the interval, octaves, at which a group is done: 11 % of the rate, about 0.01 % of the loss."""

Why = Literal["start", "extend", "straddle", "fill", "done", "diverged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """The rates to run next in one group, or why there is none."""

    group: dict[str, Key]
    why: Why
    """`start`: too few rates; `extend`: the best rate is the outermost; `straddle`: about the optimum; `fill`: between
    rates that straddle it; `done`: narrow enough; `diverged`: beyond the edge runs diverge."""
    lrs: tuple[float, ...]
    half_width: float | None
    """Of the interval now, octaves; None without one."""
    expected: float | None
    """What these runs are expected to leave of it; None where there is nothing to compute it from."""


def suggest_rates(
    losses: Losses,
    by: tuple[str, ...],
    *,
    tolerance: float = TOLERANCE,
    centres: Sequence[float | None] = (),
) -> tuple[Suggestion, ...]:
    """The next rates of each group, in the order of `fit_lr_optima`.

    Args:
        losses: The runs so far.
        by: Columns that tell groups apart.
        tolerance: Half width of the interval, octaves, that is narrow enough.
        centres: Where a group that has no run yet starts, such as what its law predicts; one per group, or none.

    >>> from sweeper.fits.losses import make_losses
    >>> losses = make_losses([0.01, 0.02, 0.04], [2.6, 2.55, 2.52])
    >>> suggestion, = suggest_rates(losses, ())
    >>> suggestion.why, [f"{lr:.3f}" for lr in suggestion.lrs]
    ('extend', ['0.113'])
    """
    optima = fit_lr_optima(losses, by)
    parts = [runs for _, runs in groups(losses, by)]
    pool = pool_of([runs.take(runs.used) for runs in parts])
    starts = centres or [None] * len(optima)
    return tuple(
        _next(optimum, runs, pool, tolerance, centre)
        for optimum, runs, centre in zip(optima, parts, starts, strict=True)
    )


def half_width(optimum: Optimum) -> float | None:
    """Half the interval of an optimum, octaves; None where an end is missing."""
    if not optimum.settled or optimum.lr_low is None or optimum.lr_high is None:
        return None
    return math.log2(optimum.lr_high / optimum.lr_low) / 2


def _next(optimum: Optimum, runs: Losses, pool: Pool | None, tolerance: float, centre: float | None) -> Suggestion:
    used = runs.take(runs.used)
    rates = np.unique(used.lr)
    wall = _wall(runs)
    if rates.size < MIN_RATES:
        middle = optimum.lr or centre or (wall and wall / 2**START)
        lrs = [] if middle is None else [middle * 2**step for step in (-START, 0.0, START)]
        return _suggestion(optimum, "start", [lr for lr in lrs if _free(lr, rates)], wall, rates)
    if optimum.status in ("edge_low", "edge_high", "no_minimum"):
        beyond = {"edge_low": [rates[0] / 2**START], "edge_high": [rates[-1] * 2**START]}
        lrs = beyond.get(optimum.status, [rates[0] / 2**START, rates[-1] * 2**START])
        return _suggestion(optimum, "extend", lrs, wall, rates)
    now = half_width(optimum)
    assert optimum.lr is not None  # noqa: S101  (settled optima have one)
    if now is not None and now <= tolerance:
        return Suggestion(group=optimum.group, why="done", lrs=(), half_width=now, expected=now)
    candidates = []
    for side in (-1, 1):
        steps = (optimum.lr * 2 ** (side * step) for step in STRADDLE)
        candidates += [lr for lr in steps if _free(lr, rates) and (wall is None or lr < wall)][:1]
    why: Why = "straddle"
    if not candidates:  # what is left is noise, which any run nearby averages
        between = np.sqrt(rates[1:] * rates[:-1])
        why, candidates = "fill", between[np.abs(np.log2(between / optimum.lr)) <= START].tolist()
    if pool is None:
        return _suggestion(optimum, why, candidates[:1], wall, rates)
    sweep = Sweep.of(np.log(used.lr), used.loss)
    after = [_expected(sweep, pool, optimum, lr) for lr in candidates]
    best = int(np.argmin(after))
    return Suggestion(
        group=optimum.group, why=why, lrs=(_rounded(candidates[best]),), half_width=now, expected=after[best]
    )


def _suggestion(optimum: Optimum, why: Why, lrs: list[float], wall: float | None, rates: FloatArray) -> Suggestion:
    """These rates, brought below the wall of divergence; `diverged` where nothing is left between the two."""
    kept = []
    for lr in lrs:
        below = lr
        if wall is not None and lr >= wall:
            below = math.sqrt(wall * float(rates[-1])) if rates.size and rates[-1] < wall else wall / 2**START
        if _free(below, rates) and not (wall is not None and abs(math.log2(wall / below)) < TAKEN / 2):
            kept.append(_rounded(below))
    found = tuple(dict.fromkeys(kept))
    return Suggestion(
        group=optimum.group, why=why if found else "diverged", lrs=found, half_width=half_width(optimum), expected=None
    )


def _wall(runs: Losses) -> float | None:
    """The lowest rate from which on every run diverged; None where none did."""
    gone, used = runs.lr[runs.excluded == "diverged"], runs.lr[runs.used]
    above = gone[gone > used.max()] if used.size else gone
    return float(above.min()) if above.size else None


def _free(lr: float, rates: FloatArray) -> bool:
    return bool(np.all(np.abs(np.log(rates / lr)) > TAKEN * OCTAVE))


def _expected(sweep: Sweep, pool: Pool, optimum: Optimum, lr: float) -> float:
    """Half the interval, octaves, once a run at `lr` has the loss that the curve says."""
    loss = optimum.along(np.array([lr]))
    assert loss is not None  # noqa: S101  (an optimum of the asymmetric curve has one)
    counts = np.rint(sweep.n).astype(np.intp)
    more = Sweep.of(
        np.append(np.repeat(sweep.x, counts), math.log(lr)), np.append(np.repeat(sweep.y, counts), float(loss[0]))
    )
    valley = posterior(more, pool, LEVEL)
    return (valley.high - valley.low) / (2 * OCTAVE)


def _rounded(lr: float) -> float:
    return float(f"{lr:.4g}")
