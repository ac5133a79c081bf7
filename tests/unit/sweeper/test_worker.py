"""The place of a worker among those of its run, as SLURM's environment tells it."""

import os

import pytest

from model.config import Execution
from sweeper.records import JobFile
from sweeper.spec import Cluster, Slurm
from sweeper.worker import _take_place

STEP = {
    "SLURM_PROCID": "0",
    "SLURM_NTASKS": "1",
    "SLURM_LOCALID": "0",
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "3",
    "SLURMD_NODENAME": "n1",
    "SWEEPER_TURN": "-0-0-0",
}


def place(monkeypatch, processes=1, nodes=1, gpus=4, **environment):
    """The place, and what the worker's environment became."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "CUDA_VISIBLE_DEVICES", "SWEEPER_SLOT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (STEP | environment).items():
        monkeypatch.setenv(name, value)
    cluster = Cluster(scheduler="slurm", slurm=Slurm(gpus_per_node=gpus, nodes=nodes))
    job = JobFile(
        job="j",
        tasks=(("r",),),
        code="c",
        processes=processes,
        heartbeat_s=1.0,
        execution=Execution(),
        cluster=cluster,
        nodes=nodes,
    )
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "")  # so that what the worker sets is undone afterwards
    return _take_place(job), dict(os.environ)


def test_a_task_of_several_knows_its_rank_and_that_of_its_node(monkeypatch):
    ranks = {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_ARRAY_TASK_ID": "2"}
    found, environment = place(monkeypatch, 8, 2, CUDA_VISIBLE_DEVICES="0,1,2,3", SLURM_RESTART_COUNT="3", **ranks)
    assert (found.rank, found.world_size) == (5, 8)
    assert (found.seat.task, found.seat.restarts, found.seat.step, found.seat.node) == (2, 3, "7.3", "n1")
    expected = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    assert expected.items() <= environment.items()
    assert environment["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"


def test_a_task_that_slurm_bound_to_one_gpu_takes_that(monkeypatch):
    ranks = {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_LOCALID": "1"}
    _, environment = place(monkeypatch, 2, CUDA_VISIBLE_DEVICES="1", **ranks)
    assert environment["LOCAL_RANK"] == "0"


@pytest.mark.parametrize(
    ("seen", "slot", "processes", "taken"),
    [("0,1,2,3", "2", 1, "2"), ("4,5,6,7", "2", 2, "6,7"), ("", "1", 1, "1"), ("GPU-a,GPU-b", "1", 1, "GPU-b")],
)
def test_runs_that_share_a_node_take_a_gpu_each(monkeypatch, seen, slot, processes, taken):
    _, environment = place(monkeypatch, processes, CUDA_VISIBLE_DEVICES=seen, SWEEPER_SLOT=slot)
    assert environment["CUDA_VISIBLE_DEVICES"] == taken


def test_a_task_alone_starts_no_group(monkeypatch):
    found, environment = place(monkeypatch)
    assert (found.rank, found.world_size) == (0, 1)
    assert "WORLD_SIZE" not in environment
