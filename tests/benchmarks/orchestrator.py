"""What planning, looking at, gathering and fitting large sweeps costs: processor time and peak memory of each command.

Built anew in a temporary folder: a sweep of 100,000 cells, one of 10,000 runs with records, attempts, heartbeats and
metrics (85 % finished), and tables of an ordinary size. Commands are started as a user starts them, imports included.
Processor time is what a quiet machine takes: all of it is one thread. A ratio is the time that a user should wait at
most over the time that it took; with `--before`, the time of that checkout over ours, both in turns.

    python tests/benchmarks/orchestrator.py [--repeats 5] [--only NAME …] [--before CHECKOUT] [--json FILE]
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from builders import run_record

from model.shape import model_shape
from sweeper.records import (
    Beat,
    End,
    Seat,
    SweepFolder,
    claim_attempt,
    write_beat,
    write_end,
    write_record,
    write_spec,
)
from sweeper.sources import open_sweep
from sweeper.spec import RunSpec

HOME = Path(__file__).resolve().parents[2]
START = "import sys; sys.argv = ['sweeper', *sys.argv[1:]]; from sweeper.cli import main; main()"
DRAWS = """
import numpy as np
from sweeper.fits.power_law import fit_power_law
from sweeper.fits.surface import fit_surface
rng = np.random.default_rng(0)
N, D = np.repeat(np.geomspace(1e7, 1e9, 8), 6), np.tile(np.geomspace(2e8, 2e10, 6), 8)
L = (1.7 + 400 * N**-0.34 + 400 * D**-0.28) * np.exp(0.002 * rng.standard_normal(N.size))
fit_surface(N, D, L, resamples=2000)
for space in ("log", "linear"):
    for _ in range(2):  # of 1,000 draws each
        fit_power_law(D, L, space=space)
"""

BASE = """
defaults: [{model: mini}, {optimizer: muonh}, {transfer: measure}, {schedule: linear}, {data: synthetic},
           {evaluation: quick}, {cluster: local}, _self_]
lr: 0.1
tokens: 524_288
batch_tokens: 2048
transfer: {depth_reference: 2, tokens_reference: 524_288, batch_reference: 2048}
repeat: 2
derive: {lr: "around(predicted_lr, 1.3, 25)"}
"""
WIDE = """
axes:
  depth: [2, 4, 6, 8]
  width: [32, 48, 64, 96, 128]
  momentum: [0.9, 0.92, 0.95, 0.97, 0.98]
  tokens: range(131072, 2752512, 131072)
where: [tokens < 30000 * params]
"""
MANY = """
axes:
  depth: [2, 4]
  width: [32, 48, 64, 96, 128]
  tokens: range(131072, 2752512, 131072)
question: {by: [depth, width, tokens], per: [depth, width]}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One command."""

    name: str
    words: str = ""
    allowed_s: float
    code: str = START


ROWS = (
    Row(name="help", words="--help", allowed_s=0.3),
    Row(name="plan_100000_cells", words="plan wide --rows 3", allowed_s=15.0),
    Row(name="status_10000_runs", words="status many", allowed_s=3.0),
    Row(name="collect_10000_runs", words="collect many", allowed_s=10.0),
    Row(name="fit_40_runs", words="fit runs.csv --by tokens", allowed_s=3.0),
    Row(name="fit_10000_runs", words="fit many", allowed_s=10.0),
    Row(name="fit_10000_runs_sensitivity", words="fit many --sensitivity", allowed_s=20.0),
    Row(name="suggest_10000_runs", words="suggest many", allowed_s=10.0),
    Row(name="report_10000_runs", words="report many", allowed_s=20.0),
    Row(name="bootstrap_2000_draws", code=DRAWS, allowed_s=10.0),
)


class Cost(NamedTuple):
    """Of one course of a command."""

    seconds: float
    """Of the processor."""
    mib: float
    """Peak memory."""


def build(root: Path) -> None:
    """The sweeps, the runs of `many` and a table."""
    (root / "sweeps").mkdir()
    (root / "sweeps" / "wide.yaml").write_text(BASE + WIDE)
    (root / "sweeps" / "many.yaml").write_text(BASE + MANY)
    os.chdir(root)
    _, specs, folder = open_sweep("many", [], root / "runs")
    os.fsync = lambda _: None  # type: ignore[assignment]  # nothing here need outlast a power cut
    rng = np.random.default_rng(0)
    for number, (spec, noise) in enumerate(zip(specs, rng.standard_normal(len(specs)), strict=True)):
        train_as(number % 20, folder, spec, 0.002 * float(noise))
    rates = 0.01 * 2.0 ** (np.arange(10) / 2)
    lines = [
        f"{lr},{tokens},{2 + 300 * tokens**-0.3 + 0.03 * math.log(lr / 0.05 * (tokens / 1e9) ** 0.3) ** 2}"
        for tokens in (1e9, 2e9, 4e9, 8e9)
        for lr in rates
    ]
    (root / "runs.csv").write_text("\n".join(["lr,tokens,loss", *lines]) + "\n")


def train_as(kind: int, folder: SweepFolder, spec: RunSpec, noise: float) -> None:
    """Leave what a run leaves: of 20 kinds one is new, one stopped, one failed, one diverged, the others are done."""
    write_spec(folder, spec)
    number = None if kind == 0 else claim_attempt(folder, spec.run_id, Seat(job="job"))
    if number is None:
        return
    steps, tokens = spec.train.steps, spec.train.tokens
    write_beat(
        folder,
        spec.run_id,
        number,
        Beat(time=1.8e9, run_id=spec.run_id, step=steps, steps=steps, tokens_per_s=6e4),
    )
    lines = (json.dumps({"step": step, "tokens": 2048 * step, "loss": 3.0}) for step in range(10, 70, 10))
    (folder.attempt(spec.run_id, number) / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    if kind in (1, 2):
        state, cause = ("stopped", "signal") if kind == 1 else ("error", "")
        write_end(folder, spec.run_id, number, End(state=state, reason="an example", cause=cause))  # type: ignore[arg-type]
        return
    shape = model_shape(spec.train.model)
    away = math.log(spec.lr / 0.1) + 0.3 * math.log(tokens / 524_288)
    loss = 1.2 + 8 * tokens**-0.12 * spec.train.model.width**-0.1 + 0.03 * away**2 + noise
    record = run_record(
        spec,
        state="diverged" if kind == 3 else "done",
        loss=loss,
        train_loss=loss,
        params=shape.params,
        params_total=shape.params_total,
        flops=float(shape.flops_per_token * tokens),
        extra={"stability/maxvio": 0.1, "stability/z_rms": 1.0},
    )
    write_record(folder, record)


def cost(row: Row, checkout: Path) -> Cost:
    """Of one course with the code of a checkout."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "COLUMNS": "200"}
    with subprocess.Popen(
        [sys.executable, "-P", "-c", row.code, *row.words.split()],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 3):  # 3: some runs failed, as they should
        raise RuntimeError(f"{row.name} failed with exit code {process.returncode}")
    return Cost(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=[row.name for row in ROWS], default=[row.name for row in ROWS])
    parser.add_argument("--before", type=Path, help="a checkout of another version")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    kept = given.json.resolve() if given.json else None
    before = given.before.resolve() if given.before else None
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    found = []
    with tempfile.TemporaryDirectory(prefix="orchestrator-") as root:
        build(Path(root))
        print("| what | s | fastest – slowest | MiB | before, s | before / now | lowest – highest |")
        print("|---|---|---|---|---|---|---|")
        for row in (row for row in ROWS if row.name in given.only):
            pairs = [(cost(row, before) if before else None, cost(row, HOME)) for _ in range(given.repeats)]
            times = [now.seconds for _, now in pairs]
            earlier = [then.seconds for then, _ in pairs if then is not None]
            ratios = [a / b for a, b in zip(earlier or [row.allowed_s] * len(times), times, strict=True)]
            middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
            line = f"| {row.name} | {statistics.median(times):.2f} | {min(times):.2f} – {max(times):.2f} "
            line += f"| {max(now.mib for _, now in pairs):.0f} | "
            line += (
                f"{statistics.median(earlier):.2f} | {middle:.2f} | {low:.2f} – {high:.2f} |" if earlier else "| | |"
            )
            print(line, flush=True)
            name = f"{row.name}_{'vs_before' if before else 'allowed'}"
            found.append({"name": name, "ratio": middle, "low": low, "high": high, "device": "cpu"})
        os.chdir(HOME)
    if kept:
        known = json.loads(kept.read_text())["results"] if kept.exists() else []
        kept.write_text(json.dumps({"results": [*known, *found]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
