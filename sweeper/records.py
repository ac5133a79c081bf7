"""The folder of a sweep on disk: records, attempts, jobs, heartbeats; every file appears whole or not at all.

runs/<sweep>/ sweep.yaml plan.json results.csv results.parquet fits/ figures/
  code/<hash>/                 snapshot of the code that queued jobs run
  launch.json exclude.json     what tending goes by: the cells and their cluster; nodes that no job may use
  jobs/<id>/                   job.json, submitted.json, script.sh, the output of its processes
  runs/<run_id>/ spec.json record.json checkpoint/ held.json retry.json
                 attempts/<k>/{owner.json, heartbeat.json, metrics.jsonl, provenance.json, log, end.json}
"""

import errno
import fcntl
import json
import os
import shutil
import socket
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

from model.config import Execution
from sweeper.errors import ConfigError, DiskError, LaunchError, SweeperError
from sweeper.files import replacing
from sweeper.slurm import LIVES, Life, Queue, Task
from sweeper.spec import Cluster, Fuse, RunSpec, Value
from sweeper.typed import build, known_part, plain

SCHEMA_VERSION = 1
WRITERS = 16
"""Files that are written at a time."""

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
    stack: int = 1
    """Runs that its last attempt trained together as one stack, this one among them."""
    reason: str = ""
    """Why a run diverged."""
    extra: Mapping[str, Value] = field(default_factory=dict)
    """What its trainer reported beside these, by name: of ours the stability of the last step (`model.stability`)."""
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


Cause = Literal[
    "", "time", "signal", "turn", "superseded", "killed", "memory", "disk", "hung", "peer", "stack", "node", "cancelled"
]
"""What ended an attempt, for programs: the time limit, another signal, either of them before its turn among runs that
one process trains, an attempt that took over, a kill without a word, memory or disk that was not given, no step for too
long, another rank, an error of all the runs that were trained together, the node, a person; "" is none of these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How an attempt ended without a record."""

    state: Literal["stopped", "lost", "error"]
    """`stopped`: asked to, by a signal; `lost`: it died, or another process of the run did; `error`: one of its own."""
    reason: str
    """One sentence."""
    detail: str = ""
    """The traceback's last lines."""
    cause: Cause = ""
    time: float = 0.0
    """When it ended, or was found to have ended, seconds since the epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """Where in a job an attempt was made."""

    job: str
    task: int = 0
    """Index in the job's array."""
    restarts: int = 0
    """How often SLURM had requeued the job by then."""
    node: str = ""
    """SLURM's name of the node of rank 0."""
    step: str = ""
    """SLURM's step, `123.0`; empty for an attempt outside SLURM."""

    @property
    def scheduled(self) -> bool:
        """Whether SLURM started it."""
        return bool(self.step)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try at a run: who holds it, where, and how it ended, if it did."""

    number: int
    owner: Owner
    seat: Seat
    end: End | None

    @property
    def job(self) -> str:
        return self.seat.job


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFile:
    """The intent of a job, written before it is submitted."""

    job: str
    """Its name, here and to the scheduler."""
    tasks: tuple[tuple[str, ...], ...]
    """The runs of each element of its array; those of one element are packed onto one allocation."""
    code: str
    """Hash of the code snapshot."""
    processes: int
    """Of one run."""
    heartbeat_s: float
    execution: Execution
    together: Literal["", "auto", "always"] = ""
    """Whether runs of an element are trained as one stack: by a trial, or in any case."""
    stacks: tuple[tuple[int, ...], ...] = ()
    """Of each element, how many of its runs, in their order, each process trains as one stack: 1 for a run by itself.
    Where nothing is said, all of them if any are trained together, else each by itself."""
    open: bool = False
    """Whether its launcher may add runs while it works: it waits a moment for them before it ends."""
    gpus: tuple[str, ...] | None = None
    """GPUs that the job may use, as CUDA_VISIBLE_DEVICES names them; None leaves the scheduler's choice."""
    sharing: int = 1
    """Jobs of this machine that use one of its GPUs at a time, each its part of the memory."""
    cluster: Cluster | None = None
    """The profile that its SLURM jobs were made from; None for a job of this machine."""
    nodes: int = 1
    """Of one run."""
    time: float = 0.0
    """When it was written, seconds since the epoch."""
    uid: int = -1
    """Of the user who submitted it: SLURM is asked about this user's jobs only; -1 for a job of this machine."""

    @property
    def runs(self) -> tuple[str, ...]:
        return tuple(run_id for task in self.tasks for run_id in task)

    def loads(self, task: int) -> tuple[tuple[str, ...], ...]:
        """The runs of an element, those of one stack together."""
        runs = self.tasks[task]
        if not self.stacks:
            return (runs,) if self.together else tuple((run_id,) for run_id in runs)
        each = iter(runs)
        return tuple(tuple(islice(each, size)) for size in self.stacks[task])

    @property
    def profile(self) -> Cluster:
        """The cluster of a SLURM job."""
        if self.cluster is None:
            raise ValueError(f"{self.job} is a job of this machine: it has no cluster profile")
        return self.cluster


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """What became of an intent: the process that was started, or the job that SLURM took."""

    owner: Owner | None = None
    cluster: str = ""
    """SLURM's ClusterName."""
    job_id: str = ""
    """SLURM's number of the job (of an array: of the whole array)."""
    time: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """A sign of life: where a run stands."""

    time: float
    """When it was written, seconds since the epoch."""
    run_id: str
    step: int
    steps: int
    tokens_per_s: float
    first_step: int = 0
    """Where the attempt began: 0, or the step of the checkpoint that it resumed from."""
    stepped: float = 0.0
    """When it last got further, seconds since the epoch."""
    step_s: float = 0.0
    """Median time of a step."""
    limit_s: float = 0.0
    """How long it may go without a step before it counts as hung; 0 for as long as it likes."""


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

    A queued job runs the code of its launch, which may be older than what wrote the file: what it does not know it
    passes over. Not so in the spec of a run, where every setting may decide the loss.

    Raises:
        SweeperError: The file is there but is not what it should be.
        DiskError: The disk does not give it, which may pass.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DiskError(f"{path}: cannot be read ({error.strerror or error}); try again, or mend the disk") from error
    except ValueError as error:
        raise SweeperError(f"{path}: not a readable record ({error}); move it away to run this cell again") from error
    try:
        return build(kind, values, str(path))
    except ConfigError as error:
        less = known_part(kind, values)
        if less == values:
            raise
        if kind is RunSpec:
            raise SweeperError(
                f"{error} (written by a newer version? launch the sweep again from one version)"
            ) from error
        return build(kind, less, str(path))


# ── runs and their records ─────────────────────────────────────────────────────────────────────────────────────────


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
    read = (read_record(folder, run_id) for run_id in _names(folder.path / "runs"))
    return {record.run_id: record for record in read if record is not None}


def run_names(folder: SweepFolder) -> tuple[str, ...]:
    """The run_ids that a sweep's folder knows, of whatever grid."""
    return _names(folder.path / "runs")


# ── attempts ───────────────────────────────────────────────────────────────────────────────────────────────────────


def read_attempts(folder: SweepFolder, run_id: str) -> tuple[Attempt, ...]:
    """The attempts at a run in their order."""
    attempts = folder.run(run_id) / "attempts"
    found = []
    for number in sorted(int(name) for name in _names(attempts) if name.isdigit()):
        held = read_json(attempts / str(number) / "owner.json", _Held)
        if held is not None:
            end = read_json(attempts / str(number) / "end.json", End)
            found.append(Attempt(number=number, owner=held.owner, seat=held.seat, end=end))
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    owner: Owner
    seat: Seat


def claim_attempt(folder: SweepFolder, run_id: str, seat: Seat) -> int | None:
    """The number of the attempt that this process now holds, or None if the run is finished or a living one holds it.

    The claim is the rename of a folder that already holds its owner file, so no reader sees one without an owner and
    only one of two claimants wins. An attempt of the same job before SLURM requeued it is over: SLURM starts no job
    again while it runs.

    Raises:
        DiskError: The folder cannot be written.
    """
    while True:
        # The number is chosen before the holder is asked after: whoever claims in between takes this very number.
        taken = [int(name) for name in _names(folder.run(run_id) / "attempts") if name.isdigit()]
        number = max(taken, default=0) + 1
        attempts = read_attempts(folder, run_id)
        if attempts and attempts[-1].end is None and not _over(folder, run_id, attempts[-1], seat):
            return None
        if _claim(folder.attempt(run_id, number), _Held(owner=owner_of(os.getpid()), seat=seat)):
            break
    if read_record(folder, run_id) is None:
        return number
    # It was finished between the caller's look at the record and the claim.
    write_end(folder, run_id, number, End(state="stopped", reason="the run was finished already", cause="superseded"))
    return None


def _over(folder: SweepFolder, run_id: str, attempt: Attempt, seat: Seat) -> bool:
    """Whether an attempt without an end is none any more, to one who claims from `seat`."""
    return is_requeued(attempt.seat, seat) or is_lost(folder, run_id, attempt)


def is_requeued(before: Seat, now: Seat) -> bool:
    """Whether a seat is that of a job before SLURM put it back into the queue, as seen from the job after that."""
    return (before.job, before.task) == (now.job, now.task) and before.restarts < now.restarts


def requeued_end(attempt: Attempt) -> End:
    """The end of an attempt that left none when SLURM put its job back into the queue."""
    where = f" on {attempt.seat.node}" if attempt.seat.node else ""
    reason = f"SLURM put its job{where} back into the queue before it could say how it ended"
    return End(state="lost", cause="signal", reason=reason)


def is_superseded(folder: SweepFolder, run_id: str, number: int) -> bool:
    """Whether an attempt was declared over or another was made since: its process must write nothing more."""
    return folder.attempt(run_id, number + 1).exists() or (folder.attempt(run_id, number) / "end.json").exists()


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


def lost_end(attempt: Attempt, task: Task | None = None) -> End:
    """The end of an attempt that died without a word, with what SLURM remembers of its job."""
    seat = attempt.seat
    if task is not None and task.restarts > seat.restarts:
        return requeued_end(attempt)
    state = task.state if task else ""
    where = f" on {seat.node}" if seat.node else ""
    if state == "OUT_OF_MEMORY":
        return End(state="lost", cause="memory", reason=f"SLURM ended it for its memory{where}")
    if state in ("NODE_FAIL", "BOOT_FAIL"):
        return End(state="lost", cause="node", reason=f"the node failed{where} ({state})")
    if state in ("TIMEOUT", "DEADLINE"):
        return End(
            state="stopped", cause="time", reason=f"its time limit passed before a checkpoint was asked for{where}"
        )
    if state == "PREEMPTED":
        return End(state="stopped", cause="signal", reason=f"it was preempted{where}")
    if state == "CANCELLED":
        return End(state="stopped", cause="cancelled", reason=f"its job was cancelled{where}")
    words = f" (SLURM: {state})" if state else ""
    return End(state="lost", cause="killed" if state else "", reason=f"it went silent{where}{words}")


STALE_S = 900.0
"""A process that cannot be asked counts as lost when its last sign of life is older than this, seconds."""


def is_lost(folder: SweepFolder, run_id: str, attempt: Attempt) -> bool:
    """Whether the process of an attempt without an end is gone: by its pid where it can be asked, else by silence."""
    owner = attempt.owner
    if owner.here:
        return not owner.alive
    return owner.rebooted or silence(folder, run_id, attempt) > STALE_S


def silence(folder: SweepFolder, run_id: str, attempt: Attempt) -> float:
    """Seconds since an attempt's last sign of life, by the clocks of both machines."""
    beat = read_beat(folder, run_id, attempt.number)
    return time.time() - max(beat.time if beat else 0.0, attempt.owner.time)


def write_end(folder: SweepFolder, run_id: str, number: int, end: End) -> None:
    """Note how an attempt ended."""
    write_json(folder.attempt(run_id, number) / "end.json", replace(end, time=end.time or time.time()))


def write_rank_end(folder: SweepFolder, run_id: str, number: int, rank: int, end: End) -> None:
    """Note how a process of an attempt ended that does not lead it: rank 0, or the supervisor, may ask why."""
    write_json(folder.attempt(run_id, number) / f"end.{rank}.json", replace(end, time=end.time or time.time()))


def read_rank_end(folder: SweepFolder, run_id: str, number: int) -> End | None:
    """The first end that a rank of an attempt told of itself, by the clocks of their nodes.

    None where no rank did, or each merely lost another.
    """
    told: list[tuple[float, int, End]] = []
    for path in folder.attempt(run_id, number).glob("end.*.json"):
        end, rank = read_json(path, End), int(path.name.split(".")[1])
        if end is not None and end.cause != "peer":
            told.append((end.time, rank, replace(end, reason=f"rank {rank}: {end.reason}")))
    return min(told, key=lambda one: one[:2])[2] if told else None


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


def read_jobs(folder: SweepFolder) -> dict[str, tuple[JobFile, Submitted | None]]:
    """Jobs that are not known to have ended, by name; without a note of submission for an intent that has none yet.

    A job that cannot be read is none: the attempts that it made have owners of their own.
    """
    found = {}
    for name in _names(folder.jobs):
        path = folder.jobs / name
        if (path / "ended.json").exists():
            continue
        try:
            job, submitted = read_json(path / "job.json", JobFile), read_json(path / "submitted.json", Submitted)
        except DiskError:
            raise  # what a disk does not give now may be a job that lives
        except SweeperError:
            continue
        if job is not None:
            found[name] = (job, submitted)
    return found


def write_submitted(path: Path, submitted: Submitted) -> None:
    """Note that a job was started."""
    write_json(path / "submitted.json", submitted)


def close_job(path: Path, reason: str = "") -> None:
    """Note that a job ended, or was given up: nobody asks after it again, and should it still start it ends at once."""
    write_json(path / "ended.json", {"reason": reason, "time": time.time()})


def is_closed(path: Path) -> bool:
    """Whether a job was noted to have ended."""
    return (path / "ended.json").exists()


def local_jobs(folder: SweepFolder) -> dict[str, tuple[JobFile, Owner]]:
    """Jobs of this machine whose process still lives, by name."""
    return {
        name: (job, submitted.owner)
        for name, (job, submitted) in read_jobs(folder).items()
        if submitted is not None and submitted.owner is not None and submitted.owner.here and submitted.owner.alive
    }


def write_beat(folder: SweepFolder, run_id: str, number: int, beat: Beat) -> None:
    """The heartbeat of an attempt; without the flush to disk that records deserve."""
    path = folder.attempt(run_id, number)
    partial = path / ".heartbeat.partial"
    partial.write_text(json.dumps(plain(beat)))
    partial.replace(path / "heartbeat.json")


def read_beat(folder: SweepFolder, run_id: str, number: int) -> Beat | None:
    """The last heartbeat of an attempt; a torn one, after a power cut, is none.

    Raises:
        DiskError: The disk does not give it: whether the attempt lives is not known.
    """
    try:
        return read_json(folder.attempt(run_id, number) / "heartbeat.json", Beat)
    except DiskError:
        raise
    except SweeperError:
        return None


# ── what people and `tend` decided about runs and nodes ────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A run that nobody is to start, until `retry` or `launch` asks for it."""

    reason: str
    time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewed:
    """When somebody last asked for a run again."""

    time: float
    attempts: int = 0
    """Its attempts until then: they no longer count."""


def hold_run(folder: SweepFolder, run_id: str, reason: str) -> None:
    """Keep a run from being started."""
    write_json(folder.run(run_id) / "held.json", Held(reason=reason, time=time.time()))


def renew_run(folder: SweepFolder, run_id: str) -> None:
    """Let a run be started again, with all its attempts before it."""
    (folder.run(run_id) / "held.json").unlink(missing_ok=True)
    attempts = read_attempts(folder, run_id)
    last = attempts[-1].number if attempts else 0
    write_json(folder.run(run_id) / "retry.json", Renewed(time=time.time(), attempts=last))


def read_held(folder: SweepFolder, run_id: str) -> Held | None:
    """Why and since when a run is held; None for one that is not."""
    return read_json(folder.run(run_id) / "held.json", Held)


def is_held(folder: SweepFolder, run_id: str) -> bool:
    return (folder.run(run_id) / "held.json").exists()


def counted_attempts(folder: SweepFolder, run_id: str) -> tuple[Attempt, ...]:
    """The attempts since somebody last asked for the run: those that its limits count."""
    attempts = read_attempts(folder, run_id)
    renewed = read_renewed(folder, run_id)
    return attempts if renewed is None else tuple(a for a in attempts if a.number > renewed.attempts)


def read_renewed(folder: SweepFolder, run_id: str) -> Renewed | None:
    """When somebody last asked for a run again; None if nobody did."""
    return read_json(folder.run(run_id) / "retry.json", Renewed)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExcludedNode:
    """A node that no job of the sweep may use."""

    node: str
    reason: str
    time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ExcludedNodes:
    nodes: tuple[ExcludedNode, ...] = ()
    cleared: Mapping[str, float] = field(default_factory=dict)
    """When a person last cleared a node, seconds since the epoch: what happened there before no longer counts."""


def read_excluded(folder: SweepFolder) -> tuple[ExcludedNode, ...]:
    """The nodes that the sweep avoids."""
    found = read_json(folder.path / "exclude.json", ExcludedNodes)
    return found.nodes if found else ()


def write_excluded(folder: SweepFolder, nodes: Iterable[ExcludedNode]) -> None:
    write_json(folder.path / "exclude.json", ExcludedNodes(nodes=tuple(nodes), cleared=read_cleared(folder)))


def read_cleared(folder: SweepFolder) -> Mapping[str, float]:
    """When each node that was once excluded was last cleared, seconds since the epoch."""
    found = read_json(folder.path / "exclude.json", ExcludedNodes)
    return found.cleared if found else {}


def clear_excluded(folder: SweepFolder, names: Iterable[str]) -> None:
    """Let jobs use nodes again."""
    chosen = dict.fromkeys(names, time.time())
    kept = tuple(node for node in read_excluded(folder) if node.node not in chosen)
    write_json(folder.path / "exclude.json", ExcludedNodes(nodes=kept, cleared={**read_cleared(folder), **chosen}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """Runs that one launch handed over, with what it froze for them."""

    runs: tuple[str, ...]
    cluster: Cluster
    execution: Execution
    code: str
    canaries: tuple[str, ...] = ()
    """Those of them that the others wait for."""
    fuse: Fuse = "off"
    """Which of them are trained together when they are submitted again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchFile:
    """What was launched on a cluster, frozen: all that tending needs, whatever becomes of the YAML."""

    sweep: str
    runs: tuple[str, ...]
    """Every cell that was ever launched."""
    cluster: Cluster
    """Of the last launch, like what follows."""
    execution: Execution
    code: str
    canaries: tuple[str, ...] = ()
    fuse: Fuse = "off"
    earlier: tuple[Launched, ...] = ()
    """Runs that the last launch did not hand over itself: they keep what theirs froze."""

    @property
    def launches(self) -> tuple[Launched, ...]:
        """Each run with the launch that handed it over last."""
        before = {run_id for part in self.earlier for run_id in part.runs}
        last = Launched(
            runs=tuple(run_id for run_id in self.runs if run_id not in before),
            cluster=self.cluster,
            execution=self.execution,
            code=self.code,
            canaries=self.canaries,
            fuse=self.fuse,
        )
        return tuple(part for part in (*self.earlier, last) if part.runs)

    def by_run(self) -> dict[str, Launched]:
        """The launch that handed each run over last."""
        return {run_id: part for part in self.launches for run_id in part.runs}


def write_launch(folder: SweepFolder, launch: LaunchFile) -> None:
    write_json(folder.path / "launch.json", launch)


def read_launch(folder: SweepFolder) -> LaunchFile | None:
    """The launch file of a sweep; None where it was never launched on a cluster."""
    return read_json(folder.path / "launch.json", LaunchFile)


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
    """What the disk and the scheduler say about one run."""

    record: RunRecord | None = None
    attempts: tuple[Attempt, ...] = ()
    beat: Beat | None = None
    """The last heartbeat of the last attempt, where that has no end."""
    holder: Literal["none", "alive", "unknown"] = "none"
    """Whether the process of the last attempt, if that has no end, lives."""
    job: Life = "none"
    """The liveliest of the jobs that contain the run."""
    held: bool = False
    """Whether it was cancelled."""
    damaged: str = ""
    """What is wrong with a file of it that cannot be read: nothing is concluded then."""


JobLives = Mapping[tuple[str, int], Life]
"""How the elements of jobs live, by job name and index."""


def read_evidence(
    folder: SweepFolder, run_ids: Iterable[str], queue: Queue | None = None, *, jobs: bool = True
) -> dict[str, Evidence]:
    """What is known of each run: its record, else its attempts and the jobs that hold it.

    Args:
        queue: What SLURM says now; without it the jobs of a cluster are known by their signs of life alone.
        jobs: Whether to look for jobs that have not claimed their runs yet.
    """
    found = read_jobs(folder) if jobs else {}
    lives: dict[tuple[str, int], Life] = {}
    holding: dict[str, Life] = {}
    for name, (job, submitted) in found.items():
        for index, runs in enumerate(job.tasks):
            life = lives[name, index] = job_life(job, submitted, index, queue)
            for run_id in runs:
                holding[run_id] = max(life, holding.get(run_id, "none"), key=LIVES.index)
    known = set(_names(folder.path / "runs"))
    nothing = Evidence()
    return {r: _evidence(folder, r, holding.get(r, "none"), lives, queue) if r in known else nothing for r in run_ids}


def job_life(job: JobFile, submitted: Submitted | None, index: int, queue: Queue | None) -> Life:
    """Whether an element of a job lives: by its process on this machine, by SLURM's word on a cluster.

    Unknown is not dead: a job of another cluster, of a controller that does not answer, or of which nothing is known
    yet, is unknown for as long as nothing says otherwise.
    """
    if job.cluster is None:
        owner = submitted.owner if submitted else None
        return "alive" if owner is not None and owner.here and owner.alive else "none"
    if queue is None or not queue.answers or (submitted is not None and submitted.cluster != queue.cluster):
        return "unknown"
    if job.uid not in (-1, os.getuid()):
        return "unknown"  # another user's: squeue was not asked for it
    return queue.life(job.job, index, since=submitted.time if submitted else job.time)


def _names(path: Path) -> tuple[str, ...]:
    """The visible entries of a folder, sorted; none where there is no folder."""
    try:
        return tuple(sorted(entry.name for entry in os.scandir(path) if not entry.name.startswith(".")))
    except FileNotFoundError:
        return ()


def _evidence(folder: SweepFolder, run_id: str, job: Life, lives: JobLives, queue: Queue | None) -> Evidence:
    try:
        return _readable_evidence(folder, run_id, job, lives, queue)
    except SweeperError as error:  # one bad file must not stop what others need
        return Evidence(job=job, damaged=str(error))


def _readable_evidence(folder: SweepFolder, run_id: str, job: Life, lives: JobLives, queue: Queue | None) -> Evidence:
    record = read_record(folder, run_id)
    if record is not None:
        return Evidence(record=record)
    attempts = read_attempts(folder, run_id)
    last = attempts[-1] if attempts and attempts[-1].end is None else None
    return Evidence(
        attempts=attempts,
        beat=read_beat(folder, run_id, last.number) if last else None,
        holder=_holder(folder, run_id, last, lives, queue) if last else "none",
        job=job,
        held=is_held(folder, run_id),
    )


SILENT_S = 180.0
"""Three heartbeats: an attempt silent for this long is gone if its scheduler says so too."""


def _holder(
    folder: SweepFolder, run_id: str, attempt: Attempt, lives: JobLives, queue: Queue | None
) -> Literal["none", "alive", "unknown"]:
    """Whether the process of an attempt without an end lives. Gone takes two words: the scheduler's and silence."""
    if attempt.owner.here:
        return "alive" if attempt.owner.alive else "none"
    seat = attempt.seat
    if not seat.scheduled:
        return "none" if is_lost(folder, run_id, attempt) else "alive"
    task = queue.tasks.get((seat.job, seat.task)) if queue else None
    if task is not None and task.restarts > seat.restarts:
        return "none"
    life = lives.get((seat.job, seat.task), "none")  # a job that is noted to have ended is not among them
    if life == "alive" or silence(folder, run_id, attempt) <= SILENT_S:
        return "alive"
    return "unknown" if life == "unknown" else "none"
