"""Which of a paper's tables stand beside an answer (HyperP, arXiv 2603.28743)."""

import pytest

from sweeper.laws.published import HYPERP
from sweeper.laws.published_tables import tables_beside


def _titles(*names, tuned=True):
    return [item.title for item in tables_beside(HYPERP, frozenset(names), tuned=tuned)]


@pytest.mark.parametrize(
    ("names", "titles"),
    [
        (("tokens",), ["HyperP table 4"]),
        (("top_k", "arm"), ["HyperP table 11", "HyperP table 11"]),
        (("depth", "arm", "with", "without"), ["HyperP table 5", "HyperP table 6"]),
        (("aux_weight",), ["HyperP table 3"]),
        (("arm", "weight_decay", "muon", "muonh"), ["HyperP table 2"]),
        (("arm", "qk_norm", "moe_sqrt"), ["HyperP table 15", "HyperP table 16"]),
        (("width",), []),
    ],
)
def test_tables_follow_the_columns_and_arms_of_a_question(names, titles):
    assert _titles(*names) == titles


def test_curves_and_sensitivities_stand_where_the_question_draws_them():
    assert _titles("depth", "flops")[-1] == "HyperP table 12 and HyperP figure 9"
    assert _titles("tokens", "flops") == ["HyperP table 4"]
    assert _titles("sensitivity") == ["HyperP table 14"]


def test_a_question_that_tunes_no_rate_gets_no_optima():
    assert _titles("depth", "flops", tuned=False) == ["HyperP table 12 and HyperP figure 9"]
    assert _titles("tokens", tuned=False) == []


def test_measures_of_stability_stand_beside_a_ladder_alone():
    assert _titles("depth", "stability", tuned=False) == ["HyperP figure 10"]
    assert _titles("arm", "stability") == []


def test_errors_of_the_rate_are_in_percent():
    (table,) = tables_beside(HYPERP, frozenset({"sensitivity"}), tuned=True)
    assert table.setting.startswith("error of the rate in percent")
    assert max(value for row in table.rows for value in row[1:]) > 1


def test_the_best_of_a_sweep_is_its_lowest_loss():
    (without, _) = tables_beside(HYPERP, frozenset({"depth"}), tuned=True)
    assert without.columns == ("depth", "lr", "loss")
    assert without.rows[0] == (8, 0.016, 2.469)


def test_rows_are_as_wide_as_their_head():
    everything = frozenset({"depth", "flops", "sensitivity", "tokens", "stability", "weight_decay", "qk_norm"})
    for item in tables_beside(HYPERP, everything, tuned=True):
        assert {len(row) for row in item.rows} == {len(item.columns)}
