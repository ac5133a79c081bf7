"""Where a sweep stands: what the disk and SLURM show, as rows, sums, the time left and what a person should know.

`take_look` reads, once; all else is made from its answer. A controller that does not answer leaves runs unknown.
"""

import heapq
import math
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sweeper.launch import ask_about
from sweeper.records import (
    Attempt,
    Beat,
    Cause,
    Evidence,
    ExcludedNode,
    Held,
    JobFile,
    LaunchFile,
    Submitted,
    SweepFolder,
    job_life,
    read_beat,
    read_evidence,
    read_excluded,
    read_held,
    read_jobs,
    read_launch,
    run_names,
)
from sweeper.retries import Verdict, next_attempt
from sweeper.slurm import HELD_REASON, Queue, Task
from sweeper.spec import RunSpec, Value
from sweeper.status import ACTIVE, FINISHED, STARTABLE, State, count_states, state_of
from sweeper.submission import keeper_name
from sweeper.supervisor import hung_for, tries

SCHEMA_VERSION = 1
ORDER: tuple[State, ...] = (
    "failed",
    "unknown",
    "running",
    "stopped",
    "queued",
    "cancelled",
    "new",
    "diverged",
    "done",
)
"""Of rows: what may need a person first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """The element of a job that contains a run."""

    job: JobFile
    submitted: Submitted | None
    index: int
    task: Task | None
    """What SLURM last said of it; None for a job of this machine, or one that SLURM does not know."""

    @property
    def job_id(self) -> str:
        """As scancel takes it; empty where SLURM's number is not known."""
        if self.task is not None:
            return self.task.job_id
        return f"{self.submitted.job_id}_{self.index}" if self.submitted and self.submitted.job_id else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one look at the disk and at SLURM found, before anything is concluded from it."""

    time: float
    """Seconds since the epoch."""
    queue: Queue | None
    """None where the sweep has no jobs in SLURM."""
    launch: LaunchFile | None
    """None where the sweep was never launched on a cluster."""
    jobs: Mapping[str, tuple[JobFile, Submitted | None]]
    """Those that are not known to have ended, by name."""
    evidence: Mapping[str, Evidence]
    holding: Mapping[str, Holding]
    """The liveliest job of each run that has one, the newest of several."""
    beats: Mapping[str, Beat]
    """The last heartbeat of the last attempt of each run that made one and has no result."""
    held: Mapping[str, Held]
    verdicts: Mapping[str, Verdict]
    """What is to be done about runs of a cluster whose last attempt ended without a result."""
    excluded: tuple[ExcludedNode, ...]
    others: int
    """Runs of the sweep's folder that were not looked at."""
    missing: str = ""
    """The sweep's folder, where there is none."""
    keeper_job: str = ""
    """What the job is called that tends the sweep."""

    @property
    def launched(self) -> frozenset[str]:
        """The runs that were ever launched on a cluster."""
        return frozenset(self.launch.runs if self.launch else ())

    @property
    def keeper(self) -> Task | None:
        """The job that tends the sweep, if one waits or runs."""
        if self.queue is None or self.launch is None:
            return None
        task = self.queue.tasks.get((self.keeper_job, 0))
        return task if task is not None and task.life in ("queued", "alive") else None


def take_look(folder: SweepFolder, run_ids: Iterable[str], *, ask: bool = True) -> Look:
    """Look at some runs of a sweep; SLURM is asked once if the sweep has jobs there, unless it is not to be asked."""
    wanted = tuple(dict.fromkeys(run_ids))
    queue = ask_about(folder) if ask else None
    evidence = read_evidence(folder, wanted, queue)
    jobs, launch = read_jobs(folder), read_launch(folder)
    launched = launch.by_run() if launch else {}
    beats, held, verdicts = {}, {}, {}
    for run_id, seen in evidence.items():
        last = seen.attempts[-1] if seen.attempts else None
        if seen.record is not None:
            continue
        beat = seen.beat or (read_beat(folder, run_id, last.number) if last else None)
        if beat is not None:
            beats[run_id] = beat
        if seen.held and (why := read_held(folder, run_id)) is not None:
            held[run_id] = why
        if launch is not None and last is not None and last.end is not None:
            part = launched.get(run_id)
            verdicts[run_id] = next_attempt(tries(folder, run_id), part.cluster if part else launch.cluster)
    return Look(
        missing="" if folder.path.is_dir() else str(folder.path),
        keeper_job=keeper_name(folder),
        time=time.time(),
        queue=queue,
        launch=launch,
        jobs=jobs,
        evidence=evidence,
        holding=_holding(jobs, queue),
        beats=beats,
        held=held,
        verdicts=verdicts,
        excluded=read_excluded(folder),
        others=len(set(run_names(folder)).difference(wanted)),
    )


def _holding(jobs: Mapping[str, tuple[JobFile, Submitted | None]], queue: Queue | None) -> dict[str, Holding]:
    liveliness = {"none": 0, "unknown": 1, "queued": 2, "alive": 3}
    found: dict[str, tuple[tuple[int, float], Holding]] = {}
    for name, (job, submitted) in jobs.items():
        for index, runs in enumerate(job.tasks):
            # During an outage the job before looks as alive as the one that took its place: the newest it is.
            life = (liveliness[job_life(job, submitted, index, queue)], job.time)
            task = queue.task(name, index) if queue and job.cluster is not None else None
            holding = Holding(job=job, submitted=submitted, index=index, task=task)
            for run_id in runs:
                if run_id not in found or life > found[run_id][0]:
                    found[run_id] = (life, holding)
    return {run_id: holding for run_id, (_, holding) in found.items()}


# ── one run ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Where one run stands."""

    run_id: str
    arm: str
    axes: Mapping[str, Value]
    state: State
    step: int = 0
    """The last one that is known of, by its record or the last heartbeat of its last attempt."""
    steps: int
    tokens: int
    """Asked for."""
    tokens_per_s: float = 0.0
    """Now, of a run at work; of a finished one over its whole time; else 0."""
    loss: float | None = None
    """Of a finished run, nats per token."""
    attempts: int = 0
    node: str = ""
    """Where rank 0 of its last attempt is or was."""
    job: str = ""
    """SLURM's number of the job that holds it, as scancel takes it."""
    reason: str = ""
    """Why it waits, or how its last attempt ended; a clause."""
    cause: Cause = ""
    """What ended its last attempt, for programs."""
    seen: float = 0.0
    """Its last sign of life, seconds since the epoch; 0 where there is none."""
    next_at: float = 0.0
    """When it may be tried again, seconds since the epoch; 0 where it need not wait."""
    silent_s: float = 0.0
    """Seconds since the last step of a run that seems to hang; else 0."""
    launched: bool = False
    """Whether a launch ever asked for it."""

    @property
    def progress(self) -> float:
        """The share of its steps that is done, 0 to 1."""
        return 1.0 if self.state in FINISHED else min(1.0, self.step / max(1, self.steps))


def rows_of(specs: Iterable[RunSpec], look: Look) -> tuple[Row, ...]:
    """Where each run stands by a look at them."""
    launched = look.launched
    return tuple(_row_of(spec, look, launched) for spec in specs)


def _row_of(spec: RunSpec, look: Look, launched_there: frozenset[str]) -> Row:
    seen = look.evidence[spec.run_id]
    state, record = state_of(seen), seen.record
    row = Row(
        run_id=spec.run_id,
        arm=spec.arm,
        axes=dict(spec.axes),
        state=state,
        steps=spec.train.steps,
        tokens=spec.train.tokens,
    )
    if record is not None:
        return replace(
            row,
            step=record.steps,
            tokens_per_s=record.tokens_per_s,
            loss=record.loss,
            attempts=record.attempts,
            reason=record.reason,
            launched=True,
        )
    last = seen.attempts[-1] if seen.attempts else None
    beat, holding = look.beats.get(spec.run_id), look.holding.get(spec.run_id)
    task = holding.task if holding else None
    at_work = last is not None and last.end is None and seen.holder == "alive"
    started = task.nodes if task and state == "running" and not at_work else ""
    silent_s = hung_since(last, beat, holding) if last and at_work else 0.0
    next_at = _next_at(look.verdicts.get(spec.run_id), state, look.time)
    return replace(
        row,
        step=beat.step if beat else 0,
        tokens_per_s=beat.tokens_per_s if beat and at_work else 0.0,
        attempts=len(seen.attempts),
        node=started or (last.seat.node if last else ""),
        job=holding.job_id if holding and holding.job.cluster and state in ACTIVE else "",
        reason=_reason(spec.run_id, state, look, silent_s, next_at),
        cause=last.end.cause if last and last.end else "",
        seen=max(beat.time if beat else 0.0, last.owner.time if last else 0.0),
        next_at=next_at,
        silent_s=silent_s,
        launched=bool(last or holding) or spec.run_id in launched_there,
    )


def hung_since(last: Attempt, beat: Beat | None, holding: Holding | None) -> float:
    """Seconds since the last step of an attempt that makes none any more; 0 for one that does, or is suspended."""
    if holding is None or holding.job.cluster is None or (holding.task and holding.task.state != "RUNNING"):
        return 0.0
    return hung_for(last, beat, holding.job.cluster.hang_s, grace_s=0.0)


def _next_at(verdict: Verdict | None, state: State, now: float) -> float:
    waits = verdict is not None and verdict.action == "try" and state in ("running", "stopped", "failed")
    return verdict.at if verdict and waits and verdict.at > now else 0.0


def _reason(run_id: str, state: State, look: Look, silent_s: float, next_at: float) -> str:
    """The clause of a row without a result."""
    seen, holding = look.evidence[run_id], look.holding.get(run_id)
    last = seen.attempts[-1] if seen.attempts else None
    ended = last.end.reason if last and last.end else ""
    if state == "queued":
        return (holding.task.reason if holding and holding.task else "") or "waits to be looked at"
    if state == "unknown":
        return seen.damaged or _unknown(look, holding)
    if state == "cancelled":
        return look.held[run_id].reason if run_id in look.held else ""
    if state == "running":
        if silent_s:
            return f"no step for {silent_s:.0f} s"
        if holding and holding.task and holding.task.state == "COMPLETING":
            return "its job is ending"
        if holding and holding.task and holding.task.state != "RUNNING":
            return f"SLURM says {holding.task.state}"
        if last is None or last.end is not None:
            return f"waits for its next attempt: {ended}" if next_at else "its processes are starting"
        return ""
    return ended


def _unknown(look: Look, holding: Holding | None) -> str:
    queue, cluster = look.queue, holding.submitted.cluster if holding and holding.submitted else ""
    if queue is None or not queue.answers:
        return f"SLURM does not answer ({queue.error})" if queue and queue.error else "SLURM was not asked"
    if cluster and cluster != queue.cluster:
        return f"its job is of the cluster {cluster}, this machine's is {queue.cluster}"
    return "SLURM does not list its job yet" if holding else "its last sign of life is old"


# ── the sweep ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSummary:
    """A job of the sweep that is not known to have ended."""

    name: str
    job_id: str
    """SLURM's number, or the process id of a job of this machine; empty where it is not known."""
    cluster: str
    """SLURM's ClusterName; empty for a job of this machine."""
    tasks: Mapping[str, int]
    """How many of its elements are in each state, in SLURM's words."""
    runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """Where a sweep stands; each run counts once, also where arms share it."""

    schema_version: int = SCHEMA_VERSION
    sweep: str
    time: float
    """Seconds since the epoch."""
    total: int
    """Of its runs; each counts once."""
    states: Mapping[State, int]
    tokens: int
    tokens_done: int
    tokens_per_s: float
    """Of the runs at work, added up."""
    left_s: float | None
    """Until the last run ends, if as many run at a time as now; None where nothing runs or a speed is not known."""
    unmeasured: int
    """Runs whose speed is not known, which is why no time left is given."""
    runs: tuple[Row, ...]
    """Every run of every arm, those that may need a person first."""
    jobs: tuple[JobSummary, ...]
    keeper: str
    """SLURM's number of the job that tends the sweep; empty where none does."""
    excluded: tuple[ExcludedNode, ...]
    others: int
    """Runs in the sweep's folder that belong to other grids."""
    warnings: tuple[str, ...]
    ready: int
    """Runs of a cluster that may be submitted now and that nobody has submitted."""

    @property
    def active(self) -> int:
        """Runs that somebody is at work on, or may be."""
        return sum(number for state, number in self.states.items() if state in ACTIVE)

    @property
    def waiting(self) -> int:
        """Runs that wait for the time of their next attempt, in nobody's job."""
        return sum(row.next_at > 0 and row.state == "stopped" for row in self.runs)


def overview(sweep: str, specs: Sequence[RunSpec], look: Look) -> Overview:
    """The whole sweep by a look at all of its runs."""
    rows = rows_of(specs, look)
    distinct = {row.run_id: (row, spec) for row, spec in zip(rows, specs, strict=True)}
    once = [row for row, _ in distinct.values()]
    left_s, unmeasured = _time_left(distinct.values())
    keeper = look.keeper
    return Overview(
        sweep=sweep,
        time=look.time,
        total=len(once),
        states=count_states(row.state for row in once),
        tokens=sum(row.tokens for row in once),
        tokens_done=round(sum(row.tokens * row.progress for row in once)),
        tokens_per_s=math.fsum(row.tokens_per_s for row in once if row.state == "running"),
        left_s=left_s,
        unmeasured=unmeasured,
        runs=tuple(sorted(rows, key=lambda row: ORDER.index(row.state))),
        jobs=_summaries(look),
        keeper=keeper.job_id if keeper else "",
        excluded=look.excluded,
        others=look.others,
        warnings=tuple(_warnings(once, look)),
        ready=sum(_is_ready(row, look) for row in once),
    )


def _is_ready(row: Row, look: Look) -> bool:
    verdict = look.verdicts.get(row.run_id)
    given_up = verdict is not None and verdict.action == "give up"
    return look.launch is not None and row.launched and row.state in STARTABLE and not (row.next_at or given_up)


def _summaries(look: Look) -> tuple[JobSummary, ...]:
    found = []
    for name, (job, submitted) in sorted(look.jobs.items(), key=lambda item: item[1][0].time):
        if job.cluster is None:
            owner = submitted.owner if submitted else None
            if owner is None or (owner.here and not owner.alive):
                continue
            at = "" if owner.here else f" on {owner.at.host}"
            states, number, cluster = {f"RUNNING{at}": 1}, str(owner.pid), ""
        else:
            cluster = submitted.cluster if submitted else ""
            ours = look.queue is not None and look.queue.answers and cluster in ("", look.queue.cluster)
            tasks = [look.queue.task(name, i) if look.queue and ours else None for i in range(len(job.tasks))]
            states = dict(Counter(task.state if task else "UNKNOWN" for task in tasks))
            number = submitted.job_id if submitted else ""
            if not any(task is None or task.life != "none" for task in tasks):
                continue
        found.append(JobSummary(name=name, job_id=number, cluster=cluster, tasks=states, runs=len(job.runs)))
    return tuple(found)


def _warnings(rows: Sequence[Row], look: Look) -> Iterable[str]:
    if look.missing:
        yield f"nothing was launched below {look.missing}; launch it, or name the folder of its --runs"
    queue = look.queue
    unknown = sum(row.state == "unknown" for row in rows)
    if queue is not None and not queue.answers:
        yield (
            f"SLURM does not answer ({queue.error}): the states of its jobs are not known, none is taken for dead; "
            "ask again later"
        )
    elif queue is not None:
        elsewhere = sorted({s.cluster for j, s in look.jobs.values() if j.cluster and s and s.cluster != queue.cluster})
        if elsewhere:
            yield (
                f"jobs were submitted to {', '.join(elsewhere)} but this machine's cluster is {queue.cluster}: "
                f"{_runs(unknown)} unknown here; ask on a machine of that cluster"
            )
    held = sum(row.reason == HELD_REASON for row in rows)
    if held:
        yield f"{_runs(held)} held by SLURM, which could not start them before; `sweeper tend` lets them go"
    kept = sum(_is_ready(row, look) and row.state == "new" for row in rows)
    if kept:
        yield f"{_runs(kept)} kept back by a limit of SLURM; `sweeper tend` submits them as it allows"
    hung = [f"{row.run_id[:8]} on {row.node or 'its node'}" for row in rows if row.silent_s]
    if hung:
        yield f"{_runs(len(hung))} without a step for too long, and may hang: {_some(hung)}"
    if look.excluded:
        yield f"no job uses {_some([f'{node.node} ({node.reason})' for node in look.excluded])}"


def _runs(number: int) -> str:
    return "1 run is" if number == 1 else f"{number} runs are"


def _some(items: Sequence[str], most: int = 5) -> str:
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


def next_step(seen: Overview) -> str:
    """The command that leads on, with the run it is about where it needs one: `watch`, `why 3fa91b07`."""
    failed = next((row for row in seen.runs if row.state == "failed"), None)
    held = any(row.reason == HELD_REASON for row in seen.runs)
    if (seen.ready or seen.waiting or held) and not seen.keeper:
        return "tend"
    if goes_on(seen):
        return "watch"
    if failed is not None:
        return f"why {failed.run_id[:8]}"
    if seen.states.get("new") or seen.states.get("stopped"):
        return "launch"
    return "retry" if seen.states.get("cancelled") else "fit"


def goes_on(seen: Overview) -> bool:
    """Whether something may change without anybody typing: runs at work or queued, or a keeper with runs to tend."""
    return seen.active > 0 or bool(seen.keeper and (seen.ready or seen.waiting))


# ── the time left ──────────────────────────────────────────────────────────────────────────────────────────────────


def _time_left(runs: Iterable[tuple[Row, RunSpec]]) -> tuple[float | None, int]:
    """Seconds until the last run ends, and how many runs have no measured speed."""
    runs = tuple(runs)
    speeds = _speeds(runs)
    at_work: list[float] = []
    waiting: list[float] = []
    unmeasured = 0
    for row, spec in runs:
        if row.state not in ("running", "queued", "new", "stopped") or not row.launched:
            continue
        speed = (row.tokens_per_s if row.state == "running" else 0.0) or speeds.get(_kind(spec), 0.0)
        if speed == 0:
            unmeasured += 1
            continue
        (at_work if row.state == "running" else waiting).append(row.tokens * (1 - row.progress) / speed)
    return (None if unmeasured else makespan(at_work, waiting)), unmeasured


def _speeds(runs: Iterable[tuple[Row, RunSpec]]) -> dict[Hashable, float]:
    """The median speed of finished and running runs of each kind, tokens per second."""
    found: dict[Hashable, list[float]] = defaultdict(list)
    for row, spec in runs:
        if row.tokens_per_s > 0 and row.state in ("done", "running"):
            found[_kind(spec)].append(row.tokens_per_s)
    return {kind: statistics.median(speeds) for kind, speeds in found.items()}


def _kind(spec: RunSpec) -> Hashable:
    """What runs of one speed share."""
    return (spec.train.model, spec.train.precision, spec.trainer.argv)


def makespan(at_work: Sequence[float], waiting: Sequence[float]) -> float | None:
    """Seconds until the last of some runs ends, if each that ends makes room for one that waits, the longest first.

    >>> makespan([10.0, 4.0], [5.0, 3.0]), makespan([], [5.0])
    (12.0, None)
    """
    if not at_work:
        return None
    ends = list(at_work)
    heapq.heapify(ends)
    for length in sorted(waiting, reverse=True):
        heapq.heapreplace(ends, ends[0] + length)
    return max(ends)
