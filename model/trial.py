"""How fast a stack of members trains on this device against one of them by itself: some steps of both, in turns."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from model.compiling import compile_blocks
from model.config import Execution, TrainConfig
from model.data import on_device, open_data, stacked
from model.distributed import join
from model.optimizer import DTYPES, make_optimizer
from model.schedule import multiplier
from model.shape import MEMORY_SHARE, choose_pass, settled
from model.transformer import Transformer

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
        step, times = stepper(train, execution), []
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


def stepper(train: TrainConfig | Sequence[TrainConfig], execution: Execution) -> Callable[[int], float]:
    """Makes a model and gives a function that trains one step of it; it returns the seconds.

    Of mixtures the loss that balances experts, a few sums, is left out.
    """
    members = (train,) if isinstance(train, TrainConfig) else tuple(train)
    config, device = members[0], join(execution.device).device
    seed = config.seed.init if isinstance(train, TrainConfig) else [member.seed.init for member in members]
    checkpointing = execution.activation_checkpointing == "on"
    model = Transformer(
        config.model, config.rates, seed=seed, dtype=DTYPES[config.precision], checkpointing=checkpointing
    ).to(device)
    if execution.compile == "on":
        compile_blocks(model, execution)
    optimizer = make_optimizer(model, train, triton=execution.triton)
    data = stacked([open_data(member.data, member.model, member.seed.data) for member in members])
    size = execution.micro_batch or config.batch_sequences

    def step(number: int) -> float:
        _wait(device)
        began = time.perf_counter()
        optimizer.zero_grad()
        for start in range(0, config.batch_sequences, size):
            stop = min(start + size, config.batch_sequences)
            batch = data.batch(number % config.steps, config.batch_sequences, start, stop)
            inputs_BT, targets_BT = (on_device(part, device) for part in batch)
            loss = model(inputs_BT, targets_BT=targets_BT)
            torch.autograd.backward(loss.sum() * ((stop - start) / config.batch_sequences))
        optimizer.clip(config.optimizer.clip)
        optimizer.step(multiplier(config.schedule, number % config.steps, config.steps))
        _wait(device)
        return time.perf_counter() - began

    return step


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
