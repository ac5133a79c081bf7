"""What a run is to do, and what came of it."""

from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

from sweeper.errors import SweeperError
from sweeper.records.folder import SweepFolder, names, read_json, write_json
from sweeper.spec import RunSpec, Value

SCHEMA_VERSION = 1
WRITERS = 16
"""Files that are written at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """The outcome of one run, written once, when it ends."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    state: Literal["done", "diverged"]
    arm: str
    loss: float | None
    """Validation loss after the last step, nats per token; of a diverged run its last training loss, None for NaN."""
    train_loss: float | None
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
    axes: Mapping[str, Value]
    """The axis values of the cell, by name."""
    device: str = ""
    """`cpu`, or the model of the GPU."""
    stack: int = 1
    """Runs that its last attempt trained together as one stack, this one among them."""
    reason: str = ""
    """Why a run diverged."""
    extra: Mapping[str, Value] = field(default_factory=dict)
    """What its trainer reported beside these, by name: of ours the stability of the last step (`model.stability`)."""


def write_spec(folder: SweepFolder, spec: RunSpec) -> None:
    """Freeze what a run is to do. An older spec of the same identity may differ in paths: the new one replaces it."""
    write_json(folder.run(spec.run_id) / "spec.json", spec)


def write_specs(folder: SweepFolder, specs: Iterable[RunSpec]) -> None:
    """Freeze many runs at once: on a shared filesystem it is the waiting for each flush that takes the time."""
    with ThreadPoolExecutor(WRITERS) as pool:
        deque(pool.map(lambda spec: write_spec(folder, spec), specs), maxlen=0)


def read_spec(folder: SweepFolder, run_id: str) -> RunSpec:
    spec = read_json(folder.run(run_id) / "spec.json", RunSpec)
    if spec is None:
        raise SweeperError(f"{folder.run(run_id)}: no spec.json; launch the sweep again to write it")
    return spec


def write_record(folder: SweepFolder, record: RunRecord) -> None:
    """Write `record.json`: from now on the run is finished."""
    write_json(folder.run(record.run_id) / "record.json", record)


def is_recorded(folder: SweepFolder, run_id: str) -> bool:
    """Whether a run has a result, whatever it says."""
    return (folder.run(run_id) / "record.json").exists()


def read_record(folder: SweepFolder, run_id: str) -> RunRecord | None:
    """A run's record, or None while it has none."""
    return read_json(folder.run(run_id) / "record.json", RunRecord)


def read_records(folder: SweepFolder) -> dict[str, RunRecord]:
    """Every finished run of a sweep by run_id, whatever grid it came from."""
    read = (read_record(folder, run_id) for run_id in names(folder.path / "runs"))
    return {record.run_id: record for record in read if record is not None}


def run_names(folder: SweepFolder) -> tuple[str, ...]:
    """The run_ids that a sweep's folder knows, of whatever grid."""
    return names(folder.path / "runs")
