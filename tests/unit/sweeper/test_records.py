import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from builders import dead_pid, living_owner, run_record, run_spec

from model.config import Execution
from sweeper import records
from sweeper.errors import LaunchError, SweeperError
from sweeper.records import (
    Beat,
    End,
    JobFile,
    Owner,
    SweepFolder,
    claim_attempt,
    is_lost,
    launcher_lock,
    live_jobs,
    owner_of,
    read_attempts,
    read_beat,
    read_evidence,
    read_record,
    read_records,
    read_spec,
    write_beat,
    write_end,
    write_job,
    write_json,
    write_record,
    write_spec,
    write_submitted,
    write_text,
)
from sweeper.status import state_of


@pytest.fixture
def folder(tmp_path):
    return SweepFolder(tmp_path, "tiny")


def test_a_spec_survives_the_disk(folder):
    spec = run_spec(lr=0.1)
    write_spec(folder, spec)
    assert read_spec(folder, spec.run_id) == spec


def test_a_record_survives_the_disk(folder):
    record = run_record(run_spec())
    write_record(folder, record)
    assert read_record(folder, record.run_id) == record


def test_a_diverged_loss_is_null_in_the_file_and_nothing_in_the_record(folder):
    record = run_record(run_spec(), state="diverged", loss=None)
    write_record(folder, record)
    assert json.loads((folder.run(record.run_id) / "record.json").read_text())["loss"] is None
    assert read_record(folder, record.run_id) == record


def test_numbers_that_json_lacks_are_written_as_null(tmp_path):
    write_json(tmp_path / "x.json", {"a": float("nan"), "b": [float("inf"), 1.0]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": None, "b": [None, 1.0]}


def test_records_are_found_by_run_id(folder):
    specs = [run_spec(lr=lr) for lr in (0.1, 0.2)]
    for spec in specs:
        write_record(folder, run_record(spec))
    assert set(read_records(folder)) == {spec.run_id for spec in specs}


def test_a_damaged_record_is_named_with_the_next_step(folder):
    path = folder.run("abc") / "record.json"
    write_text(path, '{"run_id": "ab')
    with pytest.raises(SweeperError, match=r"record\.json: not a readable record .* move it away"):
        read_record(folder, "abc")


def test_a_full_disk_leaves_the_old_file_and_no_partial_one(tmp_path, monkeypatch):
    path = tmp_path / "plan.json"
    write_text(path, "old")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records.os, "fsync", full)
    with pytest.raises(LaunchError, match=r"plan\.json: cannot be written \(No space left on device\); free space"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["plan.json"]


def test_attempts_are_numbered_from_one(folder):
    assert claim_attempt(folder, "r", "job") == 1
    write_end(folder, "r", 1, End(state="stopped", reason="signal"))
    assert claim_attempt(folder, "r", "job") == 2


def test_a_run_held_by_a_living_process_cannot_be_claimed(folder):
    assert claim_attempt(folder, "r", "job") == 1
    assert claim_attempt(folder, "r", "other") is None


def test_a_run_held_by_a_dead_process_is_claimed_anew(folder):
    assert claim_attempt(folder, "r", "job") == 1
    owner = folder.attempt("r", 1) / "owner.json"
    held = json.loads(owner.read_text())
    held["owner"]["pid"] = dead_pid()
    owner.write_text(json.dumps(held))
    assert claim_attempt(folder, "r", "other") == 2


def test_only_one_of_many_claimants_wins(folder):
    with ThreadPoolExecutor(16) as pool:
        claims = list(pool.map(lambda i: claim_attempt(folder, "r", f"job{i}"), range(16)))
    assert sorted(claims, key=str) == [1] + [None] * 15
    assert [attempt.number for attempt in read_attempts(folder, "r")] == [1]


def test_a_recycled_pid_is_another_process():
    assert owner_of(os.getpid()).alive
    assert not replace(owner_of(os.getpid()), started=12345.0).alive


def test_a_zombie_is_not_alive():
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    owner = owner_of(child.pid)
    deadline = time.monotonic() + 10
    while owner.alive and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not owner.alive
    child.wait()


def test_a_process_of_another_host_is_lost_only_after_a_long_silence():
    elsewhere = Owner(host="elsewhere", pid=1, started=0.0)
    assert not is_lost(elsewhere, last_sign=time.time() - 60)
    assert is_lost(elsewhere, last_sign=time.time() - records.STALE_S - 1)


def test_a_heartbeat_is_read_back(folder):
    path = write_job(folder, _job())
    beat = Beat(time=1.0, run_id="r", step=3, steps=8, tokens_per_s=100.0)
    write_beat(path, beat)
    assert read_beat(folder, "j") == beat


def test_jobs_without_a_living_process_are_not_live(folder):
    path = write_job(folder, _job())
    assert live_jobs(folder) == {}
    write_submitted(path, living_owner())
    assert list(live_jobs(folder)) == ["j"]
    write_submitted(path, replace(living_owner(), pid=dead_pid()))
    assert live_jobs(folder) == {}


def test_a_run_whose_job_lives_counts_as_running_before_it_is_claimed(folder):
    write_submitted(write_job(folder, _job(runs=("r",))), living_owner())
    write_text(folder.run("r") / "spec.json", "{}")
    assert state_of(read_evidence(folder, ["r"])["r"]) == "running"


def test_the_launcher_lock_admits_one_living_launcher(folder):
    refusal = r"another launch of this sweep runs on .* \(pid \d+\)"
    with launcher_lock(folder), pytest.raises(LaunchError, match=refusal), launcher_lock(folder):
        pass
    with launcher_lock(folder):
        pass


def test_the_lock_of_a_dead_launcher_is_taken_over(folder):
    with launcher_lock(folder):
        path = folder.path / "launcher" / "owner.json"
        held = json.loads(path.read_text())
        held["owner"]["pid"] = dead_pid()
        path.write_text(json.dumps(held))
        with launcher_lock(folder):
            pass


def _job(runs=("r",)):
    return JobFile(job="j", runs=runs, code="c", processes=1, heartbeat_s=1.0, execution=Execution())
