"""Sharing out Newton–Schulz: which rank orthogonalises which matrix, and how matrices travel there and back.

The iteration needs whole matrices, and every copy of the model needs its result. So each matrix has one owner among all
ranks: the rows of its update go there from the ranks of the owner's copy, and the rows of its direction come back to
the ranks of every copy. An expert lies whole on one shard and is owned there: it travels to other copies only.

Matrices travel in rounds of many stacks, two exchanges each: their number grows with the size of the model, not with
the number of its matrices. While one round is orthogonalised the updates of the next are on their way.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.distributed import exchange
from model.parameters import ROUND_ELEMENTS
from model.sharding import Layout

Orthogonalise = Callable[[Tensor], Tensor]
"""A map of whole matrices, (…, out, in)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """So many parameters of one shape, (out, in) or (experts, out, in)."""

    count: int
    shape: tuple[int, ...]

    @property
    def experts(self) -> int:
        """Matrices of one parameter."""
        return self.shape[0] if len(self.shape) > 2 else 1

    def cut(self, layout: Layout) -> bool:
        """Whether matrices are cut, each rank of a copy holding some rows, rather than whole somewhere."""
        return layout.shards > 1 and len(self.shape) == 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """How the matrices of one stack travel between this rank and the others."""

    order: Tensor
    """The matrices that this rank holds (rows of), sorted by owner."""
    place: Tensor
    """Where in `order` each of them stands."""
    counts: tuple[int, ...]
    """How many of them each rank owns."""
    owned: int
    """Matrices that this rank owns."""
    rows: tuple[int, ...]
    """Rows that each rank holds of a matrix that this rank owns."""
    columns: int
    cut: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Stacks that travel together."""

    stacks: range
    """Which ones, of those that `plan_rounds` was given."""
    routes: tuple[Route, ...]
    layout: Layout

    def begin(self, updates: Sequence[Tensor]) -> Callable[[Orthogonalise], list[Tensor]]:
        """Send the updates on their way to the ranks that own their matrices.

        Args:
            updates: One per stack, (matrices, rows held, in) or (parameters, experts held, out, in).

        Returns:
            A function of `Orthogonalise`, which it calls once for each stack of which this rank owns a matrix: what
            comes of that for what this rank holds, in the shapes of `updates`. The two take two collectives at most,
            none where matrices neither are cut nor have copies; both may raise.

        Raises:
            PeerLost: Another rank is gone.
        """
        world, routes = self.layout.world, self.routes
        if world.size == 1:
            return lambda orthogonalise: [orthogonalise(update) for update in updates]
        shared = [
            torch.split(update.flatten(0, -3).index_select(0, route.order), list(route.counts))
            for update, route in zip(updates, routes, strict=True)
        ]
        cut = any(route.cut for route in routes)
        owned = self._gather(shared) if cut else lambda: [pieces[world.rank] for pieces in shared]
        shapes = [update.shape for update in updates]

        def directions(orthogonalise: Orthogonalise) -> list[Tensor]:
            done = [orthogonalise(matrices) if len(matrices) else matrices for matrices in owned()]
            if cut or self.layout.copies > 1:
                done = [torch.cat(pieces) for pieces in self._returned(done)]
            return [
                direction.index_select(0, route.place).view(shape)
                for direction, route, shape in zip(done, routes, shapes, strict=True)
            ]

        return directions

    def _gather(self, shared: Sequence[Sequence[Tensor]]) -> Callable[[], list[Tensor]]:
        """Gather the whole matrices that this rank owns, from the rows that the ranks of its copy hold."""
        world = self.layout.world
        ranks = range(world.size)
        own = [self.layout.copy_of(rank) == self.layout.copy_of(world.rank) for rank in ranks]
        shapes = [[(r.owned, r.rows[rank] if own[rank] else 0, r.columns) for r in self.routes] for rank in ranks]
        sent = [[pieces[rank] if own[rank] else pieces[rank][:0] for pieces in shared] for rank in ranks]
        received = _exchange(sent, shapes, self.layout)
        return lambda: [torch.cat(rows, dim=-2) for rows in zip(*received(), strict=True)]

    def _returned(self, directions: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
        """For each stack, the rows that this rank holds of its matrices' directions, by owner."""
        ranks, here = range(self.layout.world.size), self.layout.world.rank
        of_shards = [
            torch.split(direction, list(route.rows[: self.layout.shards]), dim=-2)
            for direction, route in zip(directions, self.routes, strict=True)
        ]
        sent = [[rows[self.layout.shard_of(rank)] for rows in of_shards] for rank in ranks]
        shapes = [[(r.counts[rank], r.rows[here], r.columns) for r in self.routes] for rank in ranks]
        yield from zip(*_exchange(sent, shapes, self.layout)(), strict=True)


def _exchange(
    sent: Sequence[Sequence[Tensor]], shapes: Sequence[Sequence[tuple[int, int, int]]], layout: Layout
) -> Callable[[], list[list[Tensor]]]:
    """Begin to give each rank its list of tensors; called, the list from each rank, of the shapes foretold."""
    sizes = [[math.prod(shape) for shape in some] for some in shapes]
    flat = exchange(
        torch.cat([tensor.flatten() for tensors in sent for tensor in tensors]),
        to=[sum(tensor.numel() for tensor in tensors) for tensors in sent],
        came=[sum(some) for some in sizes],
        world=layout.world,
    )

    def arrived() -> list[list[Tensor]]:
        parts = iter(torch.split(flat(), [size for some in sizes for size in some]))
        return [[next(parts).view(shape) for shape in some] for some in shapes]

    return arrived


def plan_rounds(stacks: Sequence[Stack], layout: Layout) -> tuple[Round, ...]:
    """Every stack in one round; the same plan on every rank, without asking the others."""
    return tuple(
        Round(stacks=some, routes=tuple(_routes([stacks[i] for i in some], layout)), layout=layout)
        for some in _together(stacks, layout)
    )


def _together(stacks: Sequence[Stack], layout: Layout) -> Iterator[range]:
    if layout.world.size == 1:  # nobody to wait for: each stack's memory is free for the next one
        yield from (range(i, i + 1) for i in range(len(stacks)))
        return
    start, elements = 0, 0
    for i, stack in enumerate(stacks):
        size = stack.count * math.prod(stack.shape) // layout.shards
        if i > start and elements + size > ROUND_ELEMENTS:
            yield range(start, i)
            start, elements = i, 0
        elements += size
    if start < len(stacks):
        yield range(start, len(stacks))


def _routes(stacks: Sequence[Stack], layout: Layout) -> Iterator[Route]:
    world = layout.world
    for stack, owner in zip(stacks, owners(stacks, layout), strict=True):
        out, cut = stack.shape[-2], stack.cut(layout)
        experts = range(1) if len(stack.shape) == 2 else layout.piece(stack.experts)
        of_held = [owner[i * stack.experts + e] for i in range(stack.count) for e in experts]
        order = sorted(range(len(of_held)), key=of_held.__getitem__)
        place = [0] * len(order)
        for position, matrix in enumerate(order):
            place[matrix] = position
        here = layout.shard_of(world.rank)
        yield Route(
            order=torch.tensor(order, dtype=torch.long, device=world.device),
            place=torch.tensor(place, dtype=torch.long, device=world.device),
            counts=tuple(of_held.count(rank) for rank in range(world.size)),
            owned=owner.count(world.rank),
            rows=tuple(
                len(layout.piece(out, rank)) if cut else out * (layout.shard_of(rank) == here)
                for rank in range(world.size)
            ),
            columns=stack.shape[-1],
            cut=cut,
        )


def owners(stacks: Sequence[Stack], layout: Layout) -> list[list[int]]:
    """The rank that owns each matrix of each stack (parameter by parameter, expert by expert), with work in balance.

    Costliest first, each to the rank with least to do so far; experts to a rank that holds them.
    """
    found = [[0] * (stack.count * stack.experts) for stack in stacks]
    load = [0] * layout.world.size
    costs = [stack.shape[-2] * stack.shape[-1] * min(stack.shape[-2:]) for stack in stacks]
    for k in sorted(range(len(stacks)), key=lambda k: -costs[k]):
        for matrix in range(len(found[k])):
            ranks = _may_own(stacks[k], matrix, layout)
            owner = min(ranks, key=load.__getitem__)
            found[k][matrix] = owner
            load[owner] += costs[k]
    return found


def _may_own(stack: Stack, matrix: int, layout: Layout) -> range:
    if layout.shards == 1 or stack.cut(layout):
        return range(layout.world.size)
    shard = matrix % stack.experts // len(layout.piece(stack.experts, rank=0))
    return range(shard, layout.world.size, layout.shards)
