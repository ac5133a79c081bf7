"""Triton's programs against what the trainer uses without them, and MuonH's step with both, eager and as a CUDA graph.

Each pair takes turns within a repeat, between CUDA events and with the L2 cache emptied before, and ends at the same
numbers, which is checked first. `execution.triton` stays off by default until these tables say that it pays.

    python tests/benchmarks/triton_kernels.py --device cuda [--repeats 30] [--json FILE]
"""

import argparse
import json
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from muonh_step import GPU_MODELS, RATES, configured
from torch import Tensor

from kernels.primitives import matrix_radius, newton_schulz
from kernels.reference import sphere_step
from kernels.triton.found import lacking as lacking_triton
from kernels.triton.newton_schulz import newton_schulz as newton_schulz_triton
from kernels.triton.sphere_step import sphere_step_ as sphere_step_triton
from model.config import ModelConfig
from model.optimizer import Optimizer, make_optimizer
from model.transformer import Transformer

MATRICES = {
    "8 routers of 64 × 1024": (8, 64, 1024),
    "64 matrices of 16 × 64": (64, 16, 64),
    "512 experts of 64 × 64": (512, 64, 64),
    "512 experts of 256 × 64": (512, 256, 64),
    "4096 experts of 32 × 128": (4096, 32, 128),
}
WEIGHTS = {
    "8 × (1024, 1024)": (8, 1024, 1024),
    "8 × (4096, 1024)": (8, 4096, 1024),
    "8 × 63 experts of (512, 1024)": (8, 63, 512, 1024),
    "a head of (50304, 1024)": (1, 50304, 1024),
}
CACHE_BYTES = 2**28
"""Written before each call, several times the L2 cache of an H100 or H200 (50 MB, NVIDIA datasheet)."""
WARM_UP = 5

Step = Callable[[], object]


def pair_of_newton_schulz(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Step, Step]:
    u = torch.randn(shape, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    exact = newton_schulz(u.double(), 5, torch.float64)
    ours, theirs = (
        (function(u, 5, dtype).double() - exact).abs().max().item()
        for function in (newton_schulz_triton, newton_schulz)
    )
    assert ours < max(3 * theirs, 5e-6), (ours, theirs)
    return lambda: newton_schulz_triton(u, 5, dtype), lambda: newton_schulz(u, 5, dtype)


def pair_of_sphere_steps(shape: tuple[int, ...]) -> tuple[Step, Step]:
    generator = torch.Generator("cuda").manual_seed(0)
    start, direction = (torch.randn(shape, device="cuda", generator=generator) for _ in range(2))
    radius = matrix_radius(start)
    ours, theirs = ([weight.clone() for weight in start] for _ in range(2))

    def replaced() -> None:
        moved = sphere_step(torch.stack(theirs), direction, 0.02, radius)
        torch._foreach_copy_(theirs, moved.unbind())

    def fused() -> None:
        sphere_step_triton(ours, direction, 0.02, radius)

    fused()
    replaced()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    return fused, replaced


def steps_of(model: ModelConfig) -> dict[str, Step]:
    """A step of MuonH in four ways, each on weights of its own that start and move alike."""
    train = configured(model, "cuda")
    made: dict[str, Step] = {}
    weights: list[list[Tensor]] = []
    for triton in (False, True):
        for graphed in (False, True):
            module = Transformer(model, RATES, seed=1).to("cuda")
            generator = torch.Generator("cuda").manual_seed(0)
            for weight in module.parameters():
                weight.grad = torch.randn(weight.shape, device="cuda", generator=generator)
            optimizer = make_optimizer(module, train, triton=triton)
            step = graph_of(optimizer) if graphed else lambda one=optimizer: one.step(1.0)
            step()
            weights.append([weight.detach().clone() for weight in module.parameters()])
            made[f"{'triton' if triton else 'torch'}{', graph' if graphed else ''}"] = step
    # The first step of a graph is its second: the warm-up moved it once.
    for one, other in ((weights[0], weights[2]), (weights[1], weights[3])):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b, rtol=5e-2, atol=5e-2)
    return made


def graph_of(optimizer: Optimizer) -> Step:
    optimizer.fill(1.0)
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        optimizer.filled_step()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.filled_step()

    def replay() -> None:
        optimizer.fill(1.0)
        graph.replay()

    return replay


def compare(steps: Mapping[str, Step], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each, in turns."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    cache = torch.empty(CACHE_BYTES, dtype=torch.uint8, device="cuda")
    for repeat in range(WARM_UP + repeats):
        for name, step in steps.items():
            cache.zero_()
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            step()
            stop.record()
            torch.cuda.synchronize()
            if repeat >= WARM_UP:
                found[name].append(start.elapsed_time(stop))
    return found


def row(name: str, ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Print a row of a table; what `--json` writes of it."""
    ratios = [other / one for one, other in zip(ours, theirs, strict=True)]
    middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
    times = [statistics.median(each) for each in (ours, theirs)]
    print(f"| {name} | {times[0]:.3f} | {times[1]:.3f} | {middle:.2f} | {low:.2f} – {high:.2f} |", flush=True)
    return {"name": name, "ratio": middle, "low": low, "high": high, "device": torch.cuda.get_device_name()}


def head(what: str, ours: str, theirs: str) -> None:
    print(f"\n| {what} | {ours}, ms | {theirs}, ms | {theirs} / {ours} | lowest – highest |\n|---|---|---|---|---|")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.device == "cpu" or not torch.cuda.is_available():
        print("Triton's programs are for GPUs: run this with --device cuda on a machine that has one")
        return
    if why := lacking_triton(torch.device("cuda", torch.cuda.current_device())):
        raise SystemExit(why)
    found = []
    head("Newton–Schulz", "Triton", "torch")
    for dtype in (torch.float32, torch.bfloat16):
        for name, shape in MATRICES.items():
            ours, theirs = compare(
                dict(zip("ab", pair_of_newton_schulz(shape, dtype), strict=True)), given.repeats
            ).values()
            found.append(row(f"{name}, {str(dtype).removeprefix('torch.')}", ours, theirs))
    head("step on the sphere", "Triton", "torch")
    for name, shape in WEIGHTS.items():
        ours, theirs = compare(dict(zip("ab", pair_of_sphere_steps(shape), strict=True)), given.repeats).values()
        found.append(row(name, ours, theirs))
    head("MuonH's step", "this", "torch, eager")
    for name, model in GPU_MODELS.items():
        times = compare(steps_of(model), given.repeats)
        found += [row(f"{name}, {way}", each, times["torch"]) for way, each in times.items() if way != "torch"]
    if given.json:
        known = json.loads(given.json.read_text())["results"] if given.json.exists() else []
        given.json.write_text(json.dumps({"results": [*known, *found]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
