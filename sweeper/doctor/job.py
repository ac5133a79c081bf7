"""A short real job, as a run's would be: submitted, watched, judged by what it wrote, and gone at the end."""

import fcntl
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import sweeper
from model.config import Execution
from sweeper.doctor.finding import Finding, ok, problem, warning
from sweeper.doctor.node import MESSAGE_MIB, STEP_TIMEOUT_S, BatchFacts, NodeFacts, Pong
from sweeper.doctor.packages import judge_torch
from sweeper.doctor.storage import judge_clock
from sweeper.errors import LaunchError, SweeperError
from sweeper.records import JobFile, read_json, write_json, write_text
from sweeper.scheduler.arrays import (
    LimitError,
    Shape,
    command_script,
    python_of,
    submit_script,
    try_script,
)
from sweeper.slurm import Settings, SlurmError, Task, ask_queue, call
from sweeper.spec import Cluster
from sweeper.supervisor import tail

TIME_MIN = 10
POLL_S = 0.5
ASK_S = 5.0
"""Between two looks at the queue."""
LATE_S = 10.0
"""How late a file may be seen on the other side: NFS caches attributes for some seconds (nfs(5), acregmin 3)."""
UNSEEN_S = 30.0
"""How long after a job's end what it wrote may take to be seen."""
REQUEUED_S = 60.0

T = TypeVar("T")


def job_of(cluster: Cluster, name: str, nodes: int, processes: int) -> JobFile:
    """A job of no runs."""
    return JobFile(
        job=name,
        tasks=((),),
        code="",
        processes=processes,
        heartbeat_s=cluster.heartbeat_s,
        execution=Execution(),
        cluster=cluster,
        nodes=nodes,
        time=time.time(),
    )


def script_findings(cluster: Cluster, scratch: Path) -> Iterator[Finding]:
    """Whether SLURM would take the smallest and the largest job of the profile: `sbatch --test-only`."""
    per_node = cluster.slurm.processes_per_node
    shapes = {"smallest": (1, 1), "largest": (cluster.slurm.nodes, per_node)}
    for size, (nodes, tasks) in shapes.items():
        shape = Shape(nodes=nodes, tasks_per_node=tasks, time_min=cluster.slurm.time_min)
        path = scratch / f"{size}.sh"
        job = job_of(cluster, f"sweeper-doctor-{size}", nodes, nodes * tasks)
        write_text(path, command_script(job, shape, scratch, "true", scratch))
        asked = f"nodes {nodes} × processes {tasks}"
        try:
            yield ok("script", f"{size} job", "SLURM would take it", f"{asked}: {try_script(path)}")
        except SlurmError as error:
            remedy = "mend cluster.slurm.* as it says; `sweeper launch … --dry-run` shows the script"
            yield problem("script", f"{size} job", f"SLURM refuses it: {error}", remedy, asked)


def job_findings(
    cluster: Cluster, scratch: Path, settings: Settings, *, wait_s: float, tell: Callable[[str], None]
) -> Iterator[Finding]:
    """Submit a job that looks at its nodes, and judge what it saw.

    Args:
        wait_s: How long it may wait in the queue.
        tell: Called with what is being waited for.
    """
    slurm = cluster.slurm
    nodes = min(2, slurm.nodes)
    per_node = 1 if nodes == 2 else min(2, slurm.processes_per_node)
    name = f"sweeper-doctor-{uuid4().hex[:8]}"
    job = job_of(cluster, name, nodes, nodes * per_node)
    write_json(scratch / "job.json", job)
    (scratch / "mark").write_text("")
    shape = Shape(nodes=nodes, tasks_per_node=per_node, time_min=min(TIME_MIN, slurm.time_min))
    command = f"exec {python_of(cluster)} -u -m sweeper.doctor.node batch {shlex.quote(str(scratch.resolve()))}"
    script = scratch / "script.sh"
    code = Path(sweeper.__file__).resolve().parent.parent
    write_text(script, command_script(job, shape, scratch, command, code))
    with _cancelled_at_the_end(name), _locked(scratch / "lock"):
        try:
            number = submit_script(script, name)
        except LimitError as error:
            yield warning("job", "submission", f"a limit keeps it back: {error}", "try again when jobs have ended")
            return
        except LaunchError as error:
            yield problem("job", "submission", str(error), "mend the profile as it says")
            return
        tell(f"job {number} looks at {nodes} {'node' if nodes == 1 else 'nodes'}; waiting for it to start")
        watch = _Watch(name, scratch, settings)
        yield from _watched(watch, cluster, job, number, wait_s=wait_s, tell=tell)


class _Watch:
    """Looks at the files of a job often, and at the queue now and then."""

    def __init__(self, name: str, scratch: Path, settings: Settings) -> None:
        self.name, self.scratch, self.settings = name, scratch, settings
        self.task: Task | None = None
        """What squeue last said of it."""
        self.gone = False
        """Whether it is over, or no longer listed."""
        self._asked = 0.0

    def until(self, seen: Callable[[], T | None], timeout_s: float) -> T | None:
        """Wait for something to be seen; None if it was not in time, or the job is long over."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = seen()
            if found is not None or time.monotonic() > deadline:
                return found
            if self.gone:  # what it wrote may still be on its way
                arrived = any(path.stat().st_size for path in self.scratch.glob("*.out"))
                deadline = min(deadline, time.monotonic() + (ASK_S if arrived else UNSEEN_S))
            else:
                self.look(every_s=ASK_S)
            any(self.scratch.iterdir())  # makes a network filesystem look anew
            time.sleep(POLL_S)

    def look(self, every_s: float = 0.0) -> Task | None:
        """Ask the queue; None if that was less than `every_s` ago."""
        if time.monotonic() < self._asked + every_s:
            return None
        self._asked = time.monotonic()
        queue = ask_queue(settings=self.settings)
        if queue.answers:
            self.task = queue.tasks.get((self.name, 0))
            self.gone = self.task is None or self.task.life == "none"
        return self.task

    def batch(self) -> BatchFacts | None:
        """What the batch step wrote."""
        return _read(self.scratch / "batch.json", BatchFacts)

    def ended_batch(self) -> BatchFacts | None:
        """The same, once its processes have ended."""
        facts = self.batch()
        return facts if facts is not None and facts.step_code is not None else None

    def pong(self) -> Pong | None:
        return _read(self.scratch / "pong.json", Pong)

    def node(self, rank: int) -> NodeFacts | None:
        return _read(self.scratch / f"node-{rank}.json", NodeFacts)

    def first_node(self) -> NodeFacts | None:
        return self.node(0)


def _read(path: Path, kind: type[T]) -> T | None:
    try:
        return read_json(path, kind)
    except SweeperError:  # seen while it is replaced, on a filesystem that does not keep its promises
        return None


def _watched(
    watch: _Watch, cluster: Cluster, job: JobFile, number: str, *, wait_s: float, tell: Callable[[str], None]
) -> Iterator[Finding]:
    begun = time.monotonic()
    batch = watch.until(watch.batch, wait_s)
    if batch is None:
        yield _never_seen(watch, cluster, number, wait_s)
        return
    yield ok("job", "start", f"on {batch.node or batch.host}", f"after {time.monotonic() - begun:.1f} s")
    yield judge_folder_there(batch)
    tell("it runs; its processes import torch and meet")
    ended: BatchFacts | None = None
    if watch.until(lambda: watch.first_node() or watch.ended_batch(), STEP_TIMEOUT_S) is not None:
        if watch.first_node() is not None:
            yield from _exchange(watch)
        ended = watch.until(watch.ended_batch, STEP_TIMEOUT_S)
    facts = [found for rank in range(job.processes) if (found := watch.node(rank)) is not None]
    yield from node_findings(cluster, job, facts, ended)
    if ended is not None:
        yield _requeued(watch)


def _never_seen(watch: _Watch, cluster: Cluster, number: str, wait_s: float) -> Finding:
    """Why nothing is seen of a job: it waits, it could not start, or what it writes does not arrive."""
    task = watch.task
    if not watch.gone:
        state = f"{task.state} ({task.reason or 'no reason given'})" if task else "not listed"
        if task is not None and task.life == "alive":
            remedy = "choose --runs on a filesystem that every node mounts, at the same path"
            says = f"job {number} runs on {task.nodes}, but nothing that it writes is seen here"
            return problem("job", "start", says, remedy, state)
        remedy = "wait longer with --wait MINUTES, try again when the queue is shorter, or leave it out with --quick"
        return warning("job", "start", f"job {number} did not start within {wait_s / 60:g} min", remedy, state)
    said = "\n".join(filter(None, (tail(path) for path in sorted(watch.scratch.glob("*.out")))))
    if said:
        remedy = (
            f"{python_of(cluster)} must work on the nodes: set cluster.slurm.python to one on a shared filesystem, "
            "or add lines such as `module load …` to cluster.slurm.setup"
        )
        return problem("job", "start", f"the job's interpreter does not start: {telling(said)}", remedy)
    remedy = "choose --runs on a filesystem that every node mounts, at the same path"
    state = f"{task.state} {task.nodes}" if task else "gone"
    return problem("job", "start", f"job {number} ended, and nothing that it wrote is seen here", remedy, state)


def judge_folder_there(batch: BatchFacts) -> Finding:
    """Whether the node finds what was written here before the job."""
    if batch.finds_file:
        return ok("job", "folder", "the node finds what was written here, and this machine what the node writes")
    remedy = "choose --runs on a filesystem that every node mounts"
    return problem("job", "folder", f"{batch.host} does not find a file that was written here before", remedy)


def _exchange(watch: _Watch) -> Iterator[Finding]:
    """Write a file now and wait for the answer: how late each side sees the other, and how far the clocks are apart."""
    before = time.time()
    (watch.scratch / "ping").write_text("")
    pong = watch.until(watch.pong, 2 * UNSEEN_S)
    after = time.time()
    if pong is None:
        remedy = "mount it without attribute caches (NFS: actimeo=3), or choose another --runs"
        yield problem("job", "exchange", f"no answer to a new file within {2 * UNSEEN_S:.0f} s", remedy)
        return
    yield judge_exchange(after - before)
    middle = (before + after) / 2
    yield judge_clock("job", "the node", pong.time - middle, (after - before) / 2)


def judge_exchange(round_trip_s: float) -> Finding:
    """Whether files are seen on the other side in good time."""
    value = f"{round_trip_s:.1f} s there and back"
    if round_trip_s > LATE_S:
        remedy = "nothing breaks; `status` lags behind by as much. A shorter actimeo would help (NFS)"
        return warning("job", "exchange", "files are seen late on the other side", remedy, value)
    return ok("job", "exchange", "files are seen on the other side", value)


def node_findings(
    cluster: Cluster, job: JobFile, facts: Sequence[NodeFacts], batch: BatchFacts | None
) -> Iterator[Finding]:
    """What the processes of the job saw.

    Args:
        batch: What the batch step wrote at the end; None if it did not come that far.
    """
    if not facts:
        words = " ".join(filter(None, (cluster.slurm.container, python_of(cluster), "-V")))
        remedy = f"try on a node: {words}; set cluster.slurm.container, python, setup and extra_srun until it works"
        yield problem("job", "processes", f"none started: {telling(batch.said if batch else '')}", remedy)
        return
    hosts = ", ".join(dict.fromkeys(each.node or each.host for each in facts))
    if len(facts) < job.processes:
        says = f"{len(facts)} of {job.processes} started"
        yield problem("job", "processes", says, "see that the missing nodes mount the environment and --runs", hosts)
    else:
        yield ok("job", "processes", f"all {job.processes} started, Python {facts[0].python}", hosts)
    yield judge_cores(cluster, facts)
    yield judge_shared_lock(facts[0])
    gpus = _gpus_asked(cluster, job)
    for each in facts:
        if each.torch is not None:
            judged = judge_torch(
                each.torch, "job", trains_here=True, gpus=gpus, gpu=cluster.gpu if each.torch.devices else None
            )
            yield from judged if each.rank == 0 else (found for found in judged if found.level != "ok")
    yield from judge_network(job, facts)
    unfinished = [each for each in facts if not each.done]
    if unfinished or (batch is not None and batch.step_code):
        who = ", ".join(each.node or each.host for each in unfinished) or "all"
        says = f"the processes did not come to their end ({who}): {telling(batch.said if batch else '')}"
        yield problem("job", "end", says, "see the findings before this one for where they stopped")


def telling(said: str) -> str:
    """The line of an output that says most: the first that speaks of an error and is not srun's, else the last.

    >>> telling("srun: error: n2: Exited with exit code 2\\nexecve(): apptainer: No such file\\nexit code 2")
    'execve(): apptainer: No such file'
    """
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    words = ("error", "no such file", "not found", "denied", "cannot")
    speaking = [line for line in lines if any(word in line.lower() for word in words)]
    own = [line for line in speaking if not line.startswith("srun:")]
    return (own or speaking or lines[-1:] or ["no word"])[0]


def _gpus_asked(cluster: Cluster, job: JobFile) -> int:
    slurm = cluster.slurm
    if slurm.gpus_per_node == 0:
        return 0
    whole = slurm.exclusive or slurm.gpu_request == "none"
    return slurm.gpus_per_node if whole else job.processes // job.nodes


def judge_cores(cluster: Cluster, facts: Sequence[NodeFacts]) -> Finding:
    """Whether each process has the cores that it asked for."""
    wanted, least = cluster.slurm.cpus_per_process, min(each.cpus for each in facts)
    value = f"{least} of {wanted}"
    if least < wanted:
        says = "a process may use fewer cores than it asked for"
        remedy = "see --cpu-bind and --hint of the site; pass them by cluster.slurm.extra_srun"
        return warning("job", "cores", says, remedy, value)
    return ok("job", "cores", "a process may use those that it asked for", value)


def judge_shared_lock(first: NodeFacts) -> Finding:
    """Whether locks reach from machine to machine."""
    if first.lock_shared:
        return ok("job", "locks", "a lock of this machine keeps the node out")
    says = "locks are not shared between machines: launchers are kept apart by their owner files alone"
    return warning("job", "locks", says, "none is needed; do not launch one sweep from two machines at once")


def judge_network(job: JobFile, facts: Sequence[NodeFacts]) -> Iterator[Finding]:
    """Whether the processes of a run can meet, and sum over each other."""
    if job.processes == 1:
        return
    others = [each for each in facts if each.rank]
    where = "two nodes" if job.nodes > 1 else "one node"
    unnamed = [each for each in others if each.name_error]
    unreached = [each for each in others if each.tcp_error]
    if unnamed:
        says = f"{unnamed[0].host} cannot resolve the first node's name {unnamed[0].name_error}"
        yield problem("job", "rendezvous", says, "ask for names of nodes that resolve on nodes (DNS or /etc/hosts)")
    elif unreached:
        says = f"{unreached[0].host} cannot connect to {unreached[0].tcp_error}"
        yield problem("job", "rendezvous", says, "ask for open high ports between nodes")
    else:
        times = [each.tcp_s for each in others if each.tcp_s is not None]
        if times:
            address = others[0].address
            yield ok("job", "rendezvous", "the first node is found and reached", f"{address}, {max(times):.2f} s")
    yield from _judge_sums(facts, "gloo", where, "set GLOO_SOCKET_IFNAME in cluster.slurm.environment to the network")
    if any(each.torch is not None and each.torch.devices for each in facts):
        hint = "set NCCL_SOCKET_IFNAME (and NCCL_IB_HCA) in cluster.slurm.environment; NCCL_DEBUG=INFO says more"
        yield from _judge_sums(facts, "nccl", where, hint)


def _judge_sums(facts: Sequence[NodeFacts], kind: str, where: str, remedy: str) -> Iterator[Finding]:
    errors = [f"{each.host}: {said}" for each in facts if (said := getattr(each, f"{kind}_error"))]
    times = [taken for each in facts if (taken := getattr(each, f"{kind}_s")) is not None]
    if errors:
        yield problem("job", kind, f"no sum over {where}: {errors[0]}", remedy)
    elif times and len(times) == len(facts):
        rate = f", {MESSAGE_MIB / 1024 / max(times):.1f} GiB/s" if kind == "nccl" else ""
        yield ok("job", kind, f"a sum over {where}", f"{max(times):.2f} s{rate}")
    elif facts[0].torch is not None and facts[0].torch.version:
        yield problem("job", kind, f"no sum over {where} in time", remedy)


def _requeued(watch: _Watch) -> Finding:
    """Whether the job could put itself back into the queue, as runs do at their time limit."""

    def refused_or_back() -> str | None:
        facts = watch.batch()
        if facts is not None and facts.requeue_error:
            return facts.requeue_error
        if (watch.scratch / "restarted.json").exists():
            return ""
        task = watch.look(every_s=2.0)
        return "" if task is not None and (task.restarts or task.life == "queued") else None

    refused = watch.until(refused_or_back, REQUEUED_S)
    if refused == "":
        return ok("job", "requeue", "a job can put itself back into the queue")
    why = refused or f"not back in the queue after {REQUEUED_S:.0f} s"
    remedy = "runs that reach their time limit are resubmitted by `sweeper tend` or a keeper: launch with --keeper"
    return warning("job", "requeue", f"a job cannot put itself back into the queue: {why}", remedy)


@contextmanager
def _cancelled_at_the_end(name: str) -> Iterator[None]:
    """Cancel the job by its name whatever happens, also one whose sbatch did not answer."""
    try:
        yield
    finally:
        with suppress(SlurmError):
            call("scancel", f"--name={name}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
