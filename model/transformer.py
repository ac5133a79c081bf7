"""The Transformer-Next of HyperP §4 (arXiv 2603.28743), allocated from `model.parameters`.

Legend: B batch, T tokens, D width, V vocabulary. Weights are held in float32 (float64 where `dtype` is), the residual
stream too; branches and matrix products are computed in `dtype`.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import cast, overload

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kernels.primitives import embedding, linear, linear_cross_entropy
from model.attention import Attention, member_mean, rotary
from model.config import ModelConfig, Rates
from model.mlp import Mlp
from model.moe import Mixture, Watch
from model.norm import RmsNorm
from model.parameters import Parameter, parameters

Once = Callable[[Tensor, Tensor, Tensor, Watch | None], tuple[Tensor, dict[str, Tensor]]]
"""A block's computation, as `Block.once`."""


class Block(nn.Module):
    """x ← x + m · attention(norm x), then x ← x + m · mlp(norm x), with the residual multiplier m.

    A sandwich has a norm on what either branch gives, before m.

    With `checkpointing` a pass that gradients are taken of keeps nothing but x, and the backward pass computes the rest
    again (Chen et al. 2016, arXiv:1604.06174): the same numbers, bit for bit. Such a pass takes what `model.compiling`
    has `compiled`, if anything.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, nn.Parameter],
        layer: int,
        residual_multiplier: float,
        dtype: torch.dtype,
        *,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        prefix = f"blocks.{layer}"
        self.checkpointing = checkpointing
        self.compiled: Once | None = None
        self.residual_multiplier = residual_multiplier
        # Branches that scale their inputs apart take them as they were computed.
        normed = None if config.vectors.hetero else dtype
        self.attention_norm = RmsNorm(config, weights, f"{prefix}.attention_norm", normed)
        self.attention = Attention(config, weights, f"{prefix}.attention", dtype)
        self.mlp_norm = RmsNorm(config, weights, f"{prefix}.mlp_norm", normed)
        self.mlp: Mlp | Mixture = (
            Mlp(config, weights, f"{prefix}.mlp", dtype)
            if config.mlp == "dense"
            else Mixture(config, weights, f"{prefix}.mlp", dtype, layer)
        )
        self.attention_post_norm, self.mlp_post_norm = (
            RmsNorm(config, weights, f"{prefix}.{branch}_post_norm", dtype) if config.sandwich_norm else None
            for branch in ("attention", "mlp")
        )

    def forward(
        self, x_BTD: Tensor, cos_TK: Tensor, sin_TK: Tensor, watch: Watch | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The residual stream after the block, and what `watch` asked for, by name.

        What is seen is returned, not kept aside: a sharded block must know every tensor that a backward pass starts
        from.
        """
        if not torch.is_grad_enabled():
            return self.once(x_BTD, cos_TK, sin_TK, watch)
        once = self.compiled or self.once
        if not self.checkpointing:
            return once(x_BTD, cos_TK, sin_TK, watch)
        # Inside of the module's call, so that a sharded block has gathered its parameters both times.
        again = checkpoint(once, x_BTD, cos_TK, sin_TK, watch, use_reentrant=False, preserve_rng_state=False)
        return cast(tuple[Tensor, dict[str, Tensor]], again)

    def once(
        self, x_BTD: Tensor, cos_TK: Tensor, sin_TK: Tensor, watch: Watch | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The block as it is written, its activations kept where gradients are taken."""
        measured = watch is not None and watch.measured
        h_BTD, seen = self.attention(self.attention_norm(x_BTD), cos_TK, sin_TK, measured=measured)
        if self.attention_post_norm is not None:
            h_BTD = self.attention_post_norm(h_BTD)
        if measured:
            seen |= output_statistics("attention", h_BTD, self.residual_multiplier)
        x_BTD = torch.add(x_BTD, h_BTD, alpha=self.residual_multiplier)
        x_normed_BTD = self.mlp_norm(x_BTD)
        if isinstance(self.mlp, Mixture):
            h_BTD, routed = self.mlp(x_normed_BTD, watch)
            seen |= routed
        else:
            h_BTD = self.mlp(x_normed_BTD)
        if self.mlp_post_norm is not None:
            h_BTD = self.mlp_post_norm(h_BTD)
        if measured:
            seen |= output_statistics("mlp", h_BTD, self.residual_multiplier)
        return torch.add(x_BTD, h_BTD, alpha=self.residual_multiplier), seen


class Transformer(nn.Module):
    """A language model: `model(tokens_BT)` gives the logits of each next token, shape (B, T, V).

    Args:
        config: Its shape and switches.
        rates: Supplies the residual and logit multipliers.
        seed: Draws the weights; each parameter's draw depends on this and its name only. Several make a stack of
            independent members (`model.fusing`): weights, activations and losses have a dimension R in front.
        dtype: Of activations and matrix products.
        checkpointing: Whether blocks are computed again for the backward pass.
    """

    cos_TK: Tensor
    sin_TK: Tensor

    def __init__(
        self,
        config: ModelConfig,
        rates: Rates,
        *,
        seed: int | Sequence[int],
        dtype: torch.dtype = torch.float32,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.logit_multiplier = rates.logit_multiplier
        held = torch.promote_types(dtype, torch.float32)
        drawn = {
            p.name: initial(p, seed) if isinstance(seed, int) else torch.stack([initial(p, one) for one in seed])
            for p in parameters(config)
        }
        weights = {name: nn.Parameter(value.to(held)) for name, value in drawn.items()}
        self.embedding = weights["embedding"]
        self.blocks = nn.ModuleList(
            Block(config, weights, layer, rates.residual_multiplier, dtype, checkpointing=checkpointing)
            for layer in range(config.depth)
        )
        self.final_norm = RmsNorm(config, weights, "final_norm", dtype)
        self.head = weights["head"]
        for name, angles in zip(
            ("cos_TK", "sin_TK"), rotary(config.context, config.head_size, config.rope_base), strict=True
        ):
            self.register_buffer(name, angles.to(dtype), persistent=False)

    @overload
    def forward(self, tokens_BT: Tensor, *, targets_BT: Tensor | None = None) -> Tensor: ...
    @overload
    def forward(
        self, tokens_BT: Tensor, watch: Watch, targets_BT: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]: ...
    def forward(
        self, tokens_BT: Tensor, watch: Watch | None = None, targets_BT: Tensor | None = None
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """The logits, shape (B, T, V), or with `targets_BT` their mean cross-entropy, 0-d, in float32 or better.

        With `watch`, also what it asks for, by name, each stacked over the layers. The members of a stack read the
        same tokens, or with (R, B, T) their own; they give (R, B, T, V), (R,) and (layers, R).
        """
        length = tokens_BT.shape[-1]
        cos_TK, sin_TK = self.cos_TK[:length], self.sin_TK[:length]
        x_BTD = embedding(tokens_BT, self.embedding)
        layers: list[dict[str, Tensor]] = []
        for block in self.blocks:
            x_BTD, seen = block(x_BTD, cos_TK, sin_TK, watch)
            layers.append(seen)
        x_BTD = self.final_norm(x_BTD)
        if targets_BT is not None:
            result = linear_cross_entropy(x_BTD, self.head, targets_BT, self.logit_multiplier)
        else:
            result = linear(x_BTD, self.head)
            if self.logit_multiplier != 1:
                result = result * self.logit_multiplier
        if watch is None:
            return result
        return result, {name: torch.stack([seen[name] for seen in layers]) for name in layers[0]}


OUTLIER_STD = 5.0
"""An element is an outlier beyond so many standard deviations of its token's features (HyperP §5.1)."""


def output_statistics(branch: str, h_BTD: Tensor, multiplier: float) -> dict[str, Tensor]:
    """Mean square and share of outliers (%) of a branch's output times the residual multiplier (HyperP §5.1)."""
    h_BTD = h_BTD.to(torch.promote_types(h_BTD.dtype, torch.float32)) * multiplier
    deviation = (h_BTD - h_BTD.mean(dim=-1, keepdim=True)).abs()
    outlier = deviation > OUTLIER_STD * h_BTD.std(dim=-1, keepdim=True)
    return {
        f"{branch}_square": member_mean(h_BTD.square()),
        f"{branch}_outliers": 100 * member_mean(outlier.to(h_BTD.dtype)),
    }


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
