"""The doctor on a real cluster: what is well is found to be well, what is not is told, and nothing stays behind."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_cluster import wait_until

pytestmark = pytest.mark.slurm

SWEEPER = (sys.executable, "-c", "from sweeper.cli import main; main()")
PROFILE = (
    "cluster.scheduler=slurm",
    "cluster.slurm.gpus_per_node=0",
    "cluster.slurm.slots_per_node=2",
    "cluster.slurm.cpus_per_process=1",
    "cluster.slurm.mem_gib=0.5",
    "cluster.slurm.nodes=2",
)


def diagnosis(cluster, runs: Path, *words: str) -> tuple[int, dict[str, str], str]:
    """Exit code, the level of each probe, and all that was said."""
    done = subprocess.run(
        [*SWEEPER, "doctor", *PROFILE, *words, "--runs", str(runs), "--json"],
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.stdout, done.stderr
    findings = json.loads(done.stdout)["findings"]
    said = "\n".join(f"{f['area']}.{f['probe']}: {f['says']} [{f['value']}] {f['remedy']}" for f in findings)
    return done.returncode, {f"{f['area']}.{f['probe']}": f["level"] for f in findings}, said


def our_jobs(cluster) -> list[str]:
    names = cluster.run("squeue", "--noheader", "--format=%j", "--states=PENDING,RUNNING").split()
    return [name for name in names if name.startswith("sweeper-doctor")]


def test_a_good_cluster_is_found_to_be_good_and_nothing_stays(cluster, tmp_path):
    code, levels, said = diagnosis(cluster, tmp_path / "my runs")
    assert (code, [name for name, level in levels.items() if level == "problem"]) == (0, []), said
    for name in ("start", "folder", "exchange", "processes", "torch", "rendezvous", "gloo", "requeue"):
        assert levels[f"job.{name}"] == "ok", said
    assert "[n1, n2]" in said
    assert list(tmp_path.iterdir()) == []
    wait_until(lambda: our_jobs(cluster) == [], "the end of the doctor's job")


def test_without_a_job_the_profile_is_held_against_the_cluster(cluster, tmp_path):
    code, levels, said = diagnosis(cluster, tmp_path, "cluster.slurm.cpus_per_process=64", "--quick")
    assert code == 2
    assert levels["profile.CPUs"] == "problem"
    assert levels["script.largest job"] == "problem"
    assert "set cluster.slurm.cpus_per_process=4" in said
    assert not any(name.startswith("job.") for name in levels)


def test_an_interpreter_that_nodes_do_not_have_is_told_with_what_to_set(cluster, tmp_path):
    code, levels, said = diagnosis(cluster, tmp_path, "cluster.slurm.python=/nowhere/python")
    assert (code, levels["job.start"]) == (2, "problem")
    assert "/nowhere/python: No such file" in said
    assert "set cluster.slurm.python" in said


def test_a_container_that_does_not_start_is_told_with_its_words(cluster, tmp_path):
    code, levels, said = diagnosis(cluster, tmp_path, "cluster.slurm.container=apptainer-x exec image.sif")
    assert (code, levels["job.processes"]) == (2, "problem")
    assert "apptainer-x: No such file or directory" in said


def test_a_job_that_waits_too_long_is_cancelled(cluster, tmp_path):
    blocking = cluster.run("sbatch", "--parsable", "--exclusive", "--nodes=2", "--output=/dev/null", "--wrap=sleep 100")
    try:
        wait_until(lambda: "RUNNING" in cluster.run("squeue", "--noheader", "--format=%T"), "the blocking job")
        code, levels, said = diagnosis(cluster, tmp_path, "--wait=0.05")
        assert (code, levels["job.start"]) == (0, "warning"), said
        assert our_jobs(cluster) == []
    finally:
        cluster.run("scancel", blocking.strip())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_doctor_leaves_nothing(cluster, tmp_path, number):
    doctor = subprocess.Popen(
        [*SWEEPER, "doctor", *PROFILE, "--runs", str(tmp_path / "runs"), "--json"],
        env=cluster.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Whoever runs the tests in the background lets them ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_until(lambda: our_jobs(cluster) != [], "the doctor's job")
    doctor.send_signal(number)
    assert doctor.wait(timeout=30) == 130
    assert list(tmp_path.iterdir()) == []
    wait_until(lambda: our_jobs(cluster) == [], "its end")
