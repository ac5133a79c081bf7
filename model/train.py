"""The training loop: a configuration in, an outcome out; resumable, on one process or several.

The losses of a run depend on its configuration only. They are the same bit for bit on a CPU whether or not the run was
interrupted, and the same up to rounding whatever the micro-batch and the number of ranks.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from model import stability
from model.checkpoint import Found, newest_checkpoint, read_checkpoint
from model.config import Execution, TrainConfig
from model.corpus import check_corpus
from model.data import TokenData, open_data
from model.distributed import World, average_gradients, exchanging, from_lead, join, share, sum_over_ranks
from model.divergence import Divergence, watch
from model.moe import Watch
from model.optimizer import DTYPES, Optimizer, make_optimizer
from model.saving import Saver
from model.schedule import multiplier
from model.sharding import give_up_gathered, lay_out, make_layout, reduce_across_copies
from model.state import full_state, load_state
from model.transformer import Transformer

TAIL_SHARE = 0.05
"""`train_loss` is the mean over this last share of the steps."""
LOOK_STEPS = {"cpu": 1, "cuda": 16}
"""Most steps between two looks at the losses and the wish to stop: on a GPU each look waits for the device."""
LOOK_S = 2.0
"""Steps that take longer than this together are looked at sooner: who stops a run waits for it."""
SPEED_LOOKS = 20
"""Looks over which the displayed tokens/s is averaged."""
TAKEN_OVER = "another attempt took over"
"""Why a run stops that may not write any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One run."""

    config: TrainConfig
    checkpoints: Path
    """Folder of its checkpoints, this run's alone; the caller deletes it when the outcome is safe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended, or that it was stopped and may go on later."""

    state: Literal["done", "diverged", "stopped"]
    loss: float
    """Validation loss after the last step, nats per token; a diverged run's last training loss; NaN when stopped."""
    train_loss: float
    """Mean training loss, nats per token, over the last steps: as many as 5 % of the run (at least 1)."""
    steps: int
    """Steps done."""
    tokens: int
    """Tokens trained on."""
    wall_time_s: float
    """Of all attempts, from start to end; of a killed one, up to its last checkpoint."""
    tokens_per_s: float
    """Tokens over the time spent in steps: start-up, validation and checkpoints left out."""
    reason: str
    """Why it diverged or stopped; empty when done."""
    device: str
    """What rank 0 trained on, as torch calls it: `cpu`, or the model of a GPU."""
    stability: Mapping[str, float]
    """What was last measured (`model.stability`), averaged over layers, by metric; of a run that is done, at its last
    step."""


class Observer(Protocol):
    """Who is told how a run goes; called on rank 0 only."""

    def metrics(self, member: int, row: Mapping[str, float]) -> None:
        """A line of the run's record: step (from 1), tokens, loss, lr (of hidden matrices), grad_norm (before
        clipping), tokens_per_s; `val/loss` after a validation; and what `model.stability` measured.
        """

    def progress(self, member: int, step: int, steps: int, tokens_per_s: float) -> None:
        """A sign of life, at every look and every batch of a validation."""

    def note(self, member: int, text: str) -> None:
        """A sentence about trouble that training outlives: a checkpoint that is damaged, late or cannot be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What a run has behind it; with weights and optimiser state, all that a checkpoint holds."""

    step: int = 0
    """Steps done."""
    divergence: Divergence = field(default_factory=Divergence)
    recent: tuple[float, ...] = ()
    """Training losses of the last steps, as many as `train_loss` averages over."""
    wall_time_s: float = 0.0
    stepping_s: float = 0.0
    """Time spent in steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What training one member needs at hand."""

    config: TrainConfig
    execution: Execution
    checkpoints: Path
    world: World
    rows: range
    """Of each global batch, those of this rank."""
    data: TokenData
    model: Transformer
    optimizer: Optimizer


@dataclass(frozen=True, slots=True, kw_only=True)
class _Caller:
    """Whom training tells and asks: the arguments of `train`."""

    observer: Observer
    should_stop: Callable[[], bool]
    may_write: Callable[[], bool]
    alive: Callable[[int], None]

    def note(self, text: str) -> None:
        self.observer.note(0, text)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """A step whose results may still be on the device."""

    step: int
    lr: float
    loss: Tensor
    """This rank's share of the mean loss over the global batch, 0-d: the ranks' sum is the loss."""
    grad_norm: Tensor
    stability: Mapping[str, Tensor] | None
    """What was measured of it, the same on every rank."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """A step's results on the host, the same on every rank."""

    step: int
    lr: float
    loss: float
    grad_norm: float
    stability: Mapping[str, float]
    """By the names of `metrics.jsonl`; empty where nothing was measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """What all ranks learn together at a look, the same on each: what follows from it they do at the same step."""

    seen: Sequence[_Seen]
    step_s: float
    """Time of one of these steps, by the clock of rank 0."""
    saves: bool
    """Whether rank 0 wants a checkpoint."""
    stops: bool
    """Whether any rank was asked to stop."""


def train(
    members: Sequence[Member],
    execution: Execution,
    observer: Observer,
    should_stop: Callable[[], bool],
    *,
    may_write: Callable[[], bool] = lambda: True,
    alive: Callable[[int], None] = lambda _steps: None,
) -> tuple[Outcome, ...]:
    """Train each member to its end, or until `should_stop`; resumes from the newest whole checkpoint.

    A checkpoint that cannot be written ends nothing: the observer is told, those before it are kept, and the next is
    tried when it is due. If it is the last one of a run that is asked to stop, the outcome's reason says so.

    Args:
        members: One run for now.
        execution: Device, threads, micro-batch, checkpoint and log intervals.
        observer: Told of metrics, progress and trouble on rank 0.
        should_stop: Asked at step boundaries on every rank; one rank's yes checkpoints and stops all.
        may_write: Asked on rank 0 before every checkpoint and before the end: whether this attempt still owns the run.
            Its no stops all ranks; they write nothing more, and the reason is `TAKEN_OVER`.
        alive: Told the steps done on every rank: before the first step, at every look, and at every batch of a
            validation: what a watchdog lives on. It hears nothing while ranks wait for the last checkpoint.

    Returns:
        The outcome of each member, the same on every rank.

    Raises:
        ValueError: More than one member, ranks that do not divide the batch, no such device, unreadable data or a
            checkpoint of another configuration.
        PeerLost: Another rank is gone; the checkpoints are kept.
    """
    if len(members) != 1:
        raise ValueError(f"train takes one run at a time for now, got {len(members)}; call it once per run")
    with _torch_settings(execution):
        caller = _Caller(observer=observer, should_stop=should_stop, may_write=may_write, alive=alive)
        return (_train(members[0], execution, caller),)


@contextmanager
def _torch_settings(execution: Execution) -> Iterator[None]:
    """Threads as asked, and deterministic algorithms on CPUs, where they cost nothing."""
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    deterministic: Any = torch.utils.deterministic
    fill = deterministic.fill_uninitialized_memory
    torch.set_num_threads(execution.threads)
    if execution.device == "cpu" or not torch.cuda.is_available():
        # What `use_deterministic_algorithms(True)` does, but that also imports the compiler: 1.4 s of every start.
        torch.set_deterministic_debug_mode("error")
        deterministic.fill_uninitialized_memory = False  # every `empty` would be written twice
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(mode)
        deterministic.fill_uninitialized_memory = fill


def _train(member: Member, execution: Execution, caller: _Caller) -> Outcome:
    started = time.monotonic()
    run = _prepare(member, execution)
    found = _newest(run, caller)
    progress = _resume(run, found.path)
    caller.alive(progress.step)
    with Saver(run.checkpoints, run.config, execution.checkpoint, found, caller.note) as saver:
        return _train_on(run, progress, saver, caller, started=started)


def _train_on(run: _Run, progress: Progress, saver: Saver, caller: _Caller, *, started: float) -> Outcome:
    """Train from `progress` on; `started`, the time at which this attempt did, counts as wall time."""
    config, leads = run.config, run.world.leads
    earlier_s = progress.wall_time_s
    speed = 0.0
    pending: list[_Step] = []
    measured: Mapping[str, float] = {}
    if leads:
        caller.observer.progress(0, progress.step, config.steps, speed)
    looked = time.monotonic()
    look_at = progress.step + 1  # nothing is known yet of how long a step takes
    for step in range(progress.step, config.steps):
        pending.append(_step(run, step))
        if step + 1 < look_at and not _validates(config, step + 1):
            continue
        look = _look(pending, run, caller.should_stop, saver.wants, looked=looked)
        look_at = step + 1 + _steps_to_next_look(look.step_s, LOOK_STEPS[run.world.device.type])
        now = time.monotonic()
        speed = _smoothed(speed, config.batch_tokens * len(pending) / max(now - looked, 1e-9))
        pending.clear()
        progress, seen = _advance(progress, look.seen, now - looked, config)
        measured = next((one.stability for one in reversed(seen) if one.stability), measured)
        diverged = progress.divergence.reason
        caller.alive(progress.step)
        if leads:
            caller.observer.progress(0, progress.step, config.steps, speed)
        validation = None if diverged or not _validates(config, step + 1) else _validate(run, caller, step + 1, speed)
        if leads:
            for row in _rows(run, seen, speed, validation):
                caller.observer.metrics(0, row)
        progress = replace(progress, wall_time_s=earlier_s + time.monotonic() - started)
        ends = bool(diverged) or step + 1 == config.steps
        if (ends or look.stops or look.saves) and not _owned(run, caller):
            return _outcome(run, progress, "stopped", math.nan, TAKEN_OVER)
        if diverged:
            return _outcome(run, progress, "diverged", seen[-1].loss, diverged, measured)
        if validation is not None and ends:
            if not math.isfinite(validation):
                why = f"the validation loss became {validation}"
                return _outcome(run, progress, "diverged", validation, why, measured)
            if run.execution.checkpoint.keep_final:
                _save_final(run, saver)
            return _outcome(run, progress, "done", validation, "", measured)
        if look.stops:
            reason = f"asked to stop at step {step + 1} of {config.steps}{_save(run, progress, saver, last=True)}"
            return _outcome(run, progress, "stopped", math.nan, reason)
        if look.saves:
            _save(run, progress, saver, last=False)
        looked = time.monotonic()
    raise AssertionError("the last step validates and returns")


def _prepare(member: Member, execution: Execution) -> _Run:
    config = member.config
    world = join(execution.device)
    rows = share(config.batch_sequences, world)
    data = open_data(config.data, config.model, config.seed.data)
    check_corpus(
        data.corpus,
        vocab=config.model.vocab,
        context=config.model.context,
        evaluation_sequences=config.evaluation.sequences,
    )
    model = Transformer(config.model, config.rates, seed=config.seed.init, dtype=DTYPES[config.precision])
    layout = make_layout(execution, world)
    lay_out(model, layout)
    return _Run(
        config=config,
        execution=execution,
        checkpoints=member.checkpoints,
        world=world,
        rows=rows,
        data=data,
        model=model,
        optimizer=make_optimizer(model, config, layout),
    )


def _newest(run: _Run, caller: _Caller) -> Found:
    """What rank 0 finds to resume from; the others look for nothing."""
    if not run.world.leads:
        return Found()
    found = newest_checkpoint(run.checkpoints, run.config)
    for path, flaw in found.damaged.items():
        caller.note(f"checkpoint {path} is passed over ({flaw}); the run resumes from step {found.step}")
    return found


def _resume(run: _Run, newest: Path | None) -> Progress:
    """Load the checkpoint that rank 0 found, if any, into the run of every rank; its progress, or a new run's."""
    name = from_lead(newest.name if newest else "", run.world)
    if not name:
        return Progress()
    step, state = read_checkpoint(run.checkpoints / name, torch.device("cpu"))
    load_state(run.model, run.optimizer, state)
    progress = state["progress"]
    return Progress(
        step=step,
        divergence=Divergence(**progress["divergence"]),
        recent=tuple(progress["recent"]),
        wall_time_s=progress["wall_time_s"],
        stepping_s=progress["stepping_s"],
    )


def _owned(run: _Run, caller: _Caller) -> bool:
    """Whether this attempt may still write, as rank 0 knows and every rank learns."""
    (lost,) = sum_over_ranks([float(run.world.leads and not caller.may_write())], run.world)
    return lost == 0


def _save(run: _Run, progress: Progress, saver: Saver, *, last: bool) -> str:
    """Rank 0 writes what the ranks hold together; no rank waits unless it is the `last`.

    Returns:
        Of the last one: on every rank, what to add to the run's reason if it is not safe; else nothing.
    """
    saver.settle(wait=True)  # before the copy: host memory holds one at a time
    state = full_state(run.model, run.optimizer, run.world)
    lost = ""
    if state is not None:
        state["progress"] = asdict(replace(progress, recent=())) | {"recent": list(progress.recent)}
        if why := saver.save(state, progress.step, wait=last):
            lost = f"; its last checkpoint could not be written ({why}): it resumes from step {saver.safe_step}"
    return from_lead(lost, run.world) if last else ""


def _save_final(run: _Run, saver: Saver) -> None:
    saver.settle(wait=True)
    state = full_state(run.model, run.optimizer, run.world)
    if state is not None:
        saver.save_final(state["model"])
    from_lead("", run.world)  # no rank leaves before it is written


def _step(run: _Run, step: int) -> _Step:
    """One optimiser step on this rank's rows of the global batch, without waiting for the device."""
    config, layout = run.config, run.optimizer.layout
    scale = multiplier(config.schedule, step, config.steps)
    measures = _measures(run, step + 1)
    means = _forward_measures(run, step) if measures else {}
    load = _load(run, step)
    run.optimizer.zero_grad()
    loss = torch.zeros((), dtype=torch.float64, device=run.world.device)
    for rows in _micro_batches(run.rows, run.execution.micro_batch):
        inputs_BT, targets_BT = run.data.batch(step, config.batch_sequences, rows.start, rows.stop)
        inputs_BT = inputs_BT.to(run.world.device, non_blocking=True)
        reduce_across_copies(run.model, layout, now=rows.stop == run.rows.stop)
        with exchanging(run.world):
            mean, balance = _passed(run, inputs_BT, targets_BT.to(run.world.device, non_blocking=True), rows, load)
            minimised = mean if balance is None else mean + config.model.aux_weight * balance
            torch.autograd.backward(minimised * (len(rows) / len(run.rows)))
        loss += mean.detach() * (len(rows) / config.batch_sequences)
    if layout.shards == 1:
        average_gradients(run.model.parameters(), run.world)
    gradients = stability.gradient_squares(run.model, layout) if measures else {}
    grad_norm = run.optimizer.clip(config.optimizer.clip)
    updates = run.optimizer.step(scale, measured=measures)
    return _Step(
        step=step + 1,
        lr=config.rates.hidden * scale,
        loss=loss,
        grad_norm=grad_norm,
        stability=stability.gather(means, gradients, updates, config, layout) if measures else None,
    )


def _passed(
    run: _Run, inputs_BT: Tensor, targets_BT: Tensor, rows: range, load: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The mean loss over these rows of the batch, and the balance of their experts summed over layers, if any."""
    config = run.config
    if not config.balances:
        return run.model(inputs_BT, targets_BT=targets_BT), None
    context = config.model.context
    watch = Watch(group_tokens=config.aux_sequences * context, start=rows.start * context, load=load)
    mean, seen = run.model(inputs_BT, watch, targets_BT)
    return mean, seen["balance"].sum().to(mean.dtype)


def _load(run: _Run, step: int) -> Tensor | None:
    """What each expert has to do in each group of the batch, where the passes see parts of groups only."""
    config, micro_batch = run.config, run.execution.micro_batch
    if not config.looks_ahead(len(run.rows), micro_batch):
        return None
    micro_batches = _micro_batches(run.rows, micro_batch)
    load = stability.expert_load(run.model, run.data, config, run.world, step=step, micro_batches=micro_batches)
    give_up_gathered(run.model, run.optimizer.layout)
    return load


def _measures(run: _Run, done: int) -> bool:
    """Whether stability is measured at the step that makes it so many."""
    every = run.execution.stability_every
    return every > 0 and (done in (1, run.config.steps) or done % every == 0)


def _forward_measures(run: _Run, step: int) -> dict[str, Tensor]:
    per_batch = run.execution.micro_batch or len(run.rows)
    layout = run.optimizer.layout
    return stability.forward_measures(run.model, run.data, run.config, layout, step=step, per_batch=per_batch)


def _micro_batches(rows: range, micro_batch: int) -> Iterator[range]:
    """Consecutive parts of `rows`, `micro_batch` long (0: all at once); the last may be shorter.

    >>> list(_micro_batches(range(8, 13), 2))
    [range(8, 10), range(10, 12), range(12, 13)]
    """
    size = micro_batch or len(rows)
    return (rows[i : i + size] for i in range(0, len(rows), size))


def _steps_to_next_look(step_s: float, most: int) -> int:
    """As many steps of `step_s` seconds as fit into `LOOK_S`, from 1 to `most`.

    >>> [_steps_to_next_look(step_s, 16) for step_s in (0.01, 0.3, 45.0)]
    [16, 6, 1]
    """
    return most if step_s * most <= LOOK_S else max(1, int(LOOK_S / step_s))


def _validates(config: TrainConfig, done: int) -> bool:
    every = config.evaluation.every
    return done == config.steps or (every > 0 and done % every == 0)


def _look(
    pending: Sequence[_Step],
    run: _Run,
    should_stop: Callable[[], bool],
    wants_checkpoint: Callable[[float], bool],
    *,
    looked: float,
) -> _Look:
    """Wait for the steps since the look at `looked`, then tell each other of them: one exchange between ranks."""
    world = run.world
    losses = torch.stack([one.loss for one in pending]).tolist()
    norms = torch.stack([one.grad_norm for one in pending]).tolist()
    now = time.monotonic()
    step_s, saves = ((now - looked) / len(pending), float(wants_checkpoint(now))) if world.leads else (0.0, 0.0)
    total = sum_over_ranks([*losses, *norms, step_s, saves, float(should_stop())], world)
    seen = [
        _Seen(
            step=one.step,
            lr=one.lr,
            loss=loss,
            grad_norm=norm / world.size,
            stability=stability.rows(one.stability, run.config) if one.stability is not None else {},
        )
        for one, loss, norm in zip(pending, total[: len(pending)], total[len(pending) : -3], strict=True)
    ]
    return _Look(seen=seen, step_s=total[-3], saves=total[-2] > 0, stops=total[-1] > 0)


def _advance(
    progress: Progress, seen: Sequence[_Seen], elapsed_s: float, config: TrainConfig
) -> tuple[Progress, Sequence[_Seen]]:
    """The progress after these steps, and those of them that count: none after the one at which the run diverged."""
    judged, recent = progress.divergence, progress.recent
    tail = max(1, math.ceil(TAIL_SHARE * config.steps))
    counted = 0
    for one in seen:
        judged = watch(judged, step=one.step, steps=config.steps, loss=one.loss, grad_norm=one.grad_norm)
        recent = (*recent, one.loss)[-tail:]
        counted += 1
        if judged.reason:
            break
    after = replace(
        progress,
        step=progress.step + counted,
        divergence=judged,
        recent=recent,
        stepping_s=progress.stepping_s + elapsed_s,
    )
    return after, seen[:counted]


def _rows(run: _Run, seen: Sequence[_Seen], speed: float, validation: float | None) -> Iterator[dict[str, float]]:
    """The lines of the record: the first and every `log_every`-th step, and each with a validation (the last here) or
    a measurement of stability.
    """
    for one in seen:
        validated = validation is not None and one is seen[-1]
        if one.step == 1 or one.step % run.execution.log_every == 0 or validated or one.stability:
            yield {
                "step": one.step,
                "tokens": one.step * run.config.batch_tokens,
                "loss": one.loss,
                "lr": one.lr,
                "grad_norm": one.grad_norm,
                "tokens_per_s": speed,
                **({"val/loss": validation} if validation is not None and validated else {}),
                **one.stability,
            }


@torch.no_grad()
def _validate(run: _Run, caller: _Caller, step: int, speed: float) -> float:
    """Mean next-token cross-entropy over the fixed validation set, nats/token, its sequences shared by the ranks."""
    world, sequences = run.world, run.config.evaluation.sequences
    start, stop = sequences * world.rank // world.size, sequences * (world.rank + 1) // world.size
    per_batch = run.execution.micro_batch or len(run.rows)
    # Ranks that share a copy of the model gather it together: who has fewer batches passes another one, uncounted.
    turns = math.ceil(math.ceil(sequences / world.size) / per_batch)
    idle_BT = torch.zeros(1, run.config.model.context, dtype=torch.long)
    counted = ((*pair, len(pair[0])) for pair in run.data.validation(sequences, per_batch, start, stop))
    total = torch.zeros((), dtype=torch.float64, device=world.device)
    for inputs_BT, targets_BT, count in islice(chain(counted, repeat((idle_BT, idle_BT, 0))), turns):
        inputs_BT, targets_BT = (part.to(world.device, non_blocking=True) for part in (inputs_BT, targets_BT))
        with exchanging(world):
            mean = run.model(inputs_BT, targets_BT=targets_BT)
        if count:
            total += mean * count
        caller.alive(step)
        if world.leads:
            caller.observer.progress(0, step, run.config.steps, speed)
    give_up_gathered(run.model, run.optimizer.layout)
    (summed,) = sum_over_ranks([total.item()], world)
    return summed / sequences


def _smoothed(speed: float, now: float) -> float:
    return speed + (now - speed) / SPEED_LOOKS if speed else now


def _outcome(
    run: _Run,
    progress: Progress,
    state: Literal["done", "diverged", "stopped"],
    loss: float,
    reason: str,
    measured: Mapping[str, float] | None = None,
) -> Outcome:
    tokens = progress.step * run.config.batch_tokens
    return Outcome(
        state=state,
        loss=loss,
        train_loss=math.fsum(progress.recent) / len(progress.recent),
        steps=progress.step,
        tokens=tokens,
        wall_time_s=progress.wall_time_s,
        tokens_per_s=tokens / progress.stepping_s,
        reason=reason,
        device=run.world.device_name,
        stability=stability.averages(measured or {}),
    )
