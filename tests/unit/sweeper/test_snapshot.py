import shutil

import pytest

from sweeper import snapshot
from sweeper.errors import DiskError, LaunchError
from sweeper.snapshot import hash_code, read_snapshot, take_snapshot, verify_snapshot


def test_a_snapshot_holds_every_module_and_its_hash(tmp_path):
    digest = take_snapshot(tmp_path)
    copy = tmp_path / digest
    assert hash_code(copy) == digest
    assert (copy / "model" / "train.py").read_text() == (snapshot.ROOT / "model" / "train.py").read_text()
    assert read_snapshot(tmp_path, digest)["hash"] == digest


def test_the_same_code_is_copied_once(tmp_path):
    first = take_snapshot(tmp_path)
    marker = tmp_path / first / "marker"
    marker.touch()
    assert take_snapshot(tmp_path) == first
    assert marker.exists()


def test_a_damaged_copy_is_made_anew(tmp_path):
    digest = take_snapshot(tmp_path)
    (tmp_path / digest / "model" / "train.py").write_text("")
    assert take_snapshot(tmp_path) == digest
    assert hash_code(tmp_path / digest) == digest
    assert [entry.name for entry in tmp_path.iterdir()] == [digest]


def test_changed_code_is_refused(tmp_path, monkeypatch):
    digest = take_snapshot(tmp_path)
    monkeypatch.setattr(snapshot, "ROOT", (tmp_path / digest).resolve())
    verify_snapshot(tmp_path, digest)
    (tmp_path / digest / "model" / "config.py").write_text("# edited")
    with pytest.raises(LaunchError, match="the frozen code was changed"):
        verify_snapshot(tmp_path, digest)


def test_code_from_elsewhere_is_refused(tmp_path):
    with pytest.raises(LaunchError, match="imported sweeper from"):
        verify_snapshot(tmp_path, take_snapshot(tmp_path))


def test_a_failed_copy_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(DiskError, match="the code cannot be copied"):
        take_snapshot(tmp_path)
    assert list(tmp_path.iterdir()) == []
