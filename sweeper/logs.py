"""What a run printed: the logs of its attempts, else the output of the job that holds it; followed as they grow."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sweeper.errors import SweeperError
from sweeper.records import (
    JobFile,
    Seat,
    Submitted,
    SweepFolder,
    read_attempts,
    read_job,
    read_jobs,
    read_json,
)

POLL_S = 0.5
ASK_S = 20.0
"""Between two questions to the scheduler while nothing is printed."""
CHUNK = 1 << 20
"""Bytes that are read at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """A file that a run, or its job, prints into."""

    path: Path
    attempt: int
    """0 for the output of a job."""


def find_logs(folder: SweepFolder, run_id: str, attempt: int = 0, rank: int = 0) -> tuple[Log, ...]:
    """The files of an attempt that are there, the output of a command before our log of it; else those of the job.

    Args:
        attempt: Its number; 0 for the last.
        rank: The process, from 0.

    Raises:
        SweeperError: There is no such attempt or rank.
    """
    attempts = read_attempts(folder, run_id)
    numbers = [each.number for each in attempts]
    if attempt and attempt not in numbers:
        raise SweeperError(f"run {run_id} has no attempt {attempt}; it made {', '.join(map(str, numbers)) or 'none'}")
    if attempts:
        number = attempt or numbers[-1]
        home = folder.attempt(run_id, number)
        part = f".{rank}" if rank else ""
        found = [path for path in (home / f"output{part}.log", home / f"log{part}") if path.exists()]
        if found:
            return tuple(Log(path=path, attempt=number) for path in found)
        if rank:
            there = sorted(path.name for path in home.glob("log*"))
            raise SweeperError(f"attempt {number} of {run_id} has no rank {rank}; {home} holds {', '.join(there)}")
        seat = next(each.seat for each in attempts if each.number == number)
        return _of_job(folder, run_id, seat)
    for name, (job, _) in read_jobs(folder).items():
        for index, runs in enumerate(job.tasks):
            if run_id in runs and (found_there := _of_job(folder, run_id, Seat(job=name, task=index))):
                return found_there
    return ()


def _of_job(folder: SweepFolder, run_id: str, seat: Seat) -> tuple[Log, ...]:
    """The newest output of a run's processes in a job, else the job's own."""
    home = folder.jobs / seat.job
    places = (
        *(home.glob(f"output/{mate}-{seat.task}-*.out") for mate in _mates(home, run_id, seat.task)),
        home.glob(f"*_{seat.task}.out"),
        home.glob("submitit/*_log.out"),
    )
    for found in places:
        newest = sorted(found, key=lambda path: path.stat().st_mtime)
        if newest:
            return (Log(path=newest[-1], attempt=0),)
    return ()


def _mates(home: Path, run_id: str, task: int) -> tuple[str, ...]:
    """A run, and those that its job trains together with it: their output bears the name of one of them."""
    with suppress(SweeperError):
        for load in read_job(home).loads(task):
            if run_id in load:
                return (run_id, *(mate for mate in load if mate != run_id))
    return (run_id,)


@dataclass(frozen=True, slots=True, kw_only=True)
class SilentJob:
    """A job of SLURM that ended without having made an attempt at a run."""

    job_id: str
    """As squeue shows it."""
    said: str
    """What it printed."""


def silent_job(folder: SweepFolder, run_id: str) -> SilentJob | None:
    """The newest job of a run that nobody is at work on, if it was submitted after the run's last attempt."""
    attempts = read_attempts(folder, run_id)
    found: list[tuple[float, int, JobFile, str]] = []
    for path in sorted(folder.jobs.glob("*/submitted.json")):  # those that ended too
        try:
            job, submitted = read_job(path.parent), read_json(path, Submitted)
        except SweeperError:
            continue
        if submitted is not None and submitted.job_id:
            indices = [index for index, runs in enumerate(job.tasks) if run_id in runs]
            found += [(submitted.time, index, job, submitted.job_id) for index in indices]
    if not found:
        return None
    when, index, job, number = max(found, key=lambda each: each[:2])
    if attempts and (attempts[-1].job == job.job or attempts[-1].owner.time >= when):
        return None
    printed = _of_job(folder, run_id, Seat(job=job.job, task=index))
    return SilentJob(job_id=f"{number}_{index}", said=read_log(printed[0])[0] if printed else "")


def read_log(log: Log, at: int = 0) -> tuple[str, int]:
    """What a file holds from byte `at` on, in whole lines where it still grows, and where to go on."""
    with log.path.open("rb") as file:
        file.seek(at)
        data = file.read(CHUNK)
    return data.decode(errors="replace"), at + len(data)


def follow(
    folder: SweepFolder, run_id: str, *, rank: int = 0, over: Callable[[], bool], poll_s: float = POLL_S
) -> Iterator[str]:
    """What a run prints, as it does, from one attempt to the next, until it is `over`.

    Args:
        over: Whether the run ended for good; asked when nothing was printed for a while, for it may cost a query.
    """
    shown: dict[Path, int] = {}
    quiet_since = time.monotonic()
    asked = -ASK_S
    while True:
        printed = False
        for log in _logs_now(folder, run_id, rank):
            if log.path not in shown:
                yield f"==> {log.path} <==\n"
            text, shown[log.path] = read_log(log, shown.get(log.path, 0))
            if text:
                printed = True
                yield text
        now = time.monotonic()
        if printed:
            quiet_since = now
            continue
        finished = (folder.run(run_id) / "record.json").exists()
        if finished or (now - quiet_since > 2 * poll_s and now - asked > ASK_S):
            asked = now
            if finished or over():
                return
        time.sleep(poll_s)


def _logs_now(folder: SweepFolder, run_id: str, rank: int) -> tuple[Log, ...]:
    try:
        return find_logs(folder, run_id, rank=rank)
    except SweeperError:  # this rank has not begun yet
        return ()
