"""Loss against compute, L = A·C^−b + E."""

import math
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
        """The compute at which the curve reaches the loss L; infinite at or below E."""
        if L <= self.E:
            return math.inf
        return float(((L - self.E) / self.A) ** (-1 / self.b))
