import time
from dataclasses import replace

import pytest
from builders import living_owner, run_record, run_spec

from model.config import Execution
from sweeper import overview as overviews
from sweeper.overview import goes_on, makespan, next_step, overview, rows_of, take_look
from sweeper.records import (
    Beat,
    End,
    JobFile,
    LaunchFile,
    Owner,
    Seat,
    Submitted,
    SweepFolder,
    hold_run,
    read_jobs,
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
from sweeper.spec import Cluster, Slurm
from sweeper.submission import keeper_name

CLUSTER = Cluster(name="toy", scheduler="slurm", slurm=Slurm(gpus_per_node=0), backoff_s=(60.0,), attempts=2)
JOB = "tiny-1"
SPECS = tuple(run_spec(lr=lr) for lr in (0.1, 0.2, 0.3, 0.4))
A, B, C, D = (spec.run_id for spec in SPECS)


def elsewhere(seconds_ago=6000.0):
    """A process of a node, which cannot be asked from here."""
    now = living_owner()
    return Owner(at=replace(now.at, host="n1", machine="other"), pid=9, started=1, time=time.time() - seconds_ago)


@pytest.fixture
def folder(tmp_path):
    """A sweep of four runs that was launched on a cluster as one array."""
    made = SweepFolder(tmp_path, "tiny")
    for spec in SPECS:
        write_spec(made, spec)
    launch = LaunchFile(
        sweep="tiny", runs=tuple(s.run_id for s in SPECS), cluster=CLUSTER, execution=Execution(), code="c"
    )
    write_launch(made, launch)
    job = JobFile(
        job=JOB,
        tasks=tuple((spec.run_id,) for spec in SPECS),
        code="c",
        processes=1,
        heartbeat_s=60,
        execution=Execution(),
        cluster=CLUSTER,
        time=time.time() - 1000,
    )
    write_submitted(write_job(made, job), Submitted(cluster="toy", job_id="7", time=job.time))
    return made


def attempt(folder, run_id, number=1, *, step=4, end=None, stepped_ago=5.0):
    seat = Seat(job=JOB, task=[A, B, C, D].index(run_id), node="n1", step="7.0")
    write_json(folder.attempt(run_id, number) / "owner.json", {"owner": elsewhere(), "seat": seat})
    now = time.time()
    beat = Beat(
        time=now - 5,
        run_id=run_id,
        step=step,
        steps=8,
        tokens_per_s=100.0,
        stepped=now - stepped_ago,
        step_s=1.0,
        limit_s=900.0,
    )
    write_beat(folder, run_id, number, beat)
    if end is not None:
        write_end(folder, run_id, number, end)


def queue(*states, cluster="toy", answers=True, **reasons):
    tasks = {
        (JOB, index): Task(name=JOB, job_id=f"7_{index}", index=index, state=state, reason=reasons.get(state, ""))
        for index, state in enumerate(states)
    }
    return Queue(cluster=cluster, answers=answers, tasks=tasks, time=time.time(), error="" if answers else "no answer")


@pytest.fixture
def seen(folder, monkeypatch):
    """Look at the sweep while SLURM says what is given."""

    def looked(said):
        monkeypatch.setattr(overviews, "ask_about", lambda _: said)
        return overview("tiny", SPECS, take_look(folder, [spec.run_id for spec in SPECS]))

    return looked


def row(overview, run_id):
    return next(row for row in overview.runs if row.run_id == run_id)


def test_every_run_counts_once_and_its_tokens_by_its_steps(folder, seen):
    write_record(folder, run_record(SPECS[0]))
    attempt(folder, B, step=4)
    found = seen(queue("COMPLETED", "RUNNING", "PENDING", "PENDING"))
    assert found.states == {"queued": 2, "running": 1, "done": 1}
    tokens = SPECS[0].train.tokens
    assert (found.tokens, found.tokens_done) == (4 * tokens, 1.5 * tokens)
    assert found.tokens_per_s == 100.0


def test_a_run_of_two_arms_counts_once(folder, monkeypatch):
    monkeypatch.setattr(overviews, "ask_about", lambda _: queue("PENDING"))
    specs = (replace(SPECS[0], arm="a"), replace(SPECS[0], arm="b"))
    found = overview("tiny", specs, take_look(folder, [A, A]))
    assert (found.total, found.states, len(found.runs)) == (1, {"queued": 1}, 2)


def test_a_waiting_run_has_slurms_reason(seen):
    found = seen(queue("PENDING", "PENDING", "PENDING", "PENDING", PENDING="QOSMaxJobsPerUserLimit"))
    assert {(row.reason, row.job[:2]) for row in found.runs} == {("QOSMaxJobsPerUserLimit", "7_")}


def test_the_runs_that_may_need_a_person_come_first(folder, seen):
    attempt(folder, D, end=End(state="error", reason="boom"))
    write_record(folder, run_record(SPECS[0]))
    found = seen(queue("COMPLETED", "RUNNING", "PENDING", "FAILED"))
    assert [row.state for row in found.runs] == ["failed", "running", "queued", "done"]
    assert row(found, D).reason == "boom"


def test_a_controller_that_does_not_answer_makes_runs_unknown_and_says_so(seen):
    found = seen(queue(answers=False))
    assert found.states == {"unknown": 4}
    assert "none is taken for dead" in found.warnings[0]


def test_a_run_that_beats_is_running_whatever_the_controller_does(folder, seen):
    attempt(folder, A)
    assert row(seen(queue(answers=False)), A).state == "running"


def test_a_run_that_was_submitted_again_is_shown_under_its_newest_job_also_during_an_outage(folder, seen):
    job = replace(read_jobs(folder)[JOB][0], job="tiny-0", tasks=((A,),), time=time.time())
    write_submitted(write_job(folder, job), Submitted(cluster="toy", job_id="8", time=job.time))
    assert row(seen(queue(answers=False)), A).job == "8_0"
    assert row(seen(queue(answers=False)), B).job == "7_1"


def test_jobs_of_another_cluster_are_unknown_and_named(seen):
    found = seen(queue(cluster="other"))
    assert found.states == {"unknown": 4}
    assert "toy but this machine's cluster is other" in found.warnings[0]


def test_a_run_without_a_step_for_long_is_suspected(folder, seen):
    attempt(folder, A, stepped_ago=5000)
    found = seen(queue("RUNNING", "PENDING", "PENDING", "PENDING"))
    assert row(found, A).silent_s == pytest.approx(5000, abs=5)
    assert any("may hang" in warning for warning in found.warnings)


def test_a_suspended_run_makes_no_step_and_does_not_hang(folder, seen):
    attempt(folder, A, stepped_ago=5000)
    assert row(seen(queue("SUSPENDED", "PENDING", "PENDING", "PENDING")), A).silent_s == 0


def test_a_crashed_run_says_when_it_is_tried_again(folder, seen):
    attempt(folder, A, end=End(state="error", reason="boom"))
    found = row(seen(queue("RUNNING", "PENDING", "PENDING", "PENDING")), A)
    assert found.next_at == pytest.approx(time.time() + 60, abs=5)
    assert found.reason == "waits for its next attempt: boom"


def test_a_run_whose_file_is_damaged_says_which(folder, seen):
    (folder.run(A) / "record.json").write_text("{")
    found = row(seen(queue("COMPLETED", "PENDING", "PENDING", "PENDING")), A)
    assert (found.state, "record.json" in found.reason) == ("unknown", True)


def test_jobs_are_listed_in_the_order_in_which_they_were_made(folder, seen):
    job = replace(read_jobs(folder)[JOB][0], job="tiny-0", tasks=((A,),), time=time.time())
    write_submitted(write_job(folder, job), Submitted(cluster="toy", job_id="8", time=job.time))
    assert [job.job_id for job in seen(queue(answers=False)).jobs] == ["7", "8"]


def test_a_cancelled_run_says_who_cancelled_it(folder, seen):
    hold_run(folder, A, "cancelled by ada on login1")
    found = row(seen(queue("CANCELLED", "PENDING", "PENDING", "PENDING")), A)
    assert (found.state, found.reason) == ("cancelled", "cancelled by ada on login1")


def test_runs_that_a_limit_kept_back_are_told(folder, seen):
    (folder.jobs / JOB / "ended.json").write_text("{}")
    found = seen(None)
    assert (found.states, found.ready, next_step(found)) == ({"new": 4}, 4, "tend")
    assert "4 runs are kept back by a limit of SLURM" in found.warnings[0]


def test_a_keeper_is_seen(folder, seen, monkeypatch):
    said = queue("COMPLETED", "PENDING", "PENDING", "PENDING")
    name = keeper_name(folder)
    keeper = Task(name=name, job_id="9", index=0, state="RUNNING")
    found = seen(replace(said, tasks={**said.tasks, (name, 0): keeper}))
    assert found.keeper == "9"
    assert goes_on(found)


def test_runs_of_other_grids_are_counted_aside(folder, seen):
    write_spec(folder, run_spec(lr=0.9))
    assert seen(queue("PENDING", "PENDING", "PENDING", "PENDING")).others == 1


def test_no_time_left_is_given_before_a_run_of_the_kind_was_measured(seen):
    found = seen(queue("PENDING", "PENDING", "PENDING", "PENDING"))
    assert (found.left_s, found.unmeasured) == (None, 4)


def test_the_time_left_follows_from_measured_speeds(folder, seen):
    tokens = SPECS[0].train.tokens
    write_record(folder, run_record(SPECS[0], tokens_per_s=100.0))
    attempt(folder, B, step=4)
    found = seen(queue("COMPLETED", "RUNNING", "PENDING", "PENDING"))
    assert found.left_s == pytest.approx((0.5 + 1 + 1) * tokens / 100)


def test_nothing_at_work_leaves_the_time_unknown(folder, seen):
    write_record(folder, run_record(SPECS[0]))
    found = seen(queue("COMPLETED", "PENDING", "PENDING", "PENDING"))
    assert (found.left_s, found.unmeasured) == (None, 0)


def test_what_ends_makes_room_for_the_longest_that_waits():
    assert makespan([1.0, 2.0], [3.0, 4.0, 1.0]) == 6.0


@pytest.mark.parametrize(
    ("states", "ends", "step"),
    [
        (("PENDING",) * 4, {}, "watch"),
        (("FAILED",) * 4, {A: "error"}, "tend"),
        (("FAILED",) * 4, {A: "given up", B: "given up", C: "given up", D: "given up"}, "why"),
    ],
)
def test_the_next_command_leads_on(folder, seen, states, ends, step):
    for run_id, how in ends.items():
        for number in (1, 2) if how == "given up" else (1,):
            attempt(folder, run_id, number, step=0, end=End(state="error", reason=how, time=time.time() - 1000))
    assert next_step(seen(queue(*states))).partition(" ")[0] == step


def test_a_finished_sweep_is_fitted_next(folder, seen):
    for spec in SPECS:
        write_record(folder, run_record(spec))
    assert next_step(seen(None)) == "fit"


def test_rows_know_how_far_a_stopped_run_got(folder, monkeypatch):
    monkeypatch.setattr(overviews, "ask_about", lambda _: None)
    attempt(folder, A, step=6, end=End(state="stopped", reason="asked to", cause="signal"))
    (folder.jobs / JOB / "ended.json").write_text("{}")
    (found,) = rows_of(SPECS[:1], take_look(folder, [A]))
    assert (found.state, found.step, found.cause, found.progress) == ("stopped", 6, "signal", 0.75)
