"""Loss against compute, L = A·C^−b + E, and against model size and data, L = E + A·N^−alpha + B·D^−beta."""

import math
import sys
from dataclasses import dataclass

import numpy as np

from sweeper.laws.arrays import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class LossCurve:
    """L = A·C^−b + E: nats per token against training FLOPs.

    >>> curve = LossCurve(A=223.25, b=0.1166, E=1.23318)
    >>> f"{curve.at(5.9614e21):.3f}", f"{curve.flops(1.8785):.2e}"
    ('1.879', '5.96e+21')
    """

    A: float
    """Scale of the reducible loss, nats per token at C = 1."""
    b: float
    """Exponent of compute, positive."""
    E: float
    """Irreducible loss, nats per token."""

    def at(self, C: float) -> float:
        return float(self.A * C**-self.b + self.E)

    def along(self, C: FloatArray) -> FloatArray:
        return np.asarray(self.A * C**-self.b + self.E, dtype=np.float64)

    def flops(self, L: float) -> float:
        """The compute at which the curve reaches the loss L; infinite at or below E, and beyond the floats."""
        if L <= self.E or self.A == 0:
            return math.inf
        log_C = -math.log((L - self.E) / self.A) / self.b
        return math.exp(log_C) if log_C < math.log(sys.float_info.max) else math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSurface:
    """L(N, D) = E + A·N^−alpha + B·D^−beta: nats per token over parameters N and training tokens D.

    Source: Hoffmann et al. 2022, eq. 2 (arXiv 2203.15556); the constants below are its eq. 10.

    >>> surface = LossSurface(E=1.69, A=406.4, alpha=0.34, B=410.7, beta=0.28)
    >>> f"{surface.at(70e9, 1.4e12):.3f}", f"{surface.size_exponent:.2f}"
    ('1.937', '0.45')
    """

    E: float
    """Irreducible loss, nats per token."""
    A: float
    alpha: float
    """Exponent of size, positive."""
    B: float
    beta: float
    """Exponent of data, positive."""

    @property
    def size_exponent(self) -> float:
        """a of N ∝ C^a along the least loss at C ∝ N·D: beta/(alpha + beta) (Hoffmann et al. 2022, eq. 4)."""
        return self.beta / (self.alpha + self.beta)

    def at(self, N: float, D: float) -> float:
        return float(self.E + self.A * N**-self.alpha + self.B * D**-self.beta)

    def along(self, N: FloatArray, D: FloatArray) -> FloatArray:
        return np.asarray(self.E + self.A * N**-self.alpha + self.B * D**-self.beta, dtype=np.float64)
