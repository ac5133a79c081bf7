from dataclasses import replace

import pytest
import torch

from kernels.primitives import cross_entropy
from model.config import (
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
    Rates,
    ScheduleConfig,
    Seeds,
    TrainConfig,
)
from model.optimizer import make_optimizer
from model.parameters import parameters
from model.shape import activation_bytes, logit_bytes, memory_bytes, model_shape
from model.transformer import Transformer

SMALL = {"width": 64, "depth": 2, "head_size": 16, "kv_heads": 2, "vocab": 256, "context": 64}
MIXTURE = {"mlp": "moe", "top_k": 4, "sparsity": 2}
RATES = Rates(hidden=0.1, head=0.1, embedding=0.1, vector=0.1)
SWITCHES = [{}, {"qk_norm": False}, {"headwise_gate": False}, MIXTURE]


def train(precision="float32", optimizer="muonh", batch=16, **model):
    config = ModelConfig(**{**SMALL, **model})
    return TrainConfig(
        model=config,
        optimizer=OptimizerConfig(name=optimizer),
        schedule=ScheduleConfig(),
        data=DataConfig(),
        evaluation=EvaluationConfig(),
        seed=Seeds(),
        rates=RATES,
        tokens=10**6,
        batch_tokens=batch * config.context,
        precision=precision,
    )


def kept_bytes_per_token(config, dtype, batch=32):
    """Bytes of the distinct tensors that a forward pass keeps for the backward pass, and of the logits."""
    model = Transformer(config, RATES, seed=1, dtype=dtype)
    own = {x.untyped_storage().data_ptr() for x in (*model.parameters(), *model.buffers())}
    kept = {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    tokens = torch.zeros(batch, config.context, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(tokens)
        loss = cross_entropy(logits, tokens)
    kept[logits.untyped_storage().data_ptr()] = logits
    assert loss.isfinite()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / tokens.numel()


@pytest.mark.parametrize("changes", [*SWITCHES, {"kv_heads": 1}, {"top_k": 2, "mlp": "moe", "shared_expert": False}])
def test_params_total_is_the_number_of_elements(changes):
    config = ModelConfig(**{**SMALL, **changes})
    model = Transformer(config, RATES, seed=1)
    assert model_shape(config).params_total == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("changes", SWITCHES)
@pytest.mark.parametrize("precision", ["float64", "float32", "bfloat16"])
def test_activations_are_what_a_forward_pass_keeps(changes, precision):
    config = ModelConfig(**{**SMALL, **changes})
    # The estimate adds one gradient of the logits; a bfloat16 pass keeps its copy of the weights, counted elsewhere.
    gradient = config.vocab * (8 if precision == "float64" else 4)
    estimate = activation_bytes(config, precision) - gradient
    assert kept_bytes_per_token(config, getattr(torch, precision)) == pytest.approx(estimate, rel=0.15)


@pytest.mark.parametrize("optimizer", ["muonh", "muon", "adamw"])
def test_memory_covers_weights_gradients_and_the_optimizers_state(optimizer):
    run = train(optimizer=optimizer)
    model = Transformer(run.model, run.rates, seed=1)
    state = make_optimizer(model, run).state_dict()["parameters"]
    held = 2 * sum(p.nbytes for p in model.parameters())
    held += sum(tensor.nbytes for one in state.values() for key, tensor in one.items() if key != "radius")
    forward = run.batch_tokens * activation_bytes(run.model, run.precision)
    assert memory_bytes(run, micro_batch=0, processes=1) == held + forward


def test_smaller_micro_batches_and_more_processes_need_less_memory_each():
    run = train()
    whole = memory_bytes(run, micro_batch=0, processes=1)
    assert memory_bytes(run, micro_batch=4, processes=1) < whole
    assert memory_bytes(run, micro_batch=0, processes=4) < whole
    assert memory_bytes(run, micro_batch=0, processes=1) == memory_bytes(run, micro_batch=16, processes=1)


def test_logits_take_no_more_than_a_chunk():
    """32,000 words and a batch of 32,768 tokens: 4 GiB of float32 logits alone, were they whole."""
    run = replace(train(vocab=32_000, context=4096), batch_tokens=32_768, precision="bfloat16")
    two, one = (memory_bytes(run, micro_batch=n, processes=1) for n in (8, 4))
    tokens = 4 * 4096
    per_token = activation_bytes(run.model, run.precision) - logit_bytes(run.model, run.precision)
    assert two - one == tokens * (per_token + 4 * run.model.width)


def test_float64_needs_twice_the_memory_of_float32():
    run = train()
    double = memory_bytes(replace(run, precision="float64"), micro_batch=0, processes=1)
    assert double == 2 * memory_bytes(run, micro_batch=0, processes=1)


def test_sharding_saves_what_is_held_and_costs_what_passes_gather():
    run = train(depth=24)
    whole, sharded, shared, within_two = (
        memory_bytes(run, micro_batch=1, processes=4, **settings)
        for settings in ({}, {"layout": "fsdp"}, {"layout": "hsdp"}, {"layout": "hsdp", "shard_processes": 2})
    )
    assert sharded == shared < within_two < whole
    assert memory_bytes(run, micro_batch=1, processes=1, layout="fsdp") == memory_bytes(run, micro_batch=1, processes=1)


def test_a_model_on_many_processes_needs_little_more_than_its_blocks_and_activations():
    run = train()
    table = parameters(run.model)
    root = sum(p.size for p in table if not p.name.startswith("blocks."))
    blocks = 4 * (2 * root + 5 * (sum(p.size for p in table) - root) // run.model.depth)
    forward = run.model.context * activation_bytes(run.model, run.precision)
    least = memory_bytes(run, micro_batch=1, processes=10**6, layout="fsdp")
    # Each process still holds one row of every matrix: weight, gradient and at most two moments.
    rows = 4 * 4 * sum(p.size // p.shape[0] for p in table)
    assert blocks + forward < least <= blocks + forward + rows
