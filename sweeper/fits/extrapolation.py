"""Where the optimum lies at an x without runs: a power law that scatters and may bend, through optima with errors.

ln y_i = α + b·u_i + w(u_i) + ε_i, u = ln x, ε_i ~ N(0, s_i² + τ²): s_i is the standard error of optimum i, τ the
scatter of optima about any law, and w bends the law: its exponent wanders, dw'/du being white noise of density BEND²
(an integrated Wiener process, whose posterior is a cubic smoothing spline; Wahba 1978). α and b have flat priors, τ ~
half-normal(SCATTER). Given τ everything is Gaussian; τ is integrated over a grid. Few optima then have an interval that
neither collapses, as that of a law which fits them exactly, nor explodes, as Student's with one degree of freedom.
Beyond the data the law goes on with the exponent that it has there, and the interval grows faster than ln x.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from sweeper.fits.optimum import LEVEL
from sweeper.laws.arrays import FloatArray

SCATTER = 0.07
"""Of ln η* about its law: half-normal. HyperP's tables 4 and 8 scatter by 0.01 (arXiv 2603.28743), the seven budgets of
public Muon and MuonH sweeps by 0.03, Step Law's by 0.05 to 0.3 (arXiv 2503.04715)."""
BEND = 0.1
"""How much the exponent wanders per square root of an e-fold of x (standard deviation). Of public Muon sweeps it goes
from −0.21 to −0.30 between 1B and 16B tokens; HyperP's table 4 with an irreducible rate moves by 0.06 over as much,
Step Law's rates along the batch by 0.3 and more."""
UNKNOWN_SD = 0.05
"""Standard error of ln y of an optimum that comes without one."""
TAUS = SCATTER * np.linspace(0.02, 4, 60)


@dataclass(frozen=True, slots=True, kw_only=True)
class Extrapolation:
    """The posterior of ln y at one x: a mixture of normals over τ."""

    means: FloatArray
    sds: FloatArray
    weights: FloatArray
    """Of each τ; all three of shape (taus,)."""

    @property
    def mean(self) -> float:
        return float(self.weights @ self.means)

    @property
    def sd(self) -> float:
        return math.sqrt(float(self.weights @ (self.sds**2 + self.means**2)) - self.mean**2)

    def quantile(self, share: float) -> float:
        """Where this share of the mass lies below, by bisection of the mixture's distribution."""
        low, high = (float(np.min(self.means - 9 * self.sds)), float(np.max(self.means + 9 * self.sds)))
        for _ in range(60):
            middle = (low + high) / 2
            below = float(self.weights @ ndtr((middle - self.means) / self.sds))
            low, high = (middle, high) if below < share else (low, middle)
        return (low + high) / 2

    def interval(self) -> tuple[float, float]:
        """Ends of the 90 % interval of ln y."""
        return self.quantile((1 - LEVEL) / 2), self.quantile((1 + LEVEL) / 2)


def extrapolate(x: FloatArray, log_y: FloatArray, log_sd: FloatArray, at: float) -> Extrapolation:
    """The posterior of ln y at `at`, its own scatter included.

    Args:
        x: Positive, two distinct values at least, shape (points,).
        log_y: ln y, shape (points,).
        log_sd: Standard error of each, positive, shape (points,).
        at: Where, positive.

    >>> tokens, lr = np.array([1e9, 2e9, 4e9]), np.array([0.02, 0.016, 0.0128])
    >>> found = extrapolate(tokens, np.log(lr), np.full(3, 0.03), 8e9)
    >>> f"{math.exp(found.mean):.4f}", found.sd < 0.2
    ('0.0102', True)
    """
    # α and b are flat: where u starts is of no matter, as long as the process starts before all of them.
    start = min(float(np.log(x).min()), math.log(at))
    u, away = np.log(x) - start, math.log(at) - start
    bend, shared = BEND**2 * _wander(u, u), BEND**2 * _wander(u, np.array([away]))[:, 0]
    own = BEND**2 * away**3 / 3
    basis, there = np.stack([np.ones_like(u), u], axis=1), np.array([1.0, away])
    means, sds, evidence = np.empty((3, len(TAUS)))
    for place, tau in enumerate(TAUS):
        cov = np.diag(log_sd**2 + tau**2) + bend
        inverse = np.linalg.inv(cov)
        precision = basis.T @ inverse @ basis
        spread = np.linalg.inv(precision)
        line = spread @ basis.T @ inverse @ log_y
        residual = log_y - basis @ line
        rest = there - basis.T @ inverse @ shared
        means[place] = there @ line + shared @ inverse @ residual
        variance = own - shared @ inverse @ shared + rest @ spread @ rest
        sds[place] = math.sqrt(max(float(variance), 0.0) + tau**2)
        evidence[place] = (
            -(np.linalg.slogdet(cov)[1] + np.linalg.slogdet(precision)[1] + residual @ inverse @ residual) / 2
            - (tau / SCATTER) ** 2 / 2
        )
    weights = np.exp(evidence - evidence.max())
    return Extrapolation(means=means, sds=sds, weights=weights / weights.sum())


def _wander(a: FloatArray, b: FloatArray) -> FloatArray:
    """Covariance of an integrated Wiener process of density 1, shape (a, b): s²(3t − s)/6, s the lesser of two."""
    lesser, greater = np.minimum(a[:, None], b), np.maximum(a[:, None], b)
    return np.asarray(lesser**2 * (3 * greater - lesser) / 6, dtype=np.float64)
