import errno
from pathlib import Path

import pytest
import torch

from model.distributed import PeerLost
from model.faults import fault

MORE_THAN_ANY_ADDRESS = 2**50


def raised(action):
    """The error that `action` raises."""
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - which one is what the tests are about
        action()
    return caught.value


def write_to_a_full_disk():
    with Path("/dev/full").open("wb") as file:
        file.write(b"0")


@pytest.mark.parametrize(
    "action",
    [lambda: torch.empty(MORE_THAN_ANY_ADDRESS, dtype=torch.uint8), lambda: bytearray(MORE_THAN_ANY_ADDRESS)],
    ids=["torch", "python"],
)
def test_an_allocation_that_the_host_refuses_is_a_lack_of_memory(action):
    assert fault(raised(action)) == "memory"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: out of memory"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
    ids=lambda error: str(error)[:24],
)
def test_what_gpus_and_the_system_say_of_memory_is_known(error):
    assert fault(error) == "memory"


def test_a_full_disk_is_a_fault_of_the_disk():
    error = raised(write_to_a_full_disk)
    assert error.errno == errno.ENOSPC
    assert fault(error) == "disk"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk"),
        (RuntimeError("unable to write to file </torch_1>: No space left on device (28)"), "disk"),
        (PeerLost("rank 0 of 2 lost another rank"), "peer"),
        (PermissionError(errno.EACCES, "Permission denied"), ""),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ""),
        (ValueError("no loss is given"), ""),
        (KeyboardInterrupt(), ""),
    ],
    ids=lambda value: str(value)[:24],
)
def test_other_errors_are_told_apart(error, kind):
    assert fault(error) == kind


def test_an_error_counts_as_its_cause_unless_it_is_a_fault_itself():
    assert fault(raised(lambda: raise_from(ValueError("no batch"), MemoryError()))) == "memory"
    assert fault(raised(lambda: raise_from(PeerLost("gone"), RuntimeError("out of memory")))) == "peer"


def raise_from(error, cause):
    raise error from cause
