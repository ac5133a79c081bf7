"""Trains runs on several processes of this machine, started as a launcher starts them."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from model.config import (
    DataConfig,
    EvaluationConfig,
    Execution,
    ModelConfig,
    OptimizerConfig,
    Rates,
    ScheduleConfig,
    Seeds,
    TrainConfig,
)
from model.train import Member, Outcome, train

ROOT = Path(__file__).resolve().parent.parent
CHILD = ROOT / "tests" / "unit" / "model" / "train_child.py"
NEVER = 10**9
DENSE = ModelConfig(width=16, depth=2, head_size=8, kv_heads=2, vocab=9, context=16)
MIXTURE = replace(DENSE, depth=1, mlp="moe", sparsity=3, top_k=4)
"""Eleven routed experts, three to a token, and nine rows of embedding: neither two, three nor four ranks share them
equally."""


def config(
    model: ModelConfig = DENSE, optimizer: str = "muonh", *, steps: int = 10, float64: bool = True
) -> TrainConfig:
    """A batch of twelve sequences, eleven of validation, and gradients that are clipped."""
    lr = 0.05 if optimizer == "muonh" else 0.01
    return TrainConfig(
        model=model,
        optimizer=OptimizerConfig(name=optimizer, ns_dtype="float64" if float64 else "float32", clip=0.5),
        schedule=ScheduleConfig(),
        data=DataConfig(source="synthetic"),
        evaluation=EvaluationConfig(sequences=11, every=4),
        seed=Seeds(),
        rates=Rates(
            hidden=lr,
            head=lr,
            embedding=lr,
            vector=lr,
            residual_multiplier=0.5,
            weight_decay=0.0 if optimizer == "muonh" else 0.01,
        ),
        tokens=steps * 192,
        batch_tokens=192,
        precision="float64" if float64 else "float32",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A run to train, or a part of one."""

    folder: Path
    """Of its checkpoints."""
    config: TrainConfig
    execution: Mapping[str, Any]
    stop_after: int = NEVER
    """Steps after which every rank is asked to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What came of a case."""

    outcome: Mapping[str, Any]
    rows: Sequence[Mapping[str, float]]

    @property
    def losses(self) -> list[float]:
        return [row["loss"] for row in self.rows]

    @property
    def norms(self) -> list[float]:
        """Of the gradients, before clipping."""
        return [row["grad_norm"] for row in self.rows]


class _Observer:
    def __init__(self) -> None:
        self.rows: list[Mapping[str, float]] = []

    def metrics(self, _member: int, row: Mapping[str, float]) -> None:
        self.rows.append(row)

    def progress(self, _member: int, _step: int, _steps: int, _tokens_per_s: float) -> None:
        pass

    def note(self, _member: int, text: str) -> None:
        raise AssertionError(text)


def train_alone(case: Case) -> Trained:
    """Train a case in this process."""
    observer, asked = _Observer(), iter(range(1, NEVER))
    settings = Execution(**{"device": "cpu", "log_every": 1, **case.execution})
    member = Member(config=case.config, checkpoints=case.folder)
    outcome: Outcome
    (outcome,) = train([member], settings, observer, lambda: next(asked) >= case.stop_after)
    return Trained(
        outcome={name: getattr(outcome, name) for name in ("state", "loss", "train_loss", "steps")}, rows=observer.rows
    )


def start_ranks(
    folder: Path, cases: Sequence[Case], *, size: int, of_node: int = 0, **environment: str
) -> list[subprocess.Popen[bytes]]:
    """`size` processes, `of_node` to a node (0: all), that train the cases one after the other."""
    folder.mkdir(parents=True, exist_ok=True)
    content = pickle.dumps([(case.folder, case.config, dict(case.execution), case.stop_after) for case in cases])
    (folder / "cases.pickle").write_bytes(content)
    return [
        subprocess.Popen(
            [sys.executable, str(CHILD), str(folder / "cases.pickle"), str(folder / f"result-{rank}.jsonl")],
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
                "RANK": str(rank),
                "WORLD_SIZE": str(size),
                "LOCAL_RANK": str(rank % (of_node or size)),
                "LOCAL_WORLD_SIZE": str(of_node or size),
                "SWEEPER_INIT_METHOD": f"file://{folder / 'group'}",
                **environment,
            },
            stderr=(folder / f"stderr-{rank}").open("wb"),
        )
        for rank in range(size)
    ]


def train_on_ranks(
    folder: Path, cases: Sequence[Case], *, size: int, of_node: int = 0, **environment: str
) -> list[Trained]:
    """What came of each case on `size` processes, as rank 0 saw it."""
    processes = start_ranks(folder, cases, size=size, of_node=of_node, **environment)
    codes = [process.wait(timeout=240) for process in processes]
    errors = [(folder / f"stderr-{rank}").read_text() for rank, code in enumerate(codes) if code]
    assert not errors, "\n".join(errors)
    return list(_read(folder / "result-0.jsonl"))


def _read(file: Path) -> list[Trained]:
    found, rows = [], []
    for line in file.read_text().splitlines():
        value = json.loads(line)
        if "outcome" in value:
            found.append(Trained(outcome=value["outcome"], rows=rows))
            rows = []
        else:
            rows.append(value["row"])
    return found
