import math

import pytest
import torch
import torch.nn.functional as F

import kernels.reference
from kernels.reference import (
    causal_logsumexp,
    cross_entropy,
    embedding,
    grouped_linear,
    linear,
    matrix_radius,
    newton_schulz,
    rms_norm,
    sphere_step,
)

SHAPES = [(16, 16), (8, 24), (24, 8), (3, 8, 24), (2, 3, 24, 8)]


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_singular_values(values, rows, columns):
    left = torch.linalg.qr(randn(rows, len(values), seed=1)).Q
    right = torch.linalg.qr(randn(columns, len(values), seed=2)).Q
    return left @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ right.mT


@pytest.mark.parametrize(("rows", "columns"), [(32, 32), (24, 48), (48, 24)])
def test_singular_values_above_a_hundredth_of_the_norm_end_within_a_few_percent_of_one(rows, columns):
    # HyperP's coefficients (arXiv 2603.28743) map [0.01, 1] into [0.978, 1.032], to three digits.
    values = torch.logspace(-2, 0, 24, dtype=torch.float64)
    matrix = with_singular_values((values / values.norm()).clamp_min(0.01).tolist(), rows, columns)
    singular = torch.linalg.svdvals(newton_schulz(matrix, 5, torch.float64))[:24]
    assert singular.min() >= 0.9775
    assert singular.max() <= 1.0325


def test_a_singular_value_of_a_thousandth_grows_to_half():
    matrix = with_singular_values([math.sqrt(1 - 1e-6), 1e-3], 8, 8)
    assert torch.linalg.svdvals(newton_schulz(matrix, 5, torch.float64))[1].item() == pytest.approx(0.475, abs=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_newton_schulz_of_a_stack_is_that_of_each_matrix(shape):
    u = randn(*shape)
    each = torch.stack([newton_schulz(m, 5, torch.float64) for m in u.reshape(-1, *shape[-2:])]).reshape(shape)
    torch.testing.assert_close(newton_schulz(u, 5, torch.float64), each, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_newton_schulz_commutes_with_the_transpose(shape):
    u = randn(*shape)
    torch.testing.assert_close(newton_schulz(u.mT, 5, torch.float64), newton_schulz(u, 5, torch.float64).mT)


def test_newton_schulz_ignores_the_length_of_its_input():
    u = randn(8, 24)
    torch.testing.assert_close(newton_schulz(1e3 * u, 5, torch.float64), newton_schulz(u, 5, torch.float64))


def test_newton_schulz_of_nothing_is_nothing():
    assert not newton_schulz(torch.zeros(4, 6)).any()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.1)])
def test_a_lower_precision_of_newton_schulz_stays_near_the_exact_one_and_keeps_the_dtype(dtype, tolerance):
    u = randn(12, 20).float()
    low = newton_schulz(u, 5, dtype)
    assert low.dtype == torch.float32
    assert (low - newton_schulz(u.double(), 5, torch.float64)).norm() <= tolerance * low.norm()


@pytest.mark.parametrize("rate", [1e-3, 0.02, 0.3])
def test_a_sphere_step_has_relative_length_rate_before_it_returns_to_the_sphere(rate):
    weight, direction = randn(8, 24), randn(8, 24, seed=1)
    radius = matrix_radius(weight)
    # The direction is made orthogonal to the weight, so that tan(angle) is the relative length.
    direction = direction - (direction * weight).sum() / weight.square().sum() * weight
    moved = sphere_step(weight, direction, rate, radius)
    cosine = ((moved * weight).sum() / (moved.norm() * weight.norm())).item()
    assert math.tan(math.acos(cosine)) == pytest.approx(rate, rel=1e-9)


def test_a_sphere_step_moves_against_its_direction_and_ignores_its_length():
    weight, direction = randn(8, 24), randn(8, 24, seed=1)
    radius = matrix_radius(weight)
    moved = sphere_step(weight, direction, 0.1, radius)
    assert ((moved - weight) * direction).sum() < 0
    torch.testing.assert_close(sphere_step(weight, 1e-3 * direction, 0.1, radius), moved)


def test_a_thousand_float32_steps_leave_every_norm_at_its_radius():
    weight = randn(3, 8, 24).float()
    radius = matrix_radius(weight)
    generator = torch.Generator().manual_seed(3)
    for _ in range(1000):
        weight = sphere_step(weight, torch.randn(3, 8, 24, generator=generator), 0.1, radius)
    torch.testing.assert_close(matrix_radius(weight), radius, rtol=1e-6, atol=0)


def test_a_sphere_step_without_direction_stays():
    weight = randn(4, 6)
    torch.testing.assert_close(sphere_step(weight, torch.zeros(4, 6).double(), 0.1, matrix_radius(weight)), weight)


def test_members_of_a_stack_may_step_at_different_rates():
    weight, direction = randn(2, 4, 6), randn(2, 4, 6, seed=1)
    radius, rate = matrix_radius(weight), torch.tensor([0.1, 0.2], dtype=torch.float64).reshape(2, 1, 1)
    together = sphere_step(weight, direction, rate, radius)
    alone = [sphere_step(weight[i], direction[i], rate[i].item(), radius[i]) for i in range(2)]
    torch.testing.assert_close(together, torch.stack(alone))


def test_cross_entropy_of_equal_logits_is_the_logarithm_of_the_vocabulary():
    assert cross_entropy(torch.zeros(2, 3, 50), torch.zeros(2, 3, dtype=torch.long)).item() == pytest.approx(
        math.log(50)
    )


def test_cross_entropy_is_computed_in_float32_or_better():
    logits, targets = randn(4, 10), torch.arange(4)
    assert cross_entropy(logits.bfloat16(), targets).dtype == torch.float32
    assert cross_entropy(logits, targets).dtype == torch.float64


def test_losses_per_token_have_the_shape_of_the_targets_and_the_same_mean():
    logits, targets = randn(2, 3, 10), torch.arange(6).reshape(2, 3)
    losses = cross_entropy(logits, targets, reduction="none")
    assert losses.shape == targets.shape
    torch.testing.assert_close(losses.mean(), cross_entropy(logits, targets))


def test_a_stacked_linear_map_is_the_map_of_each_member():
    x, weight = randn(3, 2, 5, 4), randn(3, 6, 4, seed=1)
    alone = torch.stack([F.linear(x[i], weight[i]) for i in range(3)])
    torch.testing.assert_close(linear(x, weight), alone)


def test_a_linear_map_is_computed_in_the_precision_of_its_input():
    assert linear(torch.zeros(2, 4, dtype=torch.bfloat16), torch.zeros(6, 4)).dtype == torch.bfloat16


def test_a_grouped_linear_map_gives_each_row_to_its_expert_and_allows_idle_experts():
    x, weight = randn(5, 4), randn(3, 6, 4, seed=1)
    expected = torch.stack([weight[e] @ row for e, row in zip([0, 0, 2, 2, 2], x, strict=True)])
    torch.testing.assert_close(grouped_linear(x, weight, torch.tensor([2, 0, 3])), expected)


def test_rms_norm_gives_unit_rms_times_the_gain():
    y = rms_norm(randn(5, 8), torch.full((8,), 2.0).double(), eps=0.0)
    torch.testing.assert_close(y.square().mean(-1).sqrt(), torch.full((5,), 2.0).double())


@pytest.mark.parametrize("elements", [1, 300, 10**9])
def test_the_log_sum_exp_of_causal_attention_is_its_formula_however_it_is_cut(monkeypatch, elements):
    monkeypatch.setattr(kernels.reference, "LSE_ELEMENTS", elements)
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 4, 10, 8, generator=generator, dtype=torch.float64)
    k = torch.randn(2, 2, 10, 8, generator=generator, dtype=torch.float64)
    expected = torch.empty(2, 4, 10, dtype=torch.float64)
    for h in range(4):
        for t in range(10):
            logits = (q[:, h, t, None] * k[:, h // 2, : t + 1]).sum(-1) / 8**0.5
            expected[:, h, t] = logits.logsumexp(-1)
    torch.testing.assert_close(causal_logsumexp(q, k), expected)


# ── stacked members ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("shape", [(3, 2, 5, 8), (3, 2, 5, 4, 8)], ids=["stream", "heads"])
def test_stacked_gains_are_those_of_their_members(shape):
    x, gain = randn(*shape), randn(3, 8, seed=1)
    each = torch.stack([rms_norm(one, own, 1e-6) for one, own in zip(x, gain, strict=True)])
    torch.testing.assert_close(rms_norm(x, gain, 1e-6), each)


def test_stacked_members_look_up_tables_of_their_own():
    weight = torch.randn(3, 7, 4, dtype=torch.float64, requires_grad=True)
    shared, own = torch.randint(7, (2, 5)), torch.randint(7, (3, 2, 5))
    assert torch.equal(embedding(shared, weight), weight[:, shared])
    assert torch.equal(embedding(own, weight), torch.stack([weight[r, own[r]] for r in range(3)]))
    (found,) = torch.autograd.grad(embedding(own, weight).square().sum(), weight)
    (expected,) = torch.autograd.grad(sum(weight[r, own[r]].square().sum() for r in range(3)), weight)
    torch.testing.assert_close(found, expected)
