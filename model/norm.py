"""RMS normalisation and scale vectors γ, whole or made of a direction and a magnitude (arXiv 2605.26895).

`N(x)` is x over its root mean square. `oriented` is the paper's OR, `exponential` its ER.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kernels.primitives import rms_norm
from model.config import ModelConfig


def oriented(alpha: Tensor, beta: Tensor) -> Tensor:
    """γ = β · √d · α/‖α‖ over the last dimension: β · N(α), without an eps; α (…, d), β (…, 1)."""
    length: Tensor = torch.linalg.vector_norm(alpha, dim=-1, keepdim=True)
    return beta * math.sqrt(alpha.shape[-1]) * (alpha / length)


def exponential(alpha: Tensor, beta: Tensor) -> Tensor:
    """γ = exp(β + α − mean α) over the last dimension, never negative; α (…, d), β (…, 1)."""
    gamma: Tensor = (beta + alpha - alpha.mean(dim=-1, keepdim=True)).exp()
    return gamma


class ScaleVector(nn.Module):
    """γ of the parameters that the table has under a name, as gain or as alpha and beta; None where it has neither."""

    def __init__(self, config: ModelConfig, weights: Mapping[str, nn.Parameter], name: str) -> None:
        super().__init__()
        self.gain = weights.get(f"{name}.gain")
        self.alpha = weights.get(f"{name}.alpha")
        self.beta = weights.get(f"{name}.beta")
        self.made = exponential if config.vectors.reparam == "er" else oriented

    def value(self) -> Tensor | None:
        """γ, shape (…, d), in the precision in which its parameters are held."""
        if self.alpha is not None and self.beta is not None:
            return self.made(self.alpha, self.beta)
        return self.gain


class RmsNorm(ScaleVector):
    """γ ⊙ N(x) over the last dimension in float32 or better, given in `dtype` (None: as computed)."""

    def __init__(
        self, config: ModelConfig, weights: Mapping[str, nn.Parameter], name: str, dtype: torch.dtype | None
    ) -> None:
        super().__init__(config, weights, name)
        self.eps = config.norm_eps
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        y = rms_norm(x, self.value(), self.eps)
        return y if self.dtype is None else y.to(self.dtype)
