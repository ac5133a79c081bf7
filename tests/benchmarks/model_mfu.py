"""Whole training steps: tokens/s, FLOP/s, and their share of what this device does in matrix products at best.

The ceiling is measured first and again before every model, since clocks move: the best of several sizes, float32 on a
CPU and bfloat16 on a GPU. A step is data, forward, backward, clipping and MuonH's update. FLOPs are causal training
FLOPs without the embedding lookup (`flops_per_token_causal`), those of the optimiser not among them. A ratio is the
share of the ceiling; on a GPU the share of its dense peak, the usual MFU, is printed beside it.

    python tests/benchmarks/model_mfu.py [--device cuda] [--repeats 20] [--json FILE]
"""

import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from timing import Ratio, add_results, arguments, seconds

from model.config import (
    DataConfig,
    EvaluationConfig,
    Execution,
    ModelConfig,
    OptimizerConfig,
    Rates,
    ScheduleConfig,
    Seeds,
    TrainConfig,
)
from model.devices import peak_flops
from model.shape import model_shape
from model.trial import stepper

CPU = ModelConfig(width=64, depth=2, head_size=32, kv_heads=2, vocab=256, context=256)
CPU_MODELS = {
    "dense_d2": replace(CPU, width=64, depth=2),
    "dense_d4": replace(CPU, width=128, depth=4),
    "dense_d8": replace(CPU, width=256, depth=8),
    "moe_k8_d4": replace(CPU, width=128, depth=4, mlp="moe", top_k=8, sparsity=8),
}
"""Width 32 · depth: a quarter of HyperP's, with bytes for tokens."""
GPU = ModelConfig()
GPU_MODELS = {
    "dense_d8": (GPU, 16),
    "dense_d16": (replace(GPU, width=2048, depth=16), 4),
    "dense_d24": (replace(GPU, width=3072, depth=24), 2),
    "moe_k8_d16": (replace(GPU, width=2048, depth=16, mlp="moe", top_k=8, sparsity=8), 2),
}
"""HyperP's ladder (arXiv 2603.28743 §4), width 128 · depth, and the sequences of a pass."""
CPU_TOKENS, GPU_TOKENS = 2048, 262_144
"""Of a step."""
CPU_PRODUCTS, GPU_PRODUCTS = (512, 1024, 2048), (4096, 8192, 16_384)
"""Sides of the square matrices whose product is the ceiling."""
PRODUCTS = 10
"""Of each size, the fastest counts: a ceiling is what can be reached."""
TOKENS = 50_000_000
"""Random ones, below the smallest vocabulary, as shards on a disk."""
RATE = 0.01


def ceiling(device: str) -> float:
    """FLOP/s of the best matrix product."""
    best = 0.0
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    for n in GPU_PRODUCTS if device == "cuda" else CPU_PRODUCTS:
        a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
        out = torch.empty_like(a)
        times = [seconds(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), device) for _ in range(3 + PRODUCTS)]
        best = max(best, 2 * n**3 / min(times[3:]))
    return best


def configured(model: ModelConfig, device: str, path: str) -> TrainConfig:
    tokens = GPU_TOKENS if device == "cuda" else CPU_TOKENS
    return TrainConfig(
        model=model,
        optimizer=OptimizerConfig(ns_dtype="bfloat16" if device == "cuda" else "float32"),
        schedule=ScheduleConfig(),
        data=DataConfig(source="shards", path=path),
        evaluation=EvaluationConfig(),
        seed=Seeds(),
        rates=Rates(hidden=RATE, head=RATE, embedding=RATE, vector=RATE),
        tokens=1000 * tokens,
        batch_tokens=tokens,
        precision="bfloat16" if device == "cuda" else "float32",
    )


def rows(device: str, repeats: int, path: str) -> Iterator[Ratio]:
    """Prints a line for each model."""
    peak = peak_flops(torch.cuda.get_device_name() if device == "cuda" else "cpu")
    models = GPU_MODELS if device == "cuda" else {label: (model, 0) for label, model in CPU_MODELS.items()}
    print("| model | parameters | tokens/s | GFLOP/s | of the ceiling | quartiles | of the peak |")
    print("|---|---|---|---|---|---|---|")
    for label, (model, micro_batch) in models.items():
        train, shape = configured(model, device, path), model_shape(model)
        try:
            step = stepper(train, Execution(device=device, micro_batch=micro_batch))
            times = [step(number) for number in range(2 + repeats)][2:]
        except torch.OutOfMemoryError:
            print(f"| {label} | {shape.params / 1e6:,.1f} M | does not fit into memory | | | | |", flush=True)
            continue
        finally:
            step = None  # its memory is the next one's
        work = train.batch_tokens * shape.flops_per_token_causal
        best = ceiling(device)
        low, middle, high = (work / took_s / best for took_s in reversed(statistics.quantiles(times, n=4)))
        took_s = statistics.median(times)
        speed, flops = train.batch_tokens / took_s, work / took_s
        print(
            f"| {label} | {shape.params / 1e6:,.1f} M | {speed:,.0f} | {flops / 1e9:,.1f} | {middle:.1%} "
            f"| {low:.1%} – {high:.1%} | {f'{flops / peak:.1%}' if peak else ''} |",
            flush=True,
        )
        yield Ratio(name=f"mfu_{label}", ratio=middle, low=low, high=high, device=device)


def main() -> None:
    given = arguments(__doc__, repeats=20).parse_args()
    torch.set_num_threads(1)
    name = torch.cuda.get_device_name() if given.device == "cuda" else "a CPU with one thread"
    print(f"{name}: a matrix product does {ceiling(given.device) / 1e9:,.0f} GFLOP/s\n")
    with tempfile.TemporaryDirectory() as folder:
        tokens = np.random.default_rng(0).integers(0, CPU.vocab, TOKENS, dtype="<u2")
        tokens.tofile(Path(folder) / "tokens.bin")
        found = list(rows(given.device, given.repeats, folder))
    add_results(given.json, found)


if __name__ == "__main__":
    main()
