"""One cycle of looking after a launched sweep: note what ended, avoid bad nodes, end what hangs, resubmit what may run.

It goes by `launch.json` and the frozen specs alone, so that it can act long after the YAML was edited.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from sweeper.errors import SweeperError
from sweeper.launch import ask_about_jobs, measured
from sweeper.plan import Speeds
from sweeper.records import (
    Attempt,
    End,
    Evidence,
    ExcludedNode,
    JobFile,
    LaunchFile,
    Seat,
    Submitted,
    SweepFolder,
    claim_attempt,
    hold_run,
    job_life,
    launcher_lock,
    lost_end,
    read_cleared,
    read_evidence,
    read_excluded,
    read_jobs,
    read_launch,
    write_end,
    write_excluded,
)
from sweeper.retries import next_attempt
from sweeper.slurm import (
    HELD_REASON,
    Queue,
    Settings,
    SlurmError,
    cancel_step,
    node_names,
    read_settings,
    release,
    requeue,
    resumed_at,
)
from sweeper.status import FINISHED, STARTABLE, State, count_states, state_of
from sweeper.submission import close_ended, hold_the_cancelled, submit_again, tell_waiting
from sweeper.supervisor import give_up, hung_for, tail, tries

BAD_NODE_RUNS = 2
"""A node on which so many runs failed is excluded."""
BAD_CAUSES = frozenset({"killed", "hung", "node"})
"""Ends that speak against the node rather than the run."""
HUNG_GRACE_S = 300.0
"""What the job's own supervisor gets to end a hung run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycle:
    """What one cycle found and did."""

    states: Mapping[State, int]
    submitted: int
    """Runs handed to SLURM again."""
    waiting: int
    """Runs that wait for their next attempt, or for a limit of SLURM."""
    next_at: float
    """When the first of those may go on, seconds since the epoch; 0 where none waits for a time."""
    excluded: tuple[str, ...]
    """Nodes that were excluded now."""
    said: tuple[str, ...]
    """What was done, one sentence each."""

    @property
    def over(self) -> bool:
        """Whether nothing is left to tend: every cell has a result, failed for good or was cancelled."""
        return self.submitted == 0 and self.waiting == 0 and not set(self.states) - FINISHED - {"failed", "cancelled"}


def tend(folder: SweepFolder) -> Cycle:
    """Carry out one cycle; one at a time for each sweep.

    Raises:
        SweeperError: The sweep was never launched on a cluster, SLURM does not answer, or a launch is going on.
    """
    launch = read_launch(folder)
    if launch is None:
        raise SweeperError(f"{folder.path}: never launched on a cluster, so there is nothing to tend; launch it first")
    with launcher_lock(folder) as renew:
        try:
            settings = read_settings()
        except SlurmError as error:
            raise SweeperError(f"SLURM does not answer ({error}); nothing was done: tend again later") from error
        queue = ask_about_jobs([job for job, _ in read_jobs(folder).values() if job.cluster is not None], settings)
        if not queue.answers:
            raise SweeperError(f"SLURM does not answer ({queue.error}); nothing was done: tend again later")
        said: list[str] = []
        if held := hold_the_cancelled(folder, launch, queue):
            said.append(
                f"{len(held)} runs were cancelled outside sweeper and are left alone; "
                "`sweeper retry` takes them up again"
            )
        _release_the_held(folder, queue, said.append)
        _note_the_unstarted(folder, launch, queue, said.append)
        close_ended(folder, queue)
        evidence = read_evidence(folder, launch.runs, queue)
        _end_the_lost(folder, evidence, queue, said.append)
        _end_the_hung(folder, evidence, launch, queue, said.append)
        excluded = _exclude(folder, evidence, launch, queue, said.append)
        evidence = read_evidence(folder, launch.runs, queue)
        launched = launch.by_run()
        now, ready, later = time.time(), [], []
        for run_id, seen in evidence.items():
            state = state_of(seen)
            if state not in STARTABLE:
                continue
            tried = tries(folder, run_id)
            verdict = next_attempt(tried, launched[run_id].cluster)
            if verdict.action == "give up":
                if state != "failed":
                    give_up(folder, run_id, tried, verdict.reason)
                    said.append(f"{run_id}: given up, {verdict.reason}")
            elif verdict.at > now:
                later.append(verdict.at)
            else:
                ready.append(run_id)
        ready, guarded = _behind_canaries(folder, launch, ready, evidence, said.append)
        submitted, held_back = _resubmit(folder, launch, ready, measured(evidence), queue, settings, renew, said.append)
        evidence = read_evidence(folder, launch.runs, queue)
    # What was submitted a moment ago is not in the queue that was asked before.
    return Cycle(
        states=count_states(state_of(seen) for seen in evidence.values()),
        submitted=submitted,
        waiting=held_back + len(later) + guarded,
        next_at=min(later, default=0.0),
        excluded=excluded,
        said=tuple(said),
    )


def _resubmit(
    folder: SweepFolder,
    launch: LaunchFile,
    run_ids: Sequence[str],
    speeds: Speeds,
    queue: Queue,
    settings: Settings,
    renew: Callable[[], None],
    say: Callable[[str], None],
) -> tuple[int, int]:
    if not run_ids:
        return 0, 0
    sent = submit_again(folder, launch, frozenset(run_ids), speeds, queue, settings, renew=renew)
    if sent.submitted:
        say(f"submitted {sent.submitted} runs again (jobs {', '.join(sent.jobs)})")
    if sent.waiting:
        say(f"{sent.waiting} runs wait for a limit of SLURM: {sent.limit}")
    return sent.submitted, sent.waiting


def _behind_canaries(
    folder: SweepFolder,
    launch: LaunchFile,
    ready: Sequence[str],
    evidence: Mapping[str, Evidence],
    say: Callable[[str], None],
) -> tuple[list[str], int]:
    """What of `ready` no canary keeps back, and how many runs wait for one; those of a failed canary are held."""
    free, guarded = [], 0
    for part in launch.launches:
        mine = [run_id for run_id in part.runs if run_id in ready]
        waiting = [run_id for run_id in mine if run_id not in part.canaries]
        found = {canary: state_of(evidence[canary]) for canary in part.canaries if canary in evidence}
        failed = [canary for canary, state in found.items() if state in ("failed", "cancelled")]
        if failed:
            for run_id in waiting:
                hold_run(folder, run_id, f"the canary {failed[0]} {found[failed[0]]}")
            if waiting:
                say(f"{len(waiting)} runs are held, because the canary {failed[0]} {found[failed[0]]}")
        elif set(found.values()) <= FINISHED:
            free += waiting
        else:
            guarded += len(waiting)
        free += [run_id for run_id in mine if run_id in part.canaries]
    return free, guarded


def _note_the_unstarted(folder: SweepFolder, launch: LaunchFile, queue: Queue, say: Callable[[str], None]) -> None:
    """Make a failed attempt of each job that ended before it began, so that limits and bad nodes count it.

    Such is the work of a node whose disks are not mounted: it takes one job after the other and ends each at once.
    """
    ended: dict[str, tuple[JobFile, Submitted, int]] = {}
    launched = frozenset(launch.runs)
    for job, submitted in sorted(read_jobs(folder).values(), key=lambda pair: pair[0].time):
        if job.cluster is None or submitted is None:
            continue  # an intent that never reached SLURM
        for index, runs in enumerate(job.tasks):
            if job_life(job, submitted, index, queue) == "none":
                ended |= {run_id: (job, submitted, index) for run_id in runs if run_id in launched}
    for run_id, seen in (read_evidence(folder, ended, queue) if ended else {}).items():
        job, submitted, index = ended[run_id]
        begun = any(attempt.seat.job == job.job for attempt in seen.attempts)
        if begun or state_of(seen) not in STARTABLE:
            continue
        task = queue.task(job.job, index)
        if task is not None and task.state == "CANCELLED":
            continue  # by SLURM, because a canary failed: no node has a part in it
        where = f" on {task.nodes}" if task and task.nodes else ""
        words = f" (SLURM: {task.state}{f', exit code {task.exit_code}' if task.exit_code else ''})" if task else ""
        seat = Seat(
            job=job.job,
            task=index,
            node=task.nodes if task else "",
            step=f"{task.job_id if task else submitted.job_id}.batch",
        )
        number = claim_attempt(folder, run_id, seat)
        if number is not None:
            reason = f"its job ended{where} before it began{words}"
            detail = tail(folder.jobs / job.job / f"{task.job_id}.out") if task else ""
            write_end(folder, run_id, number, End(state="error", cause="node", reason=reason, detail=detail))
            say(f"{run_id}: {reason}")


def _release_the_held(folder: SweepFolder, queue: Queue, say: Callable[[str], None]) -> None:
    """Let jobs go that SLURM could not start and therefore holds."""
    jobs = read_jobs(folder)
    held = [t.job_id for t in queue.tasks.values() if t.name in jobs and t.reason == HELD_REASON and t.life == "queued"]
    if not held:
        return
    try:
        release(held)
    except SlurmError as error:
        say(f"{len(held)} jobs are held ({HELD_REASON}) and cannot be released: {error}")
    else:
        say(f"{len(held)} jobs released that SLURM could not start before")


def _end_the_lost(
    folder: SweepFolder, evidence: Mapping[str, Evidence], queue: Queue, say: Callable[[str], None]
) -> None:
    """Give an end to every attempt that both SLURM and its silence call dead."""
    for run_id, seen in evidence.items():
        last = seen.attempts[-1] if seen.attempts else None
        if last is None or last.end is not None or seen.holder != "none" or seen.record is not None:
            continue
        end = lost_end(last, queue.task(last.seat.job, last.seat.task))
        write_end(folder, run_id, last.number, end)
        say(f"{run_id}: {end.reason}")


def _end_the_hung(
    folder: SweepFolder,
    evidence: Mapping[str, Evidence],
    launch: LaunchFile,
    queue: Queue,
    say: Callable[[str], None],
) -> None:
    """Put back jobs whose run makes no step any more and whose supervisor does nothing about it."""
    ended: set[tuple[str, str]] = set()
    for run_id, seen in evidence.items():
        last = seen.attempts[-1] if seen.attempts else None
        if last is None or last.end is not None or seen.job != "alive" or not last.seat.scheduled:
            continue
        task = queue.tasks.get((last.seat.job, last.seat.task))
        # A suspended job makes no step and is not hung.
        if task is None or task.state != "RUNNING" or task.restarts != last.seat.restarts:
            continue
        silent_s = hung_for(last, seen.beat, launch.cluster.hang_s, HUNG_GRACE_S)
        if silent_s == 0:
            continue
        try:  # nor is one that went on a moment ago, whose heartbeats tell of a step before that
            resumed = resumed_at(task.job_id)
        except SlurmError:
            continue
        silent_s = hung_for(last, seen.beat, launch.cluster.hang_s, HUNG_GRACE_S, resumed=resumed)
        if silent_s == 0:
            continue
        write_end(
            folder,
            run_id,
            last.number,
            End(state="lost", cause="hung", reason=f"no step for {silent_s:.0f} s on {last.seat.node}"),
        )
        say(f"{run_id}: no step for {silent_s:.0f} s on {last.seat.node}; its processes are ended")
        if (task.job_id, last.seat.step) in ended:  # of runs that are trained together
            continue
        ended.add((task.job_id, last.seat.step))
        try:
            cancel_step(last.seat.step)  # its supervisor takes it from there, and others of the job go on
        except SlurmError:
            with suppress(SlurmError):
                requeue(task.job_id)


def _exclude(
    folder: SweepFolder,
    evidence: Mapping[str, Evidence],
    launch: LaunchFile,
    queue: Queue,
    say: Callable[[str], None],
) -> tuple[str, ...]:
    """Exclude the nodes that failed two runs, from waiting jobs too; returns those that were excluded now."""
    before = read_excluded(folder)
    bad = bad_nodes([seen.attempts for seen in evidence.values()], read_cleared(folder))
    new = {node: runs for node, runs in bad.items() if node not in {known.node for known in before}}
    if not new:
        return ()
    with suppress(SlurmError):
        if not set(node_names(launch.cluster.slurm.partition)) - {known.node for known in before} - new.keys():
            say(f"{', '.join(new)}: runs failed there, but there is no other node")
            return ()
    now = time.time()
    write_excluded(
        folder, [*before, *(ExcludedNode(node=n, reason=f"{k} runs failed there", time=now) for n, k in new.items())]
    )
    _, refused = tell_waiting(folder, queue)
    if refused:
        say(f"waiting jobs were not told of the excluded nodes: {refused}")
    for node, runs in new.items():
        say(f"{node}: excluded, {runs} runs failed there")
    return tuple(new)


def bad_nodes(runs: Sequence[Sequence[Attempt]], cleared: Mapping[str, float] | None = None) -> dict[str, int]:
    """Nodes on which at least two runs died of what speaks against the node, with their number.

    Runs that were trained together died once. What a node did before it was `cleared` (seconds since the epoch) does
    not count.
    Never more than half of the nodes that were used (one, of a single one): then it is not the nodes.
    """
    failed: dict[str, int] = defaultdict(int)
    used: set[str] = set()
    died: set[tuple[str, str, int, int]] = set()
    for attempts in runs:
        used |= {a.seat.node for a in attempts if a.seat.node}
        against = [a for a in attempts if a.end is not None and a.end.cause in BAD_CAUSES and a.seat.node]
        counting = [a for a in against if a.owner.time > (cleared or {}).get(a.seat.node, 0.0)]
        deaths = {(a.seat.node, a.seat.step, a.seat.restarts, a.owner.pid) for a in counting}
        for node in {node for node, *_ in deaths - died}:
            failed[node] += 1
        died |= deaths
    bad = {node: count for node, count in failed.items() if count >= BAD_NODE_RUNS}
    return bad if 2 * len(bad) <= max(2, len(used)) else {}
