"""What was asked for: a sweep, one run of it, the resources it may use; and the identity of a run."""

import dataclasses
import hashlib
import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any, Literal, cast

from model.config import (
    DataConfig,
    EvaluationConfig,
    Execution,
    ModelConfig,
    OptimizerConfig,
    Rates,
    ScheduleConfig,
    Seeds,
    TrainConfig,
    check,
    positive,
)
from sweeper.laws.transfer import Transfer
from sweeper.typed import fields_of

Value = int | float | str | bool
"""What an axis may hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """The device that a run is priced on: its dense bf16 peak, and the share of it (`mfu`) that training gets."""

    name: str = "cpu-core"
    memory_gib: float = 4.0
    peak_flops: float = 6.4e10
    mfu: float = 0.22

    def __post_init__(self) -> None:
        positive("the gpu's", memory_gib=self.memory_gib, peak_flops=self.peak_flops, mfu=self.mfu)
        check(self.mfu <= 1, f"mfu is a share of the peak in (0, 1], got {self.mfu}")


ONE_LINE = (
    "partition",
    "keeper_partition",
    "account",
    "qos",
    "reservation",
    "constraint",
    "exclude",
    "gpu_type",
    "python",
    "container",
)
"""Settings of a SLURM profile that end up in one line of a script."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slurm:
    """What a cluster's profile says to SLURM; `local` ignores it. Empty text and zero leave a choice to the cluster."""

    partition: str = ""
    account: str = ""
    qos: str = ""
    reservation: str = ""
    constraint: str = ""
    exclude: str = ""
    """Nodes that no job may use, as SLURM writes them: `n[1-3],n7`."""
    time_min: int = 1440
    """Time limit of a job, minutes. Once runs of the sweep were measured, 1.5 times the estimate if that is less."""
    nodes: int = 1
    """Most nodes that one run may use."""
    gpus_per_node: int = 8
    """Devices of a node, one process each; 0 for nodes without GPUs, which take `slots_per_node` processes."""
    slots_per_node: int = 1
    """Processes that a node without GPUs takes."""
    gpu_request: Literal["gres", "gpus_per_node", "none"] = "gres"
    """How GPUs are asked for: `--gres=gpu:n`, `--gpus-per-node=n`, or not at all where nodes are given whole."""
    gpu_type: str = ""
    """Their type, where a site wants it in the request: `--gres=gpu:h100:n`."""
    exclusive: bool = False
    """Whether jobs get whole nodes: small runs are then packed onto one, a record each."""
    cpus_per_process: int = 8
    mem_gib: float = 0.0
    """Memory of a node for one process, GiB."""
    throttle: int = 0
    """Most jobs of an array that run at a time."""
    signal_s: int = 120
    """How long before its time limit a job is told to write a checkpoint, seconds."""
    python: str = ""
    """Command of the interpreter inside the job; empty takes the launcher's own."""
    keeper_partition: str = ""
    """Where the keeper's one-CPU job runs; empty takes `partition`."""
    setup: tuple[str, ...] = ()
    """Shell lines at the start of each job (`module load cuda`); trusted, written as they are."""
    container: str = ""
    """Command that the workers are started through (`apptainer exec --nv image.sif`); trusted."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables of the workers. They are written into the script: secrets belong in your own environment instead."""
    extra_sbatch: Mapping[str, Value] = field(default_factory=dict)
    """Further options of sbatch by name: `{mail-type: FAIL}`; `true` gives one without a value."""
    extra_srun: tuple[str, ...] = ()
    """Further words for srun."""

    def __post_init__(self) -> None:
        positive(
            "cluster.slurm",
            time_min=self.time_min,
            nodes=self.nodes,
            slots_per_node=self.slots_per_node,
            cpus_per_process=self.cpus_per_process,
            signal_s=self.signal_s,
        )
        for name in ("gpus_per_node", "mem_gib", "throttle"):
            value = getattr(self, name)
            check(value >= 0, f"cluster.slurm.{name} must be 0 (the cluster's choice) or positive, got {value}")
        check(
            60 * self.time_min >= 2 * self.signal_s,
            f"cluster.slurm.time_min {self.time_min} leaves a job less than twice signal_s {self.signal_s} s; "
            "raise the time or lower the signal",
        )
        for name in self.environment:
            check(
                name.isidentifier() and name.isascii(),
                f"cluster.slurm.environment has {name!r}, which is no variable's name; use letters, digits and _",
            )
        for name, text in self._words().items():
            check("\n" not in text, f"cluster.slurm.{name} must be one line, got {text!r}")

    def _words(self) -> dict[str, str]:
        return {
            **{name: getattr(self, name) for name in ONE_LINE},
            **{f"environment.{name}": f"{name}={value}" for name, value in self.environment.items()},
            **{f"extra_sbatch.{name}": f"{name}={value}" for name, value in self.extra_sbatch.items()},
        }

    @property
    def processes_per_node(self) -> int:
        """Processes that a node takes: one per GPU."""
        return self.gpus_per_node or self.slots_per_node


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Where jobs run: `local` starts them on this machine, `slurm` hands them to SLURM and returns."""

    name: str = "local"
    scheduler: Literal["local", "slurm"] = "local"
    gpu: Gpu = field(default_factory=Gpu)
    processes: int = 1
    """Processes of one run (data-parallel ranks), one per GPU; 0 (slurm): as few as its memory and time need."""
    parallel: int = 0
    """Runs at a time on this machine; 0 takes as many as there are cores (or GPUs) for. Runs of one process share the
    GPUs where this asks for more runs than there are: small models leave most of a GPU idle."""
    attempts: int = 3
    """Attempts in a row that may end badly (a crash, a kill, a lost node) without having got further than those before
    them, until the run counts as failed. On this machine an error of the run itself is not tried again."""
    backoff_s: tuple[float, ...] = (30.0, 120.0, 600.0)
    """Waits before the next attempt after the first, second, … crash in a row (slurm)."""
    heartbeat_s: float = 60.0
    """Between two signs of life of a running attempt (slurm)."""
    hang_s: float = 900.0
    """A run hangs when no step was made for this long and for 20 times the median step (slurm)."""
    slurm: Slurm = field(default_factory=Slurm)

    @property
    def memory_gib(self) -> float:
        """Of one process: its GPU's, or what it gets of a node without GPUs."""
        of_node = self.scheduler == "slurm" and self.slurm.gpus_per_node == 0 and self.slurm.mem_gib > 0
        return self.slurm.mem_gib if of_node else self.gpu.memory_gib

    def __post_init__(self) -> None:
        positive("the cluster's", attempts=self.attempts, heartbeat_s=self.heartbeat_s, hang_s=self.hang_s)
        check(self.parallel >= 0, f"cluster.parallel must be 0 (as many as fit) or positive, got {self.parallel}")
        check(
            self.processes > 0 or (self.processes == 0 and self.scheduler == "slurm"),
            f"cluster.processes must be positive, got {self.processes} (0 lets a plan for SLURM choose)",
        )
        check(
            all(wait >= 0 for wait in self.backoff_s) and len(self.backoff_s) > 0,
            f"cluster.backoff_s must be a list of waits in seconds, got {list(self.backoff_s)}",
        )
        if self.scheduler == "slurm":
            most = self.slurm.nodes * self.slurm.processes_per_node
            check(
                self.processes <= most,
                f"cluster.processes {self.processes} exceeds the {most} of slurm.nodes {self.slurm.nodes} × "
                f"{self.slurm.processes_per_node} per node; lower it or raise slurm.nodes",
            )
            check(
                self.processes <= self.slurm.processes_per_node or self.processes % self.slurm.processes_per_node == 0,
                f"cluster.processes {self.processes} does not fill whole nodes of {self.slurm.processes_per_node}; "
                "choose a multiple of that",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """Who trains a run: this package, or a command of the user's own that is filled in from the run's values."""

    kind: Literal["builtin", "command"] = "builtin"
    argv: tuple[str, ...] = ()
    """Program and arguments, started without a shell; `{lr_peak}` stands for the run's value."""
    values: tuple[tuple[str, Value], ...] = ()
    """Settings that only the command knows, each with its usual value; axes set them by name like any other."""
    version: str = ""
    """Stands for the command in the identity of a run in place of `argv`, where one is given."""
    models: bool = field(default=True, metadata={"scientific": False})
    """Whether the `model` group describes what is trained, so that parameters and FLOPs follow from it."""
    per: Literal["task", "job"] = field(default="task", metadata={"scientific": False})
    """A command for each process of a run, or (`job`, for torchrun) one on each node that starts the others itself."""
    signal: Literal["SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2"] = field(
        default="SIGTERM", metadata={"scientific": False}
    )
    """What asks the command to write a checkpoint and end."""
    grace_s: float = field(default=30.0, metadata={"scientific": False})
    """How long it may take for that before it is killed."""
    directory: str = field(default="", metadata={"scientific": False})
    """Where the command is started; empty for where the sweep is launched."""

    def __post_init__(self) -> None:
        if self.kind == "builtin":
            given = next((name for name in ("argv", "values", "version") if getattr(self, name)), "")
            check(not given, f"trainer.{given} is of a command; add trainer.kind: command")
            check(self.models, "models=false is of a command; the builtin trainer trains the model group")
        else:
            check(bool(self.argv), "argv is empty: list the program and its arguments, such as [python, train.py]")
        check(self.grace_s >= 0, f"grace_s must be 0 or positive, got {self.grace_s}")


Fuse = int | Literal["auto", "off"]
"""How many runs are trained together as one stack at most; `auto` finds out what pays, `off` is 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How the runs of a launch are handed out."""

    fuse: Fuse = "auto"
    """Whether runs that differ in learning rate, weight decay and seeds only are trained together as one batched model
    (`model.fusing`), as small models gain from: `off`, or of how many members at most, or `auto`: where they are small
    and a trial at the start of each stack says that it pays. For runs of one process."""

    def __post_init__(self) -> None:
        check(
            isinstance(self.fuse, str) or self.fuse > 0,
            f"launch.fuse is auto, off or a number of runs from 1, got {self.fuse}",
        )

    @property
    def together(self) -> Fuse:
        """`fuse` with one spelling of trained alone."""
        return "off" if self.fuse == 1 else self.fuse


FIGURE_NAMES = ("lr", "law", "flops", "heat", "sensitivity", "arms", "surface", "joint", "stability")
"""What a question may ask to be drawn; `figures.FIGURES` says what each shows."""

Reference = Literal["", "hyperp"]
"""Published laws by their name in `laws.power.REFERENCES`; empty for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a bare `fit NAME` and `plot NAME` answer."""

    by: tuple[str, ...] = ("tokens",)
    """Columns whose every combination has one learning-rate optimum."""
    per: tuple[str, ...] = ()
    """Columns that separate laws and curves, such as the arm."""
    laws: tuple[str, ...] = ("lr_peak ~ tokens",)
    curves: tuple[str, ...] = ("loss ~ flops",)
    surfaces: tuple[str, ...] = ()
    """Losses over size and data: `loss ~ params + tokens`."""
    joint: tuple[str, ...] = ()
    """Columns of data T along which loss and learning rate are fitted at once: `tokens`."""
    irreducible: bool = False
    """Whether laws may have a part that x does not move: `y = a·x^b + c`, shown where leave-one-out prefers it."""
    sensitivity: bool = False
    """Whether the optima of fewer learning rates are compared with those of all (HyperP E11)."""
    baseline: str = ""
    """The arm that leverage and differences are measured against."""
    figures: tuple[str, ...] = ("lr", "law", "flops")
    reference: Reference = ""
    """Published laws drawn behind ours."""
    note: str = ""
    """One sentence that `fit` prints below its result: what to expect of this sweep, and what not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The values of an arm before its grid is laid over them; axes name its leaves (`width`, `lr`, …)."""

    model: ModelConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    data: DataConfig
    evaluation: EvaluationConfig
    seed: Seeds
    transfer: Transfer
    lr: float
    tokens: int
    batch_tokens: int
    precision: Literal["float64", "float32", "bfloat16"] = "float32"
    trainer: Trainer = field(default_factory=Trainer)


Entry = tuple[str, str | tuple[Value, ...]]
"""A key with the values it takes, or with an expression that gives them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The cells laid over a base: the product of the axes and zips, completed by `derive`, kept where `where` holds.

    A union's grids are laid out one after another, each over the axes, zips, `derive`, `where` and `repeat` of its
    parent; a key that it sets itself replaces its parent's.
    """

    axes: tuple[Entry, ...] = ()
    zip: tuple[tuple[Entry, ...], ...] = ()
    """Groups whose entries advance together."""
    derive: tuple[Entry, ...] = ()
    where: tuple[str, ...] = ()
    repeat: int = 1
    """Seeds: cell i of a repeat adds i to both seeds."""
    union: tuple["Grid", ...] = ()

    def __post_init__(self) -> None:
        positive("grid", repeat=self.repeat)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One composed variant of a sweep: what distinguishes `muon` from `muonh`, each with its grid."""

    name: str
    base: Base
    grid: Grid


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A question about training, complete: its arms, where they run and what is to be fitted."""

    name: str
    title: str = ""
    arms: tuple[Arm, ...]
    cluster: Cluster
    execution: Execution
    question: Question
    launch: Launch = field(default_factory=Launch)
    resolved: str
    """The composed configuration as YAML, frozen beside the results."""
    notes: tuple[str, ...] = ()
    """What the overrides did to the grid, one sentence each: an axis pinned, a derived value replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """One run, complete: what to train, and the labels it carries in the table."""

    run_id: str
    sweep: str
    arm: str
    axes: tuple[tuple[str, Value], ...]
    """The axis values of the cell, by name."""
    lr: float
    """Base learning rate η₀; `train.rates` holds what the transfer rule made of it."""
    transfer: Transfer
    train: TrainConfig
    trainer: Trainer = field(default_factory=Trainer)

    @property
    def lr_peak(self) -> float:
        """Peak rate of the hidden matrices after transfer."""
        return self.train.rates.hidden


BUILTIN = Trainer()


def run_id(lr: float, train: TrainConfig, trainer: Trainer = BUILTIN) -> str:
    """The identity of a run: 16 hexadecimal digits of the SHA-256 of its canonical configuration.

    Fields equal to their default and fields marked `scientific: False` are left out, floats are rounded to 12
    significant digits: a new field with a default renames no old run. A command enters by its template (or its
    version) and its values.
    """
    members = sorted([("lr", _text(lr)), *_members(train), *_command(trainer)])
    identity = "{" + ",".join([f'"{name}":{text}' for name, text in members]) + "}"
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def _command(trainer: Trainer) -> list[tuple[str, str]]:
    if trainer.kind == "builtin":
        return []
    name = "version" if trainer.version else "argv"
    values = ",".join(f"{json.dumps(key)}:{_text(value)}" for key, value in sorted(trainer.values))
    return [("trainer", f'{{"{name}":{json.dumps(getattr(trainer, name))},"values":{{{values}}}}}')]


def _members(config: Any) -> list[tuple[str, str]]:
    """The fields that differ from their default, each with its canonical JSON."""
    members = []
    for name, default, nested in _scientific_fields(cast(Hashable, type(config))):
        value = getattr(config, name)
        if nested:
            # Every cell of a sweep has rates of its own: they would only push the rest out of the cache.
            text = _object(value) if nested is Rates else _cached_object(value)
            if text != "{}":
                members.append((name, text))
        elif value != default:
            members.append((name, _text(value)))
    return members


def _object(config: Any) -> str:
    return "{" + ",".join([f'"{name}":{text}' for name, text in sorted(_members(config))]) + "}"


@lru_cache(maxsize=4096)
def _cached_object(config: Hashable) -> str:
    return _object(config)


@cache
def _scientific_fields(kind: Hashable) -> tuple[tuple[str, Any, type | None], ...]:
    """Name, default (`MISSING` equals no value) and class, if it is a configuration itself, of each field."""
    return tuple(
        (name, declared.default, cast(type, hint) if dataclasses.is_dataclass(hint) else None)
        for name, (hint, declared) in fields_of(kind).items()
        if declared.metadata.get("scientific", True)
    )


def _text(value: Value) -> str:
    if type(value) is float:
        return float_text(value)
    return str(value) if type(value) is int else json.dumps(value)


@lru_cache(maxsize=1024)
def float_text(value: float) -> str:
    """12 significant digits; whole numbers become integers, so that 1e6 and 1000000 are one value."""
    rounded = float(f"{value:.12g}")
    return str(int(rounded)) if rounded.is_integer() and abs(rounded) < 1e15 else repr(rounded)
