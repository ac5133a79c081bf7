"""Power laws y = a·x^b fitted in both conventions: least squares of ln y, and of y itself."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares
from scipy.stats import t as student

from sweeper.errors import FitError
from sweeper.fits.losses import Key
from sweeper.fits.optimum import LEVEL, Optimum
from sweeper.laws.arrays import FloatArray
from sweeper.laws.power import PowerLaw

Space = Literal["linear", "log"]
MIN_POINTS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerLawFit:
    """y = a·x^b with the uncertainty of its exponent."""

    y: str
    x: str
    per: dict[str, Key]
    """The values that set this law apart from the others of its table."""
    space: Space
    """`log`: least squares of ln y, weighted by 1/SE² where the points have one; `linear`: of y (the papers')."""
    a: float
    b: float
    b_low: float | None
    """Lower end of the 90 % interval of b (Student's t); None for two points, which fit any law."""
    b_high: float | None
    loo_error: float | None
    """Mean relative error of y at each point, predicted from the others; None for two points."""
    points: int
    x_low: float
    x_high: float
    b_se: float | None
    """Standard error of b."""
    x_centre: float
    """Where y and b are uncorrelated in log space: the (weighted) geometric mean of x."""
    log_y_se: float | None
    """Standard error of ln y at x_centre."""
    scatter: float | None
    """Standard deviation of one point about the law, in ln y."""

    @property
    def law(self) -> PowerLaw:
        return PowerLaw(a=self.a, b=self.b)

    @property
    def depends(self) -> bool:
        """Whether the data rule out b = 0."""
        return self.b_low is not None and self.b_high is not None and not self.b_low <= 0 <= self.b_high

    def interval(self, x: float) -> tuple[float, float] | None:
        """The 90 % interval of a new point at x: error of the law and scatter about it; None for two points."""
        if self.b_se is None or self.log_y_se is None or self.scatter is None:
            return None
        away = math.log(x / self.x_centre)
        sd = math.sqrt(self.log_y_se**2 + (away * self.b_se) ** 2 + self.scatter**2)
        width = float(student.ppf((1 + LEVEL) / 2, self.points - 2)) * sd
        middle = self.law.at(x)
        return middle * math.exp(-width), middle * math.exp(width)


def fit_power_law(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    space: Space = "log",
    log_sd: npt.ArrayLike | None = None,
    x_name: str = "x",
    y_name: str = "y",
    per: dict[str, Key] | None = None,
) -> PowerLawFit:
    """Fit y = a·x^b.

    `log` minimises Σ w (ln y − ln a − b ln x)², with w = 1/SE² where `log_sd` is given, else w = 1. `linear`
    minimises Σ (y − a·x^b)², the convention of HyperP (its scripts: `curve_fit`; arXiv 2603.28743, eq. 8).

    Args:
        x: Positive, shape (points,).
        y: Positive, shape (points,).
        space: Which residuals are squared.
        log_sd: Standard error of each ln y, shape (points,); it weighs the points of the log fit only. Errors are
            scaled up to the scatter that is seen, never down.
        x_name, y_name, per: Names that the result carries.

    Raises:
        FitError: Fewer than two distinct x, or a value that is not positive.

    >>> fit = fit_power_law([1e9, 2e9, 4e9], [0.02, 0.016, 0.0128])
    >>> f"{fit.b:.4f}"
    '-0.3219'
    """
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    _check(xs, ys, x_name, y_name)
    weights = np.ones_like(xs)
    if log_sd is not None and space == "log":
        weights = 1 / np.asarray(log_sd, dtype=np.float64) ** 2
    a, b = _solve(xs, ys, space, weights)
    loo = _leave_one_out(xs, ys, space, weights)
    centre = float(np.average(np.log(xs), weights=weights))
    errors = _errors(xs, ys, a, b, space, weights, known=log_sd is not None and space == "log")
    b_se, log_y_se, scatter = errors if errors is not None else (None, None, None)
    reach = None if b_se is None else float(student.ppf((1 + LEVEL) / 2, len(xs) - 2)) * b_se
    return PowerLawFit(
        y=y_name,
        x=x_name,
        per=dict(per or {}),
        space=space,
        a=a,
        b=b,
        b_low=None if reach is None else b - reach,
        b_high=None if reach is None else b + reach,
        loo_error=loo,
        points=len(xs),
        x_low=float(xs.min()),
        x_high=float(xs.max()),
        b_se=b_se,
        x_centre=math.exp(centre),
        log_y_se=log_y_se,
        scatter=scatter,
    )


def fit_optimum_law(
    optima: tuple[Optimum, ...],
    *,
    x: str,
    space: Space = "log",
    y_name: str = "lr_peak",
    per: dict[str, Key] | None = None,
) -> PowerLawFit:
    """η* = a·x^b through the settled optima; bounds at an edge and hills are left out.

    Raises:
        FitError: Fewer than two settled optima at distinct x.
    """
    settled = [optimum for optimum in optima if optimum.settled and optimum.lr is not None]
    if len({optimum.group.get(x) for optimum in settled}) < MIN_POINTS:
        left = len(optima) - len(settled)
        raise FitError(
            f"the law {y_name} ~ {x} needs optima at {MIN_POINTS} values of {x}, got {len(settled)} "
            f"({left} left out: at an edge of their grid, without a minimum or with under 3 rates); "
            f"widen the learning rates or add {x}"
        )
    xs = np.array([_number(optimum.group[x], x) for optimum in settled])
    sds = [optimum.log_sd for optimum in settled]
    known = [sd for sd in sds if sd is not None and sd > 0]
    return fit_power_law(
        xs,
        np.array([optimum.lr for optimum in settled], dtype=np.float64),
        space=space,
        log_sd=known if len(known) == len(settled) else None,
        x_name=x,
        y_name=y_name,
        per=per,
    )


def _number(value: Key, name: str) -> float:
    if isinstance(value, str):
        raise FitError(f"a law needs numbers on its right side, but {name} is text such as {value!r}; use --per {name}")
    return float(value)


def _check(x: FloatArray, y: FloatArray, x_name: str, y_name: str) -> None:
    for name, values in ((x_name, x), (y_name, y)):
        bad = values[~(np.isfinite(values) & (values > 0))]
        if bad.size:
            raise FitError(f"a power law needs positive numbers, but {name} holds {bad[0]:g}; leave those rows out")
    if len(np.unique(x)) < MIN_POINTS:
        raise FitError(f"the law {y_name} ~ {x_name} needs {MIN_POINTS} values of {x_name}, got {len(np.unique(x))}")


def _solve(x: FloatArray, y: FloatArray, space: Space, weights: FloatArray) -> tuple[float, float]:
    u, v = np.log(x), np.log(y)
    u0, v0 = np.average(u, weights=weights), np.average(v, weights=weights)
    b = float(np.sum(weights * (u - u0) * (v - v0)) / np.sum(weights * (u - u0) ** 2))
    level = float(v0)
    if space == "linear":
        # Centred and scaled, the problem is well conditioned and starts at its log-space solution.
        scaled = y / math.exp(level)
        basis = np.stack([np.ones_like(u), u - u0], axis=1)

        def residual(p: FloatArray) -> FloatArray:
            return np.asarray(np.exp(basis @ p) - scaled, dtype=np.float64)

        def jacobian(p: FloatArray) -> FloatArray:
            return np.asarray(np.exp(basis @ p)[:, None] * basis, dtype=np.float64)

        found = least_squares(residual, x0=[0.0, b], jac=jacobian, xtol=1e-14, ftol=1e-14, gtol=1e-14)
        level, b = level + float(found.x[0]), float(found.x[1])
    return math.exp(level - b * float(u0)), b


def _errors(
    x: FloatArray, y: FloatArray, a: float, b: float, space: Space, weights: FloatArray, *, known: bool
) -> tuple[float, float, float] | None:
    """Standard errors of b and of ln y at the centre, and the scatter of ln y; None without a degree of freedom."""
    dof = len(x) - 2
    if dof < 1:
        return None
    u = np.log(x) - np.average(np.log(x), weights=weights)
    fitted = a * x**b
    residual = np.log(y / fitted) if space == "log" else y - fitted
    slope = np.ones_like(x) if space == "log" else fitted  # d residual / d ln a
    jacobian = np.sqrt(weights)[:, None] * slope[:, None] * np.stack([np.ones_like(u), u], axis=1)
    variance = float(np.sum(weights * residual**2)) / dof
    cov = np.linalg.inv(jacobian.T @ jacobian) * (max(1.0, variance) if known else variance)
    scatter = math.sqrt(float(np.sum(np.log(y / fitted) ** 2)) / dof)
    return math.sqrt(cov[1, 1]), math.sqrt(cov[0, 0]), scatter


def _leave_one_out(x: FloatArray, y: FloatArray, space: Space, weights: FloatArray) -> float | None:
    errors = []
    for i in range(len(x)):
        rest = np.arange(len(x)) != i
        if len(np.unique(x[rest])) < MIN_POINTS:
            return None
        a, b = _solve(x[rest], y[rest], space, weights[rest])
        errors.append(abs(a * x[i] ** b / y[i] - 1))
    return float(np.mean(errors))
