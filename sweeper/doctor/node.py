"""Inside a job: what its nodes and processes see, written down for `doctor`, who waits outside.

`python -m sweeper.doctor.node batch FOLDER` is the batch step, which starts `… task FOLDER` as a run's processes are
started; `… torch` prints what torch says of this machine. Facts are written after each step: what hangs says where.
"""

import fcntl
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from sweeper.doctor.packages import TorchFacts
from sweeper.records import JobFile, read_job, write_json
from sweeper.slurm import SlurmError, requeue
from sweeper.supervisor import described, free_port, step_environment, step_words, tail
from sweeper.typed import plain

STEP_TIMEOUT_S = 420.0
"""For all processes together: two cold imports of torch are most of it."""
PEER_TIMEOUT_S = 60.0
PING_TIMEOUT_S = 60.0
REQUEUE_S = 60.0
MESSAGE_MIB = 64
"""Size of the tensor whose sum over GPUs is timed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFacts:
    """What the batch step saw."""

    host: str
    node: str
    finds_file: bool
    """Whether a file that was written outside is there."""
    step_code: int | None = None
    """Exit code of the processes; None while they run."""
    said: str = ""
    """Their last lines, where they ended badly."""
    requeue_error: str = ""
    """Why the job could not requeue itself."""
    asks_requeue: bool = False
    """Whether it is about to do so, or has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What one process of the job saw; text is empty, and a time None, where it has not come that far."""

    rank: int
    world: int
    node: str
    host: str
    python: str
    executable: str
    cpus: int
    """Cores that it may use."""
    gpus: str
    """CUDA_VISIBLE_DEVICES."""
    lock_shared: bool | None = None
    """Whether a lock that is held outside keeps it out; None where there are no locks."""
    torch: TorchFacts | None = None
    address: str = ""
    """What the name of the first node resolves to."""
    name_error: str = ""
    tcp_s: float | None = None
    tcp_error: str = ""
    gloo_s: float | None = None
    gloo_error: str = ""
    nccl_s: float | None = None
    nccl_error: str = ""
    done: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Pong:
    """The answer to a file that was written outside while the job ran."""

    time: float
    """By the clock of the node, seconds since the epoch."""


def batch(folder: Path) -> int:
    """Start the processes, then requeue this job; started again, it ends."""
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # the warning before the time limit, which is short
    if os.environ.get("SLURM_RESTART_COUNT", "0") != "0":
        write_json(folder / "restarted.json", {})
        return 0
    facts = BatchFacts(
        host=socket.gethostname(),
        node=os.environ.get("SLURMD_NODENAME", ""),
        finds_file=(folder / "mark").exists(),
    )
    write_json(folder / "batch.json", facts)
    code, said = _step(folder, read_job(folder))
    facts = replace(facts, step_code=code, said=said)
    write_json(folder / "batch.json", replace(facts, asks_requeue=True))
    try:
        requeue(os.environ["SLURM_JOB_ID"])
    except SlurmError as error:
        write_json(folder / "batch.json", replace(facts, requeue_error=str(error)))
        return 0
    time.sleep(REQUEUE_S)  # SLURM ends this job now
    return 0


def _step(folder: Path, job: JobFile) -> tuple[int, str]:
    output = folder / "step.log"
    words = [*step_words(job), "sweeper.doctor.node", "task", str(folder)]
    environment = {**step_environment(job), "SWEEPER_DOCTOR_PORT": str(free_port())}
    with output.open("ab") as log:
        try:
            done = subprocess.run(
                words, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, timeout=STEP_TIMEOUT_S
            )
        except FileNotFoundError:
            return 127, f"{words[0]} is not installed on the node"
        except subprocess.TimeoutExpired:
            return 124, f"not done within {STEP_TIMEOUT_S:.0f} s"
    return done.returncode, f"{tail(output)}\n{described(done.returncode)}" if done.returncode else ""


def task(folder: Path) -> None:
    """What one process sees: the folder, torch, the other processes."""
    environment = os.environ
    facts = NodeFacts(
        rank=int(environment.get("SLURM_PROCID", "0")),
        world=int(environment.get("SLURM_NTASKS", "1")),
        node=environment.get("SLURMD_NODENAME", ""),
        host=socket.gethostname(),
        python=sys.version.split()[0],
        executable=sys.executable,
        cpus=len(os.sched_getaffinity(0)),
        gpus=environment.get("CUDA_VISIBLE_DEVICES", ""),
        lock_shared=_is_kept_out(folder / "lock"),
    )
    _write(folder, facts)
    if facts.rank == 0:
        _answer(folder)
    facts = replace(facts, torch=torch_facts())
    _write(folder, facts)
    if facts.world > 1:
        facts = _reach_first_node(facts)
        _write(folder, facts)
        facts = _sum_over_processes(folder, facts)
    _write(folder, replace(facts, done=True))


def _write(folder: Path, facts: NodeFacts) -> None:
    write_json(folder / f"node-{facts.rank}.json", facts)


def _is_kept_out(path: Path) -> bool | None:
    try:
        with path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


def _answer(folder: Path) -> None:
    """Write `pong.json` as soon as `ping` is seen."""
    deadline = time.monotonic() + PING_TIMEOUT_S
    while time.monotonic() < deadline:
        if (folder / "ping").exists():
            write_json(folder / "pong.json", Pong(time=time.time()))
            return
        time.sleep(0.1)


def torch_facts() -> TorchFacts:
    """What torch says of itself and the GPUs here; whether it can be imported at all is part of the question."""
    driver = nvidia_driver()
    try:
        torch = importlib.import_module("torch")
    except Exception as error:  # a broken installation raises what it will
        return TorchFacts(error=f"{type(error).__name__}: {error}"[:500], driver=driver)
    available = bool(torch.cuda.is_available())
    count = torch.cuda.device_count() if available else 0
    return TorchFacts(
        version=str(torch.__version__),
        cuda=str(torch.version.cuda or torch.version.hip or ""),
        available=available,
        devices=tuple(torch.cuda.get_device_name(i) for i in range(count)),
        memory_gib=torch.cuda.get_device_properties(0).total_memory / 2**30 if count else 0.0,
        driver=driver,
    )


def nvidia_driver() -> str:
    """The version of NVIDIA's driver; empty where there is none, or no GPU."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = done.stdout.split()
    return lines[0] if done.returncode == 0 and lines else ""


def _reach_first_node(facts: NodeFacts) -> NodeFacts:
    """A name and a port of the first node, which the processes of a run meet by."""
    name, port = os.environ["MASTER_ADDR"], int(os.environ["SWEEPER_DOCTOR_PORT"])
    if facts.rank == 0:
        return _listen(facts, port)
    try:
        address = str(socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        return replace(facts, name_error=f"{name}: {error.strerror or error}")
    facts = replace(facts, address=address)
    start, deadline = time.monotonic(), time.monotonic() + PEER_TIMEOUT_S
    while True:
        try:
            with socket.create_connection((name, port), timeout=5.0) as connection:
                connection.sendall(b"!")
            return replace(facts, tcp_s=time.monotonic() - start)
        except OSError as error:
            if time.monotonic() > deadline:
                return replace(facts, tcp_error=f"{name} ({address}) port {port}: {error.strerror or error}")
            time.sleep(0.2)  # it may not listen yet


def _listen(facts: NodeFacts, port: int) -> NodeFacts:
    waiting = facts.world - 1
    deadline = time.monotonic() + PEER_TIMEOUT_S + 5.0
    with socket.create_server(("", port), backlog=facts.world) as server:
        server.settimeout(1.0)
        while waiting and time.monotonic() < deadline:
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            with connection:
                waiting -= 1
    return facts


def _sum_over_processes(folder: Path, facts: NodeFacts) -> NodeFacts:
    """A sum over all processes by gloo, then over their GPUs by NCCL."""
    if facts.torch is None or not facts.torch.version:
        return facts
    torch = importlib.import_module("torch")
    dist = importlib.import_module("torch.distributed")
    limit = timedelta(seconds=PEER_TIMEOUT_S)
    try:
        start = time.monotonic()
        dist.init_process_group("gloo", rank=facts.rank, world_size=facts.world, timeout=limit)
        _check_sum(torch, dist, facts.world, "cpu", None)
        facts = replace(facts, gloo_s=time.monotonic() - start)
    except Exception as error:  # of any of torch's many kinds
        return replace(facts, gloo_error=_said(error))
    _write(folder, facts)
    if facts.torch is not None and facts.torch.devices:
        try:
            device = f"cuda:{int(os.environ.get('SLURM_LOCALID', '0')) % len(facts.torch.devices)}"
            torch.cuda.set_device(device)
            group = dist.new_group(backend="nccl", timeout=limit)
            _check_sum(torch, dist, facts.world, device, group)  # sets the connections up
            start = time.monotonic()
            _check_sum(torch, dist, facts.world, device, group)
            facts = replace(facts, nccl_s=time.monotonic() - start)
        except Exception as error:
            facts = replace(facts, nccl_error=_said(error))
    dist.destroy_process_group()
    return facts


def _check_sum(torch: Any, dist: Any, world: int, device: str, group: Any) -> None:
    ones = torch.ones(MESSAGE_MIB * 2**18 if device != "cpu" else 1024, device=device)
    dist.all_reduce(ones, group=group)
    found = float(ones[-1].item())
    if found != world:
        raise RuntimeError(f"the sum of a one from each of {world} processes is {found}")


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


def main(arguments: list[str]) -> int:
    """The command line of this module."""
    if arguments[0] == "torch":
        print(json.dumps(plain(torch_facts())))
        return 0
    folder = Path(arguments[1])
    if arguments[0] == "batch":
        return batch(folder)
    task(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
