import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.fits.joint import fit_joint
from sweeper.fits.linex import g
from sweeper.fits.loss_curve import fit_loss_curve
from sweeper.fits.losses import make_losses
from sweeper.fits.sensitivity import fit_sensitivity
from sweeper.fits.surface import fit_surface

N, D = (grid.ravel() for grid in np.meshgrid(np.geomspace(5e7, 5e9, 4), np.geomspace(1e9, 1e11, 4)))
L = (1.69 + 406.4 * N**-0.34 + 410.7 * D**-0.28) * (1 + 0.002 * np.cos(7 * np.arange(16)))
C, CURVE = np.array([2e19, 1.5e20, 6.6e20, 2.2e21, 6e21]), np.array([2.478, 2.226, 2.067, 1.959, 1.879])

TOKENS, LR = (grid.ravel() for grid in np.meshgrid(1e9 * 2.0 ** np.arange(5), 0.01 * 2.0 ** np.arange(-2, 3)))
JOINT = 2 + 0.9 * (TOKENS / 1e9) ** -0.35 * (1 + 0.2 * g(np.log(LR / 0.01) + 0.3 * np.log(TOKENS / 4e9), 0.9))
JOINT = JOINT * (1 + 0.001 * np.cos(7 * np.arange(25)))

units = st.floats(1e-6, 1e6)


@settings(max_examples=8, deadline=None)
@given(n_unit=units, d_unit=units, l_unit=st.floats(0.1, 10))
def test_a_surface_follows_its_units(n_unit, d_unit, l_unit):
    here = fit_surface(N, D, L, resamples=0)
    there = fit_surface(n_unit * N, d_unit * D, l_unit * L, resamples=0)
    assert (there.alpha, there.beta) == pytest.approx((here.alpha, here.beta), rel=1e-3)
    scale = here.A * l_unit * n_unit**here.alpha
    assert (there.E, there.A, there.points) == pytest.approx((l_unit * here.E, scale, 16), rel=3e-2)
    assert there.loo_error == pytest.approx(here.loo_error, rel=1e-2)
    assert there.condition == pytest.approx(here.condition, rel=1e-2)


@settings(max_examples=6, deadline=None)
@given(order=st.permutations(range(16)))
def test_the_order_of_points_does_not_move_a_surface(order):
    order = list(order)
    here, there = fit_surface(N, D, L, resamples=0), fit_surface(N[order], D[order], L[order], resamples=0)
    assert (there.E, there.alpha, there.beta) == pytest.approx((here.E, here.alpha, here.beta), rel=1e-4)


@settings(max_examples=6, deadline=None)
@given(unit=units)
def test_size_and_data_play_the_same_part(unit):
    here, there = fit_surface(N, D, L, resamples=0), fit_surface(unit * D, N, L, resamples=0)
    assert (there.alpha, there.beta) == pytest.approx((here.beta, here.alpha), rel=1e-3)
    assert there.allocation[0] == pytest.approx(here.allocation[1], rel=1e-3)


@settings(max_examples=8, deadline=None)
@given(unit=units, l_unit=st.floats(0.1, 10))
def test_a_curve_and_its_errors_follow_their_units(unit, l_unit):
    here, there = fit_loss_curve(C, CURVE), fit_loss_curve(unit * C, l_unit * CURVE)
    assert (there.b, there.E) == pytest.approx((here.b, l_unit * here.E), rel=1e-4)
    assert (there.b_low, there.E_high) == pytest.approx((here.b_low, l_unit * here.E_high), rel=1e-3)
    assert (there.condition, there.rolling_error) == pytest.approx((here.condition, here.rolling_error), rel=1e-3)
    assert there.robust.b == pytest.approx(here.robust.b, rel=1e-3)


@settings(max_examples=4, deadline=None)
@given(t_unit=units, lr_unit=st.floats(1e-3, 1e3), l_unit=st.floats(0.1, 10))
def test_a_joint_fit_follows_its_units(t_unit, lr_unit, l_unit):
    here = fit_joint(make_losses(LR, JOINT, covariates={"tokens": TOKENS}), resamples=0)
    moved = make_losses(lr_unit * LR, l_unit * JOINT, covariates={"tokens": t_unit * TOKENS})
    there = fit_joint(moved, resamples=0)
    assert (there.b, there.beta) == (pytest.approx(here.b, abs=2e-3), pytest.approx(here.beta, abs=5e-3))
    at_four = (l_unit * here.E, lr_unit * here.law.at(4e9))
    assert (there.E, there.law.at(4e9 * t_unit)) == pytest.approx(at_four, rel=2e-3)


@settings(max_examples=6, deadline=None)
@given(lr_unit=st.floats(1e-3, 1e3), l_unit=st.floats(0.1, 10))
def test_sensitivity_has_no_unit(lr_unit, l_unit):
    here = fit_sensitivity(make_losses(LR, JOINT, covariates={"tokens": TOKENS}))
    there = fit_sensitivity(make_losses(lr_unit * LR, l_unit * JOINT, covariates={"tokens": TOKENS}))
    assert [row.settled for row in there] == [row.settled for row in here]
    assert [row.lr_error for row in there] == pytest.approx([row.lr_error for row in here], rel=1e-4, abs=1e-9)
