from dataclasses import replace

import pytest

from sweeper.analysis.comparisons import comparisons_of
from sweeper.errors import FitError
from sweeper.fits.optimum import Optimum
from sweeper.spec import Question

QUESTION = Question(per=("arm",), by=("tokens",), baseline="muon")


def optimum(arm, tokens, loss, status="ok"):
    return Optimum(
        group={"arm": arm, "tokens": tokens},
        lr=0.01,
        lr_low=0.009,
        lr_high=0.011,
        loss=loss,
        loss_sd=0.002,
        method="linex",
        status=status,
        points=5,
        excluded=0,
    )


OPTIMA = (
    optimum("muon", 1, 2.5),
    optimum("muon", 2, 2.4, "edge_low"),
    optimum("muonh", 1, 2.45),
    optimum("muonh", 2, 2.35),
    optimum("adamw", 1, 2.6),
)


def test_arms_are_compared_where_both_have_an_optimum_and_the_rest_is_counted():
    rows, warnings = comparisons_of(QUESTION, OPTIMA)
    assert [(row.arm, row.group, row.verdict) for row in rows] == [
        ("muonh", {"tokens": 1}, "lower"),
        ("adamw", {"tokens": 1}, "higher"),
    ]
    assert warnings == [
        "muonh: 1 of 2 groups are not compared with muon, as one of the two has no optimum there; widen the learning "
        "rates or run the same groups"
    ]


def test_a_group_that_the_baseline_does_not_have_is_named():
    _, warnings = comparisons_of(QUESTION, (*OPTIMA, optimum("muonh", 4, 2.3)))
    assert warnings == [
        "muonh: 1 of 3 groups are not compared, as muon has none with tokens = 4; run it there, or leave the column "
        "out of --by",
        "muonh: 1 of 3 groups are not compared with muon, as one of the two has no optimum there; widen the learning "
        "rates or run the same groups",
    ]


@pytest.mark.parametrize(
    ("question", "optima"),
    [(replace(QUESTION, baseline=""), OPTIMA), (replace(QUESTION, per=()), OPTIMA), (QUESTION, ())],
    ids=["no baseline", "no arms", "no optima"],
)
def test_a_question_that_asks_for_no_comparison_gets_none(question, optima):
    assert comparisons_of(question, optima) == ([], [])


def test_an_unknown_baseline_is_refused():
    with pytest.raises(FitError, match="no optima of the baseline 'moun'"):
        comparisons_of(replace(QUESTION, baseline="moun"), OPTIMA)
