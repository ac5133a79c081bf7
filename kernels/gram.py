"""Newton–Schulz on the Gram matrix of wide matrices: the same polynomial in less work.

With G = XXᵀ (n × n) and Pₖ = aₖI + bₖGₖ + cₖGₖ², the reference's step is X ← PₖX. Pₖ and Gₖ commute, so Gₖ₊₁ =
PₖGₖPₖ, and the product of the Pₖ needs no m: X meets a product of its own size four times, where the reference takes
ten. Of m = 4n that is 58 n³ operations instead of 90.

Small eigenvalues of G are squares of small singular values, and what rounding leaves of them grows sixteenfold a
step: X and G are made anew after the second. So in float32 it errs like the reference, also where singular values are
1e-4 of the largest (`tests/unit/kernels/test_gram.py` holds both to float64); without, by a hundred times as much.
Half precisions take the reference.
"""

import torch
from torch import Tensor

from kernels import reference
from kernels.reference import NEWTON_SCHULZ, TINY

WIDE = 2
"""From this ratio of the sides on the Gram matrix is less work."""
RESTARTS = (2,)
"""Steps after which X and G are made anew."""
EXACT = (torch.float32, torch.float64)


def newton_schulz(u: Tensor, steps: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    """As `kernels.reference.newton_schulz`."""
    n, m = min(u.shape[-2:]), max(u.shape[-2:])
    if m < WIDE * n or dtype not in EXACT or steps < 2:
        return reference.newton_schulz(u, steps, dtype)
    tall = u.shape[-2] > u.shape[-1]
    x: Tensor = (u / (torch.linalg.matrix_norm(u, keepdim=True) + TINY)).to(dtype)
    x = x.reshape(-1, *u.shape[-2:])
    gram = x.mT @ x if tall else x @ x.mT
    product: Tensor | None = None
    for step in range(steps):
        a, b, c = NEWTON_SCHULZ[min(step, len(NEWTON_SCHULZ) - 1)]
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        product = factor if product is None else factor @ product
        if step + 1 in RESTARTS and step + 1 < steps:
            x = x @ product if tall else product @ x
            gram, product = x.mT @ x if tall else x @ x.mT, None
        elif step + 1 < steps:
            gram = factor @ gram @ factor
    assert product is not None  # noqa: S101
    x = x @ product if tall else product @ x
    return x.reshape(u.shape).to(u.dtype)
