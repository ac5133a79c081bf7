"""The Transformer-Next of HyperP §4 (arXiv 2603.28743), allocated from `model.parameters`.

Legend: B batch, T tokens, D width, V vocabulary. Weights are held in float32 (float64 where `dtype` is), the residual
stream too; branches and matrix products are computed in `dtype`.
"""

import hashlib
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.primitives import linear
from model.attention import Attention, rotary
from model.config import ModelConfig, Rates
from model.mlp import Mlp
from model.moe import Mixture
from model.norm import RmsNorm
from model.parameters import Parameter, parameters


class Block(nn.Module):
    """x ← x + m · attention(norm x), then x ← x + m · mlp(norm x), with the residual multiplier m."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, nn.Parameter],
        prefix: str,
        residual_multiplier: float,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.residual_multiplier = residual_multiplier
        self.attention_norm = RmsNorm(config, weights[f"{prefix}.attention_norm.gain"], dtype)
        self.attention = Attention(config, weights, f"{prefix}.attention", dtype)
        self.mlp_norm = RmsNorm(config, weights[f"{prefix}.mlp_norm.gain"], dtype)
        self.mlp: nn.Module = (
            Mlp(weights, f"{prefix}.mlp") if config.mlp == "dense" else Mixture(config, weights, f"{prefix}.mlp")
        )

    def forward(self, x_BTD: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> Tensor:
        h_BTD = self.attention(self.attention_norm(x_BTD), cos_TK, sin_TK)
        x_BTD = torch.add(x_BTD, h_BTD, alpha=self.residual_multiplier)
        h_BTD = self.mlp(self.mlp_norm(x_BTD))
        return torch.add(x_BTD, h_BTD, alpha=self.residual_multiplier)


class Transformer(nn.Module):
    """A language model: `model(tokens_BT)` gives the logits of each next token, shape (B, T, V).

    Args:
        config: Its shape and switches.
        rates: Supplies the residual and logit multipliers.
        seed: Draws the weights; each parameter's draw depends on this and its name only.
        dtype: Of activations and matrix products.
    """

    cos_TK: Tensor
    sin_TK: Tensor

    def __init__(self, config: ModelConfig, rates: Rates, *, seed: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config = config
        self.logit_multiplier = rates.logit_multiplier
        held = torch.promote_types(dtype, torch.float32)
        weights = {p.name: nn.Parameter(initial(p, seed).to(held)) for p in parameters(config)}
        self.embedding = weights["embedding"]
        self.blocks = nn.ModuleList(
            Block(config, weights, f"blocks.{layer}", rates.residual_multiplier, dtype) for layer in range(config.depth)
        )
        self.final_norm = RmsNorm(config, weights["final_norm.gain"], dtype)
        self.head = weights["head"]
        for name, angles in zip(
            ("cos_TK", "sin_TK"), rotary(config.context, config.head_size, config.rope_base), strict=True
        ):
            self.register_buffer(name, angles.to(dtype), persistent=False)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        length = tokens_BT.shape[-1]
        cos_TK, sin_TK = self.cos_TK[:length], self.sin_TK[:length]
        x_BTD = F.embedding(tokens_BT, self.embedding)
        for block in self.blocks:
            x_BTD = block(x_BTD, cos_TK, sin_TK)
        logits_BTV = linear(self.final_norm(x_BTD), self.head)
        return logits_BTV if self.logit_multiplier == 1 else logits_BTV * self.logit_multiplier


def initial(parameter: Parameter, seed: int) -> Tensor:
    """The starting value of a parameter, float32 on the CPU, from (seed, name) alone: neither the other parameters,
    nor their order, nor the device or precision of training change it.
    """
    if parameter.init.kind == "constant":
        return torch.full(parameter.shape, parameter.init.scale)
    digest = hashlib.sha256(f"{seed}/{parameter.name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))
    value = torch.empty(parameter.shape)
    if parameter.init.kind == "uniform":
        return value.uniform_(-parameter.init.scale, parameter.init.scale, generator=generator)
    return value.normal_(0, parameter.init.scale, generator=generator)
