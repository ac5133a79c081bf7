from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from sweeper.analysis.optima import optima_of
from sweeper.analysis.surfaces import joints_of, surface_points, surfaces_of
from sweeper.errors import FitError, TableError
from sweeper.fits.linex import g
from sweeper.laws.loss import LossSurface
from sweeper.spec import Question

TRUTH = LossSurface(E=1.69, A=406.4, alpha=0.34, B=410.7, beta=0.28)
"""Hoffmann et al. 2022, eq. 10 (arXiv 2203.15556)."""
QUESTION = Question(
    by=("params", "tokens"), laws=(), curves=(), surfaces=("loss ~ params + tokens",), joint=("tokens",)
)


def sweeps(arms=("muon",), *, shifted=()):
    """Five rates at 3 sizes and 5 budgets per arm; pairs whose place in the grid is in `shifted` miss their optimum."""
    rows = []
    for arm in arms:
        for place, (N, D) in enumerate((N, D) for N in (1e8, 4e8, 16e8) for D in 1e9 * 3.0 ** np.arange(5)):
            best = 0.01 * (D / 9e9) ** -0.3
            for lr in 0.01 * 2.0 ** np.arange(-2, 3) * (30 if place in shifted else 1):
                height = 0.15 * (TRUTH.at(N, D) - 1.69) * g(np.array([np.log(lr / best)]), 0.8)[0]
                rows.append({"arm": arm, "params": N, "tokens": D, "lr_peak": lr, "loss": TRUTH.at(N, D) + height})
    return pd.DataFrame(rows)


def test_a_surface_goes_through_the_lowest_loss_of_each_pair():
    table = sweeps()
    (points,) = surface_points(table, "loss ~ params + tokens")
    assert (points.N.size, points.settled.all()) == (15, True)
    assert points.y[0] == table[(table.params == 1e8) & (table.tokens == 1e9)].loss.min()
    (fit,), warnings = surfaces_of(table, QUESTION)
    assert (fit.N, fit.D, fit.y, fit.points, warnings) == ("params", "tokens", "loss", 15, [])
    assert (fit.alpha, fit.beta) == (pytest.approx(0.34, abs=0.06), pytest.approx(0.28, abs=0.06))


def test_runs_without_a_final_loss_take_no_part():
    table = sweeps().assign(state="done")
    extra = table.iloc[[0, 1, 2]].assign(loss=[0.1, 0.1, float("nan")], state=["diverged", "Running", "done"])
    (points,) = surface_points(pd.concat([table, extra]), "loss ~ params + tokens")
    (same,) = surface_points(table, "loss ~ params + tokens")
    assert np.array_equal(points.y, same.y)


def test_pairs_whose_optimum_lies_at_an_edge_are_left_out_and_said():
    table = sweeps(shifted=(2, 7))
    _, optima = optima_of(table, QUESTION)
    (fit,), warnings = surfaces_of(table, QUESTION, optima)
    assert fit.points == 13
    assert warnings == [
        "the surface loss ~ params + tokens leaves out 2 of 15 pairs, whose best rate lies at an edge of its grid or "
        "nowhere; widen the learning rates"
    ]


def test_a_setting_that_admits_no_surface_is_named_beside_those_that_do():
    table = sweeps(("muon", "muonh"))
    table = table[(table.arm == "muon") | (table.params == 1e8)]
    fits, warnings = surfaces_of(table, replace(QUESTION, per=("arm",)))
    assert [fit.per for fit in fits] == [{"arm": "muon"}]
    assert warnings == [
        "arm muonh: the surface loss ~ params + tokens needs several values of params, got only 1e+08; "
        "fit a curve, or add some"
    ]


@pytest.mark.parametrize("surface", ["loss ~ params", "loss ~ params + tokens + depth", "loss", "loss ~ N + N"])
def test_a_surface_that_cannot_be_read_is_refused(surface):
    with pytest.raises(FitError, match="write three columns, such as 'loss ~ params \\+ tokens'"):
        surfaces_of(sweeps(), replace(QUESTION, surfaces=(surface,)))


def test_a_surface_of_an_unknown_column_is_refused():
    with pytest.raises(TableError, match="no column 'token'; did you mean 'tokens'"):
        surfaces_of(sweeps(), replace(QUESTION, surfaces=("loss ~ params + token",)))


def test_a_joint_fit_is_made_for_each_size_and_arm():
    table = sweeps(("muon", "muonh"))
    few = table[(table.params < 1e9) & (table.tokens < 1e10)]
    fits, warnings = joints_of(few, replace(QUESTION, per=("arm",)))
    assert [fit.per for fit in fits] == [
        {"arm": arm, "params": params} for arm in ("muon", "muonh") for params in (10**8, 4 * 10**8)
    ]
    assert all(fit.b == pytest.approx(-0.3, abs=0.02) for fit in fits)
    assert (fits[0].x, fits[0].rate, fits[0].points, warnings) == ("tokens", "lr_peak", 15, [])


def test_many_settings_without_a_joint_fit_are_counted():
    table = sweeps()
    fits, warnings = joints_of(table[table.tokens < 5e9], replace(QUESTION, by=("params", "lr_peak")))
    assert fits == []
    assert len(warnings) == 4
    assert warnings[0].startswith("params 100000000, lr_peak 0.0025: the joint fit of loss over tokens")
    assert warnings[-1] == "… and 12 more settings without a joint fit along tokens"


def test_a_joint_fit_along_an_unknown_column_is_refused():
    with pytest.raises(TableError, match="no column 'token'"):
        joints_of(sweeps(), replace(QUESTION, joint=("token",)))
