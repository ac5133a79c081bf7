"""What is left to run and what it costs; pure."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from model.config import Execution, ModelConfig, TrainConfig
from model.shape import MEMORY_SHARE, CheckpointBytes, Pass, checkpoint_bytes, choose_pass, model_shape
from sweeper.calibration import step_key
from sweeper.errors import ConfigError
from sweeper.loads import Load, loads
from sweeper.spec import Cluster, Fuse, RunSpec, Value
from sweeper.status import FINISHED, STARTABLE, State, count_states
from sweeper.typed import plain

SCHEMA_VERSION = 1
GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """One row of a plan."""

    run_id: str
    state: State
    arm: str
    axes: tuple[tuple[str, Value], ...]
    params: int
    """The paper's N: embedding, head and hidden matrices, active ones of a mixture (HyperP §4)."""
    params_total: int
    """Every parameter (`numel`)."""
    tokens: int
    steps: int
    lr: float
    """Base learning rate."""
    lr_peak: float
    """Peak rate of the hidden matrices after transfer."""
    flops: float
    """Training FLOPs by the paper's count (HyperP §4: attention not causal); laws use it."""
    flops_causal: float
    """Training FLOPs that are really spent (causal attention, no embedding lookup); prices and MFU use it."""
    memory_gib: float
    """Estimate for one process."""
    micro_batch: int
    """Sequences of one of its passes."""
    passes: int
    """Forward and backward passes of a process in a step."""
    checkpointing: bool
    """Whether activations are computed again for the backward pass, to fit into memory or because that is asked for."""
    gpu_hours: float
    """Device-hours at the throughput of the cluster profile, or as calibrated."""
    calibrated: bool
    """Whether these follow from measured steps."""
    processes: int = 1
    """Processes that it is planned for, one per device."""
    nodes: int = 1
    time_min: int = 0
    """Time limit of its job, minutes; 0 for none."""
    disk_gib: float = 0.0
    """Most that its checkpoints take at once."""
    disk_final_gib: float = 0.0
    """What stays of them when it is finished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """The sum of a plan; `left` counts the runs without a result."""

    runs: int
    """Distinct runs: one that two arms share counts once."""
    left: int
    states: Mapping[State, int]
    tokens: int
    flops: float
    flops_causal: float
    gpu_hours: float
    gpu_hours_left: float
    disk_gib: float
    """Most that checkpoints may take: of all runs that are left at once (on this machine: of as many as run at a time),
    beside the final weights of all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Runs that share an allocation: one, a stack, or as many small ones as a whole node takes."""

    loads: tuple[Load, ...]
    """Of a process, or of several that share a run, each."""
    processes: int = 1
    """Of each run."""
    nodes: int = 1
    time_min: int = 0
    """Time limit, minutes; 0 for none."""

    @property
    def runs(self) -> tuple[RunSpec, ...]:
        return tuple(spec for load in self.loads for spec in load.runs)

    @property
    def stacked(self) -> bool:
        """Whether some of its runs are trained together."""
        return any(load.stacked for load in self.loads)

    @property
    def tasks_per_node(self) -> int:
        """Processes on each node, those of all runs together."""
        return len(self.loads) * self.processes // self.nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a launch would do now: every run of every arm with its price, and the jobs for those without a result."""

    sweep: str
    device: str
    """Name of the device that the price is for."""
    runs: tuple[PlannedRun, ...]
    jobs: tuple[Job, ...]
    totals: Totals


Speeds = Mapping[tuple[int, int], float]
"""Measured tokens per second of a run, by `params_total` and number of processes."""

STARTUP_MIN = 10
"""Beside the training itself: start of the processes, validation, checkpoints; minutes."""
FORWARD = 1 / 3
"""Of the time of a step, its forward passes: what a second one costs."""
SAFETY = 1.5
"""A time limit over the estimate of measured runs."""
TOGETHER_S = 3600.0
"""What the runs of a stack may take on a cluster one after another: by themselves they could be trained at once."""
LIMIT_SHARE = 0.75
"""Of the profile's time limit that what is planned for one job fills."""


def make_plan(
    sweep: str,
    specs: Sequence[RunSpec],
    states: Mapping[str, State],
    cluster: Cluster,
    execution: Execution,
    speeds: Speeds | None = None,
    at_once: int = 0,
    calibrated: Mapping[str, float] | None = None,
    fuse: Fuse = "off",
    alone: Collection[str] = (),
) -> Plan:
    """Price every run, choose its devices, and make jobs of those that have no result and that nobody works on.

    The longest come first. On SLURM a run takes as few devices as its memory and the time limit need, unless
    `cluster.processes` says how many; where nodes are given whole, small runs share one. Smaller passes cost nothing
    and come before more devices; computing activations twice costs a third and comes after them.

    Args:
        speeds: What finished runs of the sweep measured; they shorten the time limit.
        at_once: Most runs that are trained at a time; 0 for any number.
        calibrated: Tokens per second of one process by `step_key`; they take the place of the profile's throughput.
        fuse: Which runs of a process each are trained together in a job of SLURM; on this machine `sweeper.launch`
            forms stacks, by what is free when it starts.
        alone: Runs that are trained by themselves in any case.

    Raises:
        ConfigError: No number of devices holds a run.
    """
    known = calibrated or {}
    runs = tuple(_planned(s, states.get(s.run_id, "new"), cluster, execution, speeds or {}, known) for s in specs)
    distinct = {run.run_id: (spec, run) for spec, run in zip(specs, runs, strict=True)}
    once = [run for _, run in distinct.values()]
    left = [run for run in once if run.state not in FINISHED]
    to_run = [pair for pair in distinct.values() if pair[1].state in STARTABLE]
    by_cost = sorted(to_run, key=lambda pair: -pair[1].flops_causal)
    return Plan(
        sweep=sweep,
        device=cluster.gpu.name,
        runs=runs,
        jobs=_jobs(by_cost, cluster, execution, fuse, alone),
        totals=Totals(
            runs=len(once),
            left=len(left),
            states=count_states(run.state for run in once),
            tokens=sum(run.tokens for run in once),
            flops=sum(run.flops for run in once),
            flops_causal=sum(run.flops_causal for run in once),
            gpu_hours=sum(run.gpu_hours for run in once),
            gpu_hours_left=sum(run.gpu_hours for run in left),
            disk_gib=_disk_gib(once, left, at_once),
        ),
    )


def _disk_gib(once: Sequence[PlannedRun], left: Sequence[PlannedRun], at_once: int) -> float:
    """The peak of the largest runs that train at once, and the final weights of all others."""
    training = sorted(left, key=lambda run: run.disk_final_gib - run.disk_gib)[: at_once or None]
    ids = {run.run_id for run in training}
    return sum(run.disk_gib for run in training) + sum(run.disk_final_gib for run in once if run.run_id not in ids)


def _jobs(
    by_cost: Sequence[tuple[RunSpec, PlannedRun]],
    cluster: Cluster,
    execution: Execution,
    fuse: Fuse,
    alone: Collection[str],
) -> tuple[Job, ...]:
    """One job per load; on whole nodes loads of one shape are packed together, neighbours in cost."""
    shapes: dict[tuple[int, int], list[tuple[RunSpec, PlannedRun]]] = {}
    for spec, run in by_cost:
        shapes.setdefault((run.processes, run.nodes), []).append((spec, run))
    jobs = []
    for (processes, nodes), pairs in shapes.items():
        whole = cluster.scheduler == "slurm" and cluster.slurm.exclusive and nodes == 1
        size = max(1, cluster.slurm.processes_per_node // processes) if whole else 1
        planned = {run.run_id: run for _, run in pairs}
        if cluster.scheduler == "slurm" and processes == 1:
            shared = _loads(pairs, cluster, execution, fuse, alone, at_once=size)
        else:
            shared = [Load(runs=(spec,)) for spec, _ in pairs]
        for first in range(0, len(shared), size):
            some = tuple(shared[first : first + size])
            time_min = max(_load_min(load, planned, cluster) for load in some)
            jobs.append(Job(loads=some, processes=processes, nodes=nodes, time_min=time_min))
    cost = {spec.run_id: run.flops_causal for spec, run in by_cost}
    return tuple(sorted(jobs, key=lambda job: -sum(cost[spec.run_id] for spec in job.loads[0].runs)))


def _loads(
    pairs: Sequence[tuple[RunSpec, PlannedRun]],
    cluster: Cluster,
    execution: Execution,
    fuse: Fuse,
    alone: Collection[str],
    *,
    at_once: int,
) -> list[Load]:
    """Stacks that end well within the time limit even one run after another, and fill a node that is given whole."""
    seconds = {run.run_id: 3600 * run.gpu_hours for _, run in pairs}
    return loads(
        [spec for spec, _ in pairs],
        seconds,
        fuse,
        execution,
        longest_s=min(sum(seconds.values()) / at_once, TOGETHER_S, LIMIT_SHARE * 60 * cluster.slurm.time_min),
        gpu=cluster.slurm.gpus_per_node > 0,
        budget_gib=_budget(cluster) / GIB,
        memory_gib={run.run_id: run.memory_gib for _, run in pairs},
        alone=alone,
    )


def _load_min(load: Load, planned: Mapping[str, PlannedRun], cluster: Cluster) -> int:
    """Time limit of a load, minutes: whether its runs are trained at once, a trial decides when the job runs."""
    each = [planned[spec.run_id].time_min for spec in load.runs]
    if len(each) == 1:
        return each[0]
    return min(cluster.slurm.time_min, sum(limit - STARTUP_MIN for limit in each) + STARTUP_MIN)


def _planned(
    spec: RunSpec,
    state: State,
    cluster: Cluster,
    execution: Execution,
    speeds: Speeds,
    calibrated: Mapping[str, float],
) -> PlannedRun:
    train = spec.train
    shape = model_shape(train.model)
    described = spec.trainer.models  # of a command whose model is not described here nothing is known
    flops_causal = float(shape.flops_per_token_causal) * train.tokens * described
    device_s = flops_causal / (cluster.gpu.peak_flops * cluster.gpu.mfu)
    ours = spec.trainer.kind == "builtin"
    calibrated_speed = calibrated.get(step_key(train, execution)) if calibrated and ours else None
    if calibrated_speed:
        device_s = train.tokens / calibrated_speed
    processes = cluster.processes or (
        _processes(spec, device_s, cluster, execution, calibrated=calibrated_speed is not None) if described else 1
    )
    chosen = _pass(spec, processes, execution, cluster)
    device_s *= _twice(spec, chosen, processes, calibrated=calibrated_speed is not None)
    per_node = cluster.slurm.processes_per_node if cluster.scheduler == "slurm" else processes
    measured = speeds.get((shape.params_total, processes))
    if measured is None and calibrated_speed:
        measured = calibrated_speed * processes
    disk = _checkpoints(train.model, train.optimizer.name, train.precision, train.steps, _Unseen(train), execution)
    return PlannedRun(
        run_id=spec.run_id,
        state=state,
        arm=spec.arm,
        axes=spec.axes,
        params=shape.params * described,
        params_total=shape.params_total * described,
        tokens=train.tokens,
        steps=train.steps,
        lr=spec.lr,
        lr_peak=spec.lr_peak,
        flops=float(shape.flops_per_token) * train.tokens * described,
        flops_causal=flops_causal,
        memory_gib=chosen.memory / GIB * described,
        micro_batch=chosen.sequences,
        passes=-(-train.batch_sequences // (processes * chosen.sequences)),
        checkpointing=chosen.checkpointing,
        gpu_hours=device_s / 3600,
        calibrated=calibrated_speed is not None,
        processes=processes,
        nodes=-(-processes // per_node),
        time_min=_time_min(train.tokens / measured if measured else None, cluster),
        disk_gib=disk.peak / GIB * ours,  # a command's checkpoints are its own
        disk_final_gib=disk.kept / GIB * ours,
    )


class _Unseen:
    """A value that is no part of a cache's key: what of it matters stands beside it."""

    def __init__(self, train: TrainConfig) -> None:
        self.train = train

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Unseen)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=4096)
def _checkpoints(
    _model: ModelConfig, _optimizer: str, _precision: str, _steps: int, of: _Unseen, execution: Execution
) -> CheckpointBytes:
    return checkpoint_bytes(of.train, keep_final=execution.checkpoint.keep_final)


def _pass(spec: RunSpec, processes: int, execution: Execution, cluster: Cluster) -> Pass:
    if spec.trainer.kind == "command":  # it does as it likes: what is known is the estimate of its whole share
        whole = execution.micro_batch or spec.train.batch_sequences
        execution = replace(execution, micro_batch=whole, activation_checkpointing="off")
    return choose_pass(
        spec.train,
        execution,
        processes=processes,
        budget=_budget(cluster),
        shard_processes=shards(execution, processes, cluster),
    )


def _budget(cluster: Cluster) -> float:
    """Bytes that a process may fill."""
    return MEMORY_SHARE * GIB * cluster.memory_gib


def shards(execution: Execution, processes: int, cluster: Cluster) -> int:
    """Processes that share one copy of the model: those of `hsdp` do within a node."""
    return execution.shard_processes or min(processes, cluster.slurm.processes_per_node)


def _time_min(estimate_s: float | None, cluster: Cluster) -> int:
    """The limit of the profile, or less where runs of this shape were measured."""
    if cluster.scheduler == "local":
        return 0
    if estimate_s is None:
        return cluster.slurm.time_min
    return min(cluster.slurm.time_min, math.ceil(SAFETY * estimate_s / 60) + STARTUP_MIN)


def _twice(spec: RunSpec, chosen: Pass, processes: int, *, calibrated: bool) -> float:
    """Time of a step with what it computes twice, over that without: calibrated steps compute activations again."""
    looks_ahead = spec.train.looks_ahead(spec.train.batch_sequences // processes, chosen.sequences)
    return 1 + FORWARD * (looks_ahead + (chosen.checkpointing and not calibrated))


def _processes(spec: RunSpec, device_s: float, cluster: Cluster, execution: Execution, *, calibrated: bool) -> int:
    """The fewest devices that hold a run and end it within `LIMIT_SHARE` of the time limit; at most all there are.

    Those that hold it without computing activations twice come first, unless that is asked for.

    Raises:
        ConfigError: Its memory fits no number of devices that divides the batch.
    """
    per_node, sequences = cluster.slurm.processes_per_node, spec.train.batch_sequences
    within = [p for p in range(1, per_node + 1) if per_node % p == 0]
    whole = [per_node * nodes for nodes in range(2, cluster.slurm.nodes + 1)]
    sizes = [p for p in within + whole if sequences % p == 0]
    passes = {p: _pass(spec, p, execution, cluster) for p in sizes}
    holding = [p for p in sizes if passes[p].memory <= _budget(cluster)]
    fitting = [p for p in holding if not passes[p].checkpointing] or holding
    if not fitting:
        least = min(one.memory for one in passes.values()) / GIB
        smaller = "a smaller execution.micro_batch or 0, " if execution.micro_batch else ""
        raise ConfigError(
            f"run {spec.run_id} ({', '.join(f'{name}={value}' for name, value in spec.axes)}) needs {least:.1f} GiB "
            f"per process but a {cluster.gpu.name} has {cluster.memory_gib:g}; set execution.layout=fsdp, {smaller}"
            "more cluster.slurm.nodes, or cluster.processes yourself"
        )
    within_s = LIMIT_SHARE * 60 * cluster.slurm.time_min
    quick = [p for p in fitting if device_s * _twice(spec, passes[p], p, calibrated=calibrated) / p <= within_s]
    return quick[0] if quick else fitting[-1]


def plan_json(plan: Plan, notes: Sequence[str] = ()) -> dict[str, Any]:
    """The plan as one plain object: `schema_version`, `runs` (axis values beside the rest), `totals`, `notes`."""
    return {
        "schema_version": SCHEMA_VERSION,
        "sweep": plan.sweep,
        "device": plan.device,
        "runs": [_row(run) for run in plan.runs],
        "totals": plain(plan.totals),
        "notes": list(notes),
    }


def _row(run: PlannedRun) -> dict[str, Any]:
    return {**dict(run.axes), **{name: getattr(run, name) for name in run.__slots__ if name != "axes"}}
