import pytest
import torch

from kernels import grouped, reference

COUNTS = torch.tensor([3, 0, 4, 1])


def with_gradients(product, dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 16, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(4, 24, 16, generator=generator).requires_grad_()
    y = product(x, weight, COUNTS)
    y.backward(torch.randn(8, 24, generator=generator).to(dtype))
    return y.detach(), x.grad, weight.grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_the_grouped_product_agrees_with_the_reference(dtype):
    found, expected = (with_gradients(product, dtype) for product in (grouped.grouped_linear, reference.grouped_linear))
    assert found[0].dtype == dtype
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert not found[2][1].any()  # the idle expert's


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("fan_in", "fan_out"), [(1, 1), (3, 5), (16, 6), (6, 16)])
def test_rows_of_any_width_are_taken(dtype, fan_in, fan_out):
    x = torch.randn(8, fan_in).to(dtype).requires_grad_()
    weight = torch.randn(4, fan_out, fan_in).to(dtype).requires_grad_()
    found, expected = (product(x, weight, COUNTS) for product in (grouped.grouped_linear, reference.grouped_linear))
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert x.grad is not None
    assert weight.grad is not None


def test_an_expanded_gradient_is_taken():
    x, weight = torch.randn(8, 16, requires_grad=True), torch.randn(4, 24, 16, requires_grad=True)
    grouped.grouped_linear(x, weight, COUNTS).sum().backward()
    ours, x.grad = x.grad, None
    reference.grouped_linear(x, weight, COUNTS).sum().backward()
    torch.testing.assert_close(ours, x.grad)


def test_one_product_serves_all_experts_where_torch_has_it(monkeypatch):
    monkeypatch.setattr(reference, "grouped_linear", None)
    with_gradients(grouped.grouped_linear, torch.float32)


@pytest.mark.parametrize("reason", ["torch has none", "this device has none"])
def test_without_it_the_reference_serves(monkeypatch, reason):
    grouped.runs.cache_clear()
    if reason == "torch has none":
        monkeypatch.delattr(torch.nn.functional, "grouped_mm", raising=False)
        monkeypatch.delattr(torch, "_grouped_mm", raising=False)
    else:
        monkeypatch.setattr(grouped, "_product", lambda: refused)
    assert not grouped.runs("cpu", torch.float32)
    torch.testing.assert_close(
        with_gradients(grouped.grouped_linear, torch.float32), with_gradients(reference.grouped_linear, torch.float32)
    )
    grouped.runs.cache_clear()


def refused(*_args, **_kwargs):
    raise RuntimeError("not on this device")


def test_whether_it_runs_is_found_out_without_gradients_too():
    grouped.runs.cache_clear()
    with torch.no_grad():
        assert grouped.runs("cpu", torch.float32)
