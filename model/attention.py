"""Causal grouped-query attention with rotary positions, QK-norm and a headwise gate (HyperP §4, arXiv 2603.28743).

Legend: B batch, T tokens, D width, H query heads, G key and value heads, K width of one head.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.primitives import causal_logsumexp, linear
from model.config import ModelConfig
from model.norm import RmsNorm
from model.vectors import Branches


class Attention(nn.Module):
    """One attention branch, without its pre-norm and residual."""

    def __init__(
        self, config: ModelConfig, weights: Mapping[str, nn.Parameter], prefix: str, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.head_size = config.head_size
        self.shares = config.query_heads // config.kv_heads
        self.query = weights[f"{prefix}.query"]
        self.key = weights[f"{prefix}.key"]
        self.value = weights[f"{prefix}.value"]
        self.output = weights[f"{prefix}.output"]
        self.gate = weights[f"{prefix}.gate"] if config.headwise_gate else None
        normed = config.has_qk_norm
        self.query_norm = RmsNorm(config, weights, f"{prefix}.query_norm", dtype) if normed else None
        self.key_norm = RmsNorm(config, weights, f"{prefix}.key_norm", dtype) if normed else None
        heads = {"query": config.query_heads, "key": config.kv_heads, "value": config.kv_heads, "gate": 0}
        self.maps = {name: Branches(self, config, weights, prefix, (name,), dtype, heads[name]) for name in heads}

    def forward(
        self, x_BTD: Tensor, cos_TK: Tensor, sin_TK: Tensor, *, measured: bool = False
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The branch's output, and where it is `measured` the mean squared log-sum-exp of its logits."""
        q_BTHK = self._heads(self.maps["query"](x_BTD, self.query))
        k_BTGK = self._heads(self.maps["key"](x_BTD, self.key))
        v_BTGK = self._heads(self.maps["value"](x_BTD, self.value))
        if self.query_norm is not None and self.key_norm is not None:
            q_BTHK, k_BTGK = self.query_norm(q_BTHK), self.key_norm(k_BTGK)
        q_BHTK = rotate(q_BTHK, cos_TK, sin_TK).transpose(-2, -3)
        k_BGTK = rotate(k_BTGK, cos_TK, sin_TK).transpose(-2, -3)
        # Members of a stack attend like sequences of a batch: the fast backends know four dimensions.
        query, key, value = (part.flatten(0, -4) for part in (q_BHTK, k_BGTK, v_BTGK.transpose(-2, -3)))
        y_BHTK = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=self.shares > 1)
        seen = {"attention_z": member_mean(causal_logsumexp(q_BHTK, k_BGTK).square())} if measured else {}
        y_BTHK = y_BHTK.view(q_BHTK.shape).transpose(-2, -3)
        if self.gate is not None:
            y_BTHK = y_BTHK * self.maps["gate"](x_BTD, self.gate).sigmoid().unsqueeze(-1)
        return linear(y_BTHK.flatten(-2), self.output), seen

    def _heads(self, x: Tensor) -> Tensor:
        """(…, heads · K) as (…, heads, K)."""
        return x.view(*x.shape[:-1], -1, self.head_size)


def member_mean(x: Tensor) -> Tensor:
    """Mean over the last three dimensions: over everything, or of each member of a stack."""
    return x.flatten(-3).mean(dim=-1)


def rotary(context: int, head_size: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every rotary angle, float64, shape (context, head_size) each.

    The pairs are (i, i + head_size/2), not neighbours; both halves of a row hold the same angles and the first half of
    the sine is negated, as `rotate` needs it.
    """
    frequency = base ** (-torch.arange(0, head_size, 2, dtype=torch.float64) / head_size)
    angle = torch.arange(context, dtype=torch.float64).outer(frequency)
    return torch.cat([angle.cos(), angle.cos()], dim=-1), torch.cat([-angle.sin(), angle.sin()], dim=-1)


def rotate(x_THK: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> Tensor:
    """Turn every pair (x_i, x_{i+K/2}) of a head by its position's angle; shape (…, T, heads, K)."""
    cos_T1K, sin_T1K = cos_TK.unsqueeze(-2), sin_TK.unsqueeze(-2)
    swapped = torch.cat(x_THK.chunk(2, dim=-1)[::-1], dim=-1)
    return torch.addcmul(x_THK * cos_T1K, swapped, sin_T1K)
