"""Decay does nothing to first order on a Frobenius sphere: HyperP theorem 1 and its corollary (arXiv 2603.28743)."""

import pytest
import torch

from kernels.reference import sphere_step

DECAY = 0.5


def randn(seed):
    return torch.randn(12, 20, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


W, G = randn(0), randn(1)


def on_sphere(x):
    return x * (W.norm() / x.norm())


def tangential(x):
    return x - (x * W).sum() / W.square().sum() * W


def slope_and_constant(distance, rates=(1e-4, 1e-3)):
    """Exponent of `distance` in the rate, and distance / rate² at the smaller rate."""
    near, far = (distance(rate).item() for rate in rates)
    exponent = torch.log(torch.tensor(far / near)) / torch.log(torch.tensor(rates[1] / rates[0]))
    return exponent.item(), near / rates[0] ** 2


def test_decay_acts_to_second_order_only_with_the_constant_of_the_theorem():
    def distance(rate):
        return (on_sphere(W - rate * G) - on_sphere(W - rate * G - rate * DECAY * W)).norm() / W.norm()

    exponent, constant = slope_and_constant(distance)
    assert exponent == pytest.approx(2, abs=0.01)
    assert constant == pytest.approx(DECAY * (tangential(G).norm() / W.norm()).item(), rel=1e-3)


@pytest.mark.parametrize("rate", [1e-3, 0.1, 0.5])
def test_decay_is_exactly_a_larger_rate(rate):
    decayed = on_sphere(W - rate * G - rate * DECAY * W)
    torch.testing.assert_close(decayed, on_sphere(W - rate / (1 - rate * DECAY) * G), rtol=1e-14, atol=1e-15)


def test_a_step_on_the_sphere_is_its_tangential_part_to_second_order():
    def distance(rate):
        return (on_sphere(W - rate * G) - W + rate * tangential(G)).norm()

    assert slope_and_constant(distance)[0] == pytest.approx(2, abs=0.01)


def test_decay_before_the_norm_is_read_keeps_the_direction_and_shrinks_the_radius():
    rate, decayed, plain = 0.1, W, W
    for step in range(1, 4):
        direction = randn(step)
        shrunk = decayed * (1 - rate * DECAY)
        decayed = sphere_step(shrunk, direction, rate, shrunk.norm())
        plain = sphere_step(plain, direction, rate, W.norm())
        torch.testing.assert_close(decayed, plain * (1 - rate * DECAY) ** step, rtol=1e-13, atol=1e-15)
