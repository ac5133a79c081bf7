import numpy as np
import pytest
from scipy.optimize import minimize

from sweeper.fits.power_sum import Points, condition_of, fit_power_sum, named, objective, projections

N, D = (grid.ravel() for grid in np.meshgrid(np.geomspace(5e7, 5e9, 4), np.geomspace(1e9, 1e11, 4)))
TRUE = 1.69 + 406.4 * N**-0.34 + 410.7 * D**-0.28


def noisy(seed=0, noise=0.003):
    return TRUE * np.exp(noise * np.random.default_rng(seed).standard_normal(TRUE.size))


def test_the_gradient_equals_finite_differences():
    points = Points.of(noisy(), N, D)
    rng = np.random.default_rng(1)
    weights = rng.uniform(0, 2, (3, N.size))
    theta = fit_power_sum(points)[0] + 0.05 * rng.standard_normal((3, 5))
    _, gradient = objective(points, weights, theta)
    for i in range(5):
        step = 1e-6 * np.eye(5)[i]
        rise = objective(points, weights, theta + step)[0] - objective(points, weights, theta - step)[0]
        assert rise / 2e-6 == pytest.approx(gradient[:, i], rel=1e-4, abs=1e-9)


def test_no_other_optimiser_finds_less():
    points = Points.of(noisy(), N, D)
    ours = objective(points, np.ones((1, N.size)), fit_power_sum(points))[0][0]
    for start in projections(points, np.ones((1, N.size)), 3)[0]:
        found = minimize(
            lambda q: tuple(1e3 * part[0] for part in objective(points, np.ones((1, N.size)), q[None])),
            start,
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 2000, "maxfun": 4000, "ftol": 1e-15, "gtol": 1e-10},
        )
        assert ours <= found.fun / 1e3 * (1 + 1e-6)


def test_a_weight_of_two_is_a_point_that_is_there_twice():
    L = noisy()
    weighted = fit_power_sum(Points.of(L, N, D), 1.0 + (np.arange(N.size) < 5)[None])
    twice = np.concatenate([np.arange(N.size), np.arange(5)])
    points, repeated = Points.of(L, N, D), Points.of(L[twice], N[twice], D[twice])
    once, again = named(points, weighted[0]), named(repeated, fit_power_sum(repeated)[0])
    assert abs(again.E - once.E) < 1e-3
    assert again.exponents == pytest.approx(once.exponents, rel=1e-4)


def test_one_outlier_hardly_moves_the_constants():
    spoilt = TRUE.copy()
    spoilt[5] *= 1.1
    points = Points.of(spoilt, N, D)
    found = named(points, fit_power_sum(points)[0])
    assert abs(found.E - 1.69) < 0.01
    assert found.exponents == pytest.approx([0.34, 0.28], abs=0.003)


def test_what_the_data_do_not_show_ends_at_its_bound_of_nothing():
    pure = 30 * N**-0.1
    points = Points.of(pure, N)
    found = named(points, fit_power_sum(points)[0])
    assert found.E == 0
    assert (found.scales[0], found.exponents[0]) == (pytest.approx(30, rel=1e-3), pytest.approx(0.1, rel=1e-3))


def test_a_grid_along_one_line_is_ill_conditioned():
    ratio = Points.of(1.69 + 406.4 * N**-0.34 + 410.7 * (20 * N) ** -0.28, N, 20 * N)
    grid = Points.of(TRUE, N, D)
    assert condition_of(ratio, fit_power_sum(ratio)[0]) > 1e3 > condition_of(grid, fit_power_sum(grid)[0])
