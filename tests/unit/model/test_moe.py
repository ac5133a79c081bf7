import math

import pytest
import torch

from model.config import ModelConfig
from model.moe import Mixture
from model.parameters import parameters
from model.transformer import initial

PREFIX = "blocks.0.mlp"


def make(**changes):
    config = ModelConfig(
        **{
            "width": 16,
            "depth": 1,
            "head_size": 8,
            "kv_heads": 2,
            "vocab": 32,
            "context": 8,
            "mlp": "moe",
            "top_k": 4,
            "sparsity": 2,
            **changes,
        }
    )
    weights = {
        p.name: torch.nn.Parameter(initial(p, seed=1).double()) for p in parameters(config) if p.name.startswith(PREFIX)
    }
    return Mixture(config, weights, PREFIX), {k.removeprefix(f"{PREFIX}."): v for k, v in weights.items()}


def sample(rows=24):
    return torch.randn(rows, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def swiglu(gate_up, down, x):
    gate, up = (gate_up @ x).chunk(2)
    return down @ (gate * gate.sigmoid() * up)


def by_the_formula(w, x_MD, *, top_k, gate, shared):
    """The mixture written out: one token and one expert at a time (HyperP §3.6, arXiv 2603.28743)."""
    y = []
    for x in x_MD:
        logits = w["router"] @ x
        chosen = sorted(range(len(logits)), key=lambda e: -logits[e].item())[:top_k]
        probabilities = logits[chosen].softmax(0)
        factors = probabilities.sqrt() if gate == "sqrt" else probabilities
        routed = sum(
            f * swiglu(w["experts_gate_up"][e], w["experts_down"][e], x) for f, e in zip(factors, chosen, strict=True)
        )
        if shared:
            routed = routed + swiglu(w["shared.gate_up"], w["shared.down"], x)
            if gate == "sqrt":
                routed = routed / math.sqrt(2)
        y.append(routed)
    return torch.stack(y)


@pytest.mark.parametrize("gate", ["sqrt", "classical"])
@pytest.mark.parametrize("shared", [True, False])
def test_the_mixture_is_its_formula(gate, shared):
    mixture, weights = make(gate=gate, shared_expert=shared)
    expected = by_the_formula(weights, sample(), top_k=3 if shared else 4, gate=gate, shared=shared)
    torch.testing.assert_close(mixture(sample()), expected)


def test_leading_dimensions_pass_through():
    mixture, _ = make()
    torch.testing.assert_close(mixture(sample().reshape(2, 3, 4, 16)).reshape(24, 16), mixture(sample()))


def test_no_token_is_dropped_when_all_choose_the_same_experts():
    mixture, weights = make()
    same = sample(1).expand(24, 16)
    expected = by_the_formula(weights, same[:1], top_k=3, gate="sqrt", shared=True)
    torch.testing.assert_close(mixture(same), expected.expand(24, 16))


def test_ties_go_to_the_experts_of_lower_index():
    mixture, _ = make()
    torch.nn.init.zeros_(mixture.router)
    experts, _ = mixture.route(sample())
    assert torch.equal(experts, torch.arange(3).expand(24, 3))


@pytest.mark.parametrize(("gate", "power"), [("classical", 1), ("sqrt", 2)])
def test_routing_weights_are_probabilities_or_their_roots(gate, power):
    mixture, _ = make(gate=gate)
    _, weights = mixture.route(sample())
    torch.testing.assert_close((weights**power).sum(-1), torch.ones(24).double())


def test_one_expert_that_every_token_takes_is_the_dense_branch():
    mixture, weights = make(top_k=1, sparsity=1, shared_expert=False)
    dense = torch.stack([swiglu(weights["experts_gate_up"][0], weights["experts_down"][0], x) for x in sample()])
    torch.testing.assert_close(mixture(sample()), dense)


def test_the_router_decides_in_float32_even_for_bfloat16_tokens():
    mixture, _ = make()
    _, weights = mixture.float().route(sample().bfloat16())
    assert weights.dtype == torch.float32
