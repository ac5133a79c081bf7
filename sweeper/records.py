"""The folder of a sweep on disk: records, attempts, jobs, heartbeats; every file appears whole or not at all.

runs/<sweep>/ sweep.yaml plan.json results.csv results.parquet fits/ figures/
  code/<hash>/                 snapshot of the code that queued jobs run
  jobs/<id>/                   job.json, submitted.json, heartbeat.json, the scheduler's own files
  runs/<run_id>/ spec.json record.json checkpoint/
                 attempts/<k>/{owner.json, metrics.jsonl, provenance.json, log, end.json}
"""

import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import psutil

from model.config import Execution
from sweeper.errors import LaunchError, SweeperError
from sweeper.spec import RunSpec, Value
from sweeper.typed import build, plain

SCHEMA_VERSION = 1

T = TypeVar("T")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A process that may be asked whether it still lives."""

    host: str
    pid: int
    started: float
    """Creation time of the process, seconds since the epoch: a recycled pid is another process."""

    @property
    def here(self) -> bool:
        return self.host == socket.gethostname()

    @property
    def alive(self) -> bool:
        """Whether the process runs; only meaningful on its own host."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < 2.0  # the boot clock of containers drifts a little
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


def owner_of(pid: int) -> Owner:
    """The identity of a process of this host."""
    return Owner(host=socket.gethostname(), pid=pid, started=psutil.Process(pid).create_time())


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How an attempt ended without a record."""

    state: Literal["stopped", "error"]
    reason: str
    """One sentence."""
    detail: str = ""
    """The traceback's last lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try at a run: who holds it, and how it ended, if it did."""

    number: int
    owner: Owner
    job: str
    end: End | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFile:
    """The intent of a job, written before it is submitted."""

    job: str
    runs: tuple[str, ...]
    code: str
    """Hash of the code snapshot."""
    processes: int
    heartbeat_s: float
    execution: Execution


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """A sign of life: where a run stands."""

    time: float
    run_id: str
    step: int
    steps: int
    tokens_per_s: float


class SweepFolder:
    """The paths of one sweep; nothing is created before something is written."""

    def __init__(self, runs: Path, name: str) -> None:
        self.path = runs / name
        self.name = name

    @property
    def jobs(self) -> Path:
        return self.path / "jobs"

    @property
    def code(self) -> Path:
        return self.path / "code"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def fits(self) -> Path:
        return self.path / "fits"

    def run(self, run_id: str) -> Path:
        return self.path / "runs" / run_id

    def attempt(self, run_id: str, number: int) -> Path:
        return self.run(run_id) / "attempts" / str(number)


# ── whole-or-nothing files ─────────────────────────────────────────────────────────────────────────────────────────


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: a temporary name in the same folder, flushed to disk, renamed.

    Raises:
        LaunchError: The disk is full or the folder not writable; no partial file stays.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise LaunchError(
            f"{path}: cannot be written ({error.strerror}); free space or choose another folder with --runs"
        ) from error


def write_json(path: Path, value: Any) -> None:
    """A dataclass or mapping as JSON, whole or not at all; NaN and infinities become null."""
    write_text(path, json.dumps(plain(value), indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path, kind: type[T]) -> T | None:
    """The typed content of a file, or None where there is none.

    Raises:
        SweeperError: The file is there but is not what it should be.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise SweeperError(f"{path}: not a readable record ({error}); move it away to run this cell again") from error
    return build(kind, values, str(path))


# ── runs and their records ─────────────────────────────────────────────────────────────────────────────────────────


def write_spec(folder: SweepFolder, spec: RunSpec) -> None:
    """Freeze what a run is to do; an existing spec of the same identity stays as it is."""
    path = folder.run(spec.run_id) / "spec.json"
    if not path.exists():
        write_json(path, spec)


def read_spec(folder: SweepFolder, run_id: str) -> RunSpec:
    spec = read_json(folder.run(run_id) / "spec.json", RunSpec)
    if spec is None:
        raise SweeperError(f"{folder.run(run_id)}: no spec.json; launch the sweep again to write it")
    return spec


def write_record(folder: SweepFolder, record: RunRecord) -> None:
    """Write `record.json`: from now on the run is finished."""
    write_json(folder.run(record.run_id) / "record.json", record)


def read_record(folder: SweepFolder, run_id: str) -> RunRecord | None:
    """A run's record, or None while it has none."""
    return read_json(folder.run(run_id) / "record.json", RunRecord)


def read_records(folder: SweepFolder) -> dict[str, RunRecord]:
    """Every finished run of a sweep by run_id, whatever grid it came from."""
    read = (read_record(folder, run_id) for run_id in _names(folder.path / "runs"))
    return {record.run_id: record for record in read if record is not None}


# ── attempts ───────────────────────────────────────────────────────────────────────────────────────────────────────


def read_attempts(folder: SweepFolder, run_id: str) -> tuple[Attempt, ...]:
    """The attempts at a run in their order."""
    attempts = folder.run(run_id) / "attempts"
    found = []
    for number in sorted(int(name) for name in _names(attempts) if name.isdigit()):
        held = read_json(attempts / str(number) / "owner.json", _Held)
        if held is not None:
            end = read_json(attempts / str(number) / "end.json", End)
            found.append(Attempt(number=number, owner=held.owner, job=held.job, end=end))
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    owner: Owner
    job: str


def claim_attempt(folder: SweepFolder, run_id: str, job: str) -> int | None:
    """The number of the attempt that this process now holds, or None if a living one holds the run.

    The claim is the rename of a folder that already holds its owner file, so no reader sees one without an owner and
    only one of two claimants wins.
    """
    while True:
        attempts = read_attempts(folder, run_id)
        if attempts and attempts[-1].end is None and not is_lost(attempts[-1].owner, last_beat(folder, attempts[-1])):
            return None
        number = attempts[-1].number + 1 if attempts else 1
        held = _Held(owner=owner_of(os.getpid()), job=job)
        if _claim(folder.attempt(run_id, number), held):
            return number


def _claim(path: Path, held: _Held) -> bool:
    prepared = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    write_json(prepared / "owner.json", held)
    try:
        prepared.rename(path)
    except OSError:  # the folder exists already: somebody else holds it
        shutil.rmtree(prepared, ignore_errors=True)
        return False
    return True


STALE_S = 900.0
"""A process on another host counts as lost when its last sign of life is older than this, seconds."""


def is_lost(owner: Owner, last_sign: float) -> bool:
    """Whether a process without an end is gone: by its pid on its own host, else by its silence."""
    if owner.here:
        return not owner.alive
    return time.time() - max(last_sign, owner.started) > STALE_S


def last_beat(folder: SweepFolder, attempt: Attempt) -> float:
    """When the job of an attempt last gave a sign of life, seconds since the epoch; 0 for never."""
    beat = read_beat(folder, attempt.job)
    return beat.time if beat else 0.0


def write_end(folder: SweepFolder, run_id: str, number: int, end: End) -> None:
    write_json(folder.attempt(run_id, number) / "end.json", end)


# ── jobs ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def write_job(folder: SweepFolder, job: JobFile) -> Path:
    """Write the intent of a job; nothing is submitted without one."""
    path = folder.jobs / job.job
    write_json(path / "job.json", job)
    return path


def read_job(path: Path) -> JobFile:
    job = read_json(path / "job.json", JobFile)
    if job is None:
        raise SweeperError(f"{path}: no job.json; launch the sweep again")
    return job


def write_submitted(path: Path, owner: Owner) -> None:
    write_json(path / "submitted.json", owner)


def live_jobs(folder: SweepFolder) -> dict[str, tuple[JobFile, Owner]]:
    """Jobs of this host whose process still lives, by id."""
    found = {}
    for name in _names(folder.jobs):
        owner = read_json(folder.jobs / name / "submitted.json", Owner)
        if owner is not None and owner.here and owner.alive:
            found[name] = (read_job(folder.jobs / name), owner)
    return found


def write_beat(path: Path, beat: Beat) -> None:
    """A heartbeat in a job's folder; without the flush to disk that records deserve."""
    partial = path / ".heartbeat.partial"
    partial.write_text(json.dumps(plain(beat)))
    partial.replace(path / "heartbeat.json")


def read_beat(folder: SweepFolder, job: str) -> Beat | None:
    return read_json(folder.jobs / job / "heartbeat.json", Beat)


# ── one launcher at a time ─────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def launcher_lock(folder: SweepFolder) -> Iterator[None]:
    """Hold the sweep for one launcher; a dead one's lock is taken over.

    Raises:
        LaunchError: Another launcher of this sweep is alive.
    """
    path = folder.path / "launcher"
    held = _Held(owner=owner_of(os.getpid()), job="")
    while not _claim(path, held):
        other = read_json(path / "owner.json", _Held)
        if other is None:
            continue
        if not is_lost(other.owner, path.stat().st_mtime):
            raise LaunchError(
                f"{folder.path}: another launch of this sweep runs on {other.owner.host} (pid {other.owner.pid}); "
                "wait for it or stop it"
            )
        _remove(path)
    try:
        yield
    finally:
        _remove(path)


def _remove(path: Path) -> None:
    """Take a folder out of the way atomically, then delete it."""
    gone = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        path.rename(gone)
    except FileNotFoundError:
        return
    shutil.rmtree(gone, ignore_errors=True)


# ── the evidence of states ─────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the disk and the machine say about one run."""

    record: RunRecord | None = None
    attempts: tuple[Attempt, ...] = ()
    holder_lives: bool = False
    """Whether the owner of the last attempt, if that has no end, is alive (unknown counts as alive)."""
    job_lives: bool = False
    """Whether a submitted job that contains the run is alive."""


def read_evidence(folder: SweepFolder, run_ids: Iterable[str]) -> dict[str, Evidence]:
    """What is known of each run: its record, else its attempts and the jobs that hold it."""
    in_jobs = {run_id for job, _ in live_jobs(folder).values() for run_id in job.runs}
    known = set(_names(folder.path / "runs"))
    nothing = Evidence()
    return {r: _evidence(folder, r, r in in_jobs) if r in known else nothing for r in run_ids}


def _names(path: Path) -> tuple[str, ...]:
    """The visible entries of a folder, sorted; none where there is no folder."""
    try:
        return tuple(sorted(entry.name for entry in os.scandir(path) if not entry.name.startswith(".")))
    except FileNotFoundError:
        return ()


def _evidence(folder: SweepFolder, run_id: str, job_lives: bool) -> Evidence:
    record = read_record(folder, run_id)
    if record is not None:
        return Evidence(record=record)
    attempts = read_attempts(folder, run_id)
    open_attempt = attempts[-1] if attempts and attempts[-1].end is None else None
    lives = open_attempt is not None and not is_lost(open_attempt.owner, last_beat(folder, open_attempt))
    return Evidence(attempts=attempts, holder_lives=lives, job_lives=job_lives)
