import json

import pandas as pd
import pytest
from builders import run_record
from typer.testing import CliRunner

from sweeper.analysis import fit_question
from sweeper.cli import app
from sweeper.errors import ConfigError, SweeperError, TableError
from sweeper.records import write_record
from sweeper.sources import Asked, forget_import, import_file, is_table, list_imports, open_source, open_sweep
from sweeper.table import split

SWEEP = """
defaults:
  - model: tiny
  - optimizer: muonh
  - transfer: measure
  - schedule: linear
  - data: synthetic
  - evaluation: quick
  - cluster: local
  - _self_
title: three rates at two budgets
lr: 0.01
batch_tokens: 2048
axes:
  tokens: [8192, 16384]
  lr: [0.01, 0.02, 0.04]
"""

# Of Hyperball's runs (WhenWen/Hyperball on Hugging Face, MIT): MuonH at 1B and 2B tokens, losses to 4 digits.
RUNS = """run_name,learning_rate,loss,num_tokens
muonh-1B-a,0.01,3.6713,1
muonh-1B-b,0.0141,3.6588,1
muonh-1B-c,0.02,3.6578,1
muonh-2B-a,0.01,3.5103,2
muonh-2B-b,0.0141,3.5032,2
muonh-2B-c,0.02,3.5087,2
"""
ASKED = Asked(lr="learning_rate", mapping=("tokens=num_tokens*1e9",))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs.csv").write_text(RUNS)
    return tmp_path


@pytest.fixture
def swept(here):
    """A sweep of which every cell has a result."""
    (here / "sweeps").mkdir()
    (here / "sweeps" / "mine.yaml").write_text(SWEEP)
    _, specs, folder = open_sweep("mine", [], here / "runs")
    for spec in specs:
        write_record(folder, run_record(spec, loss=3 + abs(spec.lr - 0.02)))
    return here


@pytest.mark.parametrize(
    ("source", "table"),
    [
        ("x.csv", True),
        ("x.JSON", True),
        ("x.ndjson.gz", True),
        ("runs.parquet", True),
        ("quickstart", False),
        ("sweeps/x.yaml", False),
        ("v1.5", False),
    ],
)
def test_the_name_of_a_source_tells_a_file_from_a_sweep(source, table):
    assert is_table(source) == table


def test_a_file_that_is_no_table_is_not_looked_for_among_the_sweeps(here):
    (here / "runs.txt").write_text(RUNS)
    with pytest.raises(TableError, match=r"the format \.txt is not known"):
        open_source("runs.txt", [], here, Asked())


def test_a_file_is_read_under_our_names_with_doubts_about_its_units(here):
    found = open_source("runs.csv", [], here, Asked(lr="learning_rate", mapping=("tokens=num_tokens",)))
    assert found.question.by == ("tokens",)
    assert found.warnings == ("'tokens' reaches only 2: if it counts billions, --map 'tokens=num_tokens*1e9'",)
    report = fit_question(found.table, found.question, lr="learning_rate", told=found.warnings)
    assert report.warnings[0] == found.warnings[0]


@pytest.mark.parametrize("condition", ["tokens < 2", "num_tokens < 2", "num_tokens < 2 and tokens == 1"])
def test_rows_are_chosen_by_our_name_of_a_column_and_by_the_files(here, condition):
    found = open_source(
        "runs.csv", [], here, Asked(mapping=("tokens=num_tokens",), lr="learning_rate", where=condition)
    )
    assert len(found.table) == 3
    assert "num_tokens" not in found.table.columns


def test_a_name_is_mapped_once(here):
    with pytest.raises(SweeperError, match="--map gives 'tokens' 2 times"):
        open_source("runs.csv", [], here, Asked(mapping=("tokens=a", "tokens=b")))


def test_imported_rows_join_the_results_of_a_sweep_as_an_arm_of_their_own(swept):
    alone = open_source("mine", [], swept / "runs", Asked())
    kept, new, _ = import_file("runs.csv", "mine", swept / "runs", ASKED)
    assert (kept.rows, new) == (6, True)
    both = open_source("mine", [], swept / "runs", Asked())
    assert both.notes == ("6 imported rows join 6 results of mine",)
    assert both.question == alone.question
    assert {key["arm"]: len(part) for key, part in split(both.table, ("arm",))} == {"base": 6, "imported": 6}
    own = both.table[both.table.arm == "base"].reset_index(drop=True)
    pd.testing.assert_frame_equal(own[list(alone.table.columns)], alone.table, check_dtype=False)
    report = fit_question(both.table, both.question)
    assert [tuple(optimum.group.values()) for optimum in report.optima] == [
        *(("base", 8192), ("base", 16384), ("imported", 10**9), ("imported", 2 * 10**9)),
    ]


def test_imported_rows_of_an_arm_of_the_sweep_join_that_arm(swept):
    asked = Asked(lr="learning_rate", mapping=("tokens=num_tokens*1e9", "arm='base'"))
    import_file("runs.csv", "mine", swept / "runs", asked)
    assert set(open_source("mine", [], swept / "runs", Asked()).table.arm) == {"base"}


def test_imported_rows_answer_without_any_result_of_the_sweep(swept):
    import_file("runs.csv", "mine", swept / "elsewhere", ASKED)
    assert len(open_source("mine", [], swept / "elsewhere", Asked()).table) == 6


def test_a_name_without_a_sweep_holds_imported_rows(here):
    import_file("runs.csv", "theirs", here / "runs", ASKED)
    found = open_source("theirs", [], here / "runs", Asked(where="lr > 0.01"))
    assert len(found.table) == 4
    assert found.question.laws == ("lr ~ tokens",)
    with pytest.raises(SweeperError, match="overrides such as 'lr=1' belong to a sweep, but theirs holds imported"):
        open_source("theirs", ["lr=1"], here / "runs", Asked())


def test_the_same_rows_are_imported_once_and_forgotten_once(here):
    import_file("runs.csv", "theirs", here / "runs", ASKED)
    assert import_file("runs.csv", "theirs", here / "runs", ASKED)[1] is False
    assert [found.number for found in list_imports("theirs", here / "runs")] == [1]
    assert forget_import("theirs", here / "runs", 1).rows == 6
    with pytest.raises(ConfigError, match="no sweep 'theirs'"):
        open_source("theirs", [], here / "runs", Asked())


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/x", "a/../b", "_calibration", "x.csv"])
def test_a_name_that_is_none_is_refused(here, name):
    with pytest.raises(SweeperError, match="no name of a sweep"):
        import_file("runs.csv", name, here / "runs", ASKED)


def test_rows_without_rate_or_loss_are_not_imported(here):
    with pytest.raises(SweeperError, match="no column 'lr'; name it with --lr, among run_name, learning_rate, loss"):
        import_file("runs.csv", "theirs", here / "runs", Asked())
    with pytest.raises(SweeperError, match="no column 'val'"):
        import_file("runs.csv", "theirs", here / "runs", Asked(lr="learning_rate", loss="val"))
    assert not (here / "runs").exists()


def run(*words):
    return CliRunner().invoke(app, list(words), catch_exceptions=True)


def test_the_command_imports_lists_and_removes(here):
    words = ("import", "runs.csv", "--to", "theirs", "--lr", "learning_rate", "--map", "tokens=num_tokens*1e9")
    assert "import 1 of theirs: 6 rows of runs.csv" in run(*words).stdout
    assert "is import 1 of theirs already" in run(*words).stdout
    assert json.loads(run(*words, "--json").stdout)["new"] is False
    listed = json.loads(run("import", "--list", "theirs", "--json").stdout)["imports"]
    assert [(found["number"], found["source"], found["rows"]) for found in listed] == [(1, "runs.csv", 6)]
    assert "runs.csv" in run("import", "--list", "theirs").stdout
    assert "2B" in run("fit", "theirs").stdout
    assert "removed import 1 of theirs: 6 rows of runs.csv" in run("import", "--to", "theirs", "--remove", "1").stdout
    assert "nothing is imported to theirs" in run("import", "--list", "theirs").stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("import", "runs.csv"), "no name"),
        (("import", "--to", "x"), "no file"),
        (("import", "--to", "x", "--remove", "1"), "no import 1"),
    ],
)
def test_an_import_that_lacks_something_says_what(here, words, message):
    assert message in str(run(*words).exception)


def test_fit_names_the_runs_that_it_leaves_out(here):
    (here / "runs.csv").write_text(RUNS + "".join(f"bad-{k},0.01,nan,2\n" for k in range(5)))
    words = ("fit", "runs.csv", "--lr", "learning_rate", "--map", "tokens=num_tokens*1e9")
    assert "loss missing: bad-0, bad-1, bad-2 and 2 more" in run(*words).stdout
    report = json.loads(run(*words, "--json").stdout)
    assert report["excluded"] == {"loss missing": 5}
    assert report["left_out"][4] == {"reason": "loss missing", "run": "bad-4", "group": {"tokens": 2_000_000_000}}
