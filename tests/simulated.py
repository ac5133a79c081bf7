"""Learning-rate sweeps whose optimum is known: loss valleys of several forms, with noise."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sweeper.fits.linex import g
from sweeper.fits.losses import Losses, make_losses
from sweeper.laws.arrays import FloatArray

OCTAVE = math.log(2)
CENTRE = 0.01
"""The rate about which grids are laid."""
LEVEL = 2.5
"""Loss at the optimum, nats per token."""

Shape = Callable[[FloatArray, float, float], FloatArray]
"""Height over the minimum, nats per token, at u = ln η − ln η*, for a curvature κ and a skew s."""


def linex(u: FloatArray, kappa: float, skew: float) -> FloatArray:
    return kappa * g(u, skew)


def cubic(u: FloatArray, kappa: float, skew: float) -> FloatArray:
    """The first terms of the same series, and a quartic that keeps it from falling again."""
    return kappa * (u**2 + skew / 3 * u**3 + 0.05 * u**4)


def wall(u: FloatArray, kappa: float, _skew: float) -> FloatArray:
    """A parabola with an exponential wall on the side of high rates."""
    return kappa * u**2 + 0.02 * (np.exp(3 * (u - 1)) - math.exp(-3) * (1 + 3 * u))


SHAPES: dict[str, Shape] = {"linex": linex, "cubic": cubic, "wall": wall}


@dataclass(frozen=True, slots=True, kw_only=True)
class Valleys:
    """Sweeps of one family, each with its own optimum, curvature and skew; arrays of shape (groups,)."""

    shape: str
    optimum: FloatArray
    """ln η*/CENTRE."""
    kappa: FloatArray
    skew: FloatArray

    def height(self, group: int, lr: FloatArray) -> FloatArray:
        """Loss over the least possible, nats per token: the regret of a rate."""
        u = np.log(lr / CENTRE) - self.optimum[group]
        return np.asarray(SHAPES[self.shape](u, float(self.kappa[group]), float(self.skew[group])))


def draw_valleys(
    rng: np.random.Generator,
    groups: int,
    shape: str = "linex",
    *,
    away: float = 0.7,
    kappa: float = 0.06,
    skew: float = 0.9,
) -> Valleys:
    """Optima within `away` octaves of the centre, curvatures and skews scattered as those of published sweeps are."""
    return Valleys(
        shape=shape,
        optimum=OCTAVE * rng.uniform(-away, away, groups),
        kappa=np.exp(rng.normal(math.log(kappa), 0.3, groups)),
        skew=skew + rng.normal(0, 0.15, groups),
    )


def run(rng: np.random.Generator, valleys: Valleys, rates: list[FloatArray], noise: float = 0.002) -> Losses:
    """Train each group at its rates: relative noise on every loss; the column `group` tells them apart."""
    loss = [LEVEL + valleys.height(group, lr) + rng.normal(0, noise * LEVEL, lr.size) for group, lr in enumerate(rates)]
    return make_losses(
        np.concatenate(rates),
        np.concatenate(loss),
        covariates={"group": np.repeat(np.arange(len(rates)), [lr.size for lr in rates])},
    )


def grid(points: int, octaves: float = 1.0, centre: float = CENTRE) -> FloatArray:
    """Rates at equal steps about a centre."""
    return np.asarray(centre * 2 ** (octaves * (np.arange(points) - (points - 1) / 2)))
