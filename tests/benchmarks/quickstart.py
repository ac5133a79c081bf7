"""The wall time of a whole sweep: `sweeper launch` against a loop over runs, a process for each.

Two loops, both of which train with this package's own trainer: as many processes of one thread at a time as there are
cores, the most expensive runs first, and one process at a time with all threads. Each process starts Python, reads
torch and the data, trains and writes its loss, as a script in a shell loop does. The losses are compared.

    python tests/benchmarks/quickstart.py [--sweep quickstart] [--repeats 1] [--json FILE] [OVERRIDE …]
"""

import argparse
import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import sweeper

ONE_RUN = """
import pickle, sys
from pathlib import Path
from model.config import Execution
from model.train import Member, train

class Quiet:
    def metrics(self, member, row): pass
    def progress(self, member, step, steps, tokens_per_s): pass
    def note(self, member, text): print(text)

folder = Path(sys.argv[1])
config = pickle.loads((folder / "config.pickle").read_bytes())
execution = Execution(device="cpu", threads=int(sys.argv[2]))
(outcome,) = train([Member(config=config, checkpoints=folder / "checkpoint")], execution, Quiet(), lambda: False)
(folder / "loss").write_text(repr(outcome.loss))
"""
MALLOC = {"MALLOC_TRIM_THRESHOLD_": "1000000000", "MALLOC_MMAP_THRESHOLD_": "1000000000"}
"""What a launch sets for its own processes too."""


def looped(specs: Sequence[sweeper.RunSpec], root: Path, at_once: int, threads: int) -> tuple[float, dict[str, float]]:
    """Seconds of the loop, and the loss of each run."""
    for spec in specs:
        (root / spec.run_id).mkdir(parents=True)
        (root / spec.run_id / "config.pickle").write_bytes(pickle.dumps(spec.train))
    environment = {**os.environ, **MALLOC, "OMP_NUM_THREADS": str(threads)}
    waiting = deque(sorted(specs, key=lambda spec: -spec.train.tokens))
    running: list[subprocess.Popen[bytes]] = []
    began = time.perf_counter()
    while waiting or running:
        while waiting and len(running) < at_once:
            command = [sys.executable, "-c", ONE_RUN, str(root / waiting.popleft().run_id), str(threads)]
            running.append(subprocess.Popen(command, env=environment))
        running[0].poll()
        running = [process for process in running if process.poll() is None]
        time.sleep(0.01)
    took_s = time.perf_counter() - began
    return took_s, {spec.run_id: float((root / spec.run_id / "loss").read_text()) for spec in specs}


def launched(name: str, overrides: Sequence[str], root: Path) -> tuple[float, dict[str, float]]:
    """Seconds of the command, and the loss of each run."""
    command = [str(Path(sys.executable).with_name("sweeper")), "launch", name, *overrides, "--runs", str(root)]
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    took_s = time.perf_counter() - began
    records = (json.loads(path.read_text()) for path in root.glob("*/runs/*/record.json"))
    return took_s, {record["run_id"]: record["loss"] for record in records}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--sweep", default="quickstart")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    specs = list(
        {spec.run_id: spec for spec in sweeper.expand(sweeper.load_sweep(given.sweep, given.overrides))}.values()
    )
    cores = os.cpu_count() or 1
    times: dict[str, list[float]] = {"launch": [], "concurrent": [], "all threads": []}
    apart = 0.0
    for _ in range(given.repeats):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            ours, losses = launched(given.sweep, given.overrides, root / "ours")
            concurrent, alone = looped(specs, root / "concurrent", cores, 1)
            threaded, _ = looped(specs, root / "threaded", 1, cores)
        for name, took_s in zip(times, (ours, concurrent, threaded), strict=True):
            times[name].append(took_s)
        apart = max(apart, *(abs(losses[run_id] - loss) for run_id, loss in alone.items()))
    print(f"{len(specs)} runs of {given.sweep} {' '.join(given.overrides)}; losses differ by at most {apart:.2g}\n")
    print("| | s | over `sweeper launch` | lowest – highest |\n|---|---|---|---|")
    print(f"| `sweeper launch` | {statistics.median(times['launch']):.1f} | 1 | |")
    found = []
    for name, key in (("concurrent", "concurrent_single_thread"), ("all threads", "one_process_all_threads")):
        ratios = [other / ours for other, ours in zip(times[name], times["launch"], strict=True)]
        middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
        print(f"| {name} | {statistics.median(times[name]):.1f} | {middle:.2f} | {low:.2f} – {high:.2f} |")
        label = given.sweep.replace("/", "_")
        found.append({"name": f"{label}_vs_{key}", "ratio": middle, "low": low, "high": high, "device": "cpu"})
    if given.json:
        known = json.loads(given.json.read_text())["results"] if given.json.exists() else []
        given.json.write_text(json.dumps({"results": [*known, *found]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
