"""Sweeps for the tests on a cluster: runs of seconds, submitted, disturbed and awaited."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import psutil
from builders import run_spec, tiny_sweep
from slurm_cluster import SlurmCluster, wait_until

from model.config import CheckpointConfig, Execution
from sweeper.records import Attempt, Beat, RunRecord, SweepFolder, read_attempts, read_beat, read_record
from sweeper.spec import RunSpec, Slurm, Sweep, Trainer, run_id
from sweeper.submission import Submission, submit_sweep
from sweeper.tend import Cycle, tend

ROOT = Path(__file__).resolve().parent.parent
TOY = ROOT / "tests" / "toy_trainer.py"


def toy_spec(lr: float = 0.05, *options: str, steps: int = 20, step_s: float = 0.05, **trainer: Any) -> RunSpec:
    """A run that the trainer without torch carries out, one step each `step_s`; `options` tell it what is to fail."""
    argv = ("{python}", str(TOY), "--lr", "{lr_peak}", "--steps", "{steps}", "--step-s", str(step_s), *options)
    spec = run_spec(lr=lr, steps=steps)
    made = Trainer(kind="command", argv=argv, **trainer)
    return replace(spec, trainer=made, run_id=run_id(lr, spec.train, made))


def slurm_sweep(*, slurm: dict[str, Any] | None = None, every_s: float = 300.0, **cluster: Any) -> Sweep:
    """A sweep whose profile asks for little and notices everything soon."""
    profile = {"gpus_per_node": 0, "slots_per_node": 8, "cpus_per_process": 1, "time_min": 5, "signal_s": 30}
    settings = {"heartbeat_s": 0.5, "hang_s": 60.0, "backoff_s": (0.2,), "name": "toy"}
    sweep = tiny_sweep(scheduler="slurm", slurm=Slurm(**(profile | (slurm or {}))), **(settings | cluster))
    return replace(sweep, execution=Execution(device="cpu", log_every=1, checkpoint=CheckpointConfig(every_s=every_s)))


def submit(sweep: Sweep, specs: Sequence[RunSpec], folder: SweepFolder, **options: Any) -> Submission:
    """Hand a sweep to SLURM."""
    return submit_sweep(sweep, specs, folder, tell=lambda _: None, **options)


def records(folder: SweepFolder, specs: Sequence[RunSpec]) -> list[RunRecord | None]:
    return [read_record(folder, spec.run_id) for spec in specs]


def wait_for_records(folder: SweepFolder, specs: Sequence[RunSpec], timeout_s: float = 90.0) -> list[RunRecord]:
    """The records of all runs, once they are there."""
    wait_until(lambda: None not in records(folder, specs), f"the end of {len(specs)} runs", timeout_s)
    return [record for record in records(folder, specs) if record is not None]


def wait_for_end(folder: SweepFolder, spec: RunSpec, number: int = 1, timeout_s: float = 60.0) -> Attempt:
    """An attempt, once it has an end."""

    def ended() -> Attempt | None:
        found = {attempt.number: attempt for attempt in read_attempts(folder, spec.run_id)}
        return found[number] if number in found and found[number].end is not None else None

    wait_until(lambda: ended() is not None, f"the end of attempt {number}", timeout_s)
    found = ended()
    assert found is not None
    return found


def wait_for_step(folder: SweepFolder, spec: RunSpec, step: int, number: int = 1, timeout_s: float = 60.0) -> Beat:
    """The heartbeat of an attempt, once it tells of so many steps."""

    def beat() -> Beat | None:
        found = read_beat(folder, spec.run_id, number)
        return found if found is not None and found.step >= step else None

    wait_until(lambda: beat() is not None, f"step {step} of attempt {number}", timeout_s)
    found = beat()
    assert found is not None
    return found


def wait_for_silence(cluster: SlurmCluster, timeout_s: float = 60.0) -> None:
    """Wait until no job is left in the queue."""
    wait_until(lambda: not cluster.run("squeue", "--noheader").strip(), "an empty queue", timeout_s)


def tend_until(folder: SweepFolder, done: Callable[[Cycle], bool], timeout_s: float = 90.0) -> list[str]:
    """Tend a sweep once a second until a cycle is as wanted; what was said."""
    said: list[str] = []

    def cycle() -> bool:
        time.sleep(1.0)
        found = tend(folder)
        said.extend(found.said)
        return done(found)

    wait_until(cycle, "the cycle awaited", timeout_s)
    return said


def workers(cluster: SlurmCluster, run: str = "") -> list[psutil.Process]:
    """The processes of runs on all nodes, or those of one run."""
    return [p for p in cluster.processes("sweeper.worker_entry", run) if "srun" not in Path(p.exe()).name]


def ends(folder: SweepFolder, spec: RunSpec) -> list[str]:
    """How the attempts at a run ended: `state cause`, without those that have no end."""
    found = [attempt.end for attempt in read_attempts(folder, spec.run_id)]
    return [f"{end.state} {end.cause}".strip() for end in found if end is not None]


@cache
def undisturbed(spec: RunSpec, micro_batch: int = 0) -> float:
    """The loss of a run that nothing disturbs, trained in this process."""
    from ranks import Case, train_alone

    with tempfile.TemporaryDirectory() as folder:
        case = Case(folder=Path(folder), config=spec.train, execution={"micro_batch": micro_batch})
        return float(train_alone(case).outcome["loss"])


def job_ids(cluster: SlurmCluster, states: Collection[str] = ("PENDING", "RUNNING")) -> list[str]:
    """SLURM's names of the elements of all jobs that wait or run, as scancel takes them."""
    listed = cluster.run("squeue", "--array", "--noheader", "--format=%i %T")
    return [line.split()[0] for line in listed.splitlines() if line.split()[1] in states]


def command_line(*arguments: str, cwd: Path, checkout: Path = ROOT) -> tuple[int, str, str]:
    """Exit code, output and errors of `sweeper …`, started as a program from the code in `checkout`."""
    start = "import sys; sys.argv = ['sweeper', *sys.argv[1:]]; from sweeper.cli import main; main()"
    environment = os.environ | {"PYTHONPATH": str(checkout), "COLUMNS": "200", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", start, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        stdin=subprocess.DEVNULL,
    )
    return done.returncode, done.stdout, done.stderr
