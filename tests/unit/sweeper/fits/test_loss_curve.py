import math

import numpy as np
import pytest

from sweeper.errors import FitError
from sweeper.fits.loss_curve import fit_leverage, fit_loss_curve
from sweeper.laws.loss import LossCurve

C = np.geomspace(1e18, 1e21, 6)


@pytest.mark.parametrize(("A", "b", "E"), [(223.25, 0.1166, 1.233), (6659.0, 0.201, 1.618), (40.0, 0.06, 0.0)])
def test_an_exact_curve_is_recovered(A, b, E):
    fit = fit_loss_curve(C, LossCurve(A=A, b=b, E=E).along(C))
    assert (fit.b, fit.E) == (pytest.approx(b, rel=1e-3), pytest.approx(E, abs=2e-3))
    assert fit.curve.along(C) == pytest.approx(LossCurve(A=A, b=b, E=E).along(C), rel=1e-5)


def test_leverage_of_a_method_that_needs_half_the_compute_is_two_by_both_definitions():
    slow, fast = LossCurve(A=200.0, b=0.12, E=1.2), LossCurve(A=200.0 * 2**-0.12, b=0.12, E=1.2)
    points = {name: (C, curve.along(C)) for name, curve in (("slow", slow), ("fast", fast))}
    fits = {name: fit_loss_curve(*point, per={"arm": name}) for name, point in points.items()}
    rows = fit_leverage(fits["fast"], fits["slow"], new_points=points["fast"], baseline_points=points["slow"])
    assert [row.value for row in rows] == pytest.approx([2.0] * 6, rel=1e-3)
    assert [row.value_baseline_fit for row in rows] == pytest.approx([2.0] * 6, rel=1e-3)
    assert [row.extrapolated for row in rows] == [True, False, False, False, False, True]


def test_a_loss_below_the_floor_of_a_curve_has_no_leverage():
    low = LossCurve(A=200.0, b=0.12, E=0.5)
    high = fit_loss_curve(C, LossCurve(A=200.0, b=0.2, E=2.0).along(C), per={"arm": "high"})
    base = fit_loss_curve(C, low.along(C), per={"arm": "low"})
    rows = fit_leverage(high, base, new_points=(C, high.curve.along(C)), baseline_points=(C, low.along(C)))
    assert rows[-1].value is None
    assert rows[-1].extrapolated
    assert math.isinf(high.curve.flops(1.9))


def test_what_admits_no_curve_is_refused_in_one_sentence():
    with pytest.raises(FitError, match="needs as many values of flops, got 2"):
        fit_loss_curve([1e18, 1e19], [3.0, 2.8])
    with pytest.raises(FitError, match="does not fall"):
        fit_loss_curve(C, np.linspace(2.0, 3.0, 6))
    with pytest.raises(FitError, match="flops holds 0"):
        fit_loss_curve([0.0, 1e18, 1e19], [3.0, 2.8, 2.7])


def test_the_intervals_cover_at_their_level():
    truth = LossCurve(A=223.25, b=0.1166, E=1.233)
    rng = np.random.default_rng(0)
    held = []
    for _ in range(25):
        fit = fit_loss_curve(C, truth.along(C) * (1 + 0.002 * rng.standard_normal(6)))
        held.append((fit.b_low <= truth.b <= fit.b_high, fit.E_low <= truth.E <= fit.E_high))
    assert 0.75 <= np.mean(held) <= 1.0


def test_the_robust_curve_is_hardly_moved_by_an_outlier():
    truth = LossCurve(A=223.25, b=0.1166, E=1.233)
    x = np.geomspace(1e18, 1e21, 9)
    y = truth.along(x)
    y[4] *= 1.03
    fit = fit_loss_curve(x, y)
    assert abs(fit.robust.E - 1.233) < 0.02 < abs(fit.E - 1.233)


def test_an_irreducible_loss_is_kept_where_it_predicts_better():
    bent, straight = LossCurve(A=223.25, b=0.1166, E=1.233), LossCurve(A=40.0, b=0.06, E=0.0)
    noise = 1 + 1e-3 * np.array([1, -1, 0.5, -0.5, 1, -1])
    assert fit_loss_curve(C, bent.along(C) * noise, irreducible="auto").irreducible
    power = fit_loss_curve(C, straight.along(C) * noise, irreducible="auto")
    assert not power.irreducible
    assert (power.E, power.E_low, power.robust) == (0, None, None)
    assert power.b == pytest.approx(0.06, abs=0.002)


def test_three_points_have_a_curve_but_no_error():
    fit = fit_loss_curve(C[:3], [3.0, 2.5, 2.2])
    assert (fit.b_low, fit.E_low, fit.loo_error, fit.rolling_error) == (None, None, None, None)
    assert not fit_loss_curve(C[:3], [3.0, 2.5, 2.2], irreducible="auto").irreducible


def test_the_rolling_error_is_of_the_next_budget():
    truth = LossCurve(A=223.25, b=0.1166, E=1.233)
    y = truth.along(C)
    y[-1] *= 1.01
    fit = fit_loss_curve(C, y)
    first_four = fit_loss_curve(C[:4], y[:4]).curve.at(C[4])
    first_five = fit_loss_curve(C[:5], y[:5]).curve.at(C[5])
    assert fit.rolling_error == pytest.approx(np.mean([abs(first_four / y[4] - 1), abs(first_five / y[5] - 1)]))
    assert fit.rolling_error == pytest.approx(0.005, rel=0.1)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.geomspace(1e15, 1e26, 12), 3 + 50 * np.geomspace(1e15, 1e26, 12) ** -0.05),
        (1e18 * (1 + 1e-6 * np.arange(5)), [3.0, 2.9, 2.8, 2.7, 2.6]),
        (C, [1e6, 10.0, 1.0, 1.0, 1.0, 1.0]),
        (C, [3.0, 2.9, 2.7, 2.3, 1.5, 0.3]),
        (np.repeat(C, 2), np.repeat([3.0, 2.8, 2.6, 2.5, 2.4, 2.35], 2)),
    ],
    ids=["eleven decades", "one budget, nearly", "a cliff", "faster and faster", "repeats"],
)
@pytest.mark.filterwarnings("error")
def test_odd_data_are_answered(x, y):
    fit = fit_loss_curve(x, y)
    assert math.isfinite(fit.A)
    assert 0 <= fit.E <= np.min(y)
    assert fit.condition >= 1
    assert fit.curve.flops(fit.E) == math.inf


def test_a_constant_loss_and_one_budget_are_refused():
    with pytest.raises(FitError, match="does not fall"):
        fit_loss_curve(C, np.full(6, 2.5))
    with pytest.raises(FitError, match="got 1; add budgets"):
        fit_loss_curve(1e18 * (1 + 1e-15 * np.arange(5)), [3.0, 2.9, 2.8, 2.7, 2.6])
    with pytest.raises(FitError, match="got 0; add budgets"):
        fit_loss_curve([], [])


def test_very_many_points_are_averaged_and_all_counted():
    x = np.geomspace(1e18, 1e21, 50_000)
    fit = fit_loss_curve(x, LossCurve(A=223.25, b=0.1166, E=1.233).along(x) * (1 + 1e-3 * np.cos(np.arange(50_000))))
    assert (fit.points, fit.x_low, fit.x_high) == (50_000, pytest.approx(1e18), pytest.approx(1e21))
    assert [fit.b, fit.E] == pytest.approx([0.1166, 1.233], rel=2e-3)
