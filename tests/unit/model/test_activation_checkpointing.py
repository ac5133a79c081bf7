from dataclasses import replace

import pytest
import torch
from ranks import DENSE, MIXTURE, Case, config, train_alone, train_on_ranks

from kernels import grouped
from model.config import ModelConfig, Rates
from model.moe import Watch
from model.transformer import Transformer

RATES = Rates(hidden=0.1, head=0.1, embedding=0.1, vector=0.1, residual_multiplier=0.5)
WIDE_MIXTURE = replace(DENSE, width=32, mlp="moe", sparsity=2, top_k=4)
"""Its experts' rows are whole 16 bytes: they take the grouped product."""


def passed(model_config: ModelConfig, dtype: torch.dtype, *, checkpointing: bool) -> list[torch.Tensor]:
    """Loss, what was watched, and gradients of one pass."""
    model = Transformer(model_config, RATES, seed=1, dtype=dtype, checkpointing=checkpointing)
    tokens_BT = torch.randint(0, 9, (4, 16), generator=torch.Generator().manual_seed(2))
    loss, seen = model(tokens_BT, Watch(group_tokens=64), tokens_BT.roll(1, dims=-1))
    balance = seen["balance"].sum() if "balance" in seen else torch.zeros(())
    torch.autograd.backward(loss + 0.1 * balance.to(loss.dtype))
    return [loss.detach(), balance.detach(), *(parameter.grad for parameter in model.parameters())]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("model_config", [DENSE, MIXTURE, WIDE_MIXTURE], ids=["dense", "mixture", "wide mixture"])
def test_computing_activations_again_changes_no_bit_of_losses_and_gradients(model_config, dtype):
    grouped.runs.cache_clear()  # whether torch has a grouped product may be asked for the first time in either pass
    again = passed(model_config, dtype, checkpointing=True)
    kept = passed(model_config, dtype, checkpointing=False)
    assert all(torch.equal(one, other) for one, other in zip(again, kept, strict=True))


@pytest.mark.parametrize("model_config", [DENSE, MIXTURE], ids=["dense", "mixture"])
def test_a_run_that_computes_activations_again_is_the_same_to_the_last_digit(tmp_path, model_config):
    run = config(model_config, steps=6, float64=False)
    kept, again = (
        train_alone(
            Case(
                folder=tmp_path / asked,
                config=run,
                execution={"activation_checkpointing": asked, "micro_batch": 5, "stability_every": 2},
            )
        )
        for asked in ("off", "on")
    )
    # Rows hold losses, norms and all that stability measures; speed is another.
    assert [{**row, "tokens_per_s": 0} for row in again.rows] == [{**row, "tokens_per_s": 0} for row in kept.rows]
    assert again.outcome == kept.outcome


def test_two_processes_compute_activations_again_in_every_layout(tmp_path):
    executions = [{}, {"layout": "fsdp"}, {"layout": "fsdp", "micro_batch": 4}]
    cases = [
        Case(
            folder=tmp_path / f"{name}-{i}",
            config=config(model, steps=6),
            execution={**execution, "activation_checkpointing": "on"},
        )
        for name, model in (("dense", DENSE), ("mixture", MIXTURE))
        for i, execution in enumerate(executions)
    ]
    trained = train_on_ranks(tmp_path / "ranks", cases, size=2)
    for one, case in zip(trained, cases, strict=True):
        alone = train_alone(replace(case, folder=case.folder / "alone", execution={}))
        assert one.losses == pytest.approx(alone.losses, rel=1e-8)
        assert one.norms == pytest.approx(alone.norms, rel=1e-8)
        assert one.outcome["loss"] == pytest.approx(alone.outcome["loss"], rel=1e-8)
