"""How far the optimum moves when a sweep has fewer learning rates: HyperP's experiment E11 on any data."""

from dataclasses import dataclass

from sweeper.fits.losses import Key


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """The optima of all subsets of n learning rates of one group against the optimum of all of them."""

    group: dict[str, Key]
    rates: int
    """n, the learning rates of each subset."""
    of: int
    """Learning rates of the group."""
    subsets: int
    """Subsets that were fitted: all of them, or a sample of the many."""
    settled: int
    """Those of them that have an optimum; the others see a bound, a hill or nothing, and enter no mean."""
    lr_error: float | None
    """Mean |η*_n / η* − 1| over the settled subsets; None where there are none."""
    loss_error: float | None
    """Mean |L*_n / L* − 1|."""
