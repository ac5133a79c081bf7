"""What one process trains at once: a run, or a stack of runs that differ in rates and seeds only; pure."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from model.config import Execution, TrainConfig
from model.fusing import stack_key
from sweeper.spec import Fuse, RunSpec

MEMBERS = 8
"""Of a stack at most: beyond, the activations of small models leave a CPU's cache and nothing is gained."""
ELEMENTS = {"cpu": 2e6, "cuda": 2e9}
"""Stacks are tried up to this product of width² and the tokens of a pass: beyond, the operations of one run keep the
device busy. Of the CPU measured (`BENCHMARKS.md`: a tenth is gained there), of GPUs an estimate; the trial at the start
of each stack decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one process trains at once: a run, or a stack (`model.fusing`)."""

    runs: tuple[RunSpec, ...]

    @property
    def stacked(self) -> bool:
        return len(self.runs) > 1


def loads(
    runs: Sequence[RunSpec],
    seconds: Mapping[str, float],
    fuse: Fuse,
    execution: Execution,
    *,
    longest_s: float,
    gpu: bool,
    budget_gib: float,
    memory_gib: Mapping[str, float],
    alone: Collection[str] = (),
) -> list[Load]:
    """The runs shared out, the costliest first; by itself what is not to be fused, cannot be, or would not gain.

    Args:
        runs: Those to be started; each once.
        seconds: What each is estimated to take.
        longest_s: What the runs of a stack may take at most with `fuse=auto`, one after another, seconds.
        gpu: Whether they train on GPUs.
        budget_gib: Memory of one process.
        memory_gib: What a run takes of it; the trial of `fuse=auto` holds one more.
        alone: Runs that are not to be fused.
    """
    together: dict[TrainConfig | str, list[RunSpec]] = {}
    for spec in runs:
        key = None if spec.run_id in alone else _key(spec, fuse, execution, gpu=gpu)
        together.setdefault(key or spec.run_id, []).append(spec)
    found: list[Load] = []
    for same in together.values():
        first = same[0].run_id
        most = math.floor(budget_gib / max(memory_gib[first], 1e-9)) - (fuse == "auto")
        brief = min(MEMBERS, math.floor(longest_s / max(seconds[first], 1e-9) + 1e-6))
        most = min(most, fuse if isinstance(fuse, int) else brief)
        parts = math.ceil(len(same) / max(1, most))
        found.extend(Load(runs=tuple(same[i::parts])) for i in range(parts))
    return sorted(found, key=lambda load: -sum(seconds[spec.run_id] for spec in load.runs))


def _key(spec: RunSpec, fuse: Fuse, execution: Execution, *, gpu: bool) -> TrainConfig | None:
    """What members of a stack share; None where the run is trained by itself."""
    train = spec.train
    if fuse == "off" or spec.trainer.kind != "builtin":
        return None
    pass_tokens = min(execution.micro_batch or train.batch_sequences, train.batch_sequences) * train.model.context
    if fuse == "auto" and train.model.width**2 * pass_tokens > ELEMENTS["cuda" if gpu else "cpu"]:
        return None
    return stack_key(train)
