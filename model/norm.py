"""RMS normalisation with a learned gain."""

import torch
from torch import Tensor, nn

from kernels.primitives import rms_norm
from model.config import ModelConfig


class RmsNorm(nn.Module):
    """gain ⊙ x/rms(x) over the last dimension, computed in the precision of the gain, given in `dtype`."""

    def __init__(self, config: ModelConfig, gain: nn.Parameter, dtype: torch.dtype) -> None:
        super().__init__()
        self.gain = gain
        self.eps = config.norm_eps
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.gain, self.eps).to(self.dtype)
