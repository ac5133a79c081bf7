import math

import numpy as np
import pytest

from sweeper.errors import FitError
from sweeper.fits.linex import g
from sweeper.fits.losses import make_losses
from sweeper.fits.optimum import fit_lr_optima

METHODS = ("linex", "parabola", "argmin")
OCTAVES = np.log(2) * np.arange(-2, 3)


def one_group(lr, loss, **options):
    return make_losses(lr, loss, covariates={"tokens": np.full(len(lr), 1e9)}, **options)


def valleys(rng, groups, *, noise=0.002, skew=0.9, level=2.5):
    """Five rates one octave apart about 0.01 per group; relative noise; the true ln(η*/0.01) and curvature of each."""
    optimum = rng.uniform(-0.5, 0.5, groups)
    curvature = np.exp(rng.normal(math.log(0.06), 0.3, groups))
    skews = skew + rng.normal(0, 0.15, groups)
    loss = [
        level + k * g(OCTAVES - o, s) + rng.normal(0, noise * level, 5)
        for o, k, s in zip(optimum, curvature, skews, strict=True)
    ]
    losses = make_losses(
        np.tile(0.01 * np.exp(OCTAVES), groups),
        np.concatenate(loss),
        covariates={"group": np.repeat(np.arange(groups), 5)},
    )
    return losses, optimum, curvature, skews


@pytest.mark.parametrize("method", ["linex", "parabola"])
def test_an_exact_parabola_gives_its_vertex(method):
    lr = 0.01 * np.exp(np.log(2) / 2 * np.arange(-4, 4))
    losses = one_group(lr, 2.5 + 0.1 * np.log(lr / 0.012) ** 2)
    (optimum,) = fit_lr_optima(losses, method=method)
    # The asymmetric curve has a prior skew of 0.8 and only approaches a symmetric valley.
    assert optimum.lr == pytest.approx(0.012, rel=1e-9 if method == "parabola" else 0.1)
    assert optimum.status == "ok"
    assert optimum.group == {"tokens": 1_000_000_000}


def test_an_asymmetric_valley_biases_the_parabola_but_not_linex():
    losses = one_group(0.01 * np.exp(OCTAVES), 2.5 + 0.06 * g(OCTAVES, 0.8))
    (linex,) = fit_lr_optima(losses, method="linex")
    (parabola,) = fit_lr_optima(losses, method="parabola")
    assert abs(math.log2(linex.lr / 0.01)) < 0.03
    assert parabola.status == "argmin" or math.log2(parabola.lr / 0.01) < -0.1


@pytest.mark.parametrize(
    ("sweeps", "cover"), [(3, (0.75, 1.0)), pytest.param(25, (0.85, 0.97), marks=pytest.mark.slow)]
)
def test_linex_has_at_most_a_third_of_the_parabolas_regret_and_honest_intervals(sweeps, cover):
    rng = np.random.default_rng(7)
    regret, covered = {"linex": [], "parabola": []}, []
    for _ in range(sweeps):
        losses, truth, curvature, skews = valleys(rng, groups=20)
        for method, values in regret.items():
            optima = fit_lr_optima(losses, by=("group",), method=method)
            away = np.log([o.lr / 0.01 for o in optima]) - truth
            values += [float(k * g(np.array([t]), s)[0]) for t, k, s in zip(away, curvature, skews, strict=True)]
            if method == "linex":
                assert all(o.status == "ok" for o in optima)
                covered += [o.lr_low <= 0.01 * math.exp(t) <= o.lr_high for o, t in zip(optima, truth, strict=True)]
    assert np.mean(regret["linex"]) <= np.mean(regret["parabola"]) / 3
    assert cover[0] <= np.mean(covered) <= cover[1]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("centre", "status"), [(0.0005, "edge_low"), (0.2, "edge_high")])
def test_an_optimum_outside_the_grid_is_a_one_sided_bound(method, centre, status):
    lr = 0.01 * np.exp(OCTAVES)
    (optimum,) = fit_lr_optima(one_group(lr, 2.5 + 0.05 * np.log(lr / centre) ** 2), method=method)
    assert optimum.status == status
    assert not optimum.settled
    assert optimum.lr == pytest.approx(lr[0] if status == "edge_low" else lr[-1])
    assert (optimum.lr_low is None) == (status == "edge_low")
    assert (optimum.lr_high is None) == (status == "edge_high")


@pytest.mark.parametrize("method", METHODS)
def test_a_hill_has_no_minimum(method):
    lr = 0.01 * np.exp(OCTAVES)
    (optimum,) = fit_lr_optima(one_group(lr, 2.5 - 0.1 * OCTAVES**2), method=method)
    assert optimum.status == "no_minimum"
    assert optimum.lr is None


@pytest.mark.parametrize("method", METHODS)
def test_one_learning_rate_is_too_few(method):
    (optimum,) = fit_lr_optima(one_group([0.01, 0.01], [2.5, 2.6]), method=method)
    assert (optimum.status, optimum.lr, optimum.points) == ("too_few", 0.01, 2)


@pytest.mark.parametrize("method", METHODS)
def test_a_group_whose_runs_all_diverged_is_answered_and_counted(method):
    (optimum,) = fit_lr_optima(one_group([0.01, 0.02, 0.04], [9.0, 9.0, 9.0], diverged=[True] * 3), method=method)
    assert (optimum.status, optimum.lr, optimum.points, optimum.excluded) == ("too_few", None, 0, 3)


@pytest.mark.parametrize("method", METHODS)
def test_a_flat_loss_is_answered(method):
    (optimum,) = fit_lr_optima(one_group(0.01 * np.exp(OCTAVES), [2.5] * 5), method=method)
    assert optimum.status in ("no_minimum", "edge_low", "edge_high", "argmin", "ok")


def test_a_noisy_parabola_falls_back_to_the_best_rate_on_the_grid():
    (optimum,) = fit_lr_optima(one_group(0.01 * np.exp(OCTAVES), [2.6, 2.7, 2.5, 2.7, 2.6]), method="parabola")
    assert optimum.status in ("argmin", "no_minimum")


def test_repeated_seeds_are_averaged_per_rate():
    lr = np.repeat(0.01 * np.exp(OCTAVES), 3)
    loss = 2.5 + 0.06 * g(np.repeat(OCTAVES, 3), 0.8) + np.tile([-0.004, 0.0, 0.004], 5)
    (optimum,) = fit_lr_optima(one_group(lr, loss))
    assert optimum.points == 15
    assert abs(math.log2(optimum.lr / 0.01)) < 0.1


def test_thousands_of_rates_in_one_group_are_averaged_into_cells():
    rng = np.random.default_rng(0)
    lr = 0.01 * np.exp(rng.uniform(-1.4, 1.4, 20_000))
    (optimum,) = fit_lr_optima(one_group(lr, 2.5 + 0.06 * g(np.log(lr / 0.01), 0.8) + rng.normal(0, 0.01, lr.size)))
    assert abs(math.log2(optimum.lr / 0.01)) < 0.1


def test_no_runs_and_unknown_columns_are_refused():
    with pytest.raises(FitError, match="no runs"):
        fit_lr_optima(make_losses([], []), by=())
    with pytest.raises(FitError, match="no column 'depth'"):
        fit_lr_optima(one_group([0.01, 0.02, 0.04], [2.6, 2.5, 2.6]), by=("depth",))


@pytest.mark.parametrize("loss", [5.0, 8.0, 1e6])
def test_a_run_that_all_but_diverged_moves_no_optimum(loss):
    lr = 0.01 * np.exp(OCTAVES)
    valley = 2.5 + 0.06 * g(OCTAVES, 0.8)
    (alone,) = fit_lr_optima(one_group(lr, valley))
    (beside,) = fit_lr_optima(one_group([*lr, 0.08], [*valley, loss]))
    assert abs(math.log2(beside.lr / alone.lr)) < 0.05


def test_a_parabola_knows_no_unit_of_the_loss():
    rates, heights = [0.005, 0.01, 0.02, 0.04], np.array([2.61, 2.5, 2.502, 2.6])
    plain, huge = (fit_lr_optima(make_losses(rates, scale * heights), (), "parabola")[0] for scale in (1.0, 1e250))
    assert (huge.lr, huge.lr_low, huge.lr_high) == pytest.approx((plain.lr, plain.lr_low, plain.lr_high))
    assert huge.loss == pytest.approx(1e250 * plain.loss)
