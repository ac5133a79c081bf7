"""Small sweeps and runs for tests, built by hand so that each test sees only what it is about."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from model.config import (
    DataConfig,
    EvaluationConfig,
    Execution,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    Seeds,
    TrainConfig,
)
from model.corpus import with_fingerprint
from sweeper.laws.transfer import Transfer, rates
from sweeper.records import RunRecord, owner_of
from sweeper.spec import Cluster, Fuse, Launch, Question, RunSpec, Sweep, run_id

TINY = ModelConfig(width=16, depth=1, head_size=8, kv_heads=2, vocab=16, context=32)
CHAIN = with_fingerprint(DataConfig(source="synthetic"), TINY.vocab)


def train_config(lr: float = 0.05, steps: int = 8, **changes: Any) -> TrainConfig:
    """A run of a few steps on a Markov chain, 8 sequences of 32 tokens each."""
    batch_tokens = 8 * TINY.context
    config = TrainConfig(
        model=TINY,
        optimizer=OptimizerConfig(),
        schedule=ScheduleConfig(),
        data=CHAIN,
        evaluation=EvaluationConfig(sequences=8),
        seed=Seeds(),
        rates=rates(Transfer(rule="none"), lr=lr, depth=TINY.depth, tokens=1, batch_tokens=1),
        tokens=steps * batch_tokens,
        batch_tokens=batch_tokens,
    )
    return replace(config, **changes)


def run_spec(lr: float = 0.05, steps: int = 8, arm: str = "", **changes: Any) -> RunSpec:
    """The spec of such a run."""
    train = train_config(lr, steps, **changes)
    axes = (("tokens", train.tokens), ("lr", lr))
    return RunSpec(
        run_id=run_id(lr, train),
        sweep="tiny",
        arm=arm,
        axes=axes,
        lr=lr,
        transfer=Transfer(rule="none"),
        train=train,
    )


def tiny_sweep(fuse: Fuse = "off", **cluster: Any) -> Sweep:
    """A sweep to launch run specs under; its own arms are empty because tests bring the specs.

    Its runs are trained one by one unless a test asks for stacks: what `auto` chooses depends on the machine.
    """
    return Sweep(
        name="tiny",
        arms=(),
        cluster=Cluster(**cluster),
        execution=Execution(device="cpu", log_every=1),
        question=Question(),
        launch=Launch(fuse=fuse),
        resolved="name: tiny\n",
    )


def run_record(spec: RunSpec, **changes: Any) -> RunRecord:
    """A plausible record of a spec."""
    record = RunRecord(
        run_id=spec.run_id,
        state="done",
        arm=spec.arm,
        loss=2.5,
        train_loss=2.4,
        lr=spec.lr,
        lr_peak=spec.lr_peak,
        tokens=spec.train.tokens,
        steps=spec.train.steps,
        params=1000,
        params_total=1100,
        flops=6e6,
        batch_tokens=spec.train.batch_tokens,
        seed=spec.train.seed.data,
        wall_time_s=1.5,
        tokens_per_s=1e4,
        attempts=1,
        world_size=1,
        device="cpu",
        fingerprint=spec.train.data.fingerprint,
        axes=dict(spec.axes),
    )
    return replace(record, **changes)


def dead_pid() -> int:
    """A pid that no process of this machine has."""
    return int(Path("/proc/sys/kernel/pid_max").read_text()) - 1


def living_owner() -> Any:
    """The owner record of a process that certainly lives: init."""
    return owner_of(1)
