"""Any small table is answered or refused in one sentence, whatever stands in its cells."""

import contextlib
import datetime
import math
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sweeper.analysis import file_question, fit_question
from sweeper.errors import SweeperError
from sweeper.table import read_foreign, read_table, unit_doubts
from sweeper.table.mapping import extracted, mapped
from sweeper.table.wandb import read_object

CELLS = st.one_of(
    st.sampled_from(
        [0.01, 0.02, 0.04, 2.5, 3.0, 0.0, -1.0, math.inf, -math.inf, math.nan, None, 1e300, 5e-324, 10**30]
    ),
    st.floats(),
    st.integers(),
    st.booleans(),
    st.text(max_size=5),
    st.sampled_from(["0.1", "nan", "inf", "done", "diverged", "crashed", "muon", "[1]", "{}", "1e999", " 0.2 "]),
    st.datetimes(timezones=st.sampled_from([None, datetime.UTC])),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
)
NAMES = st.sampled_from(
    [
        "lr",
        "loss",
        "tokens",
        "state",
        "arm",
        "run_id",
        "params",
        "flops",
        "lr_peak",
        "seed",
        "config",
        "summary",
        "class",
    ]
)


@st.composite
def tables(draw, cells=CELLS):
    rows = draw(st.integers(1, 7))
    names = draw(st.lists(NAMES, unique=True, max_size=6))
    columns = {name: draw(st.lists(cells, min_size=rows, max_size=rows)) for name in ["lr", "loss", *names]}
    return pd.DataFrame({name: pd.Series(column, dtype=object) for name, column in columns.items()})


def answer(path):
    with contextlib.suppress(SweeperError), np.errstate(all="ignore"):
        found = read_foreign(path)
        unit_doubts(found.table)
        fit_question(found.table, file_question(found.table), method="parabola", told=found.warnings)


@pytest.mark.parametrize("write", ["csv", "jsonl", "json"])
@given(table=tables())
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_any_table_is_answered_or_refused(write, table):
    with TemporaryDirectory() as folder:
        path = Path(folder, f"t.{write}")
        if write == "csv":
            table.to_csv(path, index=False)
        else:
            try:
                table.to_json(path, orient="records", lines=write == "jsonl", date_format="iso")
            except (OverflowError, UnicodeEncodeError):
                return
        answer(path)


@given(data=st.binary(max_size=60), suffix=st.sampled_from(["csv", "tsv", "json", "jsonl", "parquet", "csv.gz"]))
@settings(max_examples=150)
def test_any_bytes_are_read_or_refused(data, suffix):
    with TemporaryDirectory() as folder:
        path = Path(folder, f"t.{suffix}")
        path.write_bytes(data)
        with contextlib.suppress(SweeperError):
            read_table(path)


@given(text=st.text(alphabet="lr`val/loss *+-()[]'\"0123.,:=", max_size=20))
def test_any_expression_computes_or_is_refused(text):
    rows = pd.DataFrame({"lr": [1, 2], "val/loss": [0.5, None], "l": ["a", "b"]})
    with contextlib.suppress(SweeperError):
        assert len(mapped(rows, {"new": text})) == 2


@given(pattern=st.text(alphabet="(?P<lr>a)+*.[]|\\d^${}1,", max_size=20))
def test_any_pattern_matches_or_is_refused(pattern):
    with contextlib.suppress(SweeperError):
        extracted(pd.DataFrame({"name": ["a" * 50, "lr1", None]}), "name", f"(?P<x>{pattern})")


@given(
    cell=st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=4),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=8,
    ).filter(lambda value: isinstance(value, dict))
)
def test_what_python_writes_of_a_dictionary_is_read_back(cell):
    assert repr(read_object(repr(cell))) == repr(cell)


@given(rows=st.lists(st.tuples(st.sampled_from([1, 2, None]), st.sampled_from([0.5, 3.0])), min_size=1, max_size=8))
def test_an_expression_over_a_table_is_that_over_each_row(rows):
    table = pd.DataFrame(rows, columns=["a", "b"])
    made = mapped(table, {"c": "6*a*b + b"}).c
    expected = [math.nan if a is None else 6 * a * b + b for a, b in rows]
    assert np.allclose(made.astype(float), expected, equal_nan=True)
