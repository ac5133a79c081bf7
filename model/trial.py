"""How fast a stack of members trains on this device against one of them by itself: some steps of both, in turns."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median

import torch

from model.compiling import compile_blocks
from model.config import Execution, TrainConfig
from model.distributed import World, join
from model.shape import MEMORY_SHARE, choose_pass, settled
from model.step import prepare, take_step

WARM_UP = 2
"""Steps of each that are not counted: memory is found, kernels are chosen."""
TURNS = 5
"""Steps of each that are."""
ENOUGH_S = 10.0
"""After so long no further turn is begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Times of one step, seconds."""

    members: int
    together_s: float
    """Of the whole stack."""
    alone_s: float
    """Of one member."""

    @property
    def gain(self) -> float:
        """How many times faster the members are trained together than one after another."""
        return self.members * self.alone_s / self.together_s


def try_out(members: Sequence[TrainConfig], execution: Execution) -> Trial:
    """Time steps of models made for this alone; it costs about as much as 7 steps of the members, together and alone.

    Raises:
        ValueError: No such device, or data that cannot be read.
    """
    stack, single = stepper(members, execution), stepper(members[0], execution)
    began = time.monotonic()
    times: tuple[list[float], list[float]] = [], []
    for turn in range(WARM_UP + TURNS):
        for step, found in zip((stack, single), times, strict=True):
            took_s = step(turn)
            if turn >= WARM_UP:
                found.append(took_s)
        if times[0] and time.monotonic() - began > ENOUGH_S:
            break
    together_s, alone_s = map(median, times)
    return Trial(members=len(members), together_s=together_s, alone_s=alone_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """Steps of one run by itself."""

    steps_s: tuple[float, ...]
    """The time of each."""
    device: str
    """As torch calls it: `cpu`, or the model of a GPU."""
    torch: str
    """Its version."""


def time_steps(train: TrainConfig, execution: Execution, *, steps: int, limit_s: float) -> Timed:
    """Time so many steps of a run on one process; after `limit_s` no further one is begun, if three have been timed.

    The size of its passes is what the device holds.

    Raises:
        ValueError: No such device, or data that cannot be read.
    """
    world, threads = join(execution.device, {}), torch.get_num_threads()
    chosen = choose_pass(train, execution, processes=1, budget=MEMORY_SHARE * world.memory)
    execution = settled(execution, chosen)
    torch.set_num_threads(execution.threads)
    try:
        step, times = stepper(train, execution, world), []
        began = time.monotonic()
        for number in range(WARM_UP + steps):
            took_s = step(number)
            if number >= WARM_UP:
                times.append(took_s)
            if len(times) >= 3 and time.monotonic() - began > limit_s:
                break
    finally:
        torch.set_num_threads(threads)
    return Timed(steps_s=tuple(times), device=world.device_name, torch=torch.__version__)


def compare(one: Callable[[], None], other: Callable[[], None], device: torch.device) -> tuple[float, float]:
    """Median seconds that each takes, in turns; what it does first is not counted."""
    times: tuple[list[float], list[float]] = [], []
    began = time.monotonic()
    for turn in range(WARM_UP + TURNS):
        for work, found in zip((one, other), times, strict=True):
            _wait(device)
            started = time.perf_counter()
            work()
            _wait(device)
            if turn == WARM_UP - 1:
                began = time.monotonic()
            if turn >= WARM_UP:
                found.append(time.perf_counter() - started)
        if times[0] and time.monotonic() - began > ENOUGH_S:
            break
    return median(times[0]), median(times[1])


def stepper(
    train: TrainConfig | Sequence[TrainConfig], execution: Execution, world: World | None = None
) -> Callable[[int], float]:
    """Makes a model and gives a function that trains one step of it; it returns seconds.

    This process trains it alone and measures no stability, whatever the layout of the runs that are to come.

    Args:
        train: A run, or the members of a stack.
        world: Of this process; None for what it is part of.
    """
    members = (train,) if isinstance(train, TrainConfig) else tuple(train)
    world = world or join(execution.device)
    run = prepare(members, replace(execution, layout="ddp", shard_processes=0, stability_every=0), world)
    if execution.compile == "on":
        compile_blocks(run.model, execution)

    def step(number: int) -> float:
        _wait(world.device)
        began = time.perf_counter()
        take_step(run, number % run.config.steps)
        _wait(world.device)
        return time.perf_counter() - began

    return step


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
