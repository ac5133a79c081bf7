"""What devices can do and hold: dense bfloat16 peaks of GPUs by the names that torch gives them, memory; no torch."""

import os
import shutil
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

PEAKS = (
    ("B200", 2.25e15),  # NVIDIA DGX B200 datasheet: eight do 36 PFLOP/s dense in FP8, half of that in bfloat16
    ("H200", 9.89e14),  # NVIDIA H200 datasheet
    ("H100 PCIe", 7.56e14),  # NVIDIA H100 datasheet
    ("H100", 9.89e14),  # the same, SXM
    ("A100", 3.12e14),  # NVIDIA A100 datasheet
    ("L40S", 3.62e14),  # NVIDIA L40S datasheet
)
"""Part of a name and FLOP/s, without sparsity; the first that fits counts."""


def peak_flops(device: str) -> float | None:
    """Dense bfloat16 FLOP/s of a device by its name; None where it is not known.

    >>> peak_flops("NVIDIA H100 80GB HBM3"), peak_flops("cpu")
    (989000000000000.0, None)
    """
    return next((peak for name, peak in PEAKS if name in device), None)


def machine_memory(group: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes of memory that this machine has, or that its container may take (cgroup v2)."""
    has = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # no container, or `max`
        return min(has, int((group / "memory.max").read_text()))
    return has


def why_not_compiled(kind: str) -> str:
    """What `torch.compile` lacks on this machine for `cpu` or `cuda`; empty where it lacks nothing."""
    if kind == "cuda":
        if find_spec("triton") is None:
            return "compiling for a GPU needs triton, which is not installed here"
        name, words = os.environ.get("CC", ""), ("cc", "gcc", "clang")
        if not any(shutil.which(word) for word in ((name,) if name else words)):
            return f"triton needs a C compiler, and there is no {name or 'gcc'} here"
        return ""
    name = os.environ.get("CXX", "g++")
    return "" if shutil.which(name) else f"compiling for a CPU needs a C++ compiler, and there is no {name} here"
