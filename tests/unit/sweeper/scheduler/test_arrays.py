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
    assert line in script(tmp_path, **asked)


def script(folder, **asked):
    """The lines of a script for a profile."""
    cluster = Cluster(scheduler="slurm", processes=2, slurm=Slurm(**asked))
    job = JobFile(
        job="j", tasks=(("a",),), code="c", processes=2, heartbeat_s=60, execution=Execution(), cluster=cluster
    )
    return sbatch_script(job, Shape(nodes=1, tasks_per_node=2, time_min=60), SweepFolder(folder, "s")).splitlines()


def test_a_site_without_gpus_to_ask_for_is_asked_for_none(tmp_path):
    lines = script(tmp_path, gpu_request="none")
    assert not [line for line in lines if line.startswith(("#SBATCH --gres", "#SBATCH --gpus"))]


def test_who_wants_no_requeue_gets_none(tmp_path):
    lines = script(tmp_path, extra_sbatch={"no_requeue": True})
    assert "#SBATCH --no-requeue" in lines
    assert "#SBATCH --requeue" not in lines


def test_words_with_a_meaning_to_the_shell_are_quoted(tmp_path):
    lines = script(tmp_path / "my runs", environment={"A": "b; c"}, exclude="n[1-3]")
    assert "export A='b; c'" in lines
    assert "#SBATCH --exclude='n[1-3]'" in lines
    assert lines[-1].endswith("/my runs/s/jobs/j'")
