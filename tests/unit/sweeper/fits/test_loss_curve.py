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
