"""What SLURM's words mean, with commands that answer from files."""

import os
import time

import pytest
from fake_slurm import fake_slurm

from sweeper import slurm
from sweeper.slurm import Queue, Task, ask_queue, environment, is_limit, is_silence, is_vague, resumed_at


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
    assert not is_vague("QOSMaxSubmitJobPerUserLimit: Job violates accounting/QOS policy")
    assert is_silence("Unable to contact slurm controller (connect failure)")


def test_a_running_job_tells_when_it_last_went_on_after_it_was_suspended(fake):
    said = "JobId=7 JobState=RUNNING StartTime=2026-01-01T00:00:00 SuspendTime={} SecsPreSuspend=3"
    fake._write("scontrol", f"echo '{said.format('2026-01-01T01:00:00')}'")
    assert resumed_at("7") == time.mktime((2026, 1, 1, 1, 0, 0, 0, 0, -1))
    fake._write("scontrol", f"echo '{said.format('None')}'")
    assert resumed_at("7") == 0
    assert fake.calls("scontrol") == ["show job 7"] * 2
