"""Newton–Schulz of many matrices with a short side, one program each: a few launches whatever their number.

The polynomial of `kernels.gram`, with the coefficients of HyperP's code (arXiv 2603.28743): G = XXᵀ, Pₖ = aₖI + bₖGₖ +
cₖGₖ², Gₖ₊₁ = PₖGₖPₖ, X made anew after the second step. The n × n iteration stays in registers; X is read three times
in all. Products take three TF32 products each on tensor cores, which keeps float32's digits to about 2⁻²¹. In a half
precision X is rounded to it once, and nothing else is.

Largest errors against float64, matrices of 64 × 256, ours and the reference's: random, 3e-7 and 7e-7 in float32, 7e-5
and 3e-4 in float16; of rank 4 but for singular values of 1e-4 of the largest, 3e-6 and 3e-6, 7e-3 and 9e-3. Those are
of Triton's interpreter, whose products are exact float32; emulated products of TF32 err by up to 1.5e-5 in the second.
"""

from functools import cache
from itertools import pairwise

import torch
from torch import Tensor

from kernels import gram
from kernels.gram import RESTARTS
from kernels.reference import NEWTON_SCHULZ, TINY

SHORT = 64
"""Up to this short side the iteration fits into the registers of four warps without a spill (compiled for sm_90)."""
LEAST = 16
"""The least side that Triton multiplies."""
COLUMNS = 32
"""Of X, held at once."""
ROUNDED = (torch.float32, torch.bfloat16, torch.float16)


def newton_schulz(u: Tensor, steps: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    """As `kernels.reference.newton_schulz`; matrices that are too large go to `kernels.gram`."""
    if min(u.shape[-2:]) > SHORT or dtype not in ROUNDED or u.dtype == torch.float64 or not steps or not u.numel():
        return gram.newton_schulz(u, steps, dtype)
    from kernels.triton import programs

    u = u.contiguous()
    (rows, columns), matrices = u.shape[-2:], u.shape[:-2].numel()
    n, m = min(rows, columns), max(rows, columns)
    sides = (n, m, columns, 1) if rows <= columns else (n, m, 1, columns)
    padded = max(LEAST, 1 << (n - 1).bit_length())
    x = torch.empty_like(u, dtype=torch.float32)
    square, product = (x.new_empty(matrices, padded, padded) for _ in range(2))
    table, held = _coefficients(steps, u.device), {"N": padded, "M": COLUMNS}
    programs.normalise[(matrices,)](u, x, square, *sides, n * m, TINY, ROUNDED=programs.element_type(dtype), **held)
    for start, stop in pairwise([0, *(step for step in RESTARTS if step < steps), steps]):
        programs.multiply_factors[(matrices,)](square, product, table, start, stop, N=padded)
        programs.advance[(matrices,)](x, square, product, *sides, n * m, GRAM=stop < steps, **held)
    return x.to(u.dtype)


@cache
def _coefficients(steps: int, device: torch.device) -> Tensor:
    last = len(NEWTON_SCHULZ) - 1
    return torch.tensor([NEWTON_SCHULZ[min(step, last)] for step in range(steps)], dtype=torch.float32, device=device)
