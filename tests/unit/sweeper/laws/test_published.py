"""The tables agree with the fits and readings that their paper prints (HyperP, arXiv 2603.28743)."""

from itertools import pairwise

import numpy as np
import pytest

from sweeper.fits.loss_curve import fit_leverage, fit_loss_curve
from sweeper.fits.power_law import fit_power_law
from sweeper.laws.power import REFERENCES
from sweeper.laws.published import (
    HYPERP,
    HYPERP_TABLE_4,
    HYPERP_TABLE_5,
    HYPERP_TABLE_6,
    HYPERP_TABLE_8,
    HYPERP_TABLE_12,
    PAPERS,
)

BEST_LOSS = {  # HyperP table 7, d = 8 … 24
    "with": (2.4734, 2.3150, 2.2250, 2.1690, 2.1320),
    "without": (2.4693, 2.3079, 2.2196, 2.1656, 2.1263),
}


def test_every_reference_has_its_tables():
    assert PAPERS.keys() == REFERENCES.keys()
    assert {item.axis: item.law for item in HYPERP.optima if item.law} == dict(REFERENCES["hyperp"].laws)


@pytest.mark.parametrize("table", [HYPERP_TABLE_4, HYPERP_TABLE_8], ids=["tokens", "batch"])
def test_the_law_of_a_table_is_its_fit_in_linear_space(table):
    fit = fit_power_law(table.x, table.lr, space="linear")
    assert (fit.a, fit.b) == pytest.approx((table.law.a, table.law.b), rel=3e-3)


@pytest.mark.parametrize(("sweeps", "rule"), [(HYPERP_TABLE_6, "with"), (HYPERP_TABLE_5, "without")])
def test_the_best_losses_of_the_depths_are_those_of_table_7(sweeps, rule):
    assert [min(sweep.loss) for sweep in sweeps] == pytest.approx(BEST_LOSS[rule], abs=6e-4)


def test_the_leverage_over_muon_is_that_of_table_13():
    muon, *others = (fit_loss_curve(item.flops, item.loss) for item in HYPERP_TABLE_12)
    points = [(np.array(item.flops), np.array(item.loss)) for item in HYPERP_TABLE_12]
    for item, fit, own in zip(HYPERP_TABLE_12[1:], others, points[1:], strict=True):
        rows = fit_leverage(fit, muon, new_points=own, baseline_points=points[0])
        assert [row.value for row in rows] == pytest.approx(item.leverage, abs=6e-3)


def test_every_row_is_complete():
    for item in HYPERP.optima:
        assert len(item.x) == len(item.lr) == len(item.loss)
        assert all(a < b for a, b in pairwise(item.x))
    assert all(len(sweep.lr) == len(sweep.loss) for sweep in HYPERP.sweeps)
    assert all(len(row.rates) == len(row.lr_error) == len(row.loss_error) for row in HYPERP.sensitivity)
