"""One MuonH step: equal shapes stacked, as training does it, against a composition that moves matrix after matrix.

The baseline is what one would write with torch alone (HyperP eq. 2, arXiv 2603.28743): for each matrix momentum,
Newton–Schulz by plain products, then the step on the sphere; the other parameters by `torch.optim.AdamW`. Both move the
same gradients, take turns within a repeat, and end at the same weights, which is checked first.

    python tests/benchmarks/muonh_step.py [--device cuda] [--repeats 15] [--json FILE]
"""

import argparse
import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from kernels.reference import NEWTON_SCHULZ
from model.config import (
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
    Rates,
    ScheduleConfig,
    Seeds,
    TrainConfig,
)
from model.optimizer import make_optimizer, rule
from model.parameters import parameters
from model.transformer import Transformer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from timing import seconds

DENSE = ModelConfig(width=64, depth=8, head_size=16, kv_heads=2, vocab=256, context=128)
MODELS = {
    "width 32": replace(DENSE, width=32),
    "width 64": DENSE,
    "width 128": replace(DENSE, width=128),
    "width 64, 64 experts": replace(DENSE, mlp="moe", top_k=8, sparsity=8),
}
GPU_MODELS = {
    "d = 8": replace(DENSE, width=1024, head_size=128, kv_heads=4),
    "d = 8, 64 experts": replace(DENSE, width=1024, head_size=128, kv_heads=4, mlp="moe", top_k=8, sparsity=8),
}
RATES = Rates(hidden=0.02, head=0.02, embedding=0.02, vector=0.02)


def configured(model: ModelConfig, device: str) -> TrainConfig:
    return TrainConfig(
        model=model,
        optimizer=OptimizerConfig(ns_dtype="bfloat16" if device == "cuda" else "float32"),
        schedule=ScheduleConfig(),
        data=DataConfig(),
        evaluation=EvaluationConfig(),
        seed=Seeds(),
        rates=RATES,
        tokens=model.context,
        batch_tokens=model.context,
    )


class PerMatrix:
    """MuonH matrix by matrix."""

    def __init__(self, model: Transformer, train: TrainConfig) -> None:
        weights = dict(model.named_parameters())
        role = {p.name: p.role for p in parameters(train.model)}
        self.dtype = getattr(torch, train.optimizer.ns_dtype)
        self.muon = [w for n, w in weights.items() if rule(train.optimizer, role[n]) == "muonh"]
        self.adamh = [w for n, w in weights.items() if rule(train.optimizer, role[n]) == "adamh"]
        rest = [w for n, w in weights.items() if rule(train.optimizer, role[n]) == "adamw"]
        settings = {"lr": RATES.hidden, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.0}
        self.adamw = torch.optim.AdamW(rest, **settings)
        self.momentum = [torch.zeros_like(w) for w in self.muon]
        self.moments = [(torch.zeros_like(w), torch.zeros_like(w)) for w in self.adamh]
        self.steps = 0

    @torch.no_grad()
    def step(self) -> None:
        self.steps += 1
        for weight, momentum in zip(self.muon, self.momentum, strict=True):
            assert weight.grad is not None
            momentum.mul_(0.95).add_(weight.grad)
            update = weight.grad.add(momentum, alpha=0.95)
            matrices = zip(*(t.view(-1, *t.shape[-2:]) for t in (weight, update)), strict=True)
            for matrix, one in matrices:
                _move(matrix, self._orthogonal(one))
        for weight, (mean, square) in zip(self.adamh, self.moments, strict=True):
            assert weight.grad is not None
            mean.lerp_(weight.grad, 0.1)
            square.mul_(0.95).addcmul_(weight.grad, weight.grad, value=0.05)
            unbiased = (square / (1 - 0.95**self.steps)).sqrt() + 1e-8
            _move(weight, mean / (1 - 0.9**self.steps) / unbiased)
        self.adamw.step()

    def _orthogonal(self, update: Tensor) -> Tensor:
        x = (update / (update.norm() + 1e-8)).to(self.dtype)
        tall = x.shape[0] > x.shape[1]
        x = x.T if tall else x
        for a, b, c in NEWTON_SCHULZ:
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
        return (x.T if tall else x).to(update.dtype)


def _move(weight: Tensor, direction: Tensor) -> None:
    """The step on the sphere of one matrix."""
    radius = weight.norm()
    moved = weight - RATES.hidden * radius * direction / direction.norm()
    weight.copy_(moved * radius / moved.norm())


def compare(model: ModelConfig, device: str, repeats: int) -> tuple[list[float], list[float]]:
    """Seconds of our step and of the baseline's."""
    train = configured(model, device)
    ours, theirs = (Transformer(model, RATES, seed=1).to(device) for _ in range(2))
    optimizer, plain = make_optimizer(ours, train), PerMatrix(theirs, train)
    generator = torch.Generator().manual_seed(0)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        a.grad = torch.randn(a.shape, generator=generator).to(device)
        b.grad = a.grad.clone()
    optimizer.step(1.0)
    plain.step()
    tolerance = 1e-4 if device == "cpu" else 5e-2
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 3):
        for found, step in zip(times, (lambda: optimizer.step(1.0), plain.step), strict=True):
            taken = seconds(step, device)
            if repeat >= 3:
                found.append(taken)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    print("| model | ours, ms | per matrix, ms | per matrix / ours | fastest – slowest |\n|---|---|---|---|---|")
    for name, model in (GPU_MODELS if given.device == "cuda" else MODELS).items():
        ours, theirs = compare(model, given.device, given.repeats)
        ratios = [other / one for one, other in zip(ours, theirs, strict=True)]
        middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
        times = [1000 * statistics.median(seconds) for seconds in (ours, theirs)]
        print(f"| {name} | {times[0]:.2f} | {times[1]:.2f} | {middle:.2f} | {low:.2f} – {high:.2f} |")
        key = "muonh_step_vs_per_matrix" if name in ("width 64", "d = 8") else f"muonh_step_vs_per_matrix, {name}"
        found.append({"name": key, "ratio": middle, "low": low, "high": high, "device": given.device})
    if given.json:
        known = json.loads(given.json.read_text())["results"] if given.json.exists() else []
        given.json.write_text(json.dumps({"results": [*known, *found]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
