"""Hand the runs of a sweep to SLURM and return: intents first, then arrays, one per resource shape and part of it."""

import hashlib
import os
import re
import shutil
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from sweeper.calibration import read_calibration
from sweeper.errors import LaunchError
from sweeper.launch import ask_about_jobs, check_runs, measured
from sweeper.plan import Job, Plan, Speeds, make_plan, plan_json
from sweeper.records import (
    JobFile,
    Launched,
    LaunchFile,
    Submitted,
    SweepFolder,
    close_job,
    hold_run,
    job_life,
    launcher_lock,
    lost_end,
    read_attempts,
    read_evidence,
    read_excluded,
    read_jobs,
    read_launch,
    read_renewed,
    read_spec,
    renew_run,
    write_end,
    write_job,
    write_json,
    write_launch,
    write_specs,
    write_submitted,
    write_text,
)
from sweeper.retries import is_tried_alone
from sweeper.scheduler.arrays import LimitError, Shape, UnansweredError, keeper_script, sbatch_script, submit_script
from sweeper.slurm import Queue, Settings, SlurmError, ask_queue, exclude_nodes, read_settings, require_slurm
from sweeper.snapshot import take_snapshot
from sweeper.spec import Cluster, RunSpec, Sweep
from sweeper.status import FINISHED, STARTABLE, State, state_of, states
from sweeper.supervisor import tries

MAX_ARRAY_SIZE = 1001
"""Most elements of an array where the cluster does not say (slurm.conf, MaxArraySize)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What a launch on a cluster did."""

    jobs: tuple[str, ...]
    """SLURM's numbers of the arrays."""
    submitted: int
    """Runs handed over now."""
    found: int
    """Runs that already had a result."""
    active: int
    """Runs that somebody was at work on already."""
    cancelled: int
    """Runs that a person cancelled."""
    waiting: int
    """Runs that a limit of SLURM kept back."""
    limit: str
    """SLURM's words about that limit."""
    canaries: int
    """Runs that the others wait for."""
    states: Mapping[State, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Array:
    """Jobs of one resource shape that are submitted at once."""

    jobs: tuple[Job, ...]
    shape: Shape


def submit_sweep(
    sweep: Sweep, specs: Sequence[RunSpec], folder: SweepFolder, *, tell: Callable[[str], None], canary: bool = False
) -> Submission:
    """Submit every cell without a result that nobody works on, and return at once.

    Whatever happens in between, no run is submitted twice: an intent is on disk before sbatch is called, jobs are
    known by their names, and a job whose intent was closed meanwhile ends without doing anything.

    Args:
        tell: Called with each note before anything is submitted.
        canary: Submit the smallest and the largest run first; the others start when these have a result.

    Raises:
        ConfigError: A run fits no number of devices.
        DataError: The data cannot be read or do not fit.
        LaunchError: SLURM cannot be asked, refuses the jobs, or another launch of this sweep is alive.
    """
    require_slurm()
    for note in (*sweep.notes, *check_runs(specs, sweep.cluster)):
        tell(note)
    with patient_lock(folder) as renew:
        queue, settings = _ask(folder, tell)
        evidence = read_evidence(folder, [spec.run_id for spec in specs], queue)
        known = read_calibration(folder, sweep.cluster)
        plan = make_plan(
            sweep.name,
            specs,
            states(evidence),
            sweep.cluster,
            sweep.execution,
            measured(evidence),
            calibrated=known,
            fuse=sweep.launch.together,
        )
        for run in plan.runs:
            if run.state == "failed":
                renew_run(folder, run.run_id)  # a person asks for it: its earlier attempts no longer count
        write_text(folder.path / "sweep.yaml", sweep.resolved)
        write_json(folder.path / "plan.json", plan_json(plan))
        code = take_snapshot(folder.code)
        launch = _launch_file(sweep, plan, code, read_launch(folder), canary=canary)
        write_launch(folder, launch)
        found = {run.run_id: run.state for run in plan.runs}
        sent = submit_jobs(folder, launch.sweep, launch.launches[-1], plan.jobs, queue, settings, renew=renew)
    count = list(found.values()).count
    return Submission(
        jobs=sent.jobs,
        submitted=sent.submitted,
        found=sum(state in FINISHED for state in found.values()),
        active=count("queued") + count("running") + count("unknown"),
        cancelled=count("cancelled"),
        waiting=sent.waiting,
        limit=sent.limit,
        canaries=len(launch.canaries),
        states=plan.totals.states,
    )


LOCK_S = 60.0
"""How long a command waits for a cycle of tending to end."""
LOCK_POLL_S = 0.2


@contextmanager
def patient_lock(folder: SweepFolder, wait_s: float = LOCK_S) -> Iterator[Callable[[], None]]:
    """The lock of the sweep, waited for: a cycle of tending holds it for a moment.

    Raises:
        LaunchError: Another launch of this sweep goes on.
    """
    deadline = time.monotonic() + wait_s
    with ExitStack() as stack:
        while True:
            try:
                renew = stack.enter_context(launcher_lock(folder))
                break
            except LaunchError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(LOCK_POLL_S)
        yield renew


def _launch_file(sweep: Sweep, plan: Plan, code: str, before: LaunchFile | None, *, canary: bool) -> LaunchFile:
    """The launch file with this launch as its last: what it hands over now is its own, the rest stays with theirs."""
    handed = {spec.run_id for job in plan.jobs for spec in job.runs}
    parts = before.launches if before else ()
    kept = [replace(part, runs=tuple(r for r in part.runs if r not in handed)) for part in parts]
    known = dict.fromkeys([*(before.runs if before else ()), *(run.run_id for run in plan.runs)])
    canaries = _stages(plan.jobs)[0] if canary and len(plan.jobs) > 2 else ()
    return LaunchFile(
        sweep=sweep.name,
        runs=tuple(known),
        cluster=sweep.cluster,
        execution=sweep.execution,
        code=code,
        fuse=sweep.launch.together,
        canaries=tuple(spec.run_id for job in canaries for spec in job.runs),
        earlier=tuple(part for part in kept if part.runs),
    )


def _ask(folder: SweepFolder, tell: Callable[[str], None]) -> tuple[Queue, Settings]:
    """What SLURM says now; jobs that it no longer has are noted to have ended.

    Raises:
        LaunchError: It does not answer: nobody knows which runs it has.
    """
    try:
        settings = read_settings()
    except SlurmError as error:
        raise LaunchError(
            f"SLURM does not answer ({error}); nothing was submitted: launch again when it does"
        ) from error
    queue = ask_about_jobs([job for job, _ in read_jobs(folder).values() if job.cluster is not None], settings)
    if not queue.answers:
        raise LaunchError(f"SLURM does not answer ({queue.error}); nothing was submitted: launch again")
    if (before := read_launch(folder)) is not None and (held := hold_the_cancelled(folder, before, queue)):
        tell(f"{len(held)} runs were cancelled outside sweeper and are left alone; `sweeper retry` takes them up again")
    close_ended(folder, queue)
    return queue, settings


def hold_the_cancelled(folder: SweepFolder, launch: LaunchFile, queue: Queue) -> list[str]:
    """Hold the runs whose jobs a person cancelled with scancel; which ones.

    What SLURM cancelled because a canary failed is none of it, nor what was asked for again since.
    """
    last: dict[str, tuple[JobFile, int]] = {}
    for job, _ in sorted(read_jobs(folder).values(), key=lambda pair: pair[0].time):
        last |= {run_id: (job, index) for index, runs in enumerate(job.tasks) for run_id in runs}
    cancelled, launched = set(), launch.by_run()
    for run_id in last.keys() & launched.keys():
        job, index = last[run_id]
        task = queue.task(job.job, index)
        if task is None or task.state != "CANCELLED":
            continue
        renewed = read_renewed(folder, run_id)
        canaries = launched[run_id].canaries
        begun = any(attempt.seat.job == job.job for attempt in read_attempts(folder, run_id))
        if (renewed is None or renewed.time < job.time) and (begun or not canaries or run_id in canaries):
            cancelled.add(run_id)
    evidence = read_evidence(folder, sorted(cancelled), queue) if cancelled else {}
    held = [run_id for run_id, seen in evidence.items() if state_of(seen) in STARTABLE]
    for run_id in held:
        hold_run(folder, run_id, "its job was cancelled")
    return held


def close_ended(folder: SweepFolder, queue: Queue) -> None:
    """Note the end of every job that this cluster no longer has: it is not asked after again, nor may it start late."""
    for name, (job, submitted) in read_jobs(folder).items():
        lives = {job_life(job, submitted, index, queue) for index in range(len(job.tasks))}
        if lives == {"none"} and job.cluster is not None:
            close_job(folder.jobs / name, "SLURM no longer has it")


def tell_waiting(folder: SweepFolder, queue: Queue) -> tuple[int, str]:
    """Change the nodes that waiting jobs avoid to those excluded now: how many were told, and SLURM's refusal, if any.

    The nodes that the profile excludes stay excluded.
    """
    jobs = {name: job for name, (job, _) in read_jobs(folder).items() if job.cluster is not None}
    if not jobs:
        return 0, ""
    if not queue.answers:
        return 0, queue.error
    waiting: dict[tuple[str, str], list[str]] = defaultdict(list)
    for task in queue.tasks.values():
        if task.name in jobs and task.life == "queued":
            number, _, index = task.job_id.partition("_")
            waiting[task.name, number].append(index)
    told, refused = 0, ""
    names = [node.node for node in read_excluded(folder)]
    for (name, number), indices in waiting.items():
        nodes = ",".join([part for part in (jobs[name].profile.slurm.exclude, *names) if part])
        elements = f"{number}_[{','.join(sorted(indices, key=int))}]" if all(indices) else number
        try:
            exclude_nodes(elements, nodes)
            told += len(indices)
        except SlurmError as error:
            refused = str(error)
    return told, refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What became of jobs on their way to SLURM."""

    jobs: tuple[str, ...]
    submitted: int
    waiting: int
    limit: str


def submit_jobs(
    folder: SweepFolder,
    sweep: str,
    launch: Launched,
    jobs: Sequence[Job],
    queue: Queue,
    settings: Settings,
    *,
    renew: Callable[[], None],
) -> Sent:
    """Submit jobs of one launch as arrays until done, or until a limit of SLURM is reached.

    An array that meets a limit is halved: part of it may find room. The canaries of the launch go first; with them, the
    others wait in SLURM until they have a result.

    Raises:
        LaunchError: SLURM refuses an array, or does not say whether it took it; what went before stays submitted.
    """
    excluded = tuple(node.node for node in read_excluded(folder))
    submitted, limit = 0, ""
    numbers: list[str] = []
    total = sum(len(job.runs) for job in jobs)
    first = [job for job in jobs if any(spec.run_id in launch.canaries for spec in job.runs)]
    for stage in [first, [job for job in jobs if job not in first]] if first else [list(jobs)]:
        after = f"afterok:{':'.join(numbers)}" if numbers else ""
        waiting = deque(arrays(stage, launch.cluster, settings.max_array_size, dependency=after, excluded=excluded))
        while waiting:
            array = waiting.popleft()
            renew()
            try:
                numbers.append(_submit(folder, sweep, launch, array, queue, settings, renew))
            except LimitError as error:
                limit = str(error)
                if len(array.jobs) == 1:
                    break
                waiting.extendleft(reversed(_halves(array)))
                continue
            submitted += sum(len(job.runs) for job in array.jobs)
        if limit:
            break
    return Sent(jobs=tuple(numbers), submitted=submitted, waiting=total - submitted, limit=limit)


def _stages(jobs: Sequence[Job]) -> tuple[tuple[Job, ...], ...]:
    """The smallest and the largest job, then the others; jobs come with the longest first."""
    if len(jobs) <= 2:
        return (tuple(jobs),)
    return (jobs[0], jobs[-1]), tuple(jobs[1:-1])


def submit_again(
    folder: SweepFolder,
    launch: LaunchFile,
    run_ids: Collection[str],
    speeds: Speeds,
    queue: Queue,
    settings: Settings,
    *,
    renew: Callable[[], None],
) -> Sent:
    """Submit launched runs again, each with the profile, the execution and the code that its own launch froze.

    Raises:
        LaunchError: SLURM refuses an array, or does not say whether it took it; what went before stays submitted.
    """
    sent = Sent(jobs=(), submitted=0, waiting=0, limit="")
    for part in launch.launches:
        specs = [read_spec(folder, run_id) for run_id in part.runs if run_id in run_ids]
        if not specs:
            continue
        known = read_calibration(folder, part.cluster)
        plan = make_plan(
            launch.sweep,
            specs,
            {},
            part.cluster,
            part.execution,
            speeds,
            calibrated=known,
            fuse=part.fuse,
            alone={s.run_id for s in specs if is_tried_alone(tries(folder, s.run_id), part.cluster)},
        )
        if sent.limit:
            sent = replace(sent, waiting=sent.waiting + len(specs))
            continue
        more = submit_jobs(folder, launch.sweep, part, plan.jobs, queue, settings, renew=renew)
        sent = Sent(
            jobs=sent.jobs + more.jobs,
            submitted=sent.submitted + more.submitted,
            waiting=sent.waiting + more.waiting,
            limit=more.limit,
        )
    return sent


def _halves(array: Array) -> tuple[Array, Array]:
    middle = len(array.jobs) // 2
    return replace(array, jobs=array.jobs[:middle]), replace(array, jobs=array.jobs[middle:])


def arrays(
    jobs: Iterable[Job],
    cluster: Cluster,
    max_array_size: int = MAX_ARRAY_SIZE,
    *,
    dependency: str = "",
    excluded: tuple[str, ...] = (),
) -> tuple[Array, ...]:
    """Jobs by resource shape, in parts of at most the cluster's MaxArraySize elements (their largest index + 1)."""
    by_shape: dict[tuple[Shape, int, bool], list[Job]] = {}
    for job in jobs:
        shape = Shape(
            nodes=job.nodes,
            tasks_per_node=job.tasks_per_node,
            time_min=job.time_min or cluster.slurm.time_min,
            dependency=dependency,
            excluded=excluded,
        )
        by_shape.setdefault((shape, job.processes, job.stacked), []).append(job)
    size = max(1, max_array_size)
    return tuple(
        Array(jobs=tuple(some[first : first + size]), shape=shape)
        for (shape, _, _), some in by_shape.items()
        for first in range(0, len(some), size)
    )


def intent(launch: Launched, array: Array, name: str) -> JobFile:
    """What is written down of an array before it is submitted."""
    first = array.jobs[0]
    how: Literal["auto", "always"] = "auto" if launch.fuse == "auto" else "always"
    return JobFile(
        job=name,
        tasks=tuple(tuple(spec.run_id for spec in job.runs) for job in array.jobs),
        together=how if first.stacked else "",
        stacks=tuple(tuple(len(load.runs) for load in job.loads) for job in array.jobs) if first.stacked else (),
        code=launch.code,
        processes=first.processes,
        heartbeat_s=launch.cluster.heartbeat_s,
        execution=launch.execution,
        cluster=launch.cluster,
        nodes=first.nodes,
        time=time.time(),
        uid=os.getuid(),
    )


def _submit(
    folder: SweepFolder,
    sweep: str,
    launch: Launched,
    array: Array,
    queue: Queue,
    settings: Settings,
    renew: Callable[[], None],
) -> str:
    """Write the intent of an array and submit it; SLURM's number of it."""
    write_specs(folder, (spec for job in array.jobs for spec in job.runs))
    for job in array.jobs:
        for spec in job.runs:
            _end_open(folder, spec.run_id, queue)
    name = f"{_in_a_name(sweep)}-{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(4).hex()}"
    file = intent(launch, array, name)
    path = write_job(folder, file)
    script = path / "script.sh"
    write_text(script, sbatch_script(file, array.shape, folder))
    try:
        number = submit_script(script, name, renew)
    except LimitError:
        shutil.rmtree(path, ignore_errors=True)  # SLURM does not have it: there is nothing to remember
        raise
    except UnansweredError:
        raise
    except LaunchError as error:
        close_job(path, str(error))
        raise
    write_submitted(path, Submitted(cluster=settings.cluster, job_id=number, time=time.time()))
    return number


def _end_open(folder: SweepFolder, run_id: str, queue: Queue) -> None:
    """Give an end to an attempt that nobody makes any more: who submits its run again has made sure of that.

    Else the next attempt would wait for the first one's heart to have been still for long enough.
    """
    attempts = read_attempts(folder, run_id)
    if attempts and attempts[-1].end is None:
        seat = attempts[-1].seat
        write_end(folder, run_id, attempts[-1].number, lost_end(attempts[-1], queue.task(seat.job, seat.task)))


def _in_a_name(sweep: str) -> str:
    """A sweep's name as part of a job's: no slashes, no blanks, and short."""
    return re.sub(r"[^\w.-]+", "-", sweep)[:80]


def dry_run(sweep: Sweep, plan: Plan, folder: SweepFolder) -> tuple[str, ...]:
    """The scripts that a launch would submit now, exactly, but for the jobs' names and the hash of the code."""
    launch = Launched(
        runs=(),
        cluster=sweep.cluster,
        execution=sweep.execution,
        code="<hash of the code>",
        fuse=sweep.launch.together,
    )
    try:
        size = read_settings().max_array_size
    except SlurmError:
        size = MAX_ARRAY_SIZE
    made = arrays(plan.jobs, sweep.cluster, size, excluded=tuple(n.node for n in read_excluded(folder)))
    return tuple(
        sbatch_script(intent(launch, array, f"{_in_a_name(sweep.name)}-{number}"), array.shape, folder)
        for number, array in enumerate(made)
    )


def keeper_name(folder: SweepFolder) -> str:
    """What the job that tends the sweep of a folder is called: one folder, one name."""
    place = hashlib.sha256(str(folder.path.resolve()).encode()).hexdigest()[:8]
    return f"{_in_a_name(folder.name)}-keeper-{place}"


def submit_keeper(folder: SweepFolder, besides: str = "") -> str:
    """Submit the one-CPU job that tends a launched sweep until every cell is terminal; SLURM's number of it.

    One that waits or runs already is enough, but for the job `besides`, which is about to end.

    Raises:
        LaunchError: SLURM refuses it or does not answer.
    """
    launch = read_launch(folder)
    if launch is None:
        raise LaunchError(f"{folder.path}: never launched on a cluster, so there is nothing to keep")
    name = keeper_name(folder)
    queue = ask_queue()
    for task in queue.tasks.values():
        if task.name == name and task.life in ("queued", "alive") and task.job_id != besides:
            return task.job_id
    path = folder.jobs / ".keeper"
    script = path / "script.sh"
    write_text(script, keeper_script(launch, folder, name))
    return submit_script(script, name)
