import itertools
import json
import math
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import model.saving
import model.shape
import model.train
from model.checkpoint import delete_checkpoints
from model.config import (
    CheckpointConfig,
    DataConfig,
    EvaluationConfig,
    Execution,
    ModelConfig,
    OptimizerConfig,
    Rates,
    ScheduleConfig,
    Seeds,
    TrainConfig,
)
from model.corpus import entropy_rate
from model.parameters import parameters
from model.shape import MEMORY_SHARE, checkpoint_bytes, memory_bytes, model_shape
from model.train import TAKEN_OVER, Member, Outcome, train

CHILD = Path(__file__).with_name("train_child.py")
NEVER = 10**9


def rates(lr: float) -> Rates:
    return Rates(hidden=lr, head=lr, embedding=lr, vector=lr, residual_multiplier=2**-0.5)


def small(*, steps: int = 20, lr: float = 0.05, **changes: Any) -> TrainConfig:
    """One layer on a Markov chain of eight states, eight sequences of sixteen tokens to a batch."""
    config = TrainConfig(
        model=ModelConfig(width=16, depth=1, head_size=8, kv_heads=2, vocab=8, context=16),
        optimizer=OptimizerConfig(),
        schedule=ScheduleConfig(),
        data=DataConfig(source="synthetic"),
        evaluation=EvaluationConfig(sequences=15),
        seed=Seeds(),
        rates=rates(lr),
        tokens=steps * 128,
        batch_tokens=128,
    )
    return replace(config, **changes)


def small_in_float64(**settings: Any) -> TrainConfig:
    return small(**settings, precision="float64", optimizer=OptimizerConfig(ns_dtype="float64"))


class Recorder:
    """An observer that keeps the rows, and asks to stop once some step is done."""

    def __init__(self, stop_after: int) -> None:
        self.rows: list[Mapping[str, float]] = []
        self.beats: list[int] = []
        self.alive: list[int] = []
        self.notes: list[str] = []
        self.asked = 0
        self.stop_after = stop_after

    def metrics(self, _member: int, row: Mapping[str, float]) -> None:
        self.rows.append(row)

    def progress(self, _member: int, step: int, _steps: int, _tokens_per_s: float) -> None:
        self.beats.append(step)

    def note(self, _member: int, text: str) -> None:
        self.notes.append(text)

    def should_stop(self) -> bool:
        self.asked += 1
        return self.asked >= self.stop_after


def run(
    folder: Path,
    config: TrainConfig,
    *,
    stop_after: int = NEVER,
    recorder: Recorder | None = None,
    may_write: Callable[[int], bool] = lambda _member: True,
    **execution: Any,
) -> tuple[Outcome, list[Mapping[str, float]]]:
    """Train in this process, a row for every step, until `should_stop` was asked `stop_after` times."""
    recorder = recorder or Recorder(stop_after)
    settings = Execution(**{"device": "cpu", "log_every": 1, **execution})
    member = Member(config=config, checkpoints=folder)
    (outcome,) = train([member], settings, recorder, recorder.should_stop, may_write=may_write)
    return outcome, recorder.rows


def exact(rows: list[Mapping[str, float]]) -> dict[float, dict[str, float]]:
    """Rows by step without their throughput; of two rows of a step the later."""
    return {row["step"]: {k: v for k, v in row.items() if k != "tokens_per_s"} for row in rows}


def losses(rows: list[Mapping[str, float]]) -> list[float]:
    return [row["loss"] for row in exact(rows).values()]


def start(
    folder: Path,
    cases: list[tuple[Path, TrainConfig, dict[str, Any], int]],
    *,
    within: Sequence[str] = (),
    **environment: str,
) -> subprocess.Popen[bytes]:
    """A process that trains the cases (checkpoints, config, execution, stop after) and writes result.jsonl."""
    folder.mkdir(exist_ok=True)
    (folder / "cases.pickle").write_bytes(pickle.dumps(cases))
    paths = os.pathsep.join([str(Path(model.train.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    with (folder / "stderr").open("wb") as errors:
        return subprocess.Popen(
            [*within, sys.executable, str(CHILD), str(folder / "cases.pickle"), str(folder / "result.jsonl")],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **environment},
            stderr=errors,
        )


def results(folder: Path) -> tuple[list[dict[str, Any]], list[list[dict[str, float]]]]:
    """Outcome and rows of each case that a process finished, and the rows of the one it did not; notes are left out.

    The process may be in the middle of a line.
    """
    outcomes: list[dict[str, Any]] = []
    rows: list[list[dict[str, float]]] = [[]]
    file = folder / "result.jsonl"
    text = file.read_text() if file.exists() else ""
    for line in text[: text.rfind("\n") + 1].splitlines():
        value = json.loads(line)
        if "row" in value:
            rows[-1].append(value["row"])
        elif "outcome" in value:
            outcomes.append(value["outcome"])
            rows.append([])
    return outcomes, rows


def wait_until(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_run_ends_with_its_validation_loss(tmp_path):
    outcome, rows = run(tmp_path, small(steps=60))
    assert (outcome.state, outcome.reason, outcome.steps, outcome.tokens) == ("done", "", 60, 60 * 128)
    assert outcome.loss == rows[-1]["val/loss"] < rows[0]["loss"] - 0.3
    assert outcome.train_loss == pytest.approx(sum(losses(rows)[-3:]) / 3)
    assert 0 < outcome.tokens / outcome.tokens_per_s < outcome.wall_time_s
    assert outcome.device == "cpu"


def test_rows_carry_the_scheduled_rate_and_the_tokens_seen(tmp_path):
    _, rows = run(tmp_path, small(steps=10, lr=0.05))
    assert [row["step"] for row in rows] == list(range(1, 11))
    assert [row["tokens"] for row in rows] == [128 * step for step in range(1, 11)]
    assert [row["lr"] for row in rows] == pytest.approx([0.05 * (1 - 0.09 * step) for step in range(10)])


def test_only_every_log_every_th_step_the_first_and_the_last_make_a_row(tmp_path):
    _, rows = run(tmp_path, small(steps=10), log_every=4)
    assert [row["step"] for row in rows] == [1, 4, 8, 10]


def test_validations_on_the_way_change_no_loss(tmp_path):
    _, plain = run(tmp_path / "plain", small(steps=10))
    _, rows = run(tmp_path / "every", small(steps=10, evaluation=EvaluationConfig(sequences=15, every=3)))
    assert [row["step"] for row in rows if "val/loss" in row] == [3, 6, 9, 10]
    assert losses(rows) == losses(plain)


def test_a_heartbeat_comes_with_every_step_and_during_validation(tmp_path):
    recorder = Recorder(NEVER)
    settings = Execution(device="cpu", micro_batch=5)
    member = Member(config=small(steps=4), checkpoints=tmp_path)
    train([member], settings, recorder, recorder.should_stop, alive=recorder.alive.append)
    assert recorder.beats == [0, 1, 2, 3, 4, 4, 4, 4]
    assert recorder.alive == recorder.beats


def test_looking_at_the_losses_less_often_changes_nothing(tmp_path, monkeypatch):
    # A GPU is looked at every few steps only.
    often = run(tmp_path, small(steps=40))
    diverging = small(steps=150, lr=30.0)
    early = run(tmp_path, diverging)
    monkeypatch.setitem(model.train.LOOK_STEPS, "cpu", 7)
    for (before, rows), (after, rows_after) in [
        (often, run(tmp_path, small(steps=40))),
        (early, run(tmp_path, diverging)),
    ]:
        assert exact(rows_after) == exact(rows)
        assert (after.state, after.loss, after.train_loss, after.steps) == (
            before.state,
            before.loss,
            before.train_loss,
            before.steps,
        )


@pytest.mark.parametrize(
    ("step_s", "looks"),
    [(0.001, [1, 17, 20]), (0.3, [1, 7, 13, 19, 20]), (0.9, [1, *range(3, 20, 2), 20]), (45.0, list(range(1, 21)))],
)
def test_slow_steps_are_looked_at_every_two_seconds(tmp_path, monkeypatch, step_s, looks):
    recorder, now, step = Recorder(NEVER), [0.0], model.train.take_step

    def slow_step(*arguments: Any) -> Any:
        now[0] += step_s
        return step(*arguments)

    monkeypatch.setattr(model.train, "take_step", slow_step)
    monkeypatch.setattr(model.train.time, "monotonic", lambda: now[0])
    monkeypatch.setitem(model.train.LOOK_STEPS, "cpu", 16)
    execution = Execution(device="cpu", checkpoint=CheckpointConfig(every_s=1e9))
    train([Member(config=small(steps=20), checkpoints=tmp_path)], execution, recorder, recorder.should_stop)
    assert recorder.beats[1:-2] == looks  # after the start, and before the two batches of the validation
    assert recorder.asked == len(looks)


def test_a_look_follows_a_wish_to_stop_even_if_it_came_while_the_device_was_busy(tmp_path, monkeypatch):
    asked_to_stop = False
    stack = model.train.torch.stack

    def busy(*arguments: Any) -> Any:
        nonlocal asked_to_stop
        asked_to_stop = True
        return stack(*arguments)

    monkeypatch.setattr(model.train.torch, "stack", busy)
    recorder = Recorder(NEVER)
    member = Member(config=small(), checkpoints=tmp_path)
    (outcome,) = train([member], Execution(device="cpu"), recorder, lambda: asked_to_stop)
    assert (outcome.state, outcome.steps) == ("stopped", 1)


@pytest.mark.parametrize("stop_after", [1, 7, 19])
def test_a_stopped_run_goes_on_as_if_undisturbed(tmp_path, stop_after):
    config = small(evaluation=EvaluationConfig(sequences=15, every=7))
    whole, rows = run(tmp_path / "whole", config)
    stopped, first = run(tmp_path / "run", config, stop_after=stop_after)
    assert (stopped.state, stopped.steps, math.isnan(stopped.loss)) == ("stopped", stop_after, True)
    assert stopped.reason == f"asked to stop at step {stop_after} of 20"
    resumed, rest = run(tmp_path / "run", config)
    assert [row["step"] for row in rest] == list(range(stop_after + 1, 21))
    assert exact([*first, *rest]) == exact(rows)
    assert (resumed.state, resumed.loss, resumed.train_loss) == ("done", whole.loss, whole.train_loss)
    assert resumed.wall_time_s > stopped.wall_time_s


@pytest.mark.parametrize("optimizer", ["muonh", "muon", "adamw"])
def test_every_optimiser_resumes_exactly(tmp_path, optimizer):
    config = small(steps=10, optimizer=OptimizerConfig(name=optimizer), lr=0.01)
    whole, _ = run(tmp_path / "whole", config)
    run(tmp_path / "run", config, stop_after=5)
    assert run(tmp_path / "run", config)[0].loss == whole.loss


def test_a_run_killed_in_the_middle_gives_the_same_losses(tmp_path):
    config = small(steps=150)
    whole, rows = run(tmp_path / "whole", config)
    process = start(
        tmp_path / "child", [(tmp_path / "run", config, {"checkpoint": CheckpointConfig(every_s=0.02)}, NEVER)]
    )
    try:
        wait_until(lambda: len(results(tmp_path / "child")[1][0]) >= 50 and any((tmp_path / "run").glob("*.pt")))
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    outcomes, (killed,) = results(tmp_path / "child")
    assert outcomes == []
    resumed, rest = run(tmp_path / "run", config)
    assert 1 < rest[0]["step"] <= len(killed) + 2  # a row may be cut off, and one step more may be checkpointed
    assert exact([*killed, *rest]) == exact(rows)
    assert (resumed.loss, resumed.train_loss) == (whole.loss, whole.train_loss)


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(tmp_path):
    config = small()
    whole, _ = run(tmp_path / "whole", config)
    run(tmp_path / "run", config, stop_after=5)
    run(tmp_path / "run", config, stop_after=5)
    newest = max((tmp_path / "run").glob("*.pt"))
    newest.write_bytes(newest.read_bytes()[:1000])
    recorder = Recorder(NEVER)
    resumed, rest = run(tmp_path / "run", config, recorder=recorder)
    assert rest[0]["step"] == 6
    assert resumed.loss == whole.loss
    (note,) = recorder.notes
    assert note.startswith(f"checkpoint {newest} is passed over (its content does not match")
    assert note.endswith("the run resumes from step 5")


def test_a_run_whose_checkpoints_are_all_damaged_starts_again_and_can_be_stopped_again(tmp_path):
    config = small()
    whole, _ = run(tmp_path / "whole", config)
    for _ in range(2):
        run(tmp_path / "run", config, stop_after=8)
    for path in (tmp_path / "run").glob("*.pt"):
        path.write_bytes(b"")
    recorder = Recorder(stop_after=3)
    run(tmp_path / "run", config, recorder=recorder)
    assert [note.rpartition("; ")[2] for note in recorder.notes] == ["the run resumes from step 0"] * 2
    resumed, rest = run(tmp_path / "run", config)
    assert rest[0]["step"] == 4
    assert resumed.loss == whole.loss


def test_checkpoints_are_written_by_the_clock(tmp_path, monkeypatch):
    seconds = itertools.count()
    monkeypatch.setattr(model.train.time, "monotonic", lambda: float(next(seconds)))
    written: list[int] = []
    save = model.saving.write_checkpoint
    monkeypatch.setattr(
        model.saving, "write_checkpoint", lambda *a, step, **k: (written.append(step), save(*a, step=step, **k))
    )
    run(tmp_path, small(steps=20), checkpoint=CheckpointConfig(every_s=25.0, background=False))
    assert len(written) >= 2
    assert {b - a for a, b in itertools.pairwise(written)} == {written[1] - written[0]}
    monkeypatch.undo()
    written.clear()
    run(tmp_path, small(steps=20))
    assert written == []


ALWAYS = CheckpointConfig(every_s=1e-9, background=False)
"""A checkpoint after every step."""


@contextmanager
def full_disk(room: int = 0) -> Iterator[None]:
    """Files of this process longer than `room` bytes cannot be written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("background", [False, True])
def test_training_goes_on_when_no_checkpoint_can_be_written(tmp_path, background):
    config = small()
    whole, _ = run(tmp_path / "whole", config)
    run(tmp_path / "run", config, stop_after=5)
    kept = list((tmp_path / "run").iterdir())
    recorder = Recorder(NEVER)
    with full_disk():
        policy = replace(ALWAYS, background=background)
        outcome, rest = run(tmp_path / "run", config, recorder=recorder, checkpoint=policy)
    assert list((tmp_path / "run").iterdir()) == kept
    assert outcome.loss == whole.loss
    assert [row["step"] for row in rest] == list(range(6, 21))
    assert len(recorder.notes) == 14 if not background else recorder.notes
    first = next(note for note in recorder.notes if "takes longer" not in note)  # of a busy machine
    assert first.startswith("the checkpoint of step 6 could not be written to")
    assert first.endswith("(File too large); the newest one is of step 5")


def test_checkpoints_are_tried_again_when_the_disk_has_room_again(tmp_path):
    class Janitor(Recorder):
        def progress(self, member: int, step: int, steps: int, tokens_per_s: float) -> None:
            super().progress(member, step, steps, tokens_per_s)
            if step == 8:
                room.close()

    janitor = Janitor(stop_after=10)
    with ExitStack() as room:
        room.enter_context(full_disk())
        run(tmp_path, small(), recorder=janitor, checkpoint=ALWAYS)
    assert len(janitor.notes) == 7
    assert [int(path.name.split("-")[1]) for path in sorted(tmp_path.iterdir())] == [9, 10]


def test_a_stop_that_cannot_be_saved_says_where_the_run_will_resume(tmp_path):
    config = small()
    with full_disk():
        outcome, _ = run(tmp_path / "new", config, stop_after=3)
    assert (outcome.state, outcome.steps) == ("stopped", 3)
    assert outcome.reason == (
        "asked to stop at step 3 of 20; its last checkpoint could not be written (File too large): "
        "it resumes from step 0"
    )
    run(tmp_path / "run", config, stop_after=5)
    with full_disk():
        outcome, _ = run(tmp_path / "run", config, stop_after=2)
    assert outcome.reason.endswith("it resumes from step 5")
    assert run(tmp_path / "run", config)[1][0]["step"] == 6


def test_checkpoints_in_the_background_are_those_in_the_foreground(tmp_path):
    runs = {}
    for background in (True, False):
        folder = tmp_path / str(background)
        run(folder, small(), stop_after=7, checkpoint=CheckpointConfig(every_s=1e-9, background=background))
        (runs[background],) = (path for path in folder.iterdir() if path.name.startswith("step-000000007"))
    states = [torch.load(path, weights_only=True)["state"] for path in runs.values()]
    for state in states:
        del state["progress"]["wall_time_s"], state["progress"]["stepping_s"]
    assert pickle.dumps(states[0]["progress"]) == pickle.dumps(states[1]["progress"])
    assert same(states[0], states[1])


def same(a: Any, b: Any) -> bool:
    """Whether two nested states are equal bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_steps_go_on_while_a_checkpoint_travels_and_the_next_waits_for_it(tmp_path, monkeypatch):
    fsync, there = os.fsync, threading.Event()
    held: list[int] = []

    def slow(handle: int) -> None:
        if not there.is_set():
            held.append(recorder.beats[-1])
            there.wait(60)
        fsync(handle)

    class Patient(Recorder):
        def progress(self, member: int, step: int, steps: int, tokens_per_s: float) -> None:
            super().progress(member, step, steps, tokens_per_s)
            if step == 15:
                there.set()

    recorder = Patient(NEVER)
    whole, _ = run(tmp_path / "whole", small())
    monkeypatch.setattr(os, "fsync", slow)
    outcome, _ = run(tmp_path / "run", small(), recorder=recorder, checkpoint=replace(ALWAYS, background=True))
    assert outcome.loss == whole.loss
    assert len(held) == 1
    assert len([note for note in recorder.notes if "the next one waits for it" in note]) >= 1
    assert "writing the checkpoint of step 1 takes longer than execution.checkpoint.every_s" in recorder.notes[0]


def test_an_attempt_that_was_taken_over_stops_and_writes_nothing(tmp_path):
    asked: list[int] = []

    def may_write(_member: int) -> bool:
        asked.append(1)
        return len(asked) <= 3

    outcome, rows = run(tmp_path, small(), checkpoint=ALWAYS, may_write=may_write)
    assert (outcome.state, outcome.reason) == ("stopped", TAKEN_OVER)
    assert math.isnan(outcome.loss)
    assert outcome.steps == len(rows) == 4
    assert [int(path.name.split("-")[1]) for path in sorted(tmp_path.iterdir())] == [2, 3]


@pytest.mark.parametrize(
    ("settings", "stop_after"),
    [({}, NEVER), ({"steps": 1000, "lr": 30.0}, NEVER), ({}, 5)],
    ids=["done", "diverged", "asked to stop"],
)
def test_no_end_of_an_attempt_that_was_taken_over_counts(tmp_path, settings, stop_after):
    policy = CheckpointConfig(keep_final=True)
    outcome, _ = run(
        tmp_path, small(**settings), stop_after=stop_after, checkpoint=policy, may_write=lambda _member: False
    )
    assert (outcome.state, outcome.reason) == ("stopped", TAKEN_OVER)
    assert list(tmp_path.iterdir()) == []


def test_final_weights_are_kept_of_a_finished_run_that_asks_for_them(tmp_path):
    policy = CheckpointConfig(keep_final=True)
    run(tmp_path / "run", small(), stop_after=5, checkpoint=policy)
    assert not list((tmp_path / "run").glob("final-*"))
    run(tmp_path / "run", small(), checkpoint=policy)
    (final,) = (tmp_path / "run").glob("final-*")
    content = torch.load(final, weights_only=True)
    assert content["step"] == 20
    assert {name: tuple(tensor.shape) for name, tensor in content["model"].items()} == {
        parameter.name: parameter.shape for parameter in parameters(small().model)
    }
    run(tmp_path / "plain", small())
    assert not (tmp_path / "plain").exists()


@pytest.mark.parametrize("optimizer", ["muonh", "muon", "adamw"])
@pytest.mark.parametrize(
    "model",
    [{}, {"depth": 3, "qk_norm": False}, {"mlp": "moe", "top_k": 4, "sparsity": 2, "width": 32}],
    ids=["one layer", "three", "mixture"],
)
def test_checkpoints_take_the_bytes_that_were_planned(tmp_path, optimizer, model):
    policy = CheckpointConfig(keep_final=True)
    config = small(steps=4, optimizer=OptimizerConfig(name=optimizer), lr=0.01)
    config = replace(config, model=replace(config.model, **model))
    planned = checkpoint_bytes(config, keep_final=True)
    run(tmp_path, config, stop_after=2, checkpoint=policy)
    (checkpoint,) = tmp_path.iterdir()
    assert planned.one == pytest.approx(checkpoint.stat().st_size, rel=0.02)
    assert planned.peak == 3 * planned.one
    run(tmp_path, config, checkpoint=policy)
    delete_checkpoints(tmp_path, keep_final=True)
    (final,) = tmp_path.iterdir()
    assert planned.kept == pytest.approx(final.stat().st_size, rel=0.02)
    assert checkpoint_bytes(config, keep_final=False).kept == 0


def test_a_finished_run_is_done_though_its_final_weights_find_no_room(tmp_path):
    recorder = Recorder(NEVER)
    with full_disk():
        outcome, _ = run(tmp_path, small(), recorder=recorder, checkpoint=CheckpointConfig(keep_final=True))
    assert outcome.state == "done"
    assert recorder.notes == [f"the final weights could not be written to {tmp_path} (File too large)"]
    assert list(tmp_path.iterdir()) == []


def test_the_checkpoint_of_another_run_is_refused(tmp_path):
    run(tmp_path, small(), stop_after=5)
    with pytest.raises(ValueError, match="belongs to another configuration"):
        run(tmp_path, small(lr=0.06))


def test_a_rate_far_too_high_diverges_early(tmp_path):
    outcome, rows = run(tmp_path, small(steps=1000, lr=30.0))
    assert outcome.state == "diverged"
    assert "above its start" in outcome.reason
    assert outcome.steps == rows[-1]["step"] < 200
    assert outcome.loss == rows[-1]["loss"]


def test_a_loss_that_is_no_number_diverges_at_once(tmp_path):
    outcome, rows = run(tmp_path, small(lr=1e30, optimizer=OptimizerConfig(name="adamw")))
    assert outcome.state == "diverged"
    assert "became" in outcome.reason
    assert outcome.steps == len(rows) < 5


def test_a_vanishing_rate_is_no_divergence(tmp_path):
    assert run(tmp_path, small(steps=120, lr=1e-9))[0].state == "done"


@pytest.mark.parametrize("micro_batch", [4, 3])
def test_the_micro_batch_changes_nothing_beyond_rounding(tmp_path, micro_batch):
    # In float32 MuonH drifts apart after some tens of steps; in float64 it does not.
    whole, rows = run(tmp_path, small_in_float64(steps=40))
    parts, rows_of_parts = run(tmp_path, small_in_float64(steps=40), micro_batch=micro_batch)
    assert losses(rows_of_parts) == pytest.approx(losses(rows), rel=1e-8)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-8)
    _, rows = run(tmp_path, small())
    _, rows_of_parts = run(tmp_path, small(), micro_batch=micro_batch)
    assert losses(rows_of_parts) == pytest.approx(losses(rows), rel=1e-5)


def sized(folder: Path, config: TrainConfig, *, memory: float, halved: int = 0) -> tuple[Recorder, Outcome]:
    recorder = Recorder(NEVER)
    member = Member(config=config, checkpoints=folder)
    settings = Execution(device="cpu", log_every=1)
    (outcome,) = train([member], settings, recorder, recorder.should_stop, memory=memory, halved=halved)
    return recorder, outcome


def test_passes_are_as_small_as_memory_wants_and_the_losses_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(model.shape, "MIN_PASS_TOKENS", 16)
    config = small_in_float64(steps=6)
    budget = memory_bytes(config, micro_batch=2, processes=1) / MEMORY_SHARE
    whole, outcome = sized(tmp_path / "whole", config, memory=2**30)
    parts, in_parts = sized(tmp_path / "parts", config, memory=budget + 1)
    lacking, halved = sized(tmp_path / "halved", config, memory=budget + 1, halved=1)
    assert whole.notes == []
    assert parts.notes == ["micro-batch 2 of 8 sequences to fit into memory: 0.0 GiB by estimate"]
    assert lacking.notes == ["micro-batch 1 of 8 sequences after memory ran out (1 ×): 0.0 GiB by estimate"]
    assert in_parts.loss == pytest.approx(outcome.loss, rel=1e-8)
    assert halved.loss == pytest.approx(outcome.loss, rel=1e-8)


def test_a_run_that_fits_in_no_way_says_that_it_computes_activations_twice(tmp_path):
    recorder, outcome = sized(tmp_path, small(steps=3), memory=1.0)
    (note,) = recorder.notes
    assert note.startswith("micro-batch 1 of 8 sequences to fit into memory, computing activations again for")
    assert outcome.state == "done"


def test_two_processes_train_as_one(tmp_path):
    exactly, single, stopped = small_in_float64(steps=40), small(steps=20), small_in_float64(steps=30)
    alone = [run(tmp_path / "alone", config) for config in (exactly, single, stopped)]
    processes = []
    for rank in range(2):
        cases = [
            (tmp_path / "exactly", exactly, {}, NEVER),
            (tmp_path / "single", single, {"micro_batch": 3}, NEVER),
            (tmp_path / "stopped", stopped, {}, 10 if rank == 1 else NEVER),  # only rank 1 is asked to stop
        ]
        rendezvous = f"file://{tmp_path / 'group'}"
        place = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "SWEEPER_INIT_METHOD": rendezvous}
        processes.append(start(tmp_path / f"rank{rank}", cases, **place))
    codes = [process.wait(timeout=120) for process in processes]
    assert codes == [0, 0], (tmp_path / "rank1" / "stderr").read_text()
    outcomes, rows = results(tmp_path / "rank0")
    others, no_rows = results(tmp_path / "rank1")

    assert losses(rows[0]) == pytest.approx(losses(alone[0][1]), rel=1e-8)
    assert outcomes[0]["loss"] == pytest.approx(alone[0][0].loss, rel=1e-8)
    assert losses(rows[1]) == pytest.approx(losses(alone[1][1]), rel=1e-5)
    assert no_rows == [[], [], [], []]
    assert [(o["loss"], o["steps"]) for o in others[:2]] == [(o["loss"], o["steps"]) for o in outcomes[:2]]

    assert [(o["state"], o["steps"]) for o in (outcomes[2], others[2])] == [("stopped", 10)] * 2
    resumed, _ = run(tmp_path / "stopped", stopped)  # by one process now
    assert resumed.loss == pytest.approx(alone[2][0].loss, rel=1e-8)


def start_ranks(
    folder: Path, config: TrainConfig, *, stop_after: tuple[int, int], **environment: tuple[str, str]
) -> Any:
    """Two processes that train one run; `environment` and `stop_after` hold a value for each."""
    return [
        start(
            folder / f"rank{rank}",
            [(folder / "run", config, {}, stop_after[rank])],
            RANK=str(rank),
            WORLD_SIZE="2",
            LOCAL_RANK=str(rank),
            SWEEPER_INIT_METHOD=f"file://{folder / 'group'}",
            **{name: values[rank] for name, values in environment.items()},
        )
        for rank in range(2)
    ]


def test_ranks_look_at_the_same_steps_though_their_clocks_differ(tmp_path):
    config = small_in_float64(steps=60)
    alone, _ = run(tmp_path / "alone", config)
    slowness = {"LOOK_STEPS": ("16", "16"), "LOOK_S": ("0.5", "0.5"), "STEP_S": ("0.01", "0.01")}
    processes = start_ranks(tmp_path, config, stop_after=(NEVER, 4), CLOCK=("1", "7"), **slowness)
    assert [process.wait(timeout=60) for process in processes] == [0, 0], (tmp_path / "rank1" / "stderr").read_text()
    (first,), (second,) = (results(tmp_path / f"rank{rank}")[0] for rank in range(2))
    assert (first["state"], first["steps"]) == (second["state"], second["steps"])
    assert first["state"] == "stopped"
    assert 4 <= first["steps"] < 60
    assert run(tmp_path / "run", config)[0].loss == pytest.approx(alone.loss, rel=1e-8)


def test_what_rank_0_learns_of_disk_and_owner_ends_every_rank_alike(tmp_path):
    # The first run is asked to stop, of which only rank 0 can try to write; before the second ends, it is taken over.
    processes = []
    for rank in range(2):
        cases = [
            (tmp_path / "full", small(), {}, 5 if rank == 1 else NEVER),
            (tmp_path / "taken over", small(), {"checkpoint": CheckpointConfig(keep_final=True)}, NEVER),
        ]
        place = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
        rendezvous = f"file://{tmp_path / 'group'}"
        trouble = {"ROOM": "15000", "MAY_WRITE": "1"}
        processes.append(start(tmp_path / f"rank{rank}", cases, SWEEPER_INIT_METHOD=rendezvous, **place, **trouble))
    codes = [process.wait(timeout=120) for process in processes]
    assert codes == [0, 0], (tmp_path / "rank1" / "stderr").read_text()
    outcomes = [results(tmp_path / f"rank{rank}")[0] for rank in range(2)]
    assert [[(one["state"], one["steps"]) for one in rank] for rank in outcomes] == [
        [("stopped", 5), ("stopped", 20)]
    ] * 2
    assert [rank[0]["reason"] for rank in outcomes] == [
        "asked to stop at step 5 of 20; its last checkpoint could not be written (File too large): "
        "it resumes from step 0"
    ] * 2
    assert [rank[1]["reason"] for rank in outcomes] == [TAKEN_OVER] * 2
    assert not list((tmp_path / "full").iterdir())
    assert not (tmp_path / "taken over").exists()


def test_a_run_on_a_disk_that_is_really_full_ends_with_its_loss(tmp_path):
    """A small filesystem in a mount namespace of its own, for which it takes root on Linux."""
    disk = tmp_path / "disk"
    disk.mkdir()
    # Room for two checkpoints and not for a third.
    mount = f"mount -t tmpfs -o size={5 * checkpoint_bytes(small(), keep_final=False).one // 2} tmpfs {disk}"
    unshare = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, mount], capture_output=True).returncode:
        pytest.skip("a filesystem cannot be mounted here: it takes root and unshare")
    child = start(
        tmp_path / "child",
        [(disk / "run", small(), {"checkpoint": ALWAYS}, NEVER)],
        within=[*unshare, f'{mount} && exec "$0" "$@"'],
    )
    assert child.wait(timeout=60) == 0, (tmp_path / "child" / "stderr").read_text()
    (outcome,), _ = results(tmp_path / "child")
    assert outcome["loss"] == run(tmp_path / "whole", small())[0].loss
    notes = [line for line in (tmp_path / "child" / "result.jsonl").read_text().splitlines() if "note" in line]
    assert len(notes) == 17
    assert all("(No space left on device); the newest one is of step 2" in note for note in notes)


def test_a_killed_rank_is_told_from_an_error_of_the_others(tmp_path):
    survivor, victim = start_ranks(tmp_path, small(steps=10**6), stop_after=(NEVER, NEVER))
    try:
        wait_until(lambda: len(results(tmp_path / "rank0")[1][0]) >= 5)
    finally:
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait()
    assert survivor.wait(timeout=60) == 1
    last = (tmp_path / "rank0" / "stderr").read_text().splitlines()[-1]
    assert "model.distributed.PeerLost: rank 0 of 2 lost another rank (" in last
    assert last.endswith("launch again: the run resumes from its last checkpoint")


def test_bfloat16_stays_near_float32(tmp_path):
    exactly, _ = run(tmp_path, small(steps=40))
    roughly, _ = run(tmp_path, small(steps=40, precision="bfloat16"))
    assert roughly.loss != exactly.loss
    assert roughly.loss == pytest.approx(exactly.loss, abs=0.05)


def test_members_that_share_a_folder_are_refused(tmp_path):
    member = Member(config=small(), checkpoints=tmp_path)
    with pytest.raises(ValueError, match="a folder of its own"):
        train([member, member], Execution(), Recorder(NEVER), lambda: False)


def test_too_few_validation_sequences_are_noticed_before_training(tmp_path):
    config = small(
        data=DataConfig(source="python_source"),
        model=ModelConfig(width=16, depth=1, head_size=8, kv_heads=2, vocab=256, context=16),
        evaluation=EvaluationConfig(sequences=10**7),
    )
    with pytest.raises(ValueError, match="sequences"):
        run(tmp_path, config)
    assert list(tmp_path.iterdir()) == []


def test_training_leaves_the_settings_of_torch_as_they_were(tmp_path):
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    run(tmp_path, small(steps=2), threads=2)
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before


def test_a_model_of_a_known_source_approaches_its_entropy_rate_and_never_beats_it(tmp_path):
    config = small(
        steps=180,
        model=ModelConfig(width=32, depth=1, head_size=16, kv_heads=2, vocab=8, context=64),
        tokens=180 * 1024,
        batch_tokens=1024,
        evaluation=EvaluationConfig(sequences=400, every=60),
    )
    floor = entropy_rate(config.data, config.model.vocab)
    _, rows = run(tmp_path, config, log_every=60)
    validations = [row["val/loss"] for row in rows if "val/loss" in row]
    # 0.015: three standard errors of a mean over 25,600 tokens whose losses spread by about 0.8 nats.
    assert min(validations) > floor - 0.015
    assert validations[-1] < floor + 0.04 < validations[0]


def test_the_share_of_a_known_peak_is_a_metric(tmp_path, monkeypatch):
    monkeypatch.setattr(model.train, "peak_flops", lambda _device: 1e12)
    config = small()
    _, rows = run(tmp_path, config)
    per_token = model_shape(config.model).flops_per_token_causal
    assert [row["mfu"] for row in rows] == pytest.approx([row["tokens_per_s"] * per_token / 1e12 for row in rows])
