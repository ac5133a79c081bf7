"""Real processes that train runs together: what becomes of the members when something happens to one or all."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from builders import CHAIN, run_spec, tiny_sweep

from model.config import CheckpointConfig, OptimizerConfig, Seeds
from sweeper import worker
from sweeper.errors import DiskError
from sweeper.launch import launch
from sweeper.overview import rows_of, take_look
from sweeper.records import (
    JobFile,
    SweepFolder,
    close_job,
    hold_run,
    read_attempts,
    read_evidence,
    read_job,
    read_records,
    write_job,
    write_spec,
)
from sweeper.status import states
from sweeper.steering import cancel_runs

CHILD = Path(__file__).parent / "launch_child.py"
RATES = (0.02, 0.05, 0.1)


def sweep(fuse=3, **cluster):
    made = tiny_sweep(fuse=fuse, **cluster)
    execution = replace(made.execution, checkpoint=CheckpointConfig(every_s=0.1))
    return replace(made, execution=execution)


def quietly(sweep, specs, folder, follow=lambda _: None):
    return launch(sweep, specs, folder, follow=follow, tell=lambda _: None)


def losses(folder):
    return {run_id: record.loss for run_id, record in read_records(folder).items()}


def logs(folder, spec):
    return folder.attempt(spec.run_id, 1).joinpath("log").read_text()


def test_a_stack_ends_with_a_record_of_every_run(tmp_path):
    folder, alone = SweepFolder(tmp_path, "tiny"), SweepFolder(tmp_path / "alone", "tiny")
    specs = [run_spec(lr=lr, seed=Seeds(init=1, data=seed)) for lr, seed in zip(RATES, (1, 1, 2), strict=True)]
    first = quietly(sweep(), specs, folder)
    quietly(sweep(fuse="off"), specs, alone)
    assert (first.started, first.found, dict(first.states)) == (3, 0, {"done": 3})
    assert len(list(folder.jobs.iterdir())) == 1
    records = read_records(folder)
    assert {record.stack for record in records.values()} == {3}
    assert {record.stack for record in read_records(alone).values()} == {1}
    for spec in specs:
        home = folder.attempt(spec.run_id, 1)
        rows = [json.loads(line) for line in (home / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows] == list(range(1, spec.train.steps + 1))
        assert rows[-1]["val/loss"] == records[spec.run_id].loss
        assert json.loads((home / "provenance.json").read_text())["stack"] == 3
        assert not (folder.run(spec.run_id) / "checkpoint").exists()
    assert losses(folder) == pytest.approx(losses(alone), rel=1e-5)
    again = quietly(sweep(), specs, folder)
    assert (again.started, again.found) == (0, 3)


def test_auto_says_what_it_chose(tmp_path):
    folder = SweepFolder(tmp_path, "tiny")
    specs = [run_spec(lr=lr) for lr in RATES]
    result = quietly(sweep(fuse="auto", parallel=1), specs, folder)
    assert dict(result.states) == {"done": 3}
    (line,) = {line.partition("INFO ")[2] for line in logs(folder, specs[0]).splitlines() if "times as fast" in line}
    chosen = line.rpartition("so they are trained ")[2]
    assert line.startswith("a step of 3 runs together takes ")
    assert {record.stack for record in read_records(folder).values()} == {3 if chosen == "together" else 1}


@pytest.mark.slow
def test_one_that_diverges_has_its_record_at_once_and_the_others_go_on(tmp_path):
    folder = SweepFolder(tmp_path, "tiny")
    adamw = OptimizerConfig(name="adamw")
    specs = [run_spec(lr=lr, steps=1500, optimizer=adamw) for lr in (0.001, 1e4, 0.004)]
    seen = []

    def look(_):
        seen.append({run_id: record.state for run_id, record in read_records(folder).items()})

    result = quietly(sweep(), specs, folder, look)
    assert dict(result.states) == {"done": 2, "diverged": 1}
    assert {specs[1].run_id: "diverged"} in seen
    assert len(read_attempts(folder, specs[0].run_id)) == 1


@pytest.mark.slow
def test_a_killed_worker_is_taken_up_as_the_same_stack(tmp_path):
    folder, calm = SweepFolder(tmp_path / "disturbed", "tiny"), SweepFolder(tmp_path / "calm", "tiny")
    specs = [run_spec(lr=lr, steps=500) for lr in RATES]
    quietly(sweep(), specs, calm)
    killed = []

    def kill(standing):
        if not killed and any(beat.step > 50 for beat in standing.running):
            attempt = read_attempts(folder, specs[0].run_id)[-1]
            if any((folder.run(specs[0].run_id) / "checkpoint").glob("step-*.pt")):
                os.kill(attempt.owner.pid, signal.SIGKILL)
                killed.append(attempt.owner.pid)

    result = quietly(sweep(), specs, folder, kill)
    assert killed
    assert dict(result.states) == {"done": 3}
    assert losses(folder) == losses(calm)
    for spec in specs:
        (first, second) = read_attempts(folder, spec.run_id)
        assert first.owner.pid == killed[0]
        assert second.end is None
    assert {record.stack for record in read_records(folder).values()} == {3}


def test_runs_that_fail_together_are_tried_one_by_one(tmp_path):
    folder = SweepFolder(tmp_path, "tiny")
    elsewhere = replace(CHAIN, fingerprint="0" * 16)
    specs = [run_spec(lr=lr, data=elsewhere) for lr in RATES]
    result = quietly(sweep(), specs, folder)
    assert dict(result.states) == {"failed": 3}
    assert {failure.run_id for failure in result.failures} == {spec.run_id for spec in specs}
    for spec in specs:
        together, alone = read_attempts(folder, spec.run_id)
        assert together.job != alone.job
        assert (together.end.state, alone.end.state) == ("lost", "error")
        assert together.end.reason == alone.end.reason


@pytest.mark.slow
def test_one_that_is_cancelled_leaves_and_the_others_go_on(tmp_path):
    folder = SweepFolder(tmp_path, "tiny")
    specs = [run_spec(lr=lr, steps=800) for lr in RATES]
    cancelled = []

    def cancel(standing):
        if not cancelled and any(beat.step > 20 for beat in standing.running):
            hold_run(folder, specs[1].run_id, "")
            cancelled.append(read_attempts(folder, specs[1].run_id)[-1].owner)
            psutil.Process(cancelled[0].pid).send_signal(signal.SIGTERM)

    result = quietly(sweep(), specs, folder, cancel)
    assert dict(result.states) == {"done": 2, "cancelled": 1}
    assert read_attempts(folder, specs[1].run_id)[0].end.state == "stopped"
    assert [len(read_attempts(folder, spec.run_id)) for spec in specs] == [2, 1, 2]


@pytest.mark.slow
def test_ctrl_c_checkpoints_a_stack_and_the_next_launch_resumes_it(tmp_path):
    folder, calm = SweepFolder(tmp_path / "disturbed", "tiny"), SweepFolder(tmp_path / "calm", "tiny")
    specs = [run_spec(lr=lr, steps=400) for lr in RATES]
    quietly(sweep(), specs, calm)
    command = [sys.executable, str(CHILD), str(folder.path.parent), "3", "400", *map(str, RATES)]

    def start():
        return subprocess.Popen(
            command, start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
        )

    launcher = start()
    deadline = time.monotonic() + 60
    while not _steps(folder, specs) > 5:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(launcher.pid, signal.SIGINT)
    assert launcher.wait(timeout=60) == 130
    found = states(read_evidence(folder, [spec.run_id for spec in specs]))
    assert set(found.values()) == {"stopped"}
    assert start().wait(timeout=240) == 0
    assert losses(folder) == losses(calm)


def _steps(folder, specs):
    path = folder.attempt(specs[0].run_id, 1) / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def alone(fuse="off", parallel=1):
    return sweep(fuse=fuse, parallel=parallel)


def four(steps=300):
    return [run_spec(lr=lr, steps=steps) for lr in (0.02, 0.05, 0.1, 0.2)]


@pytest.mark.slow
def test_runs_are_trained_in_turn_by_as_many_processes_as_there_are_slots(tmp_path):
    folder, apart = SweepFolder(tmp_path, "tiny"), SweepFolder(tmp_path / "apart", "tiny")
    specs = four()
    result = quietly(alone(parallel=2), specs, folder)
    assert (result.started, dict(result.states)) == (4, {"done": 4})
    jobs = [read_job(job) for job in folder.jobs.iterdir()]
    assert sorted(run_id for job in jobs for run_id in job.runs) == sorted(spec.run_id for spec in specs)
    assert len(jobs) == 2
    assert not any(job.open for job in jobs)
    for spec in specs:
        quietly(alone(), [spec], apart)
    assert losses(folder) == losses(apart)


@pytest.mark.slow
def test_a_death_costs_the_run_at_work_alone(tmp_path):
    folder = SweepFolder(tmp_path, "tiny")
    specs = four(steps=600)
    killed = []

    def kill(standing):
        for beat in standing.running:
            if not killed and beat.run_id == specs[1].run_id and beat.step > 5:
                os.kill(read_attempts(folder, beat.run_id)[-1].owner.pid, signal.SIGKILL)
                killed.append(beat.run_id)

    result = quietly(sweep(fuse="off", parallel=1, attempts=2), specs, folder, kill)
    assert dict(result.states) == {"done": 4}
    assert killed
    assert [len(read_attempts(folder, spec.run_id)) for spec in specs] == [1, 2, 1, 1]


def test_one_that_is_cancelled_before_its_turn_is_passed_over_and_disturbs_nobody(tmp_path):
    folder = SweepFolder(tmp_path, "tiny")
    specs = four()
    done = []

    def cancel(standing):
        if not done and standing.running:
            look = take_look(folder, [spec.run_id for spec in specs])
            done.append(
                cancel_runs(folder, [row for row in rows_of(specs, look) if row.run_id == specs[2].run_id], look)
            )

    result = quietly(alone(), specs, folder, cancel)
    assert [(one.runs, one.stopped) for one in done] == [(1, 0)]
    assert dict(result.states) == {"done": 3, "cancelled": 1}
    assert [len(read_attempts(folder, spec.run_id)) for spec in specs] == [1, 1, 0, 1]
    assert result.started == 3


def test_runs_after_one_that_failed_are_trained_by_another_process(tmp_path):
    folder = SweepFolder(tmp_path, "tiny")
    specs = four()
    specs[1] = replace(specs[1], train=replace(specs[1].train, data=replace(CHAIN, fingerprint="0" * 16)))
    result = quietly(alone(), specs, folder)
    assert dict(result.states) == {"done": 3, "failed": 1}
    first, second, third, fourth = (read_attempts(folder, spec.run_id)[-1].job for spec in specs)
    assert first == second != third == fourth
    assert [len(read_attempts(folder, spec.run_id)) for spec in specs] == [1] * 4


@pytest.mark.slow
def test_a_worker_whose_launcher_is_gone_ends_after_its_run(tmp_path):
    folder = SweepFolder(tmp_path, "tiny")
    specs = [run_spec(lr=lr, steps=300) for lr in (*RATES, 0.2)]
    attempt = orphans(folder, specs, fuse="off")
    deadline = time.monotonic() + 60
    while attempt.owner.alive:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert 1 <= len(read_records(folder)) < 4
    result = quietly(alone(), specs, folder)
    assert dict(result.states) == {"done": 4}
    assert [len(read_attempts(folder, spec.run_id)) for spec in specs] == [1] * 4


def test_a_stack_follows_runs_in_turn_in_a_process_of_its_own(tmp_path):
    folder = SweepFolder(tmp_path, "tiny")
    long = run_spec(lr=0.02, steps=700)
    result = quietly(sweep(fuse=3, parallel=1), [long, *(run_spec(lr=lr, steps=50) for lr in RATES)], folder)
    assert dict(result.states) == {"done": 4}
    assert sorted(len(read_job(job).runs) for job in folder.jobs.iterdir()) == [1, 3]


# ── jobs of an earlier launcher ────────────────────────────────────────────────────────────────────────────────────


def orphans(folder, specs, fuse="3"):
    """A stack whose launcher was killed under it."""
    command = [sys.executable, str(CHILD), str(folder.path.parent), fuse, str(specs[0].train.steps)]
    launcher = subprocess.Popen([*command, *(str(spec.lr) for spec in specs)])
    deadline = time.monotonic() + 60
    while not _steps(folder, specs) > 5:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    launcher.kill()
    launcher.wait()
    return read_attempts(folder, specs[0].run_id)[-1]


@pytest.mark.slow
def test_a_launch_of_fewer_cells_waits_for_a_stack_that_holds_more(tmp_path):
    folder = SweepFolder(tmp_path, "tiny")
    specs = [run_spec(lr=lr, steps=1500) for lr in RATES]
    orphans(folder, specs)
    result = quietly(sweep(), specs[:2], folder)
    assert (result.started, dict(result.states)) == (0, {"done": 2})
    assert len(read_records(folder)) == 3


@pytest.mark.slow
def test_all_members_are_waited_for_though_their_job_was_closed(tmp_path):
    folder = SweepFolder(tmp_path, "tiny")
    specs = [run_spec(lr=lr, steps=1500) for lr in RATES]
    close_job(folder.jobs / orphans(folder, specs).job)
    result = quietly(sweep(), specs, folder)
    assert (result.started, dict(result.states)) == (0, {"done": 3})


def test_a_launch_that_may_not_try_again_fails_a_killed_stack(tmp_path):
    folder = SweepFolder(tmp_path, "tiny")
    specs = [run_spec(lr=lr, steps=3000) for lr in RATES]

    def kill(standing):
        for beat in standing.running[:1]:
            with contextlib.suppress(ProcessLookupError):  # killed already
                os.kill(read_attempts(folder, beat.run_id)[-1].owner.pid, signal.SIGKILL)

    result = quietly(sweep(attempts=1), specs, folder, kill)
    assert dict(result.states) == {"stopped": 3}
    assert [len(read_attempts(folder, spec.run_id)) for spec in specs] == [1, 1, 1]
    assert len(result.failures) == 3


def test_runs_that_fail_together_are_tried_by_themselves_even_where_one_attempt_counts(tmp_path):
    folder = SweepFolder(tmp_path, "tiny")
    specs = [run_spec(lr=lr, data=replace(CHAIN, fingerprint="0" * 16)) for lr in RATES]
    result = quietly(sweep(attempts=1), specs, folder)
    assert [len(read_attempts(folder, spec.run_id)) for spec in specs] == [2, 2, 2]
    assert not any("without a record" in failure.reason for failure in result.failures)


def test_a_result_that_the_disk_does_not_take_holds_no_other_up(tmp_path, monkeypatch):
    folder = SweepFolder(tmp_path, "tiny")
    adamw = OptimizerConfig(name="adamw")
    specs = [run_spec(lr=lr, steps=200, optimizer=adamw) for lr in (0.001, 1e4, 0.004)]
    for spec in specs:
        write_spec(folder, spec)
    job = JobFile(
        job="j",
        tasks=(tuple(spec.run_id for spec in specs),),
        together="always",
        code="none",
        processes=1,
        heartbeat_s=1.0,
        execution=sweep().execution,
    )
    tried = []

    def write(folder, record):
        tried.append(record.run_id)
        if len(tried) == 1:
            raise DiskError("no space left")
        write_record(folder, record)

    write_record = worker.write_record
    monkeypatch.setattr(worker, "verify_snapshot", lambda *_: None)
    monkeypatch.setattr(worker, "read_snapshot", lambda *_: {})
    monkeypatch.setattr(worker, "write_record", write)
    worker.run(str(write_job(folder, job)), lambda: False)
    assert tried == [specs[1].run_id, specs[0].run_id, specs[2].run_id, specs[1].run_id]
    assert {run_id: record.state for run_id, record in read_records(folder).items()} == {
        specs[0].run_id: "done",
        specs[1].run_id: "diverged",
        specs[2].run_id: "done",
    }
    assert "waits for the disk, and the others go on" in logs(folder, specs[0])
