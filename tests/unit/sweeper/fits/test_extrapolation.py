import math

import numpy as np
import pytest

from sweeper.fits.extrapolation import extrapolate

HYPERP_TABLE_4 = [  # tokens, optimal learning rate: arXiv 2603.28743
    (10.4e9, 0.01515),
    (20.8e9, 0.01208),
    (41.6e9, 0.00958),
    (83.2e9, 0.00772),
    (166.4e9, 0.00635),
]
TOKENS, RATES = (np.array(column) for column in zip(*HYPERP_TABLE_4, strict=True))


def reach(found):
    low, high = found.interval()
    return (high - low) / 2


@pytest.mark.parametrize("known", [2, 3, 4])
def test_the_interval_from_the_first_budgets_of_table_4_covers_the_later_ones(known):
    for tokens, lr in zip(TOKENS[known:], RATES[known:], strict=True):
        found = extrapolate(TOKENS[:known], np.log(RATES[:known]), np.full(known, 0.02), tokens)
        low, high = found.interval()
        assert low < math.log(lr) < high
        assert abs(found.mean - math.log(lr)) < 0.05 * math.log2(tokens / TOKENS[known - 1]) + 0.03


def test_an_exact_law_is_continued():
    found = extrapolate(TOKENS, np.log(24.27 * TOKENS**-0.32), np.full(5, 0.02), 1e12)
    assert found.mean == pytest.approx(math.log(24.27 * 1e12**-0.32), abs=1e-6)


def test_the_interval_grows_with_the_distance_and_shrinks_with_more_and_better_optima():
    def at(x, sd=0.03, points=5):
        return reach(extrapolate(TOKENS[:points], np.log(RATES[:points]), np.full(points, sd), x))

    assert at(1e11) < at(4e11) < at(1e12)
    assert at(1e12, points=5) < at(1e12, points=3)
    assert at(1e12, sd=0.02) < at(1e12, sd=0.1)


def test_the_unit_of_x_and_y_does_not_matter():
    here = extrapolate(TOKENS, np.log(RATES), np.full(5, 0.03), 1e12)
    there = extrapolate(TOKENS / 1e9, np.log(1e3 * RATES), np.full(5, 0.03), 1e3)
    assert there.mean == pytest.approx(here.mean + math.log(1e3), abs=1e-9)
    assert reach(there) == pytest.approx(reach(here), rel=1e-6)


def test_the_interval_covers_as_often_as_it_says_where_its_model_holds():
    rng = np.random.default_rng(5)
    x, hits = np.geomspace(1e9, 1.6e10, 5), []
    for _ in range(150):
        tau, path = abs(rng.normal(0, 0.07)), np.log(np.append(x, 6.4e10) / 1e9)
        fine = np.linspace(0, path[-1], 400)
        exponent = -0.3 + np.cumsum(rng.normal(0, 0.1 * math.sqrt(fine[1]), 400))
        truth = np.interp(path, fine, -4 + np.cumsum(exponent) * fine[1]) + rng.normal(0, tau, 6)
        seen = truth[:5] + rng.normal(0, 0.04, 5)
        low, high = extrapolate(x, seen, np.full(5, 0.04), 6.4e10).interval()
        hits.append(low <= truth[5] <= high)
    assert 0.83 <= np.mean(hits) <= 0.97


def test_quantiles_are_those_of_the_mixture():
    found = extrapolate(TOKENS, np.log(RATES), np.full(5, 0.03), 1e12)
    assert found.quantile(0.5) == pytest.approx(found.mean, abs=0.01)
    assert reach(found) == pytest.approx(1.645 * found.sd, rel=0.05)
