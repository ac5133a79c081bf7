from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from live_bytes import LiveBytes

from kernels.primitives import cross_entropy
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
)
from model.optimizer import make_optimizer
from model.parameters import parameters
from model.shape import MIN_PASS_TOKENS, activation_bytes, choose_pass, logit_bytes, memory_bytes, model_shape
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


def peak_per_token(config, dtype, *, checkpointing, batch=32):
    """Bytes that a forward and a backward pass take beside weights and their gradients, at most."""
    model = Transformer(config, RATES, seed=1, dtype=dtype, checkpointing=checkpointing)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    tokens = torch.zeros(batch, config.context, dtype=torch.long)
    with LiveBytes() as live:
        torch.autograd.backward(cross_entropy(model(tokens), tokens))
    return live.peak / tokens.numel()


@pytest.mark.parametrize("changes", [{}, MIXTURE])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_checkpointing_takes_the_memory_of_one_block_and_of_the_inputs_of_all(changes, precision):
    config = ModelConfig(**{**SMALL, "depth": 12, **changes})
    for checkpointing in (False, True):
        measured = peak_per_token(config, getattr(torch, precision), checkpointing=checkpointing)
        estimate = activation_bytes(config, precision, checkpointing=checkpointing)
        assert measured == pytest.approx(estimate, rel=0.25), checkpointing


def chosen(run, budget, *, processes=1, halved=0, **execution):
    found = choose_pass(run, Execution(**execution), processes=processes, budget=budget, halved=halved)
    return found.sequences, found.checkpointing


def needed(run, sequences, *, checkpointing=False, processes=1):
    return memory_bytes(run, micro_batch=sequences, processes=processes, checkpointing=checkpointing)


LONG = train(batch=16, context=2048, depth=8)
"""Half the sequences of a sensible pass are two."""


def test_a_pass_is_the_largest_half_quarter_or_eighth_of_the_share_that_memory_holds():
    assert chosen(LONG, needed(LONG, 16)) == (16, False)
    assert chosen(LONG, needed(LONG, 16) - 1) == (8, False)
    assert chosen(LONG, needed(LONG, 4)) == (4, False)
    assert chosen(LONG, needed(LONG, 4, processes=2), processes=2) == (4, False)
    assert chosen(LONG, needed(LONG, 16, processes=2), processes=2) == (8, False)


def test_activations_are_computed_twice_only_where_no_sensible_pass_fits():
    assert 2 * LONG.model.context == MIN_PASS_TOKENS
    assert chosen(LONG, needed(LONG, 2)) == (2, False)
    sequences, checkpointing = chosen(LONG, needed(LONG, 2) - 1)
    assert checkpointing
    assert sequences > 2
    assert chosen(LONG, needed(LONG, 16, checkpointing=True)) != (16, True)  # a pass that keeps them fits as well
    assert chosen(LONG, needed(LONG, 2) - 1, activation_checkpointing="off") == (1, False)
    assert chosen(LONG, 10**15, activation_checkpointing="on") == (16, True)


def test_what_fits_in_no_way_takes_the_smallest_there_is():
    assert chosen(LONG, 0) == (1, True)
    assert chosen(LONG, 0, activation_checkpointing="off") == (1, False)


def test_a_micro_batch_that_is_asked_for_is_kept():
    assert chosen(LONG, 10**15, micro_batch=3) == (3, False)
    assert chosen(LONG, needed(LONG, 3) - 1, micro_batch=3) == (3, True)
    assert chosen(LONG, 10**15, micro_batch=99) == (16, False)


def test_a_lack_of_memory_halves_what_was_in_use():
    assert chosen(LONG, needed(LONG, 8), halved=1) == (4, False)
    assert chosen(LONG, needed(LONG, 8), halved=3) == (1, True)
    assert chosen(LONG, needed(LONG, 8), halved=3, activation_checkpointing="off") == (1, False)
    assert chosen(LONG, 10**15, halved=2, micro_batch=12) == (3, False)
    assert chosen(LONG, 10**15, halved=8) == (1, True)


@given(share=st.integers(1, 100), budget=st.floats(0, 1e10), asked=st.sampled_from(["auto", "on", "off"]))
def test_more_memory_never_means_smaller_passes_of_the_same_kind(share, budget, asked):
    run = train(batch=share, context=2048)
    less, more = (
        choose_pass(run, Execution(activation_checkpointing=asked), processes=1, budget=b) for b in (budget, 2 * budget)
    )
    assert more.sequences >= less.sequences or less.checkpointing > more.checkpointing
    assert 1 <= less.sequences <= share
    assert less.memory <= budget or less == choose_pass(
        run, Execution(activation_checkpointing=asked), processes=1, budget=0
    )


def test_where_nothing_is_left_to_halve_a_lack_of_memory_has_activations_computed_twice():
    run = train(batch=1, context=4096)
    assert chosen(run, 10**15) == (1, False)
    assert chosen(run, 10**15, halved=1) == (1, True)
