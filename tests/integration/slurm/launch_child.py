"""Launch toys in a process of its own that dies before SLURM's answer is noted: `launch_child.py RUNS LR …`."""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from slurm_sweeps import slurm_sweep, submit, toy_spec

from sweeper import submission
from sweeper.records import SweepFolder


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    runs, *rates = sys.argv[1:]
    submission.write_submitted = die
    submit(slurm_sweep(), [toy_spec(float(lr), steps=60) for lr in rates], SweepFolder(Path(runs), "tiny"))
