"""The dense SwiGLU branch: silu(gate) · up, with gate and up in one matrix (HyperP §4, arXiv 2603.28743)."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.primitives import linear
from model.config import ModelConfig
from model.vectors import Branches


class Mlp(nn.Module):
    """One dense MLP branch, without its pre-norm and residual."""

    def __init__(
        self, config: ModelConfig, weights: Mapping[str, nn.Parameter], prefix: str, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.gate_up = weights[f"{prefix}.gate_up"]
        self.down = weights[f"{prefix}.down"]
        self.branches = Branches(self, config, weights, prefix, ("gate", "up"), dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (…, width) to the same."""
        return linear(swiglu(self.branches(x, self.gate_up)), self.down)


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) · up of the two halves of the last dimension."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up
