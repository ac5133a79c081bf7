"""The program that test_train.py starts as a process of its own, to be killed, or to be one rank of several.

Usage: train_child.py CASES.pickle RESULT.jsonl — trains each case in turn; every row and outcome becomes a JSON line.
With LOOK_STEPS, LOOK_S, STEP_S and CLOCK in the environment, a CPU is looked at as seldom as a GPU, a step lasts that
much longer, and the clock of this process runs at that rate. With COLLECTIVES, that file gets a line for every step of
the optimiser: what ranks said to each other, each operation as often as it was called. With MAY_WRITE another attempt
takes over once it was asked for so many times, and with ROOM no file can be longer than so many bytes.
"""

import itertools
import json
import os
import pickle
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from torch.utils._python_dispatch import TorchDispatchMode

import model.rounds
import model.train
from model.config import Execution
from model.optimizer import Optimizer
from model.train import Member, train


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """An observer that writes every row at once."""

    lines: TextIO

    def metrics(self, _member: int, row: Mapping[str, float]) -> None:
        print(json.dumps({"row": row}), file=self.lines, flush=True)

    def progress(self, _member: int, _step: int, _steps: int, _tokens_per_s: float) -> None:
        pass

    def note(self, _member: int, text: str) -> None:
        print(json.dumps({"note": text}), file=self.lines, flush=True)


def look_seldom() -> None:
    """Set the interval between looks from the environment, and make steps long and the clock wrong."""
    model.train.LOOK_STEPS["cpu"] = int(os.environ["LOOK_STEPS"])
    model.train.LOOK_S = float(os.environ["LOOK_S"])
    monotonic, step = time.monotonic, model.train.take_step

    def slow_step(*arguments: Any) -> Any:
        time.sleep(float(os.environ["STEP_S"]))
        return step(*arguments)

    model.train.take_step = slow_step
    time.monotonic = lambda: monotonic() * float(os.environ["CLOCK"])


class Collectives(TorchDispatchMode):
    """Notes the collectives of torch while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace in ("c10d", "_c10d_functional"):
            self.seen.append(func.name())
        return func(*args, **(kwargs or {}))


def note_collectives(file: Path) -> None:
    """Write the collectives of every step of the optimiser, clipping included."""
    clip, step = Optimizer.clip, Optimizer.step
    clipped: list[str] = []

    def noting_clip(self: Optimizer, max_norm: float) -> Any:
        with Collectives() as collectives:
            norm = clip(self, max_norm)
        clipped[:] = collectives.seen
        return norm

    def noting_step(self: Optimizer, multiplier: float, **how: Any) -> Any:
        with Collectives() as collectives:
            squares = step(self, multiplier, **how)
        with file.open("a") as lines:
            print(json.dumps(clipped + collectives.seen), file=lines)
        return squares

    Optimizer.clip, Optimizer.step = noting_clip, noting_step  # type: ignore[method-assign]


def main() -> None:
    if "LOOK_STEPS" in os.environ:
        look_seldom()
    if "COLLECTIVES" in os.environ:
        note_collectives(Path(os.environ["COLLECTIVES"]))
    if "ROUND_ELEMENTS" in os.environ:
        model.rounds.ROUND_ELEMENTS = int(os.environ["ROUND_ELEMENTS"])
    if "ROOM" in os.environ:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(os.environ["ROOM"]), resource.RLIM_INFINITY))
    writes = itertools.count()
    cases = pickle.loads(Path(sys.argv[1]).read_bytes())  # noqa: S301 - written by the test itself
    with Path(sys.argv[2]).open("a") as lines:
        for folder, config, execution, stops_after_asking in cases:
            asked = iter(range(10**9))

            def should_stop(asked=asked, limit=stops_after_asking) -> bool:
                return next(asked) + 1 >= limit

            def may_write(_member: int) -> bool:
                return next(writes) < int(os.environ.get("MAY_WRITE", "1000000"))

            settings = Execution(device="cpu", log_every=1, **execution)
            member = Member(config=config, checkpoints=folder)
            (outcome,) = train([member], settings, Writer(lines=lines), should_stop, may_write=may_write)
            print(json.dumps({"outcome": asdict(outcome)}), file=lines, flush=True)


if __name__ == "__main__":
    main()
