"""Two folders of one sweep: what comes over, what stays, and that nothing is ever half there."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from builders import dead_pid, run_record, run_spec

from model.config import Execution
from sweeper import merge
from sweeper.errors import DiskError, LaunchError, SweeperError
from sweeper.merge import merge_runs, open_elsewhere
from sweeper.records import (
    Beat,
    End,
    JobFile,
    Machine,
    Owner,
    Seat,
    Submitted,
    SweepFolder,
    launcher_lock,
    read_attempts,
    read_record,
    read_spec,
    write_beat,
    write_end,
    write_job,
    write_json,
    write_record,
    write_spec,
    write_submitted,
)
from sweeper.slurm import Queue
from sweeper.spec import Cluster

ELSEWHERE = Machine(host="far", machine="1", boot="2", pid_namespace="3")


@pytest.fixture
def here(tmp_path) -> SweepFolder:
    return SweepFolder(tmp_path / "runs", "tiny")


@pytest.fixture
def there(tmp_path) -> SweepFolder:
    return SweepFolder(tmp_path / "other", "tiny")


def attempt(folder: SweepFolder, run_id: str, number: int = 1, *, end: End | None, age_s: float = 1e6, job="j") -> None:
    """An attempt of a machine that is not this one."""
    owner = Owner(at=ELSEWHERE, pid=dead_pid(), started=number, time=time.time() - age_s)
    path = folder.attempt(run_id, number)
    write_json(path / "owner.json", {"owner": owner, "seat": Seat(job=job, step="1.0")})
    (path / "metrics.jsonl").write_text('{"step": 1}\n')
    if end is not None:
        write_end(folder, run_id, number, end)


def finished(folder: SweepFolder, spec=None, **changes) -> str:
    spec = spec or run_spec()
    write_spec(folder, spec)
    attempt(folder, spec.run_id, end=None)
    write_record(folder, run_record(spec, **changes))
    return spec.run_id


def stopped(folder: SweepFolder, spec=None) -> str:
    spec = spec or run_spec()
    write_spec(folder, spec)
    attempt(folder, spec.run_id, end=End(state="stopped", reason="time"))
    checkpoint = folder.run(spec.run_id) / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "step-000000004-abc.pt").write_bytes(b"weights")
    (checkpoint / "step-000000005-abc.partial").write_bytes(b"torn")
    return spec.run_id


def outcomes(done: merge.Merge) -> list[str]:
    return [run.outcome for run in done.runs]


def everything(folder: SweepFolder) -> dict[str, bytes]:
    if not folder.path.exists():
        return {}
    paths = (path for path in folder.path.rglob("*") if path.is_file() and path.name != "launcher.lock")
    return {str(path.relative_to(folder.path)): path.read_bytes() for path in paths}


def test_a_finished_run_comes_over_with_all_that_is_small(here, there):
    run_id = finished(there)
    (there.run(run_id) / "checkpoint").mkdir()
    (there.run(run_id) / "checkpoint" / "final-1.pt").write_bytes(b"weights")
    assert merge_runs(there, here).counts == {"brought": 1}
    assert read_record(here, run_id) == read_record(there, run_id)
    assert read_spec(here, run_id) == read_spec(there, run_id)
    assert (here.attempt(run_id, 1) / "metrics.jsonl").read_text() == '{"step": 1}\n'
    assert not (here.run(run_id) / "checkpoint").exists()
    assert [path.name for path in (here.path / "runs").iterdir()] == [run_id]


def test_final_weights_come_over_when_asked_for(here, there):
    run_id = finished(there)
    (there.run(run_id) / "checkpoint").mkdir()
    (there.run(run_id) / "checkpoint" / "final-1.pt").write_bytes(b"weights")
    merge_runs(there, here, weights=True)
    assert (here.run(run_id) / "checkpoint" / "final-1.pt").read_bytes() == b"weights"


def test_merging_again_changes_nothing(here, there):
    finished(there)
    merge_runs(there, here)
    before = everything(here)
    assert merge_runs(there, here).counts == {"kept": 1}
    assert everything(here) == before


def test_a_dry_run_says_the_same_and_writes_nothing(here, there):
    finished(there)
    assert merge_runs(there, here, dry_run=True).counts == {"brought": 1}
    assert not here.path.exists()


def test_the_other_folder_is_never_changed(here, there):
    finished(there)
    stopped(there, run_spec(lr=0.1))
    before = everything(there)
    merge_runs(there, here, checkpoints=True, weights=True)
    assert everything(there) == before


def test_our_result_stays_and_a_difference_is_told(here, there):
    finished(here, loss=2.5)
    finished(there, loss=2.6)
    (run,) = merge_runs(there, here).runs
    assert run.outcome == "differs"
    assert "2.5 here" in run.detail
    assert "2.6 there" in run.detail
    assert read_record(here, run.run_id).loss == 2.5


def test_rounding_is_no_difference(here, there):
    finished(here, loss=2.5)
    finished(there, loss=2.5 * (1 + 1e-7))
    assert outcomes(merge_runs(there, here)) == ["kept"]


def test_a_diverged_run_differs_from_a_done_one(here, there):
    finished(here)
    finished(there, state="diverged", loss=None)
    assert outcomes(merge_runs(there, here)) == ["differs"]


def test_a_run_that_we_began_gets_their_attempts_after_ours(here, there):
    run_id = stopped(here)
    attempt(here, run_id, 2, end=End(state="error", reason="a crash of ours"))
    write_spec(there, run_spec())
    attempt(there, run_id, 7, end=None)
    write_record(there, run_record(run_spec(), loss=1.0))
    assert merge_runs(there, here).counts == {"brought": 1}
    assert [a.number for a in read_attempts(here, run_id)] == [1, 2, 3]
    assert read_attempts(here, run_id)[1].end.reason == "a crash of ours"
    assert read_record(here, run_id).loss == 1.0
    assert not (here.run(run_id) / "checkpoint").exists()


def test_attempts_that_a_killed_merge_brought_are_not_brought_twice(here, there):
    run_id = stopped(here)
    finished(there)
    owner = (there.attempt(run_id, 1) / "owner.json").read_bytes()
    here.attempt(run_id, 2).mkdir()
    (here.attempt(run_id, 2) / "owner.json").write_bytes(owner)
    (here.path / "runs" / f".{run_id}.0.merging").mkdir()
    merge_runs(there, here)
    assert [a.number for a in read_attempts(here, run_id)] == [1, 2]
    assert [path.name for path in (here.path / "runs").iterdir()] == [run_id]


def test_a_run_that_is_at_work_here_is_left(here, there):
    run_id = finished(there)
    write_spec(here, run_spec())
    attempt(here, run_id, end=None, age_s=0)
    assert outcomes(merge_runs(there, here)) == ["at_work_here"]
    assert read_record(here, run_id) is None


@pytest.mark.parametrize(
    "queue", [None, Queue(answers=False), Queue(answers=True, cluster="ours", time=1e12)], ids=["no", "down", "ours"]
)
def test_a_job_of_another_cluster_is_unknown_whatever_ours_says(here, there, queue):
    run_id = stopped(there)
    job = JobFile(
        job="j",
        tasks=((run_id,),),
        code="c",
        processes=1,
        heartbeat_s=60,
        execution=Execution(),
        cluster=Cluster(name="far", scheduler="slurm"),
    )
    write_submitted(write_job(there, job), Submitted(cluster="theirs", job_id="7", time=1.0))
    (run,) = merge_runs(there, here, queue=queue, checkpoints=True).runs
    assert (run.outcome, run.detail) == ("at_work_there", "unknown")


def test_a_run_with_a_fresh_heartbeat_there_is_at_work(here, there):
    write_spec(there, run_spec())
    run_id = run_spec().run_id
    attempt(there, run_id, end=None, age_s=0)
    write_beat(there, run_id, 1, Beat(time=1.0, run_id=run_id, step=1, steps=8, tokens_per_s=1.0))
    assert outcomes(merge_runs(there, here, checkpoints=True)) == ["at_work_there"]


def test_a_stopped_run_is_left_unless_its_checkpoint_is_asked_for(here, there):
    stopped(there)
    (run,) = merge_runs(there, here).runs
    assert (run.outcome, run.detail) == ("unfinished", "stopped there, new here")
    assert not (here.path / "runs").exists()


def test_a_stopped_run_resumes_here_from_the_checkpoint_that_it_brings(here, there):
    run_id = stopped(there)
    assert merge_runs(there, here, checkpoints=True).counts == {"continued": 1}
    assert [path.name for path in (here.run(run_id) / "checkpoint").iterdir()] == ["step-000000004-abc.pt"]
    assert len(read_attempts(here, run_id)) == 1


def test_an_attempt_that_died_without_a_word_gets_an_end_when_it_comes_over(here, there):
    run_id = stopped(there)
    (there.attempt(run_id, 1) / "end.json").unlink()
    merge_runs(there, here, checkpoints=True)
    (brought,) = read_attempts(here, run_id)
    assert brought.end.state == "stopped"
    assert str(there.path) in brought.end.reason


def test_a_run_that_we_began_keeps_its_own_checkpoint(here, there):
    run_id = stopped(here)
    stopped(there)
    (there.run(run_id) / "checkpoint" / "step-000000004-abc.pt").write_bytes(b"theirs")
    assert outcomes(merge_runs(there, here, checkpoints=True)) == ["unfinished"]
    assert (here.run(run_id) / "checkpoint" / "step-000000004-abc.pt").read_bytes() == b"weights"


def test_runs_of_another_sweep_are_refused(here, there):
    finished(there, replace(run_spec(), sweep="other"))
    (run,) = merge_runs(there, here).runs
    assert (run.outcome, run.detail) == ("other_sweep", "it is of the sweep other")


def damage_record(folder: SweepFolder, run_id: str) -> None:
    (folder.run(run_id) / "record.json").write_text('{"run_id": ')


def damage_attempt(folder: SweepFolder, run_id: str) -> None:
    (folder.attempt(run_id, 1) / "owner.json").write_text("")


def lose_spec(folder: SweepFolder, run_id: str) -> None:
    (folder.run(run_id) / "spec.json").unlink()


def change_spec(folder: SweepFolder, run_id: str) -> None:
    path = folder.run(run_id) / "spec.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lr": 0.07}))


def swap_record(folder: SweepFolder, run_id: str) -> None:
    write_json(folder.run(run_id) / "record.json", run_record(run_spec(lr=0.2)))


@pytest.mark.parametrize("damage", [damage_record, damage_attempt, lose_spec, change_spec, swap_record])
def test_a_damaged_run_is_named_and_the_others_come_over(here, there, damage):
    bad = finished(there)
    good = finished(there, run_spec(lr=0.1))
    damage(there, bad)
    done = merge_runs(there, here)
    assert done.counts == {"brought": 1, "damaged": 1}
    (named,) = [run for run in done.runs if run.outcome == "damaged"]
    assert named.run_id == bad
    assert named.detail
    assert read_record(here, good) is not None
    assert not here.run(bad).exists()


def test_a_run_whose_file_cannot_be_read_is_not_half_copied(here, there, monkeypatch):
    run_id = finished(there)

    def torn(file, copy, source: Path) -> None:
        if source.name == "metrics.jsonl":
            raise merge._UnreadableError("input/output error")
        copy.write(file.read())

    monkeypatch.setattr(merge, "_pour", torn)
    (run,) = merge_runs(there, here).runs
    assert (run.outcome, run.detail) == ("damaged", "input/output error")
    assert not here.run(run_id).exists()
    assert list((here.path / "runs").iterdir()) == []


def test_a_full_disk_ends_the_merge_and_leaves_no_half_run(here, there, monkeypatch):
    run_id = finished(there)

    def full(file, copy, source: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(merge, "_pour", full)
    with pytest.raises(DiskError, match="No space left"):
        merge_runs(there, here)
    assert not here.run(run_id).exists()
    assert list((here.path / "runs").iterdir()) == []


def test_large_files_of_attempts_are_left_out_by_name(here, there, monkeypatch):
    run_id = finished(there)
    monkeypatch.setattr(merge, "LARGE_BYTES", 10_000)
    (there.attempt(run_id, 1) / "log").write_text("x" * 10_001)
    assert merge_runs(there, here).left_out == (str(there.attempt(run_id, 1) / "log"),)
    assert not (here.attempt(run_id, 1) / "log").exists()


def test_nothing_is_merged_under_a_launch(here, there):
    finished(there)
    with launcher_lock(here), pytest.raises(LaunchError, match="another launch"):
        merge_runs(there, here)


def test_a_folder_is_not_merged_into_itself(here):
    finished(here)
    with pytest.raises(SweeperError, match="own folder"):
        merge_runs(SweepFolder(here.path.parent, "tiny"), here)


def test_the_runs_say_which_sweep_it_is(there):
    finished(there)
    assert open_elsewhere(there.path)[1] == "tiny"


def test_several_sweeps_in_one_folder_must_be_told_apart(there):
    finished(there)
    finished(there, replace(run_spec(lr=0.1), sweep="other"))
    with pytest.raises(SweeperError, match=r"which sweep\? its runs name other, tiny"):
        open_elsewhere(there.path)


def test_the_folder_above_is_answered_with_the_one_that_is_meant(there):
    finished(there)
    with pytest.raises(SweeperError, match=r"did you mean .*/other/tiny"):
        open_elsewhere(there.path.parent)
