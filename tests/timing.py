"""Times of things that take turns, their ratios with a spread, and the file in which `make bench` gathers these."""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

WARM_UP = 3
"""Turns that are not counted: memory is found, kernels are chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """How many times one thing is another: the median over turns, with its quartiles."""

    name: str
    ratio: float
    low: float
    high: float
    device: str

    def __str__(self) -> str:
        return f"{self.ratio:.2f} | {self.low:.2f} – {self.high:.2f}"


def arguments(description: str, repeats: int) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--json", type=Path)
    return parser


def seconds(work: Callable[[], object], device: str) -> float:
    """What one call takes; on a GPU until its last operation has ended."""
    wait(device)
    began = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - began


def in_turns(
    works: Mapping[str, Callable[[int], object]], device: str, repeats: int, warm_up: int = WARM_UP
) -> dict[str, list[float]]:
    """Seconds of each turn of each work, which is called with the number of the turn: A B A B …"""
    found: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(warm_up + repeats):
        for name, work in works.items():
            took_s = seconds(lambda work=work, turn=turn: work(turn), device)
            if turn >= warm_up:
                found[name].append(took_s)
    return found


def ratio(name: str, over: Sequence[float], under: Sequence[float], device: str) -> Ratio:
    """`over` in multiples of `under`, turn by turn."""
    each = [a / b for a, b in zip(over, under, strict=True)]
    low, middle, high = statistics.quantiles(each, n=4) if len(each) > 1 else each * 3
    return Ratio(name=name, ratio=middle, low=low, high=high, device=device)


def milliseconds(times: Sequence[float]) -> float:
    return 1000 * statistics.median(times)


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def add_results(path: Path | None, found: Sequence[Ratio]) -> None:
    """Add to the file that all benchmarks of one `make bench` write."""
    if path is None:
        return
    known = json.loads(path.read_text())["results"] if path.exists() else []
    path.write_text(json.dumps({"results": [*known, *map(asdict, found)]}, indent=1) + "\n")
