"""Start, ask after and stop jobs; the only module that knows submitit.

`local` starts jobs on this machine. submitit's local executor starts everything at once, so `slots` bounds how many
run together: one per core, or one per GPU.
"""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from model.config import Execution
from sweeper.errors import ConfigError, LaunchError
from sweeper.records import Owner, owner_of, write_submitted
from sweeper.spec import Cluster

MONTH_MIN = 60 * 24 * 31
Slot = tuple[int, ...]
"""The GPUs that one running job may use; empty on a machine without."""


def slots(cluster: Cluster, execution: Execution) -> tuple[Slot, ...]:
    """One entry for each job that may run at a time on this machine."""
    gpus = () if execution.device == "cpu" else visible_gpus()
    if gpus:
        fitting = [gpus[i : i + cluster.processes] for i in range(0, len(gpus), cluster.processes)]
        found = [slot for slot in fitting if len(slot) == cluster.processes]
        if not found:
            raise ConfigError(f"cluster.processes {cluster.processes} exceeds the {len(gpus)} GPUs here; lower it")
        return tuple(found[: cluster.parallel] if cluster.parallel else found)
    cores = len(os.sched_getaffinity(0))
    return ((),) * (cluster.parallel or max(1, cores // (cluster.processes * execution.threads)))


def visible_gpus() -> tuple[int, ...]:
    """Indices of the GPUs that this process may use, without asking torch."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return tuple(int(index) for index in chosen.split(",") if index.strip().isdigit())
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(range(sum(line.startswith("GPU ") for line in listed.stdout.splitlines())))


def submit(job: Path, cluster: Cluster, slot: Slot, environment: Mapping[str, str]) -> Owner:
    """Start the job whose intent lies in the folder `job`; returns its process, also written to `submitted.json`."""
    import submitit

    from sweeper import worker_entry

    executor = submitit.LocalExecutor(folder=job / "submitit")
    executor.update_parameters(
        timeout_min=MONTH_MIN,
        tasks_per_node=cluster.processes,
        gpus_per_node=len(slot),
        visible_gpus=slot,
        stderr_to_stdout=True,
    )
    try:
        with _child_environment(environment), _ignoring_interrupts():
            started = executor.submit(worker_entry.run, str(job))
    except OSError as error:
        raise LaunchError(
            f"{job}: cannot be started ({error.strerror}); free space or memory, then launch again"
        ) from error
    owner = owner_of(int(started.job_id))
    write_submitted(job, owner)
    return owner


def terminate(owner: Owner) -> None:
    """Ask a job to stop: its workers write a checkpoint at the next step and end."""
    if owner.alive:
        os.kill(owner.pid, signal.SIGTERM)


def kill(owner: Owner) -> None:
    """End a job and all its processes at once."""
    if not owner.alive:
        return
    try:
        controller = psutil.Process(owner.pid)
        for process in [*controller.children(recursive=True), controller]:
            process.kill()
    except psutil.Error:
        return


def log_tail(job: Path, lines: int = 5) -> str:
    """The last lines that a job printed, for a message about why it died."""
    logs = sorted((job / "submitit").glob("*_log.out"))
    return "\n".join("\n".join(log.read_text(errors="replace").splitlines()[-lines:]) for log in logs)


@contextmanager
def _child_environment(extra: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(extra)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """Children started here ignore Ctrl-C of the terminal: the launcher asks them to stop in an orderly way."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
