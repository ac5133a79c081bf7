"""A real SLURM cluster on this machine for tests: munge, slurmctld and several slurmd, started and stopped in seconds.

Needs root and Debian's packages munge, slurmctld, slurmd and slurm-client. Several nodes on one host are SLURM's own
"multiple slurmd" mode. Without an accounting database finished jobs are known from a text file (`sacct -c`).
"""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")
START_TIMEOUT_S = 60.0


def missing() -> str:
    """Why no cluster can be started here, in a clause; empty where one can."""
    if os.geteuid() != 0:
        return "a SLURM cluster for tests needs root"
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"not installed: {', '.join(absent)} (apt-get install munge slurmctld slurmd slurm-client)" if absent else ""


@dataclass(slots=True)
class SlurmCluster:
    """A running cluster; its commands are called with `environment`."""

    root: Path
    """Short: paths of Unix sockets are limited."""
    nodes: tuple[str, ...]
    environment: dict[str, str]
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def run(self, *command: str) -> str:
        """What a command of the cluster prints; its failure is an error with its message."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def start_controller(self) -> None:
        """Start slurmctld, again after it was killed."""
        self._start("slurmctld", "slurmctld", "-D", "-f", str(self.root / "slurm.conf"))

    def start_node(self, name: str) -> None:
        """Start the slurmd of a node, again after it was killed."""
        self._start(name, "slurmd", "-D", "-N", name, "-f", str(self.root / "slurm.conf"))

    def kill(self, daemon: str) -> None:
        """Kill slurmctld or the slurmd of a node without a word."""
        self.daemons[daemon].kill()
        self.daemons[daemon].wait()

    def ready(self) -> bool:
        """Whether every node waits for work."""
        try:
            states = self.run("sinfo", "--noheader", "--Node", "--format=%T").split()
        except RuntimeError:
            return False
        return len(states) == len(self.nodes) and set(states) == {"idle"}

    def _start(self, name: str, *command: str) -> None:
        with (self.root / f"{name}.out").open("ab") as output:
            self.daemons[name] = subprocess.Popen(command, env=self.environment, stdout=output, stderr=output)


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = START_TIMEOUT_S) -> None:
    """Poll until a condition holds.

    Raises:
        TimeoutError: It does not within the time.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {timeout_s:.0f} s")
        time.sleep(0.1)


@contextmanager
def slurm_cluster(nodes: int = 2, cpus: int = 8, max_array_size: int = 11) -> Iterator[SlurmCluster]:
    """A cluster of `nodes` nodes of `cpus` CPUs each (more than there really are: SLURM is told to believe it)."""
    root = Path(tempfile.mkdtemp(prefix="sl", dir="/tmp"))  # short, and private
    names = tuple(f"n{i + 1}" for i in range(nodes))
    environment = {**os.environ, "SLURM_CONF": str(root / "slurm.conf")}
    cluster = SlurmCluster(root=root, nodes=names, environment=environment)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, root, ignore_errors=True)
        stack.callback(_stop, cluster)
        _start_munge(cluster)
        (root / "slurm.conf").write_text(_configuration(root, names, cpus, max_array_size))
        for folder in ("state", *(f"spool-{name}" for name in names)):
            (root / folder).mkdir()
        cluster.start_controller()
        for name in names:
            cluster.start_node(name)
        wait_until(cluster.ready, "the cluster")
        yield cluster


def _start_munge(cluster: SlurmCluster) -> None:
    root = cluster.root
    subprocess.run(["mungekey", "--create", f"--keyfile={root}/key"], check=True, capture_output=True)
    files = {"key-file": "key", "socket": "m.sock", "pid-file": "m.pid", "log-file": "m.log", "seed-file": "m.seed"}
    options = [f"--{option}={root / name}" for option, name in files.items()]
    cluster._start("munged", "munged", "--foreground", "--force", "--num-threads=2", *options)
    wait_until((root / "m.sock").exists, "munge's socket")


def _stop(cluster: SlurmCluster) -> None:
    """Stop the daemons by their own pids, newest first."""
    for daemon in reversed(tuple(cluster.daemons.values())):
        daemon.terminate()
        try:
            daemon.wait(timeout=10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def _configuration(root: Path, names: Sequence[str], cpus: int, max_array_size: int) -> str:
    host = socket.gethostname().split(".")[0]
    controller, *ports = _free_ports(1 + len(names))
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=16000"
        for name, port in zip(names, ports, strict=True)
    )
    return f"""\
ClusterName=toy
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
# cred_expire also sets how long a requeued job waits: 120 s by default.
AuthInfo=socket={root}/m.sock,cred_expire=5
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool-%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=1,batch_sched_delay=0
JobCompType=jobcomp/filetxt
JobCompLoc={root}/jobcomp.txt
JobRequeue=1
MaxArraySize={max_array_size}
ReturnToService=2
KillWait=5
SlurmctldTimeout=5
SlurmdTimeout=6
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def _free_ports(number: int) -> list[int]:
    """Ports that nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
