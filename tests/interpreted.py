"""Functions that run Triton's programs on a CPU: in a process of their own, because Triton decides once whether to.

Sums and products are right in float32 and float16 only.
"""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model import config

ROOT = Path(__file__).parents[1]

Call = tuple[str, str, tuple[Any, ...]]
"""Module, function, arguments."""


def interpreted(folder: Path, calls: Sequence[Call]) -> list[tuple[tuple[Any, ...], Any]]:
    """Of each call its arguments afterwards, and what it returned."""
    given, found = folder / "calls.pt", folder / "results.pt"
    torch.save(list(calls), given)
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    environment = {**os.environ, "PYTHONPATH": path, "TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, __file__, given, found], env=environment, check=True, timeout=250)
    results: list[tuple[tuple[Any, ...], Any]] = read(found)
    return results


def read(path: Path | str) -> Any:
    """Tensors, numbers and configurations, without unpickling anything else."""
    with torch.serialization.safe_globals([kind for kind in vars(config).values() if dataclasses.is_dataclass(kind)]):
        return torch.load(path, weights_only=True)


def after_steps(train: Any, triton: bool, filled: bool) -> dict[str, Tensor]:
    """The weights of a model after three steps of its optimiser along gradients of their own.

    Args:
        train: Of a run, or of each member of a stack.
        triton: As `model.optimizer.make_optimizer`'s.
        filled: Whether numbers come from the device.
    """
    from model.optimizer import make_optimizer
    from model.transformer import Transformer

    one, seed = (train[0], list(range(len(train)))) if isinstance(train, list) else (train, 1)
    model = Transformer(one.model, one.rates, seed=seed)
    optimizer = make_optimizer(model, train, triton=triton)
    generator = torch.Generator().manual_seed(0)
    for step in range(3):
        for weight in model.parameters():
            weight.grad = torch.randn(weight.shape, generator=generator)
        if filled:
            optimizer.fill(1 - 0.2 * step)
            optimizer.filled_step()
        else:
            optimizer.step(1 - 0.2 * step, measured=step == 1)
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def main() -> None:
    calls, results = sys.argv[1:]
    found = []
    for module, function, arguments in read(calls):
        found.append((arguments, getattr(import_module(module), function)(*arguments)))
    torch.save(found, results)


if __name__ == "__main__":
    main()
