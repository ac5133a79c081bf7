"""The linear maps of experts in one grouped product of torch, without splitting rows on the host.

y[r] = x[r] Wₑᵀ for the rows r of expert e. Source: `torch.nn.functional.grouped_mm` (torch 2.10; `torch._grouped_mm`
before it), which runs on the CPU in float32, float16 and bfloat16 and on GPUs of compute capability 9.0 on in bfloat16,
where the rows of both factors are whole 16 bytes. Other precisions and rows take the plain reference.
"""

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import reference

ALIGNMENT_BYTES = 16
"""Of every row that a grouped product reads."""


def grouped_linear(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """As `kernels.reference.grouped_linear`, in one product where torch has it for this device and precision."""
    rows = (weight.shape[-1] * x.element_size(), weight.shape[-2] * x.element_size())
    aligned = all(size % ALIGNMENT_BYTES == 0 for size in rows)
    if not aligned or not runs(x.device.type, x.dtype):
        return reference.grouped_linear(x, weight, counts)
    ends = counts.cumsum(0).to(torch.int32)
    product: Tensor = _product()(x, weight.to(x.dtype).mT, offs=ends)
    if product.requires_grad:
        # Its backward reads no expanded gradient, such as a sum's.
        product.register_hook(Tensor.contiguous)  # type: ignore[no-untyped-call]
    return product


@cache
def runs(device: str, dtype: torch.dtype) -> bool:
    """Whether torch computes a grouped product, and its gradients, on such a device in such a precision."""
    try:
        x = torch.ones(16, 16, device=device, dtype=dtype, requires_grad=True)
        weight = torch.ones(2, 16, 16, device=device, dtype=dtype, requires_grad=True)
        ends = torch.tensor([8, 16], device=device, dtype=torch.int32)
        # With hooks of its own: a pass that is checkpointed must keep the same tensors each time.
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(_as_is, _as_is):
            torch.autograd.backward(_product()(x, weight.mT, offs=ends).square().sum())
    except (AttributeError, RuntimeError):  # no such function, or not on this device
        return False
    return True


def _as_is(tensor: Tensor) -> Tensor:
    return tensor


def _product() -> Callable[..., Tensor]:
    found: Callable[..., Tensor] | None = getattr(F, "grouped_mm", None)
    return found or torch._grouped_mm
