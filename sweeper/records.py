"""The folder of a sweep on disk: records, attempts, heartbeats; every file is written whole or not at all."""

from dataclasses import dataclass
from typing import Literal

from sweeper.spec import Value

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """The outcome of one run, written once, when it ends."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    state: Literal["done", "diverged"]
    arm: str
    loss: float
    """Validation loss after the last step, nats per token; of a diverged run, its last training loss (may be NaN)."""
    train_loss: float
    """Mean training loss over the last 5 % of the steps, nats per token."""
    lr: float
    """Base learning rate η₀ of the sweep."""
    lr_peak: float
    """Peak rate of the hidden matrices after transfer."""
    tokens: int
    """Tokens trained on; of a diverged run, those asked for."""
    steps: int
    params: int
    """The paper's N (HyperP §4)."""
    params_total: int
    """Every parameter of the model (`numel`)."""
    flops: float
    """Training FLOPs by the paper's count (HyperP §4)."""
    batch_tokens: int
    seed: int
    """Of the data order."""
    wall_time_s: float
    tokens_per_s: float
    attempts: int
    world_size: int
    fingerprint: str
    """Of the data."""
    axes: tuple[tuple[str, Value], ...]
    """The axis values of the cell, by name."""
