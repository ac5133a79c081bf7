"""Newton–Schulz: time and accuracy of what training uses, of the plain iteration by precision, and of torch's Muon.

Each takes a stack of matrices at once; torch's Muon takes them one by one, in bfloat16, as `torch.optim.Muon` does. The
error is ‖O − exact‖ / ‖exact‖ in the Frobenius norm against the same polynomial in float64 (torch's Muon has one of its
own), of random matrices and of ill-conditioned ones: rank n/8 and noise of 1e-4 beside it.

    python tests/benchmarks/newton_schulz.py [--device cuda] [--repeats 20] [--json FILE]
"""

import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from timing import add_results, arguments, in_turns, milliseconds, ratio

from kernels import primitives, reference

try:  # a private function of torch: without it a row is missing
    from torch.optim._muon import _zeropower_via_newtonschulz as torch_muon
except ImportError:
    torch_muon = None

CPU_SHAPES = ((8, 64, 64), (8, 64, 256), (8, 64, 1024), (8, 128, 512), (8, 128, 1024), (4, 256, 256), (4, 256, 1024))
"""Matrices, and the sides of each."""
GPU_SHAPES = ((64, 128, 1024), (64, 512, 1024), (8, 1024, 1024), (8, 1024, 8192), (8, 2048, 16_384), (4, 3072, 24_576))
MUON = (3.4445, -4.7750, 2.0315)
"""The coefficients of `torch.optim.Muon`, for every step."""
ROTATED_BYTES = {"cpu": 2**24, "cuda": 2**27}
"""Inputs take turns so that none is found in a cache: as many as fill this."""

Kind = Callable[[Tensor], Tensor]


def kinds(device: str) -> dict[str, Kind]:
    """By name; the first is what training uses."""
    usual = torch.bfloat16 if device == "cuda" else torch.float32
    found: dict[str, Kind] = {"ours": partial(primitives.newton_schulz, dtype=usual)}
    if usual != torch.float32:
        found["ours, float32"] = partial(primitives.newton_schulz, dtype=torch.float32)
    for name in ("float32", "bfloat16", "float16"):
        found[f"plain, {name}"] = partial(reference.newton_schulz, dtype=getattr(torch, name))
    if torch_muon is not None:
        found["torch.optim.Muon"] = one_by_one
    return found


def one_by_one(u: Tensor) -> Tensor:
    return torch.stack([torch_muon(matrix, MUON, 5, 1e-7) for matrix in u])


def exact(u: Tensor, coefficients: tuple[tuple[float, float, float], ...]) -> Tensor:
    """The polynomial in float64, matrix after matrix."""
    x = u.double() / torch.linalg.matrix_norm(u.double(), keepdim=True)
    for a, b, c in coefficients:
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x


def inputs(shape: tuple[int, int, int], device: str, rank: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    batch, n, m = shape
    u = torch.randn(shape, generator=generator)
    if rank:
        left, right = (torch.randn(batch, *s, generator=generator) for s in ((n, rank), (rank, m)))
        u = left @ right / rank**0.5 + 1e-4 * u
    return u.to(device)


def measured(shape: tuple[int, int, int], device: str, repeats: int) -> dict[str, list[float]]:
    """Seconds of each kind; CPUs only emulate float16, whose time says nothing there."""
    timed = {name: kind for name, kind in kinds(device).items() if device == "cuda" or "float16" not in name.split()}
    rotated = len(timed) + max(1, ROTATED_BYTES[device] // (4 * math.prod(shape)))
    copies = [inputs(shape, device) for _ in range(rotated)]

    def work(place: int, kind: Kind) -> Callable[[int], Tensor]:
        return lambda turn: kind(copies[(turn * len(timed) + place) % rotated])

    works = {name: work(place, kind) for place, (name, kind) in enumerate(timed.items())}
    return in_turns(works, device, repeats)


def errors(name: str, kind: Kind, shape: tuple[int, int, int], device: str) -> tuple[float, float]:
    """Relative, of random and of ill-conditioned matrices."""
    coefficients = (MUON,) * 5 if name == "torch.optim.Muon" else reference.NEWTON_SCHULZ
    found = []
    for rank in (0, shape[1] // 8):
        u = inputs((1, *shape[1:]), device, rank)
        right = exact(u, coefficients)
        found.append(float(torch.linalg.norm(kind(u).double() - right) / torch.linalg.norm(right)))
    return found[0], found[1]


def slug(name: str) -> str:
    return name.replace(",", "").replace("torch.optim.", "torch ").replace(" × ", "x").replace(" ", "_").lower()


def main() -> None:
    given = arguments(__doc__, repeats=20).parse_args()
    torch.set_num_threads(1)
    found = []
    print("| matrices | | ms | over ours | quartiles | error | ill-conditioned |\n|---|---|---|---|---|---|---|")
    for shape in GPU_SHAPES if given.device == "cuda" else CPU_SHAPES:
        size = " × ".join(map(str, shape))
        times = measured(shape, given.device, given.repeats)
        for name, kind in kinds(given.device).items():
            error, ill = errors(name, kind, shape, given.device)
            spent = "| |"
            if name in times:
                one = ratio(f"newton_schulz_vs_{slug(name)}_{slug(size)}", times[name], times["ours"], given.device)
                spent = f"{milliseconds(times[name]):.2f} | {one if name != 'ours' else '1 |'}"
                found += [one] if name != "ours" else []
            print(f"| {size} | {name} | {spent} | {error:.0e} | {ill:.0e} |", flush=True)
    add_results(given.json, found)


if __name__ == "__main__":
    main()
