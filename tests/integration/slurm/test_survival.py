"""What becomes of runs when their cluster does what clusters do: each of them ends in one record, with the loss that it
would have had undisturbed.
"""

import pytest
from builders import run_spec
from slurm_cluster import slurm_cluster
from slurm_sweeps import (
    ends,
    job_ids,
    slurm_sweep,
    submit,
    tend_until,
    toy_spec,
    undisturbed,
    wait_for_records,
    wait_for_step,
)

from sweeper.errors import LaunchError, SweeperError
from sweeper.records import SweepFolder, read_attempts, read_beat, read_evidence
from sweeper.slurm import ask_queue
from sweeper.status import states
from sweeper.tend import tend

pytestmark = pytest.mark.slurm

LONG = 400
"""Steps of a run that is disturbed on its way: a few seconds."""


@pytest.fixture(scope="module", autouse=True)
def limited(tmp_path_factory):
    """A run of 45 seconds in a job of a minute, less 30 s for its checkpoint; it goes on beside the other tests."""
    folder, spec = SweepFolder(tmp_path_factory.mktemp("limited"), "tiny"), toy_spec(steps=450, step_s=0.1)
    with slurm_cluster(nodes=1) as cluster:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
            submit(slurm_sweep(attempts=1, slurm={"time_min": 1, "signal_s": 30}), [spec], folder)
        yield folder, spec


def by_time_limit(cluster, job):
    cluster.run("scancel", "--batch", "--signal=USR2", job)  # what `--signal=B:USR2@…` has SLURM do


def by_requeue(cluster, job):
    cluster.run("scontrol", "requeue", job)


def by_preemption(cluster, _job):
    cluster.run("sbatch", "--partition=urgent", "--exclusive", "--nodes=2", "--output=/dev/null", "--wrap=true")


@pytest.mark.parametrize(
    ("disturb", "end"),
    [(by_time_limit, "stopped time"), (by_requeue, "stopped signal"), (by_preemption, "stopped signal")],
    ids=["time limit", "requeue", "preemption"],
)
def test_a_run_whose_job_is_put_back_resumes_from_its_checkpoint_to_the_same_loss(cluster, folder, disturb, end):
    spec = run_spec(steps=LONG)
    submit(slurm_sweep(attempts=1), [spec], folder)
    wait_for_step(folder, spec, 20)
    (job,) = job_ids(cluster)
    disturb(cluster, job)
    (record,) = wait_for_records(folder, [spec])
    assert ends(folder, spec) == [end]
    assert record.attempts == 2
    assert read_beat(folder, spec.run_id, 2).first_step >= 20
    assert record.loss == undisturbed(spec)


def test_a_job_that_will_be_preempted_starts_nothing_in_its_last_minutes(use, folder):
    with slurm_cluster(nodes=1, grace_s=6) as cluster:
        use(cluster)
        spec = toy_spec(steps=100)
        submit(slurm_sweep(attempts=1), [spec], folder)
        wait_for_step(folder, spec, 5)
        cluster.run("sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=true")
        (record,) = wait_for_records(folder, [spec])
        assert ends(folder, spec) == ["stopped signal"]
        assert record.attempts == 2


def test_a_node_that_is_set_down_or_loses_its_power_is_left_for_another_one(use, folder):
    with slurm_cluster(nodes=3) as cluster:
        use(cluster)
        trained, quick, dark = run_spec(steps=2 * LONG), toy_spec(0.1, steps=200), toy_spec(0.2, steps=300)
        for spec, node in ((dark, "n2"), (quick, "n1"), (trained, "n1")):
            cluster.run("scontrol", "update", "nodename=n1,n2,n3", "state=drain", "reason=test")
            cluster.run("scontrol", "update", f"nodename={node}", "state=resume")
            submit(slurm_sweep(), [spec], folder)
            wait_for_step(folder, spec, 1)
        cluster.run("scontrol", "update", "nodename=n3", "state=resume")
        wait_for_step(folder, trained, 20)
        cluster.switch_off("n2")
        cluster.run("scontrol", "update", "nodename=n1", "state=down", "reason=test")
        made = wait_for_records(folder, [trained, quick, dark])
        assert [record.attempts for record in made] == [2, 2, 2]
        assert made[0].loss == undisturbed(trained)
        # Nobody could write the end of what the dark node did; its successor noted what became of it.
        assert ends(folder, dark) == ["lost signal"]
        nodes = [[attempt.seat.node for attempt in read_attempts(folder, s.run_id)] for s in (trained, quick, dark)]
        assert [of_run[0] for of_run in nodes] == ["n1", "n1", "n2"]
        assert nodes[2][1] != "n2"


def test_runs_outlive_the_controller_and_are_called_dead_by_nobody(use, folder):
    with slurm_cluster(nodes=1) as cluster:
        use(cluster)
        running, waiting = [toy_spec(0.1, steps=400)], [toy_spec(0.2, steps=5)]
        submit(slurm_sweep(slurm={"cpus_per_process": 8}), [*running, *waiting], folder)
        wait_for_step(folder, running[0], 120)  # by now the controller has saved that it runs
        cluster.kill("slurmctld")
        seen = states(read_evidence(folder, [spec.run_id for spec in [*running, *waiting]], ask_queue()))
        assert list(seen.values()) == ["running", "unknown"]
        jobs = set(folder.jobs.iterdir())
        with pytest.raises(LaunchError, match=r"SLURM does not answer .* nothing was submitted: launch again"):
            submit(slurm_sweep(), [*running, *waiting], folder)
        assert set(folder.jobs.iterdir()) == jobs
        with pytest.raises(SweeperError, match="nothing was done: tend again later"):
            tend(folder)
        cluster.start_controller()
        made = wait_for_records(folder, [*running, *waiting])
        assert [record.attempts for record in made] == [1, 1]
        tend_until(folder, lambda cycle: cycle.over)
        assert len(list(folder.jobs.iterdir())) == 1


def test_a_run_whose_time_is_up_goes_on_in_its_requeued_job(limited):
    folder, spec = limited
    (record,) = wait_for_records(folder, [spec])
    assert ends(folder, spec) == ["stopped time"]
    assert record.attempts == 2
    assert [attempt.seat.restarts for attempt in read_attempts(folder, spec.run_id)] == [0, 1]
