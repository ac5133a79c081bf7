import dataclasses

import pytest

from model.config import ModelConfig
from model.parameters import STACK_ELEMENTS, parameters, stacks

SMALL = ModelConfig(width=32, depth=2, head_size=16, kv_heads=2, vocab=64, context=16)
MIXTURE = ModelConfig(width=32, depth=2, head_size=16, kv_heads=2, vocab=64, context=16, mlp="moe", top_k=4, sparsity=2)


@pytest.mark.parametrize("config", [SMALL, MIXTURE])
def test_names_are_unique(config):
    names = [p.name for p in parameters(config)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("config", [SMALL, MIXTURE])
def test_exactly_the_vectors_have_a_norm_class(config):
    assert all((p.norm_class is not None) == (p.role == "vector") for p in parameters(config))


def test_qk_norms_are_output_norms_and_all_others_input_norms():
    outputs = {p.name for p in parameters(SMALL) if p.norm_class == "output"}
    assert outputs == {f"blocks.{i}.attention.{name}_norm.gain" for i in range(2) for name in ("query", "key")}


def test_each_switch_takes_its_own_parameters_away():
    everything = {p.name for p in parameters(ModelConfig(depth=1))}
    assert everything - {p.name for p in parameters(ModelConfig(depth=1, qk_norm=False))} == {
        "blocks.0.attention.query_norm.gain",
        "blocks.0.attention.key_norm.gain",
    }
    assert everything - {p.name for p in parameters(ModelConfig(depth=1, headwise_gate=False))} == {
        "blocks.0.attention.gate"
    }


def test_the_head_starts_as_large_as_it_is_told():
    def head(config):
        return next(p for p in parameters(config) if p.name == "head")

    assert (head(SMALL).init.kind, head(SMALL).init.scale) == ("normal", 0.02)
    assert head(dataclasses.replace(SMALL, head_std=0.08)).init.scale == 0.08


@pytest.mark.parametrize("std", [0.0, -0.02, float("nan")])
def test_a_head_on_its_sphere_needs_a_radius(std):
    with pytest.raises(ValueError, match="head_std"):
        ModelConfig(head_std=std)


def test_the_mixture_splits_its_pool_into_routed_experts_and_a_shared_one():
    shapes = {p.name.removeprefix("blocks.0.mlp."): p.shape for p in parameters(MIXTURE) if "blocks.0.mlp." in p.name}
    assert shapes == {
        "router": (7, 32),
        "experts_gate_up": (7, 64, 32),
        "experts_down": (7, 32, 32),
        "shared.gate_up": (64, 32),
        "shared.down": (32, 32),
    }


@pytest.mark.parametrize("config", [SMALL, MIXTURE, ModelConfig(width=3072, depth=24)])
def test_stacks_hold_every_parameter_once_with_equal_roles_and_shapes(config):
    assert sorted(p.name for stack in stacks(config) for p in stack) == sorted(p.name for p in parameters(config))
    assert all(len({(p.role, p.shape) for p in stack}) == 1 for stack in stacks(config))


def test_a_stack_is_bounded_unless_it_is_one_parameter():
    large = stacks(ModelConfig(width=3072, depth=24))
    assert all(len(stack) == 1 or sum(p.size for p in stack) <= STACK_ELEMENTS for stack in large)
