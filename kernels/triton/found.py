"""Whether Triton can serve a device here."""

import os
from functools import cache
from importlib.util import find_spec

import torch

LEAST_CAPABILITY = (8, 0)
"""Products of TF32 run on GPUs of compute capability 8.0 on."""


@cache
def lacking(device: torch.device) -> str:
    """Why the programs of `kernels.triton` cannot run on this device; empty where they can.

    Triton's interpreter (TRITON_INTERPRET=1) runs them on a CPU, slowly.
    """
    if find_spec("triton") is None:
        return "Triton is not installed; pip install 'sweeper-lm[gpu]'"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return ""
    if device.type != "cuda":
        return f"Triton needs a GPU, and the device is {device.type}"
    found = torch.cuda.get_device_capability(device)
    if found < LEAST_CAPABILITY:
        return "the GPU has compute capability {}.{}, and {}.{} is needed".format(*found, *LEAST_CAPABILITY)
    return ""
