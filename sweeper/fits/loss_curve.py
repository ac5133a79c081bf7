"""Loss against compute, L = A·C^−b + E, and the compute leverage of one curve over another."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares, minimize_scalar
from scipy.stats import t as student

from sweeper.errors import FitError
from sweeper.fits.losses import Key
from sweeper.fits.optimum import LEVEL
from sweeper.laws.arrays import FloatArray
from sweeper.laws.loss import LossCurve

B_RANGE = (1e-4, 2.0)
"""Exponents that are tried; published ones lie between 0.05 and 0.5."""
CONSTANTS = 3
"""A, b and E: as many budgets are needed, and two more before their values can be trusted."""
READ_BEYOND = 1.1
"""A leverage read up to this factor outside the data it is read from still counts as inside them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossCurveFit:
    """L = A·C^−b + E of one arm."""

    arm: str
    """The values of `per` in one word; empty for a single curve."""
    per: dict[str, Key]
    y: str
    x: str
    A: float
    b: float
    E: float
    b_low: float | None
    """90 % interval of b (Student's t, linearised); None where three points leave no degree of freedom."""
    b_high: float | None
    loo_error: float | None
    """Mean relative error of L at each point, predicted from the others; None for three points."""
    points: int
    x_low: float
    x_high: float

    @property
    def curve(self) -> LossCurve:
        return LossCurve(A=self.A, b=self.b, E=self.E)

    def covers(self, x: float) -> bool:
        """Whether x lies within the data of the fit, to a factor of 1.1."""
        return self.x_low / READ_BEYOND <= x <= self.x_high * READ_BEYOND


@dataclass(frozen=True, slots=True, kw_only=True)
class Leverage:
    """How much less compute an arm needs than the baseline for the same loss, at one of the baseline's budgets."""

    arm: str
    at: float
    """Compute of the baseline, FLOPs."""
    value: float | None
    """C / C′ with the arm's own fit inverted at the baseline's measured loss: HyperP's table 13 (arXiv 2603.28743);
    None where the arm's fit never reaches that loss."""
    value_baseline_fit: float | None
    """C′ / C with the baseline's fit inverted at the arm's measured loss (HyperP §4); None where the arm has no run at
    this budget or its loss lies below the baseline's E."""
    extrapolated: bool
    """Whether either value is read outside the runs that its curve was fitted to."""


def fit_loss_curve(
    C: npt.ArrayLike,
    L: npt.ArrayLike,
    *,
    per: dict[str, Key] | None = None,
    x_name: str = "flops",
    y_name: str = "loss",
) -> LossCurveFit:
    """Fit L = A·C^−b + E with A, b ≥ 0 and 0 ≤ E ≤ min L by least squares in L.

    Variable projection first: for each b the best A and E are linear; the best b then starts a refinement of all three.
    HyperP's scripts start `curve_fit` at b = 0.1, E = 0.95·min L with the same bounds and reach the same minimum.

    Args:
        C: Compute, FLOPs, shape (points,).
        L: Loss, nats per token, shape (points,).

    Raises:
        FitError: Fewer than three budgets, a value that is not positive, or a loss that does not fall with compute.
    """
    x, y = np.asarray(C, dtype=np.float64), np.asarray(L, dtype=np.float64)
    for name, values in ((x_name, x), (y_name, y)):
        bad = values[~(np.isfinite(values) & (values > 0))]
        if bad.size:
            raise FitError(f"a loss curve needs positive numbers, but {name} holds {bad[0]:g}; leave those rows out")
    if len(np.unique(x)) < CONSTANTS:
        raise FitError(
            f"the curve {y_name} ~ {x_name} has {CONSTANTS} constants and needs as many values of {x_name}, "
            f"got {len(np.unique(x))}; add budgets"
        )
    if float(np.log(x) @ (y - y.mean())) >= 0:
        raise FitError(f"{y_name} does not fall with {x_name}; check the columns")
    curve = _solve(x, y)
    reach = _b_reach(x, y, curve)
    return LossCurveFit(
        arm=name_of(per or {}),
        per=dict(per or {}),
        y=y_name,
        x=x_name,
        A=curve.A,
        b=curve.b,
        E=curve.E,
        b_low=None if reach is None else curve.b - reach,
        b_high=None if reach is None else curve.b + reach,
        loo_error=_leave_one_out(x, y),
        points=len(x),
        x_low=float(x.min()),
        x_high=float(x.max()),
    )


def name_of(per: Mapping[str, Key]) -> str:
    """What a curve is called: its values of `per` in one word."""
    return " ".join(str(value) for value in per.values())


def fit_leverage(
    new: LossCurveFit,
    baseline: LossCurveFit,
    *,
    new_points: tuple[FloatArray, FloatArray],
    baseline_points: tuple[FloatArray, FloatArray],
) -> tuple[Leverage, ...]:
    """Leverage of `new` at each budget of the baseline, by both definitions.

    Args:
        new, baseline: The fitted curves.
        new_points, baseline_points: Compute and measured loss of each, shapes (points,).
    """
    rows = []
    for C, L in zip(*baseline_points, strict=True):
        own = new.curve.flops(float(L))
        same = np.flatnonzero(np.isclose(new_points[0], C, rtol=1e-3))
        other = baseline.curve.flops(float(new_points[1][same[0]])) if same.size else math.inf
        rows.append(
            Leverage(
                arm=new.arm,
                at=float(C),
                value=float(C) / own if math.isfinite(own) else None,
                value_baseline_fit=other / float(C) if math.isfinite(other) else None,
                extrapolated=not new.covers(own) or (same.size > 0 and not baseline.covers(other)),
            )
        )
    return tuple(rows)


def _solve(x: FloatArray, y: FloatArray) -> LossCurve:
    u = np.log(x)
    u0 = float(u.mean())

    def linear(b: float) -> tuple[float, float, float]:
        """Best A (at the centre), E and the sum of squares for one b."""
        basis = np.exp(-b * (u - u0))
        spread = basis - basis.mean()
        A = max(0.0, float(spread @ y) / float(spread @ spread))
        E = float(np.clip(y.mean() - A * basis.mean(), 0.0, y.min()))
        if E in (0.0, float(y.min())):
            A = max(0.0, float(basis @ (y - E)) / float(basis @ basis))
        return A, E, float(np.sum((A * basis + E - y) ** 2))

    tried = np.geomspace(*B_RANGE, 60)
    best = int(np.argmin([linear(float(b))[2] for b in tried]))
    near = (math.log(tried[max(best - 1, 0)]), math.log(tried[min(best + 1, len(tried) - 1)]))
    b = math.exp(minimize_scalar(lambda t: linear(math.exp(t))[2], bounds=near, method="bounded").x)
    A, E, _ = linear(b)
    lowest = float(y.min())
    if A > 0 and 0 < E < lowest:

        def residual(p: FloatArray) -> FloatArray:
            return np.asarray(p[0] * np.exp(-p[1] * (u - u0)) + p[2] - y, dtype=np.float64)

        found = least_squares(
            residual,
            x0=[A, b, E],
            bounds=([0, 0, 0], [np.inf, np.inf, lowest]),
            x_scale=[A, b, E],
            xtol=1e-15,
            ftol=1e-15,
            gtol=1e-15,
        )
        A, b, E = (float(value) for value in found.x)
    return LossCurve(A=A * math.exp(b * u0), b=b, E=E)


def _b_reach(x: FloatArray, y: FloatArray, curve: LossCurve) -> float | None:
    """Half the width of the interval of b, from the curvature of the sum of squares."""
    dof = len(x) - 3
    if dof < 1:
        return None
    u = np.log(x) - np.log(x).mean()
    basis = np.exp(-curve.b * u)
    scale = curve.A * math.exp(-curve.b * float(np.log(x).mean()))
    jacobian = np.stack([basis, -scale * u * basis, np.ones_like(u)], axis=1)
    residual = curve.along(x) - y
    cov = np.linalg.pinv(jacobian.T @ jacobian) * float(residual @ residual) / dof
    return float(student.ppf((1 + LEVEL) / 2, dof)) * math.sqrt(max(0.0, float(cov[1, 1])))


def _leave_one_out(x: FloatArray, y: FloatArray) -> float | None:
    errors = []
    for i in range(len(x)):
        rest = np.arange(len(x)) != i
        if len(np.unique(x[rest])) < CONSTANTS:
            return None
        errors.append(abs(_solve(x[rest], y[rest]).at(float(x[i])) / y[i] - 1))
    return float(np.mean(errors))
