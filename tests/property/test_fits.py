import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.fits.linex import g
from sweeper.fits.loss_curve import fit_loss_curve
from sweeper.fits.losses import make_losses
from sweeper.fits.optimum import fit_lr_optima
from sweeper.fits.power_law import fit_power_law

LR = 0.01 * 2.0 ** np.arange(-2, 3)
LOSS = np.array([2.61, 2.53, 2.50, 2.54, 2.72])
scales = st.floats(1e-3, 1e3)


def optimum(lr, loss, method):
    (found,) = fit_lr_optima(make_losses(lr, loss), by=(), method=method)
    return found


@settings(max_examples=15, deadline=None)
@given(scale=scales, method=st.sampled_from(["linex", "parabola", "argmin"]))
def test_an_optimum_follows_the_unit_of_the_rate(scale, method):
    here, there = optimum(LR, LOSS, method), optimum(scale * LR, LOSS, method)
    assert there.lr == pytest.approx(scale * here.lr, rel=1e-3)
    assert there.lr_low == pytest.approx(scale * here.lr_low, rel=1e-3)
    assert there.status == here.status


@settings(max_examples=15, deadline=None)
@given(scale=st.floats(0.1, 10), method=st.sampled_from(["linex", "parabola", "argmin"]))
def test_an_optimum_does_not_depend_on_the_unit_of_the_loss(scale, method):
    here, there = optimum(LR, LOSS, method), optimum(LR, scale * LOSS, method)
    assert there.lr == pytest.approx(here.lr, rel=2e-3)
    assert there.loss == pytest.approx(scale * here.loss, rel=2e-3)


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(5)), method=st.sampled_from(["linex", "parabola", "argmin"]))
def test_the_order_of_runs_does_not_matter(order, method):
    here, there = optimum(LR, LOSS, method), optimum(LR[list(order)], LOSS[list(order)], method)
    assert there.lr == pytest.approx(here.lr, rel=1e-9)


@settings(max_examples=15, deadline=None)
@given(lost=st.integers(1, 4))
def test_runs_that_are_left_out_change_nothing_but_their_count(lost):
    diverged = [False] * 5 + [True] * lost
    losses = make_losses([*LR, *[0.5] * lost], [*LOSS, *[9.0] * lost], diverged=diverged)
    (found,) = fit_lr_optima(losses, by=())
    assert found == dataclasses.replace(optimum(LR, LOSS, "linex"), excluded=lost)


@given(x_scale=scales, y_scale=scales, space=st.sampled_from(["linear", "log"]))
@settings(max_examples=50, deadline=None)
def test_a_power_law_follows_its_units(x_scale, y_scale, space):
    x, y = np.array([1e9, 2e9, 4e9, 8e9]), np.array([0.021, 0.0155, 0.0131, 0.0099])
    here, there = fit_power_law(x, y, space=space), fit_power_law(x_scale * x, y_scale * y, space=space)
    assert there.b == pytest.approx(here.b, abs=1e-6)
    assert there.loo_error == pytest.approx(here.loo_error, rel=1e-4)
    assert math.log(there.a) == pytest.approx(math.log(here.a * y_scale * x_scale**-here.b), abs=1e-4)


@given(scale=st.floats(1e-6, 1e6))
@settings(max_examples=20, deadline=None)
def test_a_loss_curve_follows_the_unit_of_compute(scale):
    C, L = np.array([2e19, 1.5e20, 6.6e20, 2.2e21, 6e21]), np.array([2.478, 2.226, 2.067, 1.959, 1.879])
    here, there = fit_loss_curve(C, L), fit_loss_curve(scale * C, L)
    assert (there.b, there.E) == (pytest.approx(here.b, rel=1e-4), pytest.approx(here.E, rel=1e-4))


@given(t=st.floats(-5, 5), skew=st.floats(-1.5, 1.5))
def test_the_valley_is_lowest_at_its_optimum_and_mirrors_with_its_skew(t, skew):
    value = g(np.array([t]), skew)[0]
    assert value >= 0
    assert g(np.array([-t]), -skew)[0] == pytest.approx(value, rel=1e-9, abs=1e-12)
    if abs(t) < 1e-3:
        assert value == pytest.approx(t**2, rel=1e-2, abs=1e-12)
