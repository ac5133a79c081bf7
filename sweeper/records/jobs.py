"""Intents of jobs, written before they are submitted, and what a launch froze for them."""

import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from model.config import Execution
from sweeper.errors import DiskError, SweeperError
from sweeper.records.folder import SweepFolder, names, read_json, write_json
from sweeper.records.owner import Owner
from sweeper.spec import Cluster, Fuse


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
    for name in names(folder.jobs):
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
