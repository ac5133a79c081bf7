import math

import numpy as np
import pytest

from sweeper.errors import FitError
from sweeper.fits.comparison import compare_arms, compare_seeds, paired_difference
from sweeper.fits.losses import make_losses
from sweeper.fits.optimum import Optimum, fit_lr_optima

OCTAVES = np.log(2) * np.arange(-2, 3)


def optimum(arm, loss, *, lr=0.01, loss_sd=0.002, tokens=10**9, status="ok", spread=1.1):
    return Optimum(
        group={"arm": arm, "tokens": tokens},
        lr=lr,
        lr_low=lr / spread,
        lr_high=lr * spread,
        loss=loss,
        loss_sd=loss_sd,
        method="linex",
        status=status,
        points=5,
        excluded=0,
    )


def test_errors_of_both_arms_add_in_squares():
    (row,) = compare_arms(
        [optimum("muon", 2.50, loss_sd=0.003), optimum("muonh", 2.49, loss_sd=0.004, lr=0.02)],
        per=("arm",),
        baseline="muon",
    )
    assert (row.arm, row.group) == ("muonh", {"tokens": 10**9})
    assert row.loss_difference == pytest.approx(-0.01)
    assert row.loss_high - row.loss_low == pytest.approx(2 * 1.6449 * 0.005, rel=1e-4)
    assert row.verdict == "lower"
    assert row.lr_shift == pytest.approx(1.0)
    assert row.lr_shift_high - row.lr_shift == pytest.approx(math.sqrt(2) * math.log2(1.1))


@pytest.mark.parametrize(
    ("loss", "loss_sd", "verdict"),
    [(2.48, 0.002, "lower"), (2.52, 0.002, "higher"), (2.501, 0.002, "no difference"), (2.4, None, "unknown")],
)
def test_the_verdict_is_of_the_interval(loss, loss_sd, verdict):
    (row,) = compare_arms(
        [optimum("muon", 2.5), optimum("muonh", loss, loss_sd=loss_sd)], per=("arm",), baseline="muon"
    )
    assert row.verdict == verdict
    assert (row.loss_low is None) == (loss_sd is None)


def test_only_groups_where_both_have_an_optimum_are_compared():
    rows = compare_arms(
        [
            optimum("muon", 2.5),
            optimum("muon", 2.3, tokens=2 * 10**9, status="edge_low"),
            optimum("muonh", 2.4),
            optimum("muonh", 2.2, tokens=2 * 10**9),
            optimum("muonh", 2.1, tokens=4 * 10**9),
            optimum("adamw", 2.6),
        ],
        per=("arm",),
        baseline="muon",
    )
    assert [(row.arm, row.group["tokens"]) for row in rows] == [("muonh", 10**9), ("adamw", 10**9)]


def test_arms_of_two_columns_go_by_both():
    optima = [
        Optimum(
            group={"arm": arm, "depth": depth},
            lr=0.01,
            lr_low=None,
            lr_high=None,
            loss=2.5,
            method="argmin",
            status="ok",
            points=3,
            excluded=0,
        )
        for arm in ("muon", "muonh")
        for depth in (8, 12)
    ]
    rows = compare_arms(optima, per=("arm", "depth"), baseline="muon 8")
    assert [row.arm for row in rows] == ["muon 12", "muonh 8", "muonh 12"]
    assert rows[0].group == {}


def test_simulated_arms_that_do_not_differ_are_rarely_told_apart():
    rng = np.random.default_rng(0)
    lr = np.tile(0.01 * np.exp(OCTAVES), 40)
    arm = np.repeat(["a", "b"], 100)
    group = np.tile(np.repeat(np.arange(20), 5), 2)
    loss = 2.5 + 0.06 * np.tile(OCTAVES, 40) ** 2 + 0.004 * rng.standard_normal(200)
    losses = make_losses(lr, loss, covariates={"group": group}, labels={"arm": arm})
    rows = compare_arms(fit_lr_optima(losses, ("arm", "group")), per=("arm",), baseline="a")
    assert np.mean([row.verdict == "no difference" for row in rows]) >= 0.75


def test_pairs_cancel_the_noise_that_they_share():
    rng = np.random.default_rng(0)
    seed = np.arange(8.0)
    shared = 0.05 * rng.standard_normal(8)
    base = make_losses(np.full(8, 0.01), 2.5 + shared, covariates={"seed": seed})
    ours = make_losses(np.full(8, 0.01), 2.49 + shared + 0.001 * rng.standard_normal(8), covariates={"seed": seed})
    found = paired_difference(ours, base)
    assert found.pairs == 8
    assert found.difference == pytest.approx(-0.01, abs=0.002)
    assert found.high - found.low < 0.003


def test_repeats_are_averaged_within_a_pair_and_one_pair_has_no_interval():
    base = make_losses([0.01, 0.01, 0.02], [2.5, 2.6, 2.4], covariates={"seed": [0, 0, 1]})
    ours = make_losses([0.01, 0.02], [2.5, 2.4], covariates={"seed": [0, 0]})
    found = paired_difference(ours, base)
    assert (found.pairs, found.low, found.high) == (1, None, None)
    assert found.difference == pytest.approx(-0.05)


def test_what_cannot_be_compared_is_refused_in_one_sentence():
    optima = [optimum("muon", 2.5), optimum("muonh", 2.4)]
    with pytest.raises(FitError, match="no optima of the baseline 'muonn'; did you mean 'muon'"):
        compare_arms(optima, per=("arm",), baseline="muonn")
    with pytest.raises(FitError, match="add --per"):
        compare_arms(optima, per=(), baseline="muon")
    with pytest.raises(FitError, match="there are no optima"):
        compare_arms([], per=("arm",), baseline="muon")
    with pytest.raises(FitError, match="no two runs share a learning rate and seed"):
        paired_difference(
            make_losses([0.01], [2.5], covariates={"seed": [0]}), make_losses([0.02], [2.5], covariates={"seed": [0]})
        )


def seeded(effect, seeds=4, shared=0.05, own=0.001):
    """Two arms over five rates and some seeds, whose losses share most of their noise."""
    rng = np.random.default_rng(1)
    rates, noise = np.geomspace(0.005, 0.08, 5), shared * rng.standard_normal(seeds)
    rows = [
        (arm, seed, lr, 2.5 + gain + noise[seed] + 0.1 * np.log(lr / best) ** 2 + own * rng.standard_normal())
        for arm, gain, best in (("base", 0.0, 0.02), ("new", effect, 0.025))
        for seed in range(seeds)
        for lr in rates
    ]
    arms, seed, lr, loss = zip(*rows, strict=True)
    return make_losses(lr, loss, covariates={"seed": seed}, labels={"arm": arms})


def test_shared_seeds_show_what_optima_alone_hide():
    runs = seeded(effect=0.01)
    optima = fit_lr_optima(runs, ("arm",))
    (alone,) = compare_arms(optima, per=("arm",), baseline="base")
    assert alone.verdict == "no difference"
    (found,) = compare_seeds(runs, optima, by=("arm",), per=("arm",), baseline="base")
    assert (found.arm, found.group, found.lr) == ("new", {}, pytest.approx(0.02))
    assert found.tuned.pairs == found.at_lr.pairs == 4
    assert found.tuned.low < 0.01 < found.tuned.high
    assert found.tuned.low > 0
    # At the baseline's best rate the arm is off its own by a quarter of an e-fold.
    assert found.at_lr.difference == pytest.approx(0.01 + 0.1 * np.log(0.02 / 0.025) ** 2, abs=0.003)


def test_one_seed_alone_is_no_comparison():
    runs = seeded(effect=0.01, seeds=1)
    assert compare_seeds(runs, fit_lr_optima(runs, ("arm",)), by=("arm",), per=("arm",), baseline="base") == ()


def test_rates_that_an_arm_lacks_leave_the_tuned_difference():
    runs = seeded(effect=0.01)
    runs = runs.take(~((runs.labels["arm"] == "new") & np.isclose(runs.lr, 0.02)))
    (found,) = compare_seeds(runs, fit_lr_optima(runs, ("arm",)), by=("arm",), per=("arm",), baseline="base")
    assert found.at_lr is None
    assert found.tuned.pairs == 4
