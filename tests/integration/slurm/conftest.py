"""One real cluster for the tests of this folder; those that stop parts of one start their own."""

import os

import pytest
from slurm_cluster import slurm_cluster

from sweeper.records import SweepFolder


@pytest.fixture(scope="session")
def shared_cluster():
    with slurm_cluster(gpus=4) as running:
        yield running


@pytest.fixture
def use(monkeypatch):
    """`use(cluster)` makes it the cluster that SLURM's commands in this process talk to."""

    def chosen(cluster):
        monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
        return cluster

    return chosen


@pytest.fixture
def cluster(shared_cluster, use):
    yield use(shared_cluster)
    # A test that fails must not leave its jobs to the next one.
    shared_cluster.run("scancel", f"--user={os.getuid()}")


@pytest.fixture
def folder(tmp_path):
    return SweepFolder(tmp_path, "tiny")
