import dataclasses
import gzip
import json
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from builders import run_record

from model.config import (
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
    Rates,
    ScheduleConfig,
    Seeds,
    TrainConfig,
)
from sweeper.errors import ConfigError, DiskError, TableError
from sweeper.laws.transfer import Transfer
from sweeper.spec import RunSpec, Trainer
from sweeper.table import (
    COLUMNS,
    distinct,
    is_numeric,
    losses,
    numbers,
    read_table,
    results,
    split,
    where,
    write_results,
)


def make_spec(run_id, *, arm="base", lr=0.01, **axes):
    train = TrainConfig(
        model=ModelConfig(),
        optimizer=OptimizerConfig(),
        schedule=ScheduleConfig(),
        data=DataConfig(),
        evaluation=EvaluationConfig(),
        seed=Seeds(),
        rates=Rates(hidden=2 * lr, head=lr, embedding=lr, vector=lr),
        tokens=8192,
        batch_tokens=4096,
    )
    return RunSpec(run_id=run_id, sweep="s", arm=arm, axes=tuple(axes.items()), lr=lr, transfer=Transfer(), train=train)


def make_record(spec, **changes):
    return run_record(spec, params=100, wall_time_s=1.5, **changes)


def test_a_command_without_a_model_has_the_width_that_it_names_itself_and_no_depth():
    trainer = Trainer(kind="command", argv=("x",), models=False, values=(("width", 300),))
    spec = dataclasses.replace(make_spec("a", width=300), trainer=trainer)
    record = dataclasses.replace(make_record(spec), params=0, params_total=0, flops=0.0)
    table = results([record], [spec])
    assert list(table.columns) == list(COLUMNS)
    assert list(table.width) == [300]
    assert table[["depth", "params", "flops"]].isna().all(axis=None)


def test_what_a_command_reports_are_columns_and_none_takes_the_name_of_another():
    spec = make_spec("a", dropout=0.1)
    table = results([make_record(spec, extra={"accuracy": 0.5, "lr": 9.0, "dropout": 8.0})], [spec])
    assert list(table.columns) == [*COLUMNS, "dropout", "accuracy", "result.lr", "result.dropout"]
    assert table.loc[0, ["lr", "dropout", "result.lr", "result.dropout"]].tolist() == [0.01, 0.1, 9.0, 8.0]


def test_results_hold_one_row_per_recorded_cell_with_every_documented_column_and_axis():
    specs = [make_spec("a", **{"optimizer.momentum": 0.9}), make_spec("b"), make_spec("c")]
    table = results([make_record(specs[2]), make_record(specs[0]), make_record(make_spec("foreign"))], specs)
    assert list(table.run_id) == ["a", "c"]
    assert list(table.columns) == [*COLUMNS, "optimizer.momentum"]
    assert table.lr_peak[0] == 0.02
    assert table.depth[0] == 8


def test_no_records_give_an_empty_table_with_its_columns():
    assert list(results([], [make_spec("a")]).columns) == list(COLUMNS)


def test_a_run_shared_by_two_arms_has_a_row_in_each():
    specs = [make_spec("a", arm="x"), make_spec("a", arm="y")]
    assert list(results([make_record(specs[0])], specs).arm) == ["x", "y"]


def test_results_come_back_from_disk(tmp_path):
    specs = [make_spec("a", mixed="word"), make_spec("b", mixed=3)]
    table = results([make_record(spec) for spec in specs], specs)
    path = write_results(table, tmp_path / "s")
    assert path == tmp_path / "s" / "results.csv"
    assert sorted(p.name for p in path.parent.iterdir()) == ["results.csv", "results.parquet"]
    assert list(read_table(path).loss) == list(read_table(path.with_suffix(".parquet")).loss) == [2.5, 2.5]


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "s").write_text("a file")
    with pytest.raises(DiskError, match="cannot be written"):
        write_results(results([], []), tmp_path / "s")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("empty.csv", "", "the file is empty"),
        ("header.csv", "lr,loss\n", "a header but no rows"),
        ("twice.csv", "lr,loss,lr\n1,2,3\n", "'lr' is there 2 times"),
        ("broken.csv", 'lr,loss\n1,2\n1,2,3,4\n"', "not a readable .csv"),
        ("broken.jsonl", "{", "not a readable .jsonl"),
        ("broken.parquet", "no parquet", "not a readable .parquet"),
        ("table.xlsx", "x", "the format .xlsx is not known"),
        ("binary.csv", b"\xff\xfe\x00\x01\x80", "not a readable .csv"),
        ("semicolons.csv", "lr;loss\n0,1;2\n", "its header 'lr;loss' is a single column"),
        ("tabs.csv", "lr\tloss\n1\t2\n", "is a single column; separate columns by commas"),
        ("wide.csv", "lr,loss\n1,2,3\n", "its rows hold more values than its header names columns"),
        ("commas.csv", "lr,loss\n1,2,\n", "its rows hold more values than its header names columns"),
        ("list.jsonl", '{"lr": 1}\n[1, 2]\n', "line 2 is \\[1, 2\\]; give an object per line"),
        ("blank.jsonl", "\n\n", "a header but no rows"),
        ("plain.csv.gz", "lr,loss\n1,2\n", "not a readable .csv file \\(Not a gzipped file"),
        ("torn.csv.gz", gzip.compress(b"lr,loss\n1,2\n")[:-9], "not a readable .csv file"),
        ("utf16.csv", "lr,loss\n1,2\n".encode("utf-16"), "not a readable .csv file"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path, name, text, message):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(TableError, match=message):
        read_table(tmp_path / name)


def test_a_folder_in_the_place_of_a_file_is_one_sentence(tmp_path):
    (tmp_path / "x.csv").mkdir()
    with pytest.raises(TableError, match="a folder, not a file"):
        read_table(tmp_path / "x.csv")


CSV = "tokens, lr ,loss\n1000,0.01,2.5\n1000,0.02,2.4\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bom.csv", CSV.encode("utf-8-sig")),
        ("packed.csv.gz", gzip.compress(CSV.encode("utf-8-sig"))),
        ("tabs.tsv", CSV.replace(",", "\t").encode()),
        ("numbers.jsonl", b'{"tokens": 1000, "lr": 0.01, "loss": 2.5}\n{"tokens": 1000, "lr": 0.02, "loss": 2.4}\n'),
        (
            "text.jsonl",
            b'\xef\xbb\xbf{"tokens":"1000","lr":"1e-2","loss":"2.5"}\n{"tokens":"1000","lr":".02","loss":"2.4"}',
        ),
    ],
)
def test_the_same_rows_are_the_same_table_in_every_format(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    table = read_table(tmp_path / name)
    assert list(table.columns) == ["tokens", "lr", "loss"]
    assert [list(table[column]) for column in table] == [[1000, 1000], [0.01, 0.02], [2.5, 2.4]]
    assert is_numeric(table, "tokens")


def test_columns_of_a_parquet_file_are_plain(tmp_path):
    columns = {
        "tokens": pd.Categorical(["1000", "2000"], categories=["500", "1000", "2000"]),
        "loss": [Decimal("2.5"), Decimal("2.4")],
        "steps": pd.array([1, None], dtype="Int64"),
        "history": [np.array([3.0, 2.5]), np.array([3.0, 2.4])],
    }
    pd.DataFrame(columns).to_parquet(tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet")
    assert distinct(table, "tokens") == (1000, 2000)
    assert list(numbers(table, "loss")) == [2.5, 2.4]
    assert np.isnan(numbers(table, "steps")[1])
    assert distinct(table, "history") == ("[3.0, 2.4]", "[3.0, 2.5]")


def test_rows_that_differ_only_in_a_list_are_no_duplicates(tmp_path):
    rows = [
        {"tokens": 1, "lr": 0.1, "loss": 2.0, "curve": curve, "run": {"a": 1}} for curve in ([3, 2], [4, 2], [4, 2])
    ]
    path = tmp_path / "runs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert losses(read_table(path)).reasons() == losses(pd.DataFrame(rows)).reasons() == {"duplicate row": 1}


def test_true_and_false_are_no_losses(tmp_path):
    path = tmp_path / "runs.jsonl"
    path.write_text('{"loss": true}\n{"loss": 2.5}\n')
    assert np.isnan(numbers(read_table(path), "loss")[0])
    with pytest.raises(TableError, match="'ok' holds no numbers but values such as True"):
        numbers(pd.DataFrame({"ok": [True, False]}), "ok")


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(TableError, match="no such file"):
        read_table(tmp_path / "none.csv")


def test_columns_are_mapped_to_our_names(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("D,lr,loss\n1e9,0.01,2.5\n")
    assert list(read_table(path, {"tokens": "D"}).columns) == ["tokens", "lr", "loss"]
    with pytest.raises(TableError, match="no column 'd'"):
        read_table(path, {"tokens": "d"})
    with pytest.raises(TableError, match="a column 'lr' is there already"):
        read_table(path, {"lr": "D"})


def test_conditions_choose_rows():
    table = pd.DataFrame({"mup": ["with", "without"], "lr": [0.01, 0.02]})
    assert list(where(table, "mup == 'with' and lr < 0.02").lr) == [0.01]
    with pytest.raises(TableError, match="none of the 2 rows"):
        where(table, "lr > 1")
    with pytest.raises(ConfigError, match="unknown column 'mupp'"):
        where(table, "mupp == 'with'")


def test_losses_count_what_they_leave_out():
    table = pd.DataFrame(
        {
            "lr_peak": [0.01, 0.02, 0.04, 0.04, 0.08, -1.0],
            "loss": [2.5, 2.4, 2.6, 2.6, None, 2.5],
            "state": ["done", "done", "done", "done", "diverged", "done"],
            "tokens": [10] * 6,
        }
    )
    assert losses(table).reasons() == {"duplicate row": 1, "diverged": 1, "learning rate not positive": 1}


def test_text_where_numbers_belong_is_refused():
    table = pd.DataFrame({"lr": ["big"], "loss": [1.0]})
    with pytest.raises(TableError, match="'lr' holds no numbers but values such as 'big'"):
        numbers(table, "lr")


def test_tables_split_by_any_columns():
    table = pd.DataFrame({"arm": ["b", "a", "b"], "depth": [8, 8, 8], "loss": [1.0, 2.0, 3.0]})
    parts = [(key, list(part.loss)) for key, part in split(table, ("arm", "depth"))]
    assert parts == [({"arm": "b", "depth": 8}, [1.0, 3.0]), ({"arm": "a", "depth": 8}, [2.0])]
    assert np.isclose(next(split(table, ()))[1].loss.sum(), 6)
