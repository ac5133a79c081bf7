import numpy as np
import pytest

from sweeper.fits.dependence import fit_dependence
from sweeper.fits.optimum import Optimum


def optimum(lr, status="ok", spread=1.06, **group):
    return Optimum(
        group=group,
        lr=lr,
        lr_low=lr / spread,
        lr_high=lr * spread,
        loss=2.5,
        method="linex",
        status=status,
        points=5,
        excluded=0,
    )


def law(tokens, width, rng=None):
    noise = 1.0 if rng is None else float(np.exp(rng.normal(0, 0.03)))
    return optimum(24.27 * tokens**-0.32 * noise, tokens=tokens, width=width)


GRID = [(tokens, width) for tokens in (1e9, 2e9, 4e9, 8e9) for width in (256, 512, 1024)]


def test_each_exponent_is_found_with_the_other_held_constant():
    tokens, width = fit_dependence(tuple(law(*cell) for cell in GRID), ("tokens", "width"), published={"tokens": -0.32})
    assert (tokens.b, tokens.verdict, tokens.beside) == (pytest.approx(-0.32), "falls", ("width",))
    assert (tokens.published, tokens.agrees, width.agrees) == (-0.32, True, None)
    assert (width.b, width.verdict) == (pytest.approx(0, abs=1e-9), "no dependence")


def test_an_exponent_away_from_the_published_one_disagrees():
    optima = tuple(optimum(2 * t**-0.18, tokens=t) for t in (1e9, 2e9, 4e9, 8e9, 16e9))
    (found,) = fit_dependence(optima, ("tokens",), published={"tokens": -0.32})
    assert (found.verdict, found.agrees) == ("falls", False)


def test_covariates_that_move_together_are_fitted_alone_and_name_each_other():
    optima = tuple(optimum(0.02 * d**-0.5, depth=d, tokens=1e9 * d**3) for d in (8, 12, 16, 20))
    depth, tokens = fit_dependence(optima, ("depth", "tokens"))
    assert (depth.tied, depth.beside, depth.b) == (("tokens",), (), pytest.approx(-0.5))
    assert (tokens.tied, tokens.b) == (("depth",), pytest.approx(-0.5 / 3))


def test_too_few_or_too_scattered_optima_leave_it_unknown():
    two = fit_dependence((optimum(0.02, tokens=1e9), optimum(0.02, tokens=2e9)), ("tokens",))
    assert (two[0].verdict, two[0].b_low) == ("unknown", None)
    wild = tuple(optimum(lr, tokens=t) for t, lr in ((1e9, 0.02), (2e9, 0.01), (4e9, 0.04)))
    assert fit_dependence(wild, ("tokens",))[0].verdict == "unknown"


def test_text_edges_and_single_values_are_left_out():
    optima = (
        *(optimum(0.02, tokens=t, arm="a", depth=8) for t in (1e9, 2e9, 4e9)),
        optimum(9.0, status="edge_high", tokens=8e9, arm="a", depth=16),
    )
    (found,) = fit_dependence(optima, ("tokens", "arm", "depth"))
    assert (found.x, found.points, found.values) == ("tokens", 3, 3)


def test_the_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(2)
    hits = []
    for _ in range(300):
        tokens, width = fit_dependence(tuple(law(*cell, rng) for cell in GRID), ("tokens", "width"))
        hits += [tokens.b_low <= -0.32 <= tokens.b_high, width.b_low <= 0 <= width.b_high]
    assert 0.86 <= np.mean(hits) <= 0.98
