"""Cross-entropy of logits that never exist all at once: exact, in memory bound by the chunk.

For a chunk of rows the logits z = m · x Wᵀ are made, in float32 their loss lse(z) − z[target] and, while they are
there, its gradient (softmax(z) − onehot) · m/rows, which becomes that of x and adds to that of W. Forward and
backward take the same products as the plain composition does; the gradients wait for the backward pass, which scales
them. The idea is that of Liger's fused linear cross-entropy (arXiv 2410.10989).
"""

from typing import Any

import torch
from torch import Tensor

from kernels import reference

CHUNK_LOGITS = 2**25
"""Logits that are held at once; fewer than four times as many take the plain composition."""


def linear_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor, multiplier: float = 1.0) -> Tensor:
    """As `kernels.reference.linear_cross_entropy`."""
    # Of a stack, those of one member: what it takes is not to depend on how many there are.
    rows, vocab = x.shape[weight.dim() - 2 : -1].numel(), weight.shape[-2]
    if rows * vocab < 4 * CHUNK_LOGITS:
        return reference.linear_cross_entropy(x, weight, targets, multiplier)
    if weight.dim() > 2:
        of_member = zip(x, weight, targets.expand(x.shape[:-1]), strict=True)
        return torch.stack([linear_cross_entropy(*one, multiplier) for one in of_member])
    chunk = max(1, CHUNK_LOGITS // vocab)
    loss: Tensor = _Chunked.apply(  # type: ignore[no-untyped-call]
        x.reshape(rows, -1), weight, targets.reshape(-1), multiplier, chunk
    )
    return loss


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, multiplier: float, chunk: int) -> Tensor:
        exact = torch.promote_types(x_MD.dtype, torch.float32)
        cast_VD = weight_VD.to(x_MD.dtype)
        wanted = any(ctx.needs_input_grad)
        grad_MD = torch.empty_like(x_MD) if wanted else None
        grad_VD = torch.zeros_like(weight_VD, dtype=torch.promote_types(weight_VD.dtype, exact)) if wanted else None
        total = torch.zeros((), dtype=exact, device=x_MD.device)
        for start in range(0, len(x_MD), chunk):
            rows = slice(start, start + chunk)
            logits = x_MD[rows] @ cast_VD.mT
            if multiplier != 1:
                logits = logits * multiplier
            logits = logits.to(exact)
            lse = logits.logsumexp(dim=-1, keepdim=True)
            target = targets_M[rows].unsqueeze(-1)
            total += (lse - logits.gather(-1, target)).sum()
            if grad_MD is not None and grad_VD is not None:
                logits.sub_(lse).exp_()
                logits.scatter_add_(-1, target, torch.full_like(lse, -1.0))
                slope = logits.mul_(multiplier / len(x_MD)).to(x_MD.dtype)
                torch.mm(slope, cast_VD, out=grad_MD[rows])
                grad_VD += slope.mT @ x_MD[rows]
                del slope
            del logits  # before the next are made
        if grad_MD is not None and grad_VD is not None:
            ctx.save_for_backward(grad_MD, grad_VD.to(weight_VD.dtype))
        return total / len(x_MD)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (upstream,) = grads
        grad_MD, grad_VD = ctx.saved_tensors
        return grad_MD * upstream.to(grad_MD.dtype), grad_VD * upstream.to(grad_VD.dtype), None, None, None
