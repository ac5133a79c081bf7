import subprocess
import time
from dataclasses import replace

import pytest
from builders import living_owner, run_record, run_spec, tiny_sweep
from fake_slurm import fake_slurm, path_with

from model.config import Execution
from sweeper.errors import SweeperError
from sweeper.launch import launch
from sweeper.overview import overview, rows_of, take_look
from sweeper.records import (
    End,
    JobFile,
    LaunchFile,
    Seat,
    Submitted,
    SweepFolder,
    counted_attempts,
    hold_run,
    is_held,
    owner_of,
    read_excluded,
    read_held,
    write_end,
    write_job,
    write_json,
    write_launch,
    write_record,
    write_spec,
    write_submitted,
)
from sweeper.slurm import HELD_REASON
from sweeper.spec import Cluster, Slurm
from sweeper.status import state_of
from sweeper.steering import cancel_runs, exclude, expand_nodes, retry_runs
from sweeper.tend import bad_nodes, tend

CLUSTER = Cluster(name="toy", scheduler="slurm", slurm=Slurm(gpus_per_node=0, exclude="n3"))
JOB = "tiny-1"
SPECS = tuple(run_spec(lr=lr) for lr in (0.1, 0.2, 0.3, 0.4))
RUNS = tuple(spec.run_id for spec in SPECS)
A, B, C, D = RUNS


@pytest.fixture
def folder(tmp_path):
    return SweepFolder(tmp_path / "runs", "tiny")


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    made = fake_slurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", path_with(made))
    return made


def submitted(folder, *tasks, cluster="toy"):
    """An array on the cluster, as a launch left it."""
    for spec in SPECS:
        write_spec(folder, spec)
    write_launch(folder, LaunchFile(sweep="tiny", runs=RUNS, cluster=CLUSTER, execution=Execution(), code="c"))
    job = JobFile(job=JOB, tasks=tasks, code="c", processes=1, heartbeat_s=60, execution=Execution(), cluster=CLUSTER)
    write_submitted(write_job(folder, job), Submitted(cluster=cluster, job_id="7", time=time.time() - 1000))


def looked(folder):
    look = take_look(folder, RUNS)
    return rows_of(SPECS, look), look


def cancelled(folder, *runs, stop_s=5.0):
    rows, look = looked(folder)
    return cancel_runs(folder, [row for row in rows if row.run_id in runs], look, stop_s=stop_s)


def states(folder):
    return {run_id: state_of(seen) for run_id, seen in looked(folder)[1].evidence.items()}


# ── cancel ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_elements_of_an_array_are_cancelled_in_one_call(folder, slurm):
    submitted(folder, (A,), (B,), (C,), (D,))
    slurm.queue({JOB: ("RUNNING", "PENDING", "PENDING", "PENDING")})
    done = cancelled(folder, A, C)
    assert slurm.calls("scancel") == ["7_0 7_2"]
    assert (done.runs, done.tasks) == (2, 2)
    assert [is_held(folder, run_id) for run_id in RUNS] == [True, False, True, False]


def test_a_cancelled_run_remembers_who_cancelled_it(folder):
    cancelled(folder, A)
    assert read_held(folder, A).reason.startswith("cancelled by ")


def test_an_element_that_packs_several_runs_ends_only_when_all_of_them_are_cancelled(folder, slurm):
    submitted(folder, (A, B), (C, D))
    slurm.queue({JOB: ("RUNNING", "RUNNING")})
    assert (cancelled(folder, A).shared, slurm.calls("scancel")) == (1, [])
    assert (cancelled(folder, B).tasks, slurm.calls("scancel")) == (1, ["7_0"])


def test_a_finished_run_does_not_keep_its_element_alive(folder, slurm):
    submitted(folder, (A, B))
    write_record(folder, run_record(SPECS[0]))
    slurm.queue({JOB: ("RUNNING",)})
    cancelled(folder, B)
    assert slurm.calls("scancel") == ["7_0"]


def test_a_finished_run_keeps_its_result(folder, slurm):
    submitted(folder, (A,))
    write_record(folder, run_record(SPECS[0]))
    done = cancelled(folder, A)
    assert (done.runs, done.finished, is_held(folder, A)) == (0, 1, False)


def test_runs_are_held_also_where_slurm_does_not_answer(folder, slurm):
    submitted(folder, (A,))
    slurm.fall_silent()
    with pytest.raises(SweeperError, match=r"SLURM does not answer \(Socket timed out.*1 runs are held"):
        cancelled(folder, A)
    assert is_held(folder, A)


def test_jobs_of_another_cluster_are_named(folder, slurm):
    submitted(folder, (A,), cluster="far")
    assert cancelled(folder, A).elsewhere == ("the cluster far",)


def test_a_process_of_this_machine_is_asked_to_stop(folder):
    with subprocess.Popen(["sleep", "60"]) as process:
        job = JobFile(job="j", tasks=((A,),), code="c", processes=1, heartbeat_s=1, execution=Execution())
        write_submitted(write_job(folder, job), Submitted(owner=owner_of(process.pid)))
        assert cancelled(folder, A).stopped == 1
        assert process.wait(5) == -15


def test_a_process_that_does_not_stop_is_told(folder):
    with subprocess.Popen(["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"]) as process:
        time.sleep(0.3)
        job = JobFile(job="j", tasks=((A,),), code="c", processes=1, heartbeat_s=1, execution=Execution())
        write_submitted(write_job(folder, job), Submitted(owner=owner_of(process.pid)))
        done = cancelled(folder, A, stop_s=0.5)
        process.kill()
    assert (done.stopped, done.stopping) == (0, 1)


def test_a_process_of_another_machine_is_named(folder):
    owner = living_owner()
    far = replace(owner, at=replace(owner.at, host="n7", machine="other"))
    job = JobFile(job="j", tasks=((A,),), code="c", processes=1, heartbeat_s=1, execution=Execution())
    write_submitted(write_job(folder, job), Submitted(owner=far))
    assert cancelled(folder, A).elsewhere == ("n7",)


def test_a_launch_that_goes_on_starts_no_run_that_is_cancelled_meanwhile(folder):
    specs = [run_spec(lr=lr, steps=2) for lr in (0.1, 0.2)]

    def follow(_):
        hold_run(folder, specs[1].run_id, "cancelled by ada")

    done = launch(tiny_sweep(parallel=1), specs, folder, follow=follow, tell=lambda _: None)
    assert dict(done.states) == {"done": 1, "cancelled": 1}
    assert done.started == 1


# ── retry ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def failed(folder, run_id):
    home = folder.attempt(run_id, 1)
    seat = Seat(job=JOB, node="n1", step=f"7.{run_id}")
    write_json(home / "owner.json", {"owner": living_owner(), "seat": seat})
    write_end(folder, run_id, 1, End(state="error", reason="boom"))


def test_a_run_of_this_machine_may_be_launched_again_with_all_its_attempts(folder):
    failed(folder, A)
    hold_run(folder, A, "cancelled by ada")
    rows, look = looked(folder)
    done = retry_runs(folder, rows[:1], look)
    assert (done.renewed, done.sent, counted_attempts(folder, A)) == (1, None, ())
    assert states(folder)[A] == "failed"


def test_a_retried_run_is_submitted_at_once_and_the_others_are_left_alone(folder, slurm):
    submitted(folder, (A,), (B,), (C,), (D,))
    failed(folder, A)
    write_record(folder, run_record(SPECS[3]))
    hold_run(folder, C, "cancelled by ada")
    slurm.queue({JOB: ("FAILED", "RUNNING", "CANCELLED", "COMPLETED")})
    rows, look = looked(folder)
    done = retry_runs(folder, rows, look)
    assert (done.renewed, done.left) == (2, 2)
    assert done.sent is not None
    assert (done.sent.submitted, done.sent.jobs) == (2, ("99",))
    assert len(slurm.calls("sbatch")) == 1


def test_nothing_is_renewed_where_slurm_does_not_answer(folder, slurm):
    submitted(folder, (A,))
    slurm.queue({JOB: ("FAILED",)})
    hold_run(folder, A, "cancelled by ada")
    rows, look = looked(folder)
    slurm.fall_silent()
    with pytest.raises(SweeperError, match="nothing was changed"):
        retry_runs(folder, rows[:1], look)
    assert is_held(folder, A)


# ── exclude ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_waiting_elements_avoid_an_excluded_node_and_those_of_the_profile(folder, slurm):
    submitted(folder, (A,), (B,), (C,))
    slurm.queue({JOB: ("RUNNING", "PENDING", "PENDING")})
    done = exclude(folder, ["n1"], reason="broken fan")
    assert ([(n.node, n.reason) for n in done.nodes], done.changed, done.told) == ([("n1", "broken fan")], ("n1",), 2)
    assert slurm.calls("scontrol")[-1] == "update JobId=7_[1,2] ExcNodeList=n3,n1"


def test_clearing_a_node_lets_waiting_jobs_use_it(folder, slurm):
    submitted(folder, (A,))
    slurm.queue({JOB: ("PENDING",)})
    exclude(folder, ["n1", "n2"])
    assert exclude(folder, ["n1"], clear=True).changed == ("n1",)
    assert slurm.calls("scontrol")[-1] == "update JobId=7_[0] ExcNodeList=n3,n2"
    assert exclude(folder, [], clear=True).nodes == ()


def test_a_node_that_the_cluster_lacks_is_refused(folder, slurm):
    with pytest.raises(SweeperError, match="no node 'n9'"):
        exclude(folder, ["n9"])
    assert read_excluded(folder) == ()


def test_a_node_that_is_not_excluded_cannot_be_cleared(folder, slurm):
    exclude(folder, ["n1"])
    with pytest.raises(SweeperError, match="'n2' is not excluded"):
        exclude(folder, ["n2"], clear=True)


def test_without_words_the_excluded_nodes_are_listed(folder, slurm):
    exclude(folder, ["n1"])
    done = exclude(folder, [])
    assert ([node.node for node in done.nodes], done.changed) == (["n1"], ())


def test_expressions_of_slurm_are_expanded(slurm):
    assert expand_nodes(["n1,n2", "n2"]) == ("n1", "n2")


def test_what_a_node_did_before_it_was_cleared_no_longer_speaks_against_it(folder):
    for run_id in (A, B):
        failed(folder, run_id)
        write_end(folder, run_id, 1, End(state="lost", cause="killed", reason="gone"))
    attempts = [seen.attempts for seen in looked(folder)[1].evidence.values()]
    used = [(replace(a, seat=Seat(job="k", node=n)),) for n in ("n2", "n3") for a in attempts[0]]
    assert bad_nodes([*attempts, *used]) == {"n1": 2}
    assert bad_nodes([*attempts, *used], {"n1": time.time()}) == {}


# ── what a look costs ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_thousand_runs_are_seen_within_two_seconds_by_one_question_each(folder, slurm):
    specs = tuple(run_spec(lr=0.001 * (i + 1)) for i in range(1000))
    for number, spec in enumerate(specs):
        if number % 2:
            write_record(folder, run_record(spec))
        else:
            write_spec(folder, spec)
            failed(folder, spec.run_id)
    tasks = tuple((spec.run_id,) for spec in specs)
    submitted(folder, *tasks)
    slurm.queue({"another": ("RUNNING",)})  # ours left the queue: accounting is asked
    began = time.perf_counter()
    seen = overview("tiny", specs, take_look(folder, [spec.run_id for spec in specs]))
    took_s = time.perf_counter() - began
    assert (seen.total, seen.states) == (1000, {"failed": 500, "done": 500})
    assert [len(slurm.calls(name)) for name in ("scontrol", "squeue", "sacct")] == [1, 1, 1]
    assert took_s < 2


def test_slurm_is_not_asked_about_a_sweep_without_jobs_there(folder, slurm):
    write_record(folder, run_record(SPECS[0]))
    looked(folder)
    assert [slurm.calls(name) for name in ("scontrol", "squeue", "sacct")] == [[], [], []]


# ── what tending does about jobs that SLURM holds ──────────────────────────────────────────────────────────────────


def test_tending_lets_go_what_slurm_could_not_start(folder, slurm):
    submitted(folder, (A,), (B,), (C,), (D,))
    slurm.queue({JOB: ("PENDING",) * 4}, reason=HELD_REASON)
    assert "4 runs are held by SLURM" in overview("tiny", SPECS, looked(folder)[1]).warnings[0]
    cycle = tend(folder)
    assert "release 7_0" in slurm.calls("scontrol")
    assert cycle.said == ("4 jobs released that SLURM could not start before",)
