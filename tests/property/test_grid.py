import contextlib
import dataclasses
import itertools
from typing import get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.config import (
    DataConfig,
    EvaluationConfig,
    Execution,
    ModelConfig,
    OptimizerConfig,
    Rates,
    ScheduleConfig,
    Seeds,
    TrainConfig,
    VectorsConfig,
)
from sweeper.errors import ConfigError
from sweeper.expressions import compile_expression
from sweeper.grid import expand, lay_out
from sweeper.laws.transfer import Transfer
from sweeper.spec import Arm, Base, Cluster, Grid, Question, Sweep, run_id
from sweeper.typed import fields_of

TRAIN = TrainConfig(
    model=ModelConfig(width=64, depth=2, head_size=16, kv_heads=2, vocab=256, context=128),
    optimizer=OptimizerConfig(name="muon"),
    schedule=ScheduleConfig(),
    data=DataConfig(source="synthetic", fingerprint="0" * 16),
    evaluation=EvaluationConfig(),
    seed=Seeds(),
    rates=Rates(hidden=0.1, head=0.1, embedding=0.1, vector=0.1),
    tokens=100_000,
    batch_tokens=2048,
)
BASE = Base(
    **{name: getattr(TRAIN, name) for name in fields_of(Base) if name not in ("transfer", "lr", "trainer")},
    transfer=Transfer(),
    lr=0.1,
)
RATES = st.lists(st.floats(1e-4, 1.0), min_size=1, max_size=4)
WIDTHS = st.lists(st.sampled_from([32, 64, 96, 128]), min_size=1, max_size=4)


def sweep(grid):
    return Sweep(
        name="s",
        arms=(Arm(name="base", base=BASE, grid=grid),),
        cluster=Cluster(),
        execution=Execution(),
        question=Question(),
        resolved="",
    )


def leaves(config, path=()):
    for name, (_, declared) in fields_of(type(config)).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name), declared.metadata.get("scientific", True)


def changed(config, path):
    """The configuration with another valid value at `path`, or None where there is no other."""
    name, *rest = path
    if rest:
        inner = changed(getattr(config, name), rest)
        return None if inner is None else dataclasses.replace(config, **{name: inner})
    kind, value = fields_of(type(config))[name][0], getattr(config, name)
    if get_origin(kind) is not None:
        others = [choice for choice in get_args(kind) if choice != value]
    elif kind is bool:
        others = [not value]
    elif kind is str:
        others = [value + "x"]
    else:
        others = [kind(other) for other in (value * 2, value + 1, value / 2, value + 0.25, value + TRAIN.model.context)]
        others = [other for other in others if other != value]
    for other in others:
        try:
            return dataclasses.replace(config, **{name: other})
        except ValueError:
            continue
    return None


SCIENTIFIC = [path for path, scientific in leaves(TRAIN) if scientific]
# What only a mixture of experts has, or only a model without scale vectors, cannot change alone.
ALONE = {("model", "mlp"), ("model", "sparsity"), ("model", "top_k"), ("model", "vectors", "keep_final")}


@pytest.mark.parametrize("path", [p for p in SCIENTIFIC if p not in ALONE], ids=".".join)
def test_every_scientific_field_is_part_of_the_identity(path):
    other = changed(TRAIN, path)
    assert other is not None
    assert run_id(0.1, other) != run_id(0.1, TRAIN)


def test_the_final_norm_of_a_model_without_vectors_is_part_of_the_identity():
    without, but_final = (
        dataclasses.replace(
            TRAIN, model=dataclasses.replace(TRAIN.model, vectors=VectorsConfig(enabled=False, keep_final=kept))
        )
        for kept in (False, True)
    )
    assert len({run_id(0.1, train) for train in (TRAIN, without, but_final)}) == 3


@pytest.mark.parametrize("path", [path for path, scientific in leaves(TRAIN) if not scientific], ids=".".join)
def test_no_other_field_is(path):
    assert run_id(0.1, changed(TRAIN, path)) == run_id(0.1, TRAIN)


@given(lr=st.floats(1e-6, 10.0), factor=st.floats(1 - 1e-14, 1 + 1e-14))
def test_noise_below_twelve_digits_changes_no_identity_of_round_rates(lr, factor):
    lr = float(f"{lr:.6g}")
    assert run_id(lr * factor, TRAIN) == run_id(lr, TRAIN)


@given(lr=st.floats(1e-6, 10.0), other=st.floats(1e-6, 10.0))
def test_rates_that_differ_in_six_digits_are_different_runs(lr, other):
    same = f"{lr:.12g}" == f"{other:.12g}"
    assert (run_id(lr, TRAIN) == run_id(other, TRAIN)) == same


@given(rates=RATES, widths=WIDTHS)
def test_no_order_of_axes_changes_the_runs(rates, widths):
    axes = (("lr", tuple(rates)), ("width", tuple(widths)))
    forwards, backwards = (expand(sweep(Grid(axes=order))) for order in (axes, axes[::-1]))
    assert {spec.run_id for spec in forwards} == {spec.run_id for spec in backwards}


@given(rates=RATES, widths=WIDTHS, repeat=st.integers(1, 3))
def test_every_cell_is_a_run_a_duplicate_or_constrained(rates, widths, repeat):
    grid = Grid(axes=(("lr", tuple(rates)), ("width", tuple(widths))), where=("width > 32",), repeat=repeat)
    cells = list(itertools.product(rates, widths, range(repeat)))
    distinct = {(f"{lr:.12g}", width, i) for lr, width, i in cells if width > 32}
    if not distinct:
        with pytest.raises(ConfigError):
            expand(sweep(grid))
        return
    expansion = lay_out(sweep(grid))
    assert len(expansion.specs) == len(distinct)
    assert len(expansion.specs) + expansion.duplicates == sum(width > 32 for _, width, _ in cells)


@given(low=st.floats(1e-6, 1.0), ratio=st.floats(1.1, 1e4), count=st.integers(2, 20))
def test_geometric_points_rise_by_one_factor_between_their_ends(low, ratio, count):
    points = compile_expression("geom(low, high, count)")({"low": low, "high": low * ratio, "count": count})
    assert (points[0], points[-1], len(points)) == (low, low * ratio, count)
    steps = [after / before for before, after in itertools.pairwise(points)]
    assert steps == pytest.approx([ratio ** (1 / (count - 1))] * (count - 1), rel=2e-5)


@given(centre=st.floats(1e-6, 1.0), factor=st.floats(1.01, 4.0), count=st.integers(1, 15))
def test_points_around_a_centre_are_symmetric_in_the_logarithm(centre, factor, count):
    points = compile_expression("around(centre, factor, count)")({"centre": centre, "factor": factor, "count": count})
    products = [low * high for low, high in zip(points, reversed(points), strict=True)]
    assert products == pytest.approx([centre**2] * count, rel=2e-5)


@given(st.text(max_size=40))
def test_any_text_is_an_expression_or_one_sentence(text):
    # Whatever else it raises would escape.
    with contextlib.suppress(ConfigError):
        compile_expression(text)({})
