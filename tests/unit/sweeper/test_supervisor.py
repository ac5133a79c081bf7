"""The supervisor of a job's runs, look by look; its processes are stand-ins."""

import errno
from pathlib import Path

import pytest
from builders import run_record, run_spec

from sweeper import supervisor
from sweeper.records import SweepFolder, read_record, write_record
from sweeper.supervisor import _Patience


@pytest.fixture
def folder(tmp_path):
    return SweepFolder(tmp_path, "tiny")


def test_a_disk_that_is_away_for_a_moment_ends_no_job(folder, monkeypatch):
    spec = run_spec()
    write_record(folder, run_record(spec))
    given = Path.read_text
    errors = [errno.EIO, errno.ESTALE, errno.EACCES]

    def read_text(path, **how):
        if errors:
            raise OSError(errors.pop(), "away")
        return given(path, **how)

    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr(supervisor, "DISK_S", 0.01)
    assert _Patience().with_(lambda: read_record(folder, spec.run_id)).run_id == spec.run_id
    assert not errors
