import dataclasses
import errno
import resource
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from model.checkpoint import (
    delete_checkpoints,
    identity,
    newest_checkpoint,
    read_checkpoint,
    write_checkpoint,
    write_final,
)
from model.config import (
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
    Rates,
    ScheduleConfig,
    Seeds,
    TrainConfig,
)

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
CPU = torch.device("cpu")


def save(folder: Path, step: int, config: TrainConfig = CONFIG) -> Path:
    return write_checkpoint(folder, {"model": {"w": torch.full((4, 4), step)}}, config=config, step=step)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_what_was_written_is_read_back_exactly(tmp_path):
    state = {
        "model": {"w": torch.randn(3, 5, dtype=torch.float64)},
        "optimizer": {"step": torch.tensor(3), "groups": [{"m": torch.randn(2)}]},
        "losses": [5.5, 0.1 + 0.2],
        "note": "text",
    }
    write_checkpoint(tmp_path, state, config=CONFIG, step=7)
    newest = newest_checkpoint(tmp_path, CONFIG)
    assert newest.path is not None
    assert newest.step == 7
    step, found = read_checkpoint(newest.path, CPU)
    assert step == 7
    assert torch.equal(found["model"]["w"], state["model"]["w"])
    assert torch.equal(found["optimizer"]["groups"][0]["m"], state["optimizer"]["groups"][0]["m"])
    assert found["losses"] == state["losses"]
    assert found["note"] == "text"


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_a_state_on_the_host_is_mapped_rather_than_copied_into_the_memory_of_each_process(tmp_path):
    path = save(tmp_path, 7)
    _, state = read_checkpoint(path, CPU)
    assert str(path) in Path("/proc/self/maps").read_text()
    del state
    assert str(path) not in Path("/proc/self/maps").read_text()


def test_a_folder_without_checkpoints_has_no_newest(tmp_path):
    assert newest_checkpoint(tmp_path / "absent", CONFIG).path is None


def test_the_two_newest_are_kept(tmp_path):
    for step in (1, 2, 10, 9_000, 123_456):
        save(tmp_path, step)
    assert [read_checkpoint(p, CPU)[0] for p in sorted(tmp_path.iterdir())] == [9_000, 123_456]


def unreadable(error: OSError) -> Any:
    """A patch of `Path.open` that raises `error` for one path."""

    def damage(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        opened = Path.open

        def refuse(self: Path, *arguments: Any) -> Any:
            if self == path:
                raise error
            return opened(self, *arguments)

        monkeypatch.setattr(Path, "open", refuse)

    return damage


@pytest.mark.parametrize(
    ("damage", "flaw"),
    [
        (lambda p, _: flip_a_bit(p), "digest"),
        (lambda p, _: p.write_bytes(p.read_bytes()[:-100]), "digest"),
        (lambda p, _: p.write_bytes(b""), "digest"),
        (unreadable(PermissionError(errno.EACCES, "Permission denied")), "Permission denied"),
        (unreadable(OSError(errno.EIO, "Input/output error")), "Input/output error"),
        (lambda p, _: (p.unlink(), p.mkdir()), "Is a directory"),
    ],
    ids=["flipped bit", "truncated", "empty", "no permission", "unreadable", "folder"],
)
def test_a_damaged_newest_falls_back_to_the_one_before(tmp_path, monkeypatch, damage, flaw):
    before, newest = save(tmp_path, 1), save(tmp_path, 2)
    damage(newest, monkeypatch)
    found = newest_checkpoint(tmp_path, CONFIG)
    assert (found.path, found.step) == (before, 1)
    assert list(found.damaged) == [newest]
    assert flaw in found.damaged[newest]


def test_nothing_but_damaged_checkpoints_means_from_the_start(tmp_path, monkeypatch):
    for step in (1, 2):
        flip_a_bit(save(tmp_path, step))
    found = newest_checkpoint(tmp_path, CONFIG)
    assert (found.path, found.step, len(found.damaged)) == (None, 0, 2)


def test_damaged_checkpoints_of_later_steps_do_not_crowd_out_new_ones(tmp_path):
    for step in (10, 20):
        flip_a_bit(save(tmp_path, step))
    damaged = newest_checkpoint(tmp_path, CONFIG).damaged
    new = write_checkpoint(tmp_path, {"model": {}}, config=CONFIG, step=5, damaged=damaged)
    assert list(tmp_path.iterdir()) == [new]
    assert newest_checkpoint(tmp_path, CONFIG).path == new


def test_equal_states_give_equal_bytes(tmp_path):
    first, second = save(tmp_path / "a", 1), save(tmp_path / "b", 1)
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path):
    save(tmp_path, 1)
    other = dataclasses.replace(CONFIG, seed=Seeds(data=1))
    with pytest.raises(ValueError, match="belongs to another configuration"):
        newest_checkpoint(tmp_path, other)


def test_the_identity_ignores_where_the_data_lie_and_how_often_the_run_validates():
    moved = dataclasses.replace(
        CONFIG,
        data=dataclasses.replace(CONFIG.data, path="elsewhere"),
        evaluation=dataclasses.replace(CONFIG.evaluation, every=7),
    )
    assert identity(moved) == identity(CONFIG)


@pytest.mark.parametrize(
    "change",
    [{"tokens": 2048}, {"precision": "float64"}, {"schedule": ScheduleConfig(final=0.0)}],
    ids=["tokens", "precision", "schedule"],
)
def test_the_identity_follows_what_decides_the_losses(change):
    assert identity(dataclasses.replace(CONFIG, **change)) != identity(CONFIG)


@pytest.mark.parametrize("culprit", ["os.fsync", "pathlib.Path.replace"])
def test_a_full_disk_leaves_the_old_checkpoint_alone(tmp_path, monkeypatch, culprit):
    before = save(tmp_path, 1)

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(culprit, full)
        with pytest.raises(OSError, match="No space left on device"):
            save(tmp_path, 2)
    assert list(tmp_path.iterdir()) == [before]
    assert newest_checkpoint(tmp_path, CONFIG).path == before


def test_a_disk_that_fills_up_in_the_middle_is_told_by_the_number_of_the_system(tmp_path):
    before = save(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (before.stat().st_size, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write_checkpoint(tmp_path, {"model": {"w": torch.zeros(10_000)}}, config=CONFIG, step=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == [before]


def test_what_a_killed_writer_left_is_ignored_and_cleared(tmp_path):
    left = tmp_path / "step-000000002-0123456789abcdef.partial"
    left.write_bytes(b"half")
    first = save(tmp_path, 1)
    assert newest_checkpoint(tmp_path, CONFIG).path == first
    assert not left.exists()


def test_deleting_leaves_other_files_alone(tmp_path):
    save(tmp_path, 1)
    other = tmp_path / "note.txt"
    other.write_text("keep")
    delete_checkpoints(tmp_path, keep_final=False)
    assert list(tmp_path.iterdir()) == [other]


def test_deleting_clears_every_checkpoint_and_what_a_killed_writer_left(tmp_path):
    folder = tmp_path / "checkpoint"
    flip_a_bit(save(folder, 1))
    save(folder, 2)
    for step in (2, 3):
        (folder / f"step-{step:09d}-0123456789abcdef.partial").write_bytes(b"half")
    delete_checkpoints(folder, keep_final=False)
    assert not folder.exists()


def test_deleting_what_is_not_there_is_no_error(tmp_path):
    delete_checkpoints(tmp_path / "absent", keep_final=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keep_final", [True, False])
def test_final_weights_outlive_the_checkpoints_if_asked_to(tmp_path, keep_final):
    folder = tmp_path / "checkpoint"
    weight = torch.randn(3)
    save(folder, 1)
    write_final(folder, {"w": weight + 1}, config=CONFIG)  # of an attempt that died before its result was safe
    final = write_final(folder, {"w": weight}, config=CONFIG)
    delete_checkpoints(folder, keep_final=keep_final)
    if not keep_final:
        assert not folder.exists()
        return
    assert list(folder.iterdir()) == [final]
    content = torch.load(final, weights_only=True)
    assert torch.equal(content["model"]["w"], weight)
    assert (content["step"], content["identity"]) == (CONFIG.steps, identity(CONFIG))
