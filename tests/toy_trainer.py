"""A trainer without torch: its loss is a valley in the learning rate, it checkpoints, resumes, and fails as told.

python toy_trainer.py --lr 0.1 --steps 20 --result result.json [--metrics m.jsonl] [--checkpoints folder] [troubles]
"""

import argparse
import json
import math
import os
import random
import signal
import sys
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--result", type=Path, default=os.environ.get("SWEEPER_RESULT"))
    parser.add_argument("--metrics", type=Path, default=os.environ.get("SWEEPER_METRICS"))
    parser.add_argument("--checkpoints", type=Path, default=os.environ.get("SWEEPER_CHECKPOINTS"))
    parser.add_argument("--step-s", type=float, default=0.0, help="seconds of a step")
    parser.add_argument("--at", type=int, default=5, help="the step of the trouble")
    parser.add_argument("--once", action="store_true", help="trouble in the first attempt only")
    parser.add_argument(
        "--trouble", default="", choices=["", "crash", "hang", "kill", "nan", "silent", "deaf"], help="what fails"
    )
    asked = parser.parse_args()
    trouble = "" if asked.once and int(os.environ.get("SWEEPER_ATTEMPT", "1")) > 1 else asked.trouble
    stopped = []
    signal.signal(signal.SIGTERM, signal.SIG_IGN if trouble == "deaf" else lambda *_: stopped.append(True))

    checkpoint = Path(asked.checkpoints) / "step.json"
    step = json.loads(checkpoint.read_text())["step"] if checkpoint.exists() else 0
    print(f"start at step {step} of {asked.steps}", flush=True)
    with Path(asked.metrics).open("a") as metrics:
        while step < asked.steps:
            step += 1
            time.sleep(asked.step_s)
            loss = loss_at(step, asked.steps, asked.lr, asked.seed, asked.dropout)
            metrics.write(json.dumps({"step": step, "steps": asked.steps, "loss": loss}) + "\n")
            metrics.flush()
            save(checkpoint, {"step": step})
            if stopped:
                print(f"stopped at step {step}", flush=True)
                return
            if step == asked.at:
                meet(trouble)
    if trouble != "silent":
        loss = math.nan if trouble == "nan" else loss_at(step, asked.steps, asked.lr, asked.seed, asked.dropout)
        save(Path(asked.result), {"loss": loss, "accuracy": 1 / (1 + loss)})


def loss_at(step: int, steps: int, lr: float, seed: int, dropout: float) -> float:
    """A loss that falls with the steps towards a valley in log lr whose lowest point moves left as runs get longer."""
    best = 0.1 * (steps / 20) ** -0.3
    noise = random.Random(f"{seed} {step}").gauss(0, 0.002)  # noqa: S311 - the same at every visit of a step
    return 2 + 3 / math.sqrt(step) + 0.1 * math.log(lr / best) ** 2 + 0.5 * (dropout - 0.1) ** 2 + noise


def meet(trouble: str) -> None:
    if trouble == "crash":
        print("something went wrong", file=sys.stderr, flush=True)
        sys.exit(7)
    if trouble == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    while trouble in ("hang", "deaf"):
        time.sleep(0.1)


def save(path: Path, values: dict[str, float]) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(values))
    partial.replace(path)


if __name__ == "__main__":
    main()
