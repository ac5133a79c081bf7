"""What one cycle of tending concludes from the disk and from SLURM's words, and what it does."""

import time
from dataclasses import replace
from datetime import datetime
from itertools import count

import pytest
from builders import living_owner, run_record, run_spec
from fake_slurm import fake_slurm

from model.config import Execution
from sweeper import records
from sweeper import tend as tending
from sweeper.errors import SweeperError
from sweeper.records import (
    Attempt,
    Beat,
    End,
    JobFile,
    LaunchFile,
    Machine,
    Owner,
    Seat,
    Submitted,
    SweepFolder,
    claim_attempt,
    is_held,
    lost_end,
    read_attempts,
    read_evidence,
    read_excluded,
    read_jobs,
    read_launch,
    write_beat,
    write_end,
    write_job,
    write_json,
    write_launch,
    write_record,
    write_spec,
    write_submitted,
)
from sweeper.slurm import Queue, Task
from sweeper.snapshot import take_snapshot
from sweeper.spec import Cluster, Slurm
from sweeper.tend import bad_nodes, tend

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
        tending._end_the_hung(folder, evidence, launch, queue, lambda _: None)
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


CLUSTER = Cluster(name="toy", scheduler="slurm", backoff_s=(0.0, 0.0, 1000.0), attempts=3, slurm=Slurm(gpus_per_node=0))
SPECS = tuple(run_spec(lr=lr) for lr in (0.1, 0.2))
A, B = RUNS = tuple(spec.run_id for spec in SPECS)
JOB = "tiny-1"
ELSEWHERE = Owner(
    at=Machine(host="n1", machine="m", boot="b", pid_namespace="p"), pid=7, started=1, time=time.time() - 900
)


@pytest.fixture
def folder(tmp_path):
    made = SweepFolder(tmp_path / "runs", "tiny")
    for spec in SPECS:
        write_spec(made, spec)
    code = take_snapshot(made.code)
    write_launch(made, LaunchFile(sweep="tiny", runs=RUNS, cluster=CLUSTER, execution=Execution(), code=code))
    return made


def submitted(folder, *tasks, job=JOB, ago_s=1000.0):
    """An array that SLURM took a while ago."""
    began = time.time() - ago_s
    file = JobFile(
        job=job,
        tasks=tasks,
        code="c",
        processes=1,
        heartbeat_s=60,
        execution=Execution(),
        cluster=CLUSTER,
        time=began,
    )
    write_submitted(write_job(folder, file), Submitted(cluster="toy", job_id="7", time=began))


def attempted(folder, run_id, end=None, node="n1", task=0, silent_s=900.0, restarts=0):
    """An attempt of another machine that was last heard of a while ago."""
    number = len(read_attempts(folder, run_id)) + 1
    home = folder.attempt(run_id, number)
    seat = Seat(job=JOB, task=task, node=node, step=f"7.{task}", restarts=restarts)
    write_json(home / "owner.json", {"owner": replace(ELSEWHERE, time=time.time() - 950), "seat": seat})
    now = time.time() - silent_s
    write_beat(
        folder, run_id, number, Beat(time=now, run_id=run_id, step=5, steps=8, tokens_per_s=1, stepped=now, limit_s=900)
    )
    if end is not None:
        write_end(folder, run_id, number, end)


def reasons(folder, run_id):
    return [attempt.end.reason if attempt.end else "" for attempt in read_attempts(folder, run_id)]


# ── what died ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("state", "end"),
    [
        ("OUT_OF_MEMORY", ("lost", "memory")),
        ("NODE_FAIL", ("lost", "node")),
        ("TIMEOUT", ("stopped", "time")),
        ("PREEMPTED", ("stopped", "signal")),
        ("CANCELLED", ("stopped", "cancelled")),
        ("FAILED", ("lost", "killed")),
    ],
)
def test_slurm_s_word_says_what_became_of_an_attempt_that_left_none(state, end):
    attempt = Attempt(number=1, owner=ELSEWHERE, seat=Seat(job=JOB, node="n1", step="7.0"), end=None)
    found = lost_end(attempt, Task(name=JOB, job_id="7_0", index=0, state=state))
    assert (found.state, found.cause) == end
    assert "n1" in found.reason
    again = lost_end(attempt, Task(name=JOB, job_id="7_0", index=0, state="PENDING", restarts=1))
    assert (again.state, again.cause) == ("lost", "signal")


def test_a_run_is_lost_when_slurm_and_its_heart_both_say_so(folder, fake):
    submitted(folder, (A,), (B,))
    attempted(folder, A, silent_s=900)
    attempted(folder, B, silent_s=60, task=1)
    cycle = tend(folder)
    assert reasons(folder, A) == ["it went silent on n1"]
    assert reasons(folder, B) == [""]  # its heart beat a minute ago: SLURM may be wrong
    assert cycle.submitted == 1


@pytest.mark.parametrize("state", ["RUNNING", "SUSPENDED", "COMPLETING", "NODE_FAIL", "PREEMPTED"])
def test_a_silent_run_whose_job_slurm_may_yet_go_on_with_is_left_alone(folder, fake, state):
    submitted(folder, (A,), (B,))
    attempted(folder, A, silent_s=600)
    fake.queue({JOB: (state, "PENDING")})
    assert tend(folder).submitted == 0
    assert reasons(folder, A) == [""]


def test_nothing_is_concluded_where_slurm_does_not_answer(folder, fake):
    submitted(folder, (A,), (B,))
    attempted(folder, A)
    fake.fall_silent()
    with pytest.raises(SweeperError, match=r"SLURM does not answer .* nothing was done: tend again later"):
        tend(folder)
    assert reasons(folder, A) == [""]


def test_a_run_whose_limit_is_reached_is_given_up(folder, fake):
    submitted(folder, (A,), (B,))
    for _ in range(3):
        attempted(folder, A, End(state="lost", cause="killed", reason="killed"))
    write_record(folder, run_record(SPECS[1]))
    cycle = tend(folder)
    assert cycle.over
    assert cycle.states == {"failed": 1, "done": 1}
    assert reasons(folder, A)[-1].startswith("given up: ")


def test_a_run_waits_for_the_time_of_its_next_attempt(folder, fake):
    submitted(folder, (A,), (B,))
    write_record(folder, run_record(SPECS[1]))
    launch = LaunchFile(
        sweep="tiny", runs=RUNS, cluster=replace(CLUSTER, backoff_s=(1000.0,)), execution=Execution(), code="c"
    )
    write_launch(folder, launch)
    attempted(folder, A, End(state="error", reason="ValueError: no"))
    cycle = tend(folder)
    assert (cycle.submitted, cycle.waiting) == (0, 1)
    assert cycle.next_at == pytest.approx(time.time() + 1000, abs=60)
    assert not cycle.over


# ── jobs that never began ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_job_that_ended_before_it_began_counts_as_an_attempt_once(folder, fake):
    submitted(folder, (A,), (B,))
    fake.queue({JOB: ("FAILED", "PENDING")})
    (fake.root / "queue").write_text((fake.root / "queue").read_text().replace("FAILED|None|", "FAILED|None|n2"))
    cycle = tend(folder)
    assert reasons(folder, A) == ["its job ended on n2 before it began (SLURM: FAILED)"]
    assert read_attempts(folder, A)[0].seat.node == "n2"
    assert cycle.submitted == 1
    fake.queue({JOB: ("FAILED", "PENDING"), next(p.name for p in folder.jobs.iterdir() if p.name != JOB): ("PENDING",)})
    assert tend(folder).submitted == 0
    assert len(reasons(folder, A)) == 1


def test_an_intent_that_never_reached_slurm_is_no_attempt(folder, fake):
    submitted(folder, (A,), (B,))
    (folder.jobs / JOB / "submitted.json").unlink()
    assert tend(folder).submitted == 2
    assert reasons(folder, A) == []


def test_a_cancelled_job_is_no_attempt_and_its_runs_are_held(folder, fake):
    submitted(folder, (A,), (B,))
    fake.accounts("7_0|tiny-1|CANCELLED by 0|0:0||2026-03-28T12:00:00")
    fake.queue({JOB: ()})
    cycle = tend(folder)
    assert is_held(folder, A)
    assert cycle.states["cancelled"] == 1
    assert reasons(folder, A) == []


# ── nodes ──────────────────────────────────────────────────────────────────────────────────────────────────────────


STEPS = count()


def on(node, cause="killed", ago_s=10.0, step=""):
    end = End(state="lost", cause=cause, reason="") if cause else None
    owner = replace(living_owner(), time=time.time() - ago_s)
    return Attempt(number=1, owner=owner, seat=Seat(job=JOB, node=node, step=step or f"7.{next(STEPS)}"), end=end)


@pytest.mark.parametrize(
    ("runs", "bad"),
    [
        ([[on("n1")], [on("n2", "")]], {}),
        ([[on("n1")], [on("n1", "node")]], {"n1": 2}),
        ([[on("n1"), on("n1")], [on("n2", "")]], {}),
        ([[on("n1")], [on("n1", "hung")], [on("n2", "")]], {"n1": 2}),
        ([[on("n1", "memory")], [on("n1", "signal")], [on("n2", "")]], {}),
        ([[on("n1"), on("n2")], [on("n1"), on("n2")], [on("n3", "")]], {}),
        ([[on("n1", step="8.0")], [on("n1", step="8.0")], [on("n2", "")]], {}),
    ],
    ids=["one run", "the only node", "one run twice", "two runs", "no fault of a node", "most nodes", "one stack"],
)
def test_a_node_is_bad_that_failed_two_runs_unless_most_did(runs, bad):
    assert bad_nodes(runs) == bad


def test_what_a_node_did_before_it_was_cleared_is_forgotten():
    runs = [[on("n1", ago_s=100)], [on("n1", ago_s=10)]]
    assert bad_nodes(runs, {"n1": time.time() - 50}) == {}


def test_a_bad_node_is_kept_from_new_jobs_and_from_those_that_wait(folder, fake):
    submitted(folder, (A,), (B,))
    for run_id, task in ((A, 0), (B, 1)):
        attempted(folder, run_id, End(state="lost", cause="killed", reason="killed"), task=task)
    fake.queue({JOB: ("PENDING", "COMPLETED")})
    cycle = tend(folder)
    assert cycle.excluded == ("n1",)
    assert "update JobId=7_[0] ExcNodeList=n1" in fake.calls("scontrol")
    (script,) = [path / "script.sh" for path in folder.jobs.iterdir() if path.name != JOB]
    assert "#SBATCH --exclude=n1" in script.read_text().splitlines()


def test_the_last_node_is_not_excluded(folder, fake):
    submitted(folder, (A,), (B,))
    for run_id, task in ((A, 0), (B, 1)):
        attempted(folder, run_id, End(state="lost", cause="killed", reason="killed"), task=task)
    fake.answer("sinfo", "echo n1")
    assert tend(folder).excluded == ()
    assert read_excluded(folder) == ()


def test_one_cycle_at_a_time(folder, fake, monkeypatch):
    submitted(folder, (A,), (B,))
    with records.launcher_lock(folder), pytest.raises(SweeperError, match="another launch of this sweep runs"):
        tend(folder)


def test_a_claim_in_the_meantime_is_not_overruled(folder, fake):
    submitted(folder, (A,), (B,))
    assert claim_attempt(folder, A, Seat(job="another", step="8.0")) == 1
    fake.queue({JOB: ("FAILED", "PENDING")})
    assert tend(folder).states == {"queued": 1, "running": 1}
    assert reasons(folder, A) == [""]


def test_runs_that_were_launched_together_are_submitted_again_together(folder, fake):
    write_launch(folder, replace(read_launch(folder), fuse=8))
    submitted(folder, RUNS)
    for run_id in RUNS:
        attempted(folder, run_id, End(state="stopped", cause="signal", reason="preempted"))
    fake.queue({JOB: ("COMPLETED",)})
    assert tend(folder).submitted == 2
    (again,) = [job for name, (job, _) in read_jobs(folder).items() if name != JOB]
    assert (again.tasks, again.together, again.loads(0)) == ((RUNS,), "always", (RUNS,))
