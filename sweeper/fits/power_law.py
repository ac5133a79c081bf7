"""Power laws y = a·x^b + c in both conventions, least squares of ln y and of y itself; c = 0 unless asked for."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares
from scipy.special import stdtrit

from sweeper.errors import FitError
from sweeper.fits.losses import Key
from sweeper.fits.optimum import LEVEL, Optimum
from sweeper.laws.arrays import FloatArray
from sweeper.laws.power import PowerLaw

Space = Literal["linear", "log"]
MIN_POINTS = 2
RESAMPLES = 1000
"""Of the case bootstrap."""
EARNS = 0.9
"""Share of the leave-one-out error at most that a law with one more constant must leave."""
C_STEPS = 60
"""Values of c that are tried, from 0 to just below the smallest y."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerLawFit:
    """y = a·x^b + c with the uncertainty of its exponent."""

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
    c: float = 0.0
    """The irreducible part of y; 0 in a law that has none."""
    b_boot_low: float | None = None
    """90 % interval of b by the case bootstrap; None for fewer than four points."""
    b_boot_high: float | None = None
    rolling_error: float | None = None
    """Mean relative error of y at each point, predicted from those at smaller x (rolling origin); None where two x
    and one beyond them are not there."""
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
        return PowerLaw(a=self.a, b=self.b, c=self.c)

    @property
    def depends(self) -> bool:
        """Whether the data rule out b = 0."""
        return self.b_low is not None and self.b_high is not None and not self.b_low <= 0 <= self.b_high

    def interval(self, x: float) -> tuple[float, float] | None:
        """The 90 % interval of a new point at x by Student's t: error of the law and scatter about it.

        None for two points and for a law with an irreducible part. `fits.extrapolation` also lets the law bend.
        """
        if self.b_se is None or self.log_y_se is None or self.scatter is None or self.c > 0:
            return None
        away = math.log(x / self.x_centre)
        sd = math.sqrt(self.log_y_se**2 + (away * self.b_se) ** 2 + self.scatter**2)
        width = float(stdtrit(self.points - 2, (1 + LEVEL) / 2)) * sd
        middle = self.law.at(x)
        return middle * math.exp(-width), middle * math.exp(width)


def fit_power_law(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    space: Space = "log",
    log_sd: npt.ArrayLike | None = None,
    irreducible: bool = False,
    x_name: str = "x",
    y_name: str = "y",
    per: dict[str, Key] | None = None,
) -> PowerLawFit:
    """Fit y = a·x^b, or y = a·x^b + c with 0 ≤ c < min y.

    `log` minimises Σ w (ln y − ln a − b ln x)², with w = 1/SE² where `log_sd` is given, else w = 1. `linear`
    minimises Σ (y − a·x^b)², the convention of HyperP (its scripts: `curve_fit`; arXiv 2603.28743, eq. 8).

    Args:
        x: Positive, shape (points,).
        y: Positive, shape (points,).
        space: Which residuals are squared.
        log_sd: Standard error of each ln y, shape (points,); it weighs the points of the log fit only. Errors are
            scaled up to the scatter that is seen, never down.
        irreducible: Whether y has a part c that x does not move. It is worth its place only where leave-one-out says
            so: on HyperP's table 4 it takes b from −0.32 to −0.38.
        x_name, y_name, per: Names that the result carries.

    Returns:
        The law with the Student interval of b from its standard error, the interval of the case bootstrap, and the
        errors at points that the law has not seen: each left out in turn, and each from those before it.

    Raises:
        FitError: Fewer than two distinct x (three with c), or a value that is not positive.

    >>> fit = fit_power_law([1e9, 2e9, 4e9], [0.02, 0.016, 0.0128])
    >>> f"{fit.b:.4f}"
    '-0.3219'
    """
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    _check(xs, ys, x_name, y_name)
    weights = np.ones_like(xs)
    if log_sd is not None and space == "log":
        weights = 1 / np.asarray(log_sd, dtype=np.float64) ** 2
    constants = MIN_POINTS + irreducible
    if len(np.unique(xs)) < constants:
        raise FitError(
            f"the law {y_name} ~ {x_name} with an irreducible part needs {constants} values of {x_name}, "
            f"got {len(np.unique(xs))}"
        )

    def solve(points: npt.NDArray[np.intp]) -> tuple[float, float, float]:
        chosen = xs[points], ys[points], space, weights[points]
        return _solve_offset(*chosen) if irreducible else (*_solve(*chosen), 0.0)

    a, b, c = solve(np.arange(len(xs)))
    centre = float(np.average(np.log(xs), weights=weights))
    known = log_sd is not None and space == "log"
    errors = _errors(xs, ys, (a, b, c), space, weights, known=known, irreducible=irreducible)
    b_se, log_y_se, scatter = errors if errors is not None else (None, None, None)
    reach = None if b_se is None else float(stdtrit(len(xs) - constants, (1 + LEVEL) / 2)) * b_se
    boot = None if irreducible else _bootstrap(xs, ys, space, weights)
    return PowerLawFit(
        y=y_name,
        x=x_name,
        per=dict(per or {}),
        space=space,
        a=a,
        b=b,
        c=c,
        b_low=None if reach is None else b - reach,
        b_high=None if reach is None else b + reach,
        b_boot_low=None if boot is None else boot[0],
        b_boot_high=None if boot is None else boot[1],
        loo_error=_leave_one_out(xs, ys, solve, constants),
        rolling_error=_rolling_origin(xs, ys, solve, constants),
        points=len(xs),
        x_low=float(xs.min()),
        x_high=float(xs.max()),
        b_se=b_se,
        x_centre=math.exp(centre),
        log_y_se=log_y_se,
        scatter=scatter,
    )


def earns_its_place(irreducible: PowerLawFit, plain: PowerLawFit) -> bool:
    """Whether leave-one-out prefers a law with an irreducible part to the plain one."""
    if irreducible.loo_error is None or plain.loo_error is None:
        return False
    return irreducible.c > 0 and irreducible.loo_error < EARNS * plain.loo_error


def fit_optimum_law(
    optima: tuple[Optimum, ...],
    *,
    x: str,
    space: Space = "log",
    irreducible: bool = False,
    y_name: str = "lr_peak",
    per: dict[str, Key] | None = None,
) -> PowerLawFit:
    """η* = a·x^b (+ c) through the settled optima; bounds at an edge and hills are left out.

    Raises:
        FitError: Fewer than two settled optima at distinct x.
    """
    settled = [optimum for optimum in optima if optimum.settled and optimum.lr is not None]
    if len({optimum.group.get(x) for optimum in settled}) < MIN_POINTS:
        left = len(optima) - len(settled)
        raise FitError(
            f"the law {y_name} ~ {x} needs optima at {MIN_POINTS} values of {x}, "
            f"got {len({optimum.group.get(x) for optimum in settled})} "
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
        irreducible=irreducible,
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


def _solve_offset(x: FloatArray, y: FloatArray, space: Space, weights: FloatArray) -> tuple[float, float, float]:
    """a, b and c: for each c the law of y − c is solved in logarithms, the best then refined in all three."""
    top = float(y.min()) * (1 - 1e-6)

    def residual(p: FloatArray) -> FloatArray:
        fitted = np.exp(p[0] + p[1] * u) + p[2]
        difference = np.log(fitted / y) if space == "log" else (fitted - y) / scale
        return np.asarray(np.sqrt(weights) * difference, dtype=np.float64)

    u, scale = np.log(x) - np.log(x).mean(), float(y.mean())
    starts = []
    for c in top * np.linspace(0, 0.98, C_STEPS):
        a, b = _solve(x, y - c, "log", weights)
        p = np.array([math.log(a) + b * float(np.log(x).mean()), b, c])
        starts.append((float(np.sum(residual(p) ** 2)), tuple(p)))
    found = least_squares(
        residual,
        x0=np.array(min(starts)[1]),
        bounds=([-np.inf, -np.inf, 0.0], [np.inf, np.inf, top]),
        x_scale=[1.0, 1.0, scale],
        xtol=1e-14,
        ftol=1e-14,
        gtol=1e-14,
    )
    level, b, c = (float(value) for value in found.x)
    return math.exp(level - b * float(np.log(x).mean())), b, c if c > 1e-6 * top else 0.0


def _errors(
    x: FloatArray,
    y: FloatArray,
    abc: tuple[float, float, float],
    space: Space,
    weights: FloatArray,
    *,
    known: bool,
    irreducible: bool,
) -> tuple[float, float, float] | None:
    """Standard errors of b and of ln y at the centre, and the scatter of ln y; None without a degree of freedom."""
    a, b, c = abc
    dof = len(x) - MIN_POINTS - irreducible
    if dof < 1:
        return None
    u = np.log(x) - np.average(np.log(x), weights=weights)
    power = a * x**b
    fitted = power + c
    residual = np.log(y / fitted) if space == "log" else y - fitted
    slope = power / fitted if space == "log" else power  # d residual / d ln a
    columns = [slope, slope * u, *([1 / fitted if space == "log" else np.ones_like(x)] if irreducible else [])]
    jacobian = np.sqrt(weights)[:, None] * np.stack(columns, axis=1)
    variance = float(np.sum(weights * residual**2)) / dof
    cov = np.linalg.pinv(jacobian.T @ jacobian) * (max(1.0, variance) if known else variance)
    scatter = math.sqrt(float(np.sum(np.log(y / fitted) ** 2)) / dof)
    return math.sqrt(max(cov[1, 1], 0.0)), math.sqrt(max(cov[0, 0], 0.0)), scatter


def _bootstrap(x: FloatArray, y: FloatArray, space: Space, weights: FloatArray) -> tuple[float, float] | None:
    """Ends of the percentile interval of b over resampled points (Efron 1979); None for fewer than four points."""
    if len(x) < MIN_POINTS + 2:
        return None
    rng = np.random.default_rng(0)
    counts_RP = rng.multinomial(len(x), np.full(len(x), 1 / len(x)), size=RESAMPLES)
    values, place = np.unique(x, return_inverse=True)
    drawn_RV = counts_RP @ (place[:, None] == np.arange(len(values)))
    w_RP = weights * counts_RP[np.count_nonzero(drawn_RV, axis=1) > MIN_POINTS]
    u, v = np.log(x), np.log(y)
    u0_R, v0_R = w_RP @ u / w_RP.sum(axis=1), w_RP @ v / w_RP.sum(axis=1)
    du_RP, dv_RP = u - u0_R[:, None], v - v0_R[:, None]
    b_R = np.sum(w_RP * du_RP * dv_RP, axis=1) / np.sum(w_RP * du_RP**2, axis=1)
    if space == "linear":
        level_R = v0_R
        for _ in range(20):  # Gauss–Newton of all resamples at once, from their log-space solutions
            fitted_RP = np.exp(level_R[:, None] + b_R[:, None] * du_RP)
            gap_RP = y - fitted_RP
            one, two = fitted_RP, fitted_RP * du_RP
            s11, s12, s22 = ((w_RP * p * q).sum(axis=1) for p, q in ((one, one), (one, two), (two, two)))
            r1, r2 = (w_RP * one * gap_RP).sum(axis=1), (w_RP * two * gap_RP).sum(axis=1)
            det = s11 * s22 - s12**2
            level_R = level_R + (s22 * r1 - s12 * r2) / det
            b_R = b_R + (s11 * r2 - s12 * r1) / det
    low, high = np.quantile(b_R[np.isfinite(b_R)], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


_Solver = Callable[[npt.NDArray[np.intp]], tuple[float, float, float]]


def _leave_one_out(x: FloatArray, y: FloatArray, solve: _Solver, constants: int) -> float | None:
    errors = []
    for i in range(len(x)):
        rest = np.flatnonzero(np.arange(len(x)) != i)
        if len(np.unique(x[rest])) < constants:
            return None
        a, b, c = solve(rest)
        errors.append(abs((a * x[i] ** b + c) / y[i] - 1))
    return float(np.mean(errors))


def _rolling_origin(x: FloatArray, y: FloatArray, solve: _Solver, constants: int) -> float | None:
    errors = []
    for value in np.unique(x)[constants:]:
        a, b, c = solve(np.flatnonzero(x < value))
        errors += list(np.abs((a * value**b + c) / y[x == value] - 1))
    return float(np.mean(errors)) if errors else None
