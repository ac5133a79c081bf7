"""Power laws y = a·x^b and the published ones, each with its source."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sweeper.laws.arrays import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerLaw:
    """y = a·x^b + c.

    >>> f"{PowerLaw(a=24.27, b=-0.32).at(10.4e9):.4f}"
    '0.0151'
    """

    a: float
    """y at x = 1."""
    b: float
    """Exponent."""
    c: float = 0.0
    """The part of y that x does not move."""

    def at(self, x: float) -> float:
        return float(self.a * x**self.b + self.c)

    def along(self, x: FloatArray) -> FloatArray:
        return np.asarray(self.a * x**self.b + self.c, dtype=np.float64)


HYPERP_TOKENS = PowerLaw(a=24.27, b=-0.320)
"""Peak MuonH rate against tokens, dense d = 8 (HyperP eq. 8, arXiv 2603.28743)."""

HYPERP_BATCH = PowerLaw(a=4.66e-6, b=0.558)
"""Peak MuonH rate against batch tokens, dense d = 8 at 10.4e9 tokens (HyperP §4.3, arXiv 2603.28743)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Published laws of the peak learning rate that ours are compared with."""

    title: str
    laws: Mapping[str, PowerLaw]
    """By axis."""


REFERENCES: Mapping[str, Reference] = {
    "hyperp": Reference(title="HyperP", laws={"tokens": HYPERP_TOKENS, "batch_tokens": HYPERP_BATCH}),
}
"""What a question's `reference` may name."""
