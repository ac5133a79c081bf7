"""The learning-rate optimum of each group of runs: from loss against ln η to η*, its interval and its status.

Three methods. Near the minimum every one of them is L = L₀ + κ·g(ln η − ln η*), with g(t) = t² for the parabola and
g(t) = 2(e^{st} − 1 − st)/s² for the asymmetric curve, so that `Optimum` holds L₀, κ and s of either.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import stdtrit

from sweeper.errors import FitError
from sweeper.fits.linex import Pool, Sweep, Valley, fit_pool, g, posteriors
from sweeper.fits.losses import Key, Losses, groups
from sweeper.laws.arrays import FloatArray

Method = Literal["linex", "parabola", "argmin"]
METHODS: tuple[Method, ...] = ("linex", "parabola", "argmin")
Status = Literal["ok", "edge_low", "edge_high", "argmin", "no_minimum", "too_few"]

LEVEL = 0.90
"""Nominal coverage of every interval."""
MIN_R2 = 0.99
"""Below it the papers' rule distrusts the parabola and takes the best rate on the grid (HyperP §5.2)."""
MIN_RATES = 3
LEAVES = 0.5
"""How far an interval may leave the grid, e-folds: what reaches further is a bound, for no run has been there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimum:
    """The best learning rate of one group of runs, or why there is none."""

    group: dict[str, Key]
    lr: float | None
    """η*; at an edge the outermost rate, which only bounds it; None without a minimum."""
    lr_low: float | None
    """Lower end of the 90 % interval; None where the data set no bound."""
    lr_high: float | None
    loss: float | None
    """At η*, nats per token; of a curve, else observed."""
    method: Method
    status: Status
    """`ok`; `edge_low`, `edge_high`: only a bound; `argmin`: the papers' rule fell back to the grid;
    `no_minimum`: a hill; `too_few`: fewer than three learning rates."""
    points: int
    """Runs used."""
    excluded: int
    """Runs left out: diverged, missing, not positive."""
    curvature: float | None = None
    """κ, nats per token per squared e-fold of η."""
    skew: float | None = None
    """s: positive where the loss rises faster on the side of high rates."""
    r2: float | None = None
    """Of the parabola over all points."""
    loss_sd: float | None = None
    """Standard error of `loss`, nats per token; None where the method knows none."""

    @property
    def settled(self) -> bool:
        """Whether laws may use it: a point estimate, not a bound."""
        return self.status in ("ok", "argmin")

    @property
    def log_sd(self) -> float | None:
        """Standard error of ln η*, read off the interval."""
        if self.lr_low is None or self.lr_high is None:
            return None
        return math.log(self.lr_high / self.lr_low) / (2 * float(stdtrit(np.inf, (1 + LEVEL) / 2)))

    def along(self, lr: FloatArray) -> FloatArray | None:
        """The fitted curve over learning rates, nats per token; None where there is none."""
        if self.lr is None or self.loss is None or self.curvature is None or self.skew is None:
            return None
        return np.asarray(self.loss + self.curvature * g(np.log(lr / self.lr), self.skew), dtype=np.float64)


def fit_lr_optima(
    losses: Losses, by: tuple[str, ...] = ("tokens",), method: Method = "linex", *, pool: Pool | None = None
) -> tuple[Optimum, ...]:
    """One optimum per combination of values of the columns `by`.

    Args:
        losses: Runs of any number of groups; repeated seeds share a learning rate.
        by: Columns that tell groups apart.
        method: `parabola`, the papers' rule: a polynomial of degree 2 in ln η through all points and its vertex, or the
            observed best rate where R² ≤ 0.99 (HyperP §5.2, arXiv 2603.28743). Its Fieller interval has only the
            scatter about the parabola, not the error of the shape, and covers less than it says.
            `linex`, the default: the asymmetric curve of `sweeper.fits.linex`, whose skew and prior of κ are pooled
            over the groups that are fitted together.
            `argmin`: the observed best rate, its interval the neighbouring rates.
        pool: Constants that `linex` takes as known instead of pooling them over these groups, from `pool_of`.

    Returns:
        The optima in ascending order of group, each with its status: a doubtful answer is an answer.

    Raises:
        FitError: No runs at all, or no such column.

    >>> from sweeper.fits.losses import make_losses
    >>> losses = make_losses([0.005, 0.01, 0.02], [2.6, 2.5, 2.6], covariates={"tokens": [1e9, 1e9, 1e9]})
    >>> optimum, = fit_lr_optima(losses, method="parabola")
    >>> f"{optimum.lr:.3f}", optimum.status, optimum.group
    ('0.010', 'ok', {'tokens': 1000000000})
    """
    if losses.lr.size == 0:
        raise FitError("there are no runs to fit; collect results first")
    parts = [(group, runs.take(runs.used), int((~runs.used).sum())) for group, runs in groups(losses, by)]
    if method != "linex":
        return tuple(_fit_one(*part, method) for part in parts)
    sweeps = {place: _sweep_of(used) for place, (_, used, _) in enumerate(parts) if _has_valley(used)}
    if not sweeps:
        return tuple(_fit_one(*part, method) for part in parts)
    pool = pool or fit_pool(tuple(sweeps.values()))
    valleys = dict(zip(sweeps, posteriors(tuple(sweeps.values()), pool, LEVEL), strict=True))
    return tuple(
        _linex(*part, sweeps[place], valleys[place], pool.skew) if place in valleys else _fit_one(*part, method)
        for place, part in enumerate(parts)
    )


def settings(optima: Iterable[Optimum], per: tuple[str, ...]) -> tuple[dict[str, Key], ...]:
    """The combinations of values of the columns `per` among the optima's groups, in order of appearance."""
    found = {tuple(optimum.group[name] for name in per): None for optimum in optima}
    return tuple(dict(zip(per, values, strict=True)) for values in found)


def members(optima: Iterable[Optimum], setting: Mapping[str, Key]) -> tuple[Optimum, ...]:
    """The optima whose group has the values of a setting."""
    return tuple(o for o in optima if all(o.group.get(name) == value for name, value in setting.items()))


def pool_of(parts: list[Losses]) -> Pool | None:
    """The constants of the asymmetric curve that the used runs of these groups share; None where none has a valley."""
    sweeps = tuple(_sweep_of(used) for used in parts if _has_valley(used))
    return fit_pool(sweeps) if sweeps else None


def _sweep_of(used: Losses) -> Sweep:
    return Sweep.of(np.log(used.lr), used.loss)


def _has_valley(used: Losses) -> bool:
    return len(np.unique(used.lr)) >= MIN_RATES and not _is_hill(used)


def _is_hill(used: Losses) -> bool:
    """Whether the loss bends downwards about a highest point within the grid."""
    x = np.log(used.lr)
    a, b, _ = np.polyfit(x - x.mean(), used.loss, deg=2)
    if a > 0 or math.isclose(a, 0, abs_tol=1e-12):
        return bool(math.isclose(a, 0, abs_tol=1e-12) and math.isclose(b, 0, abs_tol=1e-12))
    top = x.mean() - b / (2 * a)
    return bool(x.min() < top < x.max())


def _fit_one(group: dict[str, Key], used: Losses, excluded: int, method: Method) -> Optimum:
    """The optimum of one group; by `linex` only for a group that has no valley."""
    rates = np.unique(used.lr)
    if len(rates) < MIN_RATES:
        best = int(np.argmin(used.loss)) if used.loss.size else None
        return Optimum(
            group=group,
            lr=None if best is None else float(used.lr[best]),
            lr_low=None,
            lr_high=None,
            loss=None if best is None else float(used.loss[best]),
            method=method,
            status="too_few",
            points=used.lr.size,
            excluded=excluded,
        )
    if _is_hill(used):
        return Optimum(
            group=group,
            lr=None,
            lr_low=None,
            lr_high=None,
            loss=float(used.loss.min()),
            method=method,
            status="no_minimum",
            points=used.lr.size,
            excluded=excluded,
        )
    if method == "parabola":
        return _parabola(group, used, excluded)
    return _on_grid(group, used, excluded, method, "ok")


def _mean_losses(used: Losses) -> tuple[FloatArray, FloatArray]:
    """Distinct rates ascending, and the mean loss at each."""
    rates, inverse = np.unique(used.lr, return_inverse=True)
    return rates, np.bincount(inverse, weights=used.loss) / np.bincount(inverse)


def _on_grid(
    group: dict[str, Key],
    used: Losses,
    excluded: int,
    method: Method,
    inside: Literal["ok", "argmin"],
    r2: float | None = None,
) -> Optimum:
    """The observed best rate; of a curve with one minimum, that lies between the neighbours of the best rate."""
    rates, means = _mean_losses(used)
    best = int(np.argmin(means))
    at_low, at_high = best == 0, best == len(rates) - 1
    return Optimum(
        group=group,
        lr=float(rates[best]),
        lr_low=None if at_low else float(rates[best - 1]),
        lr_high=None if at_high else float(rates[best + 1]),
        loss=float(means[best]),
        method=method,
        status="edge_low" if at_low else "edge_high" if at_high else inside,
        points=used.lr.size,
        excluded=excluded,
        r2=r2,
    )


def _edge(group: dict[str, Key], used: Losses, excluded: int, method: Method, side: Literal["low", "high"]) -> Optimum:
    """The bound that a curve without a lowest point on the grid sets: η* lies beyond the neighbour of the edge."""
    rates, means = _mean_losses(used)
    outermost, neighbour = (0, 1) if side == "low" else (-1, -2)
    return Optimum(
        group=group,
        lr=float(rates[outermost]),
        lr_low=None if side == "low" else float(rates[neighbour]),
        lr_high=float(rates[neighbour]) if side == "low" else None,
        loss=float(means[outermost]),
        method=method,
        status="edge_low" if side == "low" else "edge_high",
        points=used.lr.size,
        excluded=excluded,
    )


def _parabola(group: dict[str, Key], used: Losses, excluded: int) -> Optimum:
    x = np.log(used.lr)
    centre = float(x.mean())
    basis = np.vander(x - centre, 3)
    # In units of a power of two, which rounds nothing, so that no square is beyond the floats.
    _, unit = math.frexp(float(np.abs(used.loss).max()))
    y = np.ldexp(used.loss, -unit)
    coefficients, *_ = np.linalg.lstsq(basis, y, rcond=None)
    a, b, c = (float(value) for value in coefficients)
    residual = y - basis @ coefficients
    total = float(np.sum((y - y.mean()) ** 2))
    r2 = 1 - float(residual @ residual) / total if total > 0 else 0.0
    if a <= 0 or r2 <= MIN_R2:
        return _on_grid(group, used, excluded, "parabola", "argmin", r2)
    vertex = -b / (2 * a)
    if not x.min() <= centre + vertex <= x.max():
        return _edge(group, used, excluded, "parabola", "low" if vertex < 0 else "high")
    low, high = _fieller(basis, residual, a, b)
    return Optimum(
        group=group,
        lr=math.exp(centre + vertex),
        lr_low=None if low is None else math.exp(centre + low),
        lr_high=None if high is None else math.exp(centre + high),
        loss=float(np.ldexp(c - b**2 / (4 * a), unit)),
        method="parabola",
        status="ok",
        points=used.lr.size,
        excluded=excluded,
        curvature=float(np.ldexp(a, unit)),
        skew=0.0,
        r2=r2,
    )


def _fieller(basis: FloatArray, residual: FloatArray, a: float, b: float) -> tuple[float | None, float | None]:
    """Where 2au + b may vanish: {u: (2au + b)² ≤ t²·var(2au + b)} (Fieller 1954); no ends where that is unbounded."""
    dof = len(residual) - 3
    if dof < 1:
        return None, None
    cov = np.linalg.inv(basis.T @ basis) * float(residual @ residual) / dof
    q = float(stdtrit(dof, (1 + LEVEL) / 2)) ** 2
    # A quadratic inequality in u; its leading coefficient is positive when a differs from 0 at this level.
    lead = 4 * (a**2 - q * cov[0, 0])
    middle = 4 * (a * b - q * cov[0, 1])
    last = b**2 - q * cov[1, 1]
    if lead <= 0:
        return None, None
    spread = math.sqrt(max(0.0, middle**2 - 4 * lead * last))
    return (-middle - spread) / (2 * lead), (-middle + spread) / (2 * lead)


def _linex(group: dict[str, Key], used: Losses, excluded: int, sweep: Sweep, valley: Valley, skew: float) -> Optimum:
    first, last = float(sweep.x[0]), float(sweep.x[-1])
    best = int(np.argmin(sweep.y))
    at_edge = best in (0, len(sweep.x) - 1)
    inside = first <= valley.low and valley.high <= last
    beyond = max(first - valley.low, valley.high - last)
    if not first < valley.x < last or (at_edge and not inside) or beyond > LEAVES:
        low = first - valley.low == beyond if beyond > LEAVES else valley.x < (first + last) / 2
        return _edge(group, used, excluded, "linex", "low" if low else "high")
    return Optimum(
        group=group,
        lr=math.exp(valley.x),
        lr_low=math.exp(valley.low),
        lr_high=math.exp(valley.high),
        loss=valley.loss,
        method="linex",
        status="ok",
        points=used.lr.size,
        excluded=excluded,
        curvature=valley.curvature,
        skew=skew,
        loss_sd=valley.loss_sd,
    )
