"""Everything that can die on a cluster dies, at random, for minutes: every cell is still done exactly once.

SWEEPER_CHAOS_S sets how long (75 s), SWEEPER_CHAOS_SEED which course of events.
"""

import contextlib
import os
import random
import threading
import time
from pathlib import Path

import psutil
import pytest
from builders import run_spec
from slurm_cluster import SlurmCluster, slurm_cluster
from slurm_sweeps import records, slurm_sweep, submit, toy_spec, undisturbed

from sweeper.errors import SweeperError
from sweeper.records import read_attempts
from sweeper.tend import tend

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

CHAOS_S = float(os.environ.get("SWEEPER_CHAOS_S", "75"))
SEED = int(os.environ.get("SWEEPER_CHAOS_SEED", "20260328"))
BETWEEN_S = (1.0, 4.0)
"""Between two blows."""


class Chaos(threading.Thread):
    """Kills processes of all kinds, and puts daemons back that it killed; at its end all of them are there."""

    def __init__(self, cluster: SlurmCluster, draw: random.Random) -> None:
        super().__init__(name="chaos")
        self.cluster, self.draw = cluster, draw
        self.until = time.monotonic() + CHAOS_S
        self.done: list[str] = []
        self.blows = (
            [self.worker] * 5
            + [self.launcher_of_steps, self.supervisor, self.step_daemon] * 2
            + [self.requeue] * 2
            + [self.node_daemon, self.controller, self.power]
        )

    def run(self) -> None:
        while time.monotonic() < self.until:
            blow = self.draw.choice(self.blows)
            with contextlib.suppress(psutil.Error, RuntimeError):  # who is gone already, or what SLURM refuses
                blow()
                self.done.append(blow.__name__)
            time.sleep(self.draw.uniform(*BETWEEN_S))
        for node in self.cluster.nodes:
            with contextlib.suppress(RuntimeError):
                self.cluster.run("scontrol", "update", f"nodename={node}", "state=resume")

    def _kill_one(self, *words: str) -> None:
        found = self.cluster.processes(*words)
        if not found:
            raise RuntimeError(f"nothing of {words} lives")
        self.draw.choice(found).kill()

    def worker(self) -> None:
        self._kill_one("sweeper.worker_entry")

    def launcher_of_steps(self) -> None:
        self._kill_one("srun")

    def supervisor(self) -> None:
        self._kill_one("sweeper.supervisor")

    def step_daemon(self) -> None:
        self._kill_one("slurmstepd")

    def requeue(self) -> None:
        listed = self.cluster.run("squeue", "--array", "--noheader", "--format=%i", "--states=RUNNING").split()
        if listed:
            self.cluster.run("scontrol", "requeue", self.draw.choice(listed))

    def node_daemon(self) -> None:
        node = self.draw.choice(self.cluster.nodes)
        self.cluster.kill(node)
        time.sleep(2)
        self.cluster.start_node(node)

    def power(self) -> None:
        node = self.draw.choice(self.cluster.nodes)
        self.cluster.switch_off(node)
        time.sleep(2)
        self.cluster.start_node(node)

    def controller(self) -> None:
        self.cluster.kill("slurmctld")
        time.sleep(2)
        self.cluster.start_controller()


def test_every_cell_is_done_exactly_once_with_the_loss_of_an_undisturbed_run(use, folder):
    draw = random.Random(SEED)  # noqa: S311 - a course of events, not a secret
    trained = [run_spec(lr=lr, steps=300) for lr in (0.02, 0.05, 0.1, 0.2)]
    toys = [toy_spec(lr=0.01 * number, steps=draw.randint(20, 200), step_s=0.1) for number in range(1, 13)]
    specs = [*trained, *toys]
    with slurm_cluster(nodes=3, max_array_size=6) as cluster:
        use(cluster)
        # Nobody gives up: here it is never the run's own fault.
        sweep = slurm_sweep(attempts=1000, every_s=0.5, hang_s=20.0)
        submit(sweep, specs, folder)
        chaos = Chaos(cluster, draw)
        chaos.start()
        said: list[str] = []
        deadline = time.monotonic() + CHAOS_S + 400
        over = False
        while not over and time.monotonic() < deadline:
            time.sleep(1.0)
            with contextlib.suppress(SweeperError):  # the controller is away
                cycle = tend(folder)
                said += cycle.said
                over = cycle.over and not chaos.is_alive()
        chaos.join()
    found = records(folder, specs)
    left = [spec.run_id for spec, record in zip(specs, found, strict=True) if record is None]
    assert not left, f"seed {SEED}: {left} have no record after {chaos.done}; tend said {said}"
    assert [record.state for record in found] == ["done"] * len(specs)
    assert [record.loss for record in found[: len(trained)]] == [undisturbed(spec) for spec in trained]
    assert len({record.run_id for record in found}) == len(specs)
    assert sum(record.attempts for record in found) > len(specs), "nothing was disturbed"
    for spec, record in zip(specs, found, strict=True):
        attempts = read_attempts(folder, spec.run_id)
        finished = [a.number for a in attempts if finishes(folder.attempt(spec.run_id, a.number) / "log")]
        assert finished == [record.attempts], f"{spec.run_id} was finished by the attempts {finished}"


def finishes(log: Path) -> bool:
    """Whether an attempt says that it wrote the run's record."""
    return log.exists() and " done: loss " in log.read_text(errors="replace")
