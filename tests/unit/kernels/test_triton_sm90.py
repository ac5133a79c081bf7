"""What the compiler makes of the Triton programs for an H100 or H200, which needs no GPU."""

import re
import subprocess
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from kernels.triton import newton_schulz, programs, sphere_step  # noqa: E402

WARPS = 4
"""Triton's default, which the launches keep."""
REGISTERS = 255
"""Of a thread at most; a program of four warps may use them all."""
POINTERS = ("u_ptr", "x_ptr", "gram_ptr", "product_ptr", "weights_ptr", "direction_ptr")
SPHERE = {"ELEMENT": "float32", "BLOCK": sphere_step.BLOCK}


def signature(program, constants):
    """Types of the arguments as a launch finds them: addresses of float32, numbers."""

    def of(name):
        if name in constants:
            return "constexpr"
        if name.endswith("_ptr"):
            return "*i64" if name == "weights_ptr" else "*fp32"
        return "fp32" if name in ("tiny", "floor") else "i32"

    return {name: of(name) for name in program.arg_names}


def compiled(program, folder, **constants):
    """Registers of a thread, bytes of them that are spilled to memory, and PTX, for compute capability 9.0.

    Strides of 1 are constants and other sizes multiples of 16, as for the shapes of a model.
    """
    named = {name: getattr(programs.tl, v) if isinstance(v, str) else v for name, v in constants.items()}
    types = signature(program, named)
    sizes = ("m", "size", "stride_n", "stride_m", "per_program")
    even = [name for name, kind in types.items() if kind != "constexpr" and name in (*POINTERS, *sizes)]
    attrs = {(program.arg_names.index(name),): [["tt.divisibility", 16]] for name in even}
    source = ASTSource(program, types, constexprs=named, attrs=attrs)
    kernel = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": WARPS})
    ptx = folder / "program.ptx"
    ptx.write_text(kernel.asm["ptx"])
    ptxas = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    told = subprocess.run(
        [ptxas, "-v", "-arch=sm_90a", ptx, "-o", folder / "program.cubin"], capture_output=True, text=True, check=True
    ).stderr
    (registers,), stores, loads = (
        [int(found) for found in re.findall(pattern, told)]
        for pattern in (r"Used (\d+) registers", r"(\d+) bytes spill stores", r"(\d+) bytes spill loads")
    )
    assert stores, f"ptxas says nothing of spills: {told}"
    return registers, sum(stores) + sum(loads), kernel.asm["ptx"]


def matrices():
    """Each program of Newton–Schulz at each size, for wide and tall matrices; the largest size is the hardest."""
    for side in (newton_schulz.LEAST, 32, newton_schulz.SHORT):
        marks = [] if side == newton_schulz.SHORT else [pytest.mark.slow]
        held = {"N": side, "M": newton_schulz.COLUMNS}
        for way, stride in (("wide", "stride_m"), ("tall", "stride_n")):
            for name, constants in (
                ("normalise", {**held, "ROUNDED": "bfloat16", stride: 1}),
                ("advance", {**held, "GRAM": True, stride: 1}),
                ("advance", {**held, "GRAM": False, stride: 1}),
            ):
                yield pytest.param(name, constants, marks=marks, id=f"{name} {way} {side} {constants.get('GRAM', '')}")
        yield pytest.param("multiply_factors", {"N": side}, marks=marks, id=f"multiply_factors {side}")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))


@pytest.mark.parametrize(("name", "constants"), list(matrices()))
def test_newton_schulz_compiles_without_spills(tmp_path, name, constants):
    registers, spilled, _ = compiled(getattr(programs, name), tmp_path, **constants)
    assert spilled == 0
    assert registers <= REGISTERS


@pytest.mark.parametrize(("name", "constants"), [("sphere_sums", SPHERE), ("sphere_move", {**SPHERE, "PARTS": 2048})])
def test_the_step_on_the_sphere_compiles_without_spills_and_moves_16_bytes_at_a_time(tmp_path, name, constants):
    registers, spilled, ptx = compiled(getattr(programs, name), tmp_path, **constants)
    assert spilled == 0
    assert registers <= 128  # as many as leave room for four programs on a multiprocessor
    assert "ld.global.v4" in ptx
    assert name == "sphere_sums" or "st.global.v4" in ptx
