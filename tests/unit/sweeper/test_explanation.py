import time
from dataclasses import replace

import pytest
from builders import living_owner, run_record, run_spec

from model.config import Execution
from model.shape import MEMORY_SHARE, memory_bytes
from sweeper.explanation import explain
from sweeper.overview import Holding, Look, rows_of
from sweeper.records import Attempt, Beat, End, Evidence, Held, JobFile, LaunchFile, Seat, Submitted
from sweeper.retries import Verdict
from sweeper.slurm import Queue, Task
from sweeper.spec import Cluster, Gpu

SPEC = run_spec()
RUN = SPEC.run_id
NOW = time.time()
JOB = JobFile(
    job="tiny-1",
    tasks=((RUN,),),
    code="c",
    processes=2,
    heartbeat_s=60,
    execution=Execution(),
    cluster=Cluster(scheduler="slurm", processes=2),
    time=NOW - 100,
)
SENT = Submitted(cluster="toy", job_id="7", time=NOW - 100)
LAUNCH = LaunchFile(sweep="tiny", runs=(RUN,), cluster=Cluster(scheduler="slurm"), execution=Execution(), code="c")


def attempt(end=None, number=1):
    return Attempt(number=number, owner=living_owner(), seat=Seat(job=JOB.job, node="n1", step="7.0"), end=end)


def look(evidence, *, task=None, beat=None, held=None, verdict=None, launch=LAUNCH, answers=True, job=JOB):
    queue = Queue(cluster="toy", answers=answers, error="" if answers else "it timed out", time=NOW)
    return Look(
        time=NOW,
        queue=queue,
        launch=launch,
        jobs={job.job: (job, SENT)},
        evidence={RUN: evidence},
        holding={RUN: Holding(job=JOB, submitted=SENT, index=0, task=task)} if task else {},
        beats={RUN: beat} if beat else {},
        held={RUN: held} if held else {},
        verdicts={RUN: verdict} if verdict else {},
        excluded=(),
        others=0,
    )


def explained(evidence, **given):
    seen = look(evidence, **given)
    (row,) = rows_of([SPEC], seen)
    return explain(SPEC, row, seen)


def task(state, reason=""):
    return Task(name=JOB.job, job_id="7_0", index=0, state=state, reason=reason, nodes="n1")


def sentence(evidence, **given):
    return explained(evidence, **given).sentence


def test_a_done_run_says_its_loss_and_attempts():
    said = sentence(Evidence(record=run_record(SPEC, attempts=2)))
    assert said.startswith("done at attempt 2: 8 steps, loss 2.5000")


def test_a_diverged_run_is_a_result():
    said = sentence(Evidence(record=run_record(SPEC, state="diverged", loss=None, reason="the loss is NaN")))
    assert "the loss is NaN" in said
    assert "a result, not a failure" in said


@pytest.mark.parametrize(
    ("reason", "meaning"),
    [
        ("Resources", "not free yet"),
        ("QOSMaxJobsPerUserLimit", "a limit of its QOS"),
        ("AssocGrpGRES", "a limit of its account"),
        ("Dependency", "canaries"),
        ("DependencyNeverSatisfied", "never starts"),
        ("ReqNodeNotAvail, UnavailableNodes:n1", "down, drained or reserved"),
    ],
)
def test_a_waiting_run_says_what_slurms_reason_means(reason, meaning):
    said = sentence(Evidence(job="queued"), task=task("PENDING", reason))
    assert said.startswith(f"waits in SLURM as job 7_0 ({reason}: ")
    assert meaning in said


def test_a_reason_that_is_not_known_stands_for_itself():
    assert sentence(Evidence(job="queued"), task=task("PENDING", "Strange")) == "waits in SLURM as job 7_0 (Strange)"


def test_a_running_run_says_where_and_how_far():
    beat = Beat(time=NOW - 3, run_id=RUN, step=4, steps=8, tokens_per_s=1e4, stepped=NOW, limit_s=900)
    said = sentence(Evidence(attempts=(attempt(),), holder="alive", job="alive"), task=task("RUNNING"), beat=beat)
    assert said.startswith("runs on n1 as job 7_0: attempt 1, step 4 of 8, 1e+04 tokens/s")


def test_a_run_that_backs_off_says_when_it_goes_on_and_why():
    end = End(state="error", reason="ValueError: boom", detail="Traceback\nValueError: boom")
    found = explained(
        Evidence(attempts=(attempt(end),), job="alive"),
        task=task("RUNNING"),
        verdict=Verdict(action="try", at=NOW + 30),
    )
    assert found.sentence == ("waits in its job on n1 as job 7_0 for attempt 2, in 30 s; attempt 1: ValueError: boom")
    assert found.detail.endswith("ValueError: boom")


def test_a_failed_run_says_that_it_was_given_up_and_shows_the_traceback():
    end = End(state="error", reason="given up: 3 attempts in a row ended badly; the last: boom", detail="x\n" * 40)
    found = explained(Evidence(attempts=(attempt(end),)), verdict=Verdict(action="give up"))
    assert "attempt 1 on n1 failed: given up: 3 attempts in a row ended badly" in found.sentence
    assert "`sweeper retry`" in found.sentence
    assert len(found.detail.splitlines()) == 20


def test_a_run_that_lacked_memory_says_the_next_micro_batch():
    end = End(state="error", reason="CUDA out of memory", cause="memory")
    assert "its next attempt takes 2 of 4 sequences at a time" in sentence(Evidence(attempts=(attempt(end),)))


def test_the_next_micro_batch_is_half_of_what_fitted_by_estimate():
    end = End(state="error", reason="CUDA out of memory", cause="memory")
    needed = memory_bytes(SPEC.train, micro_batch=2, processes=2)
    small = replace(JOB.profile, gpu=Gpu(memory_gib=(needed + 1) / MEMORY_SHARE / 2**30))
    found = explained(Evidence(attempts=(attempt(end),)), job=replace(JOB, cluster=small))
    assert "its next attempt takes 1 of 4 sequences at a time" in found.sentence


def test_a_run_whose_node_failed_says_which():
    end = End(state="lost", cause="node", reason="the node failed on n1 (NODE_FAIL)")
    said = sentence(Evidence(attempts=(attempt(end),)), verdict=Verdict(action="try", at=0.0))
    assert said == "attempt 1 ended: the node failed on n1 (NODE_FAIL); `sweeper tend` submits it again"


def test_a_cancelled_run_says_by_whom_and_when():
    held = Held(reason="cancelled by ada on login1", time=NOW)
    said = sentence(Evidence(held=True), held=held)
    assert said.startswith(f"cancelled by ada on login1 at {time.strftime('%Y-%m-%d %H:%M', time.localtime(NOW))}")


def test_an_unknown_run_is_not_called_dead():
    said = sentence(Evidence(job="unknown"), answers=False)
    assert said == "nobody knows: SLURM does not answer (it timed out); it is not taken for dead"


def test_a_stopped_run_of_this_machine_is_resumed_by_a_launch():
    end = End(state="stopped", cause="signal", reason="stopped at step 4")
    said = sentence(Evidence(attempts=(attempt(end),)), launch=None)
    assert said.endswith("stopped at step 4; `sweeper launch` resumes it")


def test_a_new_run_is_for_the_next_launch():
    assert "`sweeper launch` runs it" in sentence(Evidence(), launch=None)
    assert "`sweeper tend` submits it" in sentence(Evidence())
