"""What scale vectors cost: the time of a whole training step with each strategy over one with the usual vectors.

A step is forward, backward and update, in float32 on a CPU and bfloat16 on a GPU. Strategies take turns within a
repeat, so that what else the machine does meets all of them; a ratio is of two steps of one repeat. `fold=never` is
what scaling activations costs instead of weights.

    python tests/benchmarks/scale_vectors.py [--device cuda] [--repeats 9] [--json FILE]
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from kernels.primitives import cross_entropy
from model.config import (
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
    Rates,
    ScheduleConfig,
    Seeds,
    TrainConfig,
    VectorsConfig,
)
from model.optimizer import Optimizer, make_optimizer
from model.shape import model_shape
from model.transformer import Transformer

UNIFIED = VectorsConfig(hetero=True, placement="dnp", reparam="or", wd_input=1.0)
STRATEGIES = {
    "standard": VectorsConfig(),
    "noscale": VectorsConfig(enabled=False),
    "hg": VectorsConfig(hetero=True),
    "hg, fold=never": VectorsConfig(hetero=True, fold="never"),
    "dp": VectorsConfig(placement="dp"),
    "dnp": VectorsConfig(placement="dnp"),
    "unified": UNIFIED,
    "unified, fold=never": replace(UNIFIED, fold="never"),
}
CPU_MODEL = ModelConfig(
    width=256, depth=2, head_size=64, attention_ratio=1, kv_heads=4, mlp_ratio=3, vocab=512, context=256, qk_norm=False
)
GPU_MODEL = replace(CPU_MODEL, width=2048, depth=8, head_size=128, kv_heads=16, vocab=32_000, context=2048)
SEQUENCES = 4


def configured(model: ModelConfig, vectors: VectorsConfig, device: str) -> TrainConfig:
    return TrainConfig(
        model=replace(model, vectors=vectors),
        optimizer=OptimizerConfig(name="adamw", weight_decay=1e-3),
        schedule=ScheduleConfig(),
        data=DataConfig(),
        evaluation=EvaluationConfig(),
        seed=Seeds(),
        rates=Rates(hidden=1e-4, head=1e-4, embedding=1e-4, vector=1e-4, weight_decay=1e-4),
        tokens=SEQUENCES * model.context,
        batch_tokens=SEQUENCES * model.context,
        precision="bfloat16" if device == "cuda" else "float32",
    )


def step(model: Transformer, optimizer: Optimizer, tokens: torch.Tensor) -> None:
    optimizer.zero_grad()
    cross_entropy(model(tokens[:, :-1]), tokens[:, 1:]).backward()
    optimizer.step(1.0)


def timed(device: str, repeats: int) -> Iterator[tuple[str, list[float], int]]:
    """Strategy, seconds of each step, and what it adds to the parameters of the usual vectors."""
    base = GPU_MODEL if device == "cuda" else CPU_MODEL
    tokens = torch.randint(base.vocab, (SEQUENCES, base.context + 1), device=device)
    ready = {}
    for name, vectors in STRATEGIES.items():
        train = configured(base, vectors, device)
        model = Transformer(train.model, train.rates, seed=1, dtype=getattr(torch, train.precision)).to(device)
        ready[name] = (model, make_optimizer(model, train), [])
        for _ in range(3):
            step(*ready[name][:2], tokens)
    for _ in range(repeats):
        for model, optimizer, seconds in ready.values():
            _synchronise(device)
            start = time.perf_counter()
            step(model, optimizer, tokens)
            _synchronise(device)
            seconds.append(time.perf_counter() - start)
    usual = model_shape(base).params_total
    for name, (model, _, seconds) in ready.items():
        yield name, seconds, model_shape(model.config).params_total - usual


def _synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.manual_seed(0)
    rows = list(timed(given.device, given.repeats))
    usual = rows[0][1]
    total = model_shape(GPU_MODEL if given.device == "cuda" else CPU_MODEL).params_total
    found = []
    print("| strategy | step, ms | over the usual | fastest – slowest | parameters |\n|---|---|---|---|---|")
    for name, seconds, added in rows:
        ratios = [one / other for one, other in zip(seconds, usual, strict=True)]
        middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
        milliseconds = 1000 * statistics.median(seconds)
        print(f"| {name} | {milliseconds:.1f} | {middle:.3f} | {low:.3f} – {high:.3f} | {added / total:+.2%} |")
        key = f"vectors_{name.replace(', fold=', '_fold_')}_step"
        found.append({"name": key, "ratio": middle, "low": low, "high": high, "device": given.device})
    if given.json:
        known = json.loads(given.json.read_text())["results"] if given.json.exists() else []
        given.json.write_text(json.dumps({"results": [*known, *found]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
