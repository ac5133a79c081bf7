import dataclasses

import numpy as np
import pytest

from sweeper.fits.linex import Pool, Sweep, fit_pool, g, posterior, posteriors


def sweeps(counts, seed=0):
    """Noisy valleys, each measured at its own rates."""
    rng = np.random.default_rng(seed)
    made = []
    for count in counts:
        x = np.log(0.01) + np.sort(rng.normal(0, 1, count))
        y = 2.5 + 0.03 * g(x - np.log(0.01) - rng.normal(0, 0.4), 0.8) + 0.002 * rng.standard_normal(count)
        made.append(Sweep.of(x, y))
    return tuple(made)


@pytest.mark.parametrize("draws", ["all", "best"])
def test_sweeps_that_are_computed_together_come_out_as_each_by_itself(draws):
    found = sweeps([5, 7, 5, 3, 12, 7, 5] * 5)
    pool = fit_pool(found)
    if draws == "best":
        pool = Pool(best=pool.best, draws=(pool.best,), weights=np.ones(1))
    alone = [dataclasses.asdict(posterior(sweep, pool, 0.9)) for sweep in found]
    assert [dataclasses.asdict(valley) for valley in posteriors(found, pool, 0.9)] == alone  # to the last digit


def test_sweeps_of_equal_numbers_are_pooled_once():
    fit_pool.cache_clear()
    assert sweeps([5, 6]) == sweeps([5, 6])
    assert sweeps([5, 6]) != sweeps([5, 6], seed=1)
    assert fit_pool(sweeps([5, 6])) is fit_pool(sweeps([5, 6]))
    assert fit_pool.cache_info().misses == 1
