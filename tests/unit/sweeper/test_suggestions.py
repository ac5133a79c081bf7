import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from builders import run_record, run_spec

from sweeper.analysis import mixed_groups, suggest_question
from sweeper.cli.suggesting import TOLERANCE as TYPED
from sweeper.errors import FitError, TableError
from sweeper.fits.design import TOLERANCE
from sweeper.records import SweepFolder
from sweeper.spec import Question
from sweeper.suggestions import cells_at, kin, suggested_specs, write_suggestion
from sweeper.table import results

RATES = (0.02, 0.04, 0.08)
BARE = Question(laws=(), curves=())


def cells(steps, rates=RATES):
    return [run_spec(lr, steps) for lr in rates]


def finished(specs, optimum=0.05):
    return results([run_record(spec, loss=2.5 + 0.06 * math.log(spec.lr_peak / optimum) ** 2) for spec in specs], specs)


def test_the_command_line_and_the_design_stop_at_one_tolerance():
    assert TYPED == TOLERANCE


def test_suggested_cells_join_the_expansion_that_holds_their_group(tmp_path):
    folder, specs = SweepFolder(tmp_path, "tiny"), cells(8)
    write_suggestion(folder, cells_at(specs[:1], 0.06))
    (added,) = suggested_specs(specs, folder)
    assert (added.lr, added.lr_peak, dict(added.axes)["lr"]) == (0.06, 0.06, 0.06)
    assert added.run_id == run_spec(0.06, 8).run_id
    assert suggested_specs(cells(16), folder) == ()


def test_a_cell_that_the_grid_has_come_to_hold_is_not_there_twice(tmp_path):
    folder = SweepFolder(tmp_path, "tiny")
    write_suggestion(folder, cells_at(cells(8)[:1], 0.06))
    write_suggestion(folder, cells_at(cells(8)[:1], 0.06))
    assert len(suggested_specs(cells(8), folder)) == 1
    assert suggested_specs(cells(8, (*RATES, 0.06)), folder) == ()
    assert sorted(path.name for path in (folder.path / "suggestions").iterdir()) == ["1.json", "2.json"]


def test_a_peak_rate_becomes_a_base_rate_through_the_cells_own_rule():
    spec = cells(8)[0]
    doubled = replace(spec, lr=spec.lr_peak / 2)
    assert cells_at([doubled], 0.06)[0].lr == pytest.approx(0.03)


def test_each_group_gets_its_next_rates_and_their_cells_and_cost():
    specs = [*cells(8), *cells(16)]
    rows = suggest_question(finished(specs), BARE, specs=specs, tolerance=0.01)
    assert [row.suggestion.group["tokens"] for row in rows] == [2048, 4096]
    assert [row.suggestion.why for row in rows] == ["straddle", "straddle"]
    assert all(len(row.cells) == 1 and row.pending for row in rows)
    assert rows[1].flops == pytest.approx(2 * rows[0].flops)


def test_nothing_is_suggested_while_cells_of_the_group_have_no_result():
    specs = [*cells(8), *cells(16)]
    rows = suggest_question(finished(specs[:5]), BARE, specs=specs, tolerance=0.01)
    assert [(row.waiting, row.pending) for row in rows] == [(0, True), (1, False)]


def test_a_budget_goes_to_groups_without_an_optimum_first():
    specs = [*cells(8), *cells(16)]
    table = pd.concat([finished(specs[:3]), finished(specs[3:], optimum=0.5)], ignore_index=True)
    small, large = suggest_question(table, BARE, specs=specs, tolerance=0.01)
    assert (small.suggestion.why, large.suggestion.why) == ("straddle", "extend")
    rows = suggest_question(table, BARE, specs=specs, tolerance=0.01, budget=large.flops)
    assert [row.affordable for row in rows] == [False, True]
    rows = suggest_question(table, BARE, specs=specs, tolerance=0.01, budget=small.flops)
    assert [row.affordable for row in rows] == [True, False]


def test_a_table_gets_rates_and_its_own_cost():
    rng = np.random.default_rng(0)
    lr = np.array([0.005, 0.01, 0.02])
    table = pd.DataFrame(
        {"lr": lr, "loss": 2.5 + 0.05 * np.log(lr / 0.01) ** 2 + rng.normal(0, 0.002, 3), "flops": 2e9}
    )
    (row,) = suggest_question(table, replace(BARE, by=()), tolerance=0.01)
    assert (row.cells, row.flops) == ((), 2e9)
    assert len(row.suggestion.lrs) == 1


def test_a_group_whose_runs_all_diverged_starts_where_the_law_of_the_others_says():
    rows = [
        {"lr": lr, "loss": 2.5 + 0.06 * math.log(lr / (0.02 / t)) ** 2, "tokens": t * 1e9, "state": "done"}
        for t in (1, 2, 4)
        for lr in 0.02 / t * 2.0 ** np.arange(-2, 3)
    ]
    table = pd.DataFrame([*rows, {"lr": 0.1, "loss": 9.0, "tokens": 8e9, "state": "diverged"}])
    suggestion = suggest_question(table, BARE)[-1].suggestion
    assert suggestion.why == "start"
    assert suggestion.lrs[1] == pytest.approx(0.02 / 8, rel=0.15)


def test_what_cannot_be_suggested_is_one_sentence():
    table = pd.DataFrame({"lr": [0.01, 0.02, 0.04], "loss": [2.6, 2.55, 2.52]})
    with pytest.raises(FitError, match="--budget: the cost of these runs is not known"):
        suggest_question(table, replace(BARE, by=()), budget=1e9)
    with pytest.raises(TableError, match="has no runs"):
        suggest_question(table[:0], BARE)


def test_groups_that_mix_budgets_are_said_to():
    specs = [*cells(8), *cells(16)]
    (doubt,) = mixed_groups(finished(specs), replace(BARE, by=("depth",)))
    assert doubt.startswith("tokens has 2 values but does not set groups apart")
    assert mixed_groups(finished(specs), BARE) == ()


def test_a_cell_is_looked_at_once_however_many_groups_there_are(monkeypatch):
    specs = [spec for steps in range(8, 48, 8) for spec in cells(steps)]
    looked = []
    monkeypatch.setattr("sweeper.analysis.suggestion.kin", lambda spec: looked.append(spec) or kin(spec))
    suggest_question(finished(specs), BARE, specs=specs)
    assert len(looked) <= 2 * len(specs)  # once among all, once in its own group
