"""Learning rates trained together as one stack against runs by themselves, a process of one thread on each core.

That is the best one can do without stacks on CPUs; also reported is one process with all threads. Stack and baseline
take turns within a repeat, and all processes do the same at the same time. On a GPU one process trains either. Times
are those of training steps alone: data, forward, backward, clipping and update.

    python tests/benchmarks/fused_axis.py [--device cuda] [--members 8] [--repeats 25] [--json FILE]
"""

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch

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
from model.trial import stepper

CPU_SHAPES = ((32, 2, 64, 256), (32, 2, 64, 512), (64, 2, 64, 256), (64, 2, 128, 2048), (128, 2, 128, 2048))
"""Width, depth, context and tokens of a step."""
GPU_SHAPES = ((64, 4, 512, 4096), (128, 4, 512, 8192), (256, 8, 1024, 16_384))
STEPS = 4
"""Of each kind in a repeat."""


def configs(shape: tuple[int, int, int, int], members: int, device: str) -> list[TrainConfig]:
    width, depth, context, tokens = shape
    model = ModelConfig(width=width, depth=depth, head_size=16, kv_heads=2, vocab=256, context=context)
    rates = [0.01 * 1.2**i for i in range(members)]
    return [
        TrainConfig(
            model=model,
            optimizer=OptimizerConfig(ns_dtype="bfloat16" if device == "cuda" else "float32"),
            schedule=ScheduleConfig(),
            data=DataConfig(source="synthetic"),
            evaluation=EvaluationConfig(),
            seed=Seeds(),
            rates=Rates(hidden=lr, head=lr, embedding=lr, vector=lr),
            tokens=1000 * tokens,
            batch_tokens=tokens,
            precision="bfloat16" if device == "cuda" else "float32",
        )
        for lr in rates
    ]


def measure(shape: tuple[int, int, int, int], members: int, repeats: int, device: str, meet, results) -> None:
    """Seconds of a step of the stack and of one run, a pair for each repeat; `meet` lets processes begin together."""
    torch.set_num_threads(1)
    found = configs(shape, members, device)
    execution = Execution(device=device)
    kinds = [stepper(found, execution), stepper(found[0], execution)]
    for kind in kinds:
        for number in range(3):
            kind(number)
    times = []
    for repeat in range(repeats):
        pair = []
        for kind in kinds:
            meet.wait()
            pair.append(statistics.fmean(kind(repeat * STEPS + i) for i in range(STEPS)))
        times.append(pair)
    results.put(times)


def with_all_threads(shape: tuple[int, int, int, int], repeats: int) -> float:
    """Median seconds of a step of one run that has all cores."""
    torch.set_num_threads(os.cpu_count() or 1)
    step = stepper(configs(shape, 1, "cpu")[0], Execution(device="cpu"))
    return statistics.median(step(i) for i in range(3 + repeats))


def pairs(shape: tuple[int, int, int, int], members: int, repeats: int, device: str) -> list[tuple[float, float]]:
    """Of each repeat, the mean over processes of the seconds of both kinds."""
    processes = 1 if device == "cuda" else os.cpu_count() or 1
    context = multiprocessing.get_context("spawn")
    meet, results = context.Barrier(processes), context.Queue()
    workers = [
        context.Process(target=measure, args=(shape, members, repeats, device, meet, results)) for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    found = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    return [
        (statistics.fmean(t[0] for t in of_repeat), statistics.fmean(t[1] for t in of_repeat))
        for of_repeat in zip(*found, strict=True)
    ]


def rows(
    members: int, repeats: int, device: str
) -> Iterator[tuple[tuple[int, int, int, int], list[float], float, float]]:
    """Shape, gain of each repeat, tokens per second of one process training a stack, and the gain over all threads."""
    for shape in GPU_SHAPES if device == "cuda" else CPU_SHAPES:
        found = pairs(shape, members, repeats, device)
        gains = [members * alone / together for together, alone in found]
        together = statistics.median(pair[0] for pair in found)
        over_threads = float("nan")
        if device == "cpu":
            processes = os.cpu_count() or 1
            over_threads = processes * members * with_all_threads(shape, repeats) / together
        yield shape, gains, members * shape[-1] / together, over_threads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    found, began = [], time.monotonic()
    print("| width, depth, tokens per step | gain | quartiles | tokens/s of a process | over all threads |")
    print("|---|---|---|---|---|")
    for shape, gains, speed, over_threads in rows(given.members, given.repeats, given.device):
        low, middle, high = statistics.quantiles(gains, n=4)
        width, depth, _, tokens = shape
        gain = f"{middle:.2f} | {low:.2f} – {high:.2f}"
        print(f"| {width}, {depth}, {tokens} | {gain} | {speed:,.0f} | {over_threads:.2f} |", flush=True)
        first = (width, tokens) == (32, 256)
        name = f"fused_axis_w{width}" + ("" if first else f"_t{tokens}") + "_vs_concurrent_single_thread"
        found.append({"name": name, "ratio": middle, "low": low, "high": high, "device": given.device})
    print(f"\n{given.members} members, {time.monotonic() - began:.0f} s")
    if given.json:
        known = json.loads(given.json.read_text())["results"] if given.json.exists() else []
        given.json.write_text(json.dumps({"results": [*known, *found]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
