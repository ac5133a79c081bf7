"""Each figure from values made by hand, so that what is drawn can be named."""

import time
from dataclasses import replace

import numpy as np
import pytest

from sweeper.analysis import CurvePoints
from sweeper.columns import STABILITY_COLUMNS
from sweeper.errors import FitError
from sweeper.figures import (
    plot_arms,
    plot_flops,
    plot_heat,
    plot_joint,
    plot_law,
    plot_lr_sweep,
    plot_sensitivity,
    plot_stability,
    plot_surface,
)
from sweeper.figures.heat import cells
from sweeper.figures.stability import STABLE, thin
from sweeper.fits.comparison import Comparison
from sweeper.fits.joint import fit_joint
from sweeper.fits.loss_curve import fit_leverage, fit_loss_curve
from sweeper.fits.losses import make_losses
from sweeper.fits.optimum import Optimum, fit_lr_optima
from sweeper.fits.power_law import fit_power_law
from sweeper.fits.sensitivity import Sensitivity
from sweeper.fits.surface import fit_surface
from sweeper.laws.published import HYPERP, HYPERP_TABLE_4, HYPERP_TABLE_6, HYPERP_TABLE_12
from sweeper.series import Series

RATES = np.array([0.005, 0.01, 0.02, 0.04, 0.08])


def texts(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def markers(axes):
    return [line.get_marker() for line in axes.get_lines() if line.get_marker() not in ("None", "none", "")]


def optimum(lr, status="ok", **group):
    return Optimum(
        group=group, lr=lr, lr_low=lr / 1.1, lr_high=lr * 1.1, loss=2.5, method="linex", status=status, points=5,
        excluded=0, loss_sd=0.01,
    )  # fmt: skip


def valleys(groups):
    """Runs of valleys, one per group of columns."""
    rows = [(lr, 2.5 + 0.1 * np.log(lr / 0.02) ** 2, group) for group in groups for lr in RATES]
    names = groups[0]
    return make_losses(
        [lr for lr, _, _ in rows],
        [loss for _, loss, _ in rows],
        covariates={name: [group[name] for _, _, group in rows] for name in names},
    )


def test_two_hundred_groups_of_three_columns_have_a_panel_per_pair():
    runs = valleys([{"N": n, "D": d, "bs": b} for n in (1e8, 2e8, 4e8, 8e8) for d in (1e9, 2e9, 4e9, 8e9, 16e9)
                    for b in range(1, 11)])  # fmt: skip
    optima = fit_lr_optima(runs, ("N", "D", "bs"), "parabola")
    begun = time.perf_counter()
    figure = plot_lr_sweep(runs, optima)
    assert len(figure.axes) == 20
    assert figure.axes[0].get_title() == "N 100M, D 1B"
    assert texts(figure)[:2] == ["bs 1", "bs 2"]
    assert time.perf_counter() - begun < 3


def test_what_a_figure_leaves_out_is_said():
    runs = valleys([{"depth": d, "tokens": t} for d in range(1, 25) for t in (1e9, 2e9, 4e9)])
    optima = fit_lr_optima(runs, ("depth", "tokens"), "parabola")
    figure = plot_lr_sweep(runs, optima)
    assert figure.get_suptitle() == "20 of 24 panels, evenly spaced"
    assert len(figure.axes) == 20


def test_a_long_legend_names_evenly_spaced_groups_and_says_so():
    runs = valleys([{"tokens": t} for t in range(1, 41)])
    figure = plot_lr_sweep(runs, fit_lr_optima(runs, ("tokens",), "parabola"))
    assert figure.legends[0].get_title().get_text() == "16 of 40 groups are named"


def test_an_optimum_beyond_its_grid_is_a_triangle_that_points_to_it():
    runs = make_losses(RATES, [2.9, 2.7, 2.6, 2.55, 2.52], covariates={"tokens": [1e9] * 5})
    figure = plot_lr_sweep(runs, fit_lr_optima(runs, ("tokens",), "argmin"))
    assert ">" in markers(figure.axes[0])
    assert "optimum beyond the grid" in texts(figure)


def test_published_sweeps_lie_behind_a_group_of_the_same_depth_whose_ranges_they_share():
    runs = valleys([{"depth": 8}, {"depth": 9}])
    drawn = plot_lr_sweep(runs, fit_lr_optima(runs, ("depth",), "parabola"), published=HYPERP_TABLE_6)
    assert [text for text in texts(drawn) if "HyperP" in text] == [
        "HyperP table 6 (dense, 10.4B tokens, with Depth-μP)"
    ]
    far = replace(runs, loss=runs.loss + 5)
    drawn = plot_lr_sweep(far, fit_lr_optima(far, ("depth",), "parabola"), published=HYPERP_TABLE_6)
    assert not [text for text in texts(drawn) if "HyperP" in text]


def test_published_optima_at_another_scale_are_moved_as_a_whole_and_the_legend_says_by_how_much():
    optima = [optimum(0.2 * (t / 1e5) ** -0.5, tokens=t) for t in (1e5, 2e5, 4e5)]
    laws = [fit_power_law([1e5, 2e5, 4e5], [o.lr for o in optima], x_name="tokens", y_name="lr_peak")]
    figure = plot_law(optima, laws, reference=(HYPERP_TABLE_4,))
    said = texts(figure)[-1].replace("\n", " ").replace("\xa0", " ")
    assert said.startswith("HyperP table 4 (dense, d = 8): $b$ = −0.32, moved: tokens × $4.8\\times10^{-6}$, rate × $")
    (points,) = [line for line in figure.axes[0].get_lines() if line.get_marker() == "D"]
    x, y = np.log(points.get_xdata()), np.log(points.get_ydata())
    assert np.polyfit(x, y, 1)[0] == pytest.approx(
        np.polyfit(np.log(HYPERP_TABLE_4.x), np.log(HYPERP_TABLE_4.lr), 1)[0]
    )
    assert x.mean() == pytest.approx(np.log(2e5))


def test_published_optima_of_our_range_stay_where_they_are():
    optima = [optimum(0.015, tokens=1e10), optimum(0.012, tokens=2e10)]
    figure = plot_law(optima, [], x=("tokens",), reference=(HYPERP_TABLE_4,))
    (points,) = [line for line in figure.axes[0].get_lines() if line.get_marker() == "D"]
    assert tuple(points.get_xdata()) == HYPERP_TABLE_4.x


def test_bounds_are_hollow_and_have_an_arrow():
    optima = [optimum(0.02, tokens=1e9), optimum(0.01, status="edge_low", tokens=2e9)]
    figure = plot_law(optima, [], x=("tokens",), lr_name="lr_peak")
    assert len(figure.axes[0].texts) == 1
    assert texts(figure) == ["optimum, 90 % interval", "only a bound: optimum beyond the grid"]


def test_a_logarithmic_axis_does_not_swallow_a_zero():
    with pytest.raises(FitError, match="a logarithmic axis aux_weight cannot show the value 0"):
        plot_law([optimum(0.02, aux_weight=0.0), optimum(0.01, aux_weight=0.1)], [], x=("aux_weight",))


CURVES = {item.arm: fit_loss_curve(item.flops, item.loss, per={"arm": item.arm}) for item in HYPERP_TABLE_12}
POINTS = [
    CurvePoints(per={"arm": i.arm}, x=np.array(i.flops), y=np.array(i.loss), settled=np.ones(5, dtype=np.bool_))
    for i in HYPERP_TABLE_12
]
LEVERAGE = [
    row
    for new, points in zip(("MuonH + HyperP", "MuonH"), POINTS[1:], strict=True)
    for row in fit_leverage(
        CURVES[new],
        CURVES["Muon"],
        new_points=(points.x, points.y),
        baseline_points=(POINTS[0].x, POINTS[0].y),
    )
]


def test_leverage_has_a_panel_with_both_definitions_and_hollow_points_outside_the_data():
    figure = plot_flops(POINTS, list(CURVES.values()), leverage=LEVERAGE, baseline="Muon")
    assert figure.axes[1].get_ylabel() == "compute leverage over Muon"
    assert texts(figure)[-3:] == [
        "leverage, the arm's fit at the loss of Muon",
        "leverage, the fit of Muon at the arm's loss",
        "outside the runs of a curve",
    ]
    hollow = [line for line in figure.axes[1].get_lines() if line.get_markerfacecolor() == "white"]
    assert len(hollow) == 4


def test_without_leverage_there_is_one_panel():
    assert len(plot_flops(POINTS, list(CURVES.values())).axes) == 1


def test_published_curves_at_another_scale_are_compared_by_their_exponents():
    near = plot_flops(POINTS, list(CURVES.values()), reference=HYPERP_TABLE_12)
    assert [text for text in texts(near) if "table 12" in text] == [
        f"HyperP table 12: {i.arm}" for i in HYPERP_TABLE_12
    ]
    far = [replace(part, x=part.x / 1e8) for part in POINTS]
    (said,) = [text for text in texts(plot_flops(far, [], reference=HYPERP_TABLE_12)) if "table 12" in text]
    assert said.replace("\n", " ") == (
        "HyperP table 12, at another scale: exponents $b$ = Muon 0.12, MuonH + HyperP 0.09, MuonH 0.2"
    )


def test_a_cell_is_its_lowest_loss_and_one_of_diverged_runs_only_has_none():
    runs = make_losses(
        [0.1, 0.1, 0.2, 0.2, 0.3],
        [2.5, 2.4, 9.0, 2.7, 9.0],
        diverged=[False, False, True, False, True],
        covariates={"tokens": [1e9] * 5},
    )
    found = {cell.x: cell.loss for cell in cells(runs, "lr", "tokens", "lr")}
    assert (found[0.1], found[0.2], np.isnan(found[0.3])) == (2.4, 2.7, True)


def test_the_best_cell_of_each_row_is_starred_and_diverged_ones_are_hatched():
    rates, tokens = np.meshgrid(RATES, [1e9, 2e9])
    loss = 2.5 + np.log(rates / 0.02) ** 2
    runs = make_losses(
        rates.ravel(), loss.ravel(), diverged=(rates > 0.05).ravel(), covariates={"tokens": tokens.ravel()}
    )
    figure = plot_heat(runs, "lr_peak", "tokens")
    axes = figure.axes[0]
    assert markers(axes) == ["*", "*"]
    assert len([patch for patch in axes.patches if patch.get_hatch()]) == 2
    assert texts(figure) == ["best of its row", "diverged"]


@pytest.mark.filterwarnings("error")
def test_a_map_of_diverged_runs_only_is_hatched_throughout():
    runs = make_losses([0.1, 0.2], [9.0, 9.0], diverged=[True, True], covariates={"tokens": [1e9, 1e9]})
    figure = plot_heat(runs, "lr_peak", "tokens")
    assert [bool(patch.get_hatch()) for patch in figure.axes[0].patches] == [True, True]


def test_rows_with_rates_of_their_own_lie_at_true_scale():
    rates = np.concatenate([RATES, RATES * 1.37])
    runs = make_losses(rates, 2.5 + rates, covariates={"tokens": [1e9] * 5 + [2e9] * 5})
    axes = plot_heat(runs, "lr_peak", "tokens").axes[0]
    assert axes.get_xscale() == "log"
    low, high = axes.get_xlim()
    assert (low < RATES[0], high > 1.37 * RATES[-1]) == (True, True)


def test_a_heat_map_of_nothing_says_so():
    runs = make_losses([0.1], [2.0], covariates={"tokens": [np.nan]})
    with pytest.raises(FitError, match="no run has both lr_peak and tokens"):
        plot_heat(runs, "lr_peak", "tokens")


def sensitivity(rates, error, **group):
    return Sensitivity(
        group=group, rates=rates, of=8, subsets=56, settled=50, lr_error=error, loss_error=error and error / 100
    )


def test_sensitivities_have_a_line_per_group_before_the_published_ones():
    rows = [sensitivity(n, 0.1 / n, tokens=t) for t in (1e9, 2e9) for n in (3, 4, 5)]
    figure = plot_sensitivity(rows, reference=HYPERP.sensitivity)
    assert texts(figure) == ["HyperP table 14 (5 budgets)", "1B tokens", "2B tokens"]
    assert list(figure.axes[0].get_xticks()) == [3, 4, 5, 6, 7]
    assert len(figure.axes[0].get_lines()) == 7


def test_many_sensitivities_are_faint_behind_their_median():
    rows = [sensitivity(n, 0.1 / n, tokens=t) for t in range(1, 31) for n in (3, 4, 5)]
    figure = plot_sensitivity(rows)
    assert texts(figure) == ["each of 30 groups", "their median"]
    assert figure.axes[0].get_lines()[-1].get_ydata() == pytest.approx([10 / 3, 2.5, 2])


def test_sweeps_too_small_to_leave_a_rate_out_say_so():
    with pytest.raises(FitError, match="no group has learning rates enough"):
        plot_sensitivity([sensitivity(3, None, tokens=1)])


PAIRS = [optimum(lr, arm=arm, tokens=t) for arm, lr in (("base", 0.02), ("new", 0.03)) for t in (1e9, 2e9)]
DIFFERENCES = [
    Comparison(
        arm="new", group={"tokens": t}, loss_difference=-0.05, loss_low=-0.07, loss_high=-0.03, lr_shift=0.58,
        lr_shift_low=0.4, lr_shift_high=0.8, verdict="lower",
    )
    for t in (1e9, 2e9)
]  # fmt: skip


def test_arms_stand_side_by_side_with_their_differences_to_the_baseline():
    figure = plot_arms(PAIRS, DIFFERENCES, per=("arm",), baseline="base")
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "lowest validation loss\n(nats/token)",
        "optimal peak learning rate $\\eta$",
        "loss − that of base\n(nats/token)",
        "rate − that of base\n(octaves)",
    ]
    assert texts(figure) == ["base", "new"]


def test_without_a_baseline_arms_are_only_placed():
    assert len(plot_arms(PAIRS, per=("arm",)).axes) == 2


def test_more_groups_than_fit_are_evenly_chosen_and_counted():
    many = [optimum(0.02, arm="base", tokens=t) for t in range(1, 41)]
    assert plot_arms(many, per=("arm",)).get_suptitle() == "16 of 40 groups, evenly spaced"


def test_a_surface_shows_contours_losses_per_size_and_residuals():
    N, D = (values.ravel() for values in np.meshgrid([1e8, 2e8, 4e8], [1e9, 4e9, 16e9]))
    L = 1.69 + 406.4 * N**-0.34 + 410.7 * D**-0.28  # Hoffmann et al. 2022, eq. 10 (arXiv 2203.15556)
    figure = plot_surface([(fit_surface(N, D, L, resamples=0), (N, D, L))])
    contour, along, residual = figure.axes
    assert (contour.get_xlabel(), along.get_xlabel()) == ("parameters", "training tokens")
    assert texts(figure) == ["parameters 100M", "parameters 200M", "parameters 400M", "run"]
    assert residual.get_ylim()[1] < 1


def test_a_joint_fit_gathers_all_budgets_on_one_curve():
    T, lr = (values.ravel() for values in np.meshgrid([1e9, 2e9, 4e9, 8e9], 0.02 * 2.0 ** np.arange(-2, 3)))
    u = np.log(lr) - np.log(0.02 * (T / 2e9) ** -0.3)
    L = 2 + 0.5 * (T / 1e9) ** -0.4 * (1 + 0.1 * u**2)
    fit = fit_joint(make_losses(lr, L, covariates={"tokens": T}), resamples=0)
    figure = plot_joint([(fit, (T, lr, L))])
    reduced = np.concatenate([line.get_ydata() for line in figure.axes[0].get_lines() if line.get_marker() != "None"])
    assert reduced.min() == pytest.approx(1, abs=0.02)
    assert len(texts(figure)) == 5


def series(run, lr, rows=50, **metrics):
    step = np.arange(1.0, rows + 1)
    known = {"tokens": 1000 * step, "loss": 5 / step, "grad_norm": 1 / step, **metrics}
    return Series(run_id=run, labels={"arm": "base", "lr_peak": lr}, step=step, metrics=known)


def test_stability_has_a_panel_per_metric_that_is_there():
    runs = [series("a", 0.01, **{"stability/maxvio": np.ones(50)}), series("b", 0.02)]
    figure = plot_stability(runs)
    assert [axes.get_ylabel() for axes in figure.axes] == ["training loss\n(nats/token)", "gradient norm", "MaxVio"]
    assert texts(figure) == ["peak learning rate $\\eta$ 0.01", "peak learning rate $\\eta$ 0.02"]


def test_many_rates_have_a_bar_and_too_many_runs_are_thinned_aloud():
    figure = plot_stability([series(str(i), 0.01 * 1.05**i) for i in range(80)])
    assert figure.get_suptitle() == "60 of 80 runs, evenly spaced in peak learning rate $\\eta$"
    assert len(figure.axes) == 3  # two metrics and the bar


def test_stability_names_the_labels_that_there_are():
    with pytest.raises(FitError, match="no label 'depth' to be coloured by; choose among arm, lr_peak"):
        plot_stability([series("a", 0.01)], colour="depth")


def test_nothing_measured_is_said():
    with pytest.raises(FitError, match="no run has reported metrics yet"):
        plot_stability([])


def test_a_long_series_keeps_its_spikes_and_its_order():
    y = np.zeros(100_000)
    y[54_321] = 99
    y[54_322] = -99
    x, thinned = thin(np.arange(1e5), y, buckets=100)
    assert (thinned.max(), thinned.min(), len(x) <= 200, bool(np.all(np.diff(x) > 0))) == (99, -99, True, True)


def test_every_measure_of_stability_has_its_words():
    assert STABLE.keys() == STABILITY_COLUMNS.keys()
