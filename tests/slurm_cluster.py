"""A real SLURM cluster on this machine for tests: munge, slurmctld and several slurmd, started and stopped in seconds.

Needs root and Debian's packages munge, slurmctld, slurmd and slurm-client. Several nodes on one host are SLURM's own
"multiple slurmd" mode; each has a host name and processes of its own (Linux namespaces), so that a node can be switched
off, and what runs on it cannot be asked from outside: as between real machines. Without an accounting database finished
jobs are known from a text file (`sacct -c`).
"""

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "unshare", "nsenter")
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
    """`munged`, `slurmctld`, and each node's slurmd by the node's name."""
    machines: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    """The namespaces of each node; their first process."""

    @property
    def disk(self) -> Path:
        """A small disk of its own that all nodes see."""
        return self.root / "disk"

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
        """Start the slurmd of a node, again after it was killed, on a machine that is switched on if it was off."""
        if name not in self.machines:
            self._switch_on(name)
        inside = ("nsenter", f"--target={_child(self.machines[name].pid).pid}", "--mount", "--uts", "--pid")
        self._start(name, *inside, "slurmd", "-D", "-N", name, "-f", str(self.root / "slurm.conf"))

    def kill(self, daemon: str) -> None:
        """Kill slurmctld or the slurmd of a node without a word; jobs go on."""
        self.process(daemon).kill()
        self.daemons[daemon].wait()

    def switch_off(self, name: str) -> None:
        """End everything on a node at once, as a power cut does."""
        _child(self.machines[name].pid).kill()  # the first process of a pid namespace takes all others with it
        self.machines.pop(name).wait()
        self.daemons[name].wait()

    def process(self, daemon: str) -> psutil.Process:
        """The process of a daemon."""
        started = self.daemons[daemon].pid
        return _child(started) if daemon in self.nodes else psutil.Process(started)

    def processes(self, *words: str) -> list[psutil.Process]:
        """Processes on the nodes whose command line holds all of these words."""
        found = []
        for machine in self.machines.values():
            for process in psutil.Process(machine.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    line = " ".join(process.cmdline())
                    if all(word in line for word in words):
                        found.append(process)
        return found

    @contextmanager
    def deaf(self) -> Iterator[None]:
        """slurmctld takes requests and answers none, until the block ends: then it carries out what came meanwhile."""
        controller = self.process("slurmctld")
        controller.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            controller.send_signal(signal.SIGCONT)

    def ready(self) -> bool:
        """Whether every node waits for work."""
        try:
            states = self.run("sinfo", "--noheader", "--Node", "--format=%T", "--partition=main").split()
        except RuntimeError:
            return False
        return len(states) == len(self.nodes) and set(states) == {"idle"}

    def _switch_on(self, name: str) -> None:
        # The shell is the first process of the node and so inherits, and reaps, what loses its parent there.
        script = f"hostname {name} && mount --bind {self.root}/hosts /etc/hosts && while :; do sleep 1000 & wait; done"
        words = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script]
        with (self.root / f"{name}.out").open("ab") as output:
            self.machines[name] = subprocess.Popen(words, stdout=output, stderr=output)
        pid = self.machines[name].pid
        wait_until(lambda: bool(psutil.Process(pid).children()), f"the start of {name}")
        wait_until(lambda: bool(_child(pid).children()), f"the start of {name}")

    def _start(self, name: str, *command: str) -> None:
        with (self.root / f"{name}.out").open("ab") as output:
            self.daemons[name] = subprocess.Popen(command, env=self.environment, stdout=output, stderr=output)


def _child(pid: int) -> psutil.Process:
    """The one process that a process started."""
    (child,) = psutil.Process(pid).children()
    return child


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
def slurm_cluster(
    nodes: int = 2,
    cpus: int = 8,
    max_array_size: int = 11,
    *,
    gpus: int = 0,
    settings: Mapping[str, str | int] | None = None,
    grace_s: int = 0,
    disk_mib: int = 8,
) -> Iterator[SlurmCluster]:
    """A cluster of `nodes` nodes of `cpus` CPUs each (more than there really are: SLURM is told to believe it).

    Jobs of the partition `main` (the default one) are requeued when one of `urgent` needs their place.

    Args:
        gpus: Of each node; device files that compute nothing.
        settings: Lines of slurm.conf that differ from ours.
        grace_s: What a job gets between the signal that it is preempted and its end.
        disk_mib: Size of `SlurmCluster.disk`.
    """
    root = Path(tempfile.mkdtemp(prefix="sl", dir="/tmp"))  # short, and private
    names = tuple(f"n{i + 1}" for i in range(nodes))
    environment = {**os.environ, "SLURM_CONF": str(root / "slurm.conf")}
    cluster = SlurmCluster(root=root, nodes=names, environment=environment)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, root, ignore_errors=True)
        cluster.disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={disk_mib}m", "tmpfs", str(cluster.disk)], check=True)
        stack.callback(subprocess.run, ["umount", "--lazy", str(cluster.disk)], check=False)
        stack.callback(_stop, cluster)
        _start_munge(cluster)
        (root / "slurm.conf").write_text(
            _configuration(root, names, cpus, max_array_size, gpus, settings or {}, grace_s)
        )
        (root / "hosts").write_text(f"127.0.0.1 localhost {socket.gethostname()} {' '.join(names)}\n")
        if gpus:
            for number in range(gpus):
                os.mknod(root / f"gpu{number}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
            (root / "gres.conf").write_text(f"Name=gpu File={root}/gpu[0-{gpus - 1}]\n")
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
    """Switch the nodes off, then stop the other daemons by their own pids, newest first."""
    for name in tuple(cluster.machines):
        cluster.switch_off(name)
    for daemon in reversed(tuple(cluster.daemons.values())):
        daemon.terminate()
        try:
            daemon.wait(timeout=10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def _configuration(
    root: Path,
    names: Sequence[str],
    cpus: int,
    max_array_size: int,
    gpus: int,
    settings: Mapping[str, str | int],
    grace_s: int,
) -> str:
    host = socket.gethostname().split(".")[0]
    controller, *ports = _free_ports(1 + len(names))
    gres = f" Gres=gpu:{gpus}" if gpus else ""
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={name} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=16000{gres}"
        for name, port in zip(names, ports, strict=True)
    )
    values: dict[str, str | int] = {
        "ClusterName": "toy",
        "SlurmctldHost": f"{host}(127.0.0.1)",
        "SlurmctldPort": controller,
        "SlurmUser": "root",
        "SlurmdUser": "root",
        "AuthType": "auth/munge",
        "CryptoType": "crypto/munge",
        # cred_expire also sets how long a requeued job waits: 120 s by default.
        "AuthInfo": f"socket={root}/m.sock,cred_expire=5",
        "StateSaveLocation": f"{root}/state",
        "SlurmdSpoolDir": f"{root}/spool-%n",
        "SlurmctldPidFile": f"{root}/slurmctld.pid",
        "SlurmdPidFile": f"{root}/slurmd-%n.pid",
        "SlurmctldLogFile": f"{root}/slurmctld.log",
        "SlurmdLogFile": f"{root}/slurmd-%n.log",
        "SlurmdParameters": "config_overrides",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "MpiDefault": "none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_CPU_Memory",
        "DefMemPerCPU": 100,  # else a job takes all memory of its node, and no other finds a place there
        "SchedulerParameters": "sched_interval=1,batch_sched_delay=0",
        "JobCompType": "jobcomp/filetxt",
        "JobCompLoc": f"{root}/jobcomp.txt",
        "JobRequeue": 1,
        "MaxArraySize": max_array_size,
        "ReturnToService": 2,
        "KillWait": 5,
        "MessageTimeout": 5,
        "SlurmctldTimeout": 5,
        "SlurmdTimeout": 6,
        "PreemptType": "preempt/partition_prio",
        "PreemptMode": "REQUEUE",
        **({"GresTypes": "gpu"} if gpus else {}),
        **settings,
    }
    lines = "\n".join(f"{name}={value}" for name, value in values.items())
    return f"""\
{lines}
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime={grace_s}
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
"""


def _free_ports(number: int) -> list[int]:
    """Ports that nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
