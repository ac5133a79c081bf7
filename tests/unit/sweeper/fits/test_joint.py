import numpy as np
import pytest

from sweeper.errors import FitError
from sweeper.fits.joint import _cells, _slopes, fit_joint
from sweeper.fits.linex import g
from sweeper.fits.losses import make_losses

T = 1e9 * 2.0 ** np.arange(6)
TRUTH = {"E": 2.0, "A": 0.9 * 1e9**0.35, "beta": 0.35, "a": 0.01 * 4e9**0.3, "b": -0.3, "kappa": 0.2, "skew": 0.9}


def sweeps(rng=None, noise=0.0, *, tokens=T, rates=6, off=0.0, **options):
    """Rates one octave apart about 0.01 at each budget; relative noise; `off` moves the grid, in e-folds."""
    lr = 0.01 * np.exp(np.log(2) * (np.arange(rates) - (rates - 1) / 2) + off)
    t, eta = (grid.ravel() for grid in np.meshgrid(tokens, lr, indexing="ij"))
    u = np.log(eta / (TRUTH["a"] * t ** TRUTH["b"]))
    loss = TRUTH["E"] + TRUTH["A"] * t ** -TRUTH["beta"] * (1 + TRUTH["kappa"] * g(u, TRUTH["skew"]))
    if rng is not None:
        loss = loss * (1 + noise * rng.standard_normal(loss.size))
    return make_losses(eta, loss, covariates={"tokens": t}, **options)


def test_the_constants_of_an_exact_surface_are_recovered():
    fit = fit_joint(sweeps(), resamples=0)
    assert fit.b == pytest.approx(-0.3, abs=2e-3)
    assert fit.beta == pytest.approx(0.35, abs=5e-3)
    assert fit.law.at(4e9) == pytest.approx(0.01, rel=5e-3)
    assert (fit.kappa, fit.skew) == (pytest.approx(0.2, rel=0.02), pytest.approx(0.9, abs=0.03))
    assert fit.rmse < 1e-3
    assert (fit.points, fit.budgets, fit.x_low, fit.x_high) == (36, 6, 1e9, 32e9)
    assert fit.along(np.array([4e9]), np.array([0.01]))[0] == pytest.approx(fit.curve.at(4e9), rel=1e-4)


def test_noise_leaves_the_exponents_inside_their_intervals():
    held, found = [], []
    for seed in range(4):
        fit = fit_joint(sweeps(np.random.default_rng(seed), 0.002), resamples=60)
        held.append((fit.b_low <= -0.3 <= fit.b_high, fit.beta_low <= 0.35 <= fit.beta_high))
        found.append(fit.b)
        assert 0 < fit.b_high - fit.b_low < 0.2
    assert np.mean(held) >= 0.75
    assert np.mean(found) == pytest.approx(-0.3, abs=0.02)


def test_the_same_runs_give_the_same_answer():
    losses = sweeps(np.random.default_rng(0), 0.002)
    assert fit_joint(losses, resamples=60) == fit_joint(losses, resamples=60)


def test_budgets_whose_optimum_lies_at_an_edge_take_part_and_are_counted():
    fit = fit_joint(sweeps(tokens=1e9 * 8.0 ** np.arange(5), rates=5), resamples=0)
    assert any("of 5 values of tokens have no optimum inside their rates" in warning for warning in fit.warnings)
    assert fit.b == pytest.approx(-0.3, abs=0.01)
    assert fit.points == 25


def test_one_outlier_hardly_moves_the_law():
    losses = sweeps()
    losses.loss[14] *= 1.02
    assert fit_joint(losses, resamples=0).b == pytest.approx(-0.3, abs=0.01)


def test_diverged_runs_take_no_part():
    losses = sweeps(diverged=np.arange(36) == 35)
    assert fit_joint(losses, resamples=0).points == 35


def test_three_budgets_have_no_interval_and_a_warning():
    fit = fit_joint(sweeps(tokens=T[:3]))
    assert (fit.b_low, fit.beta_high) == (None, None)
    assert any("3 values of tokens: beta and E hang on each" in warning for warning in fit.warnings)


def test_what_admits_no_joint_fit_is_refused_in_one_sentence():
    with pytest.raises(FitError, match=r"needs 3 values of tokens with runs, got 2; add budgets"):
        fit_joint(sweeps(tokens=T[:2]))
    with pytest.raises(FitError, match="got 0; add budgets"):
        fit_joint(sweeps(diverged=np.ones(36, dtype=bool)))
    with pytest.raises(FitError, match="does not fall"):
        fit_joint(
            make_losses(
                np.tile([0.005, 0.01, 0.02], 3),
                [2.1, 2, 2.1, 2.2, 2.1, 2.2, 2.3, 2.2, 2.3],
                covariates={"tokens": np.repeat(T[:3], 3)},
            )
        )
    with pytest.raises(FitError, match="needs optima at 2 values"):
        fit_joint(sweeps(off=3.0))
    with pytest.raises(FitError, match="tokens holds 0"):
        fit_joint(make_losses([0.01] * 3, [2.0] * 3, covariates={"tokens": [0.0, 1e9, 2e9]}))
    with pytest.raises(FitError, match="it is text such as 'a'"):
        fit_joint(make_losses([0.01] * 3, [2.0] * 3, labels={"tokens": ["a", "b", "c"]}))
    with pytest.raises(FitError, match="no column 'depth'"):
        fit_joint(sweeps(), x="depth")


@pytest.mark.parametrize("skew", [0.9, -0.5, 0.02, 0.0])
def test_the_derivatives_equal_finite_differences(skew):
    cells, _ = _cells(sweeps(np.random.default_rng(0), 0.002), "tokens", "loss")
    theta = np.array([-0.4, 0.35, 2.0, np.log(0.011), -0.28, np.log(0.2), skew])
    _, slopes = _slopes(cells, theta)
    for i in range(7):
        step = 1e-6 * np.eye(7)[i]
        rise = _slopes(cells, theta + step)[0] - _slopes(cells, theta - step)[0]
        assert rise / 2e-6 == pytest.approx(slopes[:, i], rel=1e-4, abs=1e-6)
