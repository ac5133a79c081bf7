"""The scripts that are handed to sbatch, to the letter: what a site's administrator would read."""

from pathlib import Path

from model.config import Execution
from sweeper.records import JobFile, LaunchFile, SweepFolder
from sweeper.scheduler.arrays import Shape, keeper_script, sbatch_script
from sweeper.spec import Cluster, Slurm

FOLDER = SweepFolder(Path("/shared/runs"), "quickstart")


def job(cluster, *tasks, processes=1, nodes=1):
    return JobFile(
        job="quickstart-20260328-120000-0badcafe",
        tasks=tasks,
        code="0123456789abcdef",
        processes=processes,
        heartbeat_s=60.0,
        execution=Execution(),
        cluster=cluster,
        nodes=nodes,
    )


def test_an_array_of_runs_on_one_gpu_each(golden):
    cluster = Cluster(name="h100", scheduler="slurm", slurm=Slurm(partition="gpu", python="python3"))
    script = sbatch_script(job(cluster, ("a",), ("b",), ("c",)), Shape(nodes=1, tasks_per_node=1, time_min=90), FOLDER)
    golden("sbatch_dense.sh", script)


def test_a_run_on_two_whole_nodes_with_all_that_a_site_may_ask_for(golden):
    slurm = Slurm(
        partition="gpu",
        account="lab",
        qos="long",
        reservation="august",
        constraint="h100&ib",
        exclude="n[1-3]",
        nodes=2,
        time_min=2880,
        gpu_request="gpus_per_node",
        exclusive=True,
        cpus_per_process=12,
        mem_gib=120.0,
        throttle=4,
        signal_s=300,
        python="/opt/env/bin/python",
        setup=("module load cuda/12.8", "ulimit -c 0"),
        container="apptainer exec --nv image.sif",
        environment={"HF_HOME": "/shared/hugging face", "NCCL_SOCKET_IFNAME": "ib0"},
        extra_sbatch={"mail_type": "FAIL", "no-kill": True, "nice": 10},
        extra_srun=("--mpi=none",),
    )
    cluster = Cluster(name="h100", scheduler="slurm", processes=16, slurm=slurm)
    shape = Shape(nodes=2, tasks_per_node=8, time_min=2880, dependency="afterok:17:18", excluded=("n7",))
    golden("sbatch_two_nodes.sh", sbatch_script(job(cluster, ("a",), processes=16, nodes=2), shape, FOLDER))


def test_small_runs_that_share_a_whole_node(golden):
    slurm = Slurm(exclusive=True, gpu_request="none", python="python3")
    cluster = Cluster(name="whole", scheduler="slurm", slurm=slurm)
    packed = job(cluster, ("a", "b", "c", "d", "e", "f", "g", "h"), ("i", "j", "k", "l", "m", "n", "o", "p"))
    golden("sbatch_packed.sh", sbatch_script(packed, Shape(nodes=1, tasks_per_node=8, time_min=600), FOLDER))


def test_the_job_that_tends_a_sweep(golden):
    slurm = Slurm(
        partition="gpu", keeper_partition="cpu", account="lab", python="python3", setup=("module load python",)
    )
    cluster = Cluster(name="h100", scheduler="slurm", slurm=slurm)
    launch = LaunchFile(
        sweep="quickstart", runs=("a",), cluster=cluster, execution=Execution(), code="0123456789abcdef"
    )
    golden("sbatch_keeper.sh", keeper_script(launch, FOLDER, "quickstart-keeper"))
