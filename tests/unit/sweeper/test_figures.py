import pandas as pd
import pytest

from sweeper.analysis import fit_question
from sweeper.errors import FitError, SweeperError
from sweeper.figures import plot_question, round_ticks, save_figure
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
    question = Question(by=(), laws=("lr_opt ~ tokens",), curves=())
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
