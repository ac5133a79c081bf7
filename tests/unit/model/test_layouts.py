import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ranks import DENSE, MIXTURE, NEVER, Case, Trained, config, start_ranks, train_alone, train_on_ranks

import model.rounds
from model.config import Execution
from model.distributed import World
from model.rounds import Stack, owners, plan_rounds
from model.sharding import Layout, make_layout, piece

CPU = torch.device("cpu")


def assert_same(trained: Trained, alone: Trained, rel: float) -> None:
    assert trained.outcome["state"] == alone.outcome["state"] == "done"
    assert trained.losses == pytest.approx(alone.losses, rel=rel)
    assert trained.outcome["loss"] == pytest.approx(alone.outcome["loss"], rel=rel)


def layout(rank: int, size: int, shards: int) -> Layout:
    """What a rank plans by; no process stands behind it."""
    return Layout(world=World(rank=rank, size=size, device=CPU, local_size=shards), shards=shards, mesh=None)


@given(length=st.integers(0, 50), shards=st.integers(1, 12))
def test_pieces_cover_every_row_once_in_order(length, shards):
    assert [row for shard in range(shards) for row in piece(length, shards, shard)] == list(range(length))


@pytest.mark.parametrize(
    ("execution", "message"),
    [
        ({"layout": "hsdp", "shard_processes": 4}, r"execution.shard_processes is 4, which does not divide the 6 proc"),
        ({"layout": "hsdp"}, r"LOCAL_WORLD_SIZE of this node is 4, .* set execution.shard_processes to a divisor of 6"),
    ],
)
def test_copies_that_processes_cannot_share_equally_are_refused(execution, message):
    with pytest.raises(ValueError, match=message):
        make_layout(Execution(**execution), World(rank=0, size=6, device=CPU, local_size=4))


def test_whole_copies_need_no_groups():
    world = World(rank=1, size=6, device=CPU, local_size=3)
    for execution in ({}, {"layout": "hsdp", "shard_processes": 1}):
        assert make_layout(Execution(**execution), world) == Layout(world=world, shards=1, mesh=None)


STACKS = (
    Stack(count=7, shape=(5, 3)),
    Stack(count=2, shape=(3, 4, 2)),
    Stack(count=1, shape=(2, 9)),
    Stack(count=3, shape=(1, 6)),
)


@pytest.mark.parametrize("shards", [1, 2, 3, 6])
def test_every_matrix_has_one_owner_and_every_expert_one_that_holds_it(shards):
    plan = [owners(STACKS, layout(rank, 6, shards)) for rank in range(6)]
    assert all(found == plan[0] for found in plan)
    assert [len(found) for found in plan[0]] == [7, 6, 1, 3]
    for matrix, owner in enumerate(plan[0][1]):
        assert matrix % 3 in layout(owner, 6, shards).piece(3)
    if shards == 1:  # every rank may own anything
        assert max(Counter(plan[0][0]).values()) == 2


class Threads:
    """Ranks that are threads of this process: what `exchange` does, and how often each took part."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=20)
        self.sent: list[Sequence[torch.Tensor]] = [()] * size
        self.calls = [0] * size

    def exchange(
        self, sent: torch.Tensor, to: Sequence[int], came: Sequence[int], world: World
    ) -> Callable[[], torch.Tensor]:
        self.calls[world.rank] += 1
        self.sent[world.rank] = torch.split(sent, list(to))
        self.barrier.wait()
        received = [parts[world.rank] for parts in self.sent]
        self.barrier.wait()
        assert [part.numel() for part in received] == list(came)
        return lambda: torch.cat(received)


def directions_of(
    monkeypatch: pytest.MonkeyPatch, whole: Sequence[torch.Tensor], size: int, shards: int
) -> tuple[list[list[torch.Tensor]], Threads]:
    """What each rank holds of the directions of these stacks, each matrix over its norm, and how it came to them."""
    threads = Threads(size)
    monkeypatch.setattr(model.rounds, "exchange", threads.exchange)
    stacks = [Stack(count=len(stack), shape=tuple(stack.shape[1:])) for stack in whole]

    def one(rank: int) -> list[torch.Tensor]:
        of_rank = layout(rank, size, shards)
        held = [held_of(stack, of_rank) for stack in whole]
        begun = [some.begin([held[i] for i in some.stacks]) for some in plan_rounds(stacks, of_rank)]
        return [direction for directions in begun for direction in directions(over_norm)]

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(one, range(size))), threads


def held_of(stack: torch.Tensor, of_rank: Layout) -> torch.Tensor:
    rows = of_rank.piece(stack.shape[1])
    return stack[:, rows.start : rows.stop]


def over_norm(matrices: torch.Tensor) -> torch.Tensor:
    return matrices / torch.linalg.matrix_norm(matrices, keepdim=True)


@pytest.mark.parametrize(("size", "shards"), [(3, 1), (3, 3), (6, 2), (6, 3), (4, 4)])
def test_matrices_cut_in_any_way_come_back_as_the_rows_of_their_directions(monkeypatch, size, shards):
    whole = [torch.randn(stack.count, *stack.shape, dtype=torch.float64) for stack in STACKS]
    found, threads = directions_of(monkeypatch, whole, size, shards)
    for rank, directions in enumerate(found):
        for stack, direction in zip(whole, directions, strict=True):
            assert torch.equal(direction, held_of(over_norm(stack), layout(rank, size, shards)))
    assert threads.calls == [1 if shards == 1 else 2] * size


def test_a_hundred_times_the_matrices_take_as_many_exchanges(monkeypatch):
    whole = [torch.randn(100 * stack.count, *stack.shape) for stack in STACKS]
    assert directions_of(monkeypatch, whole, 4, 2)[1].calls == [2] * 4


def test_experts_that_lie_whole_on_one_rank_do_not_travel(monkeypatch):
    assert directions_of(monkeypatch, [torch.randn(2, 5, 3, 4)], 3, 3)[1].calls == [0] * 3


def test_more_elements_than_fit_a_round_take_another(monkeypatch):
    monkeypatch.setattr(model.rounds, "ROUND_ELEMENTS", 60)
    whole = [torch.randn(stack.count, *stack.shape) for stack in STACKS]  # 105, 48, 18 and 18 elements
    assert directions_of(monkeypatch, whole, 2, 1)[1].calls == [3] * 2
    assert directions_of(monkeypatch, whole, 2, 2)[1].calls == [4] * 2


def test_one_process_shards_nothing_whatever_the_layout(tmp_path):
    plain = train_alone(Case(folder=tmp_path / "ddp", config=config(steps=3), execution={}))
    for execution in ({"layout": "fsdp"}, {"layout": "hsdp"}):
        trained = train_alone(Case(folder=tmp_path / "other", config=config(steps=3), execution=execution))
        assert (trained.losses, trained.outcome["loss"]) == (plain.losses, plain.outcome["loss"])


FSDP = {"layout": "fsdp"}
HSDP = {"layout": "hsdp", "micro_batch": 2}


def test_two_processes_train_as_one_whole_or_sharded_and_go_on_in_any_layout(tmp_path):
    dense, mixture, single = config(steps=6), config(MIXTURE, steps=6), config(steps=5, float64=False)
    joint = replace(mixture, optimizer=replace(mixture.optimizer, expert_sphere="layer"))
    begun, other = (
        Case(folder=tmp_path / name, config=dense, execution={}, stop_after=2) for name in ("begun", "other")
    )
    train_alone(begun)
    train_alone(other)
    cases = {
        "ddp": Case(folder=tmp_path / "ddp", config=mixture, execution={}),
        "fsdp": Case(folder=tmp_path / "fsdp", config=mixture, execution={**FSDP, "micro_batch": 4}),
        "single": Case(folder=tmp_path / "single", config=single, execution=FSDP),
        "stopped": replace(begun, execution=FSDP),  # after two more steps
        "resumed": replace(begun, execution=FSDP, stop_after=NEVER),
        "whole": replace(other, execution=FSDP, stop_after=NEVER),
        "joint": Case(folder=tmp_path / "joint", config=joint, execution=FSDP),
        "half": Case(folder=tmp_path / "half", config=mixture, execution=FSDP, stop_after=3),
        "deep": Case(folder=tmp_path / "deep", config=config(replace(DENSE, depth=5), steps=1), execution=FSDP),
    }
    said = tmp_path / "said"
    found = train_on_ranks(tmp_path / "ranks", list(cases.values()), size=2, COLLECTIVES=str(said))
    trained = dict(zip(cases, found, strict=True))

    alone = train_alone(Case(folder=tmp_path / "alone", config=mixture, execution={}))
    assert_same(trained["ddp"], alone, 1e-8)
    assert_same(trained["fsdp"], alone, 1e-8)
    assert trained["fsdp"].norms == pytest.approx(alone.norms, rel=1e-8)
    assert_same(trained["joint"], train_alone(Case(folder=tmp_path / "alone-joint", config=joint, execution={})), 1e-8)
    assert trained["joint"].losses != trained["fsdp"].losses
    assert_same(trained["single"], train_alone(Case(folder=tmp_path / "alone", config=single, execution={})), 1e-5)

    # In the same layout bit for bit, in another up to rounding.
    stopped, resumed, whole = trained["stopped"], trained["resumed"], trained["whole"]
    assert (stopped.outcome["state"], stopped.outcome["steps"]) == ("stopped", 4)
    assert [*stopped.losses, *resumed.losses] == whole.losses
    assert resumed.outcome["loss"] == whole.outcome["loss"]
    undisturbed = train_alone(Case(folder=tmp_path / "dense", config=dense, execution={}))
    assert whole.losses == pytest.approx(undisturbed.losses[2:], rel=1e-8)
    assert whole.outcome["loss"] == pytest.approx(undisturbed.outcome["loss"], rel=1e-8)
    back = train_alone(Case(folder=tmp_path / "half", config=mixture, execution={}))
    assert back.losses == pytest.approx(alone.losses[3:], rel=1e-8)

    # As many collectives a step with two blocks as with five: two of matrices, four of norms, one of clipping.
    steps = Counter(tuple(sorted(json.loads(line))) for line in said.read_text().splitlines())
    sharded = ("c10d::allreduce_",) * 5 + ("c10d::alltoall_base_",) * 2
    assert steps == {("c10d::alltoall_base_",): 2 * 6, sharded: 2 * (6 + 5 + 2 + 2 + 4 + 6 + 3 + 1)}


@pytest.mark.slow
@pytest.mark.parametrize("model", [DENSE, MIXTURE], ids=["dense", "mixture"])
def test_four_processes_train_as_one_in_every_layout_with_every_optimiser(tmp_path, model):
    configs = [config(model, name) for name in ("muonh", "muon", "adamw")]
    layouts = [{}, FSDP, HSDP, {**HSDP, "shard_processes": 4}]
    cases = [
        Case(folder=tmp_path / f"{i}-{k}", config=one, execution=execution)
        for i, one in enumerate(configs)
        for k, execution in enumerate(layouts)
    ]
    alone = [
        train_alone(Case(folder=tmp_path / f"alone-{i}", config=one, execution={})) for i, one in enumerate(configs)
    ]
    said = tmp_path / "said"
    trained = train_on_ranks(tmp_path / "ranks", cases, size=4, of_node=2, COLLECTIVES=str(said))
    assert max(len(json.loads(line)) for line in said.read_text().splitlines()) == 7  # as of two processes
    for i, one in enumerate(trained):
        assert_same(one, alone[i // len(layouts)], 1e-8)
        assert one.norms == pytest.approx(alone[i // len(layouts)].norms, rel=1e-8)


@pytest.mark.slow
def test_three_processes_share_what_they_do_not_divide(tmp_path):
    configs = [config(model, name) for model in (DENSE, MIXTURE) for name in ("muonh", "muon")]
    cases = [Case(folder=tmp_path / str(i), config=one, execution=FSDP) for i, one in enumerate(configs)]
    found = train_on_ranks(tmp_path / "ranks", cases, size=3, ROUND_ELEMENTS="1000")  # several rounds, one ahead
    for trained, case in zip(found, cases, strict=True):
        assert_same(trained, train_alone(replace(case, folder=tmp_path / "alone", execution={})), 1e-8)


@pytest.mark.slow
def test_a_run_goes_on_with_half_the_processes_and_another_layout(tmp_path):
    begun = [
        Case(folder=tmp_path / f"{k}", config=config(MIXTURE), execution=execution, stop_after=5)
        for k, execution in enumerate((HSDP, FSDP, {}))
    ]
    train_on_ranks(tmp_path / "four", begun, size=4, of_node=2)
    onward = [
        replace(case, execution=execution, stop_after=NEVER)
        for case, execution in zip(begun, ({}, FSDP, FSDP), strict=True)
    ]
    alone = train_alone(Case(folder=tmp_path / "alone", config=config(MIXTURE), execution={}))
    for trained in train_on_ranks(tmp_path / "two", onward, size=2):
        assert trained.losses == pytest.approx(alone.losses[5:], rel=1e-8)
        assert trained.outcome["loss"] == pytest.approx(alone.outcome["loss"], rel=1e-8)


@pytest.mark.slow
def test_a_sharded_model_tells_a_lost_rank_from_an_error_of_its_own(tmp_path):
    endless = Case(folder=tmp_path / "run", config=config(steps=10**6), execution=FSDP)
    survivor, victim = start_ranks(tmp_path / "ranks", [endless], size=2)
    deadline = time.monotonic() + 60
    while not has_rows(tmp_path / "ranks" / "result-0.jsonl"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    assert survivor.wait(timeout=60) == 1
    assert (
        "model.distributed.PeerLost: rank 0 of 2 lost another rank (" in (tmp_path / "ranks" / "stderr-0").read_text()
    )


def has_rows(file: Path) -> bool:
    return file.exists() and file.read_text().count("\n") >= 5
