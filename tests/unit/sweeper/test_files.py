import os

import pytest

from sweeper.errors import DiskError
from sweeper.files import replacing


def test_a_file_takes_its_place_when_the_block_ends_well(tmp_path):
    path = tmp_path / "new" / "x.txt"
    with replacing(path) as partial:
        partial.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert [entry.name for entry in path.parent.iterdir()] == ["x.txt"]


def test_a_full_disk_leaves_the_old_file_and_no_partial_one(tmp_path, monkeypatch):
    path = tmp_path / "x.txt"
    path.write_text("old")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    refusal = r"x\.txt: cannot be written \(No space left on device\); free space"
    with pytest.raises(DiskError, match=refusal), replacing(path) as partial:
        partial.write_text("new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.txt"]


def test_an_error_of_the_block_itself_passes_and_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "x.txt") as partial:
        partial.write_text(str(1 / 0))
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_a_folder_is_one_sentence(tmp_path):
    (tmp_path / "runs").touch()
    refusal = r"cannot be written \(.*\); choose another folder"  # space would not help
    with pytest.raises(DiskError, match=refusal), replacing(tmp_path / "runs" / "x.txt") as partial:
        partial.touch()
