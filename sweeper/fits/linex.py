"""The asymmetric valley L = L₀ + κ·g(x − x*), g(t) = 2(e^{st} − 1 − st)/s², x = ln η: pooled, then one by one.

Loss rises faster on the side of high rates, so that a parabola through all points is biased low. The form is the LINEX
loss of Varian (1975); here the skew s, the noise σ and the prior of ln κ ~ N(m, τ²) are shared by the sweeps that are
fitted together (empirical Bayes: they maximise the marginal likelihood), while κ, x* and L₀ are each sweep's own:
curvature shrinks with the budget. A point at height ΔL above the lowest has the variance σ² + (0.15·ΔL)², so that the
error of the shape grows with the distance from the minimum; where points stand closer than an octave they share that
error, and its variance grows with their number per octave. x* and ln κ are integrated over a grid, L₀ exactly, and the
shared constants over draws about their maximum: of a single sweep, s and σ are little known, and so is its optimum.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from sweeper.laws.arrays import FloatArray

MODEL_ERROR = 0.15
"""Error of the shape over the height above the minimum; measured on public one-octave sweeps (arXiv 2503.04715)."""
RIDGE = 0.25
"""Height above the minimum, over the loss itself, at which the error of the shape has doubled: what lies far above,
like a run that all but diverged, says nothing of the valley."""
SKEW, SKEW_SD = 0.8, 0.3
"""Prior of s, from the same sweeps."""
LOG_TAU, LOG_TAU_SD = math.log(0.4), 0.5
"""Prior of ln τ: keeps τ from collapsing when only a few sweeps are pooled."""
NOISE, LOG_NOISE_SD = 2e-3, 0.7
"""Prior of ln σ over the loss: the repeated points of HyperP agree to ±0.001 nat at 2.47 (arXiv 2603.28743)."""
REACH = 1.5
"""How far beyond its grid x* is looked for, in e-folds."""
MAX_SWEEPS = 64
"""Sweeps that the pooled constants are fitted to; more add time, not accuracy."""
DRAWS = 24
"""Draws of the pooled constants that an optimum is averaged over."""
MAX_RATES = 256
"""Distinct rates of one sweep; more are averaged into as many cells of ln η."""

ROWS = 48
"""Sweeps times draws whose posteriors are computed together: a few megabytes, which a cache holds."""

Z = np.linspace(-4, 4, 41)
"""Nodes of ln κ in units of τ about m."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sweep:
    """Mean losses at the distinct rates of one group; all of shape (rates,). Equal to one of the same numbers."""

    x: FloatArray
    """ln η, ascending."""
    y: FloatArray
    """Mean loss, nats per token."""
    n: FloatArray
    """Runs behind each mean."""
    shape_error: FloatArray
    """Standard deviation of the form itself at each point, nats per token."""
    scatter: float
    """Sum of squares of repeated runs about their means."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sweep) and self._numbers == other._numbers

    def __hash__(self) -> int:
        return hash(self._numbers)

    @property
    def _numbers(self) -> tuple[float | bytes, ...]:
        return self.scatter, *(column.tobytes() for column in (self.x, self.y, self.n, self.shape_error))

    @classmethod
    def of(cls, x: FloatArray, y: FloatArray, ridge: float = RIDGE) -> "Sweep":
        """Repeats averaged; x and y of shape (runs,)."""
        _, cell = np.unique(x, return_inverse=True)
        repeats_only = cell.max() < MAX_RATES
        if not repeats_only:
            edges = np.linspace(x.min(), x.max(), MAX_RATES + 1)[1:-1]
            _, cell = np.unique(np.digitize(x, edges), return_inverse=True)
        n = np.bincount(cell).astype(np.float64)
        means = np.bincount(cell, weights=y) / n
        rates = np.bincount(cell, weights=x) / n
        octaves = float(np.ptp(rates)) / math.log(2)
        crowding = max(1.0, len(rates) / (octaves + 1))
        height, level = means - means.min(), abs(float(means.min())) or 1.0
        return cls(
            x=rates,
            y=means,
            n=n,
            shape_error=MODEL_ERROR * math.sqrt(crowding) * height * (1 + (height / (ridge * level)) ** 2),
            scatter=float(np.sum((y - means[cell]) ** 2)) if repeats_only else 0.0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """What sweeps that are fitted together share."""

    skew: float
    log_curvature: float
    """m, the mean of ln κ."""
    log_curvature_sd: float
    """τ."""
    noise: float
    """σ, nats per token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The posterior of the shared constants: the most likely ones, and weighted draws about them."""

    best: Constants
    draws: tuple[Constants, ...]
    weights: FloatArray
    """Of the draws, shape (draws,); they sum to 1."""

    @property
    def skew(self) -> float:
        return self.best.skew

    @property
    def noise(self) -> float:
        return self.best.noise


@dataclass(frozen=True, slots=True, kw_only=True)
class Valley:
    """The posterior of one sweep: median and ends of x* = ln η*, and the curve through the median."""

    x: float
    low: float
    high: float
    loss: float
    loss_sd: float
    """Standard deviation of L₀, nats per token."""
    curvature: float


def g(t: FloatArray, skew: float) -> FloatArray:
    """g(t) = 2(e^{st} − 1 − st)/s², which is t² for small s·t."""
    return _g(t, skew, skew**2)


def _g(t: FloatArray, skew: float | FloatArray, square: float | FloatArray) -> FloatArray:
    """g for the skew of each row; its square is given, because numpy rounds it otherwise than Python."""
    st = np.clip(skew * t, -60, 60)
    near = np.abs(st) < 1e-3
    full = 2 * (np.expm1(st) - st) / np.maximum(square, 1e-12)  # so small a skew is never taken from here
    return np.asarray(np.where(near, t**2 * (1 + st / 3), full), dtype=np.float64)


@lru_cache(maxsize=4)  # what suggests runs, and a report, need those of the optima again
def fit_pool(sweeps: tuple[Sweep, ...]) -> Pool:
    """The shared constants of sweeps: the maximum of their marginal likelihood times the priors, and draws about it.

    Repeated seeds, where there are any, set the noise. The draws are those of the Laplace approximation, weighted by
    importance.
    """
    scatter, dof = sum(s.scatter for s in sweeps), sum(float(np.sum(s.n - 1)) for s in sweeps)
    level = abs(float(np.median([s.y.min() for s in sweeps]))) or 1.0
    log_noise, log_noise_sd = math.log(NOISE * level), LOG_NOISE_SD
    if dof >= 1 and scatter > 0:
        log_noise, log_noise_sd = math.log(math.sqrt(scatter / dof)), 1 / math.sqrt(2 * dof)
    chosen = sweeps[:: math.ceil(len(sweeps) / MAX_SWEEPS)]
    stack = _stacked(chosen)
    centres = np.array([np.linspace(s.x[0] - REACH, s.x[-1] + REACH, 81) for s in chosen])
    start = np.array([SKEW, _typical_log_curvature(chosen, level), LOG_TAU, log_noise])

    def objective(theta: FloatArray) -> float:
        prior = (
            ((theta[0] - SKEW) / SKEW_SD) ** 2
            + ((theta[2] - LOG_TAU) / LOG_TAU_SD) ** 2
            + ((theta[3] - log_noise) / log_noise_sd) ** 2
        )
        evidence = _log_posterior(stack, centres, _Rows.of([_constants(theta)]))
        return float(prior / 2 - np.sum(_log_sum_exp(evidence.reshape(len(chosen), -1))))

    simplex = start + np.vstack([np.zeros(4), np.diag([0.2, 0.5, 0.3, 0.5])])
    found = minimize(
        objective,
        start,
        method="Nelder-Mead",
        options={"initial_simplex": simplex, "xatol": 0.01, "fatol": 0.01, "maxfev": 300},
    )
    # ln κ has a flat prior; a sweep that says nothing of it must not send the draws to the ends of the floats.
    widest = np.array([SKEW_SD, 2.0, LOG_TAU_SD, log_noise_sd])
    draws, weights = _laplace_draws(objective, found.x, widest)
    return Pool(best=_constants(found.x), draws=tuple(map(_constants, draws)), weights=weights)


def posterior(sweep: Sweep, pool: Pool, level: float) -> Valley:
    """Median and interval of x*, and the curve at the median, of one sweep under the pooled constants."""
    return posteriors([sweep], pool, level)[0]


def posteriors(sweeps: Sequence[Sweep], pool: Pool, level: float) -> tuple[Valley, ...]:
    """The posterior of each sweep by itself, those of equally many rates computed together."""
    alike: dict[int, list[int]] = defaultdict(list)
    for place, sweep in enumerate(sweeps):
        alike[len(sweep.x)].append(place)
    together = max(1, ROWS // len(pool.draws))
    parts = [places[i : i + together] for places in alike.values() for i in range(0, len(places), together)]
    found: dict[int, Valley] = {}
    for places in parts:
        found.update(zip(places, _posteriors([sweeps[place] for place in places], pool, level), strict=True))
    return tuple(found[place] for place in range(len(sweeps)))


def _posteriors(sweeps: Sequence[Sweep], pool: Pool, level: float) -> Iterator[Valley]:
    """Of sweeps that have equally many rates; a row is a sweep under one of the draws."""
    count, draws = len(sweeps), len(pool.draws)
    stack = _Stack(*(np.repeat(column, draws, axis=0) for column in _stacked(sweeps)))
    rows = _Rows.of(pool.draws * count)
    low_G, high_G = stack.x[::draws, 0] - REACH, stack.x[::draws, -1] + REACH
    for _ in range(3):  # each pass narrows the grid to where the mass is
        centres_GV = np.ascontiguousarray(np.linspace(low_G, high_G, 81, axis=1))
        centres_RV = np.repeat(centres_GV, draws, axis=0)
        joint_RVK = _log_posterior(stack, centres_RV, rows)
        # The evidence of this sweep is in the draws already: each is a posterior of its own.
        joint_RVK -= joint_RVK.max(axis=(1, 2), keepdims=True)
        np.exp(joint_RVK, out=joint_RVK)
        joint_RVK *= (np.tile(pool.weights, count) / joint_RVK.sum(axis=(1, 2)))[:, None, None]
        mass_GV = joint_RVK.reshape(count, draws, *joint_RVK.shape[1:]).sum(axis=(1, 3))
        ends = [_support(mass_V) for mass_V in mass_GV]
        low_G, high_G = (centres_GV[range(count), end] for end in zip(*ends, strict=True))
    kappa_mass_GDK = joint_RVK.sum(axis=1).reshape(count, draws, -1)
    log_kappa_DK = np.array([one.log_curvature + one.log_curvature_sd * Z for one in pool.draws])
    loss_sds = _loss_sds(stack, rows, centres_RV, joint_RVK, draws)
    for i, sweep in enumerate(sweeps):
        cumulative = np.concatenate([[0.0], np.cumsum((mass_GV[i, 1:] + mass_GV[i, :-1]) / 2)])
        quantiles = np.interp([(1 - level) / 2, 0.5, (1 + level) / 2], cumulative / cumulative[-1], centres_GV[i])
        curvature = math.exp(float(np.sum(kappa_mass_GDK[i] * log_kappa_DK)))
        w = _weights(sweep.n, sweep.shape_error, pool.noise**2)
        height = curvature * g(sweep.x - quantiles[1], pool.skew)
        yield Valley(
            x=float(quantiles[1]),
            low=float(quantiles[0]),
            high=float(quantiles[2]),
            loss=float(np.sum(w * (sweep.y - height)) / np.sum(w)),
            loss_sd=loss_sds[i],
            curvature=curvature,
        )


def _support(mass_V: FloatArray) -> tuple[int, int]:
    """The places just outside of those that hold nearly all of the mass."""
    support = np.flatnonzero(mass_V > 1e-4 * mass_V.max())
    return max(int(support[0]) - 1, 0), min(int(support[-1]) + 1, len(mass_V) - 1)


def _constants(theta: FloatArray) -> Constants:
    return Constants(
        skew=float(theta[0]),
        log_curvature=float(theta[1]),
        log_curvature_sd=math.exp(theta[2]),
        noise=math.exp(theta[3]),
    )


def _laplace_draws(
    objective: Callable[[FloatArray], float], best: FloatArray, widest: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Draws, shape (draws, constants), of the normal at a minimum of −ln p, and their importance weights (sum 1).

    Args:
        widest: The largest standard deviation of each constant.
    """
    step = widest / 8
    shifts = np.diag(step)
    middle = objective(best)
    hessian = np.empty((best.size, best.size))
    for i, a in enumerate(shifts):
        for j, b in enumerate(shifts[: i + 1]):
            if i == j:
                bend = objective(best + a) - 2 * middle + objective(best - a)
            else:
                corners = objective(best + a + b) - objective(best + a - b), objective(best - a + b)
                bend = (corners[0] - corners[1] + objective(best - a - b)) / 4
            hessian[i, j] = hessian[j, i] = bend / (step[i] * step[j])
    # In units of the widest deviation, no direction is wider than 1.
    values, vectors = np.linalg.eigh(hessian * np.outer(widest, widest))
    root = vectors / np.sqrt(np.maximum(values, 1.0))
    half_DC = np.random.default_rng(0).standard_normal((DRAWS // 2, best.size))
    normal_DC = np.concatenate([half_DC, -half_DC])  # in pairs, so that their mean is the maximum
    draws = best + (normal_DC @ root.T) * widest
    log_weight = np.sum(normal_DC**2, axis=1) / 2 - np.array([objective(draw) for draw in draws]) + middle
    weights = np.exp(np.clip(log_weight - log_weight.max(), -30, 0))
    return draws, np.asarray(weights / weights.sum(), dtype=np.float64)


# R rows, each a sweep and constants: G sweeps times D draws. P points of each (padded with weight 0), V values of x*,
# K values of ln κ.


class _Stack(NamedTuple):
    """Columns of sweeps, a sweep in each row."""

    x: FloatArray
    y: FloatArray
    n: FloatArray
    shape_error: FloatArray


class _Rows(NamedTuple):
    """Constants, of each row or, in a single row, of all."""

    skew: FloatArray
    skew_square: FloatArray
    log_curvature: FloatArray
    log_curvature_sd: FloatArray
    noise_square: FloatArray

    @classmethod
    def of(cls, constants: Sequence[Constants]) -> "_Rows":
        """Squared by Python, whose last digit numpy's square does not always share."""
        numbers = [(c.skew, c.skew**2, c.log_curvature, c.log_curvature_sd, c.noise**2) for c in constants]
        return cls(*np.array(numbers).T[:, :, None])

    def g(self, t_RVP: FloatArray) -> FloatArray:
        return _g(t_RVP, self.skew[:, :, None], self.skew_square[:, :, None])

    @property
    def kappa_RK(self) -> FloatArray:
        return np.asarray(np.exp(self.log_curvature + self.log_curvature_sd * Z), dtype=np.float64)


def _loss_sds(stack: _Stack, rows: _Rows, x_RV: FloatArray, joint_RVK: FloatArray, draws: int) -> list[float]:
    """Of each sweep the standard deviation of L₀: of the weighted mean itself, and over what the heights depend on."""
    w_RP = _weights(stack.n, stack.shape_error, rows.noise_square)
    total_R = w_RP.sum(axis=1)
    height_RV = (rows.g(stack.x[:, None] - x_RV[:, :, None]) @ w_RP[:, :, None])[:, :, 0] / total_R[:, None]
    mean_R = (w_RP[:, None] @ stack.y[:, :, None])[:, 0, 0] / total_R
    loss_RVK = mean_R[:, None, None] - height_RV[:, :, None] * rows.kappa_RK[:, None]
    loss_RVK -= stack.y.min(axis=1)[:, None, None]
    first_R = np.sum(joint_RVK * loss_RVK, axis=(1, 2))
    second_R = np.sum(joint_RVK * (loss_RVK**2 + (1 / total_R)[:, None, None]), axis=(1, 2))
    # Added one after another: numpy and Python each add in an order of their own.
    first_G, second_G = (np.cumsum(moment_R.reshape(-1, draws), axis=1)[:, -1] for moment_R in (first_R, second_R))
    return [
        math.sqrt(max(second - first**2, 0.0))
        for first, second in zip(first_G.tolist(), second_G.tolist(), strict=True)
    ]


def _log_posterior(stack: _Stack, x_RV: FloatArray, rows: _Rows) -> FloatArray:
    """ln p(y | x*, κ) + ln p(κ) with L₀ integrated out, shape (R, V, K); constants in none of them are left out."""
    w_RP = _weights(stack.n, stack.shape_error, rows.noise_square)
    total_R = w_RP.sum(axis=1)
    y0_RP = stack.y - (np.sum(w_RP * stack.y, axis=1) / total_R)[:, None]
    g_RVP = rows.g(stack.x[:, None] - x_RV[:, :, None])
    g_RVP = g_RVP - (np.einsum("rp,rvp->rv", w_RP, g_RVP) / total_R[:, None])[:, :, None]
    yy_R = np.einsum("rp,rp,rp->r", w_RP, y0_RP, y0_RP)
    gy_RV = np.einsum("rp,rp,rvp->rv", w_RP, y0_RP, g_RVP)
    gg_RV = np.einsum("rp,rvp,rvp->rv", w_RP, g_RVP, g_RVP)
    kappa_RVK = rows.kappa_RK[:, None]
    norm_R = np.sum(np.log(w_RP, out=np.zeros_like(w_RP), where=stack.n > 0), axis=1) - np.log(total_R)
    # (norm − (yy − 2κ·gy + κ²·gg) − Z²) / 2, in two arrays: what takes the time here is memory.
    log_RVK = 2 * kappa_RVK * gy_RV[:, :, None]
    np.subtract(yy_R[:, None, None], log_RVK, out=log_RVK)
    log_RVK += kappa_RVK**2 * gg_RV[:, :, None]
    np.subtract(norm_R[:, None, None], log_RVK, out=log_RVK)
    log_RVK -= Z**2
    log_RVK /= 2
    return np.asarray(log_RVK, dtype=np.float64)


def _weights(n_RP: FloatArray, error_RP: FloatArray, noise_square: float | FloatArray) -> FloatArray:
    variance_RP = noise_square / np.maximum(n_RP, 1) + error_RP**2
    return np.asarray(np.where(n_RP > 0, 1 / variance_RP, 0.0), dtype=np.float64)


def _log_sum_exp(values: FloatArray) -> FloatArray:
    top = values.max(axis=-1, keepdims=True)
    return np.asarray(top[..., 0] + np.log(np.sum(np.exp(values - top), axis=-1)), dtype=np.float64)


def _stacked(sweeps: Sequence[Sweep]) -> _Stack:
    """x, y, n and shape_error of shape (sweeps, most rates); padding has n = 0."""
    columns = np.zeros((4, len(sweeps), max(len(sweep.x) for sweep in sweeps)))
    for i, sweep in enumerate(sweeps):
        columns[:, i, : len(sweep.x)] = sweep.x, sweep.y, sweep.n, sweep.shape_error
    return _Stack(*columns)


def _typical_log_curvature(sweeps: Sequence[Sweep], level: float) -> float:
    found = [np.polyfit(s.x - s.x.mean(), s.y, deg=2)[0] for s in sweeps]
    positive = [math.log(a) for a in found if a > 1e-6 * level]
    return float(np.median(positive)) if positive else math.log(0.02 * level)
