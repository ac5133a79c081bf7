"""Real processes of the local scheduler, from launch to record, with everything killed that can be killed."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from builders import CHAIN, run_spec, tiny_sweep

from model.config import Execution
from sweeper import launch as launching
from sweeper.launch import launch, plan_sweep
from sweeper.records import (
    JobFile,
    Submitted,
    SweepFolder,
    launcher_lock,
    owner_of,
    read_attempts,
    read_evidence,
    read_records,
    write_job,
    write_spec,
    write_submitted,
)
from sweeper.status import states

CHILD = Path(__file__).parent / "launch_child.py"


def nobody(_):
    pass


def quietly(sweep, specs, folder):
    return launch(sweep, specs, folder, follow=nobody, tell=nobody)


def wait_for(condition, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return found


def losses(folder):
    return {run_id: record.loss for run_id, record in read_records(folder).items()}


def test_a_launch_ends_with_a_record_of_every_run_and_a_second_one_starts_nothing(tmp_path):
    folder = SweepFolder(tmp_path, "tiny")
    specs = [run_spec(lr=lr) for lr in (0.02, 0.05)]
    first = quietly(tiny_sweep(), specs, folder)
    assert (first.started, first.found, dict(first.states)) == (2, 0, {"done": 2})
    for spec in specs:
        home = folder.attempt(spec.run_id, 1)
        rows = [json.loads(line) for line in (home / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows if "loss" in row] == list(range(1, spec.train.steps + 1))
        provenance = json.loads((home / "provenance.json").read_text())
        assert provenance["packages"]["torch"]
        assert provenance["world_size"] == 1
        assert not (folder.run(spec.run_id) / "checkpoint").exists()
    second = quietly(tiny_sweep(), specs, folder)
    assert (second.started, second.found) == (0, 2)
    wider = quietly(tiny_sweep(), [*specs, run_spec(lr=0.1)], folder)
    assert (wider.started, wider.found) == (1, 2)


def test_a_run_that_fails_is_reported_and_the_others_go_on(tmp_path):
    folder = SweepFolder(tmp_path, "tiny")
    good = run_spec(lr=0.05)
    bad = run_spec(lr=0.1, data=replace(CHAIN, fingerprint="0" * 16))
    result = quietly(tiny_sweep(), [bad, good], folder)
    assert dict(result.states) == {"failed": 1, "done": 1}
    (failure,) = result.failures
    assert failure.run_id == bad.run_id
    assert "fingerprint" in failure.reason
    assert "was planned with" in failure.log.read_text()
    (attempt,) = read_attempts(folder, bad.run_id)
    assert "Traceback" in attempt.end.detail
    again = quietly(tiny_sweep(), [bad, good], folder)
    assert (again.started, again.found, len(read_attempts(folder, bad.run_id))) == (1, 1, 2)


def test_ranks_that_the_launcher_inherited_are_not_its_workers(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert dict(quietly(tiny_sweep(), [run_spec()], SweepFolder(tmp_path, "tiny")).states) == {"done": 1}


def test_a_run_whose_orphan_dies_while_the_launch_begins_is_run(tmp_path, monkeypatch):
    folder, spec = SweepFolder(tmp_path, "tiny"), run_spec()
    orphan = subprocess.Popen(["sleep", "60"])
    job = JobFile(job="j", tasks=((spec.run_id,),), code="", processes=1, heartbeat_s=1.0, execution=Execution())
    write_spec(folder, spec)
    write_submitted(write_job(folder, job), Submitted(owner=owner_of(orphan.pid)))
    freeze = launching._freeze

    def dying_meanwhile(*arguments):
        orphan.kill()
        orphan.wait()
        return freeze(*arguments)

    monkeypatch.setattr(launching, "_freeze", dying_meanwhile)
    assert dict(quietly(tiny_sweep(), [spec], folder).states) == {"done": 1}


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        with launching._Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts.count == 1
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
def test_two_processes_of_one_run_end_in_one_record_with_the_same_loss(tmp_path):
    alone, together = SweepFolder(tmp_path / "1", "tiny"), SweepFolder(tmp_path / "2", "tiny")
    spec = run_spec(steps=16)
    quietly(tiny_sweep(), [spec], alone)
    quietly(tiny_sweep(processes=2), [spec], together)
    (one,), (two,) = read_records(alone).values(), read_records(together).values()
    assert (one.world_size, two.world_size) == (1, 2)
    assert two.loss == pytest.approx(one.loss, rel=1e-5)


def hearing_ctrl_c(command, **options):
    """The command in a process that Ctrl-C ends, even where the tests run in the background and ignore it."""
    return subprocess.Popen(command, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **options)


class Disturbed:
    """A launch in a process of its own, and an undisturbed one to compare it with."""

    steps = 400
    rates = (0.02, 0.05, 0.1)

    def __init__(self, root):
        self.specs = [run_spec(lr=lr, steps=self.steps) for lr in self.rates]
        self.folder = SweepFolder(root / "disturbed", "tiny")
        calm = SweepFolder(root / "calm", "tiny")
        quietly(tiny_sweep(parallel=2), self.specs, calm)
        self.expected = losses(calm)

    def start(self, **options):
        rates = [str(lr) for lr in self.rates]
        command = [sys.executable, str(CHILD), str(self.folder.path.parent), "off", str(self.steps), *rates]
        return hearing_ctrl_c(command, stdout=subprocess.PIPE, text=True, **options)

    def finish(self):
        done = self.start()
        output, _ = done.communicate(timeout=240)
        assert done.returncode == 0
        return re.search(r"started (\d+) found (\d+)", output).groups()

    def wait_until_training(self):
        return wait_for(lambda: [row for row in self.rows() if row[1] > 5])

    def rows(self):
        """(worker's pid, last step) of each attempt."""
        for spec in self.specs:
            for attempt in read_attempts(self.folder, spec.run_id):
                metrics = self.folder.attempt(spec.run_id, attempt.number) / "metrics.jsonl"
                text = metrics.read_text() if metrics.exists() else ""
                lines = text[: text.rfind("\n") + 1].splitlines()  # the worker may be in the middle of one
                if lines:
                    yield attempt.owner.pid, json.loads(lines[-1])["step"]

    def workers(self):
        return [
            attempt.owner
            for spec in self.specs
            for attempt in read_attempts(self.folder, spec.run_id)
            if attempt.owner.alive
        ]

    def assert_undisturbed(self):
        assert losses(self.folder) == self.expected
        for spec in self.specs:
            attempts = read_attempts(self.folder, spec.run_id)
            assert sum(attempt.end is None and not attempt.owner.alive for attempt in attempts) >= 1
            ended = [self.folder.attempt(spec.run_id, attempt.number) / "metrics.jsonl" for attempt in attempts]
            finals = [path for path in ended if f'"step": {self.steps},' in path.read_text()]
            assert len(finals) == 1, "a cell was trained to its end twice"


@pytest.mark.slow
def test_a_killed_launcher_and_worker_cost_nothing_but_time(tmp_path):
    disturbed = Disturbed(tmp_path)
    launcher = disturbed.start()
    (pid, _), *_ = disturbed.wait_until_training()
    launcher.kill()
    launcher.wait()
    os.kill(pid, signal.SIGKILL)
    disturbed.finish()
    disturbed.assert_undisturbed()
    assert disturbed.finish() == ("0", "3")


@pytest.mark.slow
def test_a_launch_beside_the_orphans_of_a_killed_one_waits_for_them(tmp_path):
    disturbed = Disturbed(tmp_path)
    launcher = disturbed.start()
    disturbed.wait_until_training()
    orphans = {owner.pid for owner in disturbed.workers()}
    launcher.kill()
    launcher.wait()
    assert "running" in states(read_evidence(disturbed.folder, [s.run_id for s in disturbed.specs])).values()
    disturbed.finish()
    disturbed.assert_undisturbed()
    assert orphans <= {a.owner.pid for s in disturbed.specs for a in read_attempts(disturbed.folder, s.run_id)}


@pytest.mark.slow
def test_a_worker_killed_under_a_living_launcher_is_taken_up_from_its_checkpoint(tmp_path):
    disturbed = Disturbed(tmp_path)
    launcher = disturbed.start()
    (pid, _), *_ = disturbed.wait_until_training()
    os.kill(pid, signal.SIGKILL)
    assert launcher.wait(timeout=240) == 0
    disturbed.assert_undisturbed()


@pytest.mark.slow
def test_ctrl_c_writes_checkpoints_and_the_next_launch_resumes_from_them(tmp_path):
    disturbed = Disturbed(tmp_path)
    # A process group of its own, interrupted as a terminal does it: launcher, controllers and workers all at once.
    launcher = disturbed.start(start_new_session=True)
    disturbed.wait_until_training()
    os.killpg(launcher.pid, signal.SIGINT)
    assert launcher.wait(timeout=60) == 130
    assert not disturbed.workers()
    found = states(read_evidence(disturbed.folder, [s.run_id for s in disturbed.specs]))
    assert "stopped" in found.values()
    for run_id in [run_id for run_id, state in found.items() if state == "stopped"]:
        assert list((disturbed.folder.run(run_id) / "checkpoint").iterdir())
    disturbed.finish()
    assert losses(disturbed.folder) == disturbed.expected


@pytest.mark.slow
def test_ctrl_c_while_workers_still_start_ends_the_launch_at_once(tmp_path):
    command = [sys.executable, str(CHILD), str(tmp_path), "off", "400", "0.02", "0.05"]
    launcher = hearing_ctrl_c(command, start_new_session=True, stdout=subprocess.DEVNULL)
    wait_for(lambda: list(tmp_path.glob("tiny/jobs/*/submitted.json")))
    began = time.monotonic()
    os.killpg(launcher.pid, signal.SIGINT)
    assert launcher.wait(timeout=60) == 130
    assert time.monotonic() - began < 30
    assert not list(tmp_path.glob("tiny/runs/*/record.json"))


@pytest.mark.slow
def test_a_run_that_loses_one_of_its_processes_is_taken_up_again(tmp_path):
    folder, calm = SweepFolder(tmp_path / "disturbed", "tiny"), SweepFolder(tmp_path / "calm", "tiny")
    spec = run_spec(steps=200)
    quietly(tiny_sweep(processes=2), [spec], calm)
    killed = []

    def kill_rank_1(standing):
        if not killed and any(beat.step > 5 for beat in standing.running):
            (attempt,) = read_attempts(folder, spec.run_id)
            ranks = psutil.Process(attempt.owner.pid).parent().children()
            victim = next(process for process in ranks if process.pid != attempt.owner.pid)
            victim.kill()
            killed.append(victim.pid)

    result = launch(tiny_sweep(processes=2), [spec], folder, follow=kill_rank_1, tell=nobody)
    assert dict(result.states) == {"done": 1}
    assert killed
    first, second = read_attempts(folder, spec.run_id)
    assert first.end.state == "lost"
    assert second.end is None
    assert losses(folder) == losses(calm)


def test_a_second_launcher_is_refused_while_the_first_lives(tmp_path):
    folder = SweepFolder(tmp_path, "tiny")
    with launcher_lock(folder):
        refused = subprocess.run(
            [sys.executable, str(CHILD), str(tmp_path), "off", "8", "0.05"], capture_output=True, text=True, timeout=60
        )
    assert "another launch of this sweep runs on" in refused.stderr
    assert states(read_evidence(folder, [run_spec().run_id])) == {run_spec().run_id: "new"}


def test_planning_starts_nothing(tmp_path):
    folder = SweepFolder(tmp_path, "tiny")
    plan = plan_sweep(tiny_sweep(), [run_spec()], folder)
    assert len(plan.jobs) == 1
    assert not folder.path.exists()


@pytest.fixture(autouse=True)
def _no_process_outlives_its_test():
    yield
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            process.kill()
