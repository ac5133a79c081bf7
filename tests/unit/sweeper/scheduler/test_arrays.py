import pytest

from model.config import Execution
from sweeper.records import JobFile, SweepFolder
from sweeper.scheduler.arrays import Shape, sbatch_script
from sweeper.spec import Cluster, Slurm


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({}, "#SBATCH --gres=gpu:2"),
        ({"gpu_type": "h100"}, "#SBATCH --gres=gpu:h100:2"),
        ({"gpu_request": "gpus_per_node", "gpu_type": "h100"}, "#SBATCH --gpus-per-node=h100:2"),
        ({"gpu_request": "gpus_per_node", "exclusive": True}, "#SBATCH --gpus-per-node=8"),
    ],
)
def test_gpus_are_asked_for_as_the_site_wants(tmp_path, asked, line):
    cluster = Cluster(scheduler="slurm", processes=2, slurm=Slurm(**asked))
    job = JobFile(
        job="j", tasks=(("a",),), code="c", processes=2, heartbeat_s=60, execution=Execution(), cluster=cluster
    )
    script = sbatch_script(job, Shape(nodes=1, tasks_per_node=2, time_min=60), SweepFolder(tmp_path, "s"))
    assert line in script.splitlines()
