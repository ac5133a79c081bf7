"""Steps in the memory of their arguments are the reference's, bit for bit."""

import pytest
import torch

from kernels.in_place import sphere_step_
from kernels.reference import joint_radius, matrix_radius, sphere_step


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("norm", [matrix_radius, joint_radius])
@pytest.mark.parametrize("rates", ["one", "of each member"])
def test_a_step_in_place_is_the_references(norm, rates, dtype):
    generator = torch.Generator().manual_seed(0)
    weight, direction = (torch.randn(3, 2, 24, 16, generator=generator, dtype=dtype) for _ in range(2))
    rate = 0.1 if rates == "one" else torch.tensor([0.1, 0.02, 0.5], dtype=dtype).view(3, 1, 1, 1)
    radius = norm(weight)
    expected = sphere_step(weight, direction, rate, radius, norm)
    moved = sphere_step_(weight, direction, rate, radius, norm)
    assert moved is weight
    assert torch.equal(moved, expected)
