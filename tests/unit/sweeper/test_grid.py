import dataclasses
import itertools

import pytest

from model.config import DataConfig, EvaluationConfig, Execution, ModelConfig, OptimizerConfig, ScheduleConfig, Seeds
from model.shape import model_shape
from sweeper.errors import ConfigError, DataError
from sweeper.grid import expand, lay_out
from sweeper.grid.axes import axis_values, flat_grids
from sweeper.grid.leaves import leaf
from sweeper.laws.transfer import Transfer
from sweeper.spec import Arm, Base, Cluster, Grid, Question, Sweep

BASE = Base(
    model=ModelConfig(width=32, depth=2, head_size=16, kv_heads=2, vocab=256, context=128),
    optimizer=OptimizerConfig(),
    schedule=ScheduleConfig(),
    data=DataConfig(source="synthetic", fingerprint="0" * 16),
    evaluation=EvaluationConfig(),
    seed=Seeds(),
    transfer=Transfer(depth_reference=2, tokens_reference=100_000, batch_reference=2048, tokens=False),
    lr=0.1,
    tokens=100_000,
    batch_tokens=2048,
)


def sweep(grid, base=BASE, *more):
    arms = (Arm(name="base", base=base, grid=grid), *more)
    return Sweep(
        name="s", arms=arms, cluster=Cluster(), execution=Execution(), question=Question(), resolved="", notes=()
    )


def cells(grid, base=BASE):
    return [dict(spec.axes) for spec in expand(sweep(grid, base))]


def test_axes_multiply_with_the_last_one_fastest():
    grid = Grid(axes=(("width", (32, 64)), ("lr", (0.1, 0.2))))
    assert cells(grid) == [{"width": width, "lr": lr} for width, lr in itertools.product((32, 64), (0.1, 0.2))]


def test_a_grid_without_axes_is_one_run():
    (spec,) = expand(sweep(Grid()))
    assert spec.axes == ()
    assert spec.train.model == BASE.model
    assert spec.train.data.fingerprint == BASE.data.fingerprint


@pytest.mark.parametrize(
    ("axis", "values", "read"),
    [
        ("width", (32, 64), lambda spec: spec.train.model.width),
        ("depth", (2, 4), lambda spec: spec.train.model.depth),
        ("tokens", (100_000, 200_000), lambda spec: spec.train.tokens),
        ("lr", (0.1, 0.2), lambda spec: spec.lr),
        ("batch_tokens", (2048, 4096), lambda spec: spec.train.batch_tokens),
        ("seed", (1, 2), lambda spec: spec.train.seed.data),
        ("seed.init", (1, 2), lambda spec: spec.train.seed.init),
        ("optimizer.momentum", (0.9, 0.95), lambda spec: spec.train.optimizer.momentum),
        ("schedule.name", ("linear", "cosine"), lambda spec: spec.train.schedule.name),
        ("evaluation.sequences", (10, 20), lambda spec: spec.train.evaluation.sequences),
        ("transfer.depth_reference", (2, 8), lambda spec: spec.transfer.depth_reference),
        ("precision", ("float32", "bfloat16"), lambda spec: spec.train.precision),
        ("qk_norm", (True, False), lambda spec: spec.train.model.qk_norm),
    ],
)
def test_every_typed_key_works_as_an_axis(axis, values, read):
    specs = expand(sweep(Grid(axes=((axis, values),))))
    assert tuple(read(spec) for spec in specs) == values
    assert tuple(value for spec in specs for _, value in spec.axes) == values


def test_top_k_is_an_axis_of_a_mixture_of_experts():
    moe = dataclasses.replace(BASE, model=dataclasses.replace(BASE.model, mlp="moe", sparsity=2, top_k=2))
    assert [spec.train.model.top_k for spec in expand(sweep(Grid(axes=(("top_k", (2, 4)),)), moe))] == [2, 4]


def test_zipped_values_advance_together():
    grid = Grid(zip=((("width", (32, 64)), ("depth", (2, 4))),), axes=(("lr", (0.1,)),))
    assert [(cell["width"], cell["depth"]) for cell in cells(grid)] == [(32, 2), (64, 4)]


def test_zipped_values_must_be_equally_many():
    grid = Grid(zip=((("width", (32, 64)), ("depth", (2,))),))
    with pytest.raises(ConfigError, match="equally many, but width has 2, depth has 1"):
        expand(sweep(grid))


def test_the_branches_of_a_union_follow_one_another_over_their_parents_grid():
    grid = Grid(
        axes=(("lr", (0.1, 0.2)),),
        where=("tokens > 0",),
        union=(Grid(axes=(("width", (32, 64)),)), Grid(axes=(("depth", (4,)), ("lr", (0.3,))))),
    )
    assert [(c["lr"], c["width"], c["depth"]) for c in cells(grid)] == [
        (0.1, 32, 2),
        (0.1, 64, 2),
        (0.2, 32, 2),
        (0.2, 64, 2),
        (0.3, 32, 4),
    ]


def test_a_branch_inherits_constraints_and_repeats():
    (flat,) = flat_grids(Grid(where=("lr > 0",), repeat=3, union=(Grid(where=("width > 0",)),)))
    assert (flat.where, flat.repeat) == (("lr > 0", "width > 0"), 3)


def test_tokens_can_be_derived_from_parameters():
    grid = Grid(axes=(("width", (32, 64)),), derive=(("tokens", "50 * params"),))
    for spec in expand(sweep(grid)):
        assert spec.train.tokens == 50 * model_shape(spec.train.model).params


def test_derived_values_wait_for_those_they_read():
    grid = Grid(axes=(("depth", (2, 4)),), derive=(("tokens", "20 * params"), ("width", "16 * depth")))
    specs = expand(sweep(grid))
    assert [spec.train.model.width for spec in specs] == [32, 64]
    assert [spec.train.tokens for spec in specs] == [20 * model_shape(spec.train.model).params for spec in specs]


def test_a_derived_list_expands_its_cell():
    grid = Grid(axes=(("tokens", (100_000, 800_000)),), derive=(("lr", "around(predicted_lr, 2, 3)"),))
    specs = expand(sweep(grid))
    assert [spec.lr for spec in specs[:3]] == [0.05, 0.1, 0.2]
    # HyperP eq. 8 (arXiv 2603.28743): eight times the tokens lower the optimum by 8^-0.32.
    assert specs[4].lr == pytest.approx(0.1 * 8**-0.32, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("params_total", lambda spec: model_shape(spec.train.model).params_total),
        ("params_paper_total", lambda spec: model_shape(spec.train.model).params_paper_total),
        ("flops_per_token", lambda spec: model_shape(spec.train.model).flops_per_token),
        ("flops", lambda spec: model_shape(spec.train.model).flops_per_token * spec.train.tokens),
        ("steps", lambda spec: spec.train.steps),
        ("lr_peak", lambda spec: spec.lr_peak),
    ],
)
def test_computed_values_are_those_of_the_finished_run(name, expected):
    (spec,) = expand(sweep(Grid()))
    assert len(cells(Grid(where=(f"abs({name} / {expected(spec)!r} - 1) < 1e-12",)))) == 1


def test_a_large_derived_count_is_rounded_and_a_small_one_must_be_whole():
    (spec,) = expand(sweep(Grid(derive=(("tokens", "100000.4"),))))
    assert spec.train.tokens == 100_000
    with pytest.raises(ConfigError, match=r"derive\.depth: expected a whole number, got 2\.5"):
        expand(sweep(Grid(derive=(("depth", "2.5"),))))


def test_derived_values_in_a_circle_are_named():
    grid = Grid(derive=(("width", "16 * depth"), ("depth", "width // 16")))
    with pytest.raises(ConfigError, match=r"derive\.width and derive\.depth depend on each other"):
        expand(sweep(grid))


def test_constraints_leave_cells_out_and_are_counted():
    grid = Grid(axes=(("width", (32, 64)), ("lr", (0.1, 0.2))), where=("width == 32 or lr < 0.15",))
    expansion = lay_out(sweep(grid))
    assert (len(expansion.specs), expansion.constrained, expansion.duplicates) == (3, 1, 0)


def test_a_constraint_keeps_cells_away_that_the_model_would_refuse():
    grid = Grid(axes=(("width", (32, 36)),), where=("params > 0", "2 * width % head_size == 0"))
    assert [cell["width"] for cell in cells(grid)] == [32]


def test_constraints_that_leave_nothing_are_an_error():
    with pytest.raises(ConfigError, match="where refuses every one of the 2 cells"):
        expand(sweep(Grid(axes=(("width", (32, 64)),), where=("width > 100",))))


def test_a_repeat_moves_both_seeds_and_shows_the_seed():
    specs = expand(sweep(Grid(repeat=3)))
    assert [(spec.train.seed.init, spec.train.seed.data) for spec in specs] == [(3407 + i,) * 2 for i in range(3)]
    assert [dict(spec.axes)["seed"] for spec in specs] == [3407, 3408, 3409]


def test_a_repeat_follows_a_derived_seed():
    specs = expand(sweep(Grid(repeat=2, axes=(("depth", (2, 4)),), derive=(("seed", "100 * depth"),))))
    assert [spec.train.seed.data for spec in specs] == [200, 201, 400, 401]


def test_cells_that_repeat_a_run_are_kept_once_and_counted():
    grid = Grid(union=(Grid(axes=(("width", (32, 64)),)), Grid(axes=(("width", (64, 96)),))))
    expansion = lay_out(sweep(grid))
    assert [dict(spec.axes)["width"] for spec in expansion.specs] == [32, 64, 96]
    assert expansion.duplicates == 1


def test_arms_share_an_identity_but_both_stay():
    specs = expand(sweep(Grid(), BASE, Arm(name="again", base=BASE, grid=Grid())))
    assert [spec.arm for spec in specs] == ["base", "again"]
    assert specs[0].run_id == specs[1].run_id


def test_a_constraint_can_name_the_arm():
    grid = Grid(axes=(("lr", (0.1, 0.2)),), where=("arm == 'base' or lr > 0.15",))
    specs = expand(sweep(grid, BASE, Arm(name="other", base=BASE, grid=grid)))
    assert [(spec.arm, spec.lr) for spec in specs] == [("base", 0.1), ("base", 0.2), ("other", 0.2)]


@pytest.mark.parametrize(
    ("grid", "sentence"),
    [
        (
            Grid(axes=(("width", (-3,)),)),
            "sweep s: axes.width: width must be positive, got -3",
        ),
        (
            Grid(axes=(("lr", (-0.1,)),)),
            "sweep s: axes.lr: lr must be positive, got -0.1",
        ),
        (Grid(axes=(("lr", ()),)), "sweep s: axes.lr: the axis is empty; give it at least one value, or remove it"),
        (Grid(axes=(("widht", (1,)),)), "sweep s: axes: no setting 'widht'; did you mean 'width'?"),
        (
            Grid(axes=(("lr", (0.1,)),), derive=(("lr", "0.2"),)),
            "sweep s: lr stands in axes and in derive; keep one of them",
        ),
        (
            Grid(derive=(("tokens", "50 * parms"),)),
            "sweep s: derive.tokens: unknown name 'parms'; did you mean 'params'?",
        ),
        (Grid(where=("width",)), "sweep s: where: 'width' is 32, not true or false; write a comparison"),
        (Grid(axes=(("depth", (2.5,)),)), "sweep s: axes.depth: expected a whole number, got 2.5"),
    ],
)
def test_a_bad_grid_is_one_sentence(grid, sentence):
    with pytest.raises(ConfigError) as error:
        expand(sweep(grid))
    assert str(error.value) == sentence


def test_an_axis_over_data_fingerprints_each_value():
    specs = expand(sweep(Grid(axes=(("data.source_seed", (0, 1)), ("lr", (0.1, 0.2))))))
    assert len({spec.train.data.fingerprint for spec in specs}) == 2
    assert len({spec.run_id for spec in specs}) == 4


def test_unreadable_data_of_a_cell_is_a_data_error(tmp_path):
    base = dataclasses.replace(BASE, data=DataConfig(source="text", path=str(tmp_path)))
    with pytest.raises(DataError, match="missing"):
        expand(sweep(Grid(axes=(("data.path", (str(tmp_path / "missing.txt"),)),)), base))


def test_axis_expressions_read_the_base_and_words_stay_words():
    assert axis_values("lr", "around(lr, 2, 3)", BASE, "axes.lr") == (0.05, 0.1, 0.2)
    assert axis_values("mlp", "[dense, moe]", BASE, "axes.mlp") == ("dense", "moe")
    assert axis_values("lr", ["2*0.01", 0.03], BASE, "axes.lr") == (0.02, 0.03)
    assert axis_values("tokens", [1e6], BASE, "axes.tokens") == (1_000_000,)


def test_an_axis_cannot_read_what_differs_from_cell_to_cell():
    with pytest.raises(ConfigError, match=r"reads params.*write it as derive\.tokens"):
        axis_values("tokens", "50 * params", BASE, "axes.tokens")


@pytest.mark.parametrize(
    ("name", "path", "label"),
    [
        ("width", "model.width", "width"),
        ("model.width", "model.width", "width"),
        ("tokens", "tokens", "tokens"),
        ("transfer.tokens", "transfer.tokens", "transfer.tokens"),
        ("depth", "model.depth", "depth"),
        ("momentum", "optimizer.momentum", "momentum"),
        ("optimizer.name", "optimizer.name", "optimizer.name"),
        ("seed", "seed", "seed"),
    ],
)
def test_short_names_resolve_to_the_leaf_that_is_meant(name, path, label):
    assert (leaf(name, "axes").path, leaf(name, "axes").label) == (path, label)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("name", "may be optimizer.name or schedule.name"),
        ("batch", "may be batch_tokens or transfer.batch"),
        ("optimizer", "is a group of settings"),
        ("widht", "did you mean 'width'"),
        ("data.fingerprint", "no setting"),
    ],
)
def test_a_name_that_means_no_leaf_or_several_is_refused(name, said):
    with pytest.raises(ConfigError, match=said):
        leaf(name, "axes")


def test_a_circle_blames_no_value_that_only_reads_it():
    derive = (("lr", "tokens / 1e7"), ("depth", "width / 16"), ("width", "16 * depth"), ("tokens", "100 * width"))
    with pytest.raises(ConfigError, match=r"^sweep s: derive\.depth and derive\.width depend on each other"):
        expand(sweep(Grid(derive=derive)))


@pytest.mark.parametrize(
    ("grid", "size"),
    [
        (Grid(repeat=10**9), "1,000.0M cells, more than 1,000,000"),
        (Grid(repeat=10**9, where=("lr > 0",)), "1,000.0M cells, more than 1,000,000"),
        (
            Grid(axes=(("lr", tuple(range(1, 2001))), ("seed", tuple(range(4000))))),
            "8.0M cells, more than 1,000,000",
        ),
        (Grid(axes=(("lr", (0.1, 0.2)),), repeat=500_001), "more than 1,000,000 cells"),
        (Grid(derive=(("lr", "geom(0.01, 0.1, 2000)"), ("seed", "range(4000)"))), "more than 1,000,000 cells"),
    ],
)
def test_a_grid_too_large_to_plan_is_refused_at_once(grid, size):
    with pytest.raises(ConfigError, match=f"the grid has {size}; split the sweep"):
        expand(sweep(grid))


def test_cells_that_ask_for_the_same_run_are_noted():
    assert lay_out(sweep(Grid(axes=(("lr", (0.1, 0.2)),)))).notes == ()
    assert lay_out(sweep(Grid(axes=(("lr", (0.1, 0.1, 0.1, 0.2)),)))).notes == (
        "2 duplicate cells are kept once: another cell asks for the same run",
    )
