import math

import pytest
import torch

from model.attention import Attention, rotary, rotate
from model.config import ModelConfig
from model.parameters import parameters
from model.transformer import initial

SHAPE = {"width": 32, "depth": 1, "head_size": 16, "vocab": 64, "context": 16}
PREFIX = "blocks.0.attention"


def drawn(config):
    return {
        p.name: torch.nn.Parameter(initial(p, seed=1).double()) for p in parameters(config) if p.name.startswith(PREFIX)
    }


def attend(config, weights, x):
    cos, sin = rotary(config.context, config.head_size, config.rope_base)
    return Attention(config, weights, PREFIX, torch.float64)(x, cos, sin)[0]


def sample():
    return torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def by_the_formula(config, weights, x_BTD):
    """Attention written out: one head and one query at a time."""
    heads, K = config.query_heads, config.head_size
    w = {name.removeprefix(f"{PREFIX}."): value for name, value in weights.items()}

    def turned(vector, position):
        turned = vector.clone()
        for i in range(K // 2):
            angle = position * config.rope_base ** (-2 * i / K)
            a, b = vector[i], vector[i + K // 2]
            turned[i] = a * math.cos(angle) - b * math.sin(angle)
            turned[i + K // 2] = a * math.sin(angle) + b * math.cos(angle)
        return turned

    def normed(vector, gain):
        return gain * vector / (vector.square().mean() + config.norm_eps).sqrt()

    y = torch.zeros(*x_BTD.shape[:2], heads * K, dtype=x_BTD.dtype)
    for b, x_TD in enumerate(x_BTD):
        for h in range(heads):
            g = h // (heads // config.kv_heads)
            q = [w["query"][h * K : (h + 1) * K] @ x for x in x_TD]
            k = [w["key"][g * K : (g + 1) * K] @ x for x in x_TD]
            v = [w["value"][g * K : (g + 1) * K] @ x for x in x_TD]
            if config.qk_norm:
                q = [normed(vector, w["query_norm.gain"]) for vector in q]
                k = [normed(vector, w["key_norm.gain"]) for vector in k]
            q = [turned(vector, t) for t, vector in enumerate(q)]
            k = [turned(vector, t) for t, vector in enumerate(k)]
            for t, x in enumerate(x_TD):
                scores = torch.stack([q[t] @ k[s] / math.sqrt(K) for s in range(t + 1)]).softmax(0)
                out = sum(p * value for p, value in zip(scores, v[: t + 1], strict=True))
                if config.headwise_gate:
                    out = out * (w["gate"][h] @ x).sigmoid()
                y[b, t, h * K : (h + 1) * K] = out
    return y @ w["output"].mT


@pytest.mark.parametrize("changes", [{}, {"qk_norm": False}, {"headwise_gate": False}, {"kv_heads": 1}])
def test_attention_is_its_formula(changes):
    config = ModelConfig(**{**SHAPE, "kv_heads": 2, **changes})
    weights = drawn(config)
    with torch.no_grad():
        for name, value in weights.items():
            if name.endswith("gain"):
                value.copy_(torch.linspace(0.5, 1.5, len(value)))
        x = sample()
        torch.testing.assert_close(attend(config, weights, x), by_the_formula(config, weights, x))


def test_grouped_queries_equal_repeated_keys_and_values():
    grouped, full = ModelConfig(**SHAPE, kv_heads=2), ModelConfig(**SHAPE, kv_heads=4)
    weights = drawn(grouped)
    repeated = dict(weights)
    for name in (f"{PREFIX}.key", f"{PREFIX}.value"):
        heads = weights[name].detach().reshape(2, 16, 32).repeat_interleave(2, dim=0)
        repeated[name] = torch.nn.Parameter(heads.reshape(64, 32))
    torch.testing.assert_close(attend(grouped, weights, sample()), attend(full, repeated, sample()))


def test_qk_norm_makes_attention_blind_to_the_length_of_queries_and_keys():
    config, x = ModelConfig(**SHAPE, kv_heads=2, norm_eps=1e-30), sample()
    weights = drawn(config)
    longer = {**weights, f"{PREFIX}.query": torch.nn.Parameter(3 * weights[f"{PREFIX}.query"].detach())}
    torch.testing.assert_close(attend(config, longer, x), attend(config, weights, x))


def test_without_qk_norm_the_length_of_queries_matters():
    config, x = ModelConfig(**SHAPE, kv_heads=2, qk_norm=False), sample()
    weights = drawn(config)
    longer = {**weights, f"{PREFIX}.query": torch.nn.Parameter(3 * weights[f"{PREFIX}.query"].detach())}
    assert not torch.allclose(attend(config, longer, x), attend(config, weights, x))


def test_a_gate_of_zero_weights_halves_every_head():
    gated, plain = ModelConfig(**SHAPE, kv_heads=2), ModelConfig(**SHAPE, kv_heads=2, headwise_gate=False)
    weights = drawn(gated)
    weights[f"{PREFIX}.gate"] = torch.nn.Parameter(torch.zeros(4, 32, dtype=torch.float64))
    torch.testing.assert_close(attend(gated, weights, sample()), 0.5 * attend(plain, weights, sample()))


def test_rotation_keeps_lengths_and_makes_products_depend_on_distance_only():
    cos, sin = rotary(16, 8, 10_000.0)
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(8, generator=generator, dtype=torch.float64).expand(16, 1, 8) for _ in range(2))
    turned_q, turned_k = rotate(q, cos, sin)[:, 0], rotate(k, cos, sin)[:, 0]
    torch.testing.assert_close(turned_q.norm(dim=-1), q[:, 0].norm(dim=-1))
    products = turned_q @ turned_k.mT
    for distance in range(-15, 16):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
