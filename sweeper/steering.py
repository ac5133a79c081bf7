"""What a person does to runs and nodes: cancel, retry, exclude. Decisions lie on the disk; SLURM is told of them."""

import getpass
import socket
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sweeper.errors import SweeperError
from sweeper.launch import ask_about_jobs, measured
from sweeper.overview import Look, Row
from sweeper.records import (
    ExcludedNode,
    JobFile,
    Owner,
    SweepFolder,
    clear_excluded,
    hold_run,
    is_held,
    read_attempts,
    read_evidence,
    read_excluded,
    read_jobs,
    read_record,
    renew_run,
    write_excluded,
)
from sweeper.scheduler import local
from sweeper.slurm import (
    Queue,
    SlurmError,
    ask_queue,
    cancel,
    host_names,
    is_installed,
    node_names,
    read_settings,
)
from sweeper.status import FINISHED, STARTABLE, State, state_of
from sweeper.submission import Sent, close_ended, patient_lock, submit_again, tell_waiting
from sweeper.typed import did_you_mean

STOP_S = 20.0
"""How long processes of this machine may take to write their checkpoint before `cancel` returns without them."""
ASK_AGAIN_S = 1.0
"""Between two requests to stop: a worker that is still importing misses the first."""
POLL_S = 0.1


# ── cancel ─────────────────────────────────────────────────────────────────────────────────────────────────────────


SETTLED: frozenset[State] = FINISHED | {"cancelled"}
"""Nothing is left to cancel of a run in these states."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """What a cancellation did."""

    runs: int
    """Runs that are held from now on; none is started again before `retry` asks for it."""
    already: int
    """Runs that were cancelled before."""
    finished: int
    """Runs that have a result already, and keep it."""
    tasks: int
    """Elements of SLURM's job arrays that were ended."""
    shared: int
    """Runs whose element goes on with others: its supervisor ends their own processes within seconds."""
    stopped: int
    """Jobs of this machine that wrote a checkpoint and ended."""
    stopping: int
    """Jobs of this machine that were asked to and have not ended yet."""
    elsewhere: tuple[str, ...]
    """Other machines and clusters, whose jobs cannot be ended from here."""


def cancel_runs(folder: SweepFolder, rows: Sequence[Row], look: Look, stop_s: float = STOP_S) -> Cancelled:
    """Hold runs, then end their jobs; each writes a checkpoint where it is given the time.

    An element of an array that packs several runs is ended only when all that is left of it is held.

    Raises:
        SweeperError: SLURM does not answer; the runs are held all the same.
    """
    chosen = [row.run_id for row in rows if row.state not in SETTLED]
    reason = f"cancelled by {getpass.getuser()} on {socket.gethostname()}"
    for run_id in chosen:
        hold_run(folder, run_id, reason)
    ids = set(chosen)
    here, elsewhere = _local_jobs(folder, ids, look)
    tasks, shared, clusters = _tasks(folder, ids, look)
    left = _stop(here, stop_s)
    try:
        if tasks:
            cancel(tasks)
        elif look.queue is not None and not look.queue.answers and _in_slurm(ids, look):
            raise SlurmError(look.queue.error)
    except SlurmError as error:
        raise SweeperError(
            f"SLURM does not answer ({error}); {len(ids)} runs are held: none starts again and those at work end as "
            "their jobs notice; cancel again when it answers, to take them out of the queue"
        ) from error
    return Cancelled(
        runs=len(ids),
        already=sum(row.state == "cancelled" for row in rows),
        finished=sum(row.state in FINISHED for row in rows),
        tasks=len(tasks),
        shared=shared,
        stopped=len(here) - left,
        stopping=left,
        elsewhere=tuple(sorted(elsewhere | clusters)),
    )


def _local_jobs(folder: SweepFolder, run_ids: Collection[str], look: Look) -> tuple[list[Owner], set[str]]:
    """The living processes that hold runs on this machine, and the other machines where some are."""
    here: dict[int, Owner] = {}
    elsewhere = set()
    jobs = [
        submitted.owner
        for job, submitted in look.jobs.values()
        if job.cluster is None
        and submitted
        and any(_works_on(job, run_id, folder) for run_id in set(job.runs) & set(run_ids))
    ]
    for owner in (owner for owner in jobs if owner is not None):
        if owner.here and owner.alive:
            here[owner.pid] = owner
        elif not owner.here:
            elsewhere.add(owner.at.host)
    return list(here.values()), elsewhere


def _works_on(job: JobFile, run_id: str, folder: SweepFolder) -> bool:
    """Whether a job of this machine must end for a run to end: not where the run still waits for its turn in it."""
    attempts = read_attempts(folder, run_id)
    last = attempts[-1] if attempts else None
    begun = last is not None and last.job == job.job and last.end is None
    return begun or run_id == job.runs[0] or bool(job.together)


def _in_slurm(run_ids: Collection[str], look: Look) -> bool:
    return any(job.cluster is not None and set(job.runs) & set(run_ids) for job, _ in look.jobs.values())


def _tasks(folder: SweepFolder, run_ids: Collection[str], look: Look) -> tuple[list[str], int, set[str]]:
    """Elements to end, as scancel takes them; runs in elements that go on; clusters that cannot be asked from here."""
    tasks, shared, elsewhere = [], 0, set()
    queue = look.queue or Queue()
    for name, (job, submitted) in look.jobs.items():
        if job.cluster is None or not set(job.runs) & set(run_ids):
            continue
        if queue.answers and submitted is not None and submitted.cluster != queue.cluster:
            elsewhere.add(f"the cluster {submitted.cluster}")
            continue
        for index, runs in enumerate(job.tasks):
            task = queue.tasks.get((name, index))
            if task is None or task.life == "none" or not set(runs) & set(run_ids):
                continue
            if all(is_held(folder, run_id) or read_record(folder, run_id) is not None for run_id in runs):
                tasks.append(task.job_id)
            else:
                shared += len(set(runs) & set(run_ids))
    return tasks, shared, elsewhere


def _stop(owners: Sequence[Owner], stop_s: float) -> int:
    """Ask processes of this machine to write a checkpoint and end; how many have not within the time."""
    deadline, asked = time.monotonic() + stop_s, -ASK_AGAIN_S
    while (alive := [owner for owner in owners if owner.alive]) and time.monotonic() < deadline:
        if time.monotonic() - asked > ASK_AGAIN_S:
            asked = time.monotonic()
            for owner in alive:
                local.terminate(owner)
        time.sleep(POLL_S)
    return len(alive)


# ── retry ──────────────────────────────────────────────────────────────────────────────────────────────────────────


BY_DEFAULT: frozenset[State] = frozenset({"failed", "cancelled"})
"""What `retry` takes up where nothing is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retried:
    """What asking for runs again did."""

    renewed: int
    """Runs that may be started again, with all their attempts before them."""
    left: int
    """Runs that somebody is at work on, or that have a result: left alone."""
    sent: Sent | None
    """What was submitted; None where the sweep runs on this machine."""
    unknown: int
    """Runs that were never launched on the cluster: the next launch submits them."""


def retry_runs(folder: SweepFolder, rows: Sequence[Row], look: Look) -> Retried:
    """Let runs be started again; those of a cluster are submitted at once, by what was frozen at their launch.

    Raises:
        SweeperError: SLURM does not answer; nothing is changed.
        LaunchError: SLURM refuses the jobs, or a launch goes on.
    """
    again = [row.run_id for row in rows if row.state in STARTABLE | {"cancelled"}]
    launch = look.launch
    if launch is not None and look.queue is not None and not look.queue.answers:
        raise _silent(SlurmError(look.queue.error))  # which runs failed is not known, which is not "none did"
    if launch is None or not again:
        for run_id in again:
            renew_run(folder, run_id)
        return Retried(renewed=len(again), left=len(rows) - len(again), sent=None, unknown=0)
    with patient_lock(folder) as renew:
        try:
            settings = read_settings()
        except SlurmError as error:
            raise _silent(error) from error
        queue = ask_about_jobs([job for job, _ in read_jobs(folder).values() if job.cluster is not None], settings)
        if not queue.answers:
            raise _silent(SlurmError(queue.error))
        close_ended(folder, queue)
        # Asked once more under the lock: a keeper may have submitted some of them meanwhile.
        now = {run_id: state_of(seen) for run_id, seen in read_evidence(folder, again, queue).items()}
        again = [run_id for run_id in again if now[run_id] in STARTABLE | {"cancelled"}]
        for run_id in again:
            renew_run(folder, run_id)
        known = set(launch.runs)
        speeds = measured(read_evidence(folder, launch.runs, jobs=False))
        sent = submit_again(folder, launch, again, speeds, queue, settings, renew=renew)
    return Retried(
        renewed=len(again), left=len(rows) - len(again), sent=sent, unknown=sum(r not in known for r in again)
    )


def _silent(error: SlurmError) -> SweeperError:
    return SweeperError(f"SLURM does not answer ({error}); nothing was changed: retry when it does")


# ── exclude ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclusion:
    """The nodes that a sweep avoids, and whom that was told."""

    nodes: tuple[ExcludedNode, ...]
    changed: tuple[str, ...]
    """Nodes that were added or cleared now."""
    told: int
    """Waiting jobs that were changed."""
    error: str
    """Why some could not be, in SLURM's words."""


def exclude(folder: SweepFolder, expressions: Sequence[str], *, clear: bool = False, reason: str = "") -> Exclusion:
    """Keep a sweep's jobs from nodes, also those that wait already; or clear nodes again (all, if none is named).

    Raises:
        SweeperError: A node that the cluster does not have, or an expression that SLURM cannot expand.
        LaunchError: A launch goes on.
    """
    names = expand_nodes(expressions)
    if not names and not clear:
        return Exclusion(nodes=read_excluded(folder), changed=(), told=0, error="")
    with patient_lock(folder):
        before = read_excluded(folder)
        excluded = {node.node for node in before}
        if clear:
            unknown = [name for name in names if name not in excluded]
            if unknown:
                hint = did_you_mean(unknown[0], excluded) if excluded else "no node is"
                raise SweeperError(f"{unknown[0]!r} is not excluded; {hint}")
            changed = names or tuple(sorted(excluded))
            clear_excluded(folder, changed)
        else:
            _check_nodes(names)
            changed = tuple(name for name in names if name not in excluded)
            why = reason or f"excluded by {getpass.getuser()}"
            new = [ExcludedNode(node=name, reason=why, time=time.time()) for name in changed]
            write_excluded(folder, [*before, *new])
        told, error = tell_waiting(folder, ask_queue()) if changed else (0, "")
        return Exclusion(nodes=read_excluded(folder), changed=changed, told=told, error=error)


def expand_nodes(expressions: Sequence[str]) -> tuple[str, ...]:
    """Names of nodes from SLURM's way of writing many, `n[1-3]`; each once.

    Raises:
        SweeperError: An expression that cannot be expanded.
    """
    found: dict[str, None] = {}
    for text in (part for each in expressions for part in [each.strip(",")] if part):
        if "[" not in text and "," not in text:
            found[text] = None
            continue
        try:
            found |= dict.fromkeys(host_names(text))
        except SlurmError as error:
            raise SweeperError(f"{text!r} cannot be expanded to nodes ({error}); name each node") from error
    return tuple(found)


def _check_nodes(names: Sequence[str]) -> None:
    """sbatch refuses every job that excludes a node which does not exist."""
    if not is_installed():
        return
    try:
        known = node_names()
    except SlurmError as error:
        raise SweeperError(
            f"SLURM does not answer ({error}), so the nodes are not known; exclude them later"
        ) from error
    for name in names:
        if name not in known:
            raise SweeperError(f"the cluster has no node {name!r}; {did_you_mean(name, known)}")
