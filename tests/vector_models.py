"""Small models with scale vectors in all their variants, and the means to move them away from where they start."""

import itertools
from dataclasses import replace

import torch

from model.config import ModelConfig, Rates, VectorsConfig
from model.transformer import Transformer

DENSE = ModelConfig(width=32, depth=2, head_size=8, kv_heads=2, vocab=64, context=16)
MIXTURE = replace(DENSE, mlp="moe", sparsity=2, top_k=4)
UNIFIED = VectorsConfig(hetero=True, placement="dnp", reparam="or", wd_input=1.0)
ONE = Rates(hidden=0.02, head=0.02, embedding=0.02, vector=0.02, weight_decay=0.1)
TOKENS = torch.arange(32).reshape(2, 16) * 7 % 64

VARIANTS = [
    VectorsConfig(hetero=hetero, placement=placement, reparam=reparam, axis=axis)
    for hetero, placement, reparam, axis in itertools.product(
        (False, True), ("standard", "dp", "dnp"), ("plain", "or", "er"), ("head", "full")
    )
]


def build(config, dtype=torch.float64):
    return Transformer(config, ONE, seed=1, dtype=dtype)


@torch.no_grad()
def randomise(model, seed=0):
    """Every part of every scale vector away from where it starts."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] in ("gain", "alpha", "beta"):
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model
