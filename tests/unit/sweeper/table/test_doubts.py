import pandas as pd
import pytest

from sweeper.table import unit_doubts

SOUND = {"lr": [0.01, 0.02], "loss": [3.3, 3.2], "tokens": [1e9, 1e9], "params": [1e8, 1e8], "flops": [6e17, 7e17]}


def doubts(columns, mapping=None):
    return unit_doubts(pd.DataFrame(SOUND | columns), mapping=mapping)


def test_sound_units_raise_no_doubt():
    assert doubts({}) == ()


@pytest.mark.parametrize(
    ("columns", "mapping", "typed"),
    [
        ({"lr": [10.5, 20]}, {}, "--map 'lr=lr*1e-3'"),
        ({"lr": [1e-10, 0.1]}, {}, "--where 'lr > 1e-09'"),
        ({"loss": [30, 25]}, {"loss": "val/ppl"}, "--map 'loss=log(`val/ppl`)'"),
        ({"loss": [-3.1, -3.2]}, {}, "--map 'loss=-loss'"),
        ({"tokens": [1, 20], "flops": [None, None]}, {"tokens": "D"}, "--map 'tokens=D*1e9'"),
        ({"params": [100, 100], "flops": [None, None]}, {"params": "N/2"}, "--map 'params=(N/2)*1e6'"),
        ({"flops": [6e8, 7e8]}, {"params": "N", "tokens": "D"}, "--map 'flops=6*N*D'"),
    ],
)
def test_a_doubt_says_what_to_type(columns, mapping, typed):
    found = doubts(columns, mapping)
    assert len(found) == 1
    assert typed in found[0]


def test_one_diverged_run_makes_no_perplexity():
    assert unit_doubts(pd.DataFrame({"lr": [0.1, 0.2, 0.4], "loss": [3.0, 3.1, 400.0]})) == ()


def test_columns_that_are_not_there_or_hold_text_raise_no_doubt():
    assert unit_doubts(pd.DataFrame({"lr": ["x"], "loss": [None], "tokens": ["many"]})) == ()
    assert unit_doubts(pd.DataFrame({"a": [1]})) == ()


def test_infinite_and_missing_numbers_raise_no_doubt():
    assert doubts({"lr": [float("inf"), 0.1], "tokens": [None, 1e9], "loss": [float("nan"), 3]}) == ()
