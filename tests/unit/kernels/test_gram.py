import pytest
import torch

from kernels import gram, reference

SHAPES = [(64, 16), (16, 64), (3, 32, 8), (2, 3, 8, 32), (12, 24), (9, 8)]


def matrices(shape, rank=0):
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(*shape, generator=generator, dtype=torch.float64)
    if not rank:
        return u
    left, right = (
        torch.randn(*shape[:-2], *sides, generator=generator, dtype=torch.float64)
        for sides in ((shape[-2], rank), (rank, shape[-1]))
    )
    return left @ right + 1e-4 * u


@pytest.mark.parametrize("steps", [1, 2, 5, 7])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_the_references_polynomial(shape, steps):
    u = matrices(shape)
    found = gram.newton_schulz(u, steps, torch.float64)
    torch.testing.assert_close(found, reference.newton_schulz(u, steps, torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_in_float32_it_errs_like_the_reference(shape):
    u = matrices(shape)
    exact = reference.newton_schulz(u, 5, torch.float64)
    for function in (gram.newton_schulz, reference.newton_schulz):
        assert (function(u.float()).double() - exact).abs().max() < 5e-6


def test_directions_that_are_nearly_lost_in_float32_err_like_the_references():
    """Singular values of 1e-4 of the largest: their squares are near the last digit of the Gram matrix."""
    u = matrices((56, 64, 32), rank=4)
    exact = reference.newton_schulz(u, 5, torch.float64)
    ours, theirs = (
        (function(u.float()).double() - exact).abs().max().item()
        for function in (gram.newton_schulz, reference.newton_schulz)
    )
    assert ours < 2 * theirs < 4e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precisions_take_the_reference(dtype):
    u = matrices((64, 16)).float()
    assert torch.equal(gram.newton_schulz(u, 5, dtype), reference.newton_schulz(u, 5, dtype))


def test_a_zero_stays_zero():
    assert not gram.newton_schulz(torch.zeros(2, 32, 8)).any()
