import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from sweeper.analysis import fit_question
from sweeper.errors import FitError, SweeperError
from sweeper.figures import asked_by, plot_question, round_ticks, save_figure
from sweeper.series import Series
from sweeper.spec import Question

TABLE = pd.DataFrame(
    [
        {
            "arm": "base",
            "state": "diverged" if lr > 0.1 else "done",
            "loss": 2.5 + (tokens / 1e9) ** -0.2 + 0.1 * (lr / best - 1) ** 2,
            "lr_peak": lr,
            "tokens": tokens,
            "flops": 6e8 * tokens,
        }
        for tokens, best in ((1e9, 0.02), (2e9, 0.016), (4e9, 0.0128))
        for lr in (0.005, 0.01, 0.02, 0.04, 0.2)
    ]
)


def texts(figure):
    return [
        text.get_text()
        for legend in (*figure.legends, *(a.get_legend() for a in figure.axes))
        if legend
        for text in legend.get_texts()
    ]


@pytest.fixture(scope="module")
def figures():
    question = Question(reference="hyperp")
    return plot_question(TABLE, question, fit_question(TABLE, question))


def test_a_question_draws_its_figures(figures):
    assert set(figures) == {"lr", "law", "flops"}


def test_every_budget_and_sign_is_in_the_legend(figures):
    assert texts(figures["lr"]) == [
        "1B tokens", "2B tokens", "4B tokens", "optimum, 90 % interval", "diverged"
    ]  # fmt: skip


def test_the_law_shows_both_conventions_and_the_published_values(figures):
    log, linear, published = texts(figures["law"])
    assert (log[:9], linear[:12], published) == (
        "log space", "linear space", "HyperP table 4 (dense, d = 8): $b$\u00a0=\u00a0−0.32"
    )  # fmt: skip


def test_nothing_published_is_drawn_unless_the_question_names_it():
    drawn = plot_question(TABLE, Question(figures=("law",)), fit_question(TABLE, Question()))
    assert [text[:9] for text in texts(drawn["law"])] == ["log space", "linear sp"]


def test_a_law_is_drawn_along_the_column_that_its_groups_agree_on():
    table = TABLE.assign(params=TABLE.tokens / 50, lr=TABLE.lr_peak * 2)
    question = Question(laws=("lr ~ params",), figures=("lr", "law"))
    drawn = plot_question(table, question, fit_question(table, question))
    assert drawn["law"].axes[0].get_xlabel() == "parameters"
    assert drawn["law"].axes[0].get_ylabel() == "optimal base learning rate $\\eta_0$"
    assert drawn["lr"].axes[0].get_xlabel() == "base learning rate $\\eta_0$"


def test_figures_are_written_whole_and_alike(figures, tmp_path):
    paths = save_figure(figures["flops"], tmp_path / "figures", "flops")
    assert [path.name for path in paths] == ["flops.png", "flops.pdf"]
    first = [path.read_bytes() for path in paths]
    assert first == [path.read_bytes() for path in save_figure(figures["flops"], tmp_path / "figures", "flops")]
    assert len(list((tmp_path / "figures").iterdir())) == 2


def test_unknown_formats_and_folders_that_cannot_be_written_are_one_sentence(figures, tmp_path):
    with pytest.raises(SweeperError, match="cannot be written as 'gif2'"):
        save_figure(figures["law"], tmp_path, "law", ("gif2",))
    (tmp_path / "file").write_text("")
    with pytest.raises(SweeperError, match="cannot be written"):
        save_figure(figures["law"], tmp_path / "file", "law")


def test_a_table_without_anything_to_draw_says_so():
    table = pd.DataFrame({"tokens": [1e9, 2e9, 4e9], "lr_opt": [0.02, 0.016, 0.0128]})
    question = Question(by=(), laws=("lr_opt ~ tokens",), curves=(), figures=("lr", "flops"))
    with pytest.raises(FitError, match="no data for the figures"):
        plot_question(table, question, fit_question(table, question))


def test_a_budget_at_the_edge_of_its_grid_is_hollow_and_runs_above_the_axis_are_counted():
    falling = TABLE[TABLE.tokens == 4e9].iloc[:4].assign(tokens=8e9, flops=4.8e18, loss=[3.7, 3.4, 3.2, 3.1])
    table = pd.concat([TABLE, falling], ignore_index=True)
    question = Question(figures=("flops",))
    drawn = plot_question(table, question, fit_question(table, question))
    assert [text for text in texts(drawn["flops"]) if "C^" not in text] == [
        "every run", "5 runs above the axis", "best run at the edge of its grid"
    ]  # fmt: skip


def test_a_law_through_two_points_says_so():
    table = TABLE[TABLE.tokens < 3e9]
    drawn = plot_question(table, Question(figures=("law",)), fit_question(table, Question()))
    assert [text[-10:] for text in texts(drawn["law"])] == ["(2 points)"] * 2


def test_stars_and_outermost_runs_are_whole_and_losses_are_printed_in_full(figures):
    axes = figures["lr"].axes[0]
    low, high = axes.get_xlim()
    assert (low < 0.96 * 0.005, high > 1.04 * 0.2) == (True, True)
    assert axes.get_ylim()[0] < TABLE.loss.min()
    assert not axes.yaxis.get_major_formatter().get_useOffset()


@pytest.mark.parametrize(("low", "high"), [(0.0074, 0.0153), (0.01, 1e9), (0.019, 0.021), (1e18, 2e21), (0.9, 1.1)])
def test_an_axis_has_at_least_three_round_ticks(low, high):
    ticks = round_ticks(low, high, most=5)
    assert 3 <= len(ticks) <= 5
    assert all(low <= tick <= high for tick in ticks)


def test_a_table_of_finished_optima_has_its_points_its_laws_and_the_published_values():
    table = pd.DataFrame({"tokens": [1e10, 2e10, 4e10], "lr_opt": [0.02, 0.016, 0.0128]})
    question = Question(by=(), laws=("lr_opt ~ tokens",), curves=(), figures=("law",), reference="hyperp")
    drawn = plot_question(table, question, fit_question(table, question))["law"]
    assert drawn.axes[0].get_ylabel() == "optimal learning rate"
    assert [text.split(":")[0] for text in texts(drawn)] == [
        "log space", "linear space", "HyperP table 4 (dense, d = 8)"
    ]  # fmt: skip


TWO_ARMS = pd.concat(
    [
        TABLE.assign(arm="base", width=64),
        TABLE.assign(arm="new", width=64, loss=TABLE.loss - 0.05, lr_peak=TABLE.lr_peak * 1.5),
    ],
    ignore_index=True,
)
EVERYTHING = Question(
    per=("arm",),
    baseline="base",
    sensitivity=True,
    joint=("tokens",),
    figures=("lr", "law", "flops", "heat", "sensitivity", "arms", "joint"),
    reference="hyperp",
)


@pytest.fixture(scope="module", params=["paper", "slides"])
def everything(request):
    return plot_question(TWO_ARMS, EVERYTHING, fit_question(TWO_ARMS, EVERYTHING), style=request.param)


def test_every_answer_of_a_question_has_its_figure(everything):
    assert tuple(everything) == EVERYTHING.figures


def test_an_arm_has_one_colour_and_marker_in_every_figure(everything):
    def looks(figure):
        lines = [line for line in figure.axes[0].get_lines() if line.get_marker() in "os" and len(line.get_xdata())]
        return {(line.get_marker(), line.get_color()) for line in lines if line.get_color() != "#666666"}

    expected = {("o", "#004488"), ("s", "#DDAA33")}
    assert all(expected <= looks(everything[name]) for name in ("law", "flops", "arms"))


def test_nothing_is_clipped_and_no_legend_covers_a_panel(everything):
    for name, figure in everything.items():
        FigureCanvasAgg(figure).draw()
        drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        inside = drawn.x0 >= -0.01 and drawn.y0 >= -0.01 and drawn.x1 <= width + 0.01 and drawn.y1 <= height + 0.01
        assert (name, inside) == (name, True)
        for legend in figure.legends:
            covered = [axes for axes in figure.axes if legend.get_window_extent().overlaps(axes.get_tightbbox())]
            assert (name, covered) == (name, [])


@pytest.mark.parametrize(("style", "width"), [("paper", {3.25, 6.75}), ("slides", {13.333})])
def test_figures_have_the_widths_of_their_style(style, width):
    question = Question(figures=("lr", "law", "heat"))
    drawn = plot_question(TWO_ARMS, question, fit_question(TWO_ARMS, question), style=style)
    assert {round(figure.get_figwidth(), 3) for figure in drawn.values()} == width


def test_the_optimum_is_drawn_against_any_column_that_groups_agree_on():
    table = TABLE.assign(params=TABLE.tokens / 50, width=[64] * 15)
    question = Question(figures=("law",))
    drawn = plot_question(table, question, fit_question(table, question), x=("params", "tokens"))["law"]
    assert [axes.get_xlabel() for axes in drawn.axes] == ["parameters", "training tokens"]
    assert [text[: text.index(":")] for text in texts(drawn)] == [
        f"{space} space along {axis}" for axis in ("parameters", "training tokens") for space in ("log", "linear")
    ]


def test_along_one_of_several_axes_the_others_have_laws_of_their_own():
    tables = [TABLE.assign(width=width, lr_peak=TABLE.lr_peak * width / 64) for width in (64, 128)]
    table = pd.concat(tables, ignore_index=True)
    question = Question(by=("width", "tokens"), laws=(), curves=(), figures=("law",))
    drawn = plot_question(table, question, fit_question(table, question), x=("width",))["law"]
    assert [text for text in texts(drawn) if "log" in text and "2 points" in text] == [
        text for text in texts(drawn) if "log" in text
    ]
    assert len(texts(drawn)) == 6


def test_a_column_that_varies_within_groups_is_no_axis_of_the_optimum():
    table = TABLE.assign(seed=range(15))
    question = Question(figures=("law",))
    with pytest.raises(FitError, match="a law along seed needs one seed per optimum"):
        plot_question(table, question, fit_question(table, question), x=("seed",))


def test_an_unknown_style_is_answered_with_the_nearest():
    question = Question(figures=("lr",))
    with pytest.raises(SweeperError, match="no style 'slide' of figures; did you mean 'slides'"):
        plot_question(TABLE, question, fit_question(TABLE, question), style="slide")


def test_an_arm_without_a_curve_has_its_points_all_the_same():
    table = pd.DataFrame(
        {"arm": ["a"] * 4 + ["b"], "flops": [1e18, 2e18, 4e18, 8e18, 1e18], "loss": [3.0, 2.8, 2.65, 2.55, 2.9]}
    )
    question = Question(by=(), per=("arm",), laws=(), curves=("loss ~ flops",), figures=("flops",))
    drawn = plot_question(table, question, fit_question(table, question))["flops"]
    assert [text.split(":")[0] for text in texts(drawn)] == ["a", "b, best run per budget"]


def test_figures_bring_the_fits_that_they_show():
    table = TABLE.assign(params=1)
    asked = asked_by(Question(), table, ("surface", "sensitivity", "joint"))
    assert (asked.surfaces, asked.sensitivity, asked.joint) == (("loss ~ params + tokens",), True, ("tokens",))
    assert asked_by(Question(), TABLE, ("surface",)).surfaces == ()


@pytest.mark.parametrize("form", ["svg", "pdf"])
def test_a_figure_is_the_same_file_however_often_it_is_drawn(form, tmp_path):
    question = Question(figures=("law",), reference="hyperp")
    report = fit_question(TABLE, question)
    files = [
        save_figure(plot_question(TABLE, question, report)["law"], tmp_path / str(i), "law", (form,))[0].read_bytes()
        for i in range(2)
    ]
    assert files[0] == files[1]


def test_fonts_are_embedded(figures, tmp_path):
    pdf, svg = save_figure(figures["law"], tmp_path, "law", ("pdf", "svg"))
    assert (b"/FontFile2" in pdf.read_bytes(), b"<text" in svg.read_bytes()) == (True, False)


def test_dollar_signs_of_a_user_are_no_mathematics():
    table = TABLE.assign(arm="$x_").assign(cost=1)
    table = pd.concat([table, table.assign(arm="b^$ $")], ignore_index=True)
    question = Question(figures=("lr", "arms"))
    for figure in plot_question(table, question, fit_question(table, question)).values():
        FigureCanvasAgg(figure).draw()


def test_runs_of_one_rate_each_are_told_apart_by_the_question():
    step = np.arange(1.0, 6)
    runs = [
        Series(
            run_id=str(depth),
            labels={"arm": "base", "lr_peak": 0.1 / depth, "depth": depth},
            step=step,
            metrics={"tokens": 1000 * step, "loss": 5 / step},
        )
        for depth in (8, 12)
    ]
    table = pd.DataFrame({"arm": "base", "loss": [2.5, 2.3], "lr_peak": [0.02, 0.01], "depth": [8, 12]})
    question = Question(by=("depth",), laws=(), curves=(), figures=("stability",))
    drawn = plot_question(table, question, fit_question(table, question), series=runs)
    assert texts(drawn["stability"]) == ["depth 8", "depth 12"]
