"""The program that test_train.py starts as a process of its own, to be killed, or to be one rank of several.

Usage: train_child.py CASES.pickle RESULT.jsonl — trains each case in turn; every row and outcome becomes a JSON line.
"""

import json
import pickle
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from model.config import Execution
from model.train import Member, train


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """An observer that writes every row at once."""

    lines: TextIO

    def metrics(self, _member: int, row: Mapping[str, float]) -> None:
        print(json.dumps({"row": row}), file=self.lines, flush=True)

    def progress(self, _member: int, _step: int, _steps: int, _tokens_per_s: float) -> None:
        pass


def main() -> None:
    cases = pickle.loads(Path(sys.argv[1]).read_bytes())  # noqa: S301 - written by the test itself
    with Path(sys.argv[2]).open("a") as lines:
        for folder, config, execution, stops_after_asking in cases:
            asked = iter(range(10**9))

            def should_stop(asked=asked, limit=stops_after_asking) -> bool:
                return next(asked) + 1 >= limit

            settings = Execution(device="cpu", log_every=1, **execution)
            (outcome,) = train([Member(config=config, checkpoints=folder)], settings, Writer(lines=lines), should_stop)
            print(json.dumps({"outcome": asdict(outcome)}), file=lines, flush=True)


if __name__ == "__main__":
    main()
