"""What kind of trouble an error is, for those who decide whether and how to try again."""

import errno
from collections.abc import Iterator
from typing import Literal

import torch

from model.distributed import PeerLost

Fault = Literal["memory", "disk", "peer", ""]

MEMORY_TEXTS = (
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "out of memory",
    "_STATUS_ALLOC_FAILED",
)
"""What torch's CPU allocator, CUDA, cuBLAS and cuDNN say in a plain RuntimeError when memory is short."""


def fault(error: BaseException) -> Fault:
    """`memory` (of host or GPU), `disk` (full, or over its quota), `peer` (another rank is gone), or none of them.

    An error that was raised from another counts as its cause unless it is a fault itself.

    >>> fault(OSError(errno.ENOSPC, "No space left on device")), fault(ValueError("nan"))
    ('disk', '')
    """
    return next((kind for one in _chain(error) if (kind := _kind(one))), "")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _kind(error: BaseException) -> Fault:
    if isinstance(error, PeerLost):
        return "peer"
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "memory"
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return "disk"
        return "memory" if error.errno == errno.ENOMEM else ""
    if isinstance(error, RuntimeError):
        text = str(error)
        if any(known in text for known in MEMORY_TEXTS):
            return "memory"
        # torch's own writers pass the words of the system on, not its number.
        return "disk" if "No space left on device" in text else ""
    return ""
