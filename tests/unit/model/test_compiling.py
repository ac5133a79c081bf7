import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import DENSE, MIXTURE, NEVER, Case, config, train_alone, train_on_ranks

import model.train
from model import devices
from model.compiling import as_written, compile_blocks, leave_as_written
from model.config import Execution, ModelConfig, Rates, VectorsConfig
from model.moe import Watch
from model.train import Member, train
from model.transformer import Transformer

RATES = Rates(hidden=0.1, head=0.1, embedding=0.1, vector=0.1, residual_multiplier=0.5)
UNIFIED = VectorsConfig(hetero=True, placement="dnp", reparam="or", wd_input=1.0)
DEEP = replace(DENSE, depth=4)
ON = Execution(device="cpu", compile="on")


def passed(net: Transformer, sequences: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and gradients of one pass."""
    net.zero_grad()
    tokens_BT = torch.randint(0, 9, (sequences, 16), generator=torch.Generator().manual_seed(2))
    loss, seen = net(tokens_BT, Watch(group_tokens=16 * sequences), tokens_BT.roll(1, dims=-1))
    balance = seen["balance"].sum() if "balance" in seen else 0.0
    torch.autograd.backward((loss + 0.1 * balance).sum())
    return loss.detach(), torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])


def made(model_config: ModelConfig, dtype: torch.dtype = torch.float64, seed: Any = 1, **how: Any) -> Transformer:
    return Transformer(model_config, RATES, seed=seed, dtype=dtype, **how)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("model_config", "graphs"),
    [(DEEP, 1), (replace(DEEP, vectors=UNIFIED), 1), (replace(MIXTURE, depth=2), 2)],
    ids=["dense", "scale vectors", "mixture"],
)
def test_compiled_blocks_compute_what_is_written_and_share_their_graphs(model_config, graphs, checkpointing):
    from torch._dynamo.utils import counters

    counters.clear()
    written, net = made(model_config), made(model_config, checkpointing=checkpointing)
    compile_blocks(net, ON)
    for sequences in (4, 3):
        (loss, gradients), (found, others) = passed(written, sequences), passed(net, sequences)
        assert found.item() == pytest.approx(loss.item(), rel=1e-10)
        assert (others - gradients).norm() <= 1e-10 * gradients.norm()
        if sequences == 4:
            assert counters["stats"]["unique_graphs"] == graphs


@pytest.mark.slow
def test_compiled_blocks_are_as_exact_as_their_precision():
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 5e-2)):
        written, net = made(DEEP, dtype), made(DEEP, dtype)
        compile_blocks(net, ON)
        (loss, gradients), (found, others) = passed(written), passed(net)
        assert found.item() == pytest.approx(loss.item(), rel=tolerance)
        assert (others - gradients).norm() <= tolerance * gradients.norm()


@pytest.mark.slow
def test_the_members_of_a_stack_are_compiled_as_one():
    written, net = made(DEEP, seed=[1, 2, 3]), made(DEEP, seed=[1, 2, 3])
    compile_blocks(net, ON)
    (losses, gradients), (found, others) = passed(written), passed(net)
    assert found.tolist() == pytest.approx(losses.tolist(), rel=1e-10)
    assert (others - gradients).norm() <= 1e-10 * gradients.norm()


@pytest.mark.slow
def test_a_run_with_compiled_blocks_has_the_same_losses_and_resumes_bit_for_bit(tmp_path):
    run = config(DENSE)
    case = Case(folder=tmp_path / "written", config=run, execution={"micro_batch": 5})
    written = train_alone(case)
    compiling = {"micro_batch": 5, "compile": "on"}
    whole = train_alone(replace(case, folder=tmp_path / "whole", execution=compiling))
    assert whole.losses == pytest.approx(written.losses, rel=1e-8)
    assert whole.norms == pytest.approx(written.norms, rel=1e-8)
    assert whole.outcome["loss"] == pytest.approx(written.outcome["loss"], rel=1e-8)
    part = replace(case, folder=tmp_path / "part", execution=compiling, stop_after=6)
    begun, resumed = train_alone(part), train_alone(replace(part, stop_after=NEVER))
    assert [*begun.losses, *resumed.losses] == whole.losses


@pytest.mark.slow
def test_two_processes_compile_in_every_layout(tmp_path):
    sharded_again = {"layout": "fsdp", "activation_checkpointing": "on", "micro_batch": 4}
    cases = [
        Case(folder=tmp_path / str(i), config=config(net, steps=6), execution={**execution, "compile": "on"})
        for i, (net, execution) in enumerate(((DENSE, {}), (DENSE, sharded_again), (MIXTURE, {"layout": "fsdp"})))
    ]
    for one, case in zip(train_on_ranks(tmp_path / "ranks", cases, size=2), cases, strict=True):
        alone = train_alone(replace(case, folder=case.folder / "alone", execution={}))
        assert one.losses == pytest.approx(alone.losses, rel=1e-8)
        assert one.outcome["loss"] == pytest.approx(alone.outcome["loss"], rel=1e-8)


def test_what_is_missing_to_compile_is_said_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match=r"compile=on cannot be: .* needs a C\+\+ compiler, and there is no no-such"):
        train_alone(Case(folder=tmp_path, config=config(steps=2), execution={"compile": "on"}))
    monkeypatch.setattr(devices, "find_spec", lambda _name: None)
    assert devices.why_not_compiled("cuda") == "compiling for a GPU needs triton, which is not installed here"
    monkeypatch.setattr(devices, "find_spec", lambda name: name)
    monkeypatch.setenv("CC", "no-such-compiler")
    assert devices.why_not_compiled("cuda") == "triton needs a C compiler, and there is no no-such-compiler here"


class Notes:
    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.texts: list[str] = []

    def metrics(self, _member: int, row: Any) -> None:
        self.rows.append(row)

    def progress(self, *_: Any) -> None:
        pass

    def note(self, _member: int, text: str) -> None:
        self.texts.append(text)


def tried(folder: Path, *, steps: int = 12, stop_after: int = NEVER) -> tuple[Notes, str]:
    """What a run that may compile notes, and how it ended."""
    notes, asked = Notes(), iter(range(1, NEVER))
    (outcome,) = train(
        [Member(config=config(steps=steps), checkpoints=folder)],
        Execution(device="cpu", log_every=1, compile="auto"),
        notes,
        lambda: next(asked) >= stop_after,
    )
    return notes, outcome.state


@pytest.fixture
def compiler(monkeypatch) -> Callable[[Callable[[], None]], list[str]]:
    """Stands in for torch's: blocks are called through `before`; the list names what was compiled."""

    def stand_in(before: Callable[[], None]) -> list[str]:
        compiled: list[str] = []

        def compile_them(net: Transformer, _execution: Execution) -> None:
            compiled.append("compiled")
            for block in net.blocks:

                def through(*arguments: Any, block: Any = block) -> Any:
                    before()
                    return block.once(*arguments)

                block.compiled = through

        monkeypatch.setattr(model.train, "compile_blocks", compile_them)
        return compiled

    return stand_in


def slowly() -> None:

    time.sleep(0.05)


def test_auto_compiles_only_where_enough_is_left(tmp_path, compiler):
    compiled = compiler(lambda: None)
    notes, state = tried(tmp_path)
    assert (notes.texts, state, compiled) == ([], "done", [])


def test_auto_goes_back_to_blocks_as_written_where_compiled_ones_are_no_faster(tmp_path, compiler, monkeypatch):
    monkeypatch.setattr(model.train, "COMPILE_FROM_S", 0.0)
    compiled = compiler(slowly)
    notes, state = tried(tmp_path / "tried")
    (text,) = notes.texts
    assert text.startswith("blocks are not compiled: a pass takes ")
    assert compiled == ["compiled"]
    assert state == "done"
    # Trying leaves no trace in the losses.
    monkeypatch.setattr(model.train, "COMPILE_FROM_S", 1e9)
    other, _ = tried(tmp_path / "other")
    assert [row["loss"] for row in notes.rows] == [row["loss"] for row in other.rows]


def test_a_run_that_resumes_keeps_what_auto_chose(tmp_path, compiler, monkeypatch):
    monkeypatch.setattr(model.train, "COMPILE_FROM_S", 0.0)
    monkeypatch.setattr(model.train, "COMPILE_GAIN", 0.0)
    compiled = compiler(lambda: None)
    notes, state = tried(tmp_path, stop_after=10)
    (text,) = notes.texts
    assert text.startswith("blocks are compiled: a pass takes ")
    assert state == "stopped"
    notes, state = tried(tmp_path)
    assert (notes.texts, state) == ([], "done")
    assert compiled == ["compiled"] * 2


def test_auto_trains_on_where_the_compiler_fails(tmp_path, compiler, monkeypatch):
    def fail() -> None:
        raise RuntimeError("no room for code\nand more")

    monkeypatch.setattr(model.train, "COMPILE_FROM_S", 0.0)
    compiler(fail)
    notes, state = tried(tmp_path)
    (text,) = notes.texts
    assert text.startswith("blocks are not compiled: they cannot be (no room for code)")
    assert state == "done"


def test_blocks_are_as_written_again_when_that_is_asked_for():
    net = made(DENSE)
    for block in net.blocks:
        block.compiled = "compiled"
    with as_written(net):
        assert [block.compiled for block in net.blocks] == [None, None]
    assert [block.compiled for block in net.blocks] == ["compiled"] * 2
    leave_as_written(net)
    assert [block.compiled for block in net.blocks] == [None, None]


def test_a_run_that_compiles_nothing_imports_no_compiler(tmp_path):
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from ranks import Case, config, train_alone\n"
        f"train_alone(Case(folder=Path({str(tmp_path)!r}), config=config(steps=2), execution={{}}))\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    tests = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tests.parent, env=path_of(tests))


def path_of(tests: Path) -> dict[str, str]:

    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)])}
