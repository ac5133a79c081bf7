"""A layer of experts, forward and backward: as training has it, against loops over experts.

One baseline is what a user would write: for each expert, those of its tokens that chose it, its two products, and the
outputs added to their tokens by weight; each expert's matrices are parameters of their own, and routing is the same.
The other is our layer on the plain reference: tokens sorted by expert, a product for each. All three give the same
outputs and gradients, which is checked first. The experts are HyperP's (arXiv 2603.28743): with k chosen of 8k they are
mlp_ratio · width / k wide, and one of them is always on.

    python tests/benchmarks/moe_layer.py [--device cuda] [--repeats 20] [--json FILE]
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from timing import add_results, arguments, in_turns, milliseconds, ratio

from kernels import reference
from model import moe, vectors
from model.config import ModelConfig, Rates
from model.mlp import swiglu
from model.moe import Mixture
from model.transformer import Transformer

CPU_SHAPES = ((64, 8, 2048), (128, 8, 2048), (128, 64, 1024))
"""Width, k and tokens of a pass."""
GPU_SHAPES = ((1024, 8, 32_768), (2048, 8, 32_768), (1024, 64, 32_768))
SPARSITY = 8
RATES = Rates(hidden=0.01, head=0.01, embedding=0.01, vector=0.01)

Layer = Callable[[Tensor], Tensor]


def mixture(width: int, k: int, device: str) -> Mixture:
    head = 128 if width >= 1024 else 16
    config = ModelConfig(
        width=width, depth=1, head_size=head, kv_heads=2, vocab=64, context=64, mlp="moe", top_k=k, sparsity=SPARSITY
    )
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    return Transformer(config, RATES, seed=1, dtype=dtype).to(device).blocks[0].mlp


class Loop(nn.Module):
    """The same layer, expert by expert."""

    def __init__(self, layer: Mixture) -> None:
        super().__init__()
        self.layer = layer
        self.gate_up, self.down = (
            nn.ParameterList(matrix.detach().clone() for matrix in whole)
            for whole in (layer.experts_gate_up, layer.experts_down)
        )

    def forward(self, x_MD: Tensor) -> Tensor:
        expert_Mk, weight_Mk = self.layer.route(self.layer.logits(x_MD))
        y_MD = torch.zeros_like(x_MD)
        for expert, (gate_up, down) in enumerate(zip(self.gate_up, self.down, strict=True)):
            token, choice = (expert_Mk == expert).nonzero(as_tuple=True)
            hidden = swiglu(x_MD[token] @ gate_up.to(x_MD.dtype).T)
            weight = weight_Mk[token, choice, None].to(x_MD.dtype)
            y_MD.index_add_(0, token, (hidden @ down.to(x_MD.dtype).T) * weight)
        y_MD = y_MD + self.layer.shared(x_MD)
        return y_MD * 0.5**0.5 if self.layer.scale_shared else y_MD


@contextmanager
def plain_products() -> Iterator[None]:
    """The layer on the reference of its products."""
    fast = moe.grouped_linear, vectors.grouped_linear
    moe.grouped_linear = vectors.grouped_linear = reference.grouped_linear
    try:
        yield
    finally:
        moe.grouped_linear, vectors.grouped_linear = fast


def kinds(layer: Mixture) -> dict[str, tuple[nn.Module, Layer]]:
    """By name, the module that holds the parameters, and what computes the outputs."""
    loop = Loop(layer)

    def plain(x_MD: Tensor) -> Tensor:
        with plain_products():
            return layer(x_MD)[0]

    return {
        "ours": (layer, lambda x_MD: layer(x_MD)[0]),
        "a loop over experts": (loop, loop),
        "sorted, a product for each expert": (layer, plain),
    }


def both_ways(module: nn.Module, function: Layer, x_MD: Tensor, upstream_MD: Tensor) -> tuple[Tensor, ...]:
    """The outputs; gradients lie in the input and the parameters."""
    module.zero_grad()
    x_MD.grad = None
    y_MD = function(x_MD)
    y_MD.backward(upstream_MD)
    return y_MD.detach(), x_MD.grad


def measured(shape: tuple[int, int, int], device: str, repeats: int) -> dict[str, list[float]]:
    """Seconds of each kind."""
    width, k, tokens = shape
    found = kinds(mixture(width, k, device))
    generator = torch.Generator().manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    x_MD, upstream_MD = (torch.randn(tokens, width, generator=generator).to(device, dtype) for _ in range(2))
    x_MD.requires_grad_()
    results, experts = {}, {}
    for name, (module, function) in found.items():
        results[name] = both_ways(module, function, x_MD, upstream_MD)
        down = module.down if isinstance(module, Loop) else module.experts_down.grad
        experts[name] = torch.stack([one.grad for one in down]) if isinstance(module, Loop) else down.clone()
    for name in found:
        for one, other in zip((*results[name], experts[name]), (*results["ours"], experts["ours"]), strict=True):
            error = float(torch.linalg.vector_norm((one - other).float()) / torch.linalg.vector_norm(other.float()))
            if error > (1e-5 if device == "cpu" else 5e-2):
                raise RuntimeError(f"{name} differs from our layer by {error:.0e}")
    works = {
        name: lambda _, module=module, function=function: both_ways(module, function, x_MD, upstream_MD)
        for name, (module, function) in found.items()
    }
    return in_turns(works, device, repeats)


def main() -> None:
    given = arguments(__doc__, repeats=20).parse_args()
    torch.set_num_threads(1)
    found = []
    print("| width, experts, tokens | | ms | over ours | quartiles |\n|---|---|---|---|---|")
    for shape in GPU_SHAPES if given.device == "cuda" else CPU_SHAPES:
        width, k, tokens = shape
        times = measured(shape, given.device, given.repeats)
        for name, took_s in times.items():
            key = "loop" if "loop" in name else "sorted_products"
            one = ratio(f"moe_layer_vs_{key}_w{width}_k{k}", took_s, times["ours"], given.device)
            spread = one if name != "ours" else "1 |"
            experts = f"{k} of {k * SPARSITY}"
            print(f"| {width}, {experts}, {tokens} | {name} | {milliseconds(took_s):.1f} | {spread} |", flush=True)
            found += [one] if name != "ours" else []
    add_results(given.json, found)


if __name__ == "__main__":
    main()
