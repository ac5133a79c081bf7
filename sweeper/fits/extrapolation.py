"""Where the optimum lies at an x without runs: a power law that scatters and may bend, through optima with errors.

ln y_i = α + b·u_i + q·u_i² + ε_i, u = ln x about its weighted mean, ε_i ~ N(0, s_i² + τ²): s_i is the standard error of
optimum i, τ the scatter of optima about any law, q the bend of the law. α and b have flat priors, q ~ N(0, BEND²),
τ ~ half-normal(SCATTER). Given τ everything is Gaussian (a random effect; Rasmussen & Williams 2006, §2.7); τ is
integrated over a grid. Few optima then have an interval that neither collapses, as that of a law which fits them
exactly, nor explodes, as Student's with one degree of freedom; far from the data it grows with the square of ln x.
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
BEND = 0.04
"""Standard deviation of q per squared e-fold of x. HyperP's table 4 with an irreducible rate in place of none bends by
0.01, public Muon sweeps over 1B to 16B tokens by −0.03, Step Law's rates along the batch by 0.1 and more."""
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
    u = np.log(x) - float(np.average(np.log(x), weights=1 / (log_sd**2 + SCATTER**2)))
    away = math.log(at) - (float(np.log(x[0])) - u[0])
    basis, there = np.stack([np.ones_like(u), u], axis=1), np.array([1.0, away])
    means, sds, evidence = np.empty((3, len(TAUS)))
    for place, tau in enumerate(TAUS):
        cov = np.diag(log_sd**2 + tau**2) + BEND**2 * np.outer(u**2, u**2)
        inverse = np.linalg.inv(cov)
        precision = basis.T @ inverse @ basis
        spread = np.linalg.inv(precision)
        line = spread @ basis.T @ inverse @ log_y
        residual = log_y - basis @ line
        shared = BEND**2 * away**2 * u**2
        rest = there - basis.T @ inverse @ shared
        means[place] = there @ line + shared @ inverse @ residual
        variance = BEND**2 * away**4 - shared @ inverse @ shared + rest @ spread @ rest
        sds[place] = math.sqrt(max(float(variance), 0.0) + tau**2)
        evidence[place] = (
            -(np.linalg.slogdet(cov)[1] + np.linalg.slogdet(precision)[1] + residual @ inverse @ residual) / 2
            - (tau / SCATTER) ** 2 / 2
        )
    weights = np.exp(evidence - evidence.max())
    return Extrapolation(means=means, sds=sds, weights=weights / weights.sum())
