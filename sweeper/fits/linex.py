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
from collections.abc import Callable
from dataclasses import dataclass

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

_Stack = tuple[FloatArray, FloatArray, FloatArray, FloatArray]
"""x_GP, y_GP, n_GP and shape error of several sweeps."""

Z = np.linspace(-4, 4, 41)
"""Nodes of ln κ in units of τ about m."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Mean losses at the distinct rates of one group; all of shape (rates,)."""

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
    st = np.clip(skew * t, -60, 60)
    near = np.abs(st) < 1e-3
    full = 2 * (np.expm1(st) - st) / max(skew**2, 1e-12)  # so small a skew is never taken from here
    return np.asarray(np.where(near, t**2 * (1 + st / 3), full), dtype=np.float64)


def fit_pool(sweeps: list[Sweep]) -> Pool:
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
        evidence = _log_posterior(stack, centres, _constants(theta))
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
    stack = _stacked([sweep])
    low, high = float(sweep.x[0]) - REACH, float(sweep.x[-1]) + REACH
    for _ in range(3):  # each pass narrows the grid to where the mass is
        centres = np.linspace(low, high, 81)
        joint_DVK = np.concatenate([_log_posterior(stack, centres[None], one) for one in pool.draws])
        # The evidence of this sweep is in the draws already: each is a posterior of its own.
        joint_DVK = np.exp(joint_DVK - joint_DVK.max(axis=(1, 2), keepdims=True))
        joint_DVK *= (pool.weights / joint_DVK.sum(axis=(1, 2)))[:, None, None]
        mass = joint_DVK.sum(axis=(0, 2))
        support = np.flatnonzero(mass > 1e-4 * mass.max())
        low, high = centres[max(support[0] - 1, 0)], centres[min(support[-1] + 1, len(centres) - 1)]
    cumulative = np.concatenate([[0.0], np.cumsum((mass[1:] + mass[:-1]) / 2)])
    quantiles = np.interp([(1 - level) / 2, 0.5, (1 + level) / 2], cumulative / cumulative[-1], centres)
    log_kappa_DK = np.array([one.log_curvature + one.log_curvature_sd * Z for one in pool.draws])
    curvature = math.exp(float(np.sum(joint_DVK.sum(axis=1) * log_kappa_DK)))
    w = _weights(sweep.n, sweep.shape_error, pool.noise)
    height = curvature * g(sweep.x - quantiles[1], pool.skew)
    return Valley(
        x=float(quantiles[1]),
        low=float(quantiles[0]),
        high=float(quantiles[2]),
        loss=float(np.sum(w * (sweep.y - height)) / np.sum(w)),
        loss_sd=_loss_sd(sweep, pool, centres, joint_DVK),
        curvature=curvature,
    )


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


def _loss_sd(sweep: Sweep, pool: Pool, centres: FloatArray, joint_DVK: FloatArray) -> float:
    """Standard deviation of L₀: of the weighted mean itself, and over what the heights of the points depend on."""
    first = second = 0.0
    for one, mass_VK in zip(pool.draws, joint_DVK, strict=True):
        w = _weights(sweep.n, sweep.shape_error, one.noise)
        height_V = g(sweep.x - centres[:, None], one.skew) @ w / w.sum()
        kappa_K = np.exp(one.log_curvature + one.log_curvature_sd * Z)
        loss_VK = float(w @ sweep.y / w.sum()) - height_V[:, None] * kappa_K - sweep.y.min()
        first += float(np.sum(mass_VK * loss_VK))
        second += float(np.sum(mass_VK * (loss_VK**2 + 1 / w.sum())))
    return math.sqrt(max(second - first**2, 0.0))


# G sweeps, P points of each (padded with weight 0), V values of x*, K values of ln κ.


def _log_posterior(stack: _Stack, x_GV: FloatArray, pool: Constants) -> FloatArray:
    """ln p(y | x*, κ) + ln p(κ) with L₀ integrated out, shape (G, V, K); constants in none of them are left out."""
    x_GP, y_GP, n_GP, error_GP = stack
    w_GP = _weights(n_GP, error_GP, pool.noise)
    total_G = w_GP.sum(axis=1)
    y0_GP = y_GP - (np.sum(w_GP * y_GP, axis=1) / total_G)[:, None]
    g_GVP = g(x_GP[:, None] - x_GV[:, :, None], pool.skew)
    g_GVP = g_GVP - (np.einsum("gp,gvp->gv", w_GP, g_GVP) / total_G[:, None])[:, :, None]
    yy_G = np.einsum("gp,gp,gp->g", w_GP, y0_GP, y0_GP)
    gy_GV = np.einsum("gp,gp,gvp->gv", w_GP, y0_GP, g_GVP)
    gg_GV = np.einsum("gp,gvp,gvp->gv", w_GP, g_GVP, g_GVP)
    kappa_K = np.exp(pool.log_curvature + pool.log_curvature_sd * Z)
    squares_GVK = yy_G[:, None, None] - 2 * kappa_K * gy_GV[:, :, None] + kappa_K**2 * gg_GV[:, :, None]
    norm_G = np.sum(np.log(w_GP, out=np.zeros_like(w_GP), where=n_GP > 0), axis=1) - np.log(total_G)
    return np.asarray((norm_G[:, None, None] - squares_GVK - Z**2) / 2, dtype=np.float64)


def _weights(n_GP: FloatArray, error_GP: FloatArray, noise: float) -> FloatArray:
    variance_GP = noise**2 / np.maximum(n_GP, 1) + error_GP**2
    return np.asarray(np.where(n_GP > 0, 1 / variance_GP, 0.0), dtype=np.float64)


def _log_sum_exp(values: FloatArray) -> FloatArray:
    top = values.max(axis=-1, keepdims=True)
    return np.asarray(top[..., 0] + np.log(np.sum(np.exp(values - top), axis=-1)), dtype=np.float64)


def _stacked(sweeps: list[Sweep]) -> _Stack:
    """x, y, n and shape_error of shape (sweeps, most rates); padding has n = 0."""
    widest = max(len(sweep.x) for sweep in sweeps)

    def padded(column: Callable[[Sweep], FloatArray]) -> FloatArray:
        return np.array([np.pad(column(sweep), (0, widest - len(sweep.x))) for sweep in sweeps])

    return padded(lambda s: s.x), padded(lambda s: s.y), padded(lambda s: s.n), padded(lambda s: s.shape_error)


def _typical_log_curvature(sweeps: list[Sweep], level: float) -> float:
    found = [np.polyfit(s.x - s.x.mean(), s.y, deg=2)[0] for s in sweeps]
    positive = [math.log(a) for a in found if a > 1e-6 * level]
    return float(np.median(positive)) if positive else math.log(0.02 * level)
