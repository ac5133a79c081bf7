import pandas as pd

from sweeper.table import left_out, losses


def named(table, by=(), **options):
    return [(run.reason, run.run, run.group) for run in left_out(table, losses(table, by), by, **options)]


def test_every_run_left_out_has_its_reason_name_and_group():
    table = pd.DataFrame(
        {
            "lr": [0.1, 0.2, 0.4, -1.0, float("inf"), "big", 0.8, 0.1],
            "loss": [2.0, None, float("inf"), 2.0, 2.0, 2.0, "oops", 2.0],
            "state": ["done", "done", "done", "done", "done", "done", "done", "diverged"],
            "tokens": [10.0] * 7 + [None],
            "run_id": list("abcdefgh"),
        }
    )
    assert named(table, ("tokens",)) == [
        ("loss missing", "b", {"tokens": 10}),
        ("loss infinite", "c", {"tokens": 10}),
        ("learning rate not positive", "d", {"tokens": 10}),
        ("learning rate infinite", "e", {"tokens": 10}),
        ("learning rate not a number", "f", {"tokens": 10}),
        ("loss not a number", "g", {"tokens": 10}),
        ("diverged", "h", {}),
    ]


def test_a_run_without_a_name_is_called_by_its_row_even_after_rows_were_chosen():
    table = pd.DataFrame({"lr": [0.1, 0.2, 0.4], "loss": [1.0, None, None], "exp_name": [None, "x", None]})
    assert named(table.iloc[1:]) == [("loss missing", "x", {}), ("loss missing", "row 4", {})]


def test_states_without_a_final_loss_are_left_out_whatever_their_loss():
    states = ["Finished", "done", "Crashed", "killed", "running", "failed", None, "DIVERGED"]
    table = pd.DataFrame({"lr": [0.1 * 2**i for i in range(8)], "loss": [2.0] * 7 + [9.0], "state": states})
    table.loc[3, "loss"] = None
    assert losses(table, ()).excluded.tolist() == [
        *("", "", "state crashed", "state killed", "state running", "state failed", "", "diverged"),
    ]


def test_repeats_differ_somewhere_and_duplicates_nowhere():
    row = {"lr": 0.1, "loss": 2.0, "seed": 1, "name": "a"}
    again = [row | {"loss": 2.1}, row | {"seed": 2}, row | {"name": "b"}, row]
    assert losses(pd.DataFrame([row, *again]), ()).excluded.tolist() == ["", "", "", "", "duplicate row"]


def test_the_row_that_an_imported_run_was_sets_no_two_apart():
    table = pd.DataFrame({"lr": [0.1, 0.1], "loss": [2.0, 2.0], "imported_from": ["x row 2", "x row 3"]})
    assert named(table) == [("duplicate row", "x row 3", {})]


def test_of_many_runs_left_out_the_first_of_each_reason_are_named():
    table = pd.DataFrame({"lr": [0.1] * 5000 + [-1.0], "loss": [float("nan")] * 5001})
    found = left_out(table, losses(table, ()), ())
    assert len(found) == 501
    assert found[-1].reason == "learning rate not positive"
