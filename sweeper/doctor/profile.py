"""A profile against the cluster that it is for; pure."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from sweeper.doctor.finding import Finding, ok, problem, warning
from sweeper.doctor.site import Node, Partition, Rights, Site, memory_default, number
from sweeper.slurm import Settings
from sweeper.spec import Cluster, Slurm
from sweeper.typed import did_you_mean

OLDEST = (20, 11)
"""The first Slurm whose `srun --overlap` lets runs share a node within a job."""
SLOW_CONTROLLER_S, SLOW_DATABASE_S = 5.0, 10.0
LEAST_GIB = 1.0
"""Of a process: Python with PyTorch 2.13 alone takes 0.2 on a CPU, and a CUDA context several times that."""
KILL_WAIT_S = 30
"""SLURM's own default; a checkpoint of some gigabytes is written by then."""


def site_findings(site: Site) -> Iterator[Finding]:
    """The cluster by itself, whoever uses it."""
    settings = site.settings
    yield judge_version(settings.values.get("SLURM_VERSION", ""))
    yield judge_controller(settings.cluster, site.answer_s)
    yield judge_array_size(settings)
    yield judge_accounting(settings)
    yield judge_requeue(settings)
    yield judge_kill_wait(settings)


def profile_findings(cluster: Cluster, site: Site, rights: Rights, *, reserved: bool) -> Iterator[Finding]:
    """What a profile asks for against what there is.

    Args:
        reserved: Whether the reservation that it names exists.
    """
    slurm = cluster.slurm
    names = [name.strip() for name in slurm.partition.split(",")]
    for name in names:
        partition = site.partition(name)
        if partition is None:
            yield _no_partition(name, site)
            continue
        nodes = tuple(node for node in site.nodes if node.partition == partition.name)
        found = [
            judge_partition(partition, nodes),
            judge_time(slurm, partition),
            judge_nodes(slurm, partition, nodes),
            judge_gpus(slurm, nodes),
            judge_cpus(slurm, nodes),
            judge_memory(slurm, partition, nodes, site.settings),
            judge_preemption(partition, site.settings),
        ]
        several = f" of {partition.name}" if len(names) > 1 else ""
        yield from (replace(each, probe=each.probe + several) for each in found)
        yield judge_choice("account", slurm.account, rights.accounts, partition.accounts, partition.name)
        yield judge_choice("qos", slurm.qos, rights.qos, partition.qos, partition.name)
    if slurm.reservation:
        yield judge_reservation(slurm.reservation, exists=reserved)


# ── the cluster ────────────────────────────────────────────────────────────────────────────────────────────────────


def judge_version(text: str) -> Finding:
    """Whether SLURM is new enough."""
    parts = tuple(int(part) for part in re.findall(r"\d+", text)[:2])
    if parts and parts < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        return warning("slurm", "version", f"older than {oldest}, untried", "do not pack runs: exclusive=false", text)
    return ok("slurm", "version", f"Slurm {text or 'of an unknown version'}", text)


def judge_controller(cluster: str, answer_s: float) -> Finding:
    """Whether the controller answers in good time."""
    value = f"{cluster}, {1e3 * answer_s:.0f} ms"
    if answer_s > SLOW_CONTROLLER_S:
        remedy = "ask less often: one status a minute is plenty; tell the administrators"
        return warning("slurm", "controller", "answers slowly", remedy, value)
    return ok("slurm", "controller", f"the controller of {cluster} answers", value)


def judge_array_size(settings: Settings) -> Finding:
    """How many runs go into one array, and how many jobs the cluster holds."""
    size, most = settings.max_array_size, settings.values.get("MaxJobCount", "")
    value = f"MaxArraySize {size}, MaxJobCount {most or 'unknown'}"
    if size < 2:
        return problem("slurm", "arrays", "arrays are switched off", "ask the administrators for MaxArraySize", value)
    return ok("slurm", "arrays", f"larger sweeps are submitted in parts of {size - 1}", value)


def judge_accounting(settings: Settings) -> Finding:
    """Whether ended jobs are remembered."""
    kind = settings.values.get("AccountingStorageType", "")
    if settings.accounting:
        return ok("slurm", "accounting", "ended jobs are remembered", kind)
    kept = settings.values.get("MinJobAge", "some minutes")
    says = f"no database: how a job ended is known for {kept} only, then from what it wrote itself"
    return warning("slurm", "accounting", says, "none is needed; run `sweeper tend` or a keeper while jobs end", kind)


def judge_database(answer_s: float) -> Finding:
    """Whether accounting answers in good time."""
    value = f"{answer_s:.1f} s"
    if answer_s > SLOW_DATABASE_S:
        return warning("slurm", "sacct", "answers slowly", "let a keeper tend the sweep instead of a loop", value)
    return ok("slurm", "sacct", "answers", value)


def judge_requeue(settings: Settings) -> Finding:
    """Whether jobs are put back into the queue by default; ours ask for it."""
    value = f"JobRequeue {settings.values.get('JobRequeue', 'unknown')}"
    says = "jobs are requeued after a lost node" if value.endswith("1") else "only jobs that ask are requeued; ours do"
    return ok("slurm", "JobRequeue", says, value)


def judge_kill_wait(settings: Settings) -> Finding:
    """Whether the time between the request to stop and the kill is enough for a checkpoint."""
    seconds = number(settings.values.get("KillWait", "")) or 0
    value = f"{seconds} s"
    if seconds < KILL_WAIT_S:
        says = "between SIGTERM and SIGKILL, at a cancel, a preemption or the time limit; large checkpoints take longer"
        remedy = "keep cluster.slurm.signal_s well above a checkpoint's time, and execution.checkpoint.every_s short"
        return warning("slurm", "KillWait", says, remedy, value)
    return ok("slurm", "KillWait", "between SIGTERM and SIGKILL", value)


# ── the profile ────────────────────────────────────────────────────────────────────────────────────────────────────


def _no_partition(name: str, site: Site) -> Finding:
    known = [partition.name for partition in site.partitions]
    if not name:
        remedy = f"set cluster.slurm.partition to one of {', '.join(known)}"
        return problem("profile", "partition", "the cluster has no default partition", remedy)
    remedy = f"set cluster.slurm.partition: {did_you_mean(name, known)}"
    return problem("profile", "partition", f"no partition {name!r}", remedy, name)


def judge_partition(partition: Partition, nodes: Sequence[Node]) -> Finding:
    """Whether a partition takes jobs."""
    usable = sum(node.usable for node in nodes)
    value = f"{partition.name}, {usable} of {len(nodes)} nodes in service"
    if partition.state != "UP":
        return problem("profile", "partition", f"it is {partition.state}", "wait, or choose another partition", value)
    if not usable:
        return problem("profile", "partition", "no node is in service", "see sinfo -R for the reasons", value)
    return ok("profile", "partition", "takes jobs", value)


def judge_time(slurm: Slurm, partition: Partition) -> Finding:
    """Whether the time limit is within the partition's."""
    most = partition.max_time_min
    value = f"{slurm.time_min} min, the partition's {'none' if most is None else f'{most} min'}"
    if most is not None and slurm.time_min > most:
        says = "jobs would wait for ever with the reason PartitionTimeLimit, or be refused"
        return problem("profile", "time limit", says, f"set cluster.slurm.time_min={most}", value)
    return ok("profile", "time limit", "within the partition's", value)


def judge_nodes(slurm: Slurm, partition: Partition, nodes: Sequence[Node]) -> Finding:
    """Whether as many nodes as a run may take can be had."""
    most = min(len(nodes), partition.max_nodes if partition.max_nodes is not None else len(nodes))
    value = f"{slurm.nodes} for a run, of {most}"
    if slurm.nodes > most:
        says = "a run could ask for more nodes than a job may have"
        return problem("profile", "nodes", says, f"set cluster.slurm.nodes={max(1, most)}", value)
    return ok("profile", "nodes", "as many as a run may take can be had", value)


def judge_gpus(slurm: Slurm, nodes: Sequence[Node]) -> Finding:
    """Whether nodes have the GPUs that are asked for, and say so in the way that they are asked."""
    most = max((node.gpus for node in nodes), default=0)
    value = f"{slurm.gpus_per_node} asked, {most} declared"
    if slurm.gpus_per_node == 0:
        if most and slurm.gpu_request != "none":
            says = "the nodes have GPUs, and the profile asks for none: runs train on CPUs"
            return warning("profile", "GPUs", says, f"set cluster.slurm.gpus_per_node={most}", value)
        return ok("profile", "GPUs", "none asked for", value)
    if slurm.gpu_request == "none":
        if slurm.exclusive:
            return ok("profile", "GPUs", "they come with the whole node", value)
        says = "GPUs are neither asked for nor do nodes come whole: jobs may share the same GPU"
        return warning("profile", "GPUs", says, "set cluster.slurm.exclusive=true, or gpu_request=gres", value)
    if most == 0:
        says = "no node declares GPUs (gres), so SLURM refuses such jobs"
        remedy = "choose a partition with GPUs, or set cluster.slurm.gpu_request=none with exclusive=true"
        return problem("profile", "GPUs", says, remedy, value)
    if slurm.gpus_per_node > most:
        says = "more than any node has"
        return problem("profile", "GPUs", says, f"set cluster.slurm.gpus_per_node={most}", value)
    if slurm.gpus_per_node < most and slurm.exclusive:
        says = "nodes come whole, and some of their GPUs would idle"
        return warning("profile", "GPUs", says, f"set cluster.slurm.gpus_per_node={most}", value)
    return ok("profile", "GPUs", "nodes have them", value)


def judge_cpus(slurm: Slurm, nodes: Sequence[Node]) -> Finding:
    """Whether the CPUs of all processes of a node are there."""
    most, needed = max((node.cpus for node in nodes), default=0), slurm.cpus_per_process * slurm.processes_per_node
    value = f"{slurm.processes_per_node} × {slurm.cpus_per_process} asked, {most} there"
    if needed > most:
        remedy = f"set cluster.slurm.cpus_per_process={max(1, most // slurm.processes_per_node)}"
        return problem("profile", "CPUs", "no node holds as many processes as it has places", remedy, value)
    return ok("profile", "CPUs", "a node holds its processes", value)


def judge_memory(slurm: Slurm, partition: Partition, nodes: Sequence[Node], settings: Settings) -> Finding:
    """Whether the memory of all processes of a node is there, and whether jobs can share one."""
    most = max((node.memory_mib for node in nodes), default=0) / 1024
    needed = slurm.mem_gib * slurm.processes_per_node
    value = f"{slurm.processes_per_node} × {slurm.mem_gib:g} GiB asked, {most:.0f} there"
    fair = int(most / slurm.processes_per_node)
    if needed > most:
        says = "no node holds as many processes as it has places"
        return problem("profile", "memory", says, f"set cluster.slurm.mem_gib={fair}", value)
    counted = "MEMORY" in settings.values.get("SelectTypeParameters", "").upper()
    default = partition.memory_default or memory_default(settings.values)
    if not slurm.mem_gib and counted and default is not None:
        cpus = slurm.cpus_per_process * slurm.processes_per_node
        shares = {
            "DefMemPerCPU": max((node.cpus for node in nodes), default=0) if slurm.exclusive else cpus,
            "DefMemPerGPU": slurm.gpus_per_node,
        }
        name, mib = default
        return _judge_default_memory(slurm, mib * shares.get(name, 1) / 1024, f"{name}={mib} MiB", fair)
    if not slurm.mem_gib and counted and not slurm.exclusive:
        says = "a job that asks for no memory gets all of a node's, so one job runs on a node at a time"
        return warning("profile", "memory", says, f"set cluster.slurm.mem_gib={fair}", value)
    return ok("profile", "memory", "a node holds its processes" if needed else "the cluster's default", value)


def _judge_default_memory(slurm: Slurm, given_gib: float, by: str, fair: int) -> Finding:
    """Whether what SLURM gives to a job that asks for no memory is enough for its processes."""
    processes = slurm.processes_per_node
    value = f"{given_gib:.3g} GiB on a node for {processes} process{'' if processes == 1 else 'es'}, by {by}"
    if given_gib < LEAST_GIB * processes:
        says = "a job that asks for no memory gets too little for PyTorch, and is killed for what exceeds it"
        return warning("profile", "memory", says, f"set cluster.slurm.mem_gib={fair}", value)
    return ok("profile", "memory", "a job that asks for none gets the cluster's default", value)


def judge_preemption(partition: Partition, settings: Settings) -> Finding:
    """What a preempted job goes through."""
    mode = partition.preempt_mode
    value = f"PreemptMode {mode}, GraceTime {partition.grace_s} s"
    if mode == "OFF":
        return ok("profile", "preemption", "jobs of this partition are not preempted", value)
    if "SUSPEND" in mode:
        return ok("profile", "preemption", "preempted jobs are suspended, and go on later", value)
    if mode == "CANCEL":
        says = "preempted jobs are cancelled, not requeued"
        return warning("profile", "preemption", says, "launch with --keeper, or run `sweeper tend`", value)
    if "preempt_send_user_signal" not in settings.values.get("SlurmctldParameters", ""):
        says = (
            "a preempted job gets SIGTERM, then KillWait; it resumes from its last periodic checkpoint if that is short"
        )
        remedy = "keep execution.checkpoint.every_s short; preempt_send_user_signal would warn earlier (slurm.conf)"
        return warning("profile", "preemption", says, remedy, value)
    return ok("profile", "preemption", "preempted jobs are warned and requeued", value)


def judge_choice(name: str, chosen: str, mine: Sequence[str], allowed: Sequence[str], partition: str) -> Finding:
    """Whether an account or a QOS is one of the user's and one that the partition takes.

    Args:
        mine: Those of the user; empty where nobody knows.
        allowed: Those of the partition; empty for all.
    """
    if not chosen:
        return ok("profile", name, "the cluster's default")
    if mine and chosen not in mine:
        says, remedy = f"you have no {name} {chosen!r}", did_you_mean(chosen, mine)
        return problem("profile", name, says, f"set cluster.slurm.{name}: {remedy}", ", ".join(mine))
    if allowed and chosen not in allowed:
        says, remedy = f"the partition {partition} does not take {chosen!r}", did_you_mean(chosen, allowed)
        return problem("profile", name, says, f"set cluster.slurm.{name}: {remedy}", ", ".join(allowed))
    return ok("profile", name, "yours" if mine else "nobody keeps a list to check it against", chosen)


def judge_reservation(name: str, *, exists: bool) -> Finding:
    """Whether a reservation is there."""
    if exists:
        return ok("profile", "reservation", "there", name)
    remedy = "set cluster.slurm.reservation to one of `scontrol show reservation`, or leave it out"
    return problem("profile", "reservation", f"no reservation {name!r}: it ended, or is another's", remedy, name)
