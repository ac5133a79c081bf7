import numpy as np
import pytest

from sweeper.errors import FitError
from sweeper.fits.surface import fit_surface
from sweeper.laws.loss import LossSurface

HOFFMANN = LossSurface(E=1.69, A=406.4, alpha=0.34, B=410.7, beta=0.28)
"""Hoffmann et al. 2022, eq. 10 (arXiv 2203.15556)."""
BESIROGLU = LossSurface(E=1.8172, A=482.01, alpha=0.3478, B=2085.43, beta=0.3658)
"""Besiroglu et al. 2024, table 1 (arXiv 2404.10102)."""

HYPERP_TABLE_12 = (  # params, tokens, loss of Muon at 50 tokens per parameter (arXiv 2603.28743)
    [208142336, 570163200, 1238368256, 2313420800, 3895984128],
    [10400000000, 28488664987, 61876070528, 115591939546, 194665994962],
    [2.4777, 2.2257, 2.0671, 1.9591, 1.8785],
)


def pairs(sizes=4, data=4):
    return tuple(grid.ravel() for grid in np.meshgrid(np.geomspace(5e7, 5e9, sizes), np.geomspace(1e9, 1e11, data)))


@pytest.mark.parametrize("truth", [HOFFMANN, BESIROGLU, LossSurface(E=0.0, A=9.0, alpha=0.07, B=500.0, beta=0.35)])
def test_an_exact_surface_is_recovered(truth):
    N, D = pairs()
    fit = fit_surface(N, D, truth.along(N, D), resamples=0)
    assert (fit.E, fit.alpha, fit.beta) == pytest.approx((truth.E, truth.alpha, truth.beta), rel=1e-3, abs=1e-3)
    assert fit.surface.along(N, D) == pytest.approx(truth.along(N, D), rel=1e-5)
    assert fit.loo_error < 1e-4


@pytest.mark.parametrize("truth", [HOFFMANN, BESIROGLU])
def test_the_intervals_hold_the_constants_of_a_noisy_surface(truth):
    N, D = pairs()
    held = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        fit = fit_surface(N, D, truth.along(N, D) * np.exp(0.003 * rng.standard_normal(N.size)), rng=rng)
        held.append(
            [
                fit.E_low <= truth.E <= fit.E_high,
                fit.alpha_low <= truth.alpha <= fit.alpha_high,
                fit.beta_low <= truth.beta <= fit.beta_high,
                fit.size_exponent_low <= truth.size_exponent <= fit.size_exponent_high,
            ]
        )
        assert fit.allocation[0] == pytest.approx(truth.size_exponent, abs=0.06)
        assert fit.condition < 1e3
    assert np.mean(held) > 0.75


def test_the_same_data_give_the_same_intervals():
    N, D = pairs()
    L = HOFFMANN.along(N, D) * (1 + 0.002 * np.cos(np.arange(16)))
    assert fit_surface(N, D, L) == fit_surface(N, D, L)


def test_a_fixed_number_of_tokens_per_parameter_is_warned_of():
    fit = fit_surface(*HYPERP_TABLE_12)
    assert any("one ratio tokens/params" in warning for warning in fit.warnings)
    assert any("not tested" in warning for warning in fit.warnings)
    assert (fit.E_low, fit.loo_error) == (None, None)
    assert fit.condition > 1e3


def test_a_narrow_range_leaves_its_exponent_undetermined_and_says_so():
    N, D = np.meshgrid([2e8, 3e8, 4e8], np.geomspace(1e9, 1e11, 5))
    rng = np.random.default_rng(3)
    L = HOFFMANN.along(N, D) * np.exp(0.005 * rng.standard_normal(N.shape))
    fit = fit_surface(N.ravel(), D.ravel(), L.ravel())
    assert any("alpha is hardly determined" in w or "alpha lies at its bound" in w for w in fit.warnings)


def test_a_loss_that_size_does_not_move_has_no_term_of_size():
    N, D = pairs()
    fit = fit_surface(N, D, 1.7 + 410.7 * D**-0.28, resamples=0)
    # What A·N^−alpha with alpha near 0 or A = 0 cannot be told from is E.
    assert fit.surface.at(5e7, 1e10) == pytest.approx(fit.surface.at(5e9, 1e10), rel=1e-4)


def test_more_than_sixty_pairs_are_left_out_in_folds():
    N, D = pairs(9, 9)
    fit = fit_surface(N, D, HOFFMANN.along(N, D) * (1 + 0.002 * np.cos(np.arange(81))), resamples=0)
    assert 0 < fit.loo_error < 0.004
    assert fit.points == 81


def test_a_reading_beyond_the_data_is_not_covered():
    N, D = pairs()
    fit = fit_surface(N, D, HOFFMANN.along(N, D), resamples=0)
    assert fit.covers(5.2e9, 1e11)
    assert not fit.covers(6e9, 1e10)
    assert not fit.covers(1e9, 1e12)


def test_what_admits_no_surface_is_refused_in_one_sentence():
    N, D = pairs(2, 2)
    with pytest.raises(FitError, match=r"needs as many pairs of params and tokens, got 4; add budgets"):
        fit_surface(N, D, HOFFMANN.along(N, D))
    with pytest.raises(FitError, match=r"needs several values of params, got only 1e\+08; fit a curve"):
        fit_surface(np.full(6, 1e8), np.geomspace(1e9, 1e10, 6), np.linspace(3, 2, 6))
    with pytest.raises(FitError, match="tokens holds 0"):
        fit_surface([1e8, 1e9], [0.0, 1e9], [3.0, 2.0])
    with pytest.raises(FitError, match="loss holds nan"):
        fit_surface([1e8, 1e9], [1e9, 1e9], [3.0, float("nan")])
    with pytest.raises(FitError, match="got 0"):
        fit_surface([], [], [])


def test_of_very_many_points_a_sample_is_fitted_and_said():
    rng = np.random.default_rng(0)
    N, D = np.exp(rng.uniform(18, 23, 50_000)), np.exp(rng.uniform(21, 26, 50_000))
    fit = fit_surface(N, D, HOFFMANN.along(N, D), resamples=0)
    assert fit.points == 50_000
    assert "fitted to a sample of 2000 of the 50000 points" in fit.warnings
    assert fit.alpha == pytest.approx(0.34, abs=1e-3)
