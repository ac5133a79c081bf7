"""What is left to run and what it costs; pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model.config import Execution
from model.shape import memory_bytes, model_shape
from sweeper.spec import Cluster, RunSpec, Value
from sweeper.status import FINISHED, State, count_states
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
    gpu_hours: float
    """Device-hours at the cluster profile's throughput."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Runs that are submitted together."""

    runs: tuple[RunSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a launch would do now: every run of every arm with its price, and the jobs for those without a result."""

    sweep: str
    device: str
    """Name of the device that the price is for."""
    runs: tuple[PlannedRun, ...]
    jobs: tuple[Job, ...]
    totals: Totals


def make_plan(
    sweep: str, specs: Sequence[RunSpec], states: Mapping[str, State], cluster: Cluster, execution: Execution
) -> Plan:
    """Price every run, and make a job of each that has no result and is not running, the longest first."""
    flops_per_hour = cluster.gpu.peak_flops * cluster.gpu.mfu * 3600
    runs = tuple(_planned(s, states.get(s.run_id, "new"), flops_per_hour, cluster, execution) for s in specs)
    distinct = {run.run_id: (spec, run) for spec, run in zip(specs, runs, strict=True)}
    once = [run for _, run in distinct.values()]
    left = [run for run in once if run.state not in FINISHED]
    to_run = [pair for pair in distinct.values() if pair[1].state not in FINISHED and pair[1].state != "running"]
    by_cost = sorted(to_run, key=lambda pair: -pair[1].flops_causal)
    return Plan(
        sweep=sweep,
        device=cluster.gpu.name,
        runs=runs,
        jobs=tuple(Job(runs=(spec,)) for spec, _ in by_cost),
        totals=Totals(
            runs=len(once),
            left=len(left),
            states=count_states(run.state for run in once),
            tokens=sum(run.tokens for run in once),
            flops=sum(run.flops for run in once),
            flops_causal=sum(run.flops_causal for run in once),
            gpu_hours=sum(run.gpu_hours for run in once),
            gpu_hours_left=sum(run.gpu_hours for run in left),
        ),
    )


def _planned(spec: RunSpec, state: State, flops_per_hour: float, cluster: Cluster, execution: Execution) -> PlannedRun:
    train = spec.train
    shape = model_shape(train.model)
    flops_causal = float(shape.flops_per_token_causal) * train.tokens
    memory = memory_bytes(train, micro_batch=execution.micro_batch, processes=cluster.processes)
    return PlannedRun(
        run_id=spec.run_id,
        state=state,
        arm=spec.arm,
        axes=spec.axes,
        params=shape.params,
        params_total=shape.params_total,
        tokens=train.tokens,
        steps=train.steps,
        lr=spec.lr,
        lr_peak=spec.lr_peak,
        flops=float(shape.flops_per_token) * train.tokens,
        flops_causal=flops_causal,
        memory_gib=memory / GIB,
        gpu_hours=flops_causal / flops_per_hour,
    )


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
