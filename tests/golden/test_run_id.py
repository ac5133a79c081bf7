"""Identities, frozen: a change here renames every run on every disk, so no change to the code may need one."""

import dataclasses

import pytest

from model.config import (
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
    Rates,
    ScheduleConfig,
    Seeds,
    TrainConfig,
)
from sweeper.spec import Trainer, run_id

PLAIN = TrainConfig(
    model=ModelConfig(),
    optimizer=OptimizerConfig(),
    schedule=ScheduleConfig(),
    data=DataConfig(fingerprint="0123456789abcdef"),
    evaluation=EvaluationConfig(),
    seed=Seeds(),
    rates=Rates(hidden=0.02, head=0.02, embedding=0.02, vector=0.02),
    tokens=10_400_000_000,
    batch_tokens=2_097_152,
)
TINY = dataclasses.replace(
    PLAIN,
    model=ModelConfig(width=32, depth=2, head_size=16, kv_heads=2, vocab=256, context=128),
    evaluation=EvaluationConfig(sequences=64, every=10),
    tokens=131_072,
    batch_tokens=2048,
    rates=Rates(hidden=0.1, head=0.1, embedding=0.1, vector=0.1, residual_multiplier=0.5),
)
MUON = dataclasses.replace(
    PLAIN,
    optimizer=OptimizerConfig(name="muon", weight_decay=1e-3, ns_dtype="bfloat16"),
    schedule=ScheduleConfig(name="wsd", final=0.0, warmup=0.01),
    rates=Rates(hidden=1 / 3, head=0.3, embedding=0.2, vector=0.1, logit_multiplier=0.5, weight_decay=5e-4),
    seed=Seeds(init=1, data=2),
    precision="bfloat16",
)
MIXTURE = dataclasses.replace(
    PLAIN,
    model=ModelConfig(mlp="moe", sparsity=8, top_k=8, rope_base=500_000.0, qk_norm=False),
    data=DataConfig(source="text", path="/a/b", tokenizer="t.json", column="body", fingerprint="f" * 16),
)


@pytest.mark.parametrize(
    ("lr", "train", "identity"),
    [
        (0.02, PLAIN, "5c8426fb231c9610"),
        (0.1, TINY, "a694ff43e27eab68"),
        (1 / 3, MUON, "7f3b8748fc78c954"),
        (1e-6, MIXTURE, "1947dc5a28bf8491"),
    ],
    ids=["plain", "tiny", "muon", "mixture"],
)
def test_identities_never_change(lr, train, identity):
    assert run_id(lr, train) == identity


def test_the_identity_of_a_command_never_changes():
    command = Trainer(kind="command", argv=("python", "train.py", "{lr}"), values=(("dropout", 0.1), ("layers", 4.0)))
    assert run_id(0.02, PLAIN, command) == "10ea4b128baafaf6"
    assert run_id(0.02, PLAIN, Trainer()) == run_id(0.02, PLAIN)
