"""The evidence of states: what the disk and the scheduler say about a run."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from sweeper.errors import SweeperError
from sweeper.records.attempts import Attempt, Beat, is_lost, read_attempts, read_beat, silence
from sweeper.records.decisions import is_held
from sweeper.records.folder import SweepFolder, names
from sweeper.records.jobs import JobFile, Submitted, read_jobs
from sweeper.records.runs import RunRecord, read_record
from sweeper.slurm import LIVES, Life, Queue


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
SILENT_S = 180.0
"""Three heartbeats: an attempt silent for this long is gone if its scheduler says so too."""


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
    known = set(names(folder.path / "runs"))
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
