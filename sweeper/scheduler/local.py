"""Start, ask after and stop jobs of this machine.

submitit's local executor starts everything at once, so `slots` bounds how many run together: one per core, or one per
GPU unless more are asked for.
"""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import cycle, islice
from pathlib import Path

import psutil

from model.config import Execution
from sweeper.errors import ConfigError, LaunchError
from sweeper.records import Owner, owner_of
from sweeper.spec import Cluster

MONTH_MIN = 60 * 24 * 31
PROCESS_GIB = 0.5
"""Memory of a worker process beside its run: Python and torch."""
GIB = 2**30

Slot = tuple[str, ...]
"""The GPUs that one running job may use, as CUDA_VISIBLE_DEVICES names them; empty on a machine without."""


def slots(cluster: Cluster, execution: Execution, memory_gib: float = 0.0) -> tuple[Slot, ...]:
    """One entry for each job that may run at a time on this machine.

    Args:
        memory_gib: Of one process, by the plan; on CPUs no more jobs run than the free memory holds.

    Raises:
        ConfigError: A job needs more GPUs than there are, or asks for cuda or Triton where there are none.
    """
    gpus = () if execution.device == "cpu" else visible_gpus()
    if execution.device == "cuda" and not gpus:
        raise ConfigError("execution.device is cuda but this machine shows no GPU; set it to auto or cpu")
    if execution.triton and not gpus and os.environ.get("TRITON_INTERPRET") != "1":
        raise ConfigError("execution.triton needs a GPU and this machine shows none; set execution.triton=false")
    if gpus:
        fitting = [gpus[i : i + cluster.processes] for i in range(0, len(gpus), cluster.processes)]
        found = [slot for slot in fitting if len(slot) == cluster.processes]
        if not found:
            raise ConfigError(f"cluster.processes {cluster.processes} exceeds the {len(gpus)} GPUs here; lower it")
        if cluster.processes == 1 and cluster.parallel > len(found):
            return tuple(islice(cycle(found), cluster.parallel))
        return tuple(found[: cluster.parallel] if cluster.parallel else found)
    if cluster.parallel:
        return ((),) * cluster.parallel
    by_cores = cores() // (cluster.processes * execution.threads)
    by_memory = free_memory() / GIB // (cluster.processes * (memory_gib + PROCESS_GIB))
    return ((),) * max(1, min(by_cores, int(by_memory)))


def cores() -> int:
    """CPU cores that this process may use: its affinity, and the quota of its container (cgroup v2)."""
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return allowed if quota == "max" else max(1, min(allowed, int(quota) // int(period)))
    except (OSError, ValueError):
        return allowed


def free_memory() -> int:
    """Bytes that this process may still use: of the machine, and of its container (cgroup v2)."""
    free = psutil.virtual_memory().available
    try:
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        return free if limit == "max" else min(free, max(0, int(limit) - int(used)))
    except (OSError, ValueError):
        return free


def visible_gpus() -> Slot:
    """The GPUs that this process may use, without asking torch; CUDA stops at the first it cannot read."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        names: list[str] = []
        for name in (part.strip() for part in chosen.split(",")):
            if not name or name.startswith("-"):
                break
            names.append(name)
        return tuple(names)
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except OSError:
        return ()
    except subprocess.TimeoutExpired as error:
        raise LaunchError(
            "nvidia-smi does not answer, so the GPUs here are unknown; set CUDA_VISIBLE_DEVICES or execution.device=cpu"
        ) from error
    return tuple(str(i) for i in range(sum(line.startswith("GPU ") for line in listed.stdout.splitlines())))


def submit(job: Path, cluster: Cluster, environment: Mapping[str, str]) -> Owner:
    """Start the job whose intent lies in the folder `job`; returns its process."""
    import submitit

    from sweeper import worker_entry

    executor = submitit.LocalExecutor(folder=job / "submitit")
    executor.update_parameters(timeout_min=MONTH_MIN, tasks_per_node=cluster.processes, stderr_to_stdout=True)
    try:
        with _child_environment(environment), _keeping_interrupts():
            started = executor.submit(worker_entry.run, str(job))
        return owner_of(int(started.job_id))
    except OSError as error:
        raise LaunchError(
            f"{job}: cannot be started ({error.strerror or error}); free space or memory, then launch again"
        ) from error


def is_broken(owner: Owner, processes: int) -> bool:
    """Whether a job of several processes has lost some of them, so that the others wait for ever."""
    try:
        alive = psutil.Process(owner.pid).children()
    except psutil.Error:
        return False
    return 0 < len(alive) < processes


def terminate(owner: Owner) -> None:
    """Ask a job to stop: its workers write a checkpoint at the next step and end."""
    if owner.alive:
        with suppress(ProcessLookupError):
            os.kill(owner.pid, signal.SIGTERM)


def kill(owner: Owner) -> None:
    """End a job and all its processes at once."""
    if not owner.alive:
        return
    with suppress(psutil.Error):
        controller = psutil.Process(owner.pid)
        for process in [*controller.children(recursive=True), controller]:
            with suppress(psutil.Error):  # one that ends meanwhile must not save the others
                process.kill()


def log_tail(job: Path, lines: int = 5) -> str:
    """The last lines that a job printed, for a message about why it died."""
    logs = sorted((job / "submitit").glob("*_log.out"))
    return "\n".join("\n".join(log.read_text(errors="replace").splitlines()[-lines:]) for log in logs)


@contextmanager
def _child_environment(extra: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in extra}
    os.environ.update(extra)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _keeping_interrupts() -> Iterator[None]:
    """Children started here never see Ctrl-C or a closed terminal: the launcher asks them to stop in an orderly way.

    The signals are blocked, not ignored: one that arrives meanwhile reaches the launcher afterwards.
    """
    kept = (signal.SIGINT, signal.SIGHUP)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, kept)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
