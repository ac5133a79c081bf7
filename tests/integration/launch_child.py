"""Launch the tiny sweep in a process of its own, so that a test can kill it: `launch_child.py RUNS FUSE STEPS LR …`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from builders import run_spec, tiny_sweep

from sweeper.launch import launch
from sweeper.records import SweepFolder

if __name__ == "__main__":
    runs, fuse, steps, *rates = sys.argv[1:]
    specs = [run_spec(lr=float(lr), steps=int(steps)) for lr in rates]
    sweep = tiny_sweep(parallel=2) if fuse == "off" else tiny_sweep(fuse=int(fuse), parallel=2)
    result = launch(sweep, specs, SweepFolder(Path(runs), "tiny"), follow=lambda _: None, tell=print)
    print(f"started {result.started} found {result.found} {dict(result.states)}")
    sys.exit(130 if result.interrupted else 0)
