"""What becomes of runs when their cluster does what clusters do: each of them ends in one record, with the loss that it
would have had undisturbed.
"""

import os
import signal
from dataclasses import replace

import pytest
from builders import run_spec
from slurm_cluster import slurm_cluster, wait_until
from slurm_sweeps import (
    ends,
    job_ids,
    slurm_sweep,
    submit,
    tend_until,
    toy_spec,
    undisturbed,
    wait_for_end,
    wait_for_records,
    wait_for_step,
    workers,
)

from sweeper import records
from sweeper.records import read_attempts, read_beat

pytestmark = pytest.mark.slurm

LONG = 150
"""Steps of a run that is disturbed on its way: a few seconds."""


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
