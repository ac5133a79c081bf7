import errno
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from builders import dead_pid, living_owner, run_record, run_spec

from model.config import Execution
from sweeper import records
from sweeper.errors import DiskError, LaunchError, SweeperError
from sweeper.records import (
    Attempt,
    Beat,
    End,
    JobFile,
    Seat,
    Submitted,
    SweepFolder,
    claim_attempt,
    close_job,
    is_lost,
    is_superseded,
    launcher_lock,
    local_jobs,
    owner_of,
    read_attempts,
    read_beat,
    read_evidence,
    read_job,
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


def test_a_record_without_a_field_of_today_is_read(folder):
    record = run_record(run_spec(), device="cpu", reason="")
    write_record(folder, record)
    path = folder.run(record.run_id) / "record.json"
    values = json.loads(path.read_text())
    del values["device"], values["reason"]  # as the first version wrote it
    path.write_text(json.dumps(values))
    assert read_record(folder, record.run_id) == replace(record, device="")


def test_a_full_disk_at_the_lock_is_one_sentence(folder, monkeypatch):
    def full(_owner):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records.lock, "owner_of", full)
    refusal = r"launcher\.lock: cannot be written \(No space left on device\)"
    with pytest.raises(DiskError, match=refusal), launcher_lock(folder):
        pass


def test_a_damaged_record_is_named_with_the_next_step(folder):
    path = folder.run("abc") / "record.json"
    write_text(path, '{"run_id": "ab')
    with pytest.raises(SweeperError, match=r"record\.json: not a readable record .* move it away"):
        read_record(folder, "abc")


@pytest.mark.parametrize("read", [lambda folder: read_record(folder, "r"), lambda folder: read_beat(folder, "r", 1)])
def test_a_file_that_the_disk_does_not_give_is_neither_missing_nor_damaged(folder, monkeypatch, read):
    def stale(_path, **_how):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(Path, "read_text", stale)
    with pytest.raises(DiskError, match=r"cannot be read \(Stale file handle\); try again"):
        read(folder)


def test_attempts_are_numbered_from_one(folder):
    assert claim_attempt(folder, "r", Seat(job="job")) == 1
    write_end(folder, "r", 1, End(state="stopped", reason="signal"))
    assert claim_attempt(folder, "r", Seat(job="job")) == 2


def test_a_run_held_by_a_living_process_cannot_be_claimed(folder):
    assert claim_attempt(folder, "r", Seat(job="job")) == 1
    assert claim_attempt(folder, "r", Seat(job="other")) is None


def test_a_run_held_by_a_dead_process_is_claimed_anew(folder):
    assert claim_attempt(folder, "r", Seat(job="job")) == 1
    owner = folder.attempt("r", 1) / "owner.json"
    held = json.loads(owner.read_text())
    held["owner"]["pid"] = dead_pid()
    owner.write_text(json.dumps(held))
    assert claim_attempt(folder, "r", Seat(job="other")) == 2


def test_only_one_of_many_claimants_wins(folder):
    with ThreadPoolExecutor(16) as pool:
        claims = list(pool.map(lambda i: claim_attempt(folder, "r", Seat(job=f"job{i}")), range(16)))
    assert sorted(claims, key=str) == [1] + [None] * 15
    assert [attempt.number for attempt in read_attempts(folder, "r")] == [1]


def test_a_recycled_pid_is_another_process():
    assert owner_of(os.getpid()).alive
    assert not replace(owner_of(os.getpid()), started=12345).alive


def test_a_step_of_the_wall_clock_kills_nobody(monkeypatch):
    owner = owner_of(os.getpid())
    monkeypatch.setattr(time, "time", lambda: owner.time + 1e6)
    assert owner.alive


def test_a_zombie_is_not_alive():
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    owner = owner_of(child.pid)
    deadline = time.monotonic() + 10
    while owner.alive and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not owner.alive
    child.wait()


def test_there_is_no_owner_of_a_pid_that_nobody_has():
    with pytest.raises(ProcessLookupError):
        owner_of(dead_pid())


def elsewhere(**changes):
    here = owner_of(1)
    return replace(here, at=replace(here.at, host="elsewhere", machine="another", boot="x"), **changes)


def attempt_of(owner):
    return Attempt(number=1, owner=owner, seat=Seat(job="j"), end=None)


def test_a_process_of_another_machine_is_lost_only_after_a_long_silence(folder):
    assert claim_attempt(folder, "r", Seat(job="j")) == 1
    silent = attempt_of(elsewhere(time=0.0))
    write_beat(folder, "r", 1, _beat(time.time() - 60))
    assert not is_lost(folder, "r", silent)
    write_beat(folder, "r", 1, _beat(time.time() - records.STALE_S - 1))
    assert is_lost(folder, "r", silent)
    assert not is_lost(folder, "r", attempt_of(elsewhere(time=time.time())))


def test_a_reboot_ends_every_process_at_once(folder):
    here = owner_of(1)
    before = replace(here, at=replace(here.at, machine=here.at.machine or "m", boot="an earlier one"))
    assert is_lost(folder, "r", attempt_of(before)) == bool(here.at.machine)


def test_a_torn_heartbeat_is_none(folder):
    claim_attempt(folder, "r", Seat(job="j"))
    (folder.attempt("r", 1) / "heartbeat.json").write_text("")
    assert read_beat(folder, "r", 1) is None


def test_a_heartbeat_is_read_back(folder):
    claim_attempt(folder, "r", Seat(job="j"))
    write_beat(folder, "r", 1, _beat(1.0))
    assert read_beat(folder, "r", 1) == _beat(1.0)


def test_a_requeued_job_takes_up_its_own_run_at_once(folder):
    assert claim_attempt(folder, "r", Seat(job="j", task=3, step="7.0")) == 1
    assert claim_attempt(folder, "r", Seat(job="j", task=4, restarts=1, step="8.0")) is None
    assert claim_attempt(folder, "r", Seat(job="j", task=3, restarts=1, step="7.0")) == 2


def test_an_attempt_that_was_overtaken_or_declared_over_may_write_no_more(folder):
    claim_attempt(folder, "r", Seat(job="j", step="7.0"))
    assert not is_superseded(folder, "r", 1)
    claim_attempt(folder, "r", Seat(job="j", restarts=1, step="7.0"))
    assert is_superseded(folder, "r", 1)
    assert not is_superseded(folder, "r", 2)
    write_end(folder, "r", 2, End(state="lost", reason="its node failed"))
    assert is_superseded(folder, "r", 2)


def test_jobs_without_a_living_process_are_not_live(folder):
    path = write_job(folder, _job())
    assert local_jobs(folder) == {}
    write_submitted(path, Submitted(owner=living_owner()))
    assert list(local_jobs(folder)) == ["j"]
    write_submitted(path, Submitted(owner=replace(living_owner(), pid=dead_pid())))
    assert local_jobs(folder) == {}


def test_a_note_of_a_job_that_cannot_be_read_stops_nothing(folder):
    path = write_job(folder, _job())
    (path / "submitted.json").write_text('{"host": "of another version"}')
    assert local_jobs(folder) == {}


def test_a_run_whose_job_lives_counts_as_running_before_it_is_claimed(folder):
    write_submitted(write_job(folder, _job(runs=("r",))), Submitted(owner=living_owner()))
    write_text(folder.run("r") / "spec.json", "{}")
    assert state_of(read_evidence(folder, ["r"])["r"]) == "running"


def test_a_closed_job_is_not_asked_again(folder):
    path = write_job(folder, _job())
    write_submitted(path, Submitted(owner=living_owner()))
    close_job(path)
    close_job(path)
    assert local_jobs(folder) == {}
    assert (path / "ended.json").exists()


def test_a_run_that_was_finished_meanwhile_is_not_claimed(folder):
    record = run_record(run_spec())
    write_record(folder, record)
    assert claim_attempt(folder, record.run_id, Seat(job="j")) is None
    (attempt,) = read_attempts(folder, record.run_id)
    assert attempt.end.state == "stopped"


def test_a_claim_that_the_disk_refuses_is_one_sentence(folder, monkeypatch):
    def refuse(*_):
        raise OSError(122, "Disk quota exceeded")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(DiskError, match=r"cannot be claimed \(Disk quota exceeded\)"):
        claim_attempt(folder, "r", Seat(job="j"))


def test_an_attempt_without_an_owner_is_passed_over(folder):
    (folder.attempt("r", 1) / "log").parent.mkdir(parents=True)
    (folder.attempt("r", 1) / "log").touch()
    assert claim_attempt(folder, "r", Seat(job="j")) == 2


def test_a_newer_spec_of_the_same_run_replaces_an_older_one(folder):
    old = run_spec()
    new = replace(old, train=replace(old.train, data=replace(old.train.data, path="/moved")))
    assert new.run_id == old.run_id
    write_spec(folder, old)
    write_spec(folder, new)
    assert read_spec(folder, old.run_id) == new


def test_the_launcher_lock_admits_one_living_launcher(folder):
    refusal = r"another launch of this sweep runs on .* \(pid \d+\)"
    with launcher_lock(folder), pytest.raises(LaunchError, match=refusal), launcher_lock(folder):
        pass
    with launcher_lock(folder):
        pass


def test_without_locks_of_the_filesystem_the_owner_holds(folder, monkeypatch):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(records.lock.fcntl, "flock", unsupported)
    with launcher_lock(folder), pytest.raises(LaunchError, match="another launch"), launcher_lock(folder):
        pass
    with launcher_lock(folder):
        pass


def test_a_launcher_of_another_machine_holds_the_lock_while_it_renews_it(folder):
    path = folder.path / "launcher.lock"
    write_json(path, elsewhere())
    with pytest.raises(LaunchError, match="runs on elsewhere"), launcher_lock(folder):
        pass
    long_ago = time.time() - records.LOCK_STALE_S - 1
    os.utime(path, (long_ago, long_ago))
    with launcher_lock(folder) as renew:
        os.utime(path, (long_ago, long_ago))
        renew()
        assert time.time() - path.stat().st_mtime < 60


def test_the_lock_of_a_killed_launcher_is_free(folder):
    hold = (
        "import sys, time; from pathlib import Path; from sweeper.records import SweepFolder, launcher_lock\n"
        "with launcher_lock(SweepFolder(Path(sys.argv[1]), 'tiny')):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", hold, str(folder.path.parent)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(LaunchError), launcher_lock(folder):
        pass
    holder.kill()
    holder.wait()
    with launcher_lock(folder):
        pass


def _beat(when):
    return Beat(time=when, run_id="r", step=3, steps=8, tokens_per_s=100.0)


def _job(runs=("r",)):
    return JobFile(job="j", tasks=(runs,), code="c", processes=1, heartbeat_s=1.0, execution=Execution())


def test_what_a_newer_version_added_to_a_file_is_passed_over_but_not_in_a_spec(folder):
    path = write_job(folder, _job())
    values = json.loads((path / "job.json").read_text())
    values["colour"], values["execution"]["flavour"] = "blue", "sweet"
    write_text(path / "job.json", json.dumps(values))
    assert read_job(path) == _job()
    spec = run_spec()
    write_spec(folder, spec)
    file = folder.run(spec.run_id) / "spec.json"
    values = json.loads(file.read_text())
    values["train"]["model"]["heads_of_a_new_kind"] = 3
    write_text(file, json.dumps(values))
    with pytest.raises(SweeperError, match="written by a newer version"):
        read_spec(folder, spec.run_id)
