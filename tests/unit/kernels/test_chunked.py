import pytest
import torch

from kernels import chunked, reference
from model.shape import CHUNK_LOGITS

ROWS, WIDTH, VOCAB = 37, 16, 50


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Chunks of six rows."""
    monkeypatch.setattr(chunked, "CHUNK_LOGITS", 6 * VOCAB)


def with_gradients(function, dtype, multiplier, weight_dtype=None):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, ROWS, WIDTH, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(VOCAB, WIDTH, generator=generator).to(weight_dtype or dtype).requires_grad_()
    targets = torch.randint(VOCAB, (1, ROWS), generator=generator)
    loss = function(x, weight, targets, multiplier)
    (3 * loss).backward()
    return loss.detach(), x.grad, weight.grad


@pytest.mark.parametrize("multiplier", [1.0, 0.4])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
def test_chunks_give_the_loss_and_the_gradients_of_the_whole(dtype, tolerance, multiplier):
    found, expected = (
        with_gradients(module.linear_cross_entropy, dtype, multiplier) for module in (chunked, reference)
    )
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_the_loss_of_bfloat16_logits_is_in_float32_and_weights_keep_their_precision():
    found, expected = (
        with_gradients(module.linear_cross_entropy, torch.bfloat16, 1.0, torch.float32)
        for module in (chunked, reference)
    )
    assert [tensor.dtype for tensor in found] == [torch.float32, torch.bfloat16, torch.float32]
    assert found[0] == pytest.approx(expected[0].item(), abs=1e-5)
    for one, other in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(one, other, rtol=0.03, atol=0.01)


def test_few_logits_take_the_plain_composition(monkeypatch):
    monkeypatch.setattr(chunked._Chunked, "apply", None)
    x, weight, targets = torch.randn(2, 5, WIDTH), torch.randn(VOCAB, WIDTH), torch.randint(VOCAB, (2, 5))
    assert chunked.linear_cross_entropy(x, weight, targets) == reference.linear_cross_entropy(x, weight, targets)


def test_without_gradients_only_the_loss_is_made():
    with torch.no_grad():
        loss, *_ = (
            chunked.linear_cross_entropy(torch.randn(ROWS, WIDTH), torch.randn(VOCAB, WIDTH), torch.zeros(ROWS).long()),
        )
    assert loss.grad_fn is None


def test_the_plan_counts_the_chunks_that_are_made(monkeypatch):
    monkeypatch.undo()
    assert chunked.CHUNK_LOGITS == CHUNK_LOGITS


@pytest.mark.parametrize("shared", [True, False], ids=["same targets", "targets of their own"])
@pytest.mark.parametrize("rows", [4, ROWS], ids=["composed", "in chunks"])
def test_each_member_of_a_stack_has_the_loss_that_it_has_by_itself(rows, shared):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 1, rows, WIDTH, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, VOCAB, WIDTH, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(VOCAB, (1, rows) if shared else (3, 1, rows), generator=generator)
    losses = chunked.linear_cross_entropy(x, weight, targets, 0.4)
    found = torch.autograd.grad(losses.sum(), (x, weight))
    each = [(x[r], weight[r], targets if shared else targets[r]) for r in range(3)]
    expected = torch.stack([reference.linear_cross_entropy(*one, 0.4) for one in each])
    assert losses.shape == (3,)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(found, torch.autograd.grad(expected.sum(), (x, weight)))
