from dataclasses import replace
from typing import Any

import pytest
import torch
from ranks import DENSE, MIXTURE, Case, config, train_alone, train_on_ranks

from model import stability
from model.data import open_data
from model.optimizer import DTYPES, make_optimizer
from model.sharding import ALONE
from model.transformer import Transformer, output_statistics
from sweeper.columns import STABILITY_COLUMNS

LAYERED = replace(MIXTURE, depth=2)


def run_of(train: Any) -> tuple[Transformer, Any]:
    model = Transformer(train.model, train.rates, seed=1, dtype=DTYPES[train.precision])
    return model, open_data(train.data, train.model, train.seed.data)


def measured_row(train: Any, *, per_batch: int = 12) -> dict[str, float]:
    model, data = run_of(train)
    means = stability.forward_measures(model, data, train, ALONE, step=0, per_batch=per_batch)
    return stability.rows(stability.gather(means, {}, {}, train, ALONE), train)


def test_outputs_are_measured_by_their_formulas():
    h = torch.randn(2, 3, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    h[0, 0, 0] = 40.0
    found = output_statistics("mlp", h, 0.5)
    assert found["mlp_square"].item() == pytest.approx((h / 2).square().mean().item())
    assert found["mlp_outliers"].item() == pytest.approx(100 / h.numel())


def test_the_load_is_measured_over_the_sample():
    train = config(LAYERED)
    row = measured_row(train)
    model, data = run_of(train)
    counts = stability.expert_load(
        model, data, train, ALONE.world, step=0, micro_batches=[range(train.batch_sequences)]
    )
    worst = [(load[0].max() / load[0].mean() - 1).item() for load in counts]
    assert [row[f"stability/maxvio/{layer}"] for layer in range(2)] == pytest.approx(worst)
    assert row["stability/maxvio"] == pytest.approx(sum(worst) / 2)
    assert 1 <= row["stability/balance"] < 1.5


def test_zero_logits_have_a_z_of_the_squared_logarithm_of_what_they_spread_over():
    train = config(LAYERED)
    model, data = run_of(train)
    with torch.no_grad():
        for block in model.blocks:
            block.mlp.router.zero_()
            block.attention.query_norm.gain.zero_()
    means = stability.forward_measures(model, data, train, ALONE, step=0, per_batch=12)
    row = stability.rows(stability.gather(means, {}, {}, train, ALONE), train)
    assert row["stability/router_z"] == pytest.approx(torch.tensor(11.0).log().square().item())
    seen = torch.arange(1, 17, dtype=torch.float64)  # the keys of each query
    assert row["stability/attention_z/1"] == pytest.approx(seen.log().square().mean().item())


@pytest.mark.parametrize("per_batch", [1, 5, 12])
def test_a_sample_is_measured_alike_in_any_parts(per_batch):
    assert measured_row(config(LAYERED), per_batch=per_batch) == pytest.approx(measured_row(config(LAYERED)), rel=1e-10)


@pytest.mark.parametrize("name", ["muonh", "adamw"])
def test_updates_are_the_difference_that_a_step_makes(name):
    train = config(DENSE, name)
    model, _ = run_of(train)
    optimizer = make_optimizer(model, train)
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    squares = optimizer.step(1.0, measured=True)
    assert squares.keys() == before.keys()
    for parameter, weight in model.named_parameters():
        assert squares[parameter].item() == pytest.approx((weight - before[parameter]).square().sum().item())
    assert optimizer.step(1.0) == {}


def stable(rows: Any) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name.startswith("stability/")} for row in rows]


@pytest.mark.parametrize("aux", [0, 64], ids=["whole-batch", "parts"])
def test_measuring_changes_no_loss_and_is_the_same_on_any_number_of_ranks(tmp_path, aux):
    train = config(replace(LAYERED, aux_batch_tokens=aux), steps=5)
    often = {"stability_every": 2}
    alone = train_alone(Case(folder=tmp_path / "alone", config=train, execution=often))
    never = train_alone(Case(folder=tmp_path / "never", config=train, execution={"stability_every": 0}))
    assert alone.losses == never.losses
    assert [bool(row) for row in stable(alone.rows)] == [True, True, False, True, True]
    assert not any(stable(never.rows))
    small = train_alone(Case(folder=tmp_path / "small", config=train, execution={**often, "micro_batch": 3}))
    cases = [
        Case(folder=tmp_path / "ddp", config=train, execution=often),
        Case(folder=tmp_path / "fsdp", config=train, execution={**often, "layout": "fsdp", "micro_batch": 4}),
    ]
    for other in (small, *train_on_ranks(tmp_path / "ranks", cases, size=2)):
        assert other.losses == pytest.approx(alone.losses, rel=1e-8)
        for row, expected in zip(stable(other.rows), stable(alone.rows), strict=True):
            assert row == pytest.approx(expected, rel=1e-6)
    last = stable(alone.rows)[-1]
    assert {name.partition("/")[2] for name in last if name.count("/") == 1} == STABILITY_COLUMNS.keys()
    total = sum(value**2 for name, value in last.items() if name.startswith("stability/grad_norm/"))
    assert total**0.5 == pytest.approx(alone.norms[-1])
