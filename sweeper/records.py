"""The folder of a sweep on disk: records, attempts, jobs, heartbeats; every file appears whole or not at all.

runs/<sweep>/ sweep.yaml plan.json results.csv results.parquet fits/ figures/
  code/<hash>/                 snapshot of the code that queued jobs run
  jobs/<id>/                   job.json, submitted.json, heartbeat.json, the scheduler's own files
  runs/<run_id>/ spec.json record.json checkpoint/
                 attempts/<k>/{owner.json, metrics.jsonl, provenance.json, log, end.json}
"""

import errno
import fcntl
import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from model.config import Execution
from sweeper.errors import DiskError, LaunchError, SweeperError
from sweeper.files import replacing
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
    device: str = ""
    """`cpu`, or the model of the GPU."""
    reason: str = ""
    """Why a run diverged."""
    # A field that is added later has a default: records of before are read for ever.


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where a process id means something: one boot of one machine, one namespace of pids."""

    host: str
    machine: str
    """/etc/machine-id; empty where there is none."""
    boot: str
    pid_namespace: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A process that may be asked whether it still lives."""

    at: Machine
    pid: int
    started: int
    """Clock ticks from the boot to its start: a recycled pid is another process, and no wall clock moves it."""
    time: float
    """When this was written down, seconds since the epoch."""

    @property
    def here(self) -> bool:
        """Whether this process can ask after it."""
        return self.at == this_machine()

    @property
    def rebooted(self) -> bool:
        """Whether its machine is this one, booted again since."""
        now = this_machine()
        same = bool(now.machine) and (self.at.machine, self.at.host) == (now.machine, now.host)
        return same and self.at.boot != now.boot

    @property
    def alive(self) -> bool:
        """Whether the process runs; only meaningful where it is `here`."""
        return started_at(self.pid) == self.started


@cache
def this_machine() -> Machine:
    """This machine, as `Owner` remembers it."""
    identity = Path("/etc/machine-id")
    return Machine(
        host=socket.gethostname(),
        machine=identity.read_text().strip() if identity.exists() else "",
        boot=Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        pid_namespace=str(Path("/proc/self/ns/pid").readlink()),
    )


def started_at(pid: int) -> int | None:
    """Clock ticks from the boot to the start of a process; None for one that is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()  # the name before it may hold spaces and brackets
    return None if state in "ZX" else int(fields[18])


def owner_of(pid: int) -> Owner:
    """The identity of a process of this machine.

    Raises:
        ProcessLookupError: There is none of this number.
    """
    started = started_at(pid)
    if started is None:
        raise ProcessLookupError(f"no process {pid}")
    return Owner(at=this_machine(), pid=pid, started=started, time=time.time())


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How an attempt ended without a record."""

    state: Literal["stopped", "lost", "error"]
    """`stopped`: asked to, by a signal; `lost`: another process of the run died; `error`: one of its own."""
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
    gpus: tuple[str, ...] | None = None
    """GPUs that the job may use, as CUDA_VISIBLE_DEVICES names them; None leaves the scheduler's choice."""


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
    """Write a file whole or not at all (`DiskError`)."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


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
    """Freeze what a run is to do. An older spec of the same identity may differ in paths: the new one replaces it."""
    write_json(folder.run(spec.run_id) / "spec.json", spec)


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
    """The number of the attempt that this process now holds, or None if the run is finished or a living one holds it.

    The claim is the rename of a folder that already holds its owner file, so no reader sees one without an owner and
    only one of two claimants wins.

    Raises:
        DiskError: The folder cannot be written.
    """
    while True:
        # The number is chosen before the holder is asked after: whoever claims in between takes this very number.
        taken = [int(name) for name in _names(folder.run(run_id) / "attempts") if name.isdigit()]
        number = max(taken, default=0) + 1
        attempts = read_attempts(folder, run_id)
        if attempts and attempts[-1].end is None and not is_lost(folder, attempts[-1].owner, attempts[-1].job):
            return None
        if _claim(folder.attempt(run_id, number), _Held(owner=owner_of(os.getpid()), job=job)):
            break
    if read_record(folder, run_id) is None:
        return number
    # It was finished between the caller's look at the record and the claim.
    write_end(folder, run_id, number, End(state="stopped", reason="the run was finished already"))
    return None


def _claim(path: Path, held: _Held) -> bool:
    prepared = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    write_json(prepared / "owner.json", held)
    try:
        prepared.rename(path)
    except OSError as error:
        shutil.rmtree(prepared, ignore_errors=True)
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            return False
        raise DiskError(f"{path}: cannot be claimed ({error.strerror}); free space or mend the folder") from error
    return True


STALE_S = 900.0
"""A process that cannot be asked counts as lost when its last sign of life is older than this, seconds."""


def is_lost(folder: SweepFolder, owner: Owner, job: str) -> bool:
    """Whether a process without an end is gone: by its pid where it can be asked, else by the silence of its job."""
    if owner.here:
        return not owner.alive
    if owner.rebooted:
        return True
    beat = read_beat(folder, job)
    return time.time() - max(beat.time if beat else 0.0, owner.time) > STALE_S


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
    """Note the process of a job that was started."""
    write_json(path / "submitted.json", owner)


def close_job(path: Path) -> None:
    """Note that a job ended, so that nobody asks after its process again."""
    with suppress(FileNotFoundError):
        (path / "submitted.json").rename(path / "ended.json")


def live_jobs(folder: SweepFolder) -> dict[str, tuple[JobFile, Owner]]:
    """Jobs of this machine whose process still lives, by id; a note that cannot be read is of none.

    Nothing is trained twice for it: the attempt that such a job holds has an owner of its own.
    """
    found = {}
    for name in _names(folder.jobs):
        try:
            owner = read_json(folder.jobs / name / "submitted.json", Owner)
        except SweeperError:
            continue
        if owner is not None and owner.here and owner.alive:
            found[name] = (read_job(folder.jobs / name), owner)
    return found


def write_beat(path: Path, beat: Beat) -> None:
    """A heartbeat in a job's folder; without the flush to disk that records deserve."""
    partial = path / ".heartbeat.partial"
    partial.write_text(json.dumps(plain(beat)))
    partial.replace(path / "heartbeat.json")


def read_beat(folder: SweepFolder, job: str) -> Beat | None:
    """The last heartbeat of a job; a torn one, after a power cut, is none."""
    try:
        return read_json(folder.jobs / job / "heartbeat.json", Beat)
    except SweeperError:
        return None


# ── one launcher at a time ─────────────────────────────────────────────────────────────────────────────────────────


LOCK_STALE_S = 120.0
"""A launcher of another machine that did not renew its lock for this long is gone, seconds."""


@contextmanager
def launcher_lock(folder: SweepFolder) -> Iterator[Callable[[], None]]:
    """Hold the sweep for one launcher; yields what renews the hold, to be called every few seconds.

    The kernel frees the lock when its process dies, however that happens. Filesystems that do not share locks between
    machines are covered by the owner written into the file and its time of change.

    Raises:
        LaunchError: Another launcher of this sweep is alive.
    """
    path = folder.path / "launcher.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise DiskError(f"{path}: cannot be opened ({error.strerror}); mend the folder or choose another") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = True
        except BlockingIOError:
            raise _held_by_another(path) from None
        except OSError:  # a filesystem without locks: the owner below must do
            locked = False
        renewed = time.time() - path.stat().st_mtime
        other = _lock_owner(path)
        if other is not None and not other.rebooted:
            alive = not locked and other.alive if other.here else renewed < LOCK_STALE_S
            if alive:
                raise _held_by_another(path)
        try:
            file.truncate(0)
            file.write(json.dumps(plain(owner_of(os.getpid()))))
            file.flush()
        except OSError as error:
            with suppress(OSError):
                file.close()  # its buffer has nowhere to go either
            raise DiskError(
                f"{path}: cannot be written ({error.strerror}); free space or choose another folder"
            ) from error
        try:
            yield lambda: os.utime(path)
        finally:
            file.truncate(0)


def _held_by_another(path: Path) -> LaunchError:
    other = _lock_owner(path)
    who = f"on {other.at.host} (pid {other.pid})" if other else "already"
    return LaunchError(f"{path.parent}: another launch of this sweep runs {who}; wait for it or stop it")


def _lock_owner(path: Path) -> Owner | None:
    try:
        return read_json(path, Owner) if path.stat().st_size else None
    except SweeperError:
        return None


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


def read_evidence(
    folder: SweepFolder, run_ids: Iterable[str], in_jobs: Collection[str] | None = None
) -> dict[str, Evidence]:
    """What is known of each run: its record, else its attempts and the jobs that hold it.

    Args:
        in_jobs: Runs that living jobs hold, where the caller knows them; else the folders of all jobs are asked.
    """
    if in_jobs is None:
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
    last = attempts[-1] if attempts and attempts[-1].end is None else None
    lives = last is not None and not is_lost(folder, last.owner, last.job)
    return Evidence(attempts=attempts, holder_lives=lives, job_lives=job_lives)
