"""The cluster that other tests of this folder stand on is a real one."""

import pytest
from slurm_cluster import wait_until

pytestmark = pytest.mark.slurm


def test_a_job_runs_on_every_node(cluster, tmp_path):
    cluster.run("sbatch", "--nodes=2", f"--output={tmp_path}/out", "--wrap=srun sh -c 'echo $SLURMD_NODENAME'")
    output = tmp_path / "out"
    wait_until(lambda: output.exists() and len(output.read_text().split()) == 2, "the job")
    assert sorted(output.read_text().split()) == ["n1", "n2"]


def test_an_array_beyond_the_limit_of_the_cluster_is_refused(cluster):
    with pytest.raises(RuntimeError, match="Invalid job array specification"):
        cluster.run("sbatch", "--array=0-11", "--wrap=true")
