"""Tries at a run: claimed by one process, alive by its heartbeat, ended once."""

import errno
import json
import os
import shutil
import time
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from sweeper.errors import DiskError, SweeperError
from sweeper.records.folder import SweepFolder, names, read_json, write_json
from sweeper.records.owner import Owner, owner_of
from sweeper.records.runs import read_record
from sweeper.slurm import Task
from sweeper.typed import plain

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


STALE_S = 900.0
"""A process that cannot be asked counts as lost when its last sign of life is older than this, seconds."""


def read_attempts(folder: SweepFolder, run_id: str) -> tuple[Attempt, ...]:
    """The attempts at a run in their order."""
    attempts = folder.run(run_id) / "attempts"
    found = []
    for number in sorted(int(name) for name in names(attempts) if name.isdigit()):
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
        taken = [int(name) for name in names(folder.run(run_id) / "attempts") if name.isdigit()]
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
