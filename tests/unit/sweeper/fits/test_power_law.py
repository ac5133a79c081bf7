import numpy as np
import pytest

from sweeper.errors import FitError
from sweeper.fits.losses import make_losses
from sweeper.fits.optimum import fit_lr_optima
from sweeper.fits.power_law import earns_its_place, fit_optimum_law, fit_power_law


@pytest.mark.parametrize("space", ["linear", "log"])
def test_an_exact_law_is_recovered(space):
    x = np.array([1e9, 3e9, 1e10, 5e10])
    fit = fit_power_law(x, 24.27 * x**-0.32, space=space)
    assert fit.a == pytest.approx(24.27, rel=1e-8)
    assert fit.b == pytest.approx(-0.32, abs=1e-10)
    assert fit.loo_error == pytest.approx(0, abs=1e-9)


def test_the_interval_of_the_exponent_covers_as_often_as_it_says():
    rng = np.random.default_rng(3)
    x = np.geomspace(1e9, 1.6e10, 5)
    fits = [fit_power_law(x, 2 * x**-0.3 * np.exp(rng.normal(0, 0.05, 5))) for _ in range(400)]
    assert 0.85 <= np.mean([fit.b_low <= -0.3 <= fit.b_high for fit in fits]) <= 0.95


def test_a_rate_that_does_not_depend_on_the_axis_is_said_not_to():
    fit = fit_power_law([1, 2, 4, 8], [0.0101, 0.0099, 0.0102, 0.0100])
    assert not fit.depends
    assert fit_power_law([1, 2, 4, 8], [0.08, 0.041, 0.02, 0.0101]).depends


def test_precise_points_weigh_more_in_log_space():
    x, y = [1.0, 2.0, 4.0, 8.0], [1.0, 0.5, 0.25, 0.5]
    assert fit_power_law(x, y, log_sd=[0.01, 0.01, 0.01, 1.0]).b == pytest.approx(-1, abs=0.01)


def test_two_points_have_a_law_but_no_interval():
    fit = fit_power_law([1e9, 4e9], [0.02, 0.01])
    assert fit.b == pytest.approx(-0.5)
    assert (fit.b_low, fit.b_high, fit.loo_error, fit.interval(1e10)) == (None, None, None, None)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [([1, 2], [1, 0], "y holds 0"), ([-1, 2], [1, 1], "x holds -1"), ([2, 2], [1, 3], "needs 2 values of x, got 1")],
)
def test_what_admits_no_law_is_refused_in_one_sentence(x, y, message):
    with pytest.raises(FitError, match=message):
        fit_power_law(x, y)


def test_bounds_at_an_edge_are_left_out_of_the_law():
    lr = np.geomspace(0.005, 0.08, 5)
    tokens, optimum = np.array([1e9, 2e9, 4e9, 8e9]), np.array([0.02, 0.016, 0.0128, 0.0005])
    loss = 2.5 + 0.1 * np.log(np.outer(1 / optimum, lr)) ** 2
    losses = make_losses(np.tile(lr, 4), loss.ravel(), covariates={"tokens": np.repeat(tokens, 5)})
    optima = fit_lr_optima(losses, method="parabola")
    assert [o.status for o in optima] == ["ok", "ok", "ok", "edge_low"]
    law = fit_optimum_law(optima, x="tokens")
    assert law.points == 3
    assert law.b == pytest.approx(np.log2(0.8), abs=1e-6)
    with pytest.raises(FitError, match="needs optima at 2 values of tokens"):
        fit_optimum_law(optima[2:], x="tokens")


HYPERP_TABLE_4 = ([10.4e9, 20.8e9, 41.6e9, 83.2e9, 166.4e9], [0.01515, 0.01208, 0.00958, 0.00772, 0.00635])


def test_an_irreducible_rate_takes_table_4_of_hyperp_to_a_steeper_law():
    fit = fit_power_law(*HYPERP_TABLE_4, space="linear", irreducible=True)
    assert (fit.b, fit.b_se, fit.c) == (
        pytest.approx(-0.380, abs=5e-4),
        pytest.approx(0.020, abs=5e-4),
        pytest.approx(0.0016, abs=5e-5),
    )
    assert fit.law.at(1e12) == pytest.approx(0.00398, abs=5e-6)
    plain = fit_power_law(*HYPERP_TABLE_4, space="linear")
    assert plain.law.at(1e12) == pytest.approx(0.00350, abs=5e-6)
    assert earns_its_place(fit, plain)


@pytest.mark.parametrize("space", ["linear", "log"])
def test_an_irreducible_part_is_recovered_and_found_absent(space):
    x = np.geomspace(1e9, 1e12, 7)
    there = fit_power_law(x, 0.002 + 100 * x**-0.4, space=space, irreducible=True)
    assert (there.b, there.c) == (pytest.approx(-0.4, rel=1e-4), pytest.approx(0.002, rel=1e-3))
    absent = fit_power_law(x, 100 * x**-0.4, space=space, irreducible=True)
    assert absent.c == pytest.approx(0, abs=1e-7)
    assert not earns_its_place(absent, fit_power_law(x, 100 * x**-0.4, space=space))


def test_an_irreducible_part_needs_a_third_point():
    with pytest.raises(FitError, match="needs 3 values of x, got 2"):
        fit_power_law([1, 2], [2, 1], irreducible=True)


@pytest.mark.parametrize("space", ["linear", "log"])
def test_the_bootstrap_of_many_points_agrees_with_the_standard_error(space):
    rng = np.random.default_rng(1)
    x = np.geomspace(1e9, 1e11, 40)
    fit = fit_power_law(x, 10 * x**-0.3 * np.exp(rng.normal(0, 0.05, 40)), space=space)
    assert fit.b_boot_high - fit.b_boot_low == pytest.approx(fit.b_high - fit.b_low, rel=0.3)
    assert fit.b_boot_low < -0.3 < fit.b_boot_high


def test_errors_ahead_of_the_data_are_those_of_laws_through_the_smaller_points():
    x, y = np.array([1.0, 2.0, 4.0]), np.array([1.0, 0.5, 0.3])
    assert fit_power_law(x, y).rolling_error == pytest.approx(1 - 0.25 / 0.3)
    assert fit_power_law(x[:2], y[:2]).rolling_error is None
