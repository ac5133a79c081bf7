"""What SLURM's words mean, with commands that answer from files."""

import os
import time

import pytest
from fake_slurm import fake_slurm

from sweeper import slurm
from sweeper.slurm import (
    Queue,
    SlurmError,
    Task,
    ask_queue,
    call,
    environment,
    find_job,
    is_limit,
    is_preempted,
    is_silence,
    is_vague,
    read_settings,
    resumed_at,
)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    made = fake_slurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{made.root / 'bin'}:{os.environ['PATH']}")
    return made


def states(found):
    return {key: task.state for key, task in found.items()}


def test_one_look_asks_once_and_accounting_only_for_what_left_the_queue(fake):
    fake.queue({"a": ("RUNNING", "PENDING")})
    queue = ask_queue({"a": 2})
    assert (queue.answers, queue.cluster, states(queue.tasks)) == (
        True,
        "toy",
        {("a", 0): "RUNNING", ("a", 1): "PENDING"},
    )
    assert [len(fake.calls(name)) for name in ("scontrol", "squeue", "sacct")] == [1, 1, 0]


def test_accounting_is_asked_for_elements_that_left_though_others_of_their_array_wait(fake):
    fake.queue({"a": ("RUNNING",)})
    (fake.root / "accounts").write_text("7_1|a|OUT_OF_MEMORY|0:125|n2|2026-01-01T00:00:00\n")
    queue = ask_queue({"a": 2})
    assert len(fake.calls("sacct")) == 1
    assert queue.task("a", 1).state == "OUT_OF_MEMORY"
    assert queue.task("a", 0).state == "RUNNING"


def test_of_a_requeued_job_accounting_tells_the_last_submission(fake):
    (fake.root / "accounts").write_text(
        "7_0|a|NODE_FAIL|0:0|n1|2026-01-01T00:00:00\n7_0|a|CANCELLED by 0|0:0|n2|2026-01-01T01:00:00\n"
    )
    ended = ask_queue({"a": 1}).ended["a", 0]
    assert (ended.state, ended.nodes) == ("CANCELLED", "n2")


def test_without_accounting_nobody_asks_it(fake):
    (fake.root / "config").write_text("ClusterName = toy\nAccountingStorageType = accounting_storage/none\n")
    assert ask_queue({"a": 1}).ended == {}
    assert fake.calls("sacct") == []


def test_of_two_lines_for_one_name_the_livelier_counts(fake):
    (fake.root / "queue").write_text("7|0|RUNNING|None|n1|0|a\n9|0|COMPLETED|None|n2|0|a\n")
    assert ask_queue({"a": 1}).tasks["a", 0].job_id == "7_0"


def test_a_controller_that_does_not_answer_says_nothing(fake):
    fake.fall_silent()
    queue = ask_queue({"a": 1})
    assert not queue.answers
    assert "timed out" in queue.error
    with pytest.raises(SlurmError, match="Socket timed out"):
        find_job("a")


def test_accounting_does_not_bring_the_dead_to_life(fake):
    # It lags: a job that left the queue may still be RUNNING there.
    fake.accounts("7_0|a|RUNNING|0:0|n1|2026-01-01T00:00:00")
    queue = ask_queue({"a": 1})
    assert queue.life("a", 0, since=time.time() - 300) == "none"
    assert queue.task("a", 0).state == "RUNNING"


def test_accounting_that_fails_is_no_news(fake):
    fake.queue({"a": ("RUNNING",)})
    fake.answer("sacct", "echo 'sacct: error: Problem talking to the database: Connection refused' >&2; exit 1")
    queue = ask_queue({"a": 1, "gone": 1})
    assert (queue.answers, queue.ended) == (True, {})


def test_names_with_bars_and_jobs_that_are_no_arrays_are_read_and_warnings_passed_over(fake):
    fake.queue({"a": ("RUNNING",)})
    with (fake.root / "queue").open("a") as queue:
        queue.write("slurm_load_jobs: a warning\n8|N/A|RUNNING|None|n2|0|one | job\n")
    tasks = ask_queue().tasks
    assert {key: task.job_id for key, task in tasks.items()} == {("a", 0): "7_0", ("one | job", 0): "8"}


def test_a_command_that_hangs_is_given_up(fake):
    fake.answer("squeue", "sleep 60")
    with pytest.raises(SlurmError, match="squeue did not answer within 0 s"):
        call("squeue", timeout_s=0.2)


@pytest.mark.parametrize(("said", "preempted"), [("2026-03-28T12:00:00", True), ("N/A", False), ("", False)])
def test_a_job_is_preempted_once_slurm_says_when(fake, said, preempted):
    fake.answer("squeue", f"echo '{said}'")
    assert is_preempted("7") is preempted


def test_the_configuration_is_read_by_name(fake):
    (fake.root / "config").write_text("Configuration data as of now\nClusterName = toy\nMaxArraySize = 5\n")
    settings = read_settings()
    assert (settings.cluster, settings.max_array_size, settings.accounting) == ("toy", 5, False)


def test_a_young_job_that_is_not_listed_is_unknown_and_an_old_one_gone():
    queue = Queue(cluster="toy", answers=True, time=1000.0)
    assert queue.life("a", 0, since=1000.0 - slurm.NEW_S / 2) == "unknown"
    assert queue.life("a", 0, since=1000.0 - 2 * slurm.NEW_S) == "none"


@pytest.mark.parametrize(
    ("state", "life"),
    [
        ("RUNNING", "alive"),
        ("COMPLETING", "alive"),
        ("SUSPENDED", "alive"),
        ("PENDING", "queued"),
        ("REQUEUED", "queued"),
        ("REQUEUE_HOLD", "queued"),
        ("NODE_FAIL", "unknown"),
        ("PREEMPTED", "unknown"),
        ("TIMEOUT", "none"),
        ("CANCELLED", "none"),
    ],
)
def test_a_listed_job_lives_unless_its_state_is_final(state, life):
    assert Task(name="a", job_id="7", index=0, state=state).life == life


def test_variables_of_the_user_and_of_an_allocation_change_no_question(monkeypatch):
    for name in ("SQUEUE_FORMAT", "SACCT_FORMAT", "SBATCH_TIMELIMIT", "SLURM_JOB_ID", "SLURM_MEM_PER_CPU"):
        monkeypatch.setenv(name, "1")
    for name in ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT"):
        monkeypatch.setenv(name, "kept")
    assert {name for name in environment() if name.startswith(("SLURM_", "S"))} >= {"SLURM_CONF", "SLURM_CLUSTERS"}
    assert not {"SQUEUE_FORMAT", "SACCT_FORMAT", "SBATCH_TIMELIMIT", "SLURM_JOB_ID"} & environment().keys()


@pytest.mark.parametrize(
    ("message", "limit"),
    [
        ("Batch job submission failed: QOSMaxSubmitJobPerUserLimit", True),
        ("AssocMaxSubmitJobLimit", True),
        ("Slurm temporarily unable to accept job, sleeping and retrying", True),
        ("Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)", True),
        ("QOSMaxWallDurationPerJobLimit", False),
        ("QOSMaxGRESPerJob", False),
        ("AssocMaxWallDurationPerJobLimit", False),
        ("Invalid partition name specified", False),
        ("Invalid account or account/partition combination specified", False),
    ],
)
def test_a_limit_that_passes_is_told_from_a_request_that_never_fits(message, limit):
    assert is_limit(message) == limit


def test_what_slurm_says_for_both_kinds_of_limit_is_vague():
    assert is_vague("Job violates accounting/QOS policy")
    assert is_vague("Job violates accounting/QOS policy (job submit limit, user size and/or time limits)")
    assert not is_vague("QOSMaxSubmitJobPerUserLimit: Job violates accounting/QOS policy")
    assert is_silence("Unable to contact slurm controller (connect failure)")


def test_a_running_job_tells_when_it_last_went_on_after_it_was_suspended(fake):
    said = "JobId=7 JobState=RUNNING StartTime=2026-01-01T00:00:00 SuspendTime={} SecsPreSuspend=3"
    fake._write("scontrol", f"echo '{said.format('2026-01-01T01:00:00')}'")
    assert resumed_at("7") == time.mktime((2026, 1, 1, 1, 0, 0, 0, 0, -1))
    fake._write("scontrol", f"echo '{said.format('None')}'")
    assert resumed_at("7") == 0
    assert fake.calls("scontrol") == ["show job 7"] * 2
