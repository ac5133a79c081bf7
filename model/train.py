"""The training loop: a configuration in, an outcome out; resumable, on one process or several.

The losses of a run depend on its configuration only. They are the same bit for bit on a CPU whether or not the run was
interrupted, and the same up to rounding whatever the micro-batch, the number of ranks, and whether other runs are
trained together with it. Which ones does not matter. Only what `execution.compile=auto` measures is measured again by a
run that was killed before its first checkpoint, and may come out otherwise.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from model import stability
from model.checkpoint import Found, newest_checkpoint, read_checkpoint
from model.compiling import as_written, compile_blocks, leave_as_written
from model.config import Execution, TrainConfig
from model.data import StackedData
from model.devices import peak_flops, why_not_compiled
from model.distributed import from_lead, join, sum_over_ranks
from model.divergence import Divergence, watch
from model.faults import fault
from model.fusing import stack_key
from model.saving import Saver
from model.shape import MEMORY_SHARE, choose_pass, model_shape, settled
from model.sharding import shard_processes
from model.state import full_state, load_member, load_state, member_state
from model.step import Run, Step, expert_load, micro_batches, pass_over, prepare, take_step, validate
from model.trial import Trial, compare, try_out

TAIL_SHARE = 0.05
"""`train_loss` is the mean over this last share of the steps."""
LOOK_STEPS = {"cpu": 1, "cuda": 16}
"""Most steps between two looks at the losses and the wish to stop: on a GPU each look waits for the device."""
LOOK_S = 2.0
"""Steps that take longer than this together are looked at sooner: who stops a run waits for it."""
SPEED_LOOKS = 20
"""Looks over which the displayed tokens/s is averaged."""
COMPILE_AFTER = 8
"""Steps after which `execution.compile=auto` knows what a step takes."""
COMPILE_FROM_S = 1800.0
"""Seconds of steps that must be left then: compiling takes 25 to 70 s on a CPU (measured), 4 % at most."""
COMPILE_GAIN = 1.03
"""What a compiled pass must gain to be kept: less is lost in the noise of a few passes."""
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
    stack: int
    """Members that it was trained with from this attempt's start on, itself among them."""
    device: str
    """What rank 0 trained on, as torch calls it: `cpu`, or the model of a GPU."""
    begun: bool = field(default=True, kw_only=True)
    """Whether it was trained at all: false of one that was asked to stop before its turn."""
    stability: Mapping[str, float]
    """What was last measured (`model.stability`), averaged over layers, by metric; of a run that is done, at its last
    step."""


class Observer(Protocol):
    """Who is told how a run goes; called on rank 0 only."""

    def metrics(self, member: int, row: Mapping[str, float]) -> None:
        """A line of the run's record: step (from 1), tokens, loss, lr (of hidden matrices), grad_norm (before
        clipping), tokens_per_s; `mfu` on a GPU whose peak is known; `val/loss` after a validation; and what
        `model.stability` measured.
        """

    def progress(self, member: int, step: int, steps: int, tokens_per_s: float) -> None:
        """A sign of life, at every look and every batch of a validation."""

    def note(self, member: int, text: str) -> None:
        """A sentence for the log: how a run is carried out by memory or measurement, or trouble that training
        outlives, a checkpoint that is damaged, late or cannot be written."""


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
    compiled: bool = False
    """Whether `execution.compile=auto` found that compiled blocks gain: a run that resumes computes as before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Caller:
    """Whom training tells and asks: the arguments of `train`."""

    observer: Observer
    should_stop: Callable[[], bool]
    may_write: Callable[[int], bool]
    alive: Callable[[int], None]
    ended: Callable[[int, "Outcome"], None]

    def note(self, member: int, text: str) -> None:
        self.observer.note(member, text)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """A step's results on the host, the same on every rank."""

    step: int
    multiplier: float
    loss: float
    grad_norm: float
    stability: Mapping[str, float]
    """By the names of `metrics.jsonl`; empty where nothing was measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """What all ranks learn together at a look, the same on each: what follows from it they do at the same step."""

    seen: Sequence[Sequence[_Seen]]
    """Of each member."""
    step_s: float
    """Time of one of these steps, by the clock of rank 0."""
    saves: bool
    """Whether rank 0 wants a checkpoint."""
    stops: bool
    """Whether any rank was asked to stop."""


@dataclass(slots=True, kw_only=True)
class _Course:
    """A member on its way."""

    number: int
    """Its place among those that `train` was given."""
    config: TrainConfig
    saver: Saver
    progress: Progress
    earlier_s: float
    """Wall time of the attempts before this one."""
    stack: int
    """Members of its stack at the start."""
    measured: Mapping[str, float] = field(default_factory=dict)
    """What was last measured of its stability."""


def train(
    members: Sequence[Member],
    execution: Execution,
    observer: Observer,
    should_stop: Callable[[], bool],
    *,
    may_write: Callable[[int], bool] = lambda _member: True,
    alive: Callable[[int], None] = lambda _steps: None,
    ended: Callable[[int, Outcome], None] = lambda _member, _outcome: None,
    tried: Callable[[Trial], bool] | None = None,
    memory: float = 0.0,
    sharing: int = 1,
    halved: int = 0,
) -> tuple[Outcome, ...]:
    """Train each member to its end, or until `should_stop`; resumes from the newest whole checkpoint.

    Several members are trained together as one stack (`model.fusing`): those that resume at the same step, on one
    process. Each has its own metrics, checkpoints and end; one that diverges leaves the stack. Their checkpoints are
    those of runs by themselves, so that each may resume with others or alone.

    A checkpoint that cannot be written ends nothing: the observer is told, those before it are kept, and the next is
    tried when it is due. If it is the last one of a run that is asked to stop, the outcome's reason says so.

    Args:
        members: Runs with the same `stack_key`, or one of any kind.
        execution: Device, threads, micro-batch, checkpoint and log intervals.
        observer: Told of metrics, progress and trouble on rank 0.
        should_stop: Asked at step boundaries on every rank; one rank's yes checkpoints and stops all.
        may_write: Asked on rank 0 before every checkpoint and before the end: whether this attempt still owns the
            member's run. Its no stops it on all ranks; they write nothing more, and the reason is `TAKEN_OVER`.
        alive: Told the steps done on every rank: before the first step, at every look, and at every batch of a
            validation: what a watchdog lives on. It hears nothing while ranks wait for the last checkpoint.
        ended: Told of each member as it ends, on every rank.
        tried: Told how fast the stack is and how fast its members are alone, measured for some steps; it answers
            whether they are trained together, else they are one after another. None: together, nothing is measured.
        memory: Bytes of this process, by which the size of its passes is chosen (`model.shape.choose_pass`); 0 takes
            what its device has. Every rank goes by what rank 0 knows.
        sharing: Processes that are at work on that device at a time.
        halved: How often memory ran out in earlier attempts.

    Returns:
        The outcome of each member, the same on every rank.

    Raises:
        ValueError: Members that cannot be stacked, ranks that do not divide the batch, no such device, unreadable data
            or a checkpoint of another configuration.
        PeerLost: Another rank is gone; the checkpoints are kept.
    """
    keys = {stack_key(member.config) for member in members}
    if len(members) > 1 and (len(keys) > 1 or None in keys):
        raise ValueError("these runs cannot be trained together; call train once for each")
    if len({member.checkpoints for member in members}) < len(members):
        raise ValueError("each member needs a folder of its own for its checkpoints")
    with _torch_settings(execution):
        caller = _Caller(observer=observer, should_stop=should_stop, may_write=may_write, alive=alive, ended=ended)
        world = join(execution.device)
        if len(members) > 1 and world.size > 1:
            raise ValueError("a stack is trained by one process; train these runs one by one")
        memory = (memory or world.memory / sharing) / len(members)
        execution = _sized(members[0].config, execution, caller, memory=memory, halved=halved)
        outcomes: dict[int, Outcome] = {}
        for some, step in _together(dict(enumerate(members)), execution, caller, tried):
            if outcomes and should_stop():
                for number, member in some.items():
                    outcomes[number] = _not_begun(member, execution)
                    ended(number, outcomes[number])
            else:
                outcomes |= _train(some, execution, caller, up_to=step)
    return tuple(outcomes[number] for number in range(len(members)))


def _sized(config: TrainConfig, execution: Execution, caller: _Caller, *, memory: float, halved: int) -> Execution:
    """The execution with the size of a pass and whether activations are kept, the same on every rank."""
    world = join(execution.device)
    told_memory, told_halved = from_lead(f"{memory!r} {halved}", world).split()
    halved = int(told_halved)
    chosen = choose_pass(
        config,
        execution,
        processes=world.size,
        budget=MEMORY_SHARE * float(told_memory),
        shard_processes=shard_processes(execution, world),
        halved=halved,
    )
    share = -(-config.batch_sequences // world.size)
    by_itself = execution.micro_batch == 0 and chosen.sequences < share
    by_itself |= execution.activation_checkpointing == "auto" and chosen.checkpointing
    if world.leads and (by_itself or halved):
        why = f"after memory ran out ({halved} ×)" if halved else "to fit into memory"
        again = ", computing activations again for the backward pass" if chosen.checkpointing else ""
        gib = f"{chosen.memory / 2**30:.1f} GiB by estimate"
        caller.note(0, f"micro-batch {chosen.sequences} of {share} sequences {why}{again}: {gib}")
    return settled(execution, chosen)


def _not_begun(member: Member, execution: Execution) -> Outcome:
    """Of a member that was asked to stop before its turn came."""
    return Outcome(
        state="stopped",
        loss=math.nan,
        train_loss=math.nan,
        steps=newest_checkpoint(member.checkpoints, member.config).step,
        tokens=0,
        wall_time_s=0.0,
        tokens_per_s=0.0,
        reason="asked to stop before its turn",
        begun=False,
        stack=1,
        device=join(execution.device).device_name,
        stability={},
    )


def _together(
    members: Mapping[int, Member],
    execution: Execution,
    caller: _Caller,
    tried: Callable[[Trial], bool] | None,
) -> Iterator[tuple[Mapping[int, Member], int | None]]:
    """The members by number, those together that are one stack, and the step that they resume at (None: the last).

    A kill may leave some with a checkpoint more: they go back to the one that all have rather than go on by themselves.
    """
    if len(members) == 1:
        yield members, None
        return
    steps = {number: newest_checkpoint(member.checkpoints, member.config).step for number, member in members.items()}
    common = min(steps.values())
    by_step: dict[int, dict[int, Member]] = {}
    for number, member in members.items():
        step = steps[number]
        if step > common > 0 and newest_checkpoint(member.checkpoints, member.config, common).step == common:
            step = common
        by_step.setdefault(step, {})[number] = member
        caller.observer.progress(number, step, member.config.steps, 0.0)  # those that wait are no less alive
    caller.alive(0)
    for step, some in by_step.items():
        # Members that have made steps together go on so: bit for bit.
        if len(some) == 1 or step > 0 or tried is None or _pays(some, execution, caller, tried):
            yield some, step
        else:
            yield from (({number: member}, None) for number, member in some.items())


def _pays(members: Mapping[int, Member], execution: Execution, caller: _Caller, tried: Callable[[Trial], bool]) -> bool:
    """The caller's answer to a trial; no, where a stack and a run beside it do not fit into memory."""
    try:
        trial = try_out([member.config for member in members.values()], execution)
    except (RuntimeError, MemoryError) as error:
        if fault(error) != "memory":
            raise
        caller.note(next(iter(members)), f"{len(members)} runs together do not fit into memory: one after another")
        return False
    return tried(trial)


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


def _train(
    members: Mapping[int, Member], execution: Execution, caller: _Caller, *, up_to: int | None
) -> dict[int, Outcome]:
    """Train one run or one stack, from its last checkpoint or the one that all its members have."""
    started = time.monotonic()
    run = prepare([member.config for member in members.values()], execution, join(execution.device))
    if execution.compile == "on":
        compile_blocks(run.model, execution)
    with ExitStack() as savers:
        courses = []
        for place, (number, member) in enumerate(members.items()):
            note = partial(caller.note, number)
            found = _newest(run, member, note, up_to)
            progress = _resume(run, place, member, found.path)
            saver = Saver(member.checkpoints, member.config, execution.checkpoint, found, note)
            courses.append(
                _Course(
                    number=number,
                    config=member.config,
                    saver=savers.enter_context(saver),
                    progress=progress,
                    earlier_s=progress.wall_time_s,
                    stack=len(members),
                )
            )
        return _train_on(run, courses, caller, started=started)


def _train_on(run: Run, courses: list[_Course], caller: _Caller, *, started: float) -> dict[int, Outcome]:
    """Train on from the step that all have made; `started`, the time at which this attempt did, counts as wall time."""
    config, leads = run.config, run.world.leads
    outcomes: dict[int, Outcome] = {}
    begun = courses[0].progress.step
    speed = 0.0
    pending: list[Step] = []
    _show(run, courses, caller, speed)
    if _may_be_compiled(run) and courses[0].progress.compiled:
        _compiled_before(run, courses[0], caller)
    undecided = _may_be_compiled(run) and begun < COMPILE_AFTER
    looked = time.monotonic()
    look_at = begun + 1  # nothing is known yet of how long a step takes
    for step in range(begun, config.steps):
        pending.append(take_step(run, step))
        if step + 1 < look_at and not _validates(config, step + 1):
            continue
        look = _look(pending, run, courses, caller.should_stop, looked=looked)
        look_at = step + 1 + _steps_to_next_look(look.step_s, LOOK_STEPS[run.world.device.type])
        now = time.monotonic()
        speed = _smoothed(speed, config.batch_tokens * len(pending) / max(now - looked, 1e-9))
        pending.clear()
        counted = [_advance(course, seen, now - looked) for course, seen in zip(courses, look.seen, strict=True)]
        _show(run, courses, caller, speed)
        validations: Sequence[float | None] = [None] * len(courses)
        if _validates(config, step + 1) and not all(course.progress.divergence.reason for course in courses):
            validations = validate(run, partial(_show, run, courses, caller, speed))
        if undecided and step + 1 >= COMPILE_AFTER:  # before a checkpoint of this step, which is to know
            undecided = False
            if (config.steps - step - 1) * look.step_s >= COMPILE_FROM_S:
                course = courses[0]
                course.progress = replace(course.progress, compiled=_try_compiled(run, course, caller, step))
        left = []
        for place, (course, seen, loss) in enumerate(zip(courses, counted, validations, strict=True)):
            validation = None if course.progress.divergence.reason else loss
            if leads:
                for row in _rows(run, course, seen, speed, validation):
                    caller.observer.metrics(course.number, row)
            wall_time_s = course.earlier_s + time.monotonic() - started
            course.progress = replace(course.progress, wall_time_s=wall_time_s)
            outcome = _outcome_at(run, place, course, caller, look, validation, last=seen[-1])
            if outcome is None:
                left.append(place)
            else:
                outcomes[course.number] = outcome
                course.saver.settle(wait=True)  # nothing of it is written after the caller knows
                caller.ended(course.number, outcome)
        if not left:
            return outcomes
        if len(left) < len(courses):
            run, courses = _narrowed(run, courses, left), [courses[place] for place in left]
        looked = time.monotonic()
    raise AssertionError("the last step validates and returns")


def _may_be_compiled(run: Run) -> bool:
    """Whether `auto` may: where shards are exchanged within passes, ranks that disagree would wait for ever."""
    return run.execution.compile == "auto" and not run.stacked and run.optimizer.layout.shards == 1


def _compiled_before(run: Run, course: _Course, caller: _Caller) -> None:
    """Go on with compiled blocks where they were chosen before."""
    if why := why_not_compiled(run.world.device.type):
        if run.world.leads:
            caller.note(course.number, f"its blocks are not compiled any more: {why}")
        return
    compile_blocks(run.model, run.execution)


def _try_compiled(run: Run, course: _Course, caller: _Caller, step: int) -> bool:
    """Compile the blocks if passes are faster so, as rank 0 measures; the same on every rank."""
    config, rows = run.config, next(micro_batches(run.rows, run.execution.micro_batch))
    inputs_BT, targets_BT = run.data.batch(step, config.batch_sequences, rows.start, rows.stop)
    inputs_BT, targets_BT = inputs_BT.to(run.world.device), targets_BT.to(run.world.device)
    load = expert_load(run, step)

    def compiled() -> None:
        mean, _ = pass_over(run, inputs_BT, targets_BT, rows, load)
        torch.autograd.backward(mean.sum())
        run.optimizer.zero_grad()
        caller.alive(step + 1)

    def written() -> None:
        with as_written(run.model):
            compiled()

    began, why, times = time.monotonic(), "", (0.0, 0.0)
    try:
        compile_blocks(run.model, run.execution)
        times = compare(written, compiled, run.world.device)
    except Exception as error:  # whatever a compiler may fail of: training goes on without it
        why = str(error).partition("\n")[0] or type(error).__name__
        run.optimizer.zero_grad()
    failed, written_s, compiled_s = sum_over_ranks(
        [float(bool(why)), *(times if run.world.leads else (0.0, 0.0))], run.world
    )
    gains = not failed and written_s >= COMPILE_GAIN * compiled_s
    if not gains:
        leave_as_written(run.model)
    if run.world.leads:
        took_s = time.monotonic() - began
        found = (
            f"a pass takes {1e3 * written_s:.4g} ms as written, {1e3 * compiled_s:.4g} ms compiled"
            if not failed
            else f"they cannot be ({why or 'on another rank'})"
        )
        caller.note(
            course.number, f"blocks are {'' if gains else 'not '}compiled: {found}; to find out took {took_s:.0f} s"
        )
    return gains


def _show(run: Run, courses: Sequence[_Course], caller: _Caller, speed: float) -> None:
    """Give the caller a sign of life."""
    caller.alive(max(course.progress.step for course in courses))
    if run.world.leads:
        for course in courses:
            caller.observer.progress(course.number, course.progress.step, run.config.steps, speed)


def _outcome_at(
    run: Run,
    place: int,
    course: _Course,
    caller: _Caller,
    look: _Look,
    validation: float | None,
    *,
    last: _Seen,
) -> Outcome | None:
    """How a member ends at this look; None where it goes on, its checkpoint written if one is due."""
    progress, steps = course.progress, course.config.steps
    diverged = progress.divergence.reason
    ends = bool(diverged) or progress.step == steps
    if (ends or look.stops or look.saves) and not _owned(run, course, caller):
        return _outcome(run, course, "stopped", math.nan, TAKEN_OVER)
    if diverged:
        return _outcome(run, course, "diverged", last.loss, diverged)
    if validation is not None and ends:
        if not math.isfinite(validation):
            why = f"the validation loss became {validation}"
            return _outcome(run, course, "diverged", validation, why)
        if run.execution.checkpoint.keep_final:
            _save_final(run, place, course)
        return _outcome(run, course, "done", validation, "")
    if look.stops:
        reason = f"asked to stop at step {progress.step} of {steps}{_save(run, place, course, last=True)}"
        return _outcome(run, course, "stopped", math.nan, reason)
    if look.saves:
        _save(run, place, course, last=False)
    return None


def _narrowed(run: Run, courses: Sequence[_Course], left: Sequence[int]) -> Run:
    """The run without the members that have ended."""
    run.optimizer.keep(left)
    data = run.data
    if isinstance(data, StackedData):
        data = StackedData(members=tuple(data.members[place] for place in left))
    return replace(run, config=courses[left[0]].config, data=data)


def _newest(run: Run, member: Member, note: Callable[[str], None], up_to: int | None) -> Found:
    """What rank 0 finds to resume from; the others look for nothing."""
    if not run.world.leads:
        return Found()
    found = newest_checkpoint(member.checkpoints, member.config, up_to)
    for path, flaw in found.damaged.items():
        note(f"checkpoint {path} is passed over ({flaw}); the run resumes from step {found.step}")
    return found


def _resume(run: Run, place: int, member: Member, newest: Path | None) -> Progress:
    """Load the checkpoint that rank 0 found, if any, into the run of every rank; its progress, or a new run's."""
    name = from_lead(newest.name if newest else "", run.world)
    if not name:
        return Progress()
    step, state = read_checkpoint(member.checkpoints / name, torch.device("cpu"))
    if run.stacked:
        load_member(run.model, run.optimizer, place, state)
    else:
        load_state(run.model, run.optimizer, state)
    progress = state["progress"]
    return Progress(
        step=step,
        divergence=Divergence(**progress["divergence"]),
        recent=tuple(progress["recent"]),
        wall_time_s=progress["wall_time_s"],
        stepping_s=progress["stepping_s"],
        compiled=progress.get("compiled", False),
    )


def _owned(run: Run, course: _Course, caller: _Caller) -> bool:
    """Whether this attempt may still write, as rank 0 knows and every rank learns."""
    (lost,) = sum_over_ranks([float(run.world.leads and not caller.may_write(course.number))], run.world)
    return lost == 0


def _state(run: Run, place: int) -> dict[str, Any] | None:
    """What a checkpoint of the member holds, on rank 0."""
    if run.stacked:
        return member_state(run.model, run.optimizer, place)
    return full_state(run.model, run.optimizer, run.world)


def _save(run: Run, place: int, course: _Course, *, last: bool) -> str:
    """Rank 0 writes what the ranks hold together; no rank waits unless it is the `last`.

    Returns:
        Of the last one: on every rank, what to add to the run's reason if it is not safe; else nothing.
    """
    saver, progress = course.saver, course.progress
    saver.settle(wait=True)  # before the copy: host memory holds one at a time
    state = _state(run, place)
    lost = ""
    if state is not None:
        state["progress"] = asdict(replace(progress, recent=())) | {"recent": list(progress.recent)}
        if why := saver.save(state, progress.step, wait=last):
            lost = f"; its last checkpoint could not be written ({why}): it resumes from step {saver.safe_step}"
    return from_lead(lost, run.world) if last else ""


def _save_final(run: Run, place: int, course: _Course) -> None:
    course.saver.settle(wait=True)
    state = _state(run, place)
    if state is not None:
        course.saver.save_final(state["model"])
    from_lead("", run.world)  # no rank leaves before it is written


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
    pending: Sequence[Step],
    run: Run,
    courses: Sequence[_Course],
    should_stop: Callable[[], bool],
    *,
    looked: float,
) -> _Look:
    """Wait for the steps since the look at `looked`, then tell each other of them: one exchange between ranks."""
    world, count, members = run.world, len(pending), len(courses)
    losses = torch.stack([one.loss for one in pending]).movedim(0, -1).flatten().tolist()  # member by member
    norms = torch.stack([one.grad_norm for one in pending]).movedim(0, -1).flatten().tolist()
    now = time.monotonic()
    due = [course.saver.wants(now) for course in courses] if world.leads else []
    step_s = (now - looked) / count if world.leads else 0.0
    total = sum_over_ranks([*losses, *norms, step_s, float(any(due)), float(should_stop())], world)
    measured = [
        [one.stability and {name: run.each(value)[place] for name, value in one.stability.items()} for one in pending]
        for place in range(members)
    ]
    seen = [
        [
            _Seen(
                step=one.step,
                multiplier=one.multiplier,
                loss=total[place * count + i],
                grad_norm=total[(members + place) * count + i] / world.size,
                stability=stability.rows(part, run.config) if (part := measured[place][i]) is not None else {},
            )
            for i, one in enumerate(pending)
        ]
        for place in range(members)
    ]
    return _Look(seen=seen, step_s=total[-3], saves=total[-2] > 0, stops=total[-1] > 0)


def _advance(course: _Course, seen: Sequence[_Seen], elapsed_s: float) -> Sequence[_Seen]:
    """Take these steps into the member's progress; those that count: none after the one at which it diverged."""
    config, progress = course.config, course.progress
    judged, recent = progress.divergence, progress.recent
    tail = max(1, math.ceil(TAIL_SHARE * config.steps))
    counted = 0
    for one in seen:
        judged = watch(judged, step=one.step, steps=config.steps, loss=one.loss, grad_norm=one.grad_norm)
        recent = (*recent, one.loss)[-tail:]
        counted += 1
        if judged.reason:
            break
    course.progress = replace(
        progress,
        step=progress.step + counted,
        divergence=judged,
        recent=recent,
        stepping_s=progress.stepping_s + elapsed_s,
    )
    course.measured = next((one.stability for one in reversed(seen[:counted]) if one.stability), course.measured)
    return seen[:counted]


def _rows(
    run: Run, course: _Course, seen: Sequence[_Seen], speed: float, validation: float | None
) -> Iterator[dict[str, float]]:
    """The lines of the record: the first and every `log_every`-th step, and each with a validation (the last here) or
    a measurement of stability.
    """
    mfu = _mfu(run, speed * run.members)
    for one in seen:
        validated = validation is not None and one is seen[-1]
        if one.step == 1 or one.step % run.execution.log_every == 0 or validated or one.stability:
            yield {
                "step": one.step,
                "tokens": one.step * run.config.batch_tokens,
                "loss": one.loss,
                "lr": course.config.rates.hidden * one.multiplier,
                "grad_norm": one.grad_norm,
                "tokens_per_s": speed,
                **mfu,
                **({"val/loss": validation} if validation is not None and validated else {}),
                **one.stability,
            }


def _mfu(run: Run, speed: float) -> dict[str, float]:
    """The share of the devices' peak that so many tokens/s of all members take: causal FLOPs over dense bfloat16."""
    peak = peak_flops(run.world.device_name)
    per_token = model_shape(run.config.model).flops_per_token_causal
    return {} if peak is None else {"mfu": speed * per_token / (peak * run.world.size)}


def _smoothed(speed: float, now: float) -> float:
    return speed + (now - speed) / SPEED_LOOKS if speed else now


def _outcome(
    run: Run, course: _Course, state: Literal["done", "diverged", "stopped"], loss: float, reason: str
) -> Outcome:
    progress = course.progress
    tokens = progress.step * course.config.batch_tokens
    return Outcome(
        state=state,
        loss=loss,
        train_loss=math.fsum(progress.recent) / len(progress.recent),
        steps=progress.step,
        tokens=tokens,
        wall_time_s=progress.wall_time_s,
        tokens_per_s=tokens / progress.stepping_s,
        reason=reason,
        stack=course.stack,
        device=run.world.device_name,
        stability=stability.averages(course.measured if state != "stopped" else {}),
    )
