import math

import numpy as np
import pytest

from sweeper.errors import FitError
from sweeper.fits.losses import make_losses
from sweeper.fits.optimum import pool_of
from sweeper.fits.sensitivity import fit_sensitivity

EIGHT = np.linspace(0.008, 0.022, 8)


def parabolas(noise, groups=4, lr=EIGHT, **options):
    """Valleys like those of HyperP's table 4, each measured at the same rates."""
    rng = np.random.default_rng(0)
    loss = [
        2.47 - 0.04 * k + 0.08 * np.log(lr / 0.015) ** 2 + noise * rng.standard_normal(lr.size) for k in range(groups)
    ]
    return make_losses(
        np.tile(lr, groups),
        np.concatenate(loss),
        covariates={"tokens": np.repeat(1e9 * 2.0 ** np.arange(groups), lr.size)},
        **options,
    )


def test_every_subset_of_eight_rates_is_compared():
    rows = fit_sensitivity(parabolas(0.0, groups=1))
    assert [(row.rates, row.of, row.subsets) for row in rows] == [(n, 8, math.comb(8, n)) for n in range(3, 8)]
    assert all(row.lr_error < 1e-6 and row.loss_error < 1e-9 for row in rows)
    assert rows[-1].settled == 8
    assert rows[0].settled < rows[0].subsets  # three rates on one side of the optimum bound it only


def test_fewer_rates_err_more_as_in_hyperp_table_14():
    rows = fit_sensitivity(parabolas(5e-4))
    lr_error = [np.mean([row.lr_error for row in rows if row.rates == n]) for n in range(3, 8)]
    loss_error = [np.mean([row.loss_error for row in rows if row.rates == n]) for n in range(3, 8)]
    assert lr_error == sorted(lr_error, reverse=True)
    assert loss_error == sorted(loss_error, reverse=True)
    # The table: 3.7 to 8.1 % with three rates, 0.3 to 1.6 % with seven; of the loss at most 0.14 %.
    assert lr_error[-1] < 0.016
    assert loss_error[0] < 1.4e-3


@pytest.mark.parametrize("method", ["linex", "argmin"])
def test_other_methods_are_compared_with_themselves(method):
    rows = fit_sensitivity(parabolas(5e-4, groups=2), method=method, sizes=(5, 7))
    assert [row.rates for row in rows] == [5, 7, 5, 7]
    assert all(row.lr_error < 0.1 for row in rows)


def test_known_constants_are_not_pooled_again():
    losses = parabolas(5e-4, groups=2)
    halves = [losses.take(losses.covariates["tokens"] == tokens) for tokens in (1e9, 2e9)]
    assert fit_sensitivity(losses, method="linex", sizes=[7], pool=pool_of(halves)) == fit_sensitivity(
        losses, method="linex", sizes=[7]
    )


def test_many_subsets_are_sampled_and_the_same_each_time():
    losses = parabolas(5e-4, groups=1, lr=np.linspace(0.006, 0.024, 24))
    rows = fit_sensitivity(losses, most=30)
    assert rows == fit_sensitivity(losses, most=30)
    assert len(rows) <= 10
    assert (rows[0].rates, rows[-1].rates) == (3, 23)
    assert [row.subsets for row in rows] == [min(30, math.comb(24, row.rates)) for row in rows]


def test_repeats_of_a_rate_stay_together():
    once = parabolas(0.0, groups=1)
    twice = make_losses(np.tile(once.lr, 2), np.tile(once.loss, 2), covariates={"tokens": np.full(16, 1e9)})
    assert [(row.of, row.subsets) for row in fit_sensitivity(twice)] == [
        (row.of, row.subsets) for row in fit_sensitivity(once)
    ]


def test_groups_that_cannot_be_thinned_or_have_no_optimum_have_no_rows():
    assert fit_sensitivity(parabolas(0.0, lr=EIGHT[:3])) == ()
    assert fit_sensitivity(parabolas(0.0, lr=0.1 + EIGHT)) == ()
    assert fit_sensitivity(parabolas(0.0, groups=1, diverged=np.ones(8, dtype=bool))) == ()


def test_subsets_of_two_and_tables_without_runs_are_refused():
    with pytest.raises(FitError, match="at least 3 learning rates, got 2"):
        fit_sensitivity(parabolas(0.0), sizes=(2, 3))
    with pytest.raises(FitError, match="no runs"):
        fit_sensitivity(make_losses([], []), by=())
