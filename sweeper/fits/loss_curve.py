"""Loss against compute, L = A·C^−b + E, and the compute leverage of one curve over another."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares, minimize_scalar
from scipy.special import stdtrit

from sweeper.errors import FitError
from sweeper.fits.losses import BoolArray, Key
from sweeper.fits.optimum import LEVEL
from sweeper.fits.power_sum import Points, fit_power_sum, named
from sweeper.laws.arrays import FloatArray
from sweeper.laws.loss import LossCurve

B_RANGE = (1e-4, 2.0)
"""Exponents that are tried; published ones lie between 0.05 and 0.5."""
CONSTANTS = 3
"""A, b and E: as many budgets are needed, and two more before their values can be trusted."""
MAX_FOLDS = 60
"""Budgets up to which each is predicted from all others; more are left out in as many interleaved folds."""
MAX_POINTS = 2_000
"""Points that a curve is fitted to; more are averaged into as many cells of C."""
SAME = 1e-9
"""Budgets whose logarithms differ by less are one budget."""
FLAT = 1e-9
"""A loss that falls by less than this share of itself per e-fold of compute does not fall."""
READ_BEYOND = 1.1
"""A leverage read up to this factor outside the data it is read from still counts as inside them."""


Irreducible = Literal["always", "auto", "never"]
"""When a curve has an E: always (the papers), where leave-one-out prefers it, or never."""


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
    """90 % interval of b (Student's t, linearised); None where three points leave no degree of freedom, or where b ends
    at the bound of its search."""
    b_high: float | None
    E_low: float | None
    """90 % interval of E likewise, between 0 and the lowest loss; None where E was not fitted."""
    E_high: float | None
    irreducible: bool
    """Whether E was fitted; if not it is 0."""
    robust: LossCurve | None
    """The curve by Huber's loss on ln L (δ = 1e-3; Hoffmann et al. 2022, D.2, arXiv 2203.15556), which outliers hardly
    move; None where no E was fitted."""
    condition: float
    """Of the Jacobian at the centre of ln C, columns scaled to length 1: above 1e3 the constants trade off."""
    loo_error: float | None
    """Mean relative error of L at each budget, predicted from the others; None for three budgets."""
    rolling_error: float | None
    """Mean relative error of L at each budget, predicted from the smaller ones, at least four of them; None where
    there are fewer than five."""
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
    irreducible: Irreducible = "always",
    per: dict[str, Key] | None = None,
    x_name: str = "flops",
    y_name: str = "loss",
) -> LossCurveFit:
    """Fit L = A·C^−b + E with A, b ≥ 0 and 0 ≤ E ≤ min L by least squares in L.

    Variable projection first: for each b the best A and E are linear; the best b then starts a refinement of all three.
    HyperP's scripts start `curve_fit` at b = 0.1, E = 0.95·min L with the same bounds and reach the same minimum.

    The intervals are the linearised ones with Student's t. On simulated curves of 4 to 12 budgets over 2.5 decades
    with 0.1 or 0.4 % noise they cover 87 to 92 %, as profiles of the sum of squares do, whereas percentiles of a case
    bootstrap cover 75 % of the time at 5 budgets, where a resample often repeats what little there is.

    Args:
        C: Compute, FLOPs, shape (points,).
        L: Loss, nats per token, shape (points,).
        irreducible: Whether there is an E. `auto` keeps it where the curve with E predicts left-out points better than
            the power law without; three points cannot tell and have none.
        per, x_name, y_name: Names that the result carries.

    Raises:
        FitError: Fewer than three budgets, a value that is not positive, or a loss that does not fall with compute.

    >>> fit = fit_loss_curve([1e18, 1e19, 1e20, 1e21], [3.50, 3.00, 2.66, 2.44])
    >>> f"b = {fit.b:.3f}, E = {fit.E:.2f}"
    'b = 0.176, E = 1.99'
    """
    x, y = np.asarray(C, dtype=np.float64), np.asarray(L, dtype=np.float64)
    _check(x, y, x_name, y_name)
    points, x_low, x_high = len(x), float(x.min()), float(x.max())
    x, y = _thinned(x, y)
    floor = irreducible == "always" or (irreducible == "auto" and _earns_its_place(x, y))
    curve = _solve(x, y, floor=floor)
    b_reach, E_reach, condition = _uncertainty(x, y, curve, floor=floor)
    return LossCurveFit(
        arm=name_of(per or {}),
        per=dict(per or {}),
        y=y_name,
        x=x_name,
        A=curve.A,
        b=curve.b,
        E=curve.E,
        b_low=None if b_reach is None else curve.b - b_reach,
        b_high=None if b_reach is None else curve.b + b_reach,
        E_low=None if E_reach is None else max(0.0, curve.E - E_reach),
        E_high=None if E_reach is None else min(float(y.min()), curve.E + E_reach),
        irreducible=floor,
        robust=_robust(x, y) if floor else None,
        condition=condition,
        loo_error=_leave_one_out(x, y, floor=floor),
        rolling_error=_rolling_origin(x, y, floor=floor),
        points=points,
        x_low=x_low,
        x_high=x_high,
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


def _check(x: FloatArray, y: FloatArray, x_name: str, y_name: str) -> None:
    for name, values in ((x_name, x), (y_name, y)):
        bad = values[~(np.isfinite(values) & (values > 0))]
        if bad.size:
            raise FitError(f"a loss curve needs positive numbers, but {name} holds {bad[0]:g}; leave those rows out")
    if _budgets(x) < CONSTANTS:
        raise FitError(
            f"the curve {y_name} ~ {x_name} has {CONSTANTS} constants and needs as many values of {x_name}, "
            f"got {_budgets(x)}; add budgets"
        )
    u = np.log(x) - np.log(x).mean()
    if float(u @ (y - y.mean())) >= -FLAT * float(y.mean()) * float(u @ u):
        raise FitError(f"{y_name} does not fall with {x_name}; check the columns")


def _thinned(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The points themselves, or the means of as many neighbours in C as leave 2,000 of them."""
    if len(x) <= MAX_POINTS:
        return x, y
    order = np.argsort(x)
    first = np.linspace(0, len(x), MAX_POINTS, endpoint=False).astype(np.intp)
    counts = np.diff(np.append(first, len(x)))
    log_x = np.add.reduceat(np.log(x[order]), first) / counts
    return np.exp(log_x), np.add.reduceat(y[order], first) / counts


def _budgets(x: FloatArray) -> int:
    """How many different values x has."""
    return int(np.count_nonzero(np.diff(np.sort(np.log(x))) > SAME)) + 1 if x.size else 0


def _earns_its_place(x: FloatArray, y: FloatArray) -> bool:
    with_E, without = (_leave_one_out(x, y, floor=floor) for floor in (True, False))
    return with_E is not None and without is not None and with_E < without


def _solve(x: FloatArray, y: FloatArray, *, floor: bool = True) -> LossCurve:
    """The least squares; without `floor`, E = 0."""
    u = np.log(x)
    u0 = float(u.mean())
    lowest = float(y.min()) if floor else 0.0

    def linear(b: float) -> tuple[float, float, float]:
        """Best A (at the centre), E and the sum of squares for one b."""
        basis = np.exp(-b * (u - u0))
        spread = basis - basis.mean()
        A = max(0.0, float(spread @ y) / float(spread @ spread))
        E = float(np.clip(y.mean() - A * basis.mean(), 0.0, lowest))
        if E in (0.0, lowest):
            A = max(0.0, float(basis @ (y - E)) / float(basis @ basis))
        return A, E, float(np.sum((A * basis + E - y) ** 2))

    tried = np.geomspace(*B_RANGE, 60)
    best = int(np.argmin([linear(float(b))[2] for b in tried]))
    near = (math.log(tried[max(best - 1, 0)]), math.log(tried[min(best + 1, len(tried) - 1)]))
    b = math.exp(
        minimize_scalar(lambda t: linear(math.exp(t))[2], bounds=near, method="bounded", options={"xatol": 1e-9}).x
    )
    A, E, _ = linear(b)
    if A > 0 and 0 < E < lowest:

        def residual(p: FloatArray) -> FloatArray:
            return np.asarray(p[0] * np.exp(-p[1] * (u - u0)) + p[2] - y, dtype=np.float64)

        found = least_squares(
            residual,
            x0=[A, min(b, 0.999 * B_RANGE[1]), E],
            bounds=([0, 0, 0], [np.inf, B_RANGE[1], lowest]),
            x_scale=[A, b, E],
            xtol=1e-15,
            ftol=1e-15,
            gtol=1e-15,
        )
        A, b, E = (float(value) for value in found.x)
    return LossCurve(A=A * math.exp(b * u0), b=b, E=E)


def _robust(x: FloatArray, y: FloatArray) -> LossCurve:
    points = Points.of(y, x)
    found = named(points, fit_power_sum(points)[0])
    return LossCurve(A=found.scales[0], b=found.exponents[0], E=found.E)


def _uncertainty(
    x: FloatArray, y: FloatArray, curve: LossCurve, *, floor: bool
) -> tuple[float | None, float | None, float]:
    """Half the widths of the intervals of b and E, from the curvature of the sum of squares, and its condition."""
    u = np.log(x) - np.log(x).mean()
    reducible = curve.along(x) - curve.E
    jacobian = np.stack([reducible, -u * reducible, np.ones_like(u)][: 3 if floor else 2], axis=1)
    lengths = np.linalg.norm(jacobian, axis=0)
    scaled = jacobian / np.where(lengths > 0, lengths, 1.0)
    values = np.linalg.svd(scaled, compute_uv=False)
    condition = float(values[0] / max(values[-1], values[0] * np.finfo(np.float64).eps))
    dof = len(x) - jacobian.shape[1]
    if dof < 1 or not lengths.all() or curve.b > 0.99 * B_RANGE[1]:
        return None, None, condition
    residual = curve.along(x) - y
    variances = np.diag(np.linalg.pinv(scaled.T @ scaled)) / lengths**2 * float(residual @ residual) / dof
    reach = float(stdtrit(dof, (1 + LEVEL) / 2)) * np.sqrt(np.maximum(variances, 0))
    return float(reach[1]), float(reach[2]) if floor else None, condition


def _leave_one_out(x: FloatArray, y: FloatArray, *, floor: bool) -> float | None:
    folds = np.unique(x, return_inverse=True)[1] % MAX_FOLDS
    return _error_outside(x, y, [folds != fold for fold in range(int(folds.max()) + 1)], floor=floor)


def _rolling_origin(x: FloatArray, y: FloatArray, *, floor: bool) -> float | None:
    budgets = np.unique(x)
    origins = budgets[CONSTANTS:-1]
    if len(origins) > MAX_FOLDS:
        origins = origins[np.linspace(0, len(origins) - 1, MAX_FOLDS).round().astype(np.intp)]
    following = budgets[np.searchsorted(budgets, origins) + 1]
    rests = [x <= origin for origin in origins]
    return _error_outside(x, y, rests, [x == budget for budget in following], floor=floor) if rests else None


def _error_outside(
    x: FloatArray, y: FloatArray, rests: list[BoolArray], targets: list[BoolArray] | None = None, *, floor: bool
) -> float | None:
    """Mean relative error of L at the targets, or all others, predicted from the rest; None where a rest is too few."""
    errors = []
    for rest, target in zip(rests, targets or [~rest for rest in rests], strict=True):
        if _budgets(x[rest]) < CONSTANTS:
            return None
        errors.append(np.abs(_solve(x[rest], y[rest], floor=floor).along(x[target]) / y[target] - 1))
    return float(np.mean(np.concatenate(errors)))
