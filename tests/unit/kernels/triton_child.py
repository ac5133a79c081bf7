"""Calls functions of `kernels.triton`, under Triton's interpreter where TRITON_INTERPRET=1, which Triton reads once.

    python triton_child.py CALLS RESULTS

Both are files of torch: a list of (module, function, arguments), and of each call its arguments afterwards and what it
returned.
"""

import sys
from importlib import import_module

import torch


def main() -> None:
    calls, results = sys.argv[1:]
    found = []
    for module, function, arguments in torch.load(calls, weights_only=False):
        value = getattr(import_module(f"kernels.triton.{module}"), function)(*arguments)
        found.append((arguments, value))
    torch.save(found, results)


if __name__ == "__main__":
    main()
