"""Loss over data and learning rate at once: L(T, η) = E + A·T^−beta·(1 + κ·g(u)), u = ln η − ln(a·T^b).

g is the asymmetric valley of `sweeper.fits.linex`. The valley's curvature is a constant share κ of the reducible loss:
it shrinks with T as the loss does. One fit of all runs lets budgets without an optimum of their own, such as those
whose best rate lies at an edge, say what they know of the law.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from sweeper.errors import FitError
from sweeper.fits.linex import NOISE, SKEW, SKEW_SD, Sweep, g
from sweeper.fits.loss_curve import fit_loss_curve
from sweeper.fits.losses import IntArray, Key, Losses, groups
from sweeper.fits.optimum import LEVEL, Optimum, fit_lr_optima, pool_of
from sweeper.fits.power_law import fit_optimum_law
from sweeper.laws.arrays import FloatArray
from sweeper.laws.loss import LossCurve
from sweeper.laws.power import PowerLaw

BUDGETS = 3
"""E, A and beta need as many."""
FEW = 5
"""Budgets below which a reader is told that b and beta hang on each of them."""
TUNING = 1.345
"""Where Huber's loss turns linear, in standard deviations: 95 % efficient for normal errors (Huber 1981, §4.1)."""
BETA = (1e-3, 2.0)
"""Where the exponent of the loss is looked for, as in `sweeper.fits.power_sum`."""
SKEWS = (-1.0, 3.0)
"""Where s is looked for: six standard deviations of its prior below, seven above."""
LOG_KAPPA = (-12.0, 6.0)
E_NONE = 1e-4
"""Share of the lowest loss below which E is none."""
MIN_RESAMPLES = 50
"""Resamples of three budgets or more below which no interval is given."""


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
    """90 % interval of b by resampling budgets and runs; None for three budgets, of which none can be left out."""
    b_high: float | None
    beta_low: float | None
    beta_high: float | None
    kappa: float
    """Curvature of the valley as a share of the reducible loss, per squared e-fold of η."""
    skew: float
    rmse: float
    """Of the loss over all runs, nats per token."""
    points: int
    """Runs used."""
    budgets: int
    x_low: float
    x_high: float
    warnings: tuple[str, ...]

    @property
    def law(self) -> PowerLaw:
        """η* over T."""
        return PowerLaw(a=self.a, b=self.b)

    @property
    def curve(self) -> LossCurve:
        """L over T at η*."""
        return LossCurve(A=self.A, b=self.beta, E=self.E)

    def along(self, T: FloatArray, lr: FloatArray) -> FloatArray:
        """The loss at data T and learning rate, nats per token; the arrays broadcast."""
        height = 1 + self.kappa * g(np.log(lr / self.law.along(T)), self.skew)
        return np.asarray(self.E + self.A * T**-self.beta * height, dtype=np.float64)


def fit_joint(
    losses: Losses,
    *,
    x: str = "tokens",
    per: dict[str, Key] | None = None,
    rate: str = "lr_peak",
    y_name: str = "loss",
    rng: np.random.Generator | None = None,
    resamples: int = 200,
) -> JointFit:
    """Fit L(T, η) = E + A·T^−beta·(1 + κ·g(ln η − ln(a·T^b))) to all used runs at once.

    Two stages start it: the optimum of each budget, the curve through their losses and the law through their rates.
    Then all seven constants minimise Huber's loss of the residuals over √(σ²/n + (0.15·ΔL)²), the error model of
    `sweeper.fits.linex` with its pooled σ and its prior of the skew; ΔL is the height above the budget's lowest.

    Intervals are percentiles over resamples: budgets are drawn with replacement, then rates within each. Budgets carry
    what their runs have in common, such as an optimum off the law, and rates the noise. Simulated with 0.2 % noise and
    optima 0.05 e-folds off the law, they cover 88 to 100 % for b and beta with 4 to 7 budgets of 6 rates, where
    drawing budgets alone covers 73 to 94 % and rates alone 65 to 76 %. Three budgets have no interval: no resample
    can leave one out.

    Args:
        losses: The runs of one setting of `per`.
        x: Covariate T.
        per, rate, y_name: Names that the result carries.
        rng: Draws the resamples; the same for the same data when left out.
        resamples: Of the bootstrap.

    Raises:
        FitError: No such column, fewer than three budgets, a T that is not positive, a loss that does not fall with T,
            or fewer than two budgets with an optimum inside their rates.
    """
    cells, optima = _cells(losses, x, y_name)
    start_Q, staged_b = _start(cells, optima, x, y_name)
    best_Q = _solve(cells, start_Q)
    ends = _bootstrap(cells, best_Q, rng or np.random.default_rng(0), resamples)
    level, beta, E, log_rate, b, log_kappa, skew = (float(value) for value in best_Q)
    misfit = _loss(cells, best_Q) - cells.y
    return JointFit(
        per=dict(per or {}),
        y=y_name,
        x=x,
        rate=rate,
        E=0.0 if _is_none(E, cells.y) else E,
        A=math.exp(level + beta * cells.centre),
        beta=beta,
        a=math.exp(log_rate - b * cells.centre),
        b=b,
        b_low=ends["b"][0],
        b_high=ends["b"][1],
        beta_low=ends["beta"][0],
        beta_high=ends["beta"][1],
        kappa=math.exp(log_kappa),
        skew=skew,
        rmse=math.sqrt(float(np.average(misfit**2, weights=cells.n))),
        points=int(cells.n.sum()),
        budgets=len(optima),
        x_low=float(optima[0].group[x]),
        x_high=float(optima[-1].group[x]),
        warnings=tuple(_doubts(cells, optima, best_Q, ends, staged_b, x)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cells:
    """Mean losses at each budget and rate, shapes (cells,)."""

    t: FloatArray
    """ln T less its centre."""
    u: FloatArray
    """ln η."""
    y: FloatArray
    n: FloatArray
    """Runs behind each mean."""
    sd: FloatArray
    """Standard deviation of y about the form: noise and the error of the form."""
    budget: IntArray
    centre: float

    def take(self, chosen: IntArray) -> "_Cells":
        arrays = {name: getattr(self, name)[chosen] for name in ("t", "u", "y", "n", "sd", "budget")}
        return _Cells(**arrays, centre=self.centre)


def _cells(losses: Losses, x: str, y_name: str) -> tuple[_Cells, tuple[Optimum, ...]]:
    """What the fit sees, and the optimum of each budget with used runs, in ascending order of T."""
    column = losses.column(x)
    if column.dtype.kind == "U":
        raise FitError(
            f"a joint fit needs numbers along {x}, but it is text such as {str(column[0])!r}; name another column"
        )
    runs = losses.take(losses.used)
    parts = list(groups(runs, (x,)))
    if len(parts) < BUDGETS:
        raise FitError(
            f"the joint fit of {y_name} over {x} and learning rate needs {BUDGETS} values of {x} with runs, "
            f"got {len(parts)}; add budgets"
        )
    T = np.array([float(group[x]) for group, _ in parts])
    if not T[0] > 0:
        raise FitError(f"a joint fit needs positive numbers, but {x} holds {T[0]:g}; leave those rows out")
    pool = pool_of([part for _, part in parts])
    # One skew and one curvature for all: here high points are evidence, not what spoils a valley of its own.
    sweeps = [Sweep.of(np.log(part.lr), part.loss, ridge=math.inf) for _, part in parts]
    noise = NOISE * float(np.median([sweep.y.min() for sweep in sweeps])) if pool is None else pool.noise
    budget = np.repeat(np.arange(len(parts)), [len(sweep.x) for sweep in sweeps])
    n = np.concatenate([sweep.n for sweep in sweeps])
    centre = float(np.log(T).mean())
    cells = _Cells(
        t=np.log(T)[budget] - centre,
        u=np.concatenate([sweep.x for sweep in sweeps]),
        y=np.concatenate([sweep.y for sweep in sweeps]),
        n=n,
        sd=np.sqrt(noise**2 / n + np.concatenate([sweep.shape_error for sweep in sweeps]) ** 2),
        budget=budget,
        centre=centre,
    )
    return cells, fit_lr_optima(runs, (x,), pool=pool)


def _start(cells: _Cells, optima: tuple[Optimum, ...], x: str, y_name: str) -> tuple[FloatArray, float]:
    """The constants of two stages, and their b."""
    law = fit_optimum_law(optima, x=x)
    settled = [optimum for optimum in optima if optimum.settled]
    known = settled if len(settled) >= BUDGETS else optima
    lowest = np.array([optimum.loss for optimum in known], dtype=np.float64)
    curve = fit_loss_curve([float(o.group[x]) for o in known], lowest, x_name=x, y_name=y_name)
    level = curve.A * math.exp(-curve.b * cells.centre)
    bends = [o.curvature / (curve.curve.at(float(o.group[x])) - curve.E) for o in settled if o.curvature is not None]
    kappa = float(np.median(bends)) if bends else 0.1
    log_rate = math.log(law.law.at(math.exp(cells.centre)))
    start = [math.log(max(level, 1e-9)), curve.b, curve.E, log_rate, law.b, math.log(max(kappa, 1e-9)), SKEW]
    return np.array(start), law.b


# Q constants: ln A at the centre of ln T, beta, E, ln η* there, b, ln κ, s.


def _loss(cells: _Cells, theta_Q: FloatArray) -> FloatArray:
    return _slopes(cells, theta_Q)[0]


def _slopes(cells: _Cells, theta_Q: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The loss of each cell, shape (cells,), and its derivative by each constant, shape (cells, Q)."""
    level, beta, E, log_rate, b, log_kappa, skew = (float(value) for value in theta_Q)
    away = cells.u - log_rate - b * cells.t
    valley, by_away, by_skew = _valley(away, skew)
    reducible = np.exp(level - beta * cells.t)
    bend = reducible * math.exp(log_kappa)
    lowest = reducible + bend * valley
    columns = (
        lowest,
        -cells.t * lowest,
        np.ones_like(lowest),
        -bend * by_away,
        -cells.t * bend * by_away,
        bend * valley,
        bend * by_skew,
    )
    return E + lowest, np.stack(columns, axis=1)


def _valley(t: FloatArray, skew: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """g(t) and its derivatives by t, 2(e^{st} − 1)/s, and by s, (t·∂g/∂t − 2g)/s; each as its series for small st."""
    st = np.clip(skew * t, -60, 60)
    near = np.abs(st) < 1e-2
    s = skew if abs(skew) > 1e-9 else 1e-9
    valley = g(t, skew)
    by_t = np.where(near, t * (2 + st + st**2 / 3), 2 * np.expm1(st) / s)
    by_s = np.where(near, t**3 * (1 / 3 + st / 6 + st**2 / 20), (t * by_t - 2 * valley) / s)
    return valley, by_t, by_s


def _solve(cells: _Cells, start_Q: FloatArray, tolerance: float = 1e-10) -> FloatArray:
    """The constants of least Huber loss, the prior of the skew among its residuals."""
    lowest = float(cells.y.min())
    low = np.array([-np.inf, BETA[0], 0.0, -np.inf, -np.inf, LOG_KAPPA[0], SKEWS[0]])
    high = np.array([np.inf, BETA[1], lowest, np.inf, np.inf, LOG_KAPPA[1], SKEWS[1]])

    prior_Q = np.append(np.zeros(len(low) - 1), 1 / SKEW_SD)

    def residual(theta_Q: FloatArray) -> FloatArray:
        return np.append((_loss(cells, theta_Q) - cells.y) / cells.sd, (theta_Q[-1] - SKEW) / SKEW_SD)

    def jacobian(theta_Q: FloatArray) -> FloatArray:
        return np.vstack([_slopes(cells, theta_Q)[1] / cells.sd[:, None], prior_Q])

    inside = np.clip(start_Q, low + 1e-6, high - 1e-6)
    scale = np.array([0.1, 0.1, 0.1 * lowest, 0.1, 0.1, 0.3, SKEW_SD])
    found = least_squares(
        residual,
        x0=inside,
        jac=jacobian,
        bounds=(low, high),
        loss="huber",
        f_scale=TUNING,
        x_scale=scale,
        xtol=tolerance,
        ftol=tolerance,
        gtol=tolerance,
        max_nfev=200,
    )
    return np.asarray(found.x, dtype=np.float64)


def _bootstrap(
    cells: _Cells, best_Q: FloatArray, rng: np.random.Generator, resamples: int
) -> dict[str, tuple[float, float] | tuple[None, None]]:
    """The 90 % intervals of b and beta over resamples of budgets and of cells within them."""
    members = [np.flatnonzero(cells.budget == budget) for budget in range(int(cells.budget.max()) + 1)]
    if len(members) <= BUDGETS:
        return {"b": (None, None), "beta": (None, None)}
    found = []
    for _ in range(resamples):
        drawn = rng.integers(0, len(members), len(members))
        if len(np.unique(drawn)) < BUDGETS:
            continue
        chosen = np.concatenate([rng.choice(members[budget], len(members[budget])) for budget in drawn])
        found.append(_solve(cells.take(chosen), best_Q, tolerance=1e-5)[[4, 1]])
    if len(found) < MIN_RESAMPLES:
        return {"b": (None, None), "beta": (None, None)}
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return {"b": (float(low[0]), float(high[0])), "beta": (float(low[1]), float(high[1]))}


def _is_none(E: float, y: FloatArray) -> bool:
    return bool(E_NONE * y.min() >= E)


def _doubts(
    cells: _Cells,
    optima: tuple[Optimum, ...],
    best_Q: FloatArray,
    ends: dict[str, tuple[float, float] | tuple[None, None]],
    staged_b: float,
    x: str,
) -> Iterator[str]:
    """What a reader of the constants must know."""
    if len(optima) < FEW:
        yield f"{len(optima)} values of {x}: beta and E hang on each of them; add budgets"
    beta, E = float(best_Q[1]), float(best_Q[2])
    if _is_none(E, cells.y):
        yield "E lies at its bound 0; add budgets to tell it from a slow power"
    if not BETA[0] * 1.01 < beta < BETA[1] * 0.99:
        yield f"beta lies at its bound {beta:.3g}; widen {x}"
    unsettled = sum(not optimum.settled for optimum in optima)
    if unsettled:
        yield f"{unsettled} of {len(optima)} values of {x} have no optimum inside their rates; widen the learning rates"
    low, high = ends["b"]
    if low is not None and high is not None and not low <= staged_b <= high:
        yield (
            f"the optima one by one give b = {staged_b:.3f}, outside the interval: the valley's width or skew changes "
            f"with {x} in another way than the form says"
        )
