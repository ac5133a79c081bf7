"""`sweeper launch` beside hydra-submitit-launcher: the same trivial runs on the same real SLURM cluster.

Measured of each: until all jobs are with SLURM, until the command returns, until every run has ended; then what each
does when one run fails, and when its launcher is killed. Needs root, Debian's SLURM packages and
`pip install hydra-submitit-launcher`.

    python tests/benchmarks/slurm_launchers.py [--runs 100] [--json FILE]
"""

import argparse
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from slurm_cluster import SlurmCluster, missing, slurm_cluster

APP = """\
import sys, hydra, json, pathlib
@hydra.main(version_base=None, config_path=None, config_name="config")
def main(cfg):
    if cfg.lr == FAILING:
        raise RuntimeError("this run fails")
    return float(cfg.lr)
from hydra.core.config_store import ConfigStore
ConfigStore.instance().store("config", {"lr": 0})
main()
"""

TRIVIAL = """\
import json, os, sys
if int(sys.argv[1]) == FAILING:
    sys.exit("this run fails")
with open(os.environ["SWEEPER_RESULT"], "w") as file:
    json.dump({"loss": float(sys.argv[1])}, file)
"""

SWEEP = """\
defaults: [{trainer: command}, {cluster: local}, _self_]
lr: 1
tokens: 10
batch_tokens: 10
trainer: {argv: [python, TRIVIAL, "{seed}"]}
axes: {seed: RANGE}
cluster:
  name: toy
  scheduler: slurm
  attempts: 1
  slurm: {gpus_per_node: 0, slots_per_node: 8, cpus_per_process: 1, mem_gib: 1.0, time_min: 30}
"""
OTHER = "hydra-submitit-launcher"


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How one launch went, seconds from its start; None for what did not happen."""

    submitted_s: float | None
    """Until SLURM had every job."""
    returned_s: float
    """Until the command returned."""
    ended_s: float
    """Until no job was left."""
    exit_code: int
    results: int
    """Runs whose result can be found afterwards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One of the two, in a folder of its own."""

    name: str
    command: tuple[str, ...]
    folder: Path
    environment: Mapping[str, str]
    results: Callable[[Path], int]


def hydra_contender(root: Path, runs: int, failing: int, environment: Mapping[str, str]) -> Contender:
    """hydra-submitit-launcher with one array of all runs."""
    folder = root / f"hydra-{failing}"
    folder.mkdir()
    (folder / "app.py").write_text(APP.replace("FAILING", str(failing)))
    options = ["hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=30", "hydra.launcher.cpus_per_task=1"]
    options += ["hydra.launcher.mem_gb=1", "hydra.launcher.tasks_per_node=1"]
    axis = f"lr=range({runs})"
    return Contender(
        name=OTHER,
        command=(sys.executable, "app.py", "--multirun", axis, *options),
        folder=folder,
        environment=environment,
        # The launcher returns results to the process that waits for them; submitit's pickles hold them on disk.
        results=lambda where: len(list(where.rglob("*_result.pkl"))),
    )


def our_contender(root: Path, runs: int, failing: int, environment: Mapping[str, str]) -> Contender:
    """`sweeper launch` of a command."""
    folder = root / f"sweeper-{failing}"
    (folder / "sweeps").mkdir(parents=True)
    script = folder / "trivial.py"
    script.write_text(TRIVIAL.replace("FAILING", str(failing)))
    text = SWEEP.replace("TRIVIAL", str(script)).replace("RANGE", f'"range({runs})"')
    (folder / "sweeps" / "trivial.yaml").write_text(text)
    return Contender(
        name="sweeper",
        command=(str(Path(sys.executable).with_name("sweeper")), "launch", "trivial"),
        folder=folder,
        environment=environment,
        results=lambda where: len(list(where.rglob("record.json"))),
    )


def run(contender: Contender, cluster: SlurmCluster, runs: int, kill_after_s: float | None = None) -> Course:
    """Launch, watch the queue, and wait until it is empty; with `kill_after_s` the launcher is killed then."""
    began = time.monotonic()
    before = jobs_ever(cluster)
    launcher = subprocess.Popen(
        contender.command,
        cwd=contender.folder,
        env=dict(contender.environment),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    submitted: float | None = None
    returned: float | None = None
    while True:
        now = time.monotonic() - began
        if submitted is None and jobs_ever(cluster) - before >= runs:
            submitted = now
        if returned is None and launcher.poll() is not None:
            returned = now
        if kill_after_s is not None and submitted is not None and returned is None and now > submitted + kill_after_s:
            os.killpg(launcher.pid, signal.SIGKILL)
            launcher.wait()
            returned = time.monotonic() - began
        if returned is not None and not cluster.run("squeue", "--noheader", "--array").strip():
            break
        time.sleep(0.2)
    return Course(
        submitted_s=submitted,
        returned_s=returned,
        ended_s=time.monotonic() - began,
        exit_code=launcher.returncode,
        results=contender.results(contender.folder),
    )


def jobs_ever(cluster: SlurmCluster) -> int:
    """Elements of arrays that the controller knows, ended ones of the last minutes included."""
    return len(cluster.run("squeue", "--noheader", "--array", "--states=all").splitlines())


def is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--device", default="cpu", help="no matter here")
    asked = parser.parse_args()
    reason = missing()
    if reason:
        print(f"slurm_launchers: skipped, {reason}")
        return
    installed = is_installed(OTHER)
    courses: dict[str, Course] = {}
    cases = (("all well", -1, None), ("one fails", asked.runs // 2, None), ("killed", -2, 1.0))
    with TemporaryDirectory(prefix="launchers-") as root, slurm_cluster(max_array_size=1001) as cluster:
        environment = {**cluster.environment, "OMP_NUM_THREADS": "1"}
        makers = {"sweeper": our_contender}
        if installed:
            makers[OTHER] = hydra_contender
        for name, make in makers.items():
            for case, failing, kill in cases:
                contender = make(Path(root), asked.runs, failing, environment)
                course = courses[f"{name}, {case}"] = run(contender, cluster, asked.runs, kill)
                print(f"{name:24} {case:10} {asdict(course)}", flush=True)
    if not installed:
        print(f"{OTHER} is not installed, so there is nothing to compare with: pip install {OTHER}")
        return
    ours, theirs = courses["sweeper, all well"], courses[f"{OTHER}, all well"]
    if theirs.results < asked.runs or ours.results < asked.runs:
        raise SystemExit("slurm_launchers: not every run has a result where all is well, so no ratio counts")
    ratio = theirs.returned_s / ours.returned_s
    print(f"time until the command returns, {OTHER} over sweeper: {ratio:.1f}")
    if asked.json:
        found = json.loads(asked.json.read_text()) if asked.json.exists() else {"results": []}
        row = {"name": "slurm_launch_returns_vs_hydra_submitit", "ratio": ratio, "low": ratio, "high": ratio}
        found["results"].append({**row, "courses": {key: asdict(course) for key, course in courses.items()}})
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
