import dataclasses
import json
from typing import get_args, get_type_hints

import numpy as np
import pandas as pd
import pytest
from builders import run_spec, train_config

from model.config import ModelConfig
from model.shape import model_shape
from sweeper.analysis import curve_points, file_question, fit_question, of_rate, predict_question
from sweeper.errors import FitError, TableError
from sweeper.laws.power import REFERENCES
from sweeper.laws.transfer import Transfer
from sweeper.spec import Question


def sweep_table(budgets=(1e9, 2e9, 4e9, 8e9), exponent=-0.32, *, arm="base", depth=8, lr0=0.02):
    rows = []
    for tokens in budgets:
        best = lr0 * (tokens / 1e9) ** exponent
        for lr in best * 2.0 ** np.arange(-2, 3):
            loss = 2.0 + (tokens / 1e9) ** -0.2 + 0.06 * np.log(lr / best) ** 2
            row = {
                "run_id": f"{arm}-{depth}-{tokens:g}-{lr:g}",
                "arm": arm,
                "state": "done",
                "loss": loss,
                "lr": lr,
                "lr_peak": lr,
                "tokens": tokens,
            }
            rows.append(row | {"flops": 6e8 * tokens, "depth": depth, "batch_tokens": 2**21})
    return pd.DataFrame(rows)


FIVE = (1e9, 2e9, 4e9, 8e9, 16e9)


def test_a_sweep_is_answered_with_optima_laws_in_both_spaces_and_curves():
    report = fit_question(sweep_table(), Question(), method="parabola")
    assert [o.status for o in report.optima] == ["ok"] * 4
    assert [(law.space, law.y, law.x, pytest.approx(law.b)) for law in report.laws] == [
        ("linear", "lr_peak", "tokens", -0.32),
        ("log", "lr_peak", "tokens", -0.32),
    ]
    assert report.curves[0].b == pytest.approx(0.2, rel=1e-3)
    assert fit_question(sweep_table(FIVE), Question(), method="parabola").warnings == ()


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
    assert not fit_question(table, Question(by=("tokens", "depth"), curves=())).warnings


def test_an_exponent_away_from_the_published_one_is_said():
    table = sweep_table(exponent=-0.2)
    report = fit_question(table, Question(reference="hyperp"), method="parabola")
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


def test_arms_without_a_settled_optimum_are_a_warning_and_no_error():
    table = pd.concat([sweep_table().assign(arm="a"), sweep_table().assign(arm="b")])
    rising = table[table.lr_peak <= sorted(table.lr_peak.unique())[2]]
    report = fit_question(rising, Question(by=("tokens",), per=("arm",), laws=(), curves=(), baseline="a"))
    assert report.comparisons == report.leverage == ()
    assert any("are not compared with a" in warning for warning in report.warnings)


def test_what_cannot_be_answered_is_one_sentence():
    table = sweep_table()
    with pytest.raises(FitError, match="cannot read the law"):
        fit_question(table, Question(laws=("lr_peak = tokens",)))
    with pytest.raises(TableError, match="no column 'flop'; did you mean 'flops'"):
        fit_question(table, Question(curves=("loss ~ flop",)))
    with pytest.raises(FitError, match="no curve of the baseline 'muon'; the table holds a single curve"):
        fit_question(table, Question(baseline="muon"))
    with pytest.raises(FitError, match="leverage over 'muon' needs a curve"):
        fit_question(table, Question(baseline="muon", curves=()))
    with pytest.raises(TableError, match="has no runs"):
        fit_question(table[:0], Question())
    with pytest.raises(TableError, match="no column 'lr'"):
        file_question(pd.DataFrame({"x": [1.0]}))


def test_prediction_follows_the_fitted_axis_and_transfers_only_the_others():
    (prediction,) = predict_question(sweep_table(), Question(), {"tokens": 16e9, "depth": 32}, method="parabola")
    assert prediction.factors == {"depth": pytest.approx(0.5)}
    assert prediction.lr == pytest.approx(0.02 * 16**-0.32 * 0.5, rel=1e-6)
    assert prediction.extrapolation == pytest.approx(2)
    assert prediction.warnings == ()


def test_prediction_far_beyond_the_data_warns():
    (prediction,) = predict_question(sweep_table(), Question(), {"tokens": 1e12})
    assert any("125 times beyond" in warning for warning in prediction.warnings)
    assert prediction.lr_low < prediction.lr < prediction.lr_high
    assert set(prediction.forms) - {"irreducible"} == {"bend", "log", "linear", "argmin"}
    assert prediction.forms["bend"] == prediction.lr


def test_prediction_from_one_budget_is_the_rule_and_says_so():
    (prediction,) = predict_question(sweep_table(budgets=(1e9,)), Question(), {"tokens": 2e9}, method="parabola")
    assert prediction.lr == pytest.approx(0.02 * 2**-0.32, rel=1e-6)
    assert "not measured" in prediction.warnings[0]


def test_prediction_refuses_what_it_cannot_transfer():
    table = pd.concat([sweep_table(), sweep_table(depth=16)])
    with pytest.raises(FitError, match="no single depth"):
        predict_question(table, Question(), {"tokens": 2e9, "depth": 32})
    with pytest.raises(FitError, match="say which tokens"):
        predict_question(sweep_table(), Question(), {"depth": 16})
    with pytest.raises(FitError, match="must be a positive number"):
        predict_question(sweep_table(), Question(), {"tokens": -1})


def test_a_law_of_the_base_rate_goes_through_optima_of_the_base_rate():
    # The transfer rule has the token factor on, so that the base rate is the same at every budget.
    table = sweep_table()
    table["lr"] = table.lr_peak / (table.tokens / 1e9) ** -0.32
    report = fit_question(table, Question(laws=("lr ~ tokens", "lr_peak ~ tokens")), method="parabola")
    assert report.rate == "lr"
    assert [o.lr for o in report.optima] == pytest.approx([0.02] * 4)
    assert [(law.y, law.b) for law in report.laws] == [
        ("lr", pytest.approx(0, abs=1e-9)),
        ("lr", pytest.approx(0, abs=1e-9)),
        ("lr_peak", pytest.approx(-0.32)),
        ("lr_peak", pytest.approx(-0.32)),
    ]


def test_a_law_carries_the_name_of_the_column_that_its_optima_are_of():
    table = sweep_table().drop(columns="lr_peak").rename(columns={"lr": "learning_rate"})
    report = fit_question(table, Question(), lr="learning_rate")
    assert report.rate == "learning_rate"
    assert {law.y for law in report.laws} == {"learning_rate"}


def test_naming_a_rate_asks_the_laws_of_a_sweep_of_it():
    assert of_rate(Question(laws=("lr_peak ~ tokens", "loss ~ flops")), "lr").laws == ("lr ~ tokens", "loss ~ flops")
    assert of_rate(Question(), "learning_rate") == Question()


def test_leverage_is_along_the_first_curve_alone():
    table = pd.concat([sweep_table(arm="muon"), sweep_table(arm="muonh", lr0=0.01)])
    table.loc[table.arm == "muonh", "loss"] -= 0.1
    alone = fit_question(table, Question(baseline="muon", curves=("loss ~ flops",)))
    both = fit_question(table, Question(baseline="muon", curves=("loss ~ flops", "loss ~ tokens")))
    assert {curve.x for curve in both.curves} == {"flops", "tokens"}
    assert both.leverage == alone.leverage
    assert [row.at for row in both.leverage] == pytest.approx([0.6e18, 1.2e18, 2.4e18, 4.8e18])


def cut(table, budgets):
    """The table without the rates above the optimum of some budgets."""
    return table[~(table.tokens.isin(budgets) & (table.lr > 1.1 * 0.02 * (table.tokens / 1e9) ** -0.32))]


def test_budgets_without_an_optimum_are_left_out_of_the_curve():
    table = cut(sweep_table(FIVE), [16e9])
    table.loc[table.tokens == 16e9, "loss"] += 0.3
    table.loc[table.tokens == 16e9, "loss"] -= np.log(table.lr[table.tokens == 16e9])
    report = fit_question(table, Question())
    assert [o.status for o in report.optima] == ["ok"] * 4 + ["edge_high"]
    assert (report.curves[0].points, report.curves[0].b) == (4, pytest.approx(0.2, rel=1e-3))
    assert report.warnings[0].startswith("the curve loss ~ flops leaves out 1 of 5 values of flops")
    assert [points.settled.tolist() for points in curve_points(table, "flops", optima=report.optima)] == [
        [True] * 4 + [False]
    ]


def test_a_curve_through_nothing_but_edges_is_refused_with_the_reason():
    table = sweep_table(FIVE).assign(loss=lambda t: 3 + (t.tokens / 1e9) ** -0.2 - np.log(t.lr))
    report = fit_question(table, Question())
    assert report.curves == ()
    assert any("got 0" in warning and "5 left out: the best rate at an edge" in warning for warning in report.warnings)


def test_a_curve_that_cannot_tell_its_floor_says_so():
    table = pd.DataFrame({"flops": FIVE, "loss": [3 * (C / 1e9) ** -0.2 - 0.2 for C in FIVE]})
    report = fit_question(table, Question(by=(), laws=(), curves=("loss ~ flops",)))
    assert report.curves[0].E == 0
    assert any("puts E at its bound 0" in warning for warning in report.warnings)
    few = fit_question(sweep_table(), Question())
    assert few.warnings == (
        "the curve loss ~ flops has 4 points for 3 constants: b and E are barely determined; add budgets",
    )


def test_a_baseline_with_too_few_budgets_is_a_warning():
    table = pd.concat([sweep_table((1e9, 2e9), arm="muon"), sweep_table(arm="muonh")])
    report = fit_question(table, Question(baseline="muon"))
    assert report.leverage == ()
    assert any("arm muon: the curve loss ~ flops has 3 constants" in warning for warning in report.warnings)


def test_a_law_may_run_along_any_column_that_the_runs_of_a_group_agree_on():
    table = sweep_table().assign(params=lambda t: t.tokens / 50)
    report = fit_question(table, Question(laws=("lr_peak ~ params",)), method="parabola")
    assert [(law.x, pytest.approx(law.b)) for law in report.laws] == [("params", -0.32)] * 2
    assert (report.laws[0].x_low, report.laws[0].x_high) == (2e7, 16e7)


def test_a_law_along_a_column_that_varies_within_a_group_is_a_warning():
    table = pd.concat([sweep_table(), sweep_table(depth=16)])
    report = fit_question(table, Question(laws=("lr_peak ~ depth", "lr_peak ~ tokens")))
    assert {law.x for law in report.laws} == {"tokens"}
    assert len(report.optima) == 4
    assert (
        "a law along depth needs one depth per optimum, but tokens 1000000000 has 2 (8 to 16); add --by depth"
        in report.warnings
    )


def test_a_law_of_an_unknown_column_names_the_law_of_the_optima():
    with pytest.raises(TableError, match=r"no column 'lr_opt'; .*is written 'lr_peak ~ tokens'"):
        fit_question(sweep_table(), Question(laws=("lr_opt ~ tokens",)))


def test_runs_without_a_value_to_group_by_are_no_law():
    table = sweep_table().assign(tokens=np.nan)
    with pytest.raises(FitError, match="none of the 20 runs has a value of tokens"):
        fit_question(table, Question(curves=()))
    with pytest.raises(FitError, match="none of the 20 runs has a value of tokens"):
        predict_question(table, Question(), {"tokens": 1e9})


def test_published_laws_are_compared_only_where_the_question_names_them():
    table = sweep_table(FIVE, exponent=-0.2)
    assert fit_question(table, Question(), method="parabola").warnings == ()
    base = fit_question(table, Question(laws=("lr ~ tokens",), reference="hyperp"), method="parabola")
    assert base.warnings == ()  # HyperP's law is of the peak rate


def test_every_reference_that_a_question_may_name_has_laws():
    assert set(get_args(get_type_hints(Question)["reference"])) == {"", *REFERENCES}


def specs_of(table, transfer):
    """The cells whose records a table holds."""
    return [
        dataclasses.replace(
            run_spec(row.lr, arm=row.arm),
            run_id=row.run_id,
            transfer=transfer,
            train=dataclasses.replace(
                train_config(),
                model=ModelConfig(depth=row.depth),
                tokens=int(row.tokens),
                batch_tokens=row.batch_tokens,
            ),
        )
        for row in table.itertuples()
    ]


def test_each_arm_is_carried_by_its_own_transfer_rule():
    hyperp, plain = sweep_table(arm="hyperp"), sweep_table(arm="plain", depth=4)
    specs = specs_of(hyperp, Transfer(tokens=False)) + specs_of(plain, Transfer(rule="none"))
    made = predict_question(
        pd.concat([plain, hyperp]), Question(), {"tokens": 16e9, "depth": 32}, specs=specs, method="parabola"
    )
    assert {p.per["arm"]: (p.rule, p.factors["depth"]) for p in made} == {
        "hyperp": ("hyperp", pytest.approx(0.5)),
        "plain": ("none", 1.0),
    }
    assert {p.per["arm"]: any("has no factor for depth" in w for w in p.warnings) for p in made} == {
        "hyperp": False,
        "plain": True,
    }


def test_the_base_rate_of_a_prediction_is_that_of_its_own_runs():
    # HyperP's depth factor with d0 = 8: runs at depth 32 have a peak of half their base rate.
    deep, plain = sweep_table(arm="deep", depth=32), sweep_table(arm="plain", depth=32)
    specs = specs_of(deep, Transfer(tokens=False)) + specs_of(plain, Transfer(rule="none"))
    made = predict_question(pd.concat([deep, plain]), Question(), {"tokens": 16e9}, specs=specs)
    assert {p.per["arm"]: p.lr_base / p.lr for p in made} == {"deep": pytest.approx(2), "plain": pytest.approx(1)}
    assert predict_question(deep, Question(), {"tokens": 16e9})[0].lr_base is None


def test_runs_of_several_rules_or_shapes_are_not_carried_by_one():
    table = pd.concat([sweep_table(), sweep_table(depth=32)])
    specs = specs_of(table, Transfer(tokens=False))
    (prediction,) = predict_question(table, Question(), {"tokens": 16e9}, specs=specs)
    assert prediction.lr_base is None
    mixed = specs[:20] + specs_of(sweep_table(depth=32), Transfer(rule="none"))
    with pytest.raises(FitError, match=r"follow 2 transfer rules \(hyperp, none\)"):
        predict_question(table, Question(), {"tokens": 16e9}, specs=mixed)


def test_a_sweeps_prediction_is_of_the_peak_rate_alone():
    table = sweep_table()
    with pytest.raises(FitError, match="leave out --lr lr"):
        predict_question(table, Question(), {"tokens": 1e9}, specs=specs_of(table, Transfer()), lr="lr")


def test_a_prediction_from_mixed_shapes_warns_as_fit_does():
    table = pd.concat([sweep_table(arm="mixed"), sweep_table(arm="mixed", depth=16), sweep_table(arm="pure")])
    mixed, pure = predict_question(table, Question(), {"tokens": 16e9})
    assert any("depth has 2 values" in warning for warning in mixed.warnings)
    assert pure.warnings == ()


SHAPES = Question(by=("width", "depth"), laws=("lr_peak ~ params",), curves=())


def shapes(exponent=-0.3):
    """Sweeps of six shapes of one model, their best rate a power of the model's parameters; and their cells."""
    base = train_config().model
    tables, specs = [], []
    for width, depth in ((16, 1), (16, 2), (32, 1), (32, 2), (48, 1), (48, 2)):
        model = dataclasses.replace(base, width=width, depth=depth)
        params = model_shape(model).params
        table = sweep_table((1e9,), arm="base", depth=depth, lr0=params**exponent)
        tables.append(table.assign(run_id=table.run_id + f"-{width}", width=width, params=params))
        specs += [
            dataclasses.replace(spec, train=dataclasses.replace(spec.train, model=model))
            for spec in specs_of(tables[-1], Transfer(tokens=False))
        ]
    return pd.concat(tables, ignore_index=True), specs


def test_a_law_along_params_predicts_at_params_or_at_the_shape_of_the_sweeps_model():
    table, specs = shapes()
    (named,) = predict_question(table, SHAPES, {"params": 1e6}, method="parabola")
    assert (named.x, named.lr) == ("params", pytest.approx(1e6**-0.3, rel=1e-6))
    (shaped,) = predict_question(table, SHAPES, {"width": 64, "depth": 4}, specs=specs, method="parabola")
    params = model_shape(dataclasses.replace(train_config().model, width=64, depth=4)).params
    assert shaped.target == {"width": 64, "depth": 4, "params": params}
    assert (shaped.lr, shaped.factors) == (pytest.approx(params**-0.3, rel=1e-6), {})


def test_a_target_that_does_not_tell_the_params_says_what_is_missing():
    table, specs = shapes()
    with pytest.raises(FitError, match=r"along params; say which .*--params 1e9$"):
        predict_question(table, SHAPES, {"width": 64, "depth": 4})
    with pytest.raises(FitError, match=r"have 2 counts of params .*; give --depth too"):
        predict_question(table, SHAPES, {"width": 64}, specs=specs)
    with pytest.raises(FitError, match=r"has no width 17, depth 1 \(head_size 8"):
        predict_question(table, SHAPES, {"width": 17, "depth": 1}, specs=specs)
    with pytest.raises(FitError, match=r"--law 'lr_peak ~ params'"):
        predict_question(table, dataclasses.replace(SHAPES, laws=()), {"params": 1e6})


def test_a_loss_that_is_text_is_named_with_its_row():
    table = sweep_table()
    table["loss"] = table.loss.astype(object)
    table.loc[3, "loss"] = "x"
    report = fit_question(table, Question(), title="runs.csv")
    assert report.excluded == {"loss not a number": 1}
    assert report.warnings[0] == "runs.csv row 5: loss 'x' is not a number"
    table["loss"] = [*table.loss[:10], *["?"] * 10]
    assert "… and 8 more rows without a number" in fit_question(table, Question()).warnings


def test_what_moves_the_optimum_is_compared_with_the_rule_that_predictions_transfer_by():
    table = pd.concat(
        [sweep_table(depth=depth, lr0=0.02 * (depth / 8) ** -0.5) for depth in (8, 16, 32)], ignore_index=True
    )
    report = fit_question(table, Question(by=("depth", "tokens"), laws=(), curves=()), method="parabola")
    depth, tokens = report.dependence
    assert (depth.x, depth.b, depth.verdict) == ("depth", pytest.approx(-0.5), "falls")
    assert (tokens.b, tokens.published, tokens.agrees) == (pytest.approx(-0.32), -0.32, True)


def test_a_question_answers_losses_at_once_and_arms_against_the_baseline():
    table = pd.concat([sweep_table(FIVE, arm="muon"), sweep_table(FIVE, arm="muonh", lr0=0.01)], ignore_index=True)
    table.loc[table.arm == "muonh", "loss"] -= 0.1
    question = Question(baseline="muon", curves=(), joint=("tokens",), sensitivity=True)
    report = fit_question(table, question)
    assert {row.verdict for row in report.comparisons} == {"lower"}
    assert [row.lr_shift for row in report.comparisons] == pytest.approx([-1.0] * 5, abs=0.1)
    assert report.leverage == ()
    assert [fit.b for fit in report.joint] == pytest.approx([-0.32] * 2, abs=0.02)
    assert {(row.rates, row.of) for row in report.sensitivity} == {(3, 5), (4, 5)}


def test_a_surface_needs_no_learning_rate():
    N, D = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e8, 1e10, 4), np.geomspace(1e9, 1e11, 4)))
    table = pd.DataFrame({"params": N, "tokens": D, "loss": 1.7 + 400 * N**-0.34 + 400 * D**-0.28})
    question = file_question(table, surfaces=("loss ~ params + tokens",))
    report = fit_question(table, question)
    assert report.optima == ()
    assert (report.surfaces[0].alpha, report.surfaces[0].beta) == pytest.approx((0.34, 0.28), abs=0.01)


def test_an_irreducible_part_is_shown_only_where_it_earns_its_place():
    tokens = np.geomspace(1e9, 1e12, 7)
    plain = pd.DataFrame({"tokens": tokens, "lr_opt": 24 * tokens**-0.32})
    offset = plain.assign(lr_opt=0.002 + 100 * tokens**-0.4)
    question = Question(by=(), laws=("lr_opt ~ tokens",), curves=(), irreducible=True)
    assert [law.c for law in fit_question(plain, question).laws] == [0, 0]
    assert [law.c > 0 for law in fit_question(offset, question).laws] == [False, True, False, True]


def test_groups_that_mix_sweeps_are_warned_of_and_seeds_are_not():
    two = pd.concat(
        [sweep_table().assign(optimizer="adamw"), sweep_table(lr0=0.02).assign(optimizer="muon")], ignore_index=True
    )
    two.loc[two.optimizer == "muon", "loss"] += 0.03
    assert any("optimizer varies within groups" in warning for warning in fit_question(two, Question()).warnings)
    assert not any("varies" in w for w in fit_question(two, Question(per=("optimizer",), curves=())).warnings)
    seeds = pd.concat([sweep_table().assign(init=1), sweep_table().assign(init=2)], ignore_index=True)
    seeds.loc[seeds.init == 2, "loss"] += 0.004
    assert not any("varies" in warning for warning in fit_question(seeds, Question()).warnings)


def test_a_rate_that_is_not_there_is_refused():
    with pytest.raises(TableError, match="no column 'learning_rate'"):
        fit_question(sweep_table(), Question(), lr="learning_rate")


def test_a_target_on_several_measured_axes_is_predicted_by_the_exponents_of_the_runs():
    table = pd.concat(
        [
            sweep_table(FIVE, depth=8, lr0=0.02 * (width / 256) ** -0.8).assign(width=width)
            for width in (256, 512, 1024)
        ],
        ignore_index=True,
    )
    question = Question(by=("tokens", "width"), laws=(), curves=())
    (found,) = predict_question(table, question, {"tokens": 64e9, "width": 2048}, method="parabola")
    assert found.lr == pytest.approx(0.02 * 64**-0.32 * 8**-0.8, rel=1e-3)
    assert (found.x, found.exponents) == ("tokens", {"width": pytest.approx(-0.8)})
    assert found.factors == {}
    with pytest.raises(FitError, match="measured along tokens, width; say which width"):
        predict_question(table, question, {"tokens": 64e9})


def test_axes_that_move_together_carry_no_prediction():
    table = pd.concat(
        [sweep_table((tokens,), depth=depth) for tokens, depth in ((1e9, 8), (2e9, 16), (4e9, 32), (8e9, 64))],
        ignore_index=True,
    )
    with pytest.raises(FitError, match="move together"):
        predict_question(table, Question(by=("tokens", "depth"), laws=(), curves=()), {"tokens": 64e9, "depth": 64})
