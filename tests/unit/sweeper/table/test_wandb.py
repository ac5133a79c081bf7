import json
import math

import pandas as pd
import pytest

from sweeper.errors import TableError
from sweeper.table import losses, read_foreign, read_table
from sweeper.table.wandb import read_object

# The columns and the quoting of the web interface's export of a runs table.
RUNS_TABLE = """"Name","State","Notes","User","Tags","Created","Runtime","Sweep","lr","optimizer.name","val/loss"
"calm-sky-1","finished","-","","","2025-11-13T09:48:11.000Z","9910","","0.001","muon","3.25"
"dry-sun-2","crashed","-","","","2025-11-13T09:34:15.000Z","5902","","0.002","muon","4.5"
"old-sea-3","failed","-","","","2025-11-13T09:21:36.000Z","108","","0.004","muon",""
"red-fog-4","running","-","","","2025-11-13T09:11:36.000Z","60","","0.008","muon","3.9"
"new-sea-5","finished","-","","","2025-11-13T09:01:36.000Z","9800","","0.016","muon","NaN"
"""

API = [
    {
        "id": "a1",
        "name": "calm-sky-1",
        "state": "finished",
        "config": {"lr": {"value": 0.001, "desc": None}, "optimizer": {"value": {"lr": 0.5, "betas": [0.9, 0.95]}}},
        "summary": {"val/loss": 3.25, "_step": 10, "_wandb": {"runtime": 9}, "lr": 0.0},
    },
    {
        "id": "b2",
        "name": "dry-sun-2",
        "state": "killed",
        "config": {"lr": 0.002, "optimizer": {"lr": 0.25}, "_wandb": {"value": {}}},
        "summary": {"val/loss": "NaN", "_step": 4},
    },
]


def write(path, text):
    path.write_text(text)
    return path


def test_a_runs_table_of_the_web_interface_leaves_out_what_did_not_finish(tmp_path):
    found = read_foreign(write(tmp_path / "wandb.csv", RUNS_TABLE), {"loss": "val/loss"})
    assert found.notes == ("read as a runs table of Weights & Biases: 5 runs, 2 done, 1 crashed, 1 failed, 1 running",)
    assert losses(found.table, by=("optimizer.name",)).excluded.tolist() == [
        "",
        "state crashed",
        "state failed",
        "state running",
        "loss missing",
    ]


@pytest.mark.parametrize("name", ["runs.json", "runs.jsonl"])
def test_runs_of_the_api_get_a_dotted_column_per_setting_and_result(tmp_path, name):
    text = json.dumps(API) if name.endswith(".json") else "\n".join(json.dumps(run) for run in API)
    found = read_foreign(write(tmp_path / name, text))
    assert list(found.table.columns) == [
        *("id", "name", "state", "config.lr", "optimizer.lr", "optimizer.betas"),
        *("val/loss", "_step", "summary.lr"),
    ]
    assert found.table["config.lr"].tolist() == [0.001, 0.002]
    assert found.table["optimizer.lr"].tolist() == [0.5, 0.25]
    assert found.table["state"].tolist() == ["done", "killed"]
    assert found.table["val/loss"].isna().tolist() == [False, True]
    assert found.notes == ("read as runs of the Weights & Biases API: 2 runs, 1 done, 1 killed",)


def test_the_csv_of_the_documented_snippet_is_read_without_running_it(tmp_path):
    rows = pd.DataFrame(
        {
            "summary": [str({"loss": 3.25, "_wandb": {"runtime": 1}}), str({"loss": math.nan, "grad": -math.inf})],
            "config": [str({"lr": 0.001, "opt": {"name": "muon", "wd": None}}), str({"lr": 0.002})],
            "name": ["a", "b"],
        }
    )
    rows.to_csv(tmp_path / "project.csv")
    found = read_foreign(tmp_path / "project.csv")
    assert list(found.table.columns) == ["column 1", "name", "lr", "opt.name", "opt.wd", "loss", "grad"]
    assert found.table.lr.tolist() == [0.001, 0.002]
    assert found.notes == ("read as runs of the Weights & Biases API: 2 runs without a state",)


@pytest.mark.parametrize(
    "cell", ["{'lr': __import__('os')}", "{'lr': array([1])}", "{**x}", "{'a': 1", "{" * 500, "{'a': -'b'}", "[1]"]
)
def test_a_cell_that_is_no_dictionary_is_refused_with_its_row(tmp_path, cell):
    rows = [{"config": "{'lr': 1}", "summary": "{}"}, {"config": cell, "summary": "{}"}]
    pd.DataFrame(rows).to_csv(tmp_path / "project.csv", index=False)
    with pytest.raises(TableError, match="row 3: the column 'config' holds"):
        read_table(tmp_path / "project.csv")


def test_a_missing_cell_is_an_empty_dictionary():
    assert read_object(None) == read_object(math.nan) == {}


def test_a_table_with_other_columns_of_those_names_is_no_export(tmp_path):
    found = read_foreign(write(tmp_path / "t.csv", "config,summary,lr,loss\nbig,good,0.1,2\n"))
    assert list(found.table.columns) == ["config", "summary", "lr", "loss"]
    assert found.notes == ()


def test_a_setting_called_state_is_not_taken_for_the_runs_own(tmp_path):
    text = "Name,State,Created,state,lr,loss\na,crashed,2025,on,0.1,2\n"
    found = read_foreign(write(tmp_path / "t.csv", text))
    assert found.table.state.tolist() == ["on"]
    assert "have a 'state' of their own" in found.notes[0]
