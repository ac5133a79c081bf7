"""The step on the sphere in place: one pass that reads, one that reads and writes, two launches for all parameters.

HyperP eq. 2 (arXiv 2603.28743), W ← R·W̃/‖W̃‖ with W̃ = W − sD and s = ηR/‖D‖, needs ‖W̃‖ before W̃ is written. In
closed form

    ‖W̃‖² = ‖W‖² − 2s⟨W,D⟩ + s²‖D‖²

so that the first pass adds up three numbers for each sphere, and the second writes (W − sD)·R/‖W̃‖. Partial sums are
added in a fixed order: the step repeats itself bit for bit.

The sum cancels where a long step goes straight back: ‖W̃‖ is at least |1 − η|R, and its relative error that of the
sums times ((1 + η)/(1 − η))² at most, 1.5 times at η = 0.1, 9 times at 0.5. Up to there elements in float32 err by 2e-7
of the largest against float64, as the reference's do; straight back at η = 0.9 by 4e-6, at 0.99 by 3e-4. Nearer to 1
nothing may be left of ‖W̃‖: it is taken as `FLOOR` at least, so that no weight leaves its sphere outwards, and the next
step, which measures ‖W‖ anew, brings it back (`tests/unit/kernels/test_triton.py`).
"""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from kernels.reference import TINY

BLOCK = 2048
"""Elements that a program of four warps holds at once, 16 in each thread."""
PROGRAMS = 2048
"""About as many are started: 16 for each of the 132 multiprocessors of an H100, all of its 64 warps (CUDA programming
guide, compute capability 9.0)."""
FLOOR = 2.0**-20
"""Least ‖W̃‖² over ‖W‖² + s²‖D‖²: eight times what rounding to float32 leaves of them."""
ALIGNED_BYTES = 16
"""What every weight's address must be a multiple of, as those of torch's allocations are."""
ELEMENTS = (torch.float32, torch.bfloat16, torch.float16)


def takes(weights: Sequence[Tensor]) -> bool:
    """Whether these weights can be moved in place."""
    return all(
        w.dtype in ELEMENTS and w.is_contiguous() and w.data_ptr() % ALIGNED_BYTES == 0 and w.numel() for w in weights
    )


def sphere_step_(weights: Sequence[Tensor], direction: Tensor, rate: float | Tensor, radius: Tensor) -> None:
    """`kernels.reference.sphere_step` of weights of one shape, which it changes.

    Args:
        weights: Matrices on spheres, each (…, out, in).
        direction: Of all weights, stacked along a first dimension.
        rate: As the reference's.
        radius: Of each sphere of the stack, shape (weights, …, 1, 1); a sphere of several matrices has one radius.
    """
    from kernels.triton import programs

    first, direction = weights[0], direction.contiguous()
    spheres = radius.numel()
    size = direction.numel() // spheres
    parts = min(-(-size // BLOCK), max(1, PROGRAMS // spheres))
    per_program = -(-size // (parts * BLOCK)) * BLOCK
    parts = -(-size // per_program)
    addresses = _addresses(tuple(w.data_ptr() for w in weights), first.device)
    sums = torch.empty(spheres, parts, 3, device=first.device)
    lengths, radii = ((value * radius).float().reshape(-1) for value in (rate, 1.0))
    shared = {"ELEMENT": programs.element_type(first.dtype), "BLOCK": BLOCK}
    split = (size, spheres // len(weights), per_program)
    programs.sphere_sums[(spheres, parts)](addresses, direction, sums, *split, **shared)
    programs.sphere_move[(spheres, parts)](
        addresses, direction, sums, lengths, radii, *split, TINY, FLOOR, PARTS=1 << (parts - 1).bit_length(), **shared
    )


@cache
def _addresses(of: tuple[int, ...], device: torch.device) -> Tensor:
    """On the device, and for good: a captured graph reads them at every replay."""
    return torch.tensor(of, dtype=torch.int64, device=device)
