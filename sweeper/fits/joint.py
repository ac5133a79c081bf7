"""Loss over data and learning rate at once: L(T, η) = E + A·T^−beta·(1 + κ·g(u)), u = ln η − ln(a·T^b)."""

from dataclasses import dataclass

from sweeper.fits.losses import Key


@dataclass(frozen=True, slots=True, kw_only=True)
class JointFit:
    """All runs of all budgets in one fit: the law of the optimum and the loss at it share their evidence."""

    per: dict[str, Key]
    y: str
    x: str
    """Column of T."""
    rate: str
    E: float
    A: float
    beta: float
    a: float
    """η* = a·T^b."""
    b: float
    b_low: float | None
    """90 % interval of b by resampling budgets and runs."""
    b_high: float | None
    beta_low: float | None
    beta_high: float | None
    kappa: float
    """Curvature of the valley as a share of the reducible loss, per squared e-fold of η."""
    skew: float
    rmse: float
    """Of the loss, nats per token."""
    points: int
    warnings: tuple[str, ...]
