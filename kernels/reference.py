"""The plain PyTorch truth of every numerical primitive; knows only torch, and every faster kernel is tested against it.

Dimensions are counted from the right: a matrix is (…, out, in) and leading dimensions are independent members.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

NEWTON_SCHULZ = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
"""Coefficients (a, b, c) of each step, X ← aX + (bA + cA²)X with A = XXᵀ (code of HyperP, arXiv 2603.28743)."""
TINY = 1e-8
"""Below this a norm counts as zero."""


def newton_schulz(u: Tensor, steps: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    """The matrix of `u` with its singular values pushed towards 1: u = UΣVᵀ gives nearly UVᵀ.

    Args:
        u: Matrices, shape (…, out, in).
        steps: Steps of the iteration; beyond the fifth the last coefficients repeat.
        dtype: Precision of the iteration.

    Returns:
        Shape and dtype of `u`. Singular values within [0.01, 1] of ‖u‖_F end in [0.978, 1.032] after five steps.
    """
    tall = u.shape[-2] > u.shape[-1]
    x: Tensor = (u / (torch.linalg.matrix_norm(u, keepdim=True) + TINY)).to(dtype)
    x = (x.mT if tall else x).reshape(-1, min(u.shape[-2:]), max(u.shape[-2:]))
    for step in range(steps):
        a, b, c = NEWTON_SCHULZ[min(step, len(NEWTON_SCHULZ) - 1)]
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x.mT if tall else x
    return x.reshape(u.shape).to(u.dtype)


def matrix_radius(weight: Tensor) -> Tensor:
    """Frobenius norm of each matrix (…, out, in), shape (…, 1, 1), at least 1e-8."""
    norm: Tensor = torch.linalg.matrix_norm(weight, keepdim=True)
    return norm.clamp_min(TINY)


def joint_radius(weight: Tensor) -> Tensor:
    """Norm of all matrices (experts, out, in) that share a sphere, shape (…, 1, 1, 1), at least 1e-8."""
    norm: Tensor = torch.linalg.vector_norm(weight, dim=(-3, -2, -1), keepdim=True)
    return norm.clamp_min(TINY)


def sphere_step(
    weight: Tensor,
    direction: Tensor,
    rate: float | Tensor,
    radius: Tensor,
    norm: Callable[[Tensor], Tensor] = matrix_radius,
) -> Tensor:
    """One step of relative length `rate` on the Frobenius sphere: HyperP eq. 2 (arXiv 2603.28743).

    Args:
        weight: Matrices on the sphere, shape (…, out, in).
        direction: What to step against, same shape; its length does not matter.
        rate: ‖step‖ / ‖weight‖, a number or one per member, shape (…, 1, 1).
        radius: Norm of each matrix, shape (…, 1, 1); the initial one, so that rounding does not drift.
        norm: What is kept: of each matrix, or `joint_radius`.

    Returns:
        radius · W̃/‖W̃‖ with W̃ = W − rate · radius · D/‖D‖; a new tensor.
    """
    moved = weight - direction * (rate * radius / norm(direction))
    return moved * (radius / norm(moved))


LSE_ELEMENTS = 2**26
"""Attention logits that are held at once where only their log-sum-exp is wanted (256 MiB in float32)."""


def causal_logsumexp(query: Tensor, key: Tensor) -> Tensor:
    """Log-sum-exp of the causal attention logits q·k/√K of each query, in float32 or better, in bounded memory.

    Args:
        query: Shape (…, heads, T, K).
        key: Shape (…, groups, T, K), each serving heads/groups consecutive heads.

    Returns:
        Shape (…, heads, T).
    """
    exact = torch.promote_types(query.dtype, torch.float32)
    heads, length, width = query.shape[-3:]
    key = key.to(exact).repeat_interleave(heads // key.shape[-3], dim=-3)
    rows = max(1, LSE_ELEMENTS * width // query.numel())
    position = torch.arange(length, device=query.device)
    found = []
    for start in range(0, length, rows):
        some = query[..., start : start + rows, :].to(exact)
        stop = start + some.shape[-2]  # later keys are seen by none of these queries
        logits = some @ key[..., :stop, :].mT / math.sqrt(width)
        hidden = position[:stop] > position[start:stop, None]
        found.append(logits.masked_fill(hidden, -math.inf).logsumexp(dim=-1))
    return torch.cat(found, dim=-1)


def cross_entropy(logits: Tensor, targets: Tensor, reduction: Literal["mean", "none"] = "mean") -> Tensor:
    """Next-token cross-entropy in nats, in float32 or better.

    Args:
        logits: Shape (…, vocab).
        targets: Token ids, shape (…).
        reduction: `mean` over all tokens, or `none` for one loss per token, shape (…).
    """
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    loss = F.cross_entropy(exact.reshape(-1, exact.shape[-1]), targets.reshape(-1), reduction=reduction)
    return loss if reduction == "mean" else loss.reshape(targets.shape)


def linear_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor, multiplier: float = 1.0) -> Tensor:
    """Mean next-token cross-entropy of the logits multiplier · x Wᵀ, one per member, in float32 or better.

    Args:
        x: Shape (members…, …, width); logits are computed in its precision.
        weight: Shape (members…, vocab, width).
        targets: Token ids, shape (…), the same for all members, or (members…, …).
        multiplier: Of the logits.

    Returns:
        Shape (members…): 0-d of a single weight.
    """
    logits = linear(x, weight)
    logits = logits if multiplier == 1 else logits * multiplier
    if weight.dim() == 2:
        return cross_entropy(logits, targets)
    each = cross_entropy(logits, targets.expand(logits.shape[:-1]), reduction="none")
    return each.flatten(weight.dim() - 2).mean(dim=-1)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x Wᵀ in the precision of `x`: the only linear map of the model.

    Args:
        x: Shape (…, in); with stacked weights, (members…, tokens…, in).
        weight: Shape (members…, out, in).

    Returns:
        Shape of `x` with `out` last.
    """
    weight = weight.to(x.dtype)
    if weight.dim() == 2:
        return F.linear(x, weight)
    members = weight.shape[:-2]
    y = x.reshape(*members, -1, x.shape[-1]) @ weight.mT
    return y.reshape(*x.shape[:-1], weight.shape[-2])


def grouped_linear(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """The linear map of each expert on its own rows.

    Args:
        x: Rows sorted by expert, shape (rows, in).
        weight: One matrix per expert, shape (experts, out, in).
        counts: Rows of each expert, shape (experts,), which sum to `rows`; an expert without rows is allowed. They are
            read on the host.

    Returns:
        Shape (rows, out), in the order of `x`.
    """
    return torch.cat(
        [linear(rows, matrix) for rows, matrix in zip(torch.split(x, counts.tolist()), weight, strict=True)]
    )


def rms_norm(x: Tensor, gain: Tensor | None, eps: float) -> Tensor:
    """gain ⊙ x / √(mean x² + eps) over the last dimension, in float32 or better.

    Args:
        x: Shape (…, width); with stacked gains, (members…, …, width).
        gain: Shape (members…, width); None leaves it out.
        eps: Added to the mean square.
    """
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    if gain is None or gain.dim() == 1:
        return F.rms_norm(exact, exact.shape[-1:], gain, eps)
    between = [1] * (x.dim() - gain.dim())
    return F.rms_norm(exact, exact.shape[-1:], None, eps) * gain.view(*gain.shape[:-1], *between, gain.shape[-1])


def embedding(tokens: Tensor, weight: Tensor) -> Tensor:
    """The row of each token.

    Args:
        tokens: Token ids, shape (…), the same for all members, or (members, …).
        weight: Shape (vocab, width), or of stacked members (members, vocab, width).

    Returns:
        Shape (…, width), or (members, …, width).
    """
    if weight.dim() == 2:
        return F.embedding(tokens, weight)
    members, vocab = weight.shape[:2]
    shared = tokens if tokens.dim() > 2 else tokens.expand(members, *tokens.shape)
    first = torch.arange(0, members * vocab, vocab, device=tokens.device)
    return F.embedding(shared + first.view(-1, *[1] * (shared.dim() - 1)), weight.flatten(0, 1))
