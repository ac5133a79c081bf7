"""One real cluster for the tests of this folder."""

import pytest
from slurm_cluster import slurm_cluster


@pytest.fixture(scope="session")
def cluster():
    with slurm_cluster() as running:
        yield running
