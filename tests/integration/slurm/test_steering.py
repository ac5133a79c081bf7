"""A sweep of a toy trainer on the real cluster: seen, explained, cancelled, taken up again, kept from nodes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_cluster import wait_until

pytestmark = pytest.mark.slurm

TOY = Path(__file__).resolve().parents[2] / "toy_trainer.py"
SWEEP = """
defaults: [{{model: tiny}}, {{optimizer: muonh}}, {{transfer: none}}, {{data: synthetic}}, {{cluster: local}},
           {{schedule: linear}}, {{evaluation: quick}}, _self_]
lr: 0.1
tokens: 40960
batch_tokens: 1024
trainer:
  kind: command
  argv: ["{{python}}", {toy}, --lr, "{{lr}}", --steps, "{{steps}}", --step-s, "{{step_s}}"]
  values: {{step_s: 0.05}}
  models: false
axes:
  lr: [0.05, 0.1]
cluster:
  scheduler: slurm
  heartbeat_s: 1
  slurm: {{cpus_per_process: 1, gpus_per_node: 0, slots_per_node: 2, time_min: 30, signal_s: 60}}
"""


class Commands:
    """The command line in a folder with one sweep, `toy`, on a cluster."""

    def __init__(self, folder, environment):
        (folder / "sweeps").mkdir()
        (folder / "sweeps" / "toy.yaml").write_text(SWEEP.format(toy=TOY))
        self.folder = folder
        self.environment = {**environment, "OMP_NUM_THREADS": "1", "COLUMNS": "160", "NO_COLOR": "1"}

    def start(self, *words):
        return subprocess.Popen(
            [sys.executable, "-c", "from sweeper.cli import main; main()", *words],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *words):
        with self.start(*words) as process:
            out, error = process.communicate(timeout=120)
        assert process.returncode in (0, 3), error
        return out

    def states(self, *words):
        return json.loads(self("status", "toy", *words, "--json"))["states"]

    def rows(self, *words):
        return json.loads(self("status", "toy", *words, "--json"))["runs"]


@pytest.fixture
def sweeper(cluster, tmp_path):
    made = Commands(tmp_path, cluster.environment)
    yield made
    cluster.run("scancel", f"--user={os.getuid()}")
    wait_until(lambda: not cluster.run("squeue", "--noheader").strip(), "an empty queue")


def test_a_sweep_is_watched_and_its_run_followed_to_the_end(sweeper):
    sweeper("launch", "toy")
    follower = sweeper.start("logs", "toy", "lr==0.1", "-f")
    watcher = sweeper.start("watch", "toy", "--every", "1")
    followed, _ = follower.communicate(timeout=120)
    watched, _ = watcher.communicate(timeout=120)
    assert "start at step 0 of 40" in followed
    assert "done: loss" in followed
    assert watched.splitlines()[-1] == "next: sweeper fit toy"
    assert sweeper.states() == {"done": 2}
    assert "done at the first attempt: 40 steps" in sweeper("why", "toy", "lr==0.1")


def test_a_cancelled_run_checkpoints_ends_and_resumes_when_it_is_asked_for_again(sweeper):
    sweeper("launch", "toy", "trainer.values.step_s=0.5")
    slow = "trainer.values.step_s=0.5"
    wait_until(lambda: any(row["step"] > 1 for row in sweeper.rows(slow)), "a step")
    assert "runs on n" in sweeper("why", "toy", slow, "lr==0.05")
    sweeper("cancel", "toy", slow, "--all", "--yes")
    wait_until(lambda: sweeper.states(slow) == {"cancelled": 2}, "the end of the runs")
    assert "cancelled by" in sweeper("why", "toy", slow, "lr==0.05")
    # A cycle of tending leaves them alone.
    assert "nothing is left to tend" in sweeper("tend", "toy")
    assert "1 run submitted again" in sweeper("retry", "toy", slow, "--where", "lr==0.05")
    wait_until(lambda: any(row["attempts"] == 2 for row in sweeper.rows(slow)), "another attempt")
    assert "start at step 0" not in sweeper("logs", "toy", slow, "lr==0.05")
    assert sweeper.states(slow).keys() == {"running", "cancelled"}


def test_one_of_two_runs_that_share_a_node_is_cancelled_and_the_other_goes_on(sweeper):
    packed = ("cluster.slurm.exclusive=true", "trainer.values.step_s=0.3")
    sweeper("launch", "toy", *packed)
    wait_until(lambda: len([r for r in sweeper.rows(*packed) if r["step"] > 1]) == 2, "the first steps")
    assert "1 share a job with others" in sweeper("cancel", "toy", *packed, "--where", "lr==0.05")
    wait_until(lambda: sweeper.states(*packed) == {"cancelled": 1, "done": 1}, "the end of the other")
    (stopped,) = (row for row in sweeper.rows(*packed) if row["state"] == "cancelled")
    assert 1 < stopped["step"] < 40


def test_waiting_runs_say_why_and_avoid_an_excluded_node(sweeper, cluster):
    cluster.run("scontrol", "update", "nodename=n1,n2", "state=drain", "reason=test")
    try:
        sweeper("launch", "toy")
        wait_until(lambda: all(row["reason"] not in ("", "None") for row in sweeper.rows()), "a reason")
        assert "waits in SLURM as job" in sweeper("why", "toy", "lr==0.1")
        assert "excluded: n1; 2 waiting jobs told" in sweeper("exclude", "toy", "n1")
    finally:
        cluster.run("scontrol", "update", "nodename=n1,n2", "state=resume")
    wait_until(lambda: sweeper.states() == {"done": 2}, "the end of the runs")
    assert "broken" in sweeper("exclude", "toy", "n[1-2]", "--reason", "broken")
    nodes = {json.loads(path.read_text())["seat"]["node"] for path in sweeper.folder.rglob("owner.json")}
    assert nodes == {"n2"}


def test_while_the_controller_is_down_no_run_is_called_dead(sweeper, cluster):
    slow = "trainer.values.step_s=0.3"
    sweeper("launch", "toy", slow)
    wait_until(lambda: any(row["step"] > 1 for row in sweeper.rows(slow)), "a step")
    cluster.daemons["slurmctld"].terminate()  # it saves its state first; what a kill loses is another matter
    cluster.daemons["slurmctld"].wait(30)
    try:
        seen = json.loads(sweeper("status", "toy", slow, "--json"))
        assert set(seen["states"]) <= {"running", "unknown", "done"}
        assert "SLURM does not answer" in seen["warnings"][0]
    finally:
        cluster.start_controller()
    wait_until(lambda: sweeper.states(slow) == {"done": 2}, "the end of the runs", timeout_s=120)
