import math

import pytest
from typer.testing import CliRunner

from sweeper.cli import app


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A table of two arms, three budgets and five rates, as the file `runs.csv` of the working directory."""

    def loss(lr, best, tokens):
        return 2.5 + (tokens / 1e9) ** -0.2 + 0.1 * math.log(lr / best) ** 2

    rows = [
        f"{arm},{tokens:g},{6e8 * tokens:g},{lr},{loss(lr, best, tokens) + shift}"
        for arm, shift in (("base", 0.0), ("new", -0.05))
        for tokens, best in ((1e9, 0.02), (2e9, 0.016), (4e9, 0.0128))
        for lr in (0.005, 0.01, 0.02, 0.04, 0.08)
    ]
    (tmp_path / "runs.csv").write_text("\n".join(["arm,tokens,flops,lr,loss", *rows]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plot(*words):
    return CliRunner().invoke(app, ["plot", "runs.csv", *words], catch_exceptions=True)


def complaint(*words):
    done = plot(*words)
    assert done.exit_code != 0
    return str(done.exception)


def test_figures_are_written_where_they_were_asked_for(runs):
    done = plot("--figure", "arms,heat", "--baseline", "base", "--format", "svg", "--style", "slides", "--out", "here")
    assert (done.exit_code, done.exception) == (0, None)
    assert sorted(path.name for path in (runs / "here").iterdir()) == ["arms.svg", "heat.svg"]
    assert 'viewBox="0 0 960 540"' in (runs / "here" / "arms.svg").read_text()


def test_what_has_no_data_is_left_out_with_what_it_needs(runs):
    done = plot("--figure", "lr,stability", "--format", "svg")
    assert (done.exit_code, [path.name for path in (runs / "figures" / "runs").iterdir()]) == (0, ["lr.svg"])
    assert (
        "no data for the figure 'stability': left out; it needs a sweep whose runs have written metrics" in done.stderr
    )


def test_a_figure_alone_without_data_is_an_error_that_says_what_it_needs(runs):
    assert complaint("--figure", "stability").startswith("no data for the figures stability: stability needs a sweep")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--figure", "hart"), "--figure 'hart': no such figure; did you mean 'heat'?"),
        (("--style", "poster"), "no style 'poster' of figures; "),
        (("--heat", "lr"), "--heat 'lr': expected two columns, across and up, such as lr,tokens"),
        (("--heat", "lr,lr"), "--heat 'lr,lr': expected two columns, across and up, such as lr,tokens"),
        (("--figure", "heat", "--heat", "lr,token"), "no column 'token'; did you mean 'tokens'?"),
        (("--figure", "law", "--x", "depth"), "no column 'depth'; "),
        (("--figure", "law", "--x", "loss"), "a law along loss needs one loss per optimum"),
        (("--figure", "lr", "--format", "gif2"), "figures cannot be written as 'gif2'"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(runs, words, said):
    assert said in complaint(*words)
