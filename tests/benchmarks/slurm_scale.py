"""A sweep of 1,000 runs on a real SLURM cluster, and 10,000 records: what our own side of it costs.

The partition is closed, so that nothing trains and every second is ours. Each ratio is the time that a user should wait
at most over the time that it took: above 1 is within it. Needs root and Debian's SLURM packages.

    python tests/benchmarks/slurm_scale.py [--json FILE]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from builders import run_record, run_spec
from slurm_cluster import missing, slurm_cluster

from sweeper.records import SweepFolder
from sweeper.sources import collect_sweep
from sweeper.typed import plain

GRID = ("axes.tokens=range(16384,16384+2048*200,2048)", "derive.lr=geom(0.01,1,5)")
PROFILE = ("cluster.scheduler=slurm", "cluster.slurm.gpus_per_node=0", "cluster.slurm.cpus_per_process=1")
RECORDS = 10_000
REPEATS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measurement."""

    name: str
    allowed_s: float
    times_s: tuple[float, ...]

    @property
    def values(self) -> dict[str, object]:
        """As `make bench` gathers them."""
        median = statistics.median(self.times_s)
        spread = {"low": self.allowed_s / max(self.times_s), "high": self.allowed_s / min(self.times_s)}
        return {**asdict(self), "ratio": self.allowed_s / median, **spread}


def measure(root: Path) -> list[Row]:
    """Launch once, ask for the status and launch again several times, then gather records."""
    sweeper = str(Path(sys.executable).with_name("sweeper"))
    words = ["quickstart", *GRID, *PROFILE, "execution.device=cpu", "--runs", str(root / "runs")]
    with slurm_cluster(max_array_size=1001) as cluster:
        cluster.run("scontrol", "update", "partitionname=main", "state=down")

        def timed(command: str) -> float:
            began = time.monotonic()
            done = subprocess.run([sweeper, command, *words], env=cluster.environment, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"sweeper {command}: {done.stderr}")
            return time.monotonic() - began

        submitted = timed("launch")
        waiting = len(cluster.run("squeue", "--noheader", "--array").splitlines())
        if waiting != 1000:
            raise RuntimeError(f"1,000 runs were launched but {waiting} wait")
        status = tuple(timed("status") for _ in range(REPEATS))
    return [
        Row(name="slurm_submit_1000_runs", allowed_s=10.0, times_s=(submitted,)),
        Row(name="slurm_status_1000_runs", allowed_s=2.0, times_s=status),
        Row(name="collect_10000_records", allowed_s=10.0, times_s=collected(root)),
    ]


def collected(root: Path) -> tuple[float, ...]:
    """Seconds to gather `RECORDS` records into the table."""
    folder, spec = SweepFolder(root, "many"), run_spec()
    record = plain(run_record(spec))
    specs = []
    for number in range(RECORDS):
        axes = (("tokens", spec.train.tokens), ("lr", 0.01 + 1e-5 * number))
        specs.append(replace(spec, run_id=f"{number:016x}", axes=axes))
        path = folder.run(specs[-1].run_id)
        path.mkdir(parents=True)
        (path / "record.json").write_text(json.dumps({**record, "run_id": specs[-1].run_id, "axes": dict(axes)}))
    times = []
    for _ in range(REPEATS):
        began = time.monotonic()
        collect_sweep(tuple(specs), folder)
        times.append(time.monotonic() - began)
    return tuple(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--device", default="cpu", help="no matter here")
    asked = parser.parse_args()
    reason = missing()
    if reason:
        print(f"slurm_scale: skipped, {reason}")
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with TemporaryDirectory(prefix="scale-") as root:
        rows = measure(Path(root))
    for row in rows:
        times = row.times_s
        spread = f" ({min(times):.2f} to {max(times):.2f})" if len(times) > 1 else ""
        print(f"{row.name:24} {statistics.median(times):6.2f} s{spread}, allowed {row.allowed_s:g} s")
    if asked.json:
        found = json.loads(asked.json.read_text()) if asked.json.exists() else {"results": []}
        found["results"] += [row.values for row in rows]
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
