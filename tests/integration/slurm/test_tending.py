"""Who looks after a sweep once its launch is over: what tending takes up again, and what it leaves alone."""

from dataclasses import replace

import pytest
from slurm_cluster import slurm_cluster
from slurm_sweeps import (
    ends,
    job_ids,
    records,
    slurm_sweep,
    submit,
    tend_until,
    toy_spec,
    wait_for_end,
    wait_for_records,
    wait_for_silence,
    wait_for_step,
)

from sweeper.records import is_held, read_attempts, read_evidence, read_excluded
from sweeper.slurm import ask_queue
from sweeper.spec import Trainer
from sweeper.status import states
from sweeper.submission import submit_keeper

pytestmark = pytest.mark.slurm


def states_now(folder, specs):
    return list(states(read_evidence(folder, [spec.run_id for spec in specs], ask_queue())).values())


def test_runs_whose_jobs_a_person_cancelled_are_left_alone(cluster, folder):
    waiting, running, other = toy_spec(0.1), toy_spec(0.2, steps=400), toy_spec(0.3, steps=60)
    submit(slurm_sweep(), [other], folder)
    submit(slurm_sweep(slurm={"cpus_per_process": 8}), [running], folder)
    wait_for_step(folder, running, 1)
    submit(slurm_sweep(slurm={"extra_sbatch": {"begin": "now+1hour"}}), [waiting], folder)
    names = {job_of(folder, spec) for spec in (waiting, running)}
    for name in names:
        cluster.run("scancel", f"--name={name}")
    said = tend_until(folder, lambda cycle: cycle.over)
    assert any("cancelled outside sweeper" in sentence for sentence in said)
    assert states_now(folder, [waiting, running, other]) == ["cancelled", "cancelled", "done"]
    assert ends(folder, running) == ["stopped signal"]
    assert is_held(folder, running.run_id)
    assert not [name for name in names if name in cluster.run("squeue", "--noheader", "--format=%j")]


def job_of(folder, spec):
    (name,) = [path.parent.name for path in folder.jobs.glob("*/job.json") if spec.run_id in path.read_text()]
    return name


def test_tending_submits_again_what_the_cluster_does_not_requeue(cluster, folder):
    spec = toy_spec(steps=60)
    submit(slurm_sweep(attempts=1), [spec], folder)
    wait_for_step(folder, spec, 5)
    (job,) = job_ids(cluster)
    cluster.run("scontrol", "update", f"jobid={job}", "requeue=0")
    cluster.run("scancel", "--batch", "--signal=USR2", job)
    wait_for_end(folder, spec)
    wait_for_silence(cluster)
    said = tend_until(folder, lambda cycle: cycle.over)
    assert any("submitted 1 runs again" in sentence for sentence in said)
    (record,) = wait_for_records(folder, [spec])
    assert record.attempts == 2
    assert ends(folder, spec) == ["stopped time"]
    output = next((folder.jobs / read_attempts(folder, spec.run_id)[0].seat.job).glob("*_0.out"))
    assert "this cluster does not requeue" in output.read_text()


def test_the_keeper_ends_a_sweep_after_its_launch(cluster, folder, monkeypatch):
    monkeypatch.setenv("SWEEPER_KEEPER_S", "1")
    spec = toy_spec(steps=60)
    submit(slurm_sweep(), [spec], folder)
    number = submit_keeper(folder)
    assert submit_keeper(folder) == number
    wait_for_step(folder, spec, 5)
    (job,) = [job for job in job_ids(cluster) if job.partition("_")[0] != number]
    cluster.run("scontrol", "update", f"jobid={job}", "requeue=0")
    cluster.run("scancel", "--batch", "--signal=USR2", job)
    (record,) = wait_for_records(folder, [spec])
    assert record.attempts == 2
    wait_for_silence(cluster)
    (output,) = (folder.jobs / ".keeper").glob(f"{number}*.out")
    assert "over: {'done': 1}" in output.read_text()


def test_a_canary_that_fails_holds_the_others_back(cluster, folder):
    argv = ("{python}", "-c", "raise SystemExit('the data are not there')")
    specs = [replace(toy_spec(0.1 * i), trainer=Trainer(kind="command", argv=argv)) for i in range(1, 6)]
    made = submit(slurm_sweep(attempts=1), specs, folder, canary=True)
    assert (len(made.jobs), made.submitted) == (2, 5)
    wait_for_silence(cluster)
    tend_until(folder, lambda cycle: cycle.over)
    assert sorted(states_now(folder, specs)) == ["cancelled"] * 3 + ["failed"] * 2


def test_canaries_that_sing_let_the_others_go(cluster, folder):
    specs = [toy_spec(0.01 * i, steps=i) for i in range(1, 5)]
    submit(slurm_sweep(), specs, folder, canary=True)
    made = wait_for_records(folder, specs)
    assert [record.attempts for record in made] == [1] * 4


def test_a_node_that_fails_every_job_is_excluded_and_the_runs_end_elsewhere(use, folder):
    with slurm_cluster(nodes=2) as cluster:
        use(cluster)
        specs = [toy_spec(0.01 * i, steps=5) for i in range(1, 5)]
        # On n1 the interpreter is not there, as on a node that lacks a disk: its jobs end before they begin.
        profile = {"setup": ('[ "$SLURMD_NODENAME" = n1 ] && exit 127',), "cpus_per_process": 4}
        submit(slurm_sweep(slurm=profile), specs, folder)
        said = tend_until(folder, lambda cycle: cycle.over)
        assert [record.state for record in records(folder, specs) if record] == ["done"] * 4, said
        assert [known.node for known in read_excluded(folder)] == ["n1"]
        failed = [a for spec in specs for a in read_attempts(folder, spec.run_id) if a.end is not None]
        assert {attempt.seat.node for attempt in failed} == {"n1"}
        assert all("ended on n1 before it began" in attempt.end.reason for attempt in failed)
