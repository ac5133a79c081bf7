"""What moves the optimum: the exponent of η* along each covariate, "no dependence" among the possible answers.

ln η* = α + Σ_j b_j ln x_j by least squares over the settled optima, weighted by 1/SE² where all of them have one;
errors are scaled up to the scatter that is seen, never down, and intervals are Student's. Covariates that move
together, such as depth and tokens at fixed tokens per parameter, cannot be told apart: each is then fitted alone, and
says so.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.special import stdtrit

from sweeper.errors import FitError
from sweeper.fits.losses import Key
from sweeper.fits.optimum import LEVEL, Optimum
from sweeper.laws.arrays import FloatArray

Verdict = Literal["falls", "rises", "no dependence", "unknown"]

NEGLIGIBLE = 0.1
"""An exponent whose whole interval lies within this of 0 moves η* by less than a factor of 1.6 over two decades."""
TOGETHER = 0.98
"""R² of one covariate's logarithm on the others' from which on they cannot be told apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependence:
    """The exponent of η* along one covariate, the others of its fit held constant."""

    y: str
    x: str
    per: dict[str, Key]
    beside: tuple[str, ...]
    """The covariates that were fitted with it."""
    tied: tuple[str, ...]
    """Covariates that move with it, so that its exponent may be theirs."""
    b: float
    b_low: float | None
    """90 % interval (Student's t); None without a degree of freedom."""
    b_high: float | None
    verdict: Verdict
    """`no dependence` where the interval contains 0 and lies within ±0.1; `unknown` where it contains 0 and is wider
    than that, or is not there."""
    points: int
    values: int
    """Distinct values of the covariate."""
    published: float | None
    """Exponent of the reference, if it has one."""
    agrees: bool | None
    """Whether the published exponent lies inside the interval."""


def carried(
    optima: tuple[Optimum, ...], x: str, target: Mapping[str, float]
) -> tuple[tuple[Optimum, ...], dict[str, float], float]:
    """The optima as they would lie at the target's values of all covariates but x, by the exponents of the data.

    Returns:
        The settled optima with x alone in their groups, the exponents that carried them, and the standard error of
        ln η* that these bring: of each exponent times the distance from the middle of its covariate.

    Raises:
        FitError: A covariate moves together with another, so that its exponent is not known.
    """
    settled = tuple(optimum for optimum in optima if optimum.settled and optimum.lr is not None)
    others = tuple(name for name in target if name != x)
    rows = {row.x: row for row in fit_dependence(settled, (x, *others))}
    tied = [row for row in rows.values() if row.tied]
    if tied:
        raise FitError(
            f"{tied[0].x} and {', '.join(tied[0].tied)} move together in these runs, and their exponents cannot be "
            "told apart; vary one alone, or predict along one of them (--by)"
        )
    exponents = {name: rows[name].b for name in others if name in rows}
    variance = 0.0
    for name in exponents:
        row = rows[name]
        middle = float(np.mean([math.log(float(optimum.group[name])) for optimum in settled]))
        width = 0.3 if row.b_low is None or row.b_high is None else (row.b_high - row.b_low) / 2 / 1.645
        variance += (width * (math.log(target[name]) - middle)) ** 2
    moved = []
    for optimum in settled:
        away = sum(b * math.log(target[name] / float(optimum.group[name])) for name, b in exponents.items())
        ends = [None if end is None else end * math.exp(away) for end in (optimum.lr, optimum.lr_low, optimum.lr_high)]
        moved.append(replace(optimum, group={x: optimum.group[x]}, lr=ends[0], lr_low=ends[1], lr_high=ends[2]))
    return tuple(moved), exponents, math.sqrt(variance)


def fit_dependence(
    optima: tuple[Optimum, ...],
    covariates: tuple[str, ...],
    *,
    y_name: str = "lr_peak",
    per: Mapping[str, Key] | None = None,
    published: Mapping[str, float] | None = None,
) -> tuple[Dependence, ...]:
    """The exponent of η* along each covariate that takes two values among the settled optima.

    Args:
        optima: Of one setting; the covariates stand in their groups.
        covariates: Positive numbers; text, and values that are not positive, are left out.
        published: Exponents to compare with, by covariate.

    >>> from dataclasses import replace
    >>> from sweeper.fits.losses import make_losses
    >>> from sweeper.fits.optimum import fit_lr_optima
    >>> lr, tokens = np.tile([0.005, 0.01, 0.02], 3), np.repeat([1e9, 2e9, 4e9], 3)
    >>> losses = make_losses(lr, 2.5 + 0.1 * np.log(lr / 0.01) ** 2, covariates={"tokens": tokens})
    >>> found, = fit_dependence(fit_lr_optima(losses, ("tokens",), "parabola"), ("tokens",))
    >>> found.verdict
    'no dependence'
    """
    settled = [optimum for optimum in optima if optimum.settled and optimum.lr is not None]
    columns = {name: column for name in covariates if (column := _column(settled, name)) is not None}
    if not columns:
        return ()
    log_lr = np.log(np.array([optimum.lr for optimum in settled], dtype=np.float64))
    sds = [optimum.log_sd for optimum in settled]
    known = [sd for sd in sds if sd is not None and sd > 0]
    log_sd = np.array(known) if len(known) == len(sds) else None
    tied = _tied(columns)
    together = tuple(name for name in columns if not tied[name])
    rows = []
    for name in columns:
        beside = tuple(other for other in together if other != name) if name in together else ()
        b, reach = _slope(columns[name], [columns[other] for other in beside], log_lr, log_sd)
        low, high = (None, None) if reach is None else (b - reach, b + reach)
        paper = (published or {}).get(name)
        rows.append(
            Dependence(
                y=y_name,
                x=name,
                per=dict(per or {}),
                beside=beside,
                tied=tied[name],
                b=b,
                b_low=low,
                b_high=high,
                verdict=_verdict(low, high),
                points=len(settled),
                values=len(np.unique(columns[name])),
                published=paper,
                agrees=None if paper is None or low is None or high is None else low <= paper <= high,
            )
        )
    return tuple(rows)


def _column(optima: list[Optimum], name: str) -> FloatArray | None:
    """ln x of each optimum; None for text, values that are not positive, or a single value."""
    values = [optimum.group.get(name) for optimum in optima]
    if any(isinstance(value, str) or value is None or not value > 0 for value in values):
        return None
    column = np.log(np.array(values, dtype=np.float64))
    return column if column.size and np.ptp(column) > 0 else None


def _tied(columns: Mapping[str, FloatArray]) -> dict[str, tuple[str, ...]]:
    """For each covariate those that it cannot be told apart from."""
    found = {}
    for name, column in columns.items():
        others = {other: values for other, values in columns.items() if other != name}
        pairs = tuple(o for o, values in others.items() if np.corrcoef(column, values)[0, 1] ** 2 > TOGETHER)
        found[name] = pairs or (tuple(others) if others and _r2(column, list(others.values())) > TOGETHER else ())
    return found


def _r2(column: FloatArray, others: list[FloatArray]) -> float:
    basis = np.stack([np.ones_like(column), *others], axis=1)
    residual = column - basis @ np.linalg.lstsq(basis, column, rcond=None)[0]
    return 1 - float(residual @ residual) / float(np.sum((column - column.mean()) ** 2))


def _slope(
    column: FloatArray, beside: list[FloatArray], log_lr: FloatArray, log_sd: FloatArray | None
) -> tuple[float, float | None]:
    """The exponent and half of its interval; no interval without a degree of freedom."""
    basis = np.stack(
        [column - column.mean(), np.ones_like(column), *(other - other.mean() for other in beside)], axis=1
    )
    root = np.ones_like(column) if log_sd is None else 1 / log_sd
    scaled = basis * root[:, None]
    solution, *_ = np.linalg.lstsq(scaled, log_lr * root, rcond=None)
    dof = len(log_lr) - basis.shape[1]
    if dof < 1:
        return float(solution[0]), None
    residual = log_lr * root - scaled @ solution
    variance = float(residual @ residual) / dof
    cov = np.linalg.pinv(scaled.T @ scaled) * (variance if log_sd is None else max(1.0, variance))
    return float(solution[0]), float(stdtrit(dof, (1 + LEVEL) / 2)) * math.sqrt(max(float(cov[0, 0]), 0.0))


def _verdict(low: float | None, high: float | None) -> Verdict:
    if low is None or high is None:
        return "unknown"
    if high < 0:
        return "falls"
    if low > 0:
        return "rises"
    return "no dependence" if low >= -NEGLIGIBLE and high <= NEGLIGIBLE else "unknown"
