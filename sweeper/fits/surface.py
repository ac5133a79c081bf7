"""Loss over model size and data, L(N, D) = E + A·N^−alpha + B·D^−beta."""

from dataclasses import dataclass

from sweeper.fits.losses import Key


@dataclass(frozen=True, slots=True, kw_only=True)
class SurfaceFit:
    """L = E + A·N^−alpha + B·D^−beta with the case-bootstrap interval (90 %) of each constant."""

    per: dict[str, Key]
    y: str
    N: str
    """Column of the size."""
    D: str
    """Column of the data."""
    E: float
    A: float
    alpha: float
    B: float
    beta: float
    E_low: float | None
    E_high: float | None
    alpha_low: float | None
    alpha_high: float | None
    beta_low: float | None
    beta_high: float | None
    loo_error: float | None
    """Mean relative error of L at each point, predicted from the others."""
    condition: float
    """Of the scaled Jacobian at the solution: above 1e3 the constants trade off against each other."""
    points: int
    N_range: tuple[float, float]
    D_range: tuple[float, float]
    warnings: tuple[str, ...]
    """What a reader must know, such as a grid of one ratio D/N, which identifies N and D poorly."""
