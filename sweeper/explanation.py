"""Why a run stands where it does: one sentence for people, and the last lines of what went wrong; pure."""

import time
from dataclasses import dataclass

from model.config import Execution
from model.shape import MEMORY_SHARE, choose_pass
from sweeper.logs import SilentJob
from sweeper.overview import Holding, Look, Row
from sweeper.plan import shards
from sweeper.records import Attempt, JobFile
from sweeper.retries import halvings
from sweeper.slurm import HELD_REASON
from sweeper.spec import Cluster, RunSpec
from sweeper.status import STARTABLE, State
from sweeper.supervisor import TAIL_LINES

REASONS = {
    "Resources": "the nodes that it needs are not free yet",
    "Priority": "jobs of higher priority come first",
    "Dependency": "the jobs that it depends on (the canaries) have not ended well yet",
    "DependencyNeverSatisfied": "a job that it depends on (a canary) failed, so that it never starts",
    "JobArrayTaskLimit": "as many of its array run as cluster.slurm.throttle allows",
    "BeginTime": "SLURM lets a job that was put back wait a while",
    "JobHeldUser": "it was held by scontrol; scontrol release lets it go",
    "JobHeldAdmin": "an administrator holds it",
    "ReqNodeNotAvail": "nodes that it asks for are down, drained or reserved",
    "PartitionDown": "its partition takes jobs but starts none",
    "PartitionInactive": "its partition is inactive",
    "PartitionTimeLimit": "its time limit exceeds the partition's; lower cluster.slurm.time_min",
    "PartitionNodeLimit": "it asks for more nodes than its partition has",
    "BadConstraints": "no node satisfies its constraints",
    "Reservation": "its reservation has not begun",
    "Licenses": "it waits for a licence",
    "NodeDown": "a node that it needs is down",
    HELD_REASON: "SLURM could not start it on its node and holds it; `sweeper tend` lets it go",
    "Cleaning": "SLURM cleans up after its last start",
    "None": "SLURM has not looked at it yet",
    "QOS": "a limit of its QOS is reached",
    "Assoc": "a limit of its account is reached",
    "MaxCpuPerAccount": "a limit of its account is reached",
}
"""SLURM's reasons of waiting jobs by how they begin (squeue(1), "JOB REASON CODES")."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a run stands where it does."""

    run_id: str
    state: State
    sentence: str
    detail: str = ""
    """The last lines of its traceback or output; empty where nothing went wrong."""


def explain(spec: RunSpec, row: Row, look: Look, silent: SilentJob | None = None) -> Explanation:
    """What ended a run, or what it waits for.

    Args:
        silent: Its newest job, if that ended without an attempt.
    """
    seen = look.evidence[row.run_id]
    last = seen.attempts[-1] if seen.attempts else None
    failed = last is not None and last.end is not None and row.state not in ("done", "queued", "cancelled")
    detail = last.end.detail if last and last.end and failed else ""
    if row.state in ("done", "diverged"):
        sentence = _finished(spec, row, look)
    elif row.state == "queued":
        sentence = _queued(row, look.holding.get(row.run_id), last)
    elif row.state == "running":
        sentence = _running(row, look, last)
    elif row.state == "cancelled":
        sentence = _cancelled(row, look)
    elif row.state == "unknown":
        sentence = f"nobody knows: {row.reason}; it is not taken for dead" + _so_far(row)
    elif row.state == "new":
        sentence = _new(row, look)
    else:
        sentence = _ended(spec, row, look, last)
    if silent is not None and row.state in STARTABLE:
        sentence = f"job {silent.job_id} ended before the run's processes began; {_before_it(row, look, sentence)}"
        detail = silent.said
    lines = detail.rstrip().splitlines()[-TAIL_LINES:]
    return Explanation(run_id=row.run_id, state=row.state, sentence=sentence, detail="\n".join(lines))


def reason_in_words(reason: str) -> str:
    """SLURM's reason of a waiting job, with its meaning where that is known.

    >>> reason_in_words("QOSMaxJobsPerUserLimit")
    'QOSMaxJobsPerUserLimit: a limit of its QOS is reached'
    """
    known = [start for start in REASONS if reason.startswith(start)]
    return f"{reason}: {REASONS[max(known, key=len)]}" if known else reason


def _finished(spec: RunSpec, row: Row, look: Look) -> str:
    record = look.evidence[row.run_id].record
    took = f", {record.wall_time_s:.0f} s on {record.device or 'its device'}" if record else ""
    took += f", in a stack of {record.stack} runs" if record and record.stack > 1 else ""
    tries = "at the first attempt" if row.attempts == 1 else f"at attempt {row.attempts}"
    loss = "" if row.loss is None else f", loss {row.loss:.4f}"
    if row.state == "done":
        return f"done {tries}: {row.step} steps{loss}{took}"
    return f"diverged {tries} after {row.step} of {spec.train.steps} steps{loss}: {row.reason}; a result, not a failure"


def _queued(row: Row, holding: Holding | None, last: Attempt | None) -> str:
    why = reason_in_words(holding.task.reason) if holding and holding.task and holding.task.reason else ""
    before = f", after attempt {last.number}: {last.end.reason}" if last and last.end else ""
    return f"waits in SLURM as job {row.job}" + (f" ({why})" if why else "") + before


def _running(row: Row, look: Look, last: Attempt | None) -> str:
    where = (f" on {row.node}" if row.node else "") + (f" as job {row.job}" if row.job else "")
    if last is None or last.end is not None:
        if row.next_at and last and last.end:
            return (
                f"waits in its job{where} for attempt {last.number + 1}, in {row.next_at - look.time:.0f} s; "
                f"attempt {last.number}: {last.end.reason}"
            )
        return f"{row.reason}{where}" + (
            f", after attempt {last.number}: {last.end.reason}" if last and last.end else ""
        )
    if row.silent_s:
        return (
            f"may hang{where}: no step for {row.silent_s:.0f} s, at step {row.step} of {row.steps}; "
            "its job ends it and tries again"
        )
    speed = f", {row.tokens_per_s:.3g} tokens/s" if row.tokens_per_s else ""
    suspended = f" ({row.reason})" if row.reason else ""
    return (
        f"runs{where}{suspended}: attempt {row.attempts}, step {row.step} of {row.steps}{speed}, "
        f"last sign of life {max(0.0, look.time - row.seen):.0f} s ago"
    )


def _cancelled(row: Row, look: Look) -> str:
    held = look.held.get(row.run_id)
    when = f" at {_clock(held.time)}" if held else ""
    return f"{row.reason or 'it is held'}{when}{_so_far(row)}; `sweeper retry` takes it up again"


def _new(row: Row, look: Look) -> str:
    if look.launch is not None and row.launched:
        return "waits to be submitted: a limit of SLURM kept it back; `sweeper tend` submits it as that allows"
    return "nothing has happened yet; `sweeper launch` runs it"


def _before_it(row: Row, look: Look, sentence: str) -> str:
    return f"before it, {sentence}" if row.attempts else _next(row, look)


def _ended(spec: RunSpec, row: Row, look: Look, last: Attempt | None) -> str:
    if last is None:
        return f"its job ended before its processes began; {_next(row, look)}"
    how = "its process is gone without a word" if last.end is None else last.end.reason
    at = f" at step {row.step} of {row.steps}" if row.step and row.state == "stopped" else ""
    where = f" on {last.seat.node}" if last.seat.node and last.seat.node not in how else ""
    sentence = f"attempt {last.number}{where} {'failed' if row.state == 'failed' else 'ended'}{at}: {how}"
    memory = _smaller(spec, look, last)
    return sentence + (f"; {memory}" if memory else "") + f"; {_next(row, look)}"


def _next(row: Row, look: Look) -> str:
    verdict = look.verdicts.get(row.run_id)
    if look.launch is None:
        return "`sweeper launch` runs it again" if row.state == "failed" else "`sweeper launch` resumes it"
    if verdict is not None and verdict.action == "give up":
        return "it is not tried again until `sweeper retry` asks for it"
    if row.next_at:
        return f"`sweeper tend` submits it again from {_clock(row.next_at)} on"
    return "`sweeper tend` submits it again"


def _smaller(spec: RunSpec, look: Look, last: Attempt) -> str:
    """What a lack of memory leads to: a smaller micro-batch of the next attempt."""
    if last.end is None or last.end.cause != "memory" or spec.trainer.kind != "builtin":
        return ""
    job = look.jobs.get(last.job)
    execution, processes, cluster = _execution(job[0] if job else None, look)
    share = -(-spec.train.batch_sequences // processes)
    halved = halvings([(attempt, None) for attempt in look.evidence[spec.run_id].attempts])
    if cluster is None:  # what its machine holds is not known here
        return "its next attempt takes half as many sequences at a time"
    next_pass = choose_pass(
        spec.train,
        execution,
        processes=processes,
        budget=MEMORY_SHARE * 2**30 * cluster.memory_gib,
        shard_processes=shards(execution, processes, cluster),
        halved=halved,
    )
    again = " and computes activations twice" if next_pass.checkpointing else ""
    return f"its next attempt takes {next_pass.sequences} of {share} sequences at a time{again}"


def _execution(job: JobFile | None, look: Look) -> tuple[Execution, int, Cluster | None]:
    if job is not None:
        return job.execution, job.processes, job.cluster
    if look.launch is None:
        return Execution(), 1, None
    return look.launch.execution, max(1, look.launch.cluster.processes), look.launch.cluster


def _so_far(row: Row) -> str:
    return f", at step {row.step} of {row.steps}" if row.step else ""


def _clock(at: float) -> str:
    """A moment as a person of this machine writes it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
