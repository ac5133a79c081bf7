"""Who holds what of a model: whole copies, shards, or copies of shards; the only module that knows FSDP and DTensor.

It imports them where a run shards its model: they add up to a second to every start.

A copy of the model lies on `shards` consecutive ranks. Each parameter is cut along its first dimension, the experts of
a mixture between experts and a matrix between rows, into pieces of ⌈length / shards⌉; the last may be shorter or empty.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from model.config import Execution
from model.distributed import World, exchanging
from model.transformer import Transformer

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How the ranks of a run hold its model."""

    world: World
    shards: int
    """Ranks that share a copy of the model; those of a copy are consecutive."""
    mesh: "DeviceMesh | None"
    """Of torch, copies × shards (shards alone where there is one copy); None where every rank holds a whole copy."""

    @property
    def copies(self) -> int:
        """Copies of the model."""
        return self.world.size // self.shards

    def copy_of(self, rank: int) -> int:
        """The copy that a rank has a part of."""
        return rank // self.shards

    def shard_of(self, rank: int) -> int:
        """The part of its copy that a rank holds."""
        return rank % self.shards

    def piece(self, length: int, rank: int | None = None) -> range:
        """What a rank (None: this one) holds of a first dimension of `length`."""
        return piece(length, self.shards, self.shard_of(self.world.rank if rank is None else rank))


ALONE = Layout(world=World(rank=0, size=1, device=torch.device("cpu")), shards=1, mesh=None)


def piece(length: int, shards: int, shard: int) -> range:
    """The part of `length` rows that a shard holds.

    >>> [piece(5, 4, shard) for shard in range(4)]
    [range(0, 2), range(2, 4), range(4, 5), range(5, 5)]
    """
    most = -(-length // shards)
    return range(min(shard * most, length), min((shard + 1) * most, length))


def make_layout(execution: Execution, world: World) -> Layout:
    """The layout that a run asks for; every rank must call it, for it starts the groups of the shards.

    Raises:
        ValueError: The processes are not a multiple of those that share a copy.
    """
    shards = shard_processes(execution, world)
    if world.size % shards:
        origin = "execution.shard_processes" if execution.shard_processes else "LOCAL_WORLD_SIZE of this node"
        raise ValueError(
            f"{origin} is {shards}, which does not divide the {world.size} processes of the run into equal copies; "
            f"set execution.shard_processes to a divisor of {world.size}, or start a multiple of {shards} processes"
        )
    if shards == 1:
        return Layout(world=world, shards=1, mesh=None)
    from torch.distributed.device_mesh import init_device_mesh

    copies, kind = world.size // shards, world.device.type
    mesh = (
        init_device_mesh(kind, (shards,), mesh_dim_names=("shard",))
        if copies == 1
        else init_device_mesh(kind, (copies, shards), mesh_dim_names=("copy", "shard"))
    )
    return Layout(world=world, shards=shards, mesh=mesh)


def shard_processes(execution: Execution, world: World) -> int:
    """Ranks that share one copy of the model: 1, all, or `execution.shard_processes` (0: those of this node)."""
    if execution.layout == "hsdp":
        return execution.shard_processes or world.local_size
    return world.size if execution.layout == "fsdp" else 1


def lay_out(model: Transformer, layout: Layout) -> None:
    """Put a whole model, the same on every rank, where the layout wants it: on the device, each rank its part.

    Each block gathers its parameters for its passes and gives them up after; embedding, head and last norm stay
    gathered from the forward pass to the end of the backward pass.
    """
    if layout.mesh is None:
        model.to(layout.world.device)
        return
    from torch.distributed.fsdp import fully_shard

    for block in model.blocks:
        fully_shard(block, mesh=layout.mesh)
    fully_shard(model, mesh=layout.mesh)


def reduce_across_copies(model: Transformer, layout: Layout, *, now: bool) -> None:
    """Whether the next backward pass averages gradients over copies too, or leaves that to a later one.

    Over the shards of a copy every pass sums its gradients, which no rank could hold whole.
    """
    if layout.mesh is not None and layout.copies > 1:
        cast("FSDPModule", model).set_requires_all_reduce(now)


def give_up_gathered(model: Transformer, layout: Layout) -> None:
    """Hold the parameters of a sharded model as shards again, after a forward pass that no backward pass follows."""
    if layout.mesh is not None:
        cast("FSDPModule", model).reshard()


def local(tensor: Tensor, layout: Layout) -> Tensor:
    """This rank's part of a parameter or gradient, sharing its memory; call it under `torch.no_grad`."""
    return tensor if layout.mesh is None else cast("DTensor", tensor).to_local()


def gathered(part: Tensor, like: Tensor, layout: Layout) -> Tensor:
    """The whole of what is cut as the parameter `like` is; every rank must call it.

    Raises:
        PeerLost: Another rank is gone.
    """
    if layout.mesh is None:
        return part
    from torch.distributed.tensor import DTensor

    shape = torch.Size((len(like), *part.shape[1:]))
    stride = torch.empty(shape, device="meta").stride()
    placements = cast(DTensor, like).placements
    cut = DTensor.from_local(part, layout.mesh, placements, run_check=False, shape=shape, stride=stride)
    with exchanging(layout.world):
        return cut.full_tensor()
