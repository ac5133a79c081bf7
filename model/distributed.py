"""Ranks of one run: who they are, and the few things they say to each other; the only module that starts a group.

A launcher tells each process its place through the environment, as `torchrun` does: RANK, WORLD_SIZE, LOCAL_RANK,
LOCAL_WORLD_SIZE (the processes of this node; all of them where it is missing), and either MASTER_ADDR with MASTER_PORT
or SWEEPER_INIT_METHOD (such as `file:///shared/run/group`, a file that does not exist yet). Without WORLD_SIZE a
process is alone and no group is started.
"""

import atexit
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.devices import machine_memory

GROUP_TIMEOUT = timedelta(hours=2)
"""How long a rank waits for the others. torch gives NCCL ten minutes, in which rank 0 may not have verified or written
a large checkpoint yet; ranks that hang are the watchdog's to end, who knows how long a step takes."""


class PeerLost(RuntimeError):  # noqa: N818 - what happened, not a mistake
    """Another rank of the run is gone: this one did nothing wrong, and the run can go on from its last checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The place of this process among the ranks of its run."""

    rank: int
    size: int
    device: torch.device
    local_size: int = 1
    """Ranks on this node; those of a node are consecutive."""

    @property
    def leads(self) -> bool:
        """Whether this rank observes and writes."""
        return self.rank == 0

    @property
    def device_name(self) -> str:
        """What this rank computes on, as torch calls it: `cpu`, or a GPU's model such as `NVIDIA H100 80GB HBM3`."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type

    @property
    def memory(self) -> int:
        """Bytes of memory for this rank: its GPU's, or its part of the machine's."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_properties(self.device).total_memory
        return machine_memory() // self.local_size


def join(device: Literal["auto", "cpu", "cuda"], environment: Mapping[str, str] = os.environ) -> World:
    """The world of this process; starts its group (gloo on CPUs, NCCL on GPUs) unless one is running.

    The group lives as long as the process: several runs in a row share it.

    Raises:
        ValueError: The environment describes no world, or `cuda` is asked for where there is none.
    """
    rank, size, local_rank, local_size = _place(environment)
    chosen = _device(device, local_rank)
    if size > 1 and not dist.is_initialized():
        cuda = chosen.type == "cuda"
        dist.init_process_group(
            backend="nccl" if cuda else "gloo",
            init_method=environment.get("SWEEPER_INIT_METHOD", "env://"),
            rank=rank,
            world_size=size,
            device_id=chosen if cuda else None,
            timeout=GROUP_TIMEOUT,
        )
        atexit.register(_leave)
    return World(rank=rank, size=size, device=chosen, local_size=local_size)


LEAVE_S = 0.2
"""Gloo's threads let go of the tensors of the last collective within microseconds, on a busy machine milliseconds."""


def _leave() -> None:
    """End the group as the process ends.

    What FSDP keeps of a group outlives this call, and with it gloo's threads: one that still holds a tensor of the last
    collective when the interpreter goes down aborts the process, though its run is done. Asleep, this thread leaves
    them the interpreter's lock.
    """
    backend = dist.get_backend()
    dist.destroy_process_group()
    if backend == "gloo":
        time.sleep(LEAVE_S)


def _place(environment: Mapping[str, str]) -> tuple[int, int, int, int]:
    if "WORLD_SIZE" not in environment:
        return 0, 1, 0, 1
    try:
        size = int(environment["WORLD_SIZE"])
        rank = int(environment["RANK"])
        local_rank = int(environment.get("LOCAL_RANK", "0"))
        local_size = int(environment.get("LOCAL_WORLD_SIZE", size))
    except (KeyError, ValueError) as error:
        seen = {name: environment.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")}
        raise ValueError(f"the environment describes no world: {seen}; set them to whole numbers") from error
    if not 0 <= rank < size:
        raise ValueError(f"RANK {rank} is not one of the {size} ranks of WORLD_SIZE; number them from 0")
    if not 1 <= local_size <= size:
        raise ValueError(
            f"LOCAL_WORLD_SIZE {local_size} is not between 1 and WORLD_SIZE {size}; leave it out or mend it"
        )
    return rank, size, local_rank, local_size


def _device(device: Literal["auto", "cpu", "cuda"], local_rank: int) -> torch.device:
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("execution.device is cuda but torch sees no GPU here; set it to auto or cpu")
    if device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"LOCAL_RANK {local_rank} has no GPU: torch sees {torch.cuda.device_count()} here; "
            "start one process per GPU of a node"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def share(sequences: int, world: World) -> range:
    """The rows of a global batch that this rank trains on, equally many on each.

    >>> share(16, World(rank=1, size=2, device=torch.device("cpu")))
    range(8, 16)

    Raises:
        ValueError: The ranks do not divide the batch.
    """
    rows, left = divmod(sequences, world.size)
    if left:
        raise ValueError(
            f"a batch of {sequences} sequences cannot be shared equally by {world.size} processes; "
            f"choose a number of processes that divides {sequences}, or another batch_tokens"
        )
    return range(world.rank * rows, (world.rank + 1) * rows)


@contextmanager
def _among(world: World) -> Iterator[None]:
    """What surrounds an exchange between ranks, and nothing else: its failure means that a rank is lost.

    Gloo raises a plain RuntimeError, NCCL a DistBackendError. A GPU out of memory or in error is this rank's own. With
    NCCL a dead peer may also be noticed by torch's watchdog, which ends the process before anything is raised.
    """
    try:
        yield
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except RuntimeError as error:
        raise _lost(world, error) from error


@contextmanager
def exchanging(world: World) -> Iterator[None]:
    """What surrounds work that exchanges on its way, such as the passes of a sharded model.

    An error of the work itself stays what it is; only what gloo or NCCL reports means that a rank is lost.

    Raises:
        PeerLost: Another rank is gone.
    """
    try:
        yield
    except RuntimeError as error:
        if world.size > 1 and (isinstance(error, dist.DistError) or "/gloo/" in str(error)):
            raise _lost(world, error) from error
        raise


def _lost(world: World, error: RuntimeError) -> PeerLost:
    cause = str(error).partition("\n")[0].partition(". ")[0]
    return PeerLost(
        f"rank {world.rank} of {world.size} lost another rank ({cause}); "
        "look why that one ended, then launch again: the run resumes from its last checkpoint"
    )


BUCKET_ELEMENTS = 1 << 25
"""Gradient elements averaged at once: bounds the copy (128 MiB in float32)."""


def average_gradients(parameters: Iterable[nn.Parameter], world: World) -> None:
    """Replace each gradient by its mean over ranks.

    Done once per step, after the last micro-batch, rather than by `DistributedDataParallel`: DDP regroups its buckets
    after the first step, so that a resumed run of three or more ranks would add the same numbers in another order,
    and it needs every parameter used by every rank, which experts are not. What its overlap would save is below 1 %
    of a step at the batches of HyperP (0.8 GB of gradients against a second of computation).

    Raises:
        PeerLost: Another rank is gone.
    """
    if world.size == 1:
        return
    bucket: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        bucket.append(parameter.grad)
        if sum(grad.numel() for grad in bucket) >= BUCKET_ELEMENTS:
            _average(bucket, world)
            bucket = []
    if bucket:
        _average(bucket, world)


def _average(gradients: list[Tensor], world: World) -> None:
    flat = torch.cat([grad.flatten() for grad in gradients])
    with _among(world):
        dist.all_reduce(flat)
    flat /= world.size
    for grad, mean in zip(gradients, torch.split(flat, [grad.numel() for grad in gradients]), strict=True):
        grad.copy_(mean.view_as(grad))


def exchange(sent: Tensor, to: Sequence[int], came: Sequence[int], world: World) -> Callable[[], Tensor]:
    """Begin to give each rank what this one has for it: one collective, in which all take part.

    Args:
        sent: What this rank has for each other, flat and in the order of ranks.
        to: How many of its elements go to each rank.
        came: How many elements each rank has for this one.
        world: The ranks.

    Returns:
        Called once, waits for what every rank has for this one, in the order of ranks; it too may raise.

    Raises:
        PeerLost: Another rank is gone.
    """
    received = sent.new_empty(sum(came))
    with _among(world):
        work = dist.all_to_all_single(received, sent, list(came), list(to), async_op=True)

    def arrived() -> Tensor:
        with _among(world):
            work.wait()
        return received

    return arrived


def add_over_ranks(values: Tensor, world: World) -> None:
    """Replace `values` by their sum over ranks, the same bits on each.

    Raises:
        PeerLost: Another rank is gone.
    """
    if world.size > 1:
        with _among(world):
            dist.all_reduce(values)


def sum_over_ranks(values: Sequence[float], world: World) -> list[float]:
    """The sum of each value, in float64 and the same on every rank; how all hear a flag that one has raised.

    Raises:
        PeerLost: Another rank is gone.
    """
    if world.size == 1:
        return list(values)
    total = torch.tensor(values, dtype=torch.float64, device=world.device)
    add_over_ranks(total, world)
    return total.tolist()


def from_lead(text: str, world: World) -> str:
    """What rank 0 says, on every rank.

    Raises:
        PeerLost: Another rank is gone.
    """
    if world.size == 1:
        return text
    said = [text]
    with _among(world):
        dist.broadcast_object_list(said, src=0, device=world.device)
    return said[0]


def wait_for_all(world: World) -> None:
    """Return once every rank is here.

    Raises:
        PeerLost: Another rank is gone.
    """
    if world.size > 1:
        with _among(world):
            dist.barrier()
