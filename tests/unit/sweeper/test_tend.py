"""What one cycle of tending concludes from the disk and from SLURM's words."""

import time
from dataclasses import replace
from datetime import datetime

import pytest
from fake_slurm import fake_slurm

from model.config import Execution
from sweeper import tend
from sweeper.records import Beat, LaunchFile, Seat, SweepFolder, claim_attempt, read_attempts, read_evidence, write_beat
from sweeper.slurm import Queue, Task
from sweeper.spec import Cluster

RUN = "r"


@pytest.fixture
def fake(tmp_path, monkeypatch):
    made = fake_slurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", str(made.root / "bin"), prepend=":")
    return made


@pytest.fixture
def ended(tmp_path, fake, monkeypatch):
    """`ended(silent_s, resumed_s_ago, answers=…)`: the end that an attempt gets which made no step for so long."""
    folder = SweepFolder(tmp_path, "tiny")

    def look(silent_s, resumed_s_ago=None, *, answers=True):
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now - silent_s)
        assert claim_attempt(folder, RUN, Seat(job="j", node="n1", step="7.0")) == 1
        monkeypatch.setattr(time, "time", lambda: now)
        standing = Beat(time=now - 5, run_id=RUN, step=5, steps=9, tokens_per_s=1.0, stepped=now - silent_s)
        write_beat(folder, RUN, 1, replace(standing, limit_s=900.0))
        resumed = None if resumed_s_ago is None else datetime.fromtimestamp(int(now - resumed_s_ago)).isoformat()
        said = f"echo 'JobId=7 JobState=RUNNING SuspendTime={resumed} SecsPreSuspend=0'"
        fake._write("scontrol", said if answers else "exit 1")
        task = Task(name="j", job_id="7_0", index=0, state="RUNNING")
        queue = Queue(cluster="toy", answers=True, tasks={("j", 0): task}, time=now)
        evidence = {RUN: replace(read_evidence(folder, [RUN], queue)[RUN], job="alive")}
        launch = LaunchFile(
            sweep="tiny", runs=(RUN,), cluster=Cluster(scheduler="slurm"), execution=Execution(), code="c"
        )
        tend._end_the_hung(folder, evidence, launch, queue, lambda _: None)
        return read_attempts(folder, RUN)[0].end

    return look


def test_a_run_that_hangs_is_ended_where_its_supervisor_does_nothing(ended, fake):
    end = ended(1300)
    assert (end.state, end.cause) == ("lost", "hung")
    assert fake.calls("scancel") != []


def test_a_run_that_went_on_a_moment_ago_after_an_hour_of_suspension_is_not_hung(ended):
    assert ended(3700, resumed_s_ago=60) is None


def test_a_run_that_hangs_since_long_after_its_suspension_is_ended(ended):
    assert ended(5000, resumed_s_ago=1300).cause == "hung"


def test_a_run_of_which_slurm_does_not_say_whether_it_was_suspended_is_left_alone(ended):
    assert ended(1300, answers=False) is None
