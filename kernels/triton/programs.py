"""What runs on the GPU, one program per block; the only module that imports Triton.

Formulas and sources stand beside the functions that launch these programs. Sums and products are in float32 whatever
the tensors hold. A name in capitals is known when a program is compiled.
"""

from typing import Any

import torch
import triton
import triton.language as tl


def element_type(dtype: torch.dtype) -> Any:
    """Triton's name of a dtype of torch."""
    return getattr(tl, str(dtype).removeprefix("torch."))


@triton.jit
def normalise(
    u_ptr,
    x_ptr,
    gram_ptr,
    n,
    m,
    stride_n,
    stride_m,
    size,
    tiny,
    ROUNDED: tl.constexpr,
    N: tl.constexpr,
    M: tl.constexpr,
):
    """X = u/(‖u‖ + tiny) and its Gram matrix, of one matrix of n rows, n ≤ N, of which M columns are held at once."""
    rows, columns = tl.arange(0, N)[:, None], tl.arange(0, M)[None, :]
    places = tl.program_id(0).to(tl.int64) * size + rows * stride_n + columns * stride_m
    squares = tl.zeros((N, M), dtype=tl.float32)
    for start in range(0, m, M):
        inside = (rows < n) & (columns < m - start)
        u = tl.load(u_ptr + places + start * stride_m, mask=inside, other=0.0).to(tl.float32)
        squares += u * u
    norm = tl.sqrt(tl.sum(tl.sum(squares, axis=1), axis=0)) + tiny
    gram = tl.zeros((N, N), dtype=tl.float32)
    for start in range(0, m, M):
        inside = (rows < n) & (columns < m - start)
        u = tl.load(u_ptr + places + start * stride_m, mask=inside, other=0.0).to(tl.float32)
        x = (u / norm).to(ROUNDED).to(tl.float32)
        tl.store(x_ptr + places + start * stride_m, x, mask=inside)
        gram = tl.dot(x, tl.trans(x), gram, input_precision="tf32x3")
    tl.store(gram_ptr + square_places(N), gram)


@triton.jit
def multiply_factors(gram_ptr, product_ptr, coefficients_ptr, start, stop, N: tl.constexpr):
    """The product of the factors of the steps `start` to `stop`, from the Gram matrix before them."""
    gram = tl.load(gram_ptr + square_places(N))
    factor = factor_of(gram, coefficients_ptr + 3 * start, N)
    product = factor
    for step in range(start + 1, stop):
        gram = tl.dot(factor, tl.dot(gram, factor, input_precision="tf32x3"), input_precision="tf32x3")
        factor = factor_of(gram, coefficients_ptr + 3 * step, N)
        product = tl.dot(factor, product, input_precision="tf32x3")
    tl.store(product_ptr + square_places(N), product)


@triton.jit
def advance(
    x_ptr,
    gram_ptr,
    product_ptr,
    n,
    m,
    stride_n,
    stride_m,
    size,
    GRAM: tl.constexpr,
    N: tl.constexpr,
    M: tl.constexpr,
):
    """X ← PX in place, and where more steps follow its Gram matrix."""
    rows, columns = tl.arange(0, N)[:, None], tl.arange(0, M)[None, :]
    places = tl.program_id(0).to(tl.int64) * size + rows * stride_n + columns * stride_m
    product = tl.load(product_ptr + square_places(N))
    gram = tl.zeros((N, N), dtype=tl.float32)
    for start in range(0, m, M):
        inside = (rows < n) & (columns < m - start)
        x = tl.load(x_ptr + places + start * stride_m, mask=inside, other=0.0)
        x = tl.dot(product, x, input_precision="tf32x3")
        tl.store(x_ptr + places + start * stride_m, x, mask=inside)
        if GRAM:
            gram = tl.dot(x, tl.trans(x), gram, input_precision="tf32x3")
    if GRAM:
        tl.store(gram_ptr + square_places(N), gram)


@triton.jit
def factor_of(gram, abc_ptr, N: tl.constexpr):
    """aI + bG + cG²."""
    a, b, c = tl.load(abc_ptr), tl.load(abc_ptr + 1), tl.load(abc_ptr + 2)
    diagonal = tl.arange(0, N)[:, None] == tl.arange(0, N)[None, :]
    return tl.where(diagonal, a, 0.0) + b * gram + c * tl.dot(gram, gram, input_precision="tf32x3")


@triton.jit
def square_places(N: tl.constexpr):
    """Of the elements of this program's N × N matrix."""
    return tl.program_id(0).to(tl.int64) * N * N + tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]


@triton.jit
def sphere_sums(
    weights_ptr, direction_ptr, sums_ptr, size, spheres, per_program, ELEMENT: tl.constexpr, BLOCK: tl.constexpr
):
    """⟨W,W⟩, ⟨W,D⟩ and ⟨D,D⟩ over `per_program` elements, a multiple of BLOCK, of one sphere of `size` elements.

    Each weight is `spheres` of them, one after another, at an address of its own.
    """
    sphere, part, parts = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    weight_ptr = tl.load(weights_ptr + sphere // spheres).to(tl.pointer_type(ELEMENT), bitcast=True)
    weight_ptr = tl.multiple_of(weight_ptr, 16) + sphere % spheres * size
    direction_ptr += sphere * size
    ww = tl.zeros((BLOCK,), dtype=tl.float32)
    wd = tl.zeros((BLOCK,), dtype=tl.float32)
    dd = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(part.to(tl.int64) * per_program, tl.minimum((part.to(tl.int64) + 1) * per_program, size), BLOCK):
        places = start + tl.arange(0, BLOCK)
        w = tl.load(weight_ptr + places, mask=places < size, other=0.0).to(tl.float32)
        d = tl.load(direction_ptr + places, mask=places < size, other=0.0).to(tl.float32)
        ww += w * w
        wd += w * d
        dd += d * d
    sums_ptr += (sphere * parts + part) * 3
    tl.store(sums_ptr, tl.sum(ww, axis=0))
    tl.store(sums_ptr + 1, tl.sum(wd, axis=0))
    tl.store(sums_ptr + 2, tl.sum(dd, axis=0))


@triton.jit
def sphere_move(
    weights_ptr,
    direction_ptr,
    sums_ptr,
    length_ptr,
    radius_ptr,
    size,
    spheres,
    per_program,
    tiny,
    floor,
    ELEMENT: tl.constexpr,
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
):
    """The step of what `sphere_sums` has summed, in place. PARTS: a power of two, at least the programs of a sphere."""
    sphere, part, parts = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    each = tl.arange(0, PARTS)
    sums_ptr += (sphere * parts + each) * 3
    ww = tl.sum(tl.load(sums_ptr, mask=each < parts, other=0.0), axis=0)
    wd = tl.sum(tl.load(sums_ptr + 1, mask=each < parts, other=0.0), axis=0)
    dd = tl.sum(tl.load(sums_ptr + 2, mask=each < parts, other=0.0), axis=0)
    scale = tl.load(length_ptr + sphere) / tl.maximum(tl.sqrt(dd), tiny)
    far = scale * scale * dd
    moved = tl.sqrt(tl.maximum(ww - 2 * scale * wd + far, floor * (ww + far)))
    back = tl.load(radius_ptr + sphere) / tl.maximum(moved, tiny)

    weight_ptr = tl.load(weights_ptr + sphere // spheres).to(tl.pointer_type(ELEMENT), bitcast=True)
    weight_ptr = tl.multiple_of(weight_ptr, 16) + sphere % spheres * size
    direction_ptr += sphere * size
    for start in range(part.to(tl.int64) * per_program, tl.minimum((part.to(tl.int64) + 1) * per_program, size), BLOCK):
        places = start + tl.arange(0, BLOCK)
        w = tl.load(weight_ptr + places, mask=places < size, other=0.0).to(tl.float32)
        d = tl.load(direction_ptr + places, mask=places < size, other=0.0).to(tl.float32)
        tl.store(weight_ptr + places, ((w - scale * d) * back).to(ELEMENT), mask=places < size)
