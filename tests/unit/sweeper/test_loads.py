from dataclasses import replace

import pytest
from builders import TINY, run_spec

from model.config import Execution
from sweeper.loads import MEMBERS, loads
from sweeper.spec import Trainer

SMALL = {"execution": Execution(), "longest_s": 1.0, "gpu": False, "budget_gib": 100.0}


def made(specs, fuse="auto", second_per_step=1e-6, memory_gib=0.01, **changes):
    settings = SMALL | changes
    execution = settings.pop("execution")
    seconds = {spec.run_id: second_per_step * spec.train.steps for spec in specs}
    memory = {spec.run_id: memory_gib for spec in specs}
    return loads(specs, seconds, fuse, execution, memory_gib=memory, **settings)


def sizes(*args, **changes):
    return [len(load.runs) for load in made(*args, **changes)]


def rates(count, **changes):
    return [run_spec(lr=0.01 * (i + 1), **changes) for i in range(count)]


def test_runs_of_one_kind_are_stacks_of_equal_size():
    assert sizes(rates(5)) == [5]
    assert sizes(rates(MEMBERS + 1)) == [5, 4]
    assert sizes(rates(20), fuse=4) == [4] * 5
    assert sizes(rates(5), fuse="off") == [1] * 5


def test_every_run_is_in_one_stack():
    specs = [*rates(11), *rates(3, steps=9), *rates(2, steps=10)]
    found = [spec for load in made(specs, longest_s=50e-6) for spec in load.runs]
    assert sorted(found, key=specs.index) == specs


def test_unlike_runs_are_apart():
    wide = replace(TINY, width=32)
    assert sizes([*rates(3), *(run_spec(lr=lr, model=wide) for lr in (0.1, 0.2))]) == [3, 2]


def test_the_runs_of_a_stack_take_no_longer_than_they_may():
    # Of eight equal runs of eight steps two slots have four each; with as many slots as runs nothing is fused.
    assert sizes(rates(8), longest_s=32e-6) == [4, 4]
    assert sizes(rates(8), longest_s=8e-6) == [1] * 8
    # A short kind beside a long one may be one stack.
    assert sizes([*rates(4, steps=80), *rates(4, steps=8)], longest_s=176e-6) == [2, 2, 4]


def test_a_number_is_taken_at_its_word():
    assert sizes(rates(8), fuse=8, longest_s=1e-9) == [8]
    large = [run_spec(lr=lr, model=replace(TINY, width=1024)) for lr in (0.1, 0.2)]
    assert sizes(large) == [1, 1]
    assert sizes(large, gpu=True) == [2]
    assert sizes(large, fuse=2) == [2]


def test_a_pass_is_what_counts_as_small():
    specs = [run_spec(lr=lr, model=replace(TINY, width=128)) for lr in (0.1, 0.2)]
    assert sizes(specs) == [1, 1]
    assert sizes(specs, execution=Execution(micro_batch=2)) == [2]


def test_memory_bounds_a_stack():
    assert sizes(rates(8), memory_gib=1.0, budget_gib=3.5, fuse=8) == [3, 3, 2]
    assert sizes(rates(8), memory_gib=1.0, budget_gib=4.5) == [3, 3, 2]  # a run by itself is tried beside them
    assert sizes(rates(2), memory_gib=9.0, budget_gib=3.5) == [1, 1]


def test_some_are_trained_by_themselves_in_any_case():
    specs = rates(4)
    assert sizes(specs, fuse=8, alone={specs[1].run_id}) == [3, 1]


def test_the_costliest_come_first():
    found = made([*rates(2), *rates(2, steps=99)], second_per_step=1.0, longest_s=300.0)
    assert [load.runs[0].train.steps for load in found] == [99, 8]


@pytest.mark.parametrize("fuse", ["auto", 8])
def test_commands_and_experts_are_never_stacked(fuse):
    command = [replace(s, trainer=Trainer(kind="command", argv=("python", "train.py"))) for s in rates(3)]
    experts = rates(3, model=replace(TINY, mlp="moe", sparsity=2, top_k=2))
    assert sizes([*command, *experts], fuse=fuse) == [1] * 6
