"""The one seam between the model and its kernels: the implementation of each primitive that training uses.

`model` imports its primitives from here only, but for those of `kernels.triton`, which are the caller's choice. A
faster kernel is one file beside `reference.py` and one line here; this is a module of its own so that importing the
package `kernels` needs no torch.
"""

from kernels.chunked import linear_cross_entropy
from kernels.gram import newton_schulz
from kernels.grouped import grouped_linear
from kernels.in_place import sphere_step_
from kernels.reference import (
    causal_logsumexp,
    cross_entropy,
    embedding,
    joint_radius,
    linear,
    matrix_radius,
    rms_norm,
)

__all__ = [
    "causal_logsumexp",
    "cross_entropy",
    "embedding",
    "grouped_linear",
    "joint_radius",
    "linear",
    "linear_cross_entropy",
    "matrix_radius",
    "newton_schulz",
    "rms_norm",
    "sphere_step_",
]
