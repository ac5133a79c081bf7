"""Loss against compute, L = A·C^−b + E, and the published curves, each with its source."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


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


HYPERP_MUON = LossCurve(A=2.24e2, b=0.12, E=1.23)
"""Muon with μP++ at 50 tokens per parameter, as printed to two digits (HyperP fig. 9, arXiv 2603.28743)."""

HYPERP_MUONH = LossCurve(A=6.67e3, b=0.20, E=1.62)
"""Plain MuonH (HyperP fig. 9, arXiv 2603.28743)."""

HYPERP_MUONH_HYPERP = LossCurve(A=8.59e1, b=0.09, E=0.85)
"""MuonH with HyperP, dense (HyperP fig. 9, arXiv 2603.28743)."""

HYPERP_MOE = LossCurve(A=8.76e1, b=0.09, E=0.87)
"""MuonH with HyperP, mixture of experts S = 8, k = 8 (HyperP fig. 9, arXiv 2603.28743)."""
