"""What SLURM says of a cluster: its settings, partitions, nodes and what this user may do, as typed values."""

import os
import pwd
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from sweeper.slurm import Settings, SlurmError, call, read_settings

TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A partition, as `scontrol show partition` describes it."""

    name: str
    default: bool = False
    state: str = "UP"
    max_time_min: int | None = None
    """None for no limit."""
    max_nodes: int | None = None
    """Of one job; None for no limit."""
    nodes: int = 1
    preempt_mode: str = "OFF"
    grace_s: int = 0
    """Between the warning of a preemption and its kill."""
    accounts: tuple[str, ...] = ()
    """Those that may use it; empty for all."""
    qos: tuple[str, ...] = ()
    """Those that it takes; empty for all."""
    memory_default: tuple[str, int] | None = None
    """What jobs that ask for no memory get by the partition's own word: DefMemPerCPU, …PerGPU or …PerNode, and MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node of a partition, as sinfo lists it."""

    name: str
    partition: str
    cpus: int
    memory_mib: int
    gpus: int
    state: str

    @property
    def usable(self) -> bool:
        """Whether it may take jobs now or after those that it has."""
        return not re.match(r"(down|drain|fail|unk|inval|future)", self.state) and not self.state.endswith("*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """What this user may do, by the accounting database; empty tuples where it says nothing."""

    accounts: tuple[str, ...] = ()
    qos: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """All that is asked of a cluster."""

    settings: Settings
    answer_s: float
    """How long the controller took for it, the median of a few."""
    partitions: tuple[Partition, ...]
    nodes: tuple[Node, ...]

    def partition(self, name: str) -> Partition | None:
        """A partition by its name; the default one for an empty name."""
        return next((p for p in self.partitions if (p.name == name if name else p.default)), None)


def read_site() -> Site:
    """Ask the controller.

    Raises:
        SlurmError: It does not answer.
    """
    times = []
    for _ in range(3):
        start = time.perf_counter()
        settings = read_settings()
        times.append(time.perf_counter() - start)
    return Site(
        settings=settings,
        answer_s=median(times),
        partitions=read_partitions(call("scontrol", "show", "partition", "--oneliner", timeout_s=TIMEOUT_S)),
        nodes=read_nodes(
            call("sinfo", "--noheader", "--Node", "--format=%N|%P|%c|%m|%G|%T", timeout_s=TIMEOUT_S),
        ),
    )


def read_partitions(text: str) -> tuple[Partition, ...]:
    """The partitions of `scontrol show partition --oneliner`."""
    found = []
    for line in text.splitlines():
        values = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if "PartitionName" not in values:
            continue
        found.append(
            Partition(
                name=values["PartitionName"],
                default=values.get("Default") == "YES",
                state=values.get("State", "UP"),
                max_time_min=minutes(values.get("MaxTime", "")),
                max_nodes=number(values.get("MaxNodes", "")),
                nodes=number(values.get("TotalNodes", "")) or 0,
                preempt_mode=values.get("PreemptMode", "OFF"),
                grace_s=number(values.get("GraceTime", "")) or 0,
                accounts=_listed(values.get("AllowAccounts", "")),
                qos=_listed(values.get("AllowQos", "")),
                memory_default=memory_default(values),
            )
        )
    return tuple(found)


def memory_default(values: Mapping[str, str]) -> tuple[str, int] | None:
    """What jobs that ask for no memory get by the settings of a partition, or of the cluster; None if nothing special.

    >>> memory_default({"DefMemPerNode": "UNLIMITED"}), memory_default({"DefMemPerCPU": "4000"})
    (None, ('DefMemPerCPU', 4000))
    """
    sizes = ((name, number(values.get(name, ""))) for name in ("DefMemPerGPU", "DefMemPerCPU", "DefMemPerNode"))
    return next(((name, size) for name, size in sizes if size), None)


def read_nodes(text: str) -> tuple[Node, ...]:
    """The lines of `sinfo --Node --format=%N|%P|%c|%m|%G|%T`; a node in two partitions has two."""
    found = []
    for line in text.splitlines():
        parts = line.split("|")
        if len(parts) != 6:
            continue
        name, partition, cpus, memory, gres, state = parts
        found.append(
            Node(
                name=name,
                partition=partition.rstrip("*"),
                cpus=number(cpus) or 0,
                memory_mib=number(memory) or 0,
                gpus=gpus(gres),
                state=state,
            )
        )
    return tuple(found)


def read_rights(settings: Settings) -> Rights:
    """The accounts and QOS of this user; nothing where no database keeps them.

    Raises:
        SlurmError: The database does not answer.
    """
    if not settings.accounting:
        return Rights()
    user = pwd.getpwuid(os.getuid()).pw_name
    text = call("sacctmgr", "--noheader", "--parsable2", "show", "associations", f"user={user}", "format=Account,QOS")
    pairs = [line.split("|") for line in text.splitlines() if line.count("|") == 1]
    qos = dict.fromkeys(name for _, names in pairs for name in names.split(",") if name)
    return Rights(accounts=tuple(dict.fromkeys(account for account, _ in pairs)), qos=tuple(qos))


def has_reservation(name: str) -> bool:
    """Whether SLURM knows a reservation.

    Raises:
        SlurmError: The controller does not answer.
    """
    try:
        return f"ReservationName={name} " in call("scontrol", "show", "reservation", name, "--oneliner") + " "
    except SlurmError as error:
        if "not found" in str(error):
            return False
        raise


def minutes(text: str) -> int | None:
    """A limit of SLURM in minutes; None for none.

    >>> minutes("2-12:30:00"), minutes("00:30:00"), minutes("UNLIMITED")
    (3630, 30, None)
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+)(?::(\d+))?", text)
    if match is None:
        return None
    days, hours, mins, _ = (int(part or 0) for part in match.groups())
    return 1440 * days + 60 * hours + mins


def number(text: str) -> int | None:
    """The whole number that a text of SLURM begins with; None where it begins with none.

    >>> number("30 sec"), number("UNLIMITED"), number("16000+")
    (30, None, 16000)
    """
    match = re.match(r"\d+", text)
    return int(match[0]) if match else None


def gpus(gres: str) -> int:
    """The GPUs of a list of generic resources.

    >>> gpus("gpu:h100:8(S:0-1),shard:4"), gpus("gpu:a100:2,gpu:v100:2"), gpus("(null)"), gpus("gpu:4")
    (8, 4, 0, 4)
    """
    found = re.findall(r"(?:^|,)gpu(?::[^:,(]+)?:(\d+)", gres)
    return sum(int(count) for count in found)


def _listed(text: str) -> tuple[str, ...]:
    return () if text in ("", "ALL", "(null)", "N/A") else tuple(text.split(","))
