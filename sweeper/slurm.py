"""What SLURM says and is told: squeue, sacct, scontrol and scancel as typed values; it knows no sweeps, no submitit.

A command that does not answer is no news: `Queue.answers` is then false and nothing is concluded from it.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from sweeper.errors import LaunchError

TIMEOUT_S = 60.0
"""How long a command may take; a busy controller answers after tens of seconds."""
NEW_S = 60.0
"""A job that squeue does not list is not gone before this long after its submission, seconds."""

RUNNING = frozenset({"RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "RESIZING", "STOPPED", "SUSPENDED"})
WAITING = frozenset(
    {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
)
ENDED = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "DEADLINE", "BOOT_FAIL", "REVOKED"})
"""States of squeue(1), "JOB STATE CODES". NODE_FAIL and PREEMPTED are in none: SLURM may yet run the job again."""

Life = Literal["none", "unknown", "queued", "alive"]
LIVES: tuple[Life, ...] = ("none", "unknown", "queued", "alive")
"""From dead to living."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One element of a job array, or a job that is none (index 0), as SLURM sees it."""

    name: str
    job_id: str
    """As scancel and scontrol take it: `123_4`, or `123`."""
    index: int
    state: str
    """In SLURM's words: PENDING, RUNNING, …"""
    reason: str = ""
    nodes: str = ""
    restarts: int = 0
    exit_code: str = ""
    """Status and signal, `1:0`, of one that accounting remembers."""

    @property
    def life(self) -> Life:
        if self.state in RUNNING:
            return "alive"
        if self.state in WAITING:
            return "queued"
        return "none" if self.state in ENDED else "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """What SLURM says about this user's jobs at one moment."""

    cluster: str = ""
    """ClusterName; empty where there is no SLURM."""
    answers: bool = False
    """Whether the controller answered; if not, nothing is known."""
    error: str = ""
    """Why it did not."""
    tasks: Mapping[tuple[str, int], Task] = field(default_factory=dict)
    """What squeue lists, by job name and index: all that waits or runs, and what ended minutes ago."""
    ended: Mapping[tuple[str, int], Task] = field(default_factory=dict)
    """What accounting remembers of jobs that squeue no longer lists; empty without accounting."""
    time: float = 0.0
    """When it was asked, seconds since the epoch."""

    def life(self, name: str, index: int, since: float) -> Life:
        """Whether a job lives: what squeue lists decides, and its silence once the job is `NEW_S` old."""
        task = self.tasks.get((name, index))
        if task is not None:
            return task.life
        return "unknown" if self.time - since < NEW_S else "none"

    def task(self, name: str, index: int) -> Task | None:
        """The last that is known of a job."""
        return self.tasks.get((name, index)) or self.ended.get((name, index))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What `scontrol show config` says."""

    values: Mapping[str, str]

    @property
    def cluster(self) -> str:
        return self.values.get("ClusterName", "")

    @property
    def max_array_size(self) -> int:
        """One more than the largest index that an array may have (slurm.conf: 1001 by default)."""
        return int(self.values.get("MaxArraySize", "1001"))

    @property
    def accounting(self) -> bool:
        """Whether sacct has a database to read."""
        return self.values.get("AccountingStorageType", "").endswith("/slurmdbd")


class SlurmError(Exception):
    """A command of SLURM failed or did not answer; its message is SLURM's own, in one line."""


WHERE = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT")
"""Variables that say which cluster is meant, and who asks."""


def environment() -> dict[str, str]:
    """This process's environment for all commands of SLURM alike: which cluster, and nothing else of SLURM's.

    What a user sets for own use (SQUEUE_FORMAT, SBATCH_TIMELIMIT) would override what we ask for, and the variables of
    the allocation that a launcher itself runs in would be handed on to its jobs.
    """
    others = ("SLURM_", "SBATCH_", "SALLOC_", "SRUN_", "SQUEUE_", "SACCT_", "SCANCEL_", "SINFO_", "SCONTROL_")
    return {k: v for k, v in os.environ.items() if k in WHERE or not k.startswith(others)}


def is_installed() -> bool:
    """Whether this machine has SLURM's commands."""
    return shutil.which("squeue") is not None


def call(*command: str, timeout_s: float = TIMEOUT_S) -> str:
    """What a command of SLURM prints.

    Raises:
        SlurmError: It failed, is not installed or does not answer.
    """
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
            env=environment() | {"LC_ALL": "C.UTF-8"},
            errors="replace",
        )
    except FileNotFoundError as error:
        raise SlurmError(f"{command[0]} is not installed here") from error
    except subprocess.TimeoutExpired as error:
        raise SlurmError(f"{command[0]} did not answer within {timeout_s:.0f} s") from error
    if done.returncode:
        said = " ".join((done.stderr.strip() or done.stdout.strip()).split())
        raise SlurmError(said or f"{command[0]} failed with exit code {done.returncode}")
    return done.stdout


def read_settings() -> Settings:
    """The cluster's configuration.

    Raises:
        SlurmError: The controller does not answer.
    """
    lines = (line.partition("=") for line in call("scontrol", "show", "config").splitlines())
    return Settings(values={key.strip(): value.strip() for key, equals, value in lines if equals})


QUEUE_FIELDS = ("ArrayJobID", "ArrayTaskID", "State", "Reason", "NodeList", "RestartCnt")
ACCOUNT_FIELDS = ("JobID", "JobName", "State", "ExitCode", "NodeList", "Submit")


def ask_queue(
    sizes: Mapping[str, int] | None = None, *, settings: Settings | None = None, since: float | None = None
) -> Queue:
    """Ask once about all jobs of this user: squeue, then accounting about what it does not list of `sizes`.

    Args:
        sizes: Names of jobs that must be accounted for, with the number of their elements.
        settings: Of the cluster, where they are known already.
        since: When the oldest of them was submitted, seconds since the epoch; accounting is read from there on.
    """
    now = time.time()
    if not is_installed():
        return Queue(error="squeue is not installed here", time=now)
    try:
        known = settings or read_settings()
        listed = _listed()
    except SlurmError as error:
        return Queue(error=str(error), time=now)
    missing = sorted(name for name, size in (sizes or {}).items() if any((name, i) not in listed for i in range(size)))
    ended = _accounted(missing, since or now - 7 * 86400) if missing and known.accounting else {}
    return Queue(cluster=known.cluster, answers=True, tasks=listed, ended=ended, time=now)


def _listed() -> dict[tuple[str, int], Task]:
    """What squeue lists; of a name that it lists twice the livelier, of equals the last."""
    columns = ",".join([*(f"{name}:|" for name in QUEUE_FIELDS), "Name:256"])
    text = call("squeue", f"--user={os.getuid()}", "--array", "--states=all", "--noheader", "-O", columns)
    found: dict[tuple[str, int], Task] = {}
    for line in text.splitlines():
        parts = line.split("|", len(QUEUE_FIELDS))
        if len(parts) != len(QUEUE_FIELDS) + 1:
            continue
        number, index, state, reason, nodes, restarts, name = (part.strip() for part in parts)
        task = Task(
            name=name,
            job_id=f"{number}_{index}" if index.isdigit() else number,
            index=int(index) if index.isdigit() else 0,
            state=state,
            reason="" if reason == "None" else reason,
            nodes=nodes,
            restarts=int(restarts) if restarts.isdigit() else 0,
        )
        before = found.get((task.name, task.index))
        if before is None or LIVES.index(task.life) >= LIVES.index(before.life):
            found[task.name, task.index] = task
    return found


def _accounted(names: Sequence[str], since: float) -> dict[tuple[str, int], Task]:
    """What accounting says of jobs by name; of one that was requeued the latest submission. Empty if it fails."""
    start = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(since - 60))
    options = ("--duplicates", "--allocations", "--parsable2", "--noheader", f"--starttime={start}", "--array")
    try:
        text = call("sacct", *options, f"--name={','.join(names)}", f"--format={','.join(ACCOUNT_FIELDS)}")
    except SlurmError:
        return {}
    found: dict[tuple[str, int], tuple[str, Task]] = {}
    for line in text.splitlines():
        parts = line.split("|")
        if len(parts) != len(ACCOUNT_FIELDS):
            continue
        job_id, name, state, exit_code, nodes, submit = parts
        index = job_id.partition("_")[2]
        task = Task(
            name=name,
            job_id=job_id,
            index=int(index) if index.isdigit() else 0,
            state=state.partition(" ")[0],  # `CANCELLED by 1000`
            nodes=nodes,
            exit_code=exit_code,
        )
        if submit >= found.get((task.name, task.index), ("", task))[0]:
            found[task.name, task.index] = (submit, task)
    return {key: task for key, (_, task) in found.items()}


def find_job(name: str) -> str | None:
    """The number of a job by its name, if squeue lists one or accounting remembers one; None if neither does.

    Raises:
        SlurmError: The controller does not answer, so nothing is known.
    """
    queue = ask_queue({name: 1})
    if not queue.answers:
        raise SlurmError(queue.error)
    for found in (queue.tasks, queue.ended):
        for (listed, _), task in found.items():
            if listed == name:
                return task.job_id.partition("_")[0]
    return None


def requeue(job_id: str) -> None:
    """Put a running job back into the queue: it ends now and starts again.

    Raises:
        SlurmError: The cluster refuses (`JobRequeue=0`), or does not answer.
    """
    call("scontrol", "requeue", job_id)


HELD_REASON = "launch failed requeued held"
"""SLURM put a job back because its node could not start it, or a restarted controller lost it, and lets it wait."""


def release(job_ids: Iterable[str]) -> None:
    """Let waiting jobs go that are held.

    Raises:
        SlurmError: The cluster refuses, or does not answer.
    """
    for job_id in job_ids:
        call("scontrol", "release", job_id)


def cancel(job_ids: Iterable[str]) -> None:
    """End jobs, whether they wait or run.

    Raises:
        SlurmError: The controller does not answer.
    """
    chosen = tuple(job_ids)
    for first in range(0, len(chosen), 500):  # a command line has its limits
        call("scancel", *chosen[first : first + 500])


def is_preempted(job_id: str) -> bool:
    """Whether SLURM is about to end a job in favour of another; False where it does not say."""
    try:
        time_of = call("squeue", "--noheader", f"--jobs={job_id}", "-O", "PreemptTime:32").strip()
    except SlurmError:
        return False
    return time_of not in ("", "N/A", "None")


def resumed_at(job_id: str) -> float:
    """When a running job last went on after it was suspended, seconds since the epoch; 0 for one that never was.

    Raises:
        SlurmError: The controller does not answer, or knows the job no more.
    """
    words = call("scontrol", "show", "job", job_id).split()
    # In SLURM's words the time of the last suspension, which a resumption sets anew (job_mgr.c).
    said = next((word.partition("=")[2] for word in words if word.startswith("SuspendTime=")), "None")
    return 0.0 if said in ("None", "Unknown") else datetime.fromisoformat(said).timestamp()


def cancel_step(step: str) -> None:
    """Kill a step (`123.0`) of a running job."""
    call("scancel", "--signal=KILL", step)


def exclude_nodes(job_id: str, nodes: str) -> None:
    """Keep a waiting job from nodes.

    Raises:
        SlurmError: The job runs already, or the controller does not answer.
    """
    call("scontrol", "update", f"JobId={job_id}", f"ExcNodeList={nodes}")


def node_names(partition: str = "") -> tuple[str, ...]:
    """The nodes of the cluster, or of one partition.

    Raises:
        SlurmError: The controller does not answer.
    """
    chosen = (f"--partition={partition}",) if partition else ()
    return tuple(dict.fromkeys(call("sinfo", "--noheader", "--Node", "--format=%N", *chosen).split()))


def host_names(expression: str) -> tuple[str, ...]:
    """The nodes that an expression such as `n[1-3],n7` stands for, whether they exist or not.

    Raises:
        SlurmError: It is none, or scontrol is not installed.
    """
    return tuple(call("scontrol", "show", "hostnames", expression).split())


VAGUE = "violates accounting/QOS policy"
NEVER_WORDS = ("PerJob", "WallDuration", "MaxWall")
"""Limits of a single job: waiting does not help."""
LIMIT_WORDS = (
    "QOSMax",
    "QOSGrp",
    "AssocMax",
    "AssocGrp",
    "MaxSubmitJob",
    "submit limit",
    VAGUE,
    "temporarily unable to accept job",
)
"""How sbatch says that no more jobs are taken for now (Slurm 22.05, slurm_strerror)."""


def is_limit(message: str) -> bool:
    """Whether a refusal is a limit that passes with time, rather than a mistake of the request.

    >>> is_limit("sbatch: error: QOSMaxSubmitJobPerUserLimit"), is_limit("Invalid partition name specified")
    (True, False)
    >>> is_limit("sbatch: error: QOSMaxWallDurationPerJobLimit")
    False
    """
    said = message.lower()
    return any(word.lower() in said for word in LIMIT_WORDS) and not any(word.lower() in said for word in NEVER_WORDS)


def is_vague(message: str) -> bool:
    """Whether a refusal may be a limit that passes or one that does not: SLURM says the same for both.

    >>> is_vague("Job violates accounting/QOS policy (job submit limit, user size and/or time limits)")
    True
    """
    said = re.sub(r"\(job submit limit, [^)]*\)", "", message.lower())
    return VAGUE.lower() in said and not any(word.lower() in said for word in LIMIT_WORDS if word != VAGUE)


def is_silence(message: str) -> bool:
    """Whether an error leaves open what the controller did: the request may have reached it.

    >>> is_silence("Batch job submission failed: Socket timed out on send/recv operation")
    True
    """
    words = ("timed out", "unable to contact", "did not answer", "connection refused", "connection reset", "zero bytes")
    return any(word in message.lower() for word in words)


def require_slurm() -> None:
    """Raise unless jobs can be handed to SLURM from here.

    Raises:
        LaunchError: There is no sbatch on this machine.
    """
    if shutil.which("sbatch") is None:
        raise LaunchError("sbatch is not on PATH; run this on a login node of the cluster, or choose cluster=local")
