import atexit

import pytest
import torch
from torch import nn

from model.distributed import (
    PeerLost,
    World,
    add_over_ranks,
    average_gradients,
    exchange,
    exchanging,
    from_lead,
    join,
    share,
    sum_over_ranks,
    wait_for_all,
)
from sweeper.spec import Cluster
from sweeper.watchdog import STARTUP

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def test_a_process_without_world_size_is_alone():
    assert join("cpu", {}) == ALONE


def test_a_world_of_one_starts_no_group():
    assert join("cpu", {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}) == ALONE
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2"}, "describes no world"),
        ({"WORLD_SIZE": "two", "RANK": "0"}, "describes no world"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK 2 is not one of the 2 ranks"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_WORLD_SIZE": "many"}, "describes no world"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_WORLD_SIZE": "3"}, "LOCAL_WORLD_SIZE 3 is not between 1 and WORLD"),
    ],
)
def test_a_half_described_world_is_refused(environment, message):
    with pytest.raises(ValueError, match=message):
        join("cpu", environment)


def test_ranks_wait_for_each_other_for_as_long_as_reading_a_large_checkpoint_may_take(monkeypatch):
    started = {}
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda **how: started.update(how))
    monkeypatch.setattr(atexit, "register", lambda _: None)
    join("cpu", {"RANK": "0", "WORLD_SIZE": "2"})
    startup_s = STARTUP * Cluster().hang_s  # what a run may take to its first step
    assert started["timeout"].total_seconds() > startup_s


def test_asking_for_a_gpu_where_there_is_none_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="set it to auto or cpu"):
        join("cuda", {})
    assert join("auto", {}).device.type == "cpu"


def test_ranks_share_every_row_of_a_batch_once():
    worlds = [World(rank=rank, size=4, device=ALONE.device) for rank in range(4)]
    assert [row for world in worlds for row in share(16, world)] == list(range(16))


def test_a_batch_that_ranks_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="16 sequences cannot be shared equally by 3 processes"):
        share(16, World(rank=0, size=3, device=ALONE.device))


def test_alone_nothing_is_exchanged():
    parameter, values = nn.Parameter(torch.ones(2)), torch.ones(2)
    average_gradients([parameter], ALONE)
    add_over_ranks(values, ALONE)
    wait_for_all(ALONE)
    assert parameter.grad is None
    assert values.tolist() == [1, 1]
    assert sum_over_ranks([1.5, 2.0], ALONE) == [1.5, 2.0]
    assert from_lead("here", ALONE) == "here"


@pytest.mark.parametrize(
    "exchange",
    [
        lambda world: average_gradients([nn.Parameter(torch.ones(2))], world),
        lambda world: exchange(torch.ones(2), [1, 1], [1, 1], world)(),
        lambda world: add_over_ranks(torch.ones(2), world),
        lambda world: sum_over_ranks([1.0], world),
        lambda world: from_lead("here", world),
        wait_for_all,
    ],
    ids=["average_gradients", "exchange", "add_over_ranks", "sum_over_ranks", "from_lead", "wait_for_all"],
)
@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (RuntimeError("connection closed by peer. Check its log."), PeerLost),
        (torch.distributed.DistBackendError("connection closed by peer\nNCCL version 2"), PeerLost),
        (torch.OutOfMemoryError("CUDA out of memory"), torch.OutOfMemoryError),
        (torch.AcceleratorError("CUDA error: device-side assert triggered", 0), torch.AcceleratorError),
        (ValueError("group not initialised"), ValueError),
    ],
    ids=["gloo", "nccl", "memory", "device", "value"],
)
def test_only_a_failed_exchange_means_a_lost_peer(monkeypatch, exchange, error, raised):
    def fail(*_: object, **__: object) -> None:
        raise error

    for name in ("all_reduce", "all_to_all_single", "broadcast_object_list", "barrier"):
        monkeypatch.setattr(torch.distributed, name, fail)
    with pytest.raises(raised) as caught:
        exchange(World(rank=1, size=2, device=ALONE.device))
    assert type(caught.value) is raised
    if raised is PeerLost:
        assert str(caught.value).startswith("rank 1 of 2 lost another rank (connection closed by peer); look why")


@pytest.mark.parametrize(
    ("error", "size", "raised"),
    [
        (RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer"), 2, PeerLost),
        (torch.distributed.DistBackendError("NCCL communicator was aborted"), 2, PeerLost),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), 2, RuntimeError),
        (
            RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer"),
            1,
            RuntimeError,
        ),
        (torch.OutOfMemoryError("CUDA out of memory"), 2, torch.OutOfMemoryError),
    ],
    ids=["gloo", "nccl", "own", "alone", "memory"],
)
def test_work_that_exchanges_on_its_way_keeps_its_own_errors(error, size, raised):
    with pytest.raises(RuntimeError) as caught, exchanging(World(rank=0, size=size, device=ALONE.device)):
        raise error
    assert type(caught.value) is raised
