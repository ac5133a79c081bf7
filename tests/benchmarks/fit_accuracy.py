"""How near the fitted optimum comes to a known one, how often its interval covers it, and how many runs that takes.

Simulated sweeps with a known optimum: regret is the loss at the fitted rate over the least possible. The first table
fits five rates one octave apart by each estimator; the second lets the adaptive design choose its rates, beside fixed
grids about the same starting points, one octave off (standard deviation). A ratio is the regret of what a user would
do instead (the parabola; a fixed grid of as many runs) over ours: above 1 ours is better.

    python tests/benchmarks/fit_accuracy.py [--sweeps 200] [--json FILE]
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from simulated import CENTRE, LEVEL, Valleys, draw_valleys, grid, run

from sweeper.fits.design import suggest_rates
from sweeper.fits.losses import Losses
from sweeper.fits.optimum import METHODS, Optimum, fit_lr_optima
from sweeper.laws.arrays import FloatArray

POOL = 10
"""Sweeps that are fitted together."""
NOISE = 0.002
SEED = 20


def regrets(valleys: Valleys, optima: tuple[Optimum, ...]) -> list[float]:
    """Loss over the least possible, %, of what each fit answers, a bound at an edge included."""
    return [
        100 * float(valleys.height(i, np.array([optimum.lr or CENTRE]))[0]) / LEVEL for i, optimum in enumerate(optima)
    ]


def covered(valleys: Valleys, optima: tuple[Optimum, ...]) -> list[bool]:
    return [
        (o.lr_low or 0.0) <= CENTRE * np.exp(valleys.optimum[i]) <= (o.lr_high or np.inf) for i, o in enumerate(optima)
    ]


def accuracy(sweeps: int, pool: int, **family: float | str) -> dict[str, dict[str, float]]:
    """Mean regret and coverage of each method over sweeps of one family."""
    rng = np.random.default_rng(SEED)
    found: dict[str, tuple[list[float], list[bool]]] = {method: ([], []) for method in METHODS}
    noise = float(family.pop("noise", NOISE))
    for _ in range(sweeps // pool):
        valleys = draw_valleys(rng, pool, **family)  # type: ignore[arg-type]
        losses = run(rng, valleys, [grid(5)] * pool, noise)
        for method, (regret, cover) in found.items():
            optima = fit_lr_optima(losses, ("group",), method)
            regret += regrets(valleys, optima)
            cover += covered(valleys, optima)
    return {
        method: {"regret": float(np.mean(regret)), "cover": float(np.mean(cover))}
        for method, (regret, cover) in found.items()
    }


def designs(sweeps: int) -> Iterator[tuple[str, float, float]]:
    """Name, runs per sweep and mean regret (%) of each design."""
    for points, octaves in ((3, 1.5), (4, 1.0), (5, 1.0), (6, 1.0), (7, 1.0), (9, 1.0), (9, 0.5)):
        yield f"{points} fixed, {octaves:g} oct apart", points, study(sweeps, fixed(points, octaves))
    for points in (3, 4, 5, 6, 7):
        yield f"{points} adaptive", points, study(sweeps, adaptive(points))


Design = Callable[[np.random.Generator, Valleys, list[float]], Losses]


def study(sweeps: int, design: Design) -> float:
    rng, found = np.random.default_rng(SEED), []
    for _ in range(sweeps // POOL):
        valleys = draw_valleys(rng, POOL, away=0.0)
        centres = [CENTRE * 2.0**off for off in rng.normal(0, 1, POOL)]
        losses = design(rng, valleys, centres)
        found += regrets(valleys, fit_lr_optima(losses, ("group",)))
    return float(np.mean(found))


def fixed(points: int, octaves: float) -> Design:
    def design(rng: np.random.Generator, valleys: Valleys, centres: list[float]) -> Losses:
        return run(rng, valleys, [grid(points, octaves, centre) for centre in centres], NOISE)

    return design


def adaptive(points: int) -> Design:
    """Three runs, then one at a time where `suggest_rates` says; losses that were measured stay."""

    def design(rng: np.random.Generator, valleys: Valleys, centres: list[float]) -> Losses:
        rates: list[FloatArray] = [grid(3, 1.5, centre) for centre in centres]
        losses = run(rng, valleys, rates, NOISE)
        while len(rates[0]) < points:
            suggested = suggest_rates(losses, ("group",), tolerance=0.0)
            new = [np.array(s.lrs[:1]) for s in suggested]
            losses = joined(losses, run(rng, valleys, new, NOISE))
            rates = [np.append(old, more) for old, more in zip(rates, new, strict=True)]
        return losses

    return design


def joined(first: Losses, second: Losses) -> Losses:
    return Losses(
        lr=np.concatenate([first.lr, second.lr]),
        loss=np.concatenate([first.loss, second.loss]),
        excluded=np.concatenate([first.excluded, second.excluded]),
        covariates={name: np.concatenate([first.covariates[name], second.covariates[name]]) for name in ("group",)},
        labels={},
    )


FAMILIES: tuple[tuple[str, int, dict[str, float | str]], ...] = (
    ("linex", POOL, {}),
    ("linex, one sweep at a time", 1, {}),
    ("linex, skew 0.5", POOL, {"skew": 0.5}),
    ("linex, skew 1.2", POOL, {"skew": 1.2}),
    ("linex, flat (κ 0.02)", POOL, {"kappa": 0.02}),
    ("linex, steep (κ 0.15)", POOL, {"kappa": 0.15}),
    ("linex, noise 0.05 %", POOL, {"noise": 0.0005}),
    ("linex, noise 0.5 %", POOL, {"noise": 0.005}),
    ("cubic", POOL, {"shape": "cubic"}),
    ("parabola and wall", POOL, {"shape": "wall"}),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--device", default="cpu", help="no matter here")
    parser.add_argument("--sweeps", type=int, default=200, help="simulated sweeps of each row")
    asked = parser.parse_args()
    results: list[dict[str, object]] = []

    print(
        "| simulated sweeps | regret % linex | parabola | argmin | parabola / linex | 90 % intervals of linex cover |"
    )
    print("|---|---|---|---|---|---|")
    for name, pool, family in FAMILIES:
        rows = accuracy(asked.sweeps, pool, **family)
        ratio = rows["parabola"]["regret"] / rows["linex"]["regret"]
        regret = " | ".join(f"{rows[method]['regret']:.4f}" for method in ("linex", "parabola", "argmin"))
        print(f"| {name} | {regret} | {ratio:.1f} | {rows['linex']['cover']:.1%} |", flush=True)
        results.append({"name": f"fit_accuracy: {name}", "ratio": ratio, "cover": rows["linex"]["cover"]})

    print("\n| design | runs | regret % |\n|---|---|---|")
    of_fixed: dict[float, float] = {}
    for name, points, regret_of_design in designs(asked.sweeps):
        print(f"| {name} | {points:g} | {regret_of_design:.4f} |", flush=True)
        if "fixed" in name:
            of_fixed[points] = min(regret_of_design, of_fixed.get(points, np.inf))
        elif points in of_fixed:
            results.append({"name": f"fit_design: {name}", "ratio": of_fixed[points] / regret_of_design})
    if asked.json:
        found = json.loads(asked.json.read_text()) if asked.json.exists() else {"results": []}
        found["results"] += results
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
