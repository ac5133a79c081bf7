import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from sweeper.analysis import file_question, fit_question, predict_question
from sweeper.errors import FitError, TableError
from sweeper.laws.transfer import Transfer
from sweeper.spec import Question


def sweep_table(budgets=(1e9, 2e9, 4e9, 8e9), exponent=-0.32, *, arm="base", depth=8, lr0=0.02):
    rows = []
    for tokens in budgets:
        best = lr0 * (tokens / 1e9) ** exponent
        for lr in best * 2.0 ** np.arange(-2, 3):
            loss = 2.0 + (tokens / 1e9) ** -0.2 + 0.06 * np.log(lr / best) ** 2
            row = {"arm": arm, "state": "done", "loss": loss, "lr": lr, "lr_peak": lr, "tokens": tokens}
            rows.append(row | {"flops": 6e8 * tokens, "depth": depth, "batch_tokens": 2**21})
    return pd.DataFrame(rows)


def test_a_sweep_is_answered_with_optima_laws_in_both_spaces_and_curves():
    report = fit_question(sweep_table(), Question(), method="parabola")
    assert [o.status for o in report.optima] == ["ok"] * 4
    assert [(law.space, law.y, law.x, pytest.approx(law.b)) for law in report.laws] == [
        ("linear", "lr_peak", "tokens", -0.32),
        ("log", "lr_peak", "tokens", -0.32),
    ]
    assert report.curves[0].b == pytest.approx(0.2, rel=1e-3)
    assert report.warnings == ()


def test_the_report_is_one_json_object_with_the_promised_keys():
    report = fit_question(sweep_table(), Question())
    printed = json.loads(json.dumps(dataclasses.asdict(report), allow_nan=False))
    assert {"schema_version", "optima", "laws", "curves", "leverage"} <= printed.keys()
    assert {"group", "lr", "lr_low", "lr_high", "loss", "method", "status", "points", "excluded"} <= printed["optima"][
        0
    ].keys()
    assert {"y", "x", "per", "space", "a", "b", "b_low", "b_high", "loo_error"} <= printed["laws"][0].keys()
    assert {"arm", "A", "b", "E"} <= printed["curves"][0].keys()
    assert printed["optima"][0]["group"] == {"tokens": 1_000_000_000}


def test_arms_are_never_mixed():
    table = pd.concat([sweep_table(arm="muon"), sweep_table(arm="muonh", lr0=0.01)])
    report = fit_question(table, Question(baseline="muon"))
    assert {o.group["arm"] for o in report.optima} == {"muon", "muonh"}
    assert len(report.optima) == 8
    assert [row.arm for row in report.leverage] == ["muonh"] * 4


def test_shapes_mixed_within_a_group_are_warned_of():
    table = pd.concat([sweep_table(), sweep_table(depth=16, lr0=0.015)])
    assert any("depth has 2 values" in warning for warning in fit_question(table, Question()).warnings)
    assert not fit_question(table, Question(by=("tokens", "depth"))).warnings


def test_an_exponent_away_from_the_published_one_is_said():
    report = fit_question(sweep_table(exponent=-0.2), Question(), method="parabola")
    assert any("excludes HyperP's -0.32" in warning for warning in report.warnings)


def test_a_single_budget_still_shows_its_optimum_and_says_why_there_is_no_law():
    report = fit_question(sweep_table(budgets=(1e9,)), Question())
    assert report.optima[0].status == "ok"
    assert report.laws == report.curves == ()
    assert any("needs optima at 2 values of tokens" in warning for warning in report.warnings)


def test_a_table_of_finished_optima_is_fitted_directly():
    table = pd.DataFrame({"tokens": [1e9, 2e9, 4e9], "lr_opt": [0.02, 0.016, 0.0128]})
    report = fit_question(table, file_question(table, laws=("lr_opt ~ tokens",)))
    assert report.optima == ()
    assert [law.b for law in report.laws] == pytest.approx([np.log2(0.8)] * 2)


def test_what_cannot_be_answered_is_one_sentence():
    table = sweep_table()
    with pytest.raises(FitError, match="cannot read the law"):
        fit_question(table, Question(laws=("lr_peak = tokens",)))
    with pytest.raises(FitError, match="add --by depth"):
        fit_question(table, Question(laws=("lr_peak ~ depth",)))
    with pytest.raises(TableError, match="no column 'flop'; did you mean 'flops'"):
        fit_question(table, Question(curves=("loss ~ flop",)))
    with pytest.raises(FitError, match="no curve of the baseline 'muon'"):
        fit_question(table, Question(baseline="muon"))
    with pytest.raises(TableError, match="has no runs"):
        fit_question(table[:0], Question())
    with pytest.raises(TableError, match="no column 'lr'"):
        file_question(pd.DataFrame({"x": [1.0]}))


def test_prediction_follows_the_fitted_axis_and_transfers_only_the_others():
    (prediction,) = predict_question(
        sweep_table(), Question(), {"tokens": 16e9, "depth": 32}, transfer=Transfer(), method="parabola"
    )
    assert prediction.factors == {"depth": pytest.approx(0.5)}
    assert prediction.lr == pytest.approx(0.02 * 16**-0.32 * 0.5, rel=1e-6)
    assert prediction.extrapolation == pytest.approx(2)
    assert prediction.warnings == ()


def test_prediction_far_beyond_the_data_warns():
    (prediction,) = predict_question(sweep_table(), Question(), {"tokens": 1e12}, transfer=Transfer())
    assert any("125.0 times beyond" in warning for warning in prediction.warnings)
    assert prediction.lr_low < prediction.lr < prediction.lr_high
    assert set(prediction.forms) == {"log", "linear", "argmin"}


def test_prediction_from_one_budget_is_the_rule_and_says_so():
    (prediction,) = predict_question(
        sweep_table(budgets=(1e9,)), Question(), {"tokens": 2e9}, transfer=Transfer(), method="parabola"
    )
    assert prediction.lr == pytest.approx(0.02 * 2**-0.32, rel=1e-6)
    assert "not measured" in prediction.warnings[0]


def test_prediction_refuses_what_it_cannot_transfer():
    table = pd.concat([sweep_table(), sweep_table(depth=16)])
    with pytest.raises(FitError, match="no single depth"):
        predict_question(table, Question(), {"tokens": 2e9, "depth": 32}, transfer=Transfer())
    with pytest.raises(FitError, match="say which tokens"):
        predict_question(sweep_table(), Question(), {"depth": 16}, transfer=Transfer())
    with pytest.raises(FitError, match="must be a positive number"):
        predict_question(sweep_table(), Question(), {"tokens": -1}, transfer=Transfer())
