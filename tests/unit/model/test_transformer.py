import pytest
import torch

from kernels.primitives import cross_entropy
from model.config import ModelConfig, Rates
from model.parameters import parameters
from model.transformer import Transformer, initial

SMALL = {"width": 32, "depth": 2, "head_size": 16, "kv_heads": 2, "vocab": 64, "context": 16}
MIXTURE = {"mlp": "moe", "top_k": 4, "sparsity": 2}
SWITCHES = [{}, {"qk_norm": False}, {"headwise_gate": False}, {"kv_heads": 4}, {"kv_heads": 1}, MIXTURE]
RATES = Rates(hidden=0.1, head=0.1, embedding=0.1, vector=0.1, residual_multiplier=0.5)


def make(rates=RATES, seed=1, dtype=torch.float64, **changes):
    return Transformer(ModelConfig(**{**SMALL, **changes}), rates, seed=seed, dtype=dtype)


def loud(model):
    """The model with an embedding as large as its other weights, so that every branch matters."""
    with torch.no_grad():
        model.embedding.mul_(1e4)
    return model


def tokens(batch=2, length=16, seed=0):
    return torch.randint(64, (batch, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("changes", SWITCHES)
def test_the_state_dict_is_the_table_of_parameters(changes):
    model = make(**changes)
    expected = {p.name: p.shape for p in parameters(model.config)}
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == expected
    assert {name for name, _ in model.named_parameters()} == set(expected)


@pytest.mark.parametrize("changes", SWITCHES)
def test_logits_have_the_shape_of_the_tokens_and_the_vocabulary(changes):
    assert make(**changes)(tokens()).shape == (2, 16, 64)


@pytest.mark.parametrize("changes", SWITCHES)
def test_future_tokens_do_not_change_past_logits(changes):
    model, past = loud(make(**changes)), tokens()
    future = past.clone()
    future[:, 9:] = (future[:, 9:] + 1) % 64
    torch.testing.assert_close(model(future)[:, :9], model(past)[:, :9], rtol=0, atol=1e-12)
    assert not torch.allclose(model(future)[:, 9:], model(past)[:, 9:])


@pytest.mark.parametrize("changes", SWITCHES)
def test_every_parameter_has_a_gradient_of_finite_numbers_that_is_not_zero(changes):
    model = loud(make(**changes))
    cross_entropy(model(tokens()), tokens(seed=1)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_gradients_match_finite_differences():
    model, inputs, targets = loud(make()), tokens(), tokens(seed=1)
    cross_entropy(model(inputs), targets).backward()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        losses = []
        for shift in (1e-5, -1e-5):
            with torch.no_grad():
                parameter.add_(direction, alpha=shift)
                losses.append(cross_entropy(model(inputs), targets).item())
                parameter.sub_(direction, alpha=shift)
        slope = (losses[0] - losses[1]) / 2e-5
        assert slope == pytest.approx((parameter.grad * direction).sum().item(), rel=1e-5, abs=1e-8), name


def test_the_loss_starts_at_the_logarithm_of_the_vocabulary():
    loss = cross_entropy(make()(tokens()), tokens(seed=1)).item()
    assert loss == pytest.approx(torch.tensor(64.0).log().item(), abs=0.05)


def test_equal_seeds_give_equal_weights_and_other_seeds_others():
    first, same, other = make(seed=1).state_dict(), make(seed=1).state_dict(), make(seed=2).state_dict()
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if not name.endswith("gain"))


def test_a_parameter_starts_alike_in_a_deeper_model_and_in_another_precision():
    shallow, deep = make(depth=1).state_dict(), make(depth=3, dtype=torch.float32).state_dict()
    assert all(torch.equal(value, deep[name].double()) for name, value in shallow.items())


def test_drawn_weights_have_the_radius_of_the_table():
    # A thousand elements or more: the norm of a draw scatters by at most a few percent.
    for parameter in parameters(ModelConfig(**SMALL)):
        if parameter.size >= 1000:
            assert initial(parameter, seed=1).norm().item() == pytest.approx(parameter.radius, rel=0.05)


@pytest.mark.parametrize("name", ["blocks.0.attention.query", "blocks.0.attention.gate", "blocks.0.mlp.down"])
def test_real_matrices_of_the_depth_8_model_have_hyperps_radii(name):
    # √(fan_out/3) at width 1024 (arXiv 2603.28743, theorem 2).
    parameter = next(p for p in parameters(ModelConfig()) if p.name == name)
    assert initial(parameter, seed=3407).norm().item() == pytest.approx((parameter.shape[0] / 3) ** 0.5, rel=0.01)


def test_the_residual_multiplier_scales_what_a_layer_adds():
    def added(multiplier):
        block = make(rates=Rates(hidden=1, head=1, embedding=1, vector=1, residual_multiplier=multiplier)).blocks[0]
        for parameter in block.mlp.parameters():
            torch.nn.init.zeros_(parameter)
        x = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        model = make()
        return block(x, model.cos_TK, model.sin_TK)[0] - x

    torch.testing.assert_close(added(0.25), 0.25 * added(1.0))


def test_the_logit_multiplier_scales_the_logits():
    halved = Rates(hidden=1, head=1, embedding=1, vector=1, residual_multiplier=0.5, logit_multiplier=0.5)
    torch.testing.assert_close(loud(make(rates=halved))(tokens()), 0.5 * loud(make())(tokens()))


def test_bfloat16_keeps_weights_in_float32_and_stays_near_the_exact_logits():
    model = loud(make(dtype=torch.bfloat16))
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    exact, low = loud(make())(tokens()), model(tokens())
    assert low.dtype == torch.bfloat16
    assert (low - exact).norm() <= 0.02 * exact.norm()


def test_a_shorter_sequence_gives_the_same_first_logits():
    model = loud(make())
    torch.testing.assert_close(model(tokens()[:, :7]), model(tokens())[:, :7])
