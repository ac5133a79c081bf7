"""A run as this process holds it, a step of its training, and a pass over the validation set."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, repeat

import torch
from torch import Tensor

from model import stability
from model.config import Execution, TrainConfig
from model.corpus import check_corpus
from model.data import Data, on_device, open_data, stacked
from model.distributed import World, average_gradients, exchanging, share, sum_over_ranks
from model.moe import Watch
from model.optimizer import DTYPES, Optimizer, make_optimizer
from model.schedule import multiplier
from model.sharding import give_up_gathered, lay_out, make_layout, reduce_across_copies
from model.transformer import Transformer


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What training needs at hand: of one run, or of a stack of them."""

    config: TrainConfig
    """Of a stack, its first member's: what follows from it all members share, but for rates and seeds."""
    execution: Execution
    world: World
    rows: range
    """Of each global batch, those of this rank."""
    data: Data
    model: Transformer
    optimizer: Optimizer

    @property
    def stacked(self) -> bool:
        return self.optimizer.stacked

    @property
    def members(self) -> int:
        """Runs that are trained at once."""
        return len(self.model.embedding) if self.stacked else 1

    def each(self, value: Tensor) -> tuple[Tensor, ...]:
        """A quantity that a stack has for every member as its last dimension, by member."""
        return value.unbind(dim=-1) if self.stacked else (value,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step whose results may still be on the device."""

    step: int
    multiplier: float
    """Of the schedule: learning rate over its peak."""
    loss: Tensor
    """This rank's share of the mean loss over the global batch: the ranks' sum is the loss. 0-d, of a stack (R,)."""
    grad_norm: Tensor
    stability: Mapping[str, Tensor] | None
    """What was measured of it, the same on every rank."""


def prepare(members: Sequence[TrainConfig], execution: Execution, world: World) -> Run:
    """Data, model and optimiser of one run or of a stack, as they are before the first step.

    Raises:
        ValueError: Ranks that do not divide the batch, or unreadable data.
    """
    config, together = members[0], len(members) > 1
    rows = share(config.batch_sequences, world)
    orders = {seed: open_data(config.data, config.model, seed) for seed in {one.seed.data for one in members}}
    check_corpus(
        orders[config.seed.data].corpus,
        vocab=config.model.vocab,
        context=config.model.context,
        evaluation_sequences=config.evaluation.sequences,
    )
    seeds = [one.seed.init for one in members] if together else config.seed.init
    model = Transformer(
        config.model,
        config.rates,
        seed=seeds,
        dtype=DTYPES[config.precision],
        checkpointing=execution.activation_checkpointing == "on",
    )
    layout = make_layout(execution, world)
    lay_out(model, layout)
    return Run(
        config=config,
        execution=execution,
        world=world,
        rows=rows,
        data=stacked([orders[one.seed.data] for one in members]),
        model=model,
        optimizer=make_optimizer(model, members if together else config, layout, triton=execution.triton),
    )


def take_step(run: Run, step: int) -> Step:
    """One optimiser step on this rank's rows of the global batch, without waiting for the device."""
    config, layout = run.config, run.optimizer.layout
    scale = multiplier(config.schedule, step, config.steps)
    measures = _measures(run, step + 1)
    means = _forward_measures(run, step) if measures else {}
    load = expert_load(run, step)
    run.optimizer.zero_grad()
    loss = torch.zeros((), dtype=torch.float64, device=run.world.device)  # of a stack, it grows to (R,)
    for rows in micro_batches(run.rows, run.execution.micro_batch):
        batch = run.data.batch(step, config.batch_sequences, rows.start, rows.stop)
        inputs_BT, targets_BT = (on_device(part, run.world.device) for part in batch)
        reduce_across_copies(run.model, layout, now=rows.stop == run.rows.stop)
        with exchanging(run.world):
            mean, balance = pass_over(run, inputs_BT, targets_BT, rows, load)
            minimised = mean if balance is None else mean + config.model.aux_weight * balance
            torch.autograd.backward(minimised.sum() * (len(rows) / len(run.rows)))
        loss = loss + (mean.detach() * (len(rows) / config.batch_sequences)).double()
    if layout.shards == 1:
        average_gradients(run.model.parameters(), run.world)
    gradients = stability.gradient_squares(run.model, layout, stacked=run.stacked) if measures else {}
    grad_norm = run.optimizer.clip(config.optimizer.clip)
    updates = run.optimizer.step(scale, measured=measures)
    return Step(
        step=step + 1,
        multiplier=scale,
        loss=loss,
        grad_norm=grad_norm,
        stability=stability.gather(means, gradients, updates, config, layout) if measures else None,
    )


def pass_over(
    run: Run, inputs_BT: Tensor, targets_BT: Tensor, rows: range, load: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The mean loss over these rows of the batch, and the balance of their experts summed over layers, if any."""
    config = run.config
    if not config.balances:
        return run.model(inputs_BT, targets_BT=targets_BT), None
    context = config.model.context
    watch = Watch(group_tokens=config.aux_sequences * context, start=rows.start * context, load=load)
    mean, seen = run.model(inputs_BT, watch, targets_BT)
    return mean, seen["balance"].sum().to(mean.dtype)


def expert_load(run: Run, step: int) -> Tensor | None:
    """What each expert has to do in each group of the batch, where the passes see parts of groups only."""
    config, micro_batch = run.config, run.execution.micro_batch
    if not config.looks_ahead(len(run.rows), micro_batch):
        return None
    parts = micro_batches(run.rows, micro_batch)
    load = stability.expert_load(run.model, run.data, config, run.world, step=step, micro_batches=parts)
    give_up_gathered(run.model, run.optimizer.layout)
    return load


def _measures(run: Run, done: int) -> bool:
    """Whether stability is measured at the step that makes it so many."""
    every = run.execution.stability_every
    return every > 0 and (done in (1, run.config.steps) or done % every == 0)


def _forward_measures(run: Run, step: int) -> dict[str, Tensor]:
    per_batch = run.execution.micro_batch or len(run.rows)
    layout = run.optimizer.layout
    return stability.forward_measures(run.model, run.data, run.config, layout, step=step, per_batch=per_batch)


def micro_batches(rows: range, micro_batch: int) -> Iterator[range]:
    """Consecutive parts of `rows`, `micro_batch` long (0: all at once); the last may be shorter.

    >>> list(micro_batches(range(8, 13), 2))
    [range(8, 10), range(10, 12), range(12, 13)]
    """
    size = micro_batch or len(rows)
    return (rows[i : i + size] for i in range(0, len(rows), size))


@torch.no_grad()
def validate(run: Run, alive: Callable[[], None]) -> list[float]:
    """Each member's mean next-token cross-entropy over the fixed validation set, nats/token.

    The ranks share its sequences; each says that it is `alive` after every batch.
    """
    world, sequences = run.world, run.config.evaluation.sequences
    start, stop = sequences * world.rank // world.size, sequences * (world.rank + 1) // world.size
    per_batch = run.execution.micro_batch or len(run.rows)
    # Ranks that share a copy of the model gather it together: who has fewer batches passes another one, uncounted.
    turns = math.ceil(math.ceil(sequences / world.size) / per_batch)
    idle_BT = torch.zeros(1, run.config.model.context, dtype=torch.long)
    counted = ((*pair, len(pair[0])) for pair in run.data.validation(sequences, per_batch, start, stop))
    total = torch.zeros((), dtype=torch.float64, device=world.device)
    for inputs_BT, targets_BT, count in islice(chain(counted, repeat((idle_BT, idle_BT, 0))), turns):
        inputs_BT, targets_BT = (on_device(part, world.device) for part in (inputs_BT, targets_BT))
        with exchanging(world):
            mean = run.model(inputs_BT, targets_BT=targets_BT)
        if count:
            total = total + (mean * count).double()
        alive()
    give_up_gathered(run.model, run.optimizer.layout)
    return [summed / sequences for summed in sum_over_ranks(total.flatten().tolist(), world)]
