"""Loss over model size and data, L(N, D) = E + A·N^−alpha + B·D^−beta."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sweeper.errors import FitError
from sweeper.fits.losses import IntArray, Key
from sweeper.fits.optimum import LEVEL
from sweeper.fits.power_sum import EXPONENTS, Points, PowerSum, condition_of, fit_power_sum, log_sum, named
from sweeper.laws.arrays import FloatArray
from sweeper.laws.loss import LossSurface

CONSTANTS = 5
"""E, A, alpha, B and beta: as many pairs of N and D are needed."""
MAX_FOLDS = 60
"""Pairs up to which each is predicted from all others; more are left out in as many random folds."""
ILL_CONDITIONED = 1e3
"""Condition number from which the constants trade off against each other."""
ONE_LINE = 0.99
"""R² of ln D on ln N above which the pairs lie on one line, such as a fixed number of tokens per parameter."""
SAME = 1e-9
"""Values whose logarithms differ by less are one value."""
SAME_RATIO = 0.05
"""Standard deviation of ln(D/N) below which the pairs have one ratio, to rounding of steps and sizes."""
MIN_RESAMPLES = 50
"""Resamples of five pairs or more below which no interval is given."""
MAX_POINTS = 2_000
"""Points that a surface is fitted to; of more a sample, which a warning says."""
NO_ENDS = (None, None)
READ_BEYOND = 1.1
"""As for curves: up to this factor outside the data a reading counts as inside."""


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
    """Ends of intervals are None where too few points can be left out."""
    E_high: float | None
    alpha_low: float | None
    alpha_high: float | None
    beta_low: float | None
    beta_high: float | None
    size_exponent_low: float | None
    """Interval of a in N ∝ C^a, from the same resamples: often narrow where alpha and beta each are not."""
    size_exponent_high: float | None
    loo_error: float | None
    """Mean relative error of L at each pair of N and D, predicted from the others."""
    condition: float
    """Of the scaled Jacobian at the solution: above 1e3 the constants trade off against each other."""
    points: int
    N_range: tuple[float, float]
    D_range: tuple[float, float]
    warnings: tuple[str, ...]
    """What a reader must know, such as a grid of one ratio D/N, which identifies N and D poorly."""

    @property
    def surface(self) -> LossSurface:
        return LossSurface(E=self.E, A=self.A, alpha=self.alpha, B=self.B, beta=self.beta)

    @property
    def allocation(self) -> tuple[float, float]:
        """Compute-optimal exponents (a, b): N ∝ C^a and D ∝ C^b for C ∝ N·D (Hoffmann et al. 2022, eq. 4)."""
        return self.surface.size_exponent, 1 - self.surface.size_exponent

    def covers(self, N: float, D: float) -> bool:
        """Whether both lie within the data of the fit, to a factor of 1.1; the loss elsewhere is an extrapolation."""
        return all(
            low / READ_BEYOND <= value <= high * READ_BEYOND
            for value, (low, high) in ((N, self.N_range), (D, self.D_range))
        )


def fit_surface(
    N: npt.ArrayLike,
    D: npt.ArrayLike,
    L: npt.ArrayLike,
    *,
    per: dict[str, Key] | None = None,
    N_name: str = "params",
    D_name: str = "tokens",
    y_name: str = "loss",
    rng: np.random.Generator | None = None,
    resamples: int = 200,
) -> SurfaceFit:
    """Fit L = E + A·N^−alpha + B·D^−beta with A, B, E ≥ 0 by Huber's loss on ln L (δ = 1e-3).

    Starts, objective and solver are those of `sweeper.fits.power_sum`. Intervals are percentiles over resamples of the
    points, each fitted from the solution and from a start of its own.

    Args:
        N: Parameters of each run, shape (points,).
        D: Training tokens, shape (points,).
        L: Loss, nats per token, shape (points,): of the best run at each pair.
        per, N_name, D_name, y_name: Names that the result carries.
        rng: Draws the resamples, the folds of more than 60 pairs and the sample of more than 2,000 points; the same for
            the same data when left out.
        resamples: Of the bootstrap.

    Raises:
        FitError: Fewer than five pairs, one N or one D only, or a value that is not positive.

    Source: Hoffmann et al. 2022, §3.3 and appendix D.2 (arXiv 2203.15556). Besiroglu et al. 2024 (arXiv 2404.10102)
    show how a premature end of the optimiser misleads; here several starts are followed until nothing is gained.
    """
    n, d, losses = (np.asarray(values, dtype=np.float64) for values in (N, D, L))
    _check(n, d, losses, (N_name, D_name, y_name))
    rng = rng or np.random.default_rng(0)
    given = len(losses)
    if given > MAX_POINTS:
        sample = np.sort(rng.choice(given, MAX_POINTS, replace=False))
        n, d, losses = n[sample], d[sample], losses[sample]
    cell_P = _pairs(n, d)
    points = Points.of(losses, n, d)
    best_Q = fit_power_sum(points)[0]
    found = named(points, best_Q)
    more = int(cell_P.max()) + 1 > CONSTANTS
    ends = _bootstrap(points, best_Q, cell_P, rng, resamples) if more else {}
    condition = condition_of(points, best_Q)
    return SurfaceFit(
        per=dict(per or {}),
        y=y_name,
        N=N_name,
        D=D_name,
        E=found.E,
        A=found.scales[0],
        alpha=found.exponents[0],
        B=found.scales[1],
        beta=found.exponents[1],
        E_low=ends.get("E", NO_ENDS)[0],
        E_high=ends.get("E", NO_ENDS)[1],
        alpha_low=ends.get("alpha", NO_ENDS)[0],
        alpha_high=ends.get("alpha", NO_ENDS)[1],
        beta_low=ends.get("beta", NO_ENDS)[0],
        beta_high=ends.get("beta", NO_ENDS)[1],
        size_exponent_low=ends.get("size", NO_ENDS)[0],
        size_exponent_high=ends.get("size", NO_ENDS)[1],
        loo_error=_cross_validation(points, best_Q, cell_P, rng) if more else None,
        condition=condition,
        points=given,
        N_range=(float(n.min()), float(n.max())),
        D_range=(float(d.min()), float(d.max())),
        warnings=(
            *((f"fitted to a sample of {MAX_POINTS} of the {given} points",) if given > MAX_POINTS else ()),
            *_doubts(points, found, ends, condition, int(cell_P.max()) + 1, (N_name, D_name)),
        ),
    )


def _check(N: FloatArray, D: FloatArray, L: FloatArray, names: tuple[str, str, str]) -> None:
    for name, values in zip(names, (N, D, L), strict=True):
        bad = values[~(np.isfinite(values) & (values > 0))]
        if bad.size:
            raise FitError(f"a surface needs positive numbers, but {name} holds {bad[0]:g}; leave those rows out")
    surface = f"the surface {names[2]} ~ {names[0]} + {names[1]}"
    pairs = int(_pairs(N, D).max(initial=-1)) + 1
    for name, values in zip(names[:2], (N, D), strict=True):
        if values.size and np.ptp(np.log(values)) < SAME:
            raise FitError(
                f"{surface} needs several values of {name}, got only {values[0]:g}; fit a curve, or add some"
            )
    if pairs < CONSTANTS:
        raise FitError(
            f"{surface} has {CONSTANTS} constants and needs as many pairs of {names[0]} and {names[1]}, "
            f"got {pairs}; add budgets"
        )


def _pairs(N: FloatArray, D: FloatArray) -> IntArray:
    """The number of the pair of N and D that each point belongs to, shape (points,)."""
    order = np.lexsort((D, N))
    new = (np.diff(N[order], prepend=-1) != 0) | (np.diff(D[order], prepend=-1) != 0)
    cell_P = np.empty(len(N), dtype=np.intp)
    cell_P[order] = np.cumsum(new) - 1
    return cell_P


def _bootstrap(
    points: Points, best_Q: FloatArray, cell_P: IntArray, rng: np.random.Generator, resamples: int
) -> dict[str, tuple[float, float]]:
    """The 90 % interval of each constant over resamples that hold at least five pairs."""
    count, cells = cell_P.size, int(cell_P.max()) + 1
    drawn_RP = rng.multinomial(count, np.full(count, 1 / count), size=4 * resamples).astype(np.float64)
    cells_R = np.array(
        [np.count_nonzero(np.bincount(cell_P, weights=drawn_P, minlength=cells)) for drawn_P in drawn_RP]
    )
    kept_RP = drawn_RP[cells_R >= CONSTANTS][:resamples]
    if len(kept_RP) < MIN_RESAMPLES:
        return {}
    sums = [named(points, theta_Q) for theta_Q in fit_power_sum(points, kept_RP, best_Q)]
    values = {
        "E": [one.E for one in sums],
        "alpha": [one.exponents[0] for one in sums],
        "beta": [one.exponents[1] for one in sums],
        "size": [one.exponents[1] / sum(one.exponents) for one in sums],
    }
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    return {name: (float(low), float(high)) for name, v in values.items() for low, high in [np.quantile(v, tails)]}


def _cross_validation(points: Points, best_Q: FloatArray, cell_P: IntArray, rng: np.random.Generator) -> float:
    """Mean relative error of L over the points, each predicted from the pairs outside of its fold."""
    cells = int(cell_P.max()) + 1
    fold_P = (rng.permutation(cells) % MAX_FOLDS if cells > MAX_FOLDS else np.arange(cells))[cell_P]
    out_FP = fold_P == np.arange(fold_P.max() + 1)[:, None]
    theta_FQ = fit_power_sum(points, np.where(out_FP, 0.0, 1.0), best_Q)
    log_FP, _ = log_sum(theta_FQ, points.u_KP)
    return float(np.mean(np.abs(np.expm1((log_FP - points.v_P)[out_FP]))))


def _doubts(
    points: Points,
    found: PowerSum,
    ends: Mapping[str, tuple[float, float]],
    condition: float,
    pairs: int,
    names: tuple[str, str],
) -> Iterator[str]:
    """What a reader of the constants must know."""
    N, D = names
    if pairs <= CONSTANTS:
        yield f"{pairs} pairs of {N} and {D} for {CONSTANTS} constants: the surface is not tested by any; add budgets"
    n, d = points.u_KP
    if float(n @ d) ** 2 > ONE_LINE * float(n @ n) * float(d @ d):
        fixed = np.std(d - n) < SAME_RATIO
        how = f"one ratio {D}/{N}" if fixed else f"{N} and {D} that grow together"
        yield f"a grid of {how} hardly tells alpha from beta; add runs off that line"
    elif condition > ILL_CONDITIONED:
        yield f"the constants trade off against each other (condition {condition:.1g}); widen {N} and {D}"
    if found.E == 0:
        yield "E lies at its bound 0; add budgets to tell it from a slow power"
    for name, scale, column in (("A", found.scales[0], N), ("B", found.scales[1], D)):
        if scale == 0:
            yield f"{name} lies at its bound 0: the loss does not fall with {column}, whose exponent means nothing"
    for name, value, column in (("alpha", found.exponents[0], N), ("beta", found.exponents[1], D)):
        if not EXPONENTS[0] * 1.01 < value < EXPONENTS[1] * 0.99:
            yield f"{name} lies at its bound {value:.3g}; widen {column}"
        elif name in ends and ends[name][1] - ends[name][0] > value:
            low, high = ends[name]
            yield f"{name} is hardly determined ({low:.2g} to {high:.2g}): widen {column} before extrapolating along it"
