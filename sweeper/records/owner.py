"""Who holds what: a process, by an identity that no other process shares."""

import socket
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where a process id means something: one boot of one machine, one namespace of pids."""

    host: str
    machine: str
    """/etc/machine-id; empty where there is none."""
    boot: str
    pid_namespace: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A process that may be asked whether it still lives."""

    at: Machine
    pid: int
    started: int
    """Clock ticks from the boot to its start: a recycled pid is another process, and no wall clock moves it."""
    time: float
    """When this was written down, seconds since the epoch."""

    @property
    def here(self) -> bool:
        """Whether this process can ask after it."""
        return self.at == this_machine()

    @property
    def rebooted(self) -> bool:
        """Whether its machine is this one, booted again since."""
        now = this_machine()
        same = bool(now.machine) and (self.at.machine, self.at.host) == (now.machine, now.host)
        return same and self.at.boot != now.boot

    @property
    def alive(self) -> bool:
        """Whether the process runs; only meaningful where it is `here`."""
        return started_at(self.pid) == self.started


@cache
def this_machine() -> Machine:
    """This machine, as `Owner` remembers it."""
    identity = Path("/etc/machine-id")
    return Machine(
        host=socket.gethostname(),
        machine=identity.read_text().strip() if identity.exists() else "",
        boot=Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        pid_namespace=str(Path("/proc/self/ns/pid").readlink()),
    )


def started_at(pid: int) -> int | None:
    """Clock ticks from the boot to the start of a process; None for one that is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()  # the name before it may hold spaces and brackets
    return None if state in "ZX" else int(fields[18])


def owner_of(pid: int) -> Owner:
    """The identity of a process of this machine.

    Raises:
        ProcessLookupError: There is none of this number.
    """
    started = started_at(pid)
    if started is None:
        raise ProcessLookupError(f"no process {pid}")
    return Owner(at=this_machine(), pid=pid, started=started, time=time.time())
