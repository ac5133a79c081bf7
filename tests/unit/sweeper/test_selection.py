from dataclasses import replace

import pytest
from builders import run_spec

from sweeper.errors import ConfigError, SweeperError
from sweeper.overview import Row
from sweeper.records import SweepFolder, write_spec
from sweeper.selection import choose, choose_one, could_be_named, named_one, none_satisfies, split_words, with_named

SPECS = tuple(replace(run_spec(lr=lr), run_id=run_id) for lr, run_id in ((0.1, "aa11"), (0.2, "aa22"), (0.3, "bb33")))
STATES = ("failed", "running", "done")
ROWS = tuple(
    Row(
        run_id=spec.run_id,
        arm="",
        axes=dict(spec.axes),
        state=state,
        steps=8,
        tokens=spec.train.tokens,
        loss=2.5 if state == "done" else None,
    )
    for spec, state in zip(SPECS, STATES, strict=True)
)


def chosen(*runs, where="", everything=False):
    return [row.run_id for row in choose(ROWS, SPECS, runs, where, everything=everything)]


@pytest.mark.parametrize(
    ("word", "is_override"),
    [
        ("scale=tiny", True),
        ("cluster.slurm.partition=main", True),
        ("axes.lr=geom(0.1,0.2,2)", True),
        ("where=lr<0.5", True),
        ("++lr=0.1", True),
        ("~axes.tokens", True),
        ("3fa91b07", False),
        ("lr==0.1", False),
        ("lr <= 0.1", False),
        ("state != 'done'", False),
    ],
)
def test_words_are_told_apart_by_their_form(word, is_override):
    assert split_words([word]) == (((word,), ()) if is_override else ((), (word,)))


def test_a_run_is_named_by_the_start_of_its_id():
    assert chosen("bb") == ["bb33"]


def test_a_start_that_several_share_lists_them():
    with pytest.raises(SweeperError, match=r"2 runs begin with 'aa': aa11 \(failed, .*\), aa22"):
        chosen("aa")


def test_an_unknown_start_is_refused():
    with pytest.raises(SweeperError, match="no run of the 3 begins with 'ff'"):
        chosen("ff")


def test_a_condition_reads_axes_and_states():
    assert chosen(where="lr >= 0.2 and state in ['running', 'done']") == ["aa22", "bb33"]


def test_names_and_conditions_add_up():
    assert chosen("aa11", where="state == 'done'") == ["aa11", "bb33"]


def test_a_loss_that_does_not_exist_satisfies_no_comparison():
    assert chosen(where="loss < 3 or loss >= 3") == ["bb33"]


def test_an_unknown_column_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown column 'stat'.*did you mean 'state'"):
        chosen(where="stat == 'failed'")


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("state == 'runing'", "no run has the state 'runing'; did you mean 'running'"),
        ("lr > 0 and cause in ['time', 'memroy']", "no run has the cause 'memroy'; did you mean 'memory'"),
        ("'oom' != cause", "no run has the cause 'oom'; choose one of .*time"),
        ("lr=0.2", "'=' compares nothing in 'lr=0.2'; write =="),
    ],
)
def test_a_condition_that_means_nothing_is_refused(where, said):
    with pytest.raises(ConfigError, match=said):
        chosen(where=where)


def test_a_condition_that_nothing_satisfies_is_answered_with_what_there_is():
    said = none_satisfies(ROWS, SPECS, "state == 'queued' and lr > 5")
    assert said.startswith("none of the 3 runs satisfies \"state == 'queued' and lr > 5\": lr is 0.1 (1), ")
    assert said.endswith("state is 'failed' (1), 'running' (1), 'done' (1)")


def test_a_condition_with_one_equals_sign_is_told_from_an_override():
    with pytest.raises(SweeperError, match=r"was read as an override of the sweep; a condition .* =="):
        named_one(["cluster=mine", "kind='ok'"])


def test_one_run_is_named_at_a_time():
    with pytest.raises(SweeperError, match="one run at a time, but 'aa11', 'bb33' name 2"):
        named_one(["aa11", "cluster=mine", "bb33"])
    assert named_one(["aa11", "cluster=mine"]) == "aa11"


def test_everything_is_every_run_once():
    assert chosen("aa11", everything=True) == ["aa11", "aa22", "bb33"]


def test_one_run_may_be_named_by_a_condition():
    assert choose_one(ROWS, SPECS, "lr == 0.3").run_id == "bb33"


@pytest.mark.parametrize(("word", "said"), [("lr > 5", "none of the 3 runs satisfies"), ("lr > 0.1", "2 runs satisfy")])
def test_a_condition_that_names_no_one_run_is_refused(word, said):
    with pytest.raises(SweeperError, match=said):
        choose_one(ROWS, SPECS, word)


def test_a_run_of_another_grid_is_found_by_its_id(tmp_path):
    folder = SweepFolder(tmp_path, "tiny")
    other = run_spec(lr=0.7)
    write_spec(folder, other)
    assert with_named(SPECS, folder, [other.run_id[:6]])[-1] == other
    assert with_named(SPECS, folder, ["aa11"]) == SPECS


def test_only_runs_that_may_be_meant_are_looked_at():
    assert could_be_named(SPECS, ["aa1"]) == SPECS[:1]
    assert could_be_named(SPECS, ["lr == 0.1"]) == SPECS
    assert could_be_named(SPECS, []) == SPECS
