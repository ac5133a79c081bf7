import pickle
import threading
import time
from contextlib import suppress

import pytest
import torch

import model.saving
from model.checkpoint import Found, newest_checkpoint
from model.config import (
    CheckpointConfig,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
    Rates,
    ScheduleConfig,
    Seeds,
    TrainConfig,
)
from model.saving import Saver

CONFIG = TrainConfig(
    model=ModelConfig(width=16, depth=1, head_size=8, kv_heads=2, vocab=8, context=8),
    optimizer=OptimizerConfig(),
    schedule=ScheduleConfig(),
    data=DataConfig(source="synthetic"),
    evaluation=EvaluationConfig(),
    seed=Seeds(),
    rates=Rates(hidden=0.02, head=0.02, embedding=0.02, vector=0.02),
    tokens=1024,
    batch_tokens=64,
)
STATE = {"model": {"w": torch.arange(6.0)}}
UNWRITABLE = {"model": lambda: None}


@pytest.fixture
def slow(monkeypatch):
    """Writing waits until this event is set."""
    go = threading.Event()
    write = model.saving.write_checkpoint

    def wait_and_write(*arguments, **settings):
        assert go.wait(60)
        return write(*arguments, **settings)

    monkeypatch.setattr(model.saving, "write_checkpoint", wait_and_write)
    yield go
    go.set()


def saver(folder, notes, **policy):
    return Saver(folder, CONFIG, CheckpointConfig(**policy), Found(), notes.append)


def test_a_checkpoint_is_wanted_when_it_is_due(tmp_path):
    with saver(tmp_path, [], every_s=100.0) as one:
        now = time.monotonic()
        assert not one.wants(now)
        assert one.wants(now + 101)
        one.save(STATE, 3, wait=True)
        assert not one.wants(now + 99)
        assert one.wants(now + 110)


def test_saving_returns_while_the_checkpoint_is_written(tmp_path, slow):
    with saver(tmp_path, []) as one:
        assert one.save(STATE, 3, wait=False) == ""
        assert newest_checkpoint(tmp_path, CONFIG).path is None
        assert one.safe_step == 0
        slow.set()
        one.settle(wait=True)
        assert one.safe_step == newest_checkpoint(tmp_path, CONFIG).step == 3


def test_in_the_foreground_saving_waits(tmp_path):
    with saver(tmp_path, [], background=False) as one:
        one.save(STATE, 3, wait=False)
        assert one.safe_step == 3


def test_the_one_under_way_puts_the_next_off_and_says_so_once(tmp_path, slow):
    notes = []
    with saver(tmp_path, notes, every_s=1.0) as one:
        one.save(STATE, 3, wait=False)
        later = time.monotonic() + 2
        assert not one.wants(later)
        assert not one.wants(later + 1)
        slow.set()
        one.settle(wait=True)
        assert one.wants(later + 2)
    assert notes == [
        "writing the checkpoint of step 3 takes longer than execution.checkpoint.every_s = 1 s: "
        "the next one waits for it; raise every_s, or look at the disk"
    ]


def test_the_end_of_a_run_waits_for_the_checkpoint_under_way(tmp_path, slow):
    threading.Timer(0.1, slow.set).start()
    with suppress(ZeroDivisionError), saver(tmp_path, []) as one:
        one.save(STATE, 3, wait=False)
        1 / 0  # noqa: B018
    assert newest_checkpoint(tmp_path, CONFIG).step == 3


def test_a_failure_in_the_thread_is_told_at_the_next_look(tmp_path):
    notes = []
    (tmp_path / "file").write_text("in the way")
    with saver(tmp_path / "file", notes) as one:
        one.save(STATE, 3, wait=False)
        one.settle(wait=True)
        assert notes == [
            f"the checkpoint of step 3 could not be written to {tmp_path / 'file'} (File exists); there is none yet"
        ]
        assert one.save(STATE, 4, wait=True) == "File exists"


def test_a_lack_of_memory_while_writing_ends_nothing(tmp_path, monkeypatch):
    notes = []

    def full(*_, **__):
        return torch.empty(2**50, dtype=torch.uint8)

    monkeypatch.setattr(model.saving, "write_checkpoint", full)
    with saver(tmp_path, notes) as one:
        assert one.save(STATE, 3, wait=True) == "no memory"
    assert len(notes) == 1


def test_a_mistake_in_the_program_is_raised_and_leaves_nothing_behind(tmp_path):
    with saver(tmp_path, []) as one:
        one.save(UNWRITABLE, 3, wait=False)
        with pytest.raises(pickle.PicklingError, match="lambda"):
            one.settle(wait=True)
    assert list(tmp_path.iterdir()) == []


def test_damaged_checkpoints_go_with_the_first_that_is_written(tmp_path):
    damaged = tmp_path / "step-000000009-0123456789abcdef.pt"
    damaged.write_bytes(b"")
    found = newest_checkpoint(tmp_path, CONFIG)
    with Saver(tmp_path, CONFIG, CheckpointConfig(), found, [].append) as one:
        one.save(STATE, 3, wait=True)
    assert not damaged.exists()
    assert newest_checkpoint(tmp_path, CONFIG).step == 3


def test_it_is_told_if_final_weights_cannot_be_kept(tmp_path):
    notes = []
    with saver(tmp_path / "run", notes) as one:
        one.save_final(STATE["model"])
    assert [path.name.partition("-")[0] for path in (tmp_path / "run").iterdir()] == ["final"]
    (tmp_path / "file").write_text("in the way")
    with saver(tmp_path / "file", notes) as one:
        one.save_final(STATE["model"])
    assert notes == [f"the final weights could not be written to {tmp_path / 'file'} (File exists)"]
