import math

import pytest
import torch

from model.config import ModelConfig
from model.moe import Mixture, Watch
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
    mixture = Mixture(config, weights, PREFIX, torch.float64)
    return mixture, {k.removeprefix(f"{PREFIX}."): v for k, v in weights.items()}


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
    torch.testing.assert_close(mixture(sample())[0], expected)


def test_leading_dimensions_pass_through():
    mixture, _ = make()
    torch.testing.assert_close(mixture(sample().reshape(2, 3, 4, 16))[0].reshape(24, 16), mixture(sample())[0])


def test_no_token_is_dropped_when_all_choose_the_same_experts():
    mixture, weights = make()
    same = sample(1).expand(24, 16)
    expected = by_the_formula(weights, same[:1], top_k=3, gate="sqrt", shared=True)
    torch.testing.assert_close(mixture(same)[0], expected.expand(24, 16))


def test_ties_go_to_the_experts_of_lower_index():
    mixture, _ = make()
    torch.nn.init.zeros_(mixture.router)
    experts, _ = mixture.route(mixture.logits(sample()))
    assert torch.equal(experts, torch.arange(3).expand(24, 3))


@pytest.mark.parametrize(("gate", "power"), [("classical", 1), ("sqrt", 2)])
def test_routing_weights_are_probabilities_or_their_roots(gate, power):
    mixture, _ = make(gate=gate)
    _, weights = mixture.route(mixture.logits(sample()))
    torch.testing.assert_close((weights**power).sum(-1), torch.ones(24).double())


def test_one_expert_that_every_token_takes_is_the_dense_branch():
    mixture, weights = make(top_k=1, sparsity=1, shared_expert=False)
    dense = torch.stack([swiglu(weights["experts_gate_up"][0], weights["experts_down"][0], x) for x in sample()])
    torch.testing.assert_close(mixture(sample())[0], dense)


def test_the_router_decides_in_float32_even_for_bfloat16_tokens():
    mixture, _ = make()
    _, weights = mixture.float().route(mixture.logits(sample().bfloat16()))
    assert weights.dtype == torch.float32


def balance_of(logits, *, top_k):
    """HyperP's eq. 9 written out for one group (arXiv 2603.28743)."""
    tokens, experts = logits.shape
    chosen = [sorted(range(experts), key=lambda e: -row[e].item())[:top_k] for row in logits]
    f = [sum(e in some for some in chosen) / (tokens * top_k) for e in range(experts)]
    P = logits.softmax(-1).mean(0)
    return experts * sum(f[e] * P[e] for e in range(experts))


def test_the_balance_is_its_formula_in_every_group():
    mixture, _ = make()
    _, seen = mixture(sample(), Watch(group_tokens=8))
    logits = mixture.logits(sample())
    torch.testing.assert_close(
        seen["balance"], torch.stack([balance_of(logits[i : i + 8], top_k=3) for i in (0, 8, 16)]).mean()
    )
    assert seen["count"].sum(-1).tolist() == [24, 24, 24]


def test_an_even_load_has_a_balance_of_one():
    mixture, _ = make(top_k=1, shared_expert=False)  # two experts
    torch.nn.init.zeros_(mixture.router)
    load = torch.full((1, 1, 2), 0.5).double()
    assert mixture(sample(), Watch(group_tokens=24, load=load))[1]["balance"].item() == pytest.approx(1)


def test_the_parts_of_a_group_add_up_to_its_balance_and_gradient():
    mixture, _ = make()
    _, whole = mixture(sample(), Watch(group_tokens=24))
    (gradient,) = torch.autograd.grad(whole["balance"], mixture.router)
    load = whole["count"].unsqueeze(0) / (24 * 3)
    parts = [
        mixture(sample()[start : start + 6], Watch(group_tokens=24, start=start, load=load))[1]
        for start in range(0, 24, 6)
    ]
    mean = torch.stack([part["balance"] for part in parts]).mean()
    torch.testing.assert_close(mean, whole["balance"])
    torch.testing.assert_close(torch.autograd.grad(mean, mixture.router)[0], gradient)
    assert torch.equal(sum(part["count"] for part in parts), whole["count"])


@pytest.mark.parametrize(
    ("gate", "scale", "factor"),
    [("sqrt", "sqrt_gate", 0.5), ("classical", "sqrt_gate", 1), ("classical", "always", 0.5), ("sqrt", "never", 1)],
)
def test_routed_and_shared_output_are_divided_by_root_two_as_asked(gate, scale, factor):
    mixture, _ = make(gate=gate, shared_scale=scale)
    plain, _ = make(gate=gate, shared_scale="never")
    torch.testing.assert_close(mixture(sample())[0], plain(sample())[0] * factor**0.5)


def rms_ratio(gate, top_k):
    """Output over input RMS of experts that are all alike in size and not in direction (HyperP §3.6)."""
    config = {"gate": gate, "top_k": top_k, "sparsity": 4, "shared_expert": False, "width": 64, "head_size": 32}
    mixture, _ = make(**config)
    # The experts' outputs have the same size whatever their width: that of their input.
    torch.nn.init.zeros_(mixture.router)
    with torch.no_grad():
        mixture.experts_gate_up.mul_(4)
        x = torch.randn(256, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        alone = [
            swiglu(mixture.experts_gate_up[e], mixture.experts_down[e], x.T).square().mean().sqrt()
            for e in range(top_k)
        ]
        return (mixture(x)[0].square().mean().sqrt() / torch.stack(alone).square().mean().sqrt()).item()


@pytest.mark.parametrize("top_k", [2, 4, 8, 16])
def test_the_rms_of_the_output_is_flat_in_k_with_sqrt_gate_and_falls_as_its_root_without(top_k):
    assert rms_ratio("sqrt", top_k) == pytest.approx(1, rel=0.1)
    assert rms_ratio("classical", top_k) == pytest.approx(top_k**-0.5, rel=0.1)
