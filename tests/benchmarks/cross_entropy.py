"""The loss of many logits, forward and backward: in chunks as training makes it, against logits that exist at once.

Baselines are F.linear with F.cross_entropy in float32, and torch's own F.linear_cross_entropy where it has one (torch
2.13, whose loss of bfloat16 is bfloat16). Time is taken in turns. Memory is the peak beyond the inputs, gradients of
them included: on a CPU of a process for each, by the kernel's high-water mark; on a GPU by torch's.

    python tests/benchmarks/cross_entropy.py [--device cuda] [--repeats 20] [--json FILE]
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from timing import Ratio, add_results, arguments, in_turns, milliseconds, ratio, wait

from kernels import primitives

CPU_SHAPES = ((4096, 64, 32_768), (16_384, 64, 32_768))
"""Rows, width and vocabulary: 2²⁷ logits, the fewest that are made in chunks, and four times as many, of which only the
memory is measured.
"""
GPU_SHAPES = ((32_768, 1024, 32_000), (32_768, 2048, 50_304), (65_536, 1024, 50_304))

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def composed(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(x, weight.to(x.dtype)).float(), targets)


def torchs(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.linear_cross_entropy(x, weight.to(x.dtype), targets)


KINDS: dict[str, Loss] = {"ours": primitives.linear_cross_entropy, "F.cross_entropy": composed}
if hasattr(F, "linear_cross_entropy"):
    KINDS["F.linear_cross_entropy"] = torchs


def inputs(shape: tuple[int, int, int], device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Activations, a weight in float32 and targets; on a GPU activations are bfloat16, as in training."""
    rows, width, vocab = shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, width, generator=generator).to(device, torch.bfloat16 if device == "cuda" else torch.float32)
    weight = (0.5 * torch.randn(vocab, width, generator=generator)).to(device)
    targets = torch.randint(vocab, (rows,), generator=generator).to(device)
    return x.requires_grad_(), weight.requires_grad_(), targets


def both_ways(loss: Loss, x: Tensor, weight: Tensor, targets: Tensor) -> float:
    """Leaves gradients in `x` and `weight`."""
    x.grad = weight.grad = None
    value = loss(x, weight, targets)
    value.backward()
    return value.item()


def peak_bytes(kind: str, shape: tuple[int, int, int], device: str) -> int:
    """Beyond the inputs."""
    if device == "cuda":
        given = inputs(shape, device)
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        both_ways(KINDS[kind], *given)
        wait(device)
        return torch.cuda.max_memory_allocated() - before
    command = [sys.executable, __file__, "--peak", kind, "--shape", *map(str, shape)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def own_peak_bytes(kind: str, shape: tuple[int, int, int]) -> int:
    """Of this process, which does nothing else."""
    torch.set_num_threads(1)
    both_ways(KINDS[kind], *inputs((64, shape[1], 512), "cpu"))  # the libraries that it needs are loaded
    given = inputs(shape, "cpu")
    Path("/proc/self/clear_refs").write_text("5")  # forget the high-water mark
    before = _resident("VmRSS")
    both_ways(KINDS[kind], *given)
    return _resident("VmHWM") - before


def _resident(line: str) -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(one.split()[1]) for one in status if one.startswith(line + ":"))


def errors(shape: tuple[int, int, int], device: str) -> dict[str, tuple[float, float]]:
    """Of the loss, nats, and the largest of a gradient over its largest element, against float64 in parts."""
    x, weight, targets = inputs(shape, device)
    exact_x, exact_weight = (t.detach().double().requires_grad_() for t in (x, weight))
    exact = 0.0
    for start in range(0, len(x), 1024):
        rows = slice(start, start + 1024)
        part = F.cross_entropy(F.linear(exact_x[rows], exact_weight), targets[rows], reduction="sum") / len(x)
        part.backward()
        exact += part.item()
    found = {}
    for name, loss in KINDS.items():
        value = both_ways(loss, x, weight, targets)
        worst = max(
            float((one.grad.double() - right.grad).abs().max() / right.grad.abs().max())
            for one, right in ((x, exact_x), (weight, exact_weight))
        )
        found[name] = (abs(value - exact), worst)
    return found


def measured(
    shape: tuple[int, int, int], device: str, repeats: int
) -> tuple[dict[str, list[float]], dict[str, tuple[float, float]]]:
    """Seconds of each kind in turns, and the errors of each."""
    tensors = inputs(shape, device)
    works = {kind: lambda _, loss=loss: both_ways(loss, *tensors) for kind, loss in KINDS.items()}
    return in_turns(works, device, repeats, warm_up=1), errors(shape, device)


def main() -> None:
    parser = arguments(__doc__, repeats=20)
    parser.add_argument("--peak", choices=KINDS, help="print the peak of one kind and nothing else")
    parser.add_argument("--shape", nargs=3, type=int)
    given = parser.parse_args()
    if given.peak:
        print(own_peak_bytes(given.peak, tuple(given.shape)))
        return
    torch.set_num_threads(1)
    found: list[Ratio] = []
    print(
        "| rows, width, vocabulary | | peak, MiB | over ours | ms | over ours | quartiles | error, nats | gradients |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for shape in GPU_SHAPES if given.device == "cuda" else CPU_SHAPES:
        size = "x".join(map(str, shape))
        peaks = {kind: peak_bytes(kind, shape, given.device) for kind in KINDS}
        timed = given.device == "cuda" or shape == CPU_SHAPES[0]
        times, wrong = measured(shape, given.device, given.repeats) if timed else ({}, {})
        for kind in KINDS:
            baseline = kind.lower().replace(".", "_")
            over = peaks[kind] / peaks["ours"]
            line = f"| {', '.join(map(str, shape))} | {kind} | {peaks[kind] / 2**20:,.0f} | {over:.2f} |"
            name = f"cross_entropy_memory_vs_{baseline}_{size}"
            rows = [Ratio(name=name, ratio=over, low=over, high=over, device=given.device)]
            if timed:
                rows.append(ratio(f"cross_entropy_vs_{baseline}_{size}", times[kind], times["ours"], given.device))
                loss, gradient = wrong[kind]
                line += f" {milliseconds(times[kind]):.0f} | {rows[-1]} | {loss:.0e} | {gradient:.0e} |"
            else:
                line += " | | | | |"
            print(line, flush=True)
            found += rows if kind != "ours" else []
    add_results(given.json, found)


if __name__ == "__main__":
    main()
