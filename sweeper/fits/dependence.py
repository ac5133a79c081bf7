"""What moves the optimum: the exponent of η* along each covariate, "no dependence" among the possible answers."""

from dataclasses import dataclass
from typing import Literal

from sweeper.fits.losses import Key

Verdict = Literal["falls", "rises", "no dependence", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependence:
    """The exponent of η* along one covariate, the others of its fit held constant."""

    y: str
    x: str
    per: dict[str, Key]
    beside: tuple[str, ...]
    """The covariates that were fitted with it."""
    b: float
    b_low: float | None
    """90 % interval (Student's t); None without a degree of freedom."""
    b_high: float | None
    verdict: Verdict
    """`no dependence` where the interval contains 0 and lies within ±0.1; `unknown` where it is wider than that."""
    points: int
    values: int
    """Distinct values of the covariate."""
    published: float | None
    """Exponent of the question's reference, if it has one."""
    agrees: bool | None
    """Whether the published exponent lies inside the interval."""
