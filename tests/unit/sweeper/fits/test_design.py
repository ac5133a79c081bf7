import math

import numpy as np
import pytest
from simulated import CENTRE, draw_valleys, grid, run

from sweeper.fits.design import START, STRADDLE, half_width, suggest_rates
from sweeper.fits.losses import make_losses
from sweeper.fits.optimum import fit_lr_optima


def valley(lr, optimum=0.01, diverged=()):
    lr = np.asarray(lr)
    loss = 2.5 + 0.06 * np.log(lr / optimum) ** 2
    return make_losses(lr, loss, diverged=[rate in diverged for rate in lr] if diverged else ())


def only(losses, **options):
    (suggestion,) = suggest_rates(losses, (), **options)
    return suggestion


def test_a_single_run_is_completed_to_three():
    assert only(valley([0.01])).lrs == pytest.approx([0.01 / 2**START, 0.01 * 2**START], rel=1e-3)


def test_a_group_without_runs_starts_where_its_law_says():
    losses = make_losses([0.01], [float("nan")], covariates={"tokens": [1e9]})
    (started,) = suggest_rates(losses, ("tokens",), centres=[0.02])
    assert (started.why, started.lrs[1]) == ("start", 0.02)
    (without,) = suggest_rates(losses, ("tokens",))
    assert without.lrs == ()


@pytest.mark.parametrize(("optimum", "beyond"), [(0.0005, 0.005 / 2**START), (0.2, 0.02 * 2**START)])
def test_an_edge_is_extended_on_its_side(optimum, beyond):
    suggestion = only(valley([0.005, 0.01, 0.02], optimum))
    assert (suggestion.why, suggestion.half_width) == ("extend", None)
    assert suggestion.lrs == pytest.approx([beyond], rel=1e-3)


def test_nothing_is_suggested_where_runs_diverge():
    suggestion = only(valley([0.005, 0.01, 0.02, 0.04], 0.3, diverged=[0.04]))
    assert all(0.02 < lr < 0.04 for lr in suggestion.lrs)
    walled = only(valley([0.005, 0.01, 0.02, 0.024], 0.3, diverged=[0.024]))
    assert (walled.why, walled.lrs) == ("diverged", ())


def test_an_optimum_inside_is_straddled_by_the_run_that_narrows_it_most():
    lr = CENTRE * 2.0 ** np.array([-1.5, 0, 1.5])
    suggestion = only(valley(lr, 0.012))
    (optimum,) = fit_lr_optima(valley(lr, 0.012), ())
    assert suggestion.why == "straddle"
    assert min(abs(abs(math.log2(suggestion.lrs[0] / optimum.lr)) - step) for step in STRADDLE) < 0.01
    assert suggestion.expected < suggestion.half_width


def test_a_group_that_is_narrow_enough_is_done():
    assert only(valley(grid(9, 0.5)), tolerance=0.3).why == "done"


def test_a_grid_that_straddles_the_optimum_already_is_filled():
    suggestion = only(valley(grid(9, 0.5)), tolerance=0.0)
    assert suggestion.why == "fill"
    assert abs(math.log2(suggestion.lrs[0] / 0.01)) < START
    assert suggestion.lrs[0] not in grid(9, 0.5)


def test_following_the_suggestions_ends_below_the_tolerance():
    rng = np.random.default_rng(3)
    valleys = draw_valleys(rng, 4, away=0.0)
    rates = [grid(3, 1.5, CENTRE * 2.0**off) for off in (-2.0, -0.5, 0.5, 2.0)]
    for _ in range(12):
        losses = run(np.random.default_rng(4), valleys, rates)
        suggestions = suggest_rates(losses, ("group",), tolerance=0.25)
        if all(s.why == "done" for s in suggestions):
            break
        rates = [np.append(lr, s.lrs) for lr, s in zip(rates, suggestions, strict=True)]
    optima = fit_lr_optima(losses, ("group",))
    assert all((width := half_width(o)) is not None and width <= 0.25 for o in optima)
    truth = CENTRE * np.exp(valleys.optimum)
    assert [o.lr for o in optima] == pytest.approx(truth, rel=0.25)
    assert max(lr.size for lr in rates) <= 8
