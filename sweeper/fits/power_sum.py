"""The robust solver of curves and surfaces: L = E + Σₖ Aₖ·xₖ^−alphaₖ by Huber's loss on ln L, for many weightings.

The objective is that of Hoffmann et al. 2022, appendix D.2 (arXiv 2203.15556): Σ w·Huber_δ(ln L̂ − ln L), with
ln L̂ = logsumexp(ln Aₖ − alphaₖ·ln xₖ, …, ln E). Covariates are centred and the loss is divided by its geometric mean,
so that no answer depends on a unit. Starts come from variable projection: for given exponents the best A and E ≥ 0 of
the relative residuals are linear (Golub and Pereyra 1973). The refinement is a damped Gauss–Newton method on reweighted
squares (Huber 1981, §7.8), which never increases the objective. Weightings are rows of one array, so that a bootstrap
or a cross-validation costs hardly more than a single fit.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np

from sweeper.laws.arrays import FloatArray

DELTA = 1e-3
"""δ of Huber's loss, in ln L (Hoffmann et al. 2022, D.2)."""
EXPONENTS = (1e-3, 2.0)
"""Where exponents are looked for; published ones lie between 0.05 and 0.5."""
TRIED = 14
"""Exponents of each term that variable projection tries."""
STARTS = 8
"""Best of the tried combinations that are refined."""
NOTHING = DELTA / 10
"""A term or E below this share of the loss everywhere is none; this is its lower bound, which `named` reads as 0."""
START_POINTS = 512
"""Points that starts are projected on; more add time, not better starts."""
CHUNK = 4_000_000
"""Rows times points that are refined together, which bounds the memory to a few hundred megabytes."""
STEPS = 400
"""Iterations at most; a hundred is usual."""
FLAT = 1e-9
"""Relative decrease of the objective below which a step has gained nothing."""
CALM = 8
"""Steps in a row without a gain after which a row has converged: a refused one only raises the damping tenfold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """What the solver sees of the data; K terms, P points."""

    u_KP: FloatArray
    """Covariates: ln xₖ less its mean."""
    v_P: FloatArray
    """ln L less its mean."""
    centre_K: FloatArray
    level: float

    @classmethod
    def of(cls, L: FloatArray, *x: FloatArray) -> "Points":
        log_x_KP = np.log(np.stack(x))
        centre_K = log_x_KP.mean(axis=1)
        level = float(np.log(L).mean())
        return cls(u_KP=log_x_KP - centre_K[:, None], v_P=np.log(L) - level, centre_K=centre_K, level=level)


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerSum:
    """The constants of one fit in the units of the data; a term or E at its lower bound is 0."""

    E: float
    scales: tuple[float, ...]
    """Aₖ."""
    exponents: tuple[float, ...]
    """alphaₖ."""


# R rows (weightings), P points, K terms, Q = 2K + 1 constants: ln A₁, alpha₁, ln A₂, …, ln E.


def fit_power_sum(points: Points, weights_RP: FloatArray | None = None, near_Q: FloatArray | None = None) -> FloatArray:
    """The constants that minimise the objective for each row of weights, shape (R, Q).

    Args:
        points: The data.
        weights_RP: Weight of each point, such as how often a resample drew it; ones in a single row when left out.
        near_Q: Where every row is started besides its own best projection, such as at the fit of all points. Without
            it each row starts from several projections.
    """
    weights_RP = np.ones((1, points.v_P.size)) if weights_RP is None else weights_RP
    together = max(1, CHUNK // (STARTS * points.v_P.size))
    if len(weights_RP) > together:
        chunks = [weights_RP[first : first + together] for first in range(0, len(weights_RP), together)]
        return np.concatenate([fit_power_sum(points, chunk, near_Q) for chunk in chunks])
    own_RSQ = projections(points, weights_RP, STARTS if near_Q is None else 1)
    if near_Q is not None:
        own_RSQ = np.concatenate([own_RSQ, np.broadcast_to(near_Q, (len(own_RSQ), 1, near_Q.size))], axis=1)
    rows, starts, constants = own_RSQ.shape
    theta, value = refine(points, np.repeat(weights_RP, starts, axis=0), own_RSQ.reshape(-1, constants))
    best = value.reshape(rows, starts).argmin(axis=1)
    return np.asarray(theta.reshape(own_RSQ.shape)[np.arange(rows), best], dtype=np.float64)


def named(points: Points, theta_Q: FloatArray) -> PowerSum:
    """The constants in the units of the data."""
    log_A, alpha, log_E = theta_Q[:-1:2], theta_Q[1::2], float(theta_Q[-1])
    none_Q = _bounds(points)[0] + 1e-6
    scales = np.where(log_A > none_Q[:-1:2], np.exp(log_A + alpha * points.centre_K + points.level), 0.0)
    return PowerSum(
        E=math.exp(log_E + points.level) if log_E > none_Q[-1] else 0.0,
        scales=tuple(map(float, scales)),
        exponents=tuple(map(float, alpha)),
    )


def condition_of(points: Points, theta_Q: FloatArray) -> float:
    """Condition number of ∂ ln L̂/∂(ln A, alpha, …, ln E) at the centre of the data, each column scaled to length 1."""
    jacobian_PQ = slopes(theta_Q[None], points.u_KP)[1][0]
    values = np.linalg.svd(jacobian_PQ / np.linalg.norm(jacobian_PQ, axis=0), compute_uv=False)
    return float(values[0] / max(values[-1], values[0] * np.finfo(np.float64).eps))


def log_sum(theta_RQ: FloatArray, u_KP: FloatArray) -> tuple[FloatArray, FloatArray]:
    """ln L̂ less its level, shape (R, P), and the share of each term and E in it, shape (R, K + 1, P)."""
    terms_RTP = theta_RQ[:, 0::2, None] + np.zeros(u_KP.shape[1])
    terms_RTP[:, :-1] -= theta_RQ[:, 1::2, None] * u_KP
    top_RP = terms_RTP.max(axis=1)
    share_RTP = np.exp(terms_RTP - top_RP[:, None])
    total_RP = share_RTP.sum(axis=1)
    return top_RP + np.log(total_RP), share_RTP / total_RP[:, None]


def slopes(theta_RQ: FloatArray, u_KP: FloatArray) -> tuple[FloatArray, FloatArray]:
    """ln L̂ less its level, shape (R, P), and its derivative by each constant, shape (R, P, Q)."""
    log_RP, share_RTP = log_sum(theta_RQ, u_KP)
    jacobian_RQP = np.empty((len(theta_RQ), theta_RQ.shape[1], u_KP.shape[1]))
    jacobian_RQP[:, 0::2] = share_RTP
    jacobian_RQP[:, 1::2] = -share_RTP[:, :-1] * u_KP
    return log_RP, np.swapaxes(jacobian_RQP, 1, 2)


def objective(points: Points, weights_RP: FloatArray, theta_RQ: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Σ w·Huber_δ(ln L̂ − ln L) of each row, shape (R,), and its gradient, shape (R, Q)."""
    log_RP, jacobian_RPQ = slopes(theta_RQ, points.u_KP)
    residual_RP = log_RP - points.v_P
    pull_RP = weights_RP * np.clip(residual_RP, -DELTA, DELTA)
    return _huber(residual_RP, weights_RP), np.einsum("rp,rpq->rq", pull_RP, jacobian_RPQ)


def projections(points: Points, weights_RP: FloatArray, most: int) -> FloatArray:
    """The best combinations of tried exponents with their A and E ≥ 0, best first, shape (R, most, Q).

    A and E minimise Σ w·(L̂/L − 1)²: of the non-negative solutions on every set of terms, the best.
    """
    terms = len(points.u_KP)
    some = slice(None, None, -(-points.v_P.size // START_POINTS))
    u_KP, v_P, weights_RP = points.u_KP[:, some], points.v_P[some], weights_RP[:, some]
    tried_CK = np.array(list(itertools.product(np.geomspace(0.02, 1.5, TRIED), repeat=terms)))
    basis_CTP = np.ones((len(tried_CK), terms + 1, v_P.size))
    basis_CTP[:, :-1] = np.exp(-tried_CK[:, :, None] * u_KP)
    basis_CTP *= np.exp(-v_P)
    gram_RCTT = np.einsum("rp,csp,ctp->rcst", weights_RP, basis_CTP, basis_CTP, optimize=True)
    target_RCT = np.einsum("rp,ctp->rct", weights_RP, basis_CTP, optimize=True)
    gain_RC = np.full(gram_RCTT.shape[:2], -np.inf)
    linear_RCT = np.zeros_like(target_RCT)
    for size in range(1, terms + 2):
        for chosen in map(list, itertools.combinations(range(terms + 1), size)):
            gram = gram_RCTT[:, :, chosen][..., chosen]
            ridge = 1e-12 * np.einsum("rctt->rc", gram)[..., None, None] * np.eye(size)
            part = np.linalg.solve(gram + ridge, target_RCT[:, :, chosen, None])[..., 0]
            gain = np.where((part >= 0).all(axis=-1), np.sum(part * target_RCT[:, :, chosen], axis=-1), -np.inf)
            better = gain > gain_RC
            gain_RC = np.where(better, gain, gain_RC)
            whole = np.zeros_like(linear_RCT)
            whole[:, :, chosen] = part
            linear_RCT = np.where(better[..., None], whole, linear_RCT)
    order_RS = np.argsort(-gain_RC, axis=1)[:, :most]
    theta_RSQ = np.empty((*order_RS.shape, 2 * terms + 1))
    theta_RSQ[..., 0::2] = np.log(np.maximum(np.take_along_axis(linear_RCT, order_RS[..., None], axis=1), 1e-300))
    theta_RSQ[..., 1::2] = tried_CK[order_RS]
    return np.clip(theta_RSQ, *_bounds(points))


def refine(points: Points, weights_RP: FloatArray, theta_RQ: FloatArray) -> tuple[FloatArray, FloatArray]:
    """A local minimum of the objective from each start, shape (R, Q), and its value, shape (R,)."""
    low_Q, high_Q = _bounds(points)
    theta_RQ = theta_RQ.copy()
    rows, constants = theta_RQ.shape
    damping_R = np.full(rows, 1e-3)
    log_RP, jacobian_RPQ = slopes(theta_RQ, points.u_KP)
    residual_RP = log_RP - points.v_P
    value_R = _huber(residual_RP, weights_RP)
    active = np.arange(rows)
    calm_R = np.zeros(rows, dtype=np.intp)
    for _ in range(STEPS):
        weight = weights_RP[active] / np.maximum(np.abs(residual_RP[active]) / DELTA, 1)
        jacobian, residual, theta = jacobian_RPQ[active], residual_RP[active], theta_RQ[active]
        gradient = np.einsum("rp,rpq->rq", weight * residual, jacobian)
        hessian = np.swapaxes(jacobian, 1, 2) @ (weight[:, :, None] * jacobian)
        held = ((theta <= low_Q) & (gradient > 0)) | ((theta >= high_Q) & (gradient < 0))
        gradient[held] = 0
        hessian[held[:, :, None] | held[:, None, :]] = 0
        scale = np.einsum("rqq->rq", hessian)
        scale = np.maximum(scale, 1e-12 * scale.max(axis=1, keepdims=True) + 1e-300)
        damped = hessian + (damping_R[active, None] * scale)[:, :, None] * np.eye(constants)
        damped[:, range(constants), range(constants)] += 1e-12 * scale + held
        moved = np.clip(theta - np.linalg.solve(damped, gradient[..., None])[..., 0], low_Q, high_Q)
        log_new, jacobian_new = slopes(moved, points.u_KP)
        residual_new = log_new - points.v_P
        value_new = _huber(residual_new, weights_RP[active])
        gained = value_R[active] - value_new
        better = gained > 0
        calm = gained <= FLAT * value_R[active]
        took = active[better]
        theta_RQ[took], value_R[took] = moved[better], value_new[better]
        residual_RP[took], jacobian_RPQ[took] = residual_new[better], jacobian_new[better]
        damping_R[active] = np.clip(np.where(better, damping_R[active] / 5, damping_R[active] * 10), 1e-6, 1e9)
        calm_R[active] = np.where(calm, calm_R[active] + 1, 0)
        active = active[calm_R[active] < CALM]
        if not active.size:
            break
    return theta_RQ, value_R


def _huber(residual_RP: FloatArray, weights_RP: FloatArray) -> FloatArray:
    away = np.abs(residual_RP)
    inner = np.minimum(away, DELTA)
    return np.asarray(np.sum(weights_RP * inner * (away - inner / 2), axis=1), dtype=np.float64)


def _bounds(points: Points) -> tuple[FloatArray, FloatArray]:
    """Lowest and highest value of each constant, shapes (Q,)."""
    terms = len(points.u_KP)
    lowest, highest = float(points.v_P.min()), float(points.v_P.max())
    none = lowest + math.log(NOTHING)
    # A term's scale is its size at the centre of the data; it is largest at the smallest x.
    nowhere_K = none + EXPONENTS[1] * points.u_KP.min(axis=1)
    low = np.array([value for scale in nowhere_K for value in (scale, EXPONENTS[0])] + [none])
    high = np.array([*[highest + 1, EXPONENTS[1]] * terms, highest])
    return low, high
